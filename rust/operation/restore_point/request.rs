//! What `restorePoint` is asked and what it answers; checked before anything is looked at.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::config::{LEAST_RATE, check_limit};
use crate::error::{Error, Result};
use crate::nas::path::PointPath;
use crate::nas::repository::{Export, Repository};
use crate::operation::ceph::Rbd;
use crate::operation::checked_chain::Which;
use crate::operation::verify_chain::check_id;
use crate::point::StatePart;
use crate::qcow2::CLUSTER;

/// More disks than a machine has.
const MOST_VOLUMES: usize = 512;

/// What `restorePoint` is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RestorePointRequest {
    /// The caller's id for this job.
    pub job: Option<String>,
    /// The NAS export.
    pub repository: Option<Repository>,
    /// The restore point, `<instance>/<timestamp>`.
    pub backup_path: Option<String>,
    /// The id that the point had when it was made, as its backup's answer told it: another one is refused. Absent: not asked.
    pub point_id: Option<String>,
    /// The disks that are wanted, and where they go.
    pub volumes: Option<Vec<VolumeRequest>>,
    /// Absolute path of the file that the UEFI variables go to. Absent: they are not wanted.
    pub nvram_path: Option<String>,
    /// Absolute path of the file that the TPM's state goes to. Absent: it is not wanted.
    pub tpm_path: Option<String>,
    /// What the data are compared with. Absent: with the fingerprints where the point has them.
    pub verify: Option<Verify>,
    /// Keep what is replaced, under the name that the answer tells.
    pub keep_old: Option<bool>,
    /// Absolute path of a folder of this host, for copies of what is written in place: devices, images in Ceph. Only with
    /// `keep_old`, which needs it for these.
    pub keep_old_in: Option<String>,
    /// Most bytes a second that are read from the NAS. Absent or 0: as many as there are.
    pub rate_limit: Option<u64>,
    /// For callers in Rust: `ALREADY_EXISTS` rather than to replace anything.
    #[serde(skip)]
    pub only_new: bool,
}

/// One disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct VolumeRequest {
    /// The volume, as the backup's answer named it. Either this or `file`.
    pub volume: Option<String>,
    /// The volume's serial, by which its disk is known where none has that volume.
    pub serial: Option<String>,
    /// The image's file name in the point.
    pub file: Option<String>,
    /// Where it goes.
    pub output: Option<RestoreOutput>,
}

/// Where a disk goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RestoreOutput {
    /// Absolute path on this host, or an image in Ceph as QEMU spells it: `rbd:pool/image:option=value:...`, the key among them.
    pub path: Option<String>,
    /// `raw` or `qcow2`.
    pub format: Option<OutputFormat>,
    /// Size of the disk in the output, which reads as zeroes behind what was backed up. Absent: as it was.
    pub size: Option<u64>,
    /// Bytes in a cluster of a qcow2: 65536, the only one there is.
    pub cluster_size: Option<u64>,
    /// Room that a file takes from the start. Absent: none.
    pub preallocation: Option<Preallocation>,
}

/// How a disk is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
    /// As the guest sees it.
    Raw,
    /// Version 3, clusters of 64 KiB.
    Qcow2,
}

/// Room that a file takes from the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preallocation {
    /// None.
    #[default]
    Off,
    /// A qcow2 has a place for each cluster.
    Metadata,
    /// All of it is reserved.
    Falloc,
    /// The same: what is reserved reads as zeroes.
    Full,
}

/// How the data are verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// The files' manifests, headers and chain are looked at.
    Chain,
    /// Each byte, too, against the fingerprints.
    Data,
}

/// What `restorePoint` answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Restored {
    /// Bytes of the disks that were read from the NAS.
    pub bytes_read: u64,
    /// Bytes that were taken from the volumes as they were.
    pub bytes_kept: u64,
    /// Bytes that came by sharing blocks with the NAS.
    pub bytes_cloned: u64,
    /// The disks, as they were asked for.
    pub volumes: Vec<RestoredVolume>,
    /// What the machine remembered beside them, as it was asked for.
    pub state: Vec<RestoredState>,
    /// Milliseconds of the whole call.
    pub total_millis: u64,
    /// What an operator should know, line by line.
    pub details: String,
}

/// What became of one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoredVolume {
    /// The image's file name in the point.
    pub file: String,
    /// The volume, as the backup's answer named it.
    pub volume: String,
    /// The output's path as it was given; of an image in Ceph no more than `rbd:pool/image`.
    pub output: String,
    /// How the data were verified.
    pub verified: Verify,
    /// Bytes that were read from the NAS.
    pub bytes_read: u64,
    /// Bytes that were taken from the volume as it was.
    pub bytes_kept: u64,
    /// Bytes that came by sharing blocks with the NAS.
    pub bytes_cloned: u64,
    /// Path of what was replaced; null if nothing was, or it was not kept.
    pub kept: Option<String>,
    /// Milliseconds until it was whole and durable.
    pub millis: u64,
}

/// What became of the UEFI variables, or of the TPM's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoredState {
    /// The file's name in the point.
    pub file: String,
    /// The output's path as it was given.
    pub output: String,
    /// Path of what was replaced; null if nothing was, or it was not kept.
    pub kept: Option<String>,
}

/// A request that was checked.
#[derive(Debug)]
pub(in crate::operation) struct RestoreCall {
    pub(in crate::operation) job: Option<String>,
    pub(in crate::operation) export: Export,
    pub(in crate::operation) point: PointPath,
    pub(in crate::operation) id: Option<String>,
    pub(in crate::operation) volumes: Vec<WantedDisk>,
    pub(in crate::operation) state: Vec<WantedState>,
    pub(in crate::operation) verify: Option<Verify>,
    pub(in crate::operation) keep_old: Option<KeepOld>,
    /// Nothing is replaced.
    pub(in crate::operation) only_new: bool,
    pub(in crate::operation) rate: Option<u64>,
}

/// What is replaced is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::operation) struct KeepOld {
    /// Where copies go of what is written in place.
    pub(in crate::operation) folder: Option<String>,
}

impl KeepOld {
    /// The folder for what `path`, which is written in place, holds.
    pub(super) fn folder_for(&self, path: &str) -> Result<&str> {
        let cause = || format!("is missing: '{path}' is written in place, and what it holds is copied to a file there");
        self.folder.as_deref().ok_or_else(|| Error::invalid("keepOldIn", cause()))
    }
}

/// A part of what the machine remembered beside its disks, and the file that it goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::operation) struct WantedState {
    pub(in crate::operation) part: StatePart,
    pub(in crate::operation) path: String,
}

/// One disk, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::operation) struct WantedDisk {
    pub(in crate::operation) which: Which,
    /// Of an image in Ceph, its name.
    pub(in crate::operation) path: String,
    pub(in crate::operation) rbd: Option<Rbd>,
    pub(in crate::operation) format: OutputFormat,
    pub(in crate::operation) size: Option<u64>,
    pub(in crate::operation) preallocation: Preallocation,
}

pub(super) fn check(request: RestorePointRequest) -> Result<RestoreCall> {
    let export = Repository::check(request.repository)?;
    let path = request.backup_path.ok_or_else(|| Error::invalid("backupPath", "is missing"))?;
    let point = PointPath::parse("backupPath", &path)?;
    let volumes = request.volumes.filter(|volumes| !volumes.is_empty());
    let volumes = volumes.ok_or_else(|| Error::invalid("volumes", "is missing, or empty"))?;
    if volumes.len() > MOST_VOLUMES {
        return Err(Error::invalid(
            "volumes",
            format!("are {}, and no machine has more than {MOST_VOLUMES}", volumes.len()),
        ));
    }
    let volumes = volumes.into_iter().enumerate().map(|(i, volume)| wanted(i, volume)).collect::<Result<Vec<_>>>()?;
    let state = [(StatePart::Nvram, "nvramPath", request.nvram_path), (StatePart::Tpm, "tpmPath", request.tpm_path)];
    let state = state.into_iter().filter_map(|(part, field, path)| Some((part, field, given(path)?)));
    let state = state.map(|(part, field, path)| check_path(field, &path).map(|()| WantedState { part, path }));
    let state = state.collect::<Result<_>>()?;
    let mut images = BTreeSet::new();
    // where files lie shows when they are looked at
    for (i, name) in volumes.iter().enumerate().filter_map(|(i, wanted)| Some((i, &wanted.rbd.as_ref()?.name))) {
        if !images.insert(name) {
            return Err(Error::invalid(&format!("volumes[{i}].output.path"), "is the output of another disk, too"));
        }
    }
    Ok(RestoreCall {
        job: request.job,
        export,
        point,
        id: check_id(request.point_id)?,
        volumes,
        state,
        verify: request.verify,
        keep_old: check_keep_old(request.keep_old, request.keep_old_in)?,
        only_new: request.only_new,
        rate: check_limit("rateLimit", request.rate_limit, LEAST_RATE)?,
    })
}

fn check_keep_old(keep_old: Option<bool>, folder: Option<String>) -> Result<Option<KeepOld>> {
    let folder = folder.filter(|folder| !folder.is_empty());
    if folder.as_ref().is_some_and(|folder| !folder.starts_with('/') || folder.contains(char::is_control)) {
        return Err(Error::invalid("keepOldIn", "is not an absolute path of a folder"));
    }
    match (keep_old, folder) {
        (Some(true), folder) => Ok(Some(KeepOld { folder })),
        (_, None) => Ok(None),
        (_, Some(_)) => Err(Error::invalid("keepOldIn", "is given, and keepOld is not")),
    }
}

fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

fn check_path(field: &str, path: &str) -> Result<()> {
    match path.starts_with('/') && !path.ends_with('/') && !path.contains(char::is_control) {
        true => Ok(()),
        false => Err(Error::invalid(field, "is not an absolute path of a file")),
    }
}

fn wanted(i: usize, volume: VolumeRequest) -> Result<WantedDisk> {
    let field = |name: &str| format!("volumes[{i}].{name}");
    let serial = given(volume.serial);
    let which = match (given(volume.volume), given(volume.file)) {
        (Some(volume), None) => match serial {
            Some(serial) => Which::VolumeOrSerial(volume, serial),
            None => Which::Volume(volume),
        },
        (None, Some(_)) if serial.is_some() => {
            return Err(Error::invalid(&field("serial"), "is given, and so is file"));
        }
        (None, Some(file)) => Which::File(file),
        (None, None) => return Err(Error::invalid(&field("volume"), "is missing, and so is file")),
        (Some(_), Some(_)) => return Err(Error::invalid(&field("volume"), "is given, and so is file")),
    };
    let output = volume.output.ok_or_else(|| Error::invalid(&field("output"), "is missing"))?;
    let (path, rbd, format) = check_output(&field("output"), output.path, output.format)?;
    let size = output.size.filter(|size| *size > 0);
    if size.is_some_and(|size| !size.is_multiple_of(512)) {
        return Err(Error::invalid(&field("output.size"), "is not a multiple of 512"));
    }
    let cluster = output.cluster_size.filter(|size| *size > 0);
    if cluster.is_some_and(|size| size != CLUSTER) {
        return Err(Error::invalid(
            &field("output.clusterSize"),
            format!("is not {CLUSTER}, the only one that is made"),
        ));
    }
    Ok(WantedDisk { which, path, rbd, format, size, preallocation: output.preallocation.unwrap_or_default() })
}

/// An output's path, which of an image in Ceph is its name, that image, and the format.
pub(in crate::operation) fn check_output(
    field: &str,
    path: Option<String>,
    format: Option<OutputFormat>,
) -> Result<(String, Option<Rbd>, OutputFormat)> {
    let (of_path, of_format) = (format!("{field}.path"), format!("{field}.format"));
    let path = path.ok_or_else(|| Error::invalid(&of_path, "is missing"))?;
    let rbd = Rbd::is_one(&path).then(|| Rbd::parse(&of_path, &path)).transpose()?;
    if rbd.is_none() {
        check_path(&of_path, &path)?;
    }
    let format = format.ok_or_else(|| Error::invalid(&of_format, "is missing"))?;
    if rbd.is_some() && format != OutputFormat::Raw {
        return Err(Error::invalid(&of_format, "an image in Ceph is written as raw only"));
    }
    let path = rbd.as_ref().map_or(path, |rbd| rbd.name.clone());
    Ok((path, rbd, format))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use serde_json::{Value, json};

    fn asked(volume: Value) -> Result<RestoreCall> {
        let request =
            json!({"repository": {"type": "dir", "address": "/nas"}, "backupPath": "i-1/T1", "volumes": [volume]});
        check(serde_json::from_value(request).unwrap())
    }

    #[test]
    fn a_folder_for_what_is_kept_is_a_path_and_told_with_keep_old_alone() {
        let kept = |keep_old, folder: &str| check_keep_old(keep_old, Some(folder.into()));
        assert_eq!(kept(Some(true), "/a").unwrap(), Some(KeepOld { folder: Some("/a".into()) }));
        assert_eq!(kept(Some(true), "").unwrap(), Some(KeepOld { folder: None }));
        assert_eq!((kept(Some(false), "").unwrap(), kept(None, "").unwrap()), (None, None));
        for (keep_old, folder) in [(Some(true), "a"), (Some(true), "/a\n"), (None, "/a"), (Some(false), "/a")] {
            let error = kept(keep_old, folder).unwrap_err();
            assert!(error.code == Code::InvalidArgument && error.cause.starts_with("keepOldIn: "), "{error}");
        }
    }

    #[test]
    fn a_volume_has_one_name_and_a_whole_output() {
        let output = json!({"path": "/pool/v", "format": "raw"});
        assert_eq!(
            asked(json!({"volume": "v", "output": output})).unwrap().volumes[0].which,
            Which::Volume("v".into())
        );
        assert_eq!(
            asked(json!({"volume": "v", "serial": "s", "output": output})).unwrap().volumes[0].which,
            Which::VolumeOrSerial("v".into(), "s".into())
        );
        assert_eq!(asked(json!({"file": "f", "output": output})).unwrap().volumes[0].which, Which::File("f".into()));
        for (volume, field) in [
            (json!({"output": output}), "volumes[0].volume: is missing"),
            (json!({"volume": "", "output": output}), "volumes[0].volume: is missing"),
            (json!({"volume": "v", "file": "f", "output": output}), "volumes[0].volume: is given"),
            (json!({"serial": "s", "output": output}), "volumes[0].volume: is missing"),
            (json!({"file": "f", "serial": "s", "output": output}), "volumes[0].serial: is given, and so is file"),
            (json!({"volume": "v"}), "volumes[0].output: "),
            (json!({"volume": "v", "output": {"format": "raw"}}), "volumes[0].output.path: "),
            (json!({"volume": "v", "output": {"path": "v", "format": "raw"}}), "volumes[0].output.path: "),
            (json!({"volume": "v", "output": {"path": "/v/", "format": "raw"}}), "volumes[0].output.path: "),
            (json!({"volume": "v", "output": {"path": "/v"}}), "volumes[0].output.format: "),
            (json!({"volume": "v", "output": {"path": "rbd:p/i", "format": "qcow2"}}), "volumes[0].output.format: "),
            (
                json!({"volume": "v", "output": {"path": "rbd:p/i:conf=/x", "format": "raw"}}),
                "volumes[0].output.path: ",
            ),
            (
                json!({"volume": "v", "output": {"path": "/v", "format": "raw", "size": 513}}),
                "volumes[0].output.size: ",
            ),
            (
                json!({"volume": "v", "output": {"path": "/v", "format": "qcow2", "clusterSize": 4096}}),
                "volumes[0].output.clusterSize: ",
            ),
        ] {
            let error = asked(volume.clone()).unwrap_err();
            assert!(error.code == Code::InvalidArgument && error.cause.starts_with(field), "{volume}: {error}");
        }
    }
}
