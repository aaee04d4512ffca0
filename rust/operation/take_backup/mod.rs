//! `takeBackup`: one restore point of one virtual machine.

mod request;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::engine::Engine;
use crate::error::Result;
use crate::job::Listener;
use crate::point::Kind;

pub use request::{StoppedDisk, TakeBackupRequest};

/// What `takeBackup` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TakenBackup {
    /// Incremental if any disk is.
    pub kind: Kind,
    /// Sum of the published disk files' lengths, in bytes.
    pub size: u64,
    /// Sum of the disks' virtual sizes, in bytes.
    pub virtual_size: u64,
    /// The file of each volume, relative to the repository's root.
    pub volumes: BTreeMap<String, String>,
    /// The new bitmap, when at least one disk carries it.
    pub bitmap_created: Option<String>,
    /// The parent's bitmap, when its checkpoint had to be made again.
    pub bitmap_recreated: Option<String>,
    /// An incremental was asked for and a full was made.
    pub incremental_fallback: bool,
    /// A line for each thing that was not ordinary.
    pub details: String,
    /// The engine that moved the data.
    pub engine: Engine,
    /// Milliseconds of the hypervisor's job, from begin to the last target's close.
    pub job_millis: u64,
    /// Milliseconds of the whole call.
    pub total_millis: u64,
    /// The disks, in the order of the domain or the request.
    pub disks: Vec<TakenDisk>,
}

/// One disk of a restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TakenDisk {
    /// The domain's name for it (`vda`); null for a stopped guest.
    pub target: Option<String>,
    /// The last component of its source path.
    pub volume: String,
    /// Its serial, if it has one.
    pub serial: Option<String>,
    /// Its file, relative to the repository's root.
    pub file: String,
    /// Full or incremental.
    pub kind: Kind,
    /// The file that an incremental stands on, relative to the repository's root.
    pub parent: Option<String>,
    /// Length of its file, in bytes.
    pub size: u64,
    /// Size that the guest sees, in bytes.
    pub virtual_size: u64,
    /// The bitmap that the disk carries from now on.
    pub bitmap: Option<String>,
}

/// Runs `takeBackup`. `listener` is told of progress on this thread.
pub fn run(_request: TakeBackupRequest, _listener: Listener<'_>) -> Result<TakenBackup> {
    todo!()
}
