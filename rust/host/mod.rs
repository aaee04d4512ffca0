//! What this host remembers and locks, for itself.

mod flock;
mod state;

pub use flock::{Flock, lock, lock_file};
pub use state::{Begun, HostState, begun, unfinished};
