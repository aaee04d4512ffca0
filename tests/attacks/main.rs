//! What a hostile guest's QEMU, a hostile NAS, or a hostile neighbour on the host may try, tried.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod bounds;
mod export;
mod identity;
mod images;
mod mounts;
mod push;
#[path = "../support/mod.rs"]
mod support;

/// Not a test: what another process of this binary runs.
#[test]
fn agent() {
    support::run_as_agent();
}
