//! `takeBackup` against real libvirt, QEMU and file systems.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod failures;
mod machine_state;
#[path = "../support/mutation.rs"]
mod mutation;
mod odd_disks;
mod parents;
mod refusals;
mod rows;
mod shapes;
mod stopped;
#[path = "../support/mod.rs"]
mod support;
