//! Which backup results (design, section 4): pure functions from what was asked and found to what is done.

use crate::nas::path::RepoPath;
use crate::point::{Parent, ParentDisk};

/// What was asked of a running guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked<'a> {
    /// A full without a bitmap.
    Legacy,
    /// A full that begins a chain.
    Full,
    /// A point on top of the parent, or the reason why there is no parent.
    Incremental(Result<&'a Parent, &'a str>),
}

/// What was found of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DiskFacts {
    /// Its name in the domain.
    pub target: String,
    /// The last component of its source path.
    pub volume: String,
    /// Its serial, if it has one.
    pub serial: Option<String>,
    /// Size that the guest sees, in bytes.
    pub virtual_size: u64,
    /// Why it can't carry a bitmap, if so.
    pub cannot_carry: Option<String>,
}

/// How one disk is backed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// In full; why, when the others of the point may be incremental.
    Full(Option<String>),
    /// By what changed since the parent.
    Incremental(RepoPath),
}

/// What is known of the parent's bitmap on every disk that shall be incremental.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BitmapFound {
    /// libvirt knows its checkpoint and it is good.
    Known,
    /// It was good and its checkpoint was redefined: the guest was restarted or migrated.
    Redefined,
    /// It is missing or inconsistent somewhere, because of this.
    Lost(String),
}

/// What will be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// The way of each disk, in order.
    pub ways: Vec<Way>,
    /// Each disk that will carry the new bitmap.
    pub carries: Vec<bool>,
    /// The parent's checkpoint had to be made again.
    pub recreated: bool,
    /// An incremental was asked for and can't be.
    pub fallback: bool,
    /// What was not ordinary.
    pub details: Vec<String>,
}

impl Plan {
    /// Is any disk incremental?
    pub(super) fn is_incremental(&self) -> bool {
        self.ways.iter().any(|way| matches!(way, Way::Incremental(_)))
    }
}

/// The ways of the disks if the parent's bitmap is good; the error is the reason why the whole point must be full.
pub(super) fn ways(asked: Asked<'_>, disks: &[DiskFacts]) -> Result<Vec<Way>, String> {
    let parent = match asked {
        Asked::Legacy | Asked::Full => return Ok(disks.iter().map(|_| Way::Full(None)).collect()),
        Asked::Incremental(parent) => parent.map_err(str::to_owned)?,
    };
    let ways = disks.iter().map(|disk| way(parent, disk)).collect::<Result<Vec<_>, _>>()?;
    if ways.iter().any(|way| matches!(way, Way::Incremental(_))) {
        return Ok(ways);
    }
    Err(format!("no disk can be incremental on '{}'", parent.path))
}

/// The way of one disk on top of `parent`.
fn way(parent: &Parent, disk: &DiskFacts) -> Result<Way, String> {
    let full = |reason: String| Ok(Way::Full(Some(format!("disk {}: in full, {reason}", disk.target))));
    let Some(before) = parent.disk(disk.serial.as_deref(), &disk.volume) else {
        return full(format!("parent point '{}' does not have it", parent.path));
    };
    if let Some(reason) = &disk.cannot_carry {
        return full(format!("it can't carry a bitmap: {reason}"));
    }
    if before.bitmap.is_none() || before.bitmap != parent.manifest.bitmap {
        return full(format!("it carried no bitmap at '{}'", parent.path));
    }
    follows(&before, disk).map_err(|reason| format!("disk {}: {reason}", disk.target))?;
    Ok(Way::Incremental(before.file))
}

/// Can the disk stand on what the parent has of it?
fn follows(before: &ParentDisk, disk: &DiskFacts) -> Result<(), String> {
    if let Some(reason) = &before.unsound {
        return Err(format!("its parent is not sound: {reason}"));
    }
    if before.volume != disk.volume {
        return Err(format!("it is volume '{}' now and was '{}', the bitmap stayed behind", disk.volume, before.volume));
    }
    if before.virtual_size > disk.virtual_size {
        return Err(format!("it shrank from {} to {} bytes", before.virtual_size, disk.virtual_size));
    }
    Ok(())
}

/// The plan. `bitmap` is what was found of the parent's bitmap, `None` when no disk would be incremental.
pub(super) fn plan(asked: Asked<'_>, disks: &[DiskFacts], ways: Result<Vec<Way>, String>, bitmap: Option<BitmapFound>) -> Plan {
    let carries: Vec<bool> = disks.iter().map(|disk| asked != Asked::Legacy && disk.cannot_carry.is_none()).collect();
    let mut details = Vec::new();
    if asked != Asked::Legacy {
        let reasons = disks.iter().filter_map(|d| d.cannot_carry.as_ref().map(|r| format!("disk {}: carries no bitmap: {r}", d.target)));
        details.extend(reasons);
    }
    let recreated = bitmap == Some(BitmapFound::Redefined);
    let ways = match (ways, bitmap) {
        (Ok(_), Some(BitmapFound::Lost(reason))) | (Err(reason), _) => Err(reason),
        (Ok(ways), _) => Ok(ways),
    };
    match ways {
        Ok(ways) => {
            details.extend(ways.iter().filter_map(|way| if let Way::Full(reason) = way { reason.clone() } else { None }));
            Plan { ways, carries, recreated, fallback: false, details }
        }
        Err(reason) => {
            details.push(format!("full instead of incremental: {reason}"));
            Plan { ways: disks.iter().map(|_| Way::Full(None)).collect(), carries, recreated: false, fallback: true, details }
        }
    }
}
