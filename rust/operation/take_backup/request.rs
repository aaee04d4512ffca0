//! The request of `takeBackup`: as it comes, and as it is once every field was checked.

use serde::Deserialize;

use crate::nas::repository::Repository;

/// What `takeBackup` is asked, as it comes from Java or C; absent fields are `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TakeBackupRequest {
    /// The caller's id for this job.
    pub job: Option<String>,
    /// The domain's name.
    pub vm_name: Option<String>,
    /// The restore point to make, `<vmName>/<timestamp>`.
    pub backup_path: Option<String>,
    /// The NAS export.
    pub repository: Option<Repository>,
    /// `legacy` (also when absent), `full` or `incremental`.
    pub mode: Option<String>,
    /// Name of the bitmap to begin.
    pub bitmap_new: Option<String>,
    /// Name of the bitmap that records the changes since the parent.
    pub bitmap_parent: Option<String>,
    /// Files of the parent point, relative to the repository's root.
    pub parent_paths: Option<Vec<String>>,
    /// Absent: the domain must exist. Given: the disks of a guest that must not run.
    pub disks: Option<Vec<StoppedDisk>>,
    /// Freeze the guest's file systems around the begin. Absent: no.
    pub quiesce: Option<bool>,
    /// Seconds that the job may take. Absent or 0: 7200.
    pub wait_seconds: Option<u64>,
    /// `auto`, `push` or `pull`. Absent: the configured one.
    pub engine: Option<String>,
}

/// A disk of a stopped guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StoppedDisk {
    /// Absolute path of its file or device.
    pub path: Option<String>,
    /// `qcow2` or `raw`; never probed.
    pub format: Option<String>,
}
