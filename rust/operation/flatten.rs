//! `flatten` writes one disk of a restore point, however deep its chain, into a file or onto a block device that stands on nothing.

use serde::{Deserialize, Serialize};

use super::checked_chain::Which;
use super::restore_point::{
    self, OutputFormat, Preallocation, RestoreCall, Restored, Verify, WantedDisk, check_output,
};
use super::verify_chain::check_id;
use crate::error::{Error, Result};
use crate::nas::path::PointPath;
use crate::nas::repository::Repository;
use crate::work::job::Listener;

/// What `flatten` is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FlattenRequest {
    /// The caller's id for this job.
    pub job: Option<String>,
    /// The NAS export.
    pub repository: Option<Repository>,
    /// The restore point, `<instance>/<timestamp>`.
    pub backup_path: Option<String>,
    /// The id that the point had when it was made, as its backup's answer told it: another one is refused. Absent: not asked.
    pub point_id: Option<String>,
    /// The volume whose disk is wanted, as the backup's answer named it.
    pub volume: Option<String>,
    /// Where it goes.
    pub output: Option<OutputRequest>,
    /// For callers in Rust: `ALREADY_EXISTS` rather than to replace anything.
    #[serde(skip)]
    pub only_new: bool,
}

/// Where a disk goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OutputRequest {
    /// Absolute path on this host: a file, which is made or replaced, or a block device, which is overwritten. Or an image in
    /// Ceph, which is, too, as QEMU spells it: `rbd:pool/image:option=value:...`, the key among them.
    pub path: Option<String>,
    /// `raw` or `qcow2`.
    pub format: Option<OutputFormat>,
}

/// What `flatten` answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Flattened {
    /// Bytes that came by sharing blocks.
    pub bytes_cloned: u64,
    /// Bytes that came by copying; what reads as zeroes and is in no image does not count.
    pub bytes_copied: u64,
    /// Milliseconds of the whole call.
    pub total_millis: u64,
}

/// Runs `flatten`, which is `restorePoint` for one volume without a comparison of its data, so that blocks can be shared. `listener`
/// is told of progress on this thread. A file keeps its old content until the new one is whole and durable. A device that a failed
/// call has begun to write has to be written anew.
pub fn run(request: FlattenRequest, listener: Listener<'_>) -> Result<Flattened> {
    let Restored { bytes_cloned, bytes_read, total_millis, .. } =
        restore_point::perform("flatten", checked(request)?, listener)?;
    Ok(Flattened { bytes_cloned, bytes_copied: bytes_read, total_millis })
}

/// Refuses what `run` would refuse of the request and its output, for who only wants to know.
pub fn check(request: FlattenRequest) -> Result<()> {
    restore_point::dry_run::check(checked(request)?, false)
}

fn checked(request: FlattenRequest) -> Result<RestoreCall> {
    let export = Repository::check(request.repository)?;
    let path = request.backup_path.ok_or_else(|| Error::invalid("backupPath", "is missing"))?;
    let point = PointPath::parse("backupPath", &path)?;
    let volume = request.volume.filter(|volume| !volume.is_empty());
    let volume = volume.ok_or_else(|| Error::invalid("volume", "is missing"))?;
    let id = check_id(request.point_id)?;
    let output = request.output.unwrap_or_default();
    let (path, rbd, format) = check_output("output", output.path, output.format)?;
    let which = Which::Volume(volume);
    let wanted = WantedDisk { which, path, rbd, format, size: None, preallocation: Preallocation::Off };
    Ok(RestoreCall {
        job: request.job,
        export,
        point,
        id,
        volumes: vec![wanted],
        state: Vec::new(),
        verify: Some(Verify::Chain),
        keep_old: None,
        only_new: request.only_new,
        rate: None,
    })
}
