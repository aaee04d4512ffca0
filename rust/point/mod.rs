//! Restore points: what they consist of, how they name each other, and what may be a parent.

use serde::{Deserialize, Serialize};

/// Whether a file or point stands alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// No backing file.
    Full,
    /// A qcow2 whose backing file is the parent's.
    Incremental,
}
