//! What a NAS may do to us, and what we leave on it: hangs, planted links, secrets, readers beside writers.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod exit;
mod hung;
mod kept;
mod links;
mod machine;
mod poor;
mod preflight;
mod processes;
mod reading;
mod room;
mod storage;
#[path = "../support/mod.rs"]
mod support;

use nasbackup::error::Result;
use nasbackup::operation::call;
use serde_json::Value;

use support::Nas;

/// Runs an operation on the repository.
fn run(nas: &Nas, operation: &str, mut request: Value) -> Result<Value> {
    request["repository"] = serde_json::json!({"type": "dir", "address": nas.root()});
    call(operation, &request.to_string(), &mut |_| Ok(()))
}

/// What an agent runs that a test has begun.
#[test]
fn agent() {
    support::run_as_agent();
}
