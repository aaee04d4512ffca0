//! The least that a backup will write, so that the library refuses a backup that can't fit before it touches the guest.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::found::FoundGuest;
use super::plan::{DiskPlan, Plan, Strategy};
use crate::error::{Code, Error, Result};
use crate::libvirt::Disk;
use crate::limits;
use crate::nas::session::Session;
use crate::qcow2;
use crate::work::deadline::bounded;

const STEP: &str = "look at the free space";

/// What is known of a disk's data, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Known {
    /// What its top image occupies, if that is the disk's data and nothing else.
    top: Option<u64>,
    /// The same of the largest image below it.
    below: Option<u64>,
    /// What changed since the parent.
    dirty: Option<u64>,
    virtual_size: u64,
}

/// Room of a repository.
#[derive(Debug, Clone)]
pub(super) struct Free {
    session: Session,
    pub(super) bytes: u64,
}

impl Free {
    /// How much there was when the repository was opened.
    pub(super) fn of(session: &Session) -> Result<Free> {
        Ok(Free { session: session.clone(), bytes: session.free_at_open()? })
    }

    /// `NO_SPACE` when there are less than `needed` bytes. Syncs the file system before it refuses, because room that was given
    /// back may not show yet. An error of that is no reason to refuse.
    pub(super) fn fits(&self, needed: u64) -> Result<()> {
        if needed <= self.bytes {
            return Ok(());
        }
        let session = self.session.clone();
        match bounded(STEP, limits::STORAGE_STEP, move || session.sync().and_then(|()| session.free())) {
            Ok(free) if needed > free => Err(refusal(&self.session.root().path, needed, free)),
            Ok(_) => Ok(()),
            Err(error) => {
                let path = self.session.root().path.display();
                log::warn!("unable to find out whether '{path}' has room for the backup, going on: {error}");
                Ok(())
            }
        }
    }
}

fn refusal(root: &Path, needed: u64, free: u64) -> Error {
    let cause = format!("the backup takes about {needed} bytes, and '{}' has {free} free", root.display());
    Error::new(Code::NoSpace, STEP, cause)
}

/// How many bytes the plan will write at least, as far as is known; 0 where the most that they can write is no more
/// than is `free`. How much changed since the parent is asked of QEMU only where that matters, for QEMU merges bitmaps to tell.
pub(super) fn needed<'a>(found: &FoundGuest, plan: &'a Plan, parent_bitmap: Option<&str>, free: u64) -> u64 {
    let known = |DiskPlan { facts, strategy, .. }: &'a DiskPlan| {
        let disk = found.xml.disks.iter().find(|disk| disk.target == facts.target);
        (strategy, &facts.target, disk.map_or(Known::default(), |disk| look_at(disk, facts.virtual_size)))
    };
    let disks: Vec<_> = plan.disks.iter().map(known).collect();
    let most = sum(disks.iter().map(|(strategy, _, known)| most(strategy, *known)));
    if most <= free {
        return 0;
    }
    let dirty = parent_bitmap.and_then(|bitmap| found.domain.dirty(bitmap).ok().flatten()).unwrap_or_default();
    let least = |(strategy, target, known): &(&Strategy, &String, Known)| {
        least(strategy, Known { dirty: dirty.get(*target).copied(), ..*known })
    };
    sum(disks.iter().map(least))
}

fn sum(bytes: impl Iterator<Item = u64>) -> u64 {
    bytes.fold(0, u64::saturating_add)
}

fn look_at(disk: &Disk, virtual_size: u64) -> Known {
    let below = disk.backing.iter().filter_map(|image| occupied(image.source.host_path(), &image.format)).max();
    Known { top: occupied(disk.path.as_deref(), &disk.format), below, dirty: None, virtual_size }
}

/// What an image's file occupies; unknown for what is no file, and for a qcow2 that holds snapshots too.
fn occupied(path: Option<&str>, format: &str) -> Option<u64> {
    let file = File::open(path?).ok()?;
    let metadata = file.metadata().ok().filter(|metadata| metadata.is_file())?;
    if format == "qcow2" && qcow2::inspect(&file).ok()?.snapshots > 0 {
        return None;
    }
    Some(metadata.blocks().saturating_mul(512))
}

/// The images of a full may hide each other's data, and changes may be discards, which take no room.
fn least(strategy: &Strategy, Known { top, below, dirty, virtual_size }: Known) -> u64 {
    match strategy {
        Strategy::Full(_) => top.max(below).unwrap_or(0).min(virtual_size),
        // how much differs is known when all was read
        Strategy::Compared(..) => 0,
        Strategy::Incremental(_) => dirty.unwrap_or(0).min(top.unwrap_or(u64::MAX)),
    }
}

/// What an incremental can write at most.
fn most(strategy: &Strategy, known: Known) -> u64 {
    if strategy.is_by_bitmap() { known.virtual_size } else { least(strategy, known) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nas::path::RepoPath;

    #[test]
    fn no_more_is_asked_for_than_is_surely_needed() {
        let full = Strategy::Full(None);
        let incremental = Strategy::Incremental(RepoPath::parse("path", "i-1/T1/x").unwrap());
        let known = |top, below, dirty| Known { top, below, dirty, virtual_size: 100 };
        for (strategy, known, least_of_it) in [
            (&full, known(Some(30), Some(50), Some(7)), 50),
            (&full, known(Some(130), None, None), 100),
            (&full, known(None, None, None), 0),
            (&incremental, known(Some(30), Some(50), Some(7)), 7),
            // the rest was discarded
            (&incremental, known(Some(5), Some(50), Some(7)), 5),
            (&incremental, known(None, None, Some(7)), 7),
            (&incremental, known(Some(30), None, None), 0),
        ] {
            assert_eq!(least(strategy, known), least_of_it, "{strategy:?} {known:?}");
        }
    }

    #[test]
    fn the_refusal_has_both_numbers() {
        let error = refusal(Path::new("/nas"), 6, 5);
        assert_eq!(error.code, Code::NoSpace);
        assert!(error.cause.contains("about 6 bytes") && error.cause.contains("'/nas' has 5 free"), "{error}");
    }
}
