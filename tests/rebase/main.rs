//! Rebase, against QEMU's tools: the same guest content, sound images, whatever the chain, the cut or the error.

#![allow(clippy::unwrap_used)]

mod chains;
mod commit;
mod crash;
mod differential;
mod fingerprints;
mod flatten;
mod fuzz;
mod given_up;
mod going;
mod journal;
#[path = "../support/mutation.rs"]
mod mutation;
mod operations;
mod restore;
mod restore_damage;
mod restore_faults;
mod restore_kills;
mod restore_meanwhile;
mod restore_script;
#[path = "../support/mod.rs"]
mod support;
mod verify;
mod verify_chain;
