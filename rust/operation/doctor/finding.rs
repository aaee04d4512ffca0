//! What was found, thing by thing.

use serde::Serialize;

/// What was found of one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The thing.
    pub what: String,
    /// How it is.
    pub state: State,
    /// What was found, or why it could not be tried.
    pub found: String,
    /// What to do, where something can be done.
    pub advice: Option<String>,
    /// Backups fail while it is so; of what could not be tried: while it may be so.
    pub stops: bool,
}

/// How a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Not there, or not as it should be.
    Lacks,
    /// There, with a fault that is known.
    Defect,
    /// Not known.
    Untried,
}
