//! `backupStats`: size and use of a repository.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::nas::repository::Repository;

/// What `backupStats` is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BackupStatsRequest {
    /// The caller's id for this job.
    pub job: Option<String>,
    /// The NAS export.
    pub repository: Option<Repository>,
}

/// What `backupStats` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupStats {
    /// Size of the file system, in bytes.
    pub total_bytes: u64,
    /// Bytes in use.
    pub used_bytes: u64,
}

/// Runs `backupStats`.
pub fn run(_request: BackupStatsRequest) -> Result<BackupStats> {
    todo!()
}
