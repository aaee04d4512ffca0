//! Long work: who does it, who waits for it, how far it is, and the steps at which a test kills it.

pub mod job;
pub mod phase;
mod speed;
pub mod steps;
pub(crate) mod worker;
