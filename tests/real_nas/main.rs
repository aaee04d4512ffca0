//! Backups on a NAS as users have it: the kernel's own NFS and CIFS clients against the servers of the machine that tests/vm/run
//! boots (tests/vm/servers), in which these tests run.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod chain;
mod hangs;
mod kinds;
mod life;
mod served;
#[path = "../support/mod.rs"]
mod support;
