//! Removes a folder with all below it, within bounds: nothing that a link leads to, and nothing on another file system.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use super::folder::{FOLDER, Folder, failed, next_names};
use crate::apart::Apart;
use crate::descriptor::Attributes;
use crate::error::{Code, Error, Result};
use crate::fs_kind::FsKind;
use crate::limits;
use crate::work::steps;

/// The deepest tree that is removed, deeper than any restore point's: each level holds descriptors.
const MAX_DEPTH: u32 = 32;
/// The most entries of a tree that one removal removes: more than any restore point has.
pub(super) const MOST_REMOVED: u32 = 10_000;
/// The most names held in memory while a folder is emptied.
const BATCH: usize = 256;
/// How often, and at which interval, the removal of a folder that does not get empty is tried: NFS and FUSE keep an open file
/// under another name until it is closed.
const TRIES: u32 = 40;

impl Folder {
    /// Removes `name` and all below it: symbolic links but not their targets, and nothing on another file system. A missing
    /// `name` is success. Returns the bytes that the regular files occupied. Removes at most `MOST_REMOVED` entries: more are
    /// an error.
    pub fn remove_tree(&self, name: &str) -> Result<u64> {
        self.remove_tree_within(name, &mut MOST_REMOVED.clone())
    }

    /// Like `remove_tree`, but removes at most `left` entries.
    pub(super) fn remove_tree_within(&self, name: &str, left: &mut u32) -> Result<u64> {
        self.remove_tree_known_as(name.as_ref(), &self.path.join(name), left)
    }

    /// Makes the file `name`, which nobody else makes meanwhile, open for reading and writing. What a killed call has left of it goes, and is
    /// not opened if it is empty: a host that hung, and has lost the lock, may still write to it.
    pub fn create_anew(&self, name: &str, mode: u32) -> Result<Apart> {
        self.remove_tree(name)?;
        self.create_file_once(name, mode, FsKind::in_table(self))
    }

    /// Like `remove_tree_within`, but errors call the tree `path`.
    pub(super) fn remove_tree_known_as(&self, name: &OsStr, path: &Path, left: &mut u32) -> Result<u64> {
        let step = "remove";
        self.check_name(step, name)?;
        let device = Attributes::of(self, StatxFlags::empty()).map_err(|e| failed(step, &self.path, e))?.device;
        let name = CString::new(name.as_bytes()).map_err(|_| failed(step, path, Errno::INVAL))?;
        remove(self.as_fd(), &name, path, &mut RemovalBounds { device, left }, 0)
    }

    /// Removes `name`, which was `found` a moment ago, as `remove_tree_known_as` does; a file without another look at it.
    pub(super) fn remove_found(&self, name: &OsStr, path: &Path, found: &Attributes) -> Result<u64> {
        if !found.kind.is_dir() {
            match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
                Ok(()) => return Ok(found.occupied()),
                Err(Errno::ISDIR) => {}
                Err(Errno::NOENT) => return Ok(0),
                Err(error) => return Err(failed("remove", path, error)),
            }
        }
        self.remove_tree_known_as(name, path, &mut MOST_REMOVED.clone())
    }

    /// Removes the folder `name` if it is empty; false if it was not removed.
    pub(super) fn remove_empty(&self, name: &str) -> bool {
        rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR).is_ok()
    }
}

/// True for the name that an NFS client gives to a file that was removed while somebody on this host has it open.
pub(super) fn is_kept_by_nfs(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".nfs")
}

/// The bounds of a removal: one device, and a number of entries.
struct RemovalBounds<'a> {
    device: u64,
    left: &'a mut u32,
}

fn remove(folder: BorrowedFd<'_>, name: &CStr, path: &Path, bounds: &mut RemovalBounds<'_>, depth: u32) -> Result<u64> {
    let step = "remove";
    let refuse = |why| Err(Error::new(Code::Io, step, format!("'{}' {why}", path.display())));
    *bounds.left = match bounds.left.checked_sub(1) {
        Some(left) => left,
        None => return refuse("is more than is removed at a time, and stays"),
    };
    let gone_is_fine = |result: rustix::io::Result<()>| match result {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(failed(step, path, error)),
    };
    let found = match Attributes::of_name(folder, name, StatxFlags::BLOCKS) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Ok(0),
        Err(error) => return Err(failed(step, path, error)),
    };
    if !found.kind.is_dir() {
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            // the file is removed already; NFS removes this name when its user closes it
            Err(Errno::BUSY) if is_kept_by_nfs(OsStr::from_bytes(name.to_bytes())) => return Ok(0),
            removed => gone_is_fine(removed)?,
        }
        return Ok(found.occupied());
    }
    if found.device != bounds.device {
        return refuse("is another file system");
    }
    if depth == MAX_DEPTH {
        return refuse("is nested too deep");
    }
    let fd = rustix::fs::openat(folder, name, FOLDER | OFlags::NOFOLLOW, Mode::empty())
        .map_err(|e| failed(step, path, e))?;
    let inner = Folder { fd, path: path.to_owned() };
    let mut freed = 0_u64;
    for left in (0..TRIES).rev() {
        let mut entries = Dir::read_from(&inner.fd).map_err(|e| failed(step, path, e))?;
        loop {
            let names = next_names(&mut entries, BATCH, |_| true).map_err(|e| failed(step, path, e))?;
            if names.is_empty() {
                break;
            }
            for name in names {
                steps::at("remove one of a folder");
                let path = inner.path.join(&name);
                let name = CString::new(name.into_vec()).map_err(|_| failed(step, &path, Errno::INVAL))?;
                freed = freed.saturating_add(remove(inner.as_fd(), &name, &path, bounds, depth + 1)?);
            }
        }
        match rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY) if left > 0 => {
                std::thread::sleep(limits::within("remove a folder", limits::REMOVAL_PAUSE))
            }
            ended => {
                gone_is_fine(ended)?;
                break;
            }
        }
    }
    Ok(freed)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::super::folder::tests::folder;
    use super::*;

    #[test]
    fn a_tree_is_removed_and_nothing_that_it_links_to() {
        let (dir, folder) = folder();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("precious"), "x").unwrap();
        fs::create_dir_all(dir.path().join("tree/deep/er")).unwrap();
        fs::write(dir.path().join("tree/deep/er/file"), vec![1; 100_000]).unwrap();
        fs::write(dir.path().join("tree/na\u{ef}ve \n name"), vec![1; 5000]).unwrap();
        symlink(outside.path(), dir.path().join("tree/link")).unwrap();
        symlink(outside.path(), dir.path().join("toplink")).unwrap();
        let occupied: u64 = ["deep/er/file", "na\u{ef}ve \n name"]
            .map(|file| fs::metadata(dir.path().join("tree").join(file)).unwrap().blocks() * 512)
            .iter()
            .sum();
        assert!(occupied >= 105_000);
        assert_eq!(folder.remove_tree("tree").unwrap(), occupied);
        assert_eq!(folder.remove_tree("toplink").unwrap(), 0);
        assert_eq!(folder.remove_tree("tree").unwrap(), 0);
        assert!(folder.names().unwrap().is_empty());
        assert!(outside.path().join("precious").exists());
    }

    #[test]
    fn a_tree_too_deep_is_an_error_and_not_a_crash() {
        let (dir, folder) = folder();
        fs::create_dir_all(dir.path().join("d/".repeat(200))).unwrap();
        assert!(folder.remove_tree("d").unwrap_err().cause.ends_with("nested too deep"));
    }

    #[test]
    fn a_tree_too_wide_is_removed_bit_by_bit() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let folder = Folder::open_root(dir.path()).unwrap();
        fs::create_dir(dir.path().join("wide")).unwrap();
        (0..1000).for_each(|n| fs::write(dir.path().join("wide").join(n.to_string()), "").unwrap());
        for stay in [400, 0] {
            let mut left = 601;
            let removed = folder.remove_tree_within("wide", &mut left);
            if stay > 0 {
                assert!(removed.unwrap_err().cause.ends_with("more than is removed at a time, and stays"));
                assert_eq!(fs::read_dir(dir.path().join("wide")).unwrap().count(), stay);
            } else {
                assert_eq!((removed.unwrap(), left), (0, 601 - 401));
            }
        }
        assert!(folder.names().unwrap().is_empty());
    }
}
