//! What this host remembers and locks, for itself.

mod flock;
pub mod metrics;
mod posted;
mod run_dir;
mod state;

pub use flock::{Flock, holder, lock, lock_file};
pub use posted::{HostJob, ask_to_stop, post_jobs, posted, sweep_posted};
pub use run_dir::{RunDir, RunDirs, make_folder};
pub use state::{Begun, HostState, begun, unfinished};
