//! Opens a path below a folder. No symbolic link is followed, so that nothing that somebody else puts on the NAS leads out of the
//! folder.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use log::Level;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::lacking;

/// How often a lookup is tried while somebody renames files.
pub(super) const RACES: u32 = 100;

/// Opens `relative` below `folder`, by `openat2` where the kernel has it.
pub(crate) fn open_beneath(folder: BorrowedFd<'_>, relative: &OsStr, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // AGAIN: somebody renamed something meanwhile, and the kernel can't tell whether the path stayed inside
    for _ in 0..RACES {
        match rustix::fs::openat2(folder, relative, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            // an old kernel, or a filter that does not know the system call; or the file itself is refused
            Err(error) if lacking::is_unsettable(error) => {
                let opened = open_by_components(folder, relative, flags)?;
                lacking::tell(Level::Info, folder, "openat2", error, "paths are followed one folder after the other");
                return Ok(opened);
            }
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens `relative` below `folder` without `openat2`: one component after the other, without links and without `..`.
pub(super) fn open_by_components(
    folder: BorrowedFd<'_>,
    relative: &OsStr,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let mut components = relative.as_bytes().split(|byte| *byte == b'/').peekable();
    let mut at: Option<OwnedFd> = None;
    while let Some(component) = components.next() {
        if matches!(component, b"" | b"." | b"..") {
            return Err(Errno::XDEV);
        }
        let through = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let flags = if components.peek().is_some() { through } else { flags } | OFlags::NOFOLLOW;
        let from = at.as_ref().map_or(folder, AsFd::as_fd);
        at = Some(rustix::fs::openat(from, component, flags, Mode::empty())?);
    }
    at.ok_or(Errno::NOENT)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::folder::tests::folder;
    use super::super::folder::{FILE, FOLDER};
    use super::*;

    #[test]
    fn opening_with_and_without_openat2_stays_inside() {
        let (dir, folder) = folder();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/file"), "text").unwrap();
        let inner = folder.open_dir_in("a").unwrap();
        for open in [open_beneath, open_by_components] {
            assert!(open(folder.as_fd(), "a/b/file".as_ref(), FILE).is_ok());
            assert!(open(inner.as_fd(), "b".as_ref(), FOLDER).is_ok());
            for bad in ["../a", "..", "/etc", "", "b/../../a"] {
                assert!(open(inner.as_fd(), bad.as_ref(), FOLDER).is_err(), "{bad}");
            }
        }
    }
}
