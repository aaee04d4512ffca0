//! The removal of a folder in which QEMU's user may have made anything, and may still do so. A deeper tree costs no more
//! descriptors: the removal takes each folder away from that user, and moves the folder up before it empties it.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::error::{Code, Error, Result};
use crate::random;

const STEP: &str = "clear the scratch folder";
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// The most names that one removal removes, because a backup may wait for it. The next removal continues.
const MOST: u32 = 100_000;
/// How often the removal reads a folder that does not get empty.
const PASSES: u32 = 3;

/// Removes the `folder` that was opened at `path` with all that is in it, except mounts, and nothing else that has its name by
/// now. What can't be removed stays, and the error names the folder. A folder that is gone already is success.
pub(super) fn remove(path: &Path, folder: &File) -> Result<()> {
    remove_at_most(MOST, path, folder)
}

fn remove_at_most(most: u32, path: &Path, folder: &File) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new(Code::Internal, STEP, format!("'{}' is no folder's path", path.display())));
    };
    let io = |e: Errno| Error::io(STEP, path, e);
    let parent = rustix::fs::openat(CWD, parent, FOLDER, Mode::empty()).map_err(io)?;
    let stat = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map_err(io);
    let own = stat(folder.as_fd())?;
    if stat(parent.as_fd())?.st_dev != own.st_dev {
        return Err(io(Errno::BUSY));
    }
    let is_there = || match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(false),
        found => {
            let found = found.map_err(io)?;
            let same = (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino);
            if same { Ok(true) } else { Err(Error::new(Code::Io, STEP, format!("'{}' is another", path.display()))) }
        }
    };
    if !is_there()? {
        return Ok(());
    }
    let top = folder.try_clone().map_err(|e| Error::io(STEP, path, e))?.into();
    let mut removal = ScratchRemoval { top, aside: None, moved: 0, folders: Vec::new(), left: most, failed: None };
    removal.empty_all().map_err(|e| match e {
        Errno::TOOBIG => Error::new(Code::Io, STEP, format!("'{}' holds more than {most} names", path.display())),
        e => io(e),
    })?;
    if is_there()? { rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR).map_err(io) } else { Ok(()) }
}

/// A removal that runs.
struct ScratchRemoval {
    top: OwnedFd,
    /// The folder in `top` that the removal moves folders to, and its name.
    aside: Option<(OwnedFd, CString)>,
    /// The number of folders moved so far, which is the next one's name.
    moved: u32,
    /// The moved folders that are not emptied yet.
    folders: Vec<u32>,
    /// How many more names the removal may remove.
    left: u32,
    /// The first failure.
    failed: Option<Errno>,
}

impl ScratchRemoval {
    fn empty_all(&mut self) -> rustix::io::Result<()> {
        let top = self.top.try_clone().map_err(|_| Errno::MFILE)?;
        self.empty(&top)?;
        while let Some(folder) = self.folders.pop() {
            self.remove_moved(folder)?;
        }
        if let Some((_, name)) = self.aside.take() {
            self.note(rustix::fs::unlinkat(&self.top, name, AtFlags::REMOVEDIR));
        }
        self.failed.map_or(Ok(()), Err)
    }

    /// Empties and removes a folder that was moved aside.
    fn remove_moved(&mut self, folder: u32) -> rustix::io::Result<()> {
        let Some((aside, _)) = &self.aside else { return Ok(()) };
        let name = folder.to_string();
        let opened = rustix::fs::openat(aside, &name, FOLDER, Mode::empty());
        if let Ok(opened) = &opened {
            self.empty(opened)?;
        }
        // if it is no folder, somebody exchanged it before the move
        let flags = if opened.is_ok() { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        if let Some((aside, _)) = &self.aside {
            let removed = rustix::fs::unlinkat(aside, &name, flags);
            self.note(removed);
        }
        Ok(())
    }

    /// Empties a folder: removes its files, and moves its folders aside.
    fn empty(&mut self, folder: &OwnedFd) -> rustix::io::Result<()> {
        take_ownership(folder);
        for _ in 0..PASSES {
            let mut found = false;
            for entry in Dir::read_from(folder)? {
                let entry = entry?;
                let name = entry.file_name();
                let aside = self.aside.as_ref().is_some_and(|(_, aside)| aside.as_c_str() == name);
                if !matches!(name.to_bytes(), b"." | b"..") && !aside {
                    found = true;
                    self.left = self.left.checked_sub(1).ok_or(Errno::TOOBIG)?;
                    let removed = self.remove(folder, name);
                    self.note(removed);
                }
            }
            if !found {
                break;
            }
        }
        Ok(())
    }

    fn remove(&mut self, folder: &OwnedFd, name: &CStr) -> rustix::io::Result<()> {
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {}
            removed => return removed,
        }
        if self.aside.is_none() {
            let name = random::hex(STEP).ok().and_then(|name| CString::new(name).ok()).ok_or(Errno::IO)?;
            rustix::fs::mkdirat(&self.top, &name, Mode::RWXU)?;
            let opened = rustix::fs::openat(&self.top, &name, FOLDER, Mode::empty())?;
            self.aside = Some((opened, name));
        }
        let Some((aside, _)) = &self.aside else { return Ok(()) };
        rustix::fs::renameat(folder, name, aside, self.moved.to_string())?;
        self.folders.push(self.moved);
        self.moved += 1;
        Ok(())
    }

    fn note(&mut self, removed: rustix::io::Result<()>) {
        if let Err(error) = removed
            && error != Errno::NOENT
        {
            self.failed.get_or_insert(error);
        }
    }
}

/// Makes the folder ours, so that nobody else adds to it. If that fails, the folder may not get empty.
fn take_ownership(folder: &OwnedFd) {
    let us = geteuid();
    let taken = rustix::fs::fchown(folder, Some(Uid::from_raw(us.as_raw())), None::<Gid>);
    if let Err(error) = taken.and_then(|()| rustix::fs::fchmod(folder, Mode::RWXU)) {
        log::debug!("{STEP}: unable to take a folder from its owner, going on: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{chown, symlink};
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    /// Opens the folder and removes it.
    fn remove(path: &Path) -> Result<()> {
        super::remove(path, &open(path)?)
    }

    fn remove_at_most(most: u32, path: &Path) -> Result<()> {
        super::remove_at_most(most, path, &open(path)?)
    }

    fn open(path: &Path) -> Result<File> {
        let opened = rustix::fs::openat(CWD, path, FOLDER, Mode::empty());
        opened.map(File::from).map_err(|e| Error::io("open it", path, e))
    }

    #[test]
    fn another_folder_that_has_the_name_by_now_stays() {
        let (dir, path) = folder();
        let held = open(&path).unwrap();
        fs::rename(&path, dir.path().join("moved")).unwrap();
        super::remove(&path, &held).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("precious"), "x").unwrap();
        let error = super::remove(&path, &held).unwrap_err();
        assert!(error.cause.ends_with("is another") && path.join("precious").exists(), "{error}");
        symlink(dir.path().join("moved"), dir.path().join("1-2")).unwrap();
        super::remove(&dir.path().join("1-2"), &held).unwrap_err();
        assert!(dir.path().join("moved/qemu").exists());
        super::remove(&dir.path().join("moved"), &held).unwrap();
        super::remove(&dir.path().join("moved"), &held).unwrap();
    }

    /// A folder of QEMU's user in one of ours; in memory if possible, because some disks take a millisecond for a folder.
    fn folder() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let path = dir.path().join("1-1");
        fs::create_dir_all(path.join("qemu")).unwrap();
        chown(path.join("qemu"), Some(65534), None).unwrap();
        (dir, path)
    }

    /// Nests so many folders, of QEMU's user, deeper than any path can say.
    fn nest(at: &Path, levels: u32) {
        let mut at = rustix::fs::openat(CWD, at, FOLDER, Mode::empty()).unwrap();
        for _ in 0..levels {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "d", FOLDER, Mode::empty()).unwrap();
            rustix::fs::fchown(at.as_fd(), Some(Uid::from_raw(65534)), None).unwrap();
        }
    }

    #[test]
    fn a_tree_of_fifteen_thousand_levels_is_removed() {
        let (_dir, path) = folder();
        nest(&path.join("qemu"), 15_000);
        remove(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn files_of_all_kinds_are_removed_and_what_links_name_stays() {
        let (dir, path) = folder();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), "x").unwrap();
        symlink(&outside, path.join("link")).unwrap();
        symlink(&outside, path.join("qemu/link")).unwrap();
        fs::hard_link(outside.join("precious"), path.join("qemu/file")).unwrap();
        fs::create_dir_all(path.join("qemu/0/1")).unwrap();
        fs::write(path.join("qemu/0/1/\n"), "x").unwrap();
        rustix::fs::mknodat(CWD, path.join("qemu/fifo"), rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists() && outside.join("precious").exists());
        symlink(&outside, &path).unwrap();
        remove(&path).unwrap_err();
        assert!(outside.join("precious").exists());
    }

    #[test]
    fn what_exceeds_the_bound_stays_for_the_next_removal() {
        let (_dir, path) = folder();
        for i in 0..110 {
            rustix::fs::mknodat(CWD, path.join(format!("qemu/{i}")), rustix::fs::FileType::Fifo, Mode::RWXU, 0)
                .unwrap();
        }
        nest(&path.join("qemu"), 10);
        for _ in 0..2 {
            let error = remove_at_most(50, &path).unwrap_err();
            assert!(error.cause.starts_with(&format!("'{}' holds more than", path.display())), "{error}");
        }
        remove(&path).unwrap();
        assert!(!path.exists());
    }

    /// Another process of QEMU's user keeps making names while the folder is removed.
    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_process_that_keeps_making_names_does_not_stop_the_removal() {
        for _ in 0..50 {
            let (_dir, path) = folder();
            let sockets = path.join("qemu");
            let begun = AtomicBool::new(false);
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let make = || {
                    let at = rustix::fs::openat(CWD, &sockets, FOLDER, Mode::empty()).unwrap();
                    let work = || {
                        for i in 0_u32.. {
                            if stop.load(Relaxed) {
                                break;
                            }
                            let made = rustix::fs::mkdirat(&at, format!("{i}"), Mode::RWXU);
                            begun.store(true, Relaxed);
                            if made.is_err() {
                                break;
                            }
                        }
                    };
                    crate::user::with_rights_of((65534, 65534), "make names", work).unwrap().unwrap();
                };
                let thread = scope.spawn(make);
                while !begun.load(Relaxed) {
                    std::thread::yield_now();
                }
                let removed = remove(&path);
                stop.store(true, Relaxed);
                thread.join().unwrap();
                removed.unwrap();
            });
            assert!(!path.exists());
        }
    }
}
