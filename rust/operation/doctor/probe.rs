//! What a repository does, tried with a file that has no name any more while it is tried. Whoever is killed, or waits for a NAS that
//! hangs, between the making of the file and the removal of its name leaves it there; the next one to try removes it.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::apart::{Apart, Descriptor};
use crate::config::FILE_MODE;
use crate::error::{Error, Result, errno};
use crate::mountinfo;
use crate::nas::folder::{Folder, Room};
use crate::random;
use crate::sys;

const STEP: &str = "try the repository";
/// A multiple of each file system's blocks, in bytes.
const PIECE: usize = 64 << 10;
const PROBE: &str = ".nasbackup.probe-";
/// One that is older than ours by so many seconds is no other host's that tries now, even if their clocks set the times.
const OLD: i64 = 3600;
/// The most that are removed.
const MOST: usize = 100;

/// What was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tried {
    /// The options of its mount, as its file system tells them.
    pub(super) options: Option<String>,
    pub(super) room: Option<Room>,
    /// A file was locked by `flock`.
    pub(super) locks: rustix::io::Result<()>,
    /// A file was given blocks of its own once more, by FICLONERANGE.
    pub(super) clones: rustix::io::Result<()>,
    /// It lies on the file system of `/`.
    pub(super) on_root: bool,
    /// What could not be removed, and why.
    pub(super) left: Option<String>,
}

/// Makes a file in `root`, writes to it, and tries what can be done with it.
pub(super) fn try_out(root: &Folder) -> Result<Tried> {
    let name = format!("{PROBE}{}", random::hex(STEP)?);
    let file = root.create_file(&name, FILE_MODE)?;
    let removed = root.remove_file(&file, &name);
    let swept = file.stat().map_err(|error| Error::io(STEP, root.path.join(&name), error));
    let swept = swept.and_then(|ours| remove_old(root, ours.st_mtime));
    let tried = try_file(root, file).map_err(|error| Error::io(STEP, root.path.join(&name), error));
    // there are servers that let no file go while it is open
    let removed = removed.or_else(|_| root.remove_tree(&name).map(drop));
    let left = removed.err().map(|error| format!("'{}' stays: {}", root.path.join(&name).display(), error.cause));
    let left =
        left.or_else(|| swept.err().map(|error| format!("what an earlier look has left stays: {}", error.cause)));
    match (tried, left) {
        (Ok(tried), left) => Ok(Tried { room: root.room()?, left, ..tried }),
        (Err(error), Some(left)) => Err(error.with_leftover(left)),
        (Err(error), None) => Err(error),
    }
}

/// Removes the files that others have left, of which `now` tells the age.
fn remove_old(root: &Folder, now: i64) -> Result<()> {
    let (names, _) = root.first_names(MOST, |name| name.as_encoded_bytes().starts_with(PROBE.as_bytes()))?;
    for name in names.iter().filter_map(|name| name.to_str()) {
        // what can't be opened is no file of ours, or gone by now
        let Ok(file) = root.open_file_in(name) else { continue };
        let io = |error| Error::io(STEP, root.path.join(name), error);
        if now - file.stat().map_err(io)?.st_mtime >= OLD {
            root.remove_file(&file, name)?;
        }
    }
    Ok(())
}

fn try_file(root: &Folder, mut file: Apart) -> std::io::Result<Tried> {
    file.write_all(&[1; PIECE])?;
    file.sync_all()?;
    let locks = file.with(|file| rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive));
    let clones = file.with(|file| sys::clone_range(file, PIECE as u64, file, 0, PIECE as u64));
    let clones = clones.map_err(|error| errno(&error).unwrap_or(Errno::IO));
    let options = mountinfo::place(root.as_fd()).ok().map(|place| place.options);
    let on_root = file.stat()?.st_dev == std::fs::metadata("/")?.dev();
    Ok(Tried { options, room: None, locks, clones, on_root, left: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    #[test]
    fn what_is_tried_leaves_nothing_and_says_what_a_file_system_does() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let tried = try_out(&Folder::open_root(dir.path()).unwrap()).unwrap();
        assert_eq!((tried.locks, tried.left.as_deref(), tried.on_root), (Ok(()), None, false));
        assert!(tried.clones.is_err_and(crate::lacking::is_unknown), "tmpfs shares no blocks: {tried:?}");
        assert!(tried.room.is_some() && tried.options.is_some_and(|options| options.starts_with("rw")));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn one_that_a_killed_process_has_left_is_gone_and_one_that_may_be_in_use_is_not() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let old = SystemTime::now() - Duration::from_secs(3700);
        for (name, when) in [("probe-old", Some(old)), ("probe-new", None), ("other", Some(old))] {
            let file = std::fs::File::create(dir.path().join(format!(".nasbackup.{name}"))).unwrap();
            when.map(|when| file.set_modified(when)).transpose().unwrap();
        }
        std::fs::create_dir(dir.path().join(".nasbackup.probe-folder")).unwrap();
        std::fs::File::open(dir.path().join(".nasbackup.probe-folder")).unwrap().set_modified(old).unwrap();
        let root = Folder::open_root(dir.path()).unwrap();
        assert_eq!(try_out(&root).unwrap().left, None);
        assert_eq!(root.names().unwrap(), [".nasbackup.other", ".nasbackup.probe-folder", ".nasbackup.probe-new"]);
    }
}
