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

pub use writer::{CopyTarget, Written};

use serde::{Deserialize, Serialize};

/// How the data travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Whatever serves the guest best on this host.
    #[default]
    Auto,
    /// QEMU writes the target itself.
    Push,
    /// QEMU exports the instant over NBD and we write.
    Pull,
}
