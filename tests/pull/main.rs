//! `takeBackup` by the pull engine, which `support::init` configures for this binary: the rows of the table as for push,
//! and what is different.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod chains;
mod compared;
mod failures;
#[path = "../support/mutation.rs"]
mod mutation;
#[path = "../take_backup/odd_disks.rs"]
mod odd_disks;
#[path = "../take_backup/rows.rs"]
mod rows;
#[path = "../take_backup/shapes.rs"]
mod shapes;
#[path = "../support/mod.rs"]
mod support;
mod verify_data;
