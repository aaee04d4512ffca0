//! The ways in which a guest's data travels to the NAS.

pub mod choice;
pub mod incident;
pub mod job;
pub mod leftover;
mod nas_probe;
pub mod offline;
mod pace;
pub mod pull;
pub mod push;
pub mod rate;
mod reader;
mod removal;
mod reserve;
pub mod scratch;
mod shared;
pub mod socket;
mod writer;

pub use reader::{Changes, GoOn, LateChanges};
pub use writer::{CopyTarget, Written};
