//! Work: who does it, who waits for it and how long, how far it is, and the steps at which a test kills it.

pub mod deadline;
pub mod job;
pub mod phase;
mod speed;
pub mod steps;
pub mod watched;
pub(crate) mod worker;
