//! What a backup does with each disk, and what follows from that for the targets and the manifest.

use super::request::Mode;
use crate::nas::path::RepoPath;
use crate::point::fingerprints::Fingerprints;
use crate::point::{ChainImage, Kind, ManifestDisk, Snapshot};

/// What was found of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DiskFacts {
    /// Its name in the domain, or, of a stopped guest, its path.
    pub target: String,
    /// The last component of its source path.
    pub volume: String,
    /// Its file's name in the point.
    pub file: String,
    /// Its serial, if it has one.
    pub serial: Option<String>,
    /// Another disk of the guest has the serial too, so that it tells neither.
    pub serial_is_shared: bool,
    /// Size that the guest sees, in bytes.
    pub virtual_size: u64,
    /// Why it can't carry a bitmap, if so.
    pub cannot_carry: Option<String>,
    /// Why it could not be found out whether the disk was shrunk and grown again, which its bitmap does not tell; `None` if it could.
    pub shrink_check_impossible: Option<String>,
}

/// How one disk is backed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Strategy {
    /// In full; why, when the others of the point may be incremental.
    Full(Option<String>),
    /// By what its bitmap says has changed since the parent.
    Incremental(RepoPath),
    /// By what differs from the fingerprints of the parent and the images below it: the engine reads the whole disk, for no
    /// bitmap tells what changed, or what Ceph says has changed; why.
    Compared(Vec<ChainImage>, String),
}

impl Strategy {
    /// Why it is not by its bitmap, when the others of the point may be.
    pub(super) fn why(&self) -> Option<&str> {
        match self {
            Strategy::Full(why) => why.as_deref(),
            Strategy::Incremental(_) => None,
            Strategy::Compared(_, why) => Some(why),
        }
    }

    pub(super) fn is_by_bitmap(&self) -> bool {
        matches!(self, Strategy::Incremental(_))
    }

    /// The parent's file that it stands on.
    pub(super) fn parent(&self) -> Option<&RepoPath> {
        match self {
            Strategy::Full(_) => None,
            Strategy::Incremental(file) => Some(file),
            Strategy::Compared(chain, _) => chain.first().map(|image| &image.file),
        }
    }
}

/// What will be done with one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DiskPlan {
    pub facts: DiskFacts,
    pub strategy: Strategy,
    /// True if the disk will carry the new bitmap.
    pub carries: bool,
    /// Of a disk that is compared: the snapshot of its image in Ceph that the parent names.
    pub since: Option<Snapshot>,
    /// The snapshot that this backup has taken of it.
    pub snapshot: Option<Snapshot>,
}

/// What will be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// The disks, in the order in which they were found.
    pub disks: Vec<DiskPlan>,
    /// True if the parent's checkpoint was lost: it was made again from the bitmap, or the disks are compared instead.
    pub recreated: bool,
    /// True if the backup is full although the request asks for an incremental.
    pub fallback: bool,
    /// What was not ordinary.
    pub details: Vec<String>,
}

/// A target file to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TargetSpec {
    /// The disk's name in the domain, or its path.
    pub disk: String,
    /// Its name in the point's folder.
    pub name: String,
    /// Size that the guest sees, in bytes.
    pub virtual_size: u64,
    /// The file that it stands on.
    pub parent: Option<RepoPath>,
    /// A file for its fingerprints is made too.
    pub fingerprints: bool,
}

impl Plan {
    /// True if any disk relies on the parent's bitmap.
    pub(super) fn relies_on_bitmap(&self) -> bool {
        self.disks.iter().any(|disk| disk.strategy.is_by_bitmap())
    }

    /// The targets to make; with `fingerprints` where we write the data ourselves.
    pub(super) fn specs(&self, fingerprints: bool) -> Vec<TargetSpec> {
        let spec = |DiskPlan { facts, strategy, .. }: &DiskPlan| TargetSpec {
            disk: facts.target.clone(),
            name: facts.file.clone(),
            virtual_size: facts.virtual_size,
            parent: strategy.parent().cloned(),
            fingerprints,
        };
        self.disks.iter().map(spec).collect()
    }

    /// The bitmap that begins, if any disk carries it.
    pub(super) fn new_bitmap<'a>(&self, mode: &'a Mode) -> Option<&'a str> {
        mode.bitmap().filter(|_| self.disks.iter().any(|disk| disk.carries))
    }

    /// The disks as the manifest has them, without the lengths of their files. `bitmap` is on those that carry one.
    pub(super) fn manifest_disks(
        &self,
        bitmap: Option<&str>,
        mut fingerprints: Vec<Option<Fingerprints>>,
    ) -> Vec<ManifestDisk> {
        let disk = |(i, DiskPlan { facts, strategy, carries, snapshot, .. }): (usize, &DiskPlan)| ManifestDisk {
            volume: facts.volume.clone(),
            serial: facts.serial.clone(),
            file: facts.file.clone(),
            kind: if strategy.parent().is_some() { Kind::Incremental } else { Kind::Full },
            parent: strategy.parent().map(RepoPath::to_string),
            size: 0,
            virtual_size: facts.virtual_size,
            bitmap: bitmap.filter(|_| *carries).map(str::to_owned),
            fingerprints: fingerprints.get_mut(i).and_then(Option::take),
            lost_fingerprints: false,
            snapshot: snapshot.clone(),
            rebasing: None,
            goes_into: None,
        };
        self.disks.iter().enumerate().map(disk).collect()
    }
}
