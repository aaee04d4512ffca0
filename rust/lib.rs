//! nasbackup backs up KVM guests to a NAS in process: libvirt calls, qcow2 metadata, restore points.
//!
//! The core knows neither Java nor CloudStack. `operation` is the way in; `jni` and `capi` are the two callers.

pub mod capi;
pub mod config;
mod descriptor;
pub mod engine;
pub mod error;
mod helpers;
pub mod host;
mod jni;
pub mod job;
mod lacking;
pub mod libvirt;
pub mod logging;
mod mountinfo;
#[cfg(test)]
#[path = "../tests/support/mutation.rs"]
mod mutation;
pub mod nas;
pub mod nbd;
pub mod operation;
mod panics;
pub mod phase;
mod places;
pub mod plain;
pub mod point;
pub mod qcow2;
mod random;
mod speed;
mod steps;
pub mod sys;
mod user;
mod worker;

#[cfg(feature = "test-hooks")]
pub use steps::hurry;
