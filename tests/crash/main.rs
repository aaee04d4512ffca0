//! Agents that are killed at each of their steps, and the power that fails: what the next one finds, clears and makes of
//! it. The steps are named by a library with `test-hooks`; without it there is nothing to test here.
#![cfg(feature = "test-hooks")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod hosts;
mod iothreads;
mod kills;
mod left;
mod power;
#[path = "../support/mod.rs"]
mod support;
mod tally;

/// What an agent runs that a test has begun.
#[test]
fn agent() {
    support::run_as_agent();
}
