//! nasbackup backs up KVM guests to a NAS in process: libvirt calls, qcow2 metadata, restore points.
//!
//! The core knows neither Java nor CloudStack. `operation` is the way in; `jni` and `capi` are the two callers.

pub mod apart;
pub mod capi;
pub mod config;
mod descriptor;
pub mod digest;
pub mod engine;
pub mod error;
mod fs_kind;
pub mod host;
mod jni;
pub mod keys;
mod lacking;
pub mod libvirt;
mod limits;
pub mod logging;
mod mountinfo;
#[cfg(test)]
#[path = "../tests/support/mutation.rs"]
mod mutation;
pub mod nas;
pub mod nbd;
pub mod operation;
mod panics;
mod places;
pub mod plain;
pub mod point;
mod process;
pub mod qcow2;
mod qemu;
mod random;
pub mod second_table;
pub mod sys;
mod user;
pub mod work;

#[cfg(any(test, feature = "test-hooks"))]
pub use limits::shorten;
