//! What `takeBackup` answers of the point that it has taken, and what the point's manifest says.

use std::collections::BTreeMap;

use serde::Serialize;

use super::call::Call;
use super::targets::Published;
use crate::config::Engine;
use crate::digest::Digest;
use crate::nas::path::PointPath;
use crate::plain::plain_lines;
use crate::point::{Kind, LeftOut, Manifest, ManifestDisk, Parent, ParentPoint};
use crate::work::job::Job;

/// What `takeBackup` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TakenBackup {
    /// The point's random id, by which whoever remembers it tells the point from any other.
    pub point_id: String,
    /// What vouches for the point's manifest; null where no key is configured.
    pub mac: Option<Digest>,
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
    /// The name by which a later request can call this point its parent (`bitmapParent`): the new bitmap's, or, if no disk
    /// carries one and all have fingerprints, the one that was asked for.
    pub parent_name: Option<String>,
    /// The parent's bitmap, when its checkpoint was lost: made again from it, or the disks compared instead.
    pub bitmap_recreated: Option<String>,
    /// An incremental was asked for and a full was made.
    pub incremental_fallback: bool,
    /// A line for each thing that was not ordinary.
    pub details: String,
    /// The engine that moved the data.
    pub engine: Engine,
    /// Milliseconds of the hypervisor's job, from begin to the last target's close.
    pub job_millis: u64,
    /// Milliseconds until the files and folders of the point were durable and it was published.
    pub sync_millis: u64,
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

/// The parent as a manifest names it.
pub(super) fn parent_point(parent: Option<&Result<Parent, String>>) -> Option<ParentPoint> {
    let parent = parent?.as_ref().ok()?;
    Some(ParentPoint { backup_path: parent.path.to_string(), point_id: parent.manifest.point_id.clone() })
}

/// The manifest of a new point; the lengths of its files are not known yet.
pub(super) fn manifest(
    call: &Call<'_>,
    when: jiff::Timestamp,
    engine: Engine,
    bitmap: Option<&str>,
    parent: Option<ParentPoint>,
    (disks, left_out): (Vec<ManifestDisk>, Vec<LeftOut>),
) -> Manifest {
    let incremental = disks.iter().any(|disk| disk.kind == Kind::Incremental);
    let comparable = disks.iter().all(|disk| disk.fingerprints.is_some());
    Manifest {
        version: Manifest::VERSION,
        point_id: call.point_id.clone(),
        backup_path: Some(call.checked.point.to_string()),
        vm_name: call.checked.vm.clone(),
        when,
        kind: if incremental { Kind::Incremental } else { Kind::Full },
        bitmap: bitmap.map(str::to_owned),
        name: bitmap.or(call.checked.mode.bitmap().filter(|_| comparable)).map(str::to_owned),
        engine,
        parent: parent.filter(|_| incremental),
        disks,
        left_out,
        texts: None,
        mac: None,
        checksum: None,
    }
}

/// A published point, with what its manifest does not say.
pub(super) struct Outcome {
    pub published: Published,
    /// The disks' names in the domain.
    pub targets: Vec<Option<String>>,
    pub recreated: Option<String>,
    pub fallback: bool,
    pub details: Vec<String>,
    pub job_millis: u64,
}

impl Outcome {
    pub(super) fn answer(self, point: &PointPath, job: &Job) -> TakenBackup {
        let manifest = self.published.manifest;
        let disks = manifest.disks.into_iter().zip(self.targets).map(|(disk, target)| TakenDisk {
            target,
            file: format!("{point}/{}", disk.file),
            volume: disk.volume,
            serial: disk.serial,
            kind: disk.kind,
            parent: disk.parent,
            size: disk.size,
            virtual_size: disk.virtual_size,
            bitmap: disk.bitmap,
        });
        let disks: Vec<TakenDisk> = disks.collect();
        TakenBackup {
            point_id: manifest.point_id,
            mac: manifest.mac,
            kind: manifest.kind,
            size: disks.iter().map(|disk| disk.size).sum(),
            virtual_size: disks.iter().map(|disk| disk.virtual_size).sum(),
            volumes: disks.iter().map(|disk| (disk.volume.clone(), disk.file.clone())).collect(),
            bitmap_created: manifest.bitmap,
            parent_name: manifest.name,
            bitmap_recreated: self.recreated,
            incremental_fallback: self.fallback,
            details: plain_lines(&self.details),
            engine: manifest.engine,
            job_millis: self.job_millis,
            sync_millis: self.published.millis,
            total_millis: job.elapsed_millis(),
            disks,
        }
    }
}
