//! Rebase, against QEMU's tools: the same guest content, sound images, whatever the chain, the cut or the error.

#![allow(clippy::unwrap_used)]

mod chains;
mod crash;
mod differential;
mod fingerprints;
mod flatten;
mod fuzz;
mod journal;
#[path = "../support/mutation.rs"]
mod mutation;
mod operations;
mod restore;
mod restore_kills;
mod verify;
mod verify_chain;
