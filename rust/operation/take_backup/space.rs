//! How much a backup will write at least, so that one that can't fit is refused before the guest is touched.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::decision::Way;
use super::found::Found;
use crate::error::{Code, Error, Result};
use crate::libvirt::{Disk, Source};
use crate::nas::folder::Folder;
use crate::qcow2;

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

/// Bytes that the disks' ways will write, at least as far as is known.
pub(super) fn estimate(found: &Found, ways: &[Way], parent_bitmap: Option<&str>) -> u64 {
    let dirty = parent_bitmap.and_then(|bitmap| found.domain.dirty(bitmap).ok().flatten()).unwrap_or_default();
    let disks = found.disks.iter().zip(ways);
    let known = disks.map(|(facts, way)| {
        let disk = found.xml.disks.iter().find(|disk| disk.target == facts.target);
        (way, disk.map_or(Known::default(), |disk| look_at(disk, facts.virtual_size, &dirty)))
    });
    known.fold(0, |sum, (way, known)| sum.saturating_add(least(way, known)))
}

fn look_at(disk: &Disk, virtual_size: u64, dirty: &BTreeMap<String, u64>) -> Known {
    let below = disk.backing.iter().filter_map(|image| occupied(&image.source, &image.format)).max();
    Known { top: occupied(&disk.source, &disk.format), below, dirty: dirty.get(&disk.target).copied(), virtual_size }
}

/// What an image's file occupies; unknown for what is no file, and for a qcow2 that holds snapshots too.
fn occupied(source: &Source, format: &str) -> Option<u64> {
    let Source::File(path) = source else { return None };
    let file = File::open(path).ok()?;
    if format == "qcow2" && qcow2::inspect(&file).ok()?.snapshots > 0 {
        return None;
    }
    Some(file.metadata().ok()?.blocks().saturating_mul(512))
}

/// The images of a full may hide each other's data, and changes may be discards, which take no room.
fn least(way: &Way, Known { top, below, dirty, virtual_size }: Known) -> u64 {
    match way {
        Way::Full(_) => top.max(below).unwrap_or(0).min(virtual_size),
        // how much differs is known when all was read
        Way::Compared(_) => 0,
        Way::Incremental(_) => dirty.unwrap_or(0).min(top.unwrap_or(u64::MAX)),
    }
}

/// `NO_SPACE` when the repository has less room than that.
pub(super) fn check(root: &Folder, needed: u64) -> Result<()> {
    const STEP: &str = "look at the free space";
    let found = rustix::fs::fstatvfs(root).map_err(|e| Error::io(STEP, &root.path, e))?;
    fits(needed, found.f_bavail.saturating_mul(found.f_frsize), &root.path)
}

fn fits(needed: u64, free: u64, path: &Path) -> Result<()> {
    if needed <= free {
        return Ok(());
    }
    let cause = format!("the backup takes about {needed} bytes, and '{}' has {free} free", path.display());
    Err(Error::new(Code::NoSpace, "look at the free space", cause))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nas::path::RepoPath;

    #[test]
    fn no_more_is_asked_for_than_is_surely_needed() {
        let full = Way::Full(None);
        let incremental = Way::Incremental(RepoPath::parse("path", "i-1/T1/x").unwrap());
        let known = |top, below, dirty| Known { top, below, dirty, virtual_size: 100 };
        for (way, known, least_of_it) in [
            (&full, known(Some(30), Some(50), Some(7)), 50),
            (&full, known(Some(130), None, None), 100),
            (&full, known(None, None, None), 0),
            (&incremental, known(Some(30), Some(50), Some(7)), 7),
            // the rest was discarded
            (&incremental, known(Some(5), Some(50), Some(7)), 5),
            (&incremental, known(None, None, Some(7)), 7),
            (&incremental, known(Some(30), None, None), 0),
        ] {
            assert_eq!(least(way, known), least_of_it, "{way:?} {known:?}");
        }
    }

    #[test]
    fn the_refusal_has_both_numbers() {
        fits(5, 5, Path::new("/nas")).unwrap();
        let error = fits(6, 5, Path::new("/nas")).unwrap_err();
        assert_eq!(error.code, Code::NoSpace);
        assert!(error.cause.contains("about 6 bytes") && error.cause.contains("'/nas' has 5 free"), "{error}");
    }
}
