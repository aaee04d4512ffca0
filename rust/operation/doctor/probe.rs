//! What a repository does, tried with a file that has no name any more while it is tried: whoever is killed meanwhile, or waits for a
//! NAS that hangs, leaves none.

use std::io::Write;
use std::os::fd::AsFd;

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
    /// What could not be removed, and why.
    pub(super) left: Option<String>,
}

/// Makes a file in `root`, writes to it, and tries what can be done with it.
pub(super) fn try_out(root: &Folder) -> Result<Tried> {
    let name = format!(".nasbackup.probe-{}", random::hex(STEP)?);
    let file = root.create_file(&name, FILE_MODE)?;
    let removed = root.remove_file(&file, &name);
    let tried = try_file(root, file).map_err(|error| Error::io(STEP, root.path.join(&name), error));
    // there are servers that let no file go while it is open
    let removed = removed.or_else(|_| root.remove_tree(&name).map(drop));
    let left = removed.err().map(|error| format!("'{}' stays: {}", root.path.join(&name).display(), error.cause));
    match (tried, left) {
        (Ok(tried), left) => Ok(Tried { room: root.room()?, left, ..tried }),
        (Err(error), Some(left)) => Err(error.with_leftover(left)),
        (Err(error), None) => Err(error),
    }
}

fn try_file(root: &Folder, mut file: Apart) -> std::io::Result<Tried> {
    file.write_all(&[1; PIECE])?;
    file.sync_all()?;
    let locks = file.with(|file| rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive));
    let clones = file.with(|file| sys::clone_range(file, PIECE as u64, file, 0, PIECE as u64));
    let clones = clones.map_err(|error| errno(&error).unwrap_or(Errno::IO));
    let options = mountinfo::place(root.as_fd()).ok().map(|place| place.options);
    Ok(Tried { options, room: None, locks, clones, left: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tried_leaves_nothing_and_says_what_a_file_system_does() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let tried = try_out(&Folder::open_root(dir.path()).unwrap()).unwrap();
        assert_eq!((tried.locks, tried.left.as_deref()), (Ok(()), None));
        assert!(tried.clones.is_err_and(crate::lacking::is_unknown), "tmpfs shares no blocks: {tried:?}");
        assert!(tried.room.is_some() && tried.options.is_some_and(|options| options.starts_with("rw")));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
