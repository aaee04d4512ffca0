//! Work: who does it, who waits for it and how long, how far it is, and the steps at which a test kills it.

pub mod background;
pub mod call_end;
pub mod deadline;
pub mod job;
pub mod owner;
pub mod phase;
pub(crate) mod side_by_side;
mod speed;
pub mod steps;
pub mod stuck;
pub mod watched;
pub(crate) mod worker;
