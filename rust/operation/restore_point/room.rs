//! Checks whether there is room for the outputs: for all files of a file system together, before any of them is written.

use std::collections::BTreeMap;
use std::fs::File;

use super::disk::RestoredDisk;
use super::output::Output;
use super::request::Preallocation;
use crate::error::{Code, Error, Result};
use crate::point::fingerprints::Base;

pub(super) const STEP: &str = "look at the free space";

/// The space that one file is going to take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SpaceNeed {
    /// The position of its disk.
    place: usize,
    /// The device number of its file system.
    file_system: u64,
    /// Bytes that are free there.
    free: u64,
    /// Bytes that the file takes at most.
    most: u64,
    /// The folder, for messages.
    path: String,
}

/// Finds the space that each file may take, and what is free on its file system.
pub(super) fn needs(outputs: &[(&Output, &RestoredDisk)]) -> Result<Vec<SpaceNeed>> {
    let mut files = Vec::new();
    for (place, (output, disk)) in outputs.iter().enumerate() {
        let Some((folder, _)) = output.name() else { continue };
        // where the storage does not tell what is free, a write will
        let Some(room) = folder.room()? else { continue };
        let stat = rustix::fs::fstat(folder).map_err(|e| Error::io(STEP, &folder.path, e))?;
        let path = folder.path.display().to_string();
        files.push(SpaceNeed { place, file_system: stat.st_dev, free: room.available, most: disk.size, path });
    }
    Ok(files)
}

/// True if the files may have too little room. Only then `check`, which reads fingerprints, is worth while.
pub(super) fn may_be_short(files: &[SpaceNeed]) -> bool {
    !short(files).is_empty()
}

/// `NO_SPACE` when the files of one file system surely take more than it has free.
pub(super) fn check(
    files: &[SpaceNeed],
    disks: &[RestoredDisk],
    base: impl Fn(usize) -> Result<Option<Base<File>>>,
) -> Result<()> {
    for file_system in short(files) {
        let here = || files.iter().filter(|needs| needs.file_system == file_system);
        let least = |needs: &SpaceNeed| least(&disks[needs.place], || base(needs.place));
        let needed = here().map(least).sum::<Result<u64>>()?;
        if let Some(SpaceNeed { free, path, .. }) = here().next().filter(|needs| needed > needs.free) {
            let cause = format!("the disks take {needed} bytes, and '{path}' has {free} free");
            return Err(Error::new(Code::NoSpace, STEP, cause));
        }
    }
    Ok(())
}

/// The file systems that may have too little room for all of their files.
fn short(files: &[SpaceNeed]) -> Vec<u64> {
    let mut sums: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for SpaceNeed { file_system, free, most, .. } in files {
        let (sum, least) = sums.entry(*file_system).or_insert((0, *free));
        (*sum, *least) = (sum.saturating_add(*most), (*least).min(*free));
    }
    sums.into_iter().filter(|(_, (sum, free))| sum > free).map(|(file_system, _)| file_system).collect()
}

/// Bytes that a file surely takes. Stored zeroes take nothing, and only fingerprints tell where they are.
fn least(disk: &RestoredDisk, base: impl Fn() -> Result<Option<Base<File>>>) -> Result<u64> {
    match disk.preallocation {
        Preallocation::Falloc | Preallocation::Full => Ok(disk.size),
        Preallocation::Off | Preallocation::Metadata => base()?.map_or(Ok(0), |base| disk.data(base)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_one_file_system_are_counted_together() {
        let needs = |file_system, free, most| SpaceNeed { place: 0, file_system, free, most, path: String::new() };
        for (files, expected) in [
            (&[needs(1, 10, 10)][..], &[][..]),
            (&[needs(1, 10, 11)], &[1]),
            (&[needs(1, 10, 6), needs(1, 10, 5)], &[1]),
            (&[needs(1, 10, 6), needs(2, 10, 5)], &[]),
            (&[needs(1, 10, u64::MAX), needs(1, 9, u64::MAX), needs(2, 4, 4)], &[1]),
        ] {
            assert_eq!(short(files), expected, "{files:?}");
        }
    }
}
