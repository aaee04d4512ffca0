//! `deleteBackup`: removes a restore point that no other image needs.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::nas::repository::Repository;

/// What `deleteBackup` is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DeleteBackupRequest {
    /// The caller's id for this job.
    pub job: Option<String>,
    /// The NAS export.
    pub repository: Option<Repository>,
    /// The restore point, `<instance>/<timestamp>`.
    pub backup_path: Option<String>,
}

/// What `deleteBackup` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeletedBackup {
    /// Bytes that the removed files had occupied; 0 when the point was gone already.
    pub freed_bytes: u64,
}

/// Runs `deleteBackup`.
pub fn run(_request: DeleteBackupRequest) -> Result<DeletedBackup> {
    todo!()
}
