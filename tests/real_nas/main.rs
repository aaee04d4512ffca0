//! Backups on a NAS as users have it: the kernel's own NFS and CIFS clients against the servers of the machine that tests/vm/run
//! boots (tests/vm/servers), in which these tests run.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod chain;
mod confined;
mod events;
mod hangs;
mod hosts;
mod kinds;
mod life;
mod processes;
mod served;
#[path = "../support/mod.rs"]
mod support;
mod table;

/// What an agent runs that a test has begun.
#[test]
fn agent() {
    support::run_as_agent();
}
