//! Copies of a guest's files in a folder of this host. They are made in a folder of their own, which nobody but root enters, and
//! get their names once all are whole. They belong to who makes them, and give nobody more than the content: no bits that
//! change who runs a program, no devices.

use std::ffi::{CStr, OsStr};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, SeekFrom, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use serde::Serialize;

use super::tree::{FileKind, Node, Tree, name_of};
use crate::error::{Code, Error, Result};
use crate::host::{RunDir, RunDirs};
use crate::lacking;
use crate::nas::folder::Folder;
use crate::sys;

const STEP: &str = "copy the guest's files";
/// What the name of the folder begins with in which copies are made.
const PREFIX: &str = ".nasbackup-get-";
/// Folders in one another: each holds descriptors.
const DEEPEST: usize = 200;
/// Bytes that are copied at a time. If they are all zero they become a hole.
const PIECE: usize = 64 << 10;
/// Bytes of a file after which they are made durable: few, for nothing is heard of the copy meanwhile.
const UNSYNCED: u64 = 32 << 20;
/// Files that are made durable together: a journal writes their names and blocks at once then.
const TOGETHER: usize = 64;
/// Bytes after which the room is looked at again, each file and folder counted as one block of 4 KiB.
const UNLOOKED: u64 = 1 << 20;
/// Bytes and files that are left free where copies are made, or a twentieth of all where that is less.
const KEPT_FREE: (u64, u64) = (1 << 30, 100_000);
/// Bytes of the paths that are told of what was left out: a guest may have made any number of them.
const MOST_TOLD: usize = 128 << 10;

/// What was copied.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Copied {
    /// The copies of what was asked for.
    pub copies: Vec<PathBuf>,
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Devices, pipes and sockets, of which there are no copies: the first of them.
    pub left_out: Vec<String>,
    /// How many more there are of these.
    pub more_left_out: u64,
}

/// Where the copies of what was asked for go.
#[derive(Debug)]
pub(super) struct Destination {
    folder: Folder,
    /// For each path the guest's, and the copy's name.
    wanted: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Destination {
    /// The folder `path` if it is there, else, for one copy, that name in the folder above. `ALREADY_EXISTS` when a copy's name is
    /// there.
    pub(super) fn find(paths: Vec<Vec<u8>>, path: &Path) -> Result<Destination> {
        let (path, name) = if path.is_dir() { (path, None) } else { above(path)? };
        if name.is_some() && paths.len() > 1 {
            let cause =
                format!("'{}' is to be a folder for several files", path.join(name.unwrap_or_default()).display());
            return Err(Error::new(Code::NotFound, STEP, cause));
        }
        let folder = Folder::open_root(path)?;
        let mut wanted: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for guest in paths {
            let own = name.map(OsStr::as_bytes).or_else(|| name_of(&guest)).map(<[u8]>::to_owned);
            let no_name = || Error::invalid("DEST", format!("'{}' needs a name that is not there", lossy(&guest)));
            let own = own.ok_or_else(no_name)?;
            if wanted.iter().any(|(_, name)| *name == own) {
                return Err(Error::invalid("PATH", format!("two of them would be named '{}'", lossy(&own))));
            }
            refuse_existing(&folder, &own)?;
            wanted.push((guest, own));
        }
        Ok(Destination { folder, wanted })
    }

    /// Refuses a folder below the repository's root, where restore points lie.
    pub(super) fn refuse_below(&self, root: &Folder) -> Result<()> {
        let io = |e| Error::io(STEP, &self.folder.path, e);
        let stat = rustix::fs::fstat(root).map_err(|e| Error::io(STEP, &root.path, e))?;
        for above in std::fs::canonicalize(&self.folder.path).map_err(io)?.ancestors().skip(1) {
            let found = above.metadata().map_err(io)?;
            if (found.dev(), found.ino()) == (stat.st_dev, stat.st_ino) {
                let cause = format!("'{}' lies where the repository's restore points are", self.folder.path.display());
                return Err(Error::invalid("DEST", cause));
            }
        }
        Ok(())
    }

    /// Makes durable copies of all from there, under no names of theirs yet. `go_on` is told how many bytes that were. `NO_SPACE`
    /// before they fill the file system: a guest's files may share their blocks, and be any number of times as large as its disk.
    pub(super) fn copy(self, from: &Tree, go_on: &mut dyn FnMut(u64) -> Result<()>) -> Result<Unnamed> {
        let unfinished = Unfinished::make(&self.folder.path)?;
        let mut copier = Copier {
            from,
            to: &self.folder,
            unlooked: UNLOOKED,
            unsynced: Vec::new(),
            copied: Copied::default(),
            told: 0,
            go_on,
        };
        for (number, (guest, _)) in self.wanted.iter().enumerate() {
            let name = numbered(number);
            let name = CStr::from_bytes_with_nul(&name).map_err(|e| Error::new(Code::Internal, STEP, e))?;
            copier.copy(&from.find(guest)?, unfinished.0.folder().as_fd(), name, 0)?;
        }
        copier.sync()?;
        Ok(Unnamed { copied: copier.copied, unfinished, to: self })
    }
}

/// The folder above a path, and the path's name in it.
fn above(path: &Path) -> Result<(&Path, Option<&OsStr>)> {
    let name = path.file_name().ok_or_else(|| Error::invalid("DEST", format!("'{}' is no name", path.display())))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((folder, Some(name)))
}

fn refuse_existing(folder: &Folder, name: &[u8]) -> Result<()> {
    let at = folder.path.join(OsStr::from_bytes(name));
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        found => Err(Error::io(STEP, at, found.err().unwrap_or(Errno::EXIST))),
    }
}

fn numbered(number: usize) -> Vec<u8> {
    format!("{number}\0").into_bytes()
}

fn lossy(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// The folder in which copies are made, in the one that they are to be in. Its drop removes it with what is in it.
#[derive(Debug)]
struct Unfinished(RunDir);

impl Unfinished {
    /// Makes it, and clears those that killed processes have left there.
    fn make(folder: &Path) -> Result<Unfinished> {
        let all = RunDirs { all: folder.to_owned(), setting: None, prefix: PREFIX, mode: 0o700 };
        all.sweep(|_| true, |left| remove(left.path()).map(|()| true));
        all.make(STEP).map(Unfinished)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Err(error) = remove(self.0.path()) {
            log::warn!("unable to remove '{}', leaving it to the next call: {error}", self.0.path().display());
        }
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Copies that are whole and have no names yet. The drop removes them.
#[derive(Debug)]
pub(super) struct Unnamed {
    copied: Copied,
    unfinished: Unfinished,
    to: Destination,
}

impl Unnamed {
    /// Gives them their names. `ALREADY_EXISTS` when one is there by now: it keeps its content, and those
    /// before it are named.
    pub(super) fn name(mut self) -> Result<Copied> {
        let Destination { folder, wanted } = &self.to;
        for (number, (_, name)) in wanted.iter().enumerate() {
            let at = folder.path.join(OsStr::from_bytes(name));
            let number = number.to_string();
            let (from, flags) = (self.unfinished.0.folder(), RenameFlags::NOREPLACE);
            match rustix::fs::renameat_with(from, &number, folder, name.as_slice(), flags) {
                // a file system without the flag
                Err(Errno::INVAL | Errno::NOSYS) => {
                    refuse_existing(folder, name)?;
                    rustix::fs::renameat(from, &number, folder, name.as_slice())
                }
                renamed => renamed,
            }
            .map_err(|e| Error::io(STEP, &at, e))?;
            self.copied.copies.push(at);
        }
        folder.sync()?;
        Ok(self.copied)
    }
}

struct Copier<'a> {
    from: &'a Tree,
    to: &'a Folder,
    /// Bytes that were written since the room was looked at.
    unlooked: u64,
    /// Copies that are whole and not durable yet.
    unsynced: Vec<File>,
    copied: Copied,
    /// Bytes of what is told to be left out.
    told: usize,
    go_on: &'a mut dyn FnMut(u64) -> Result<()>,
}

impl Copier<'_> {
    /// Copies one file of any kind into a folder of this host.
    fn copy(&mut self, node: &Node, into: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<()> {
        (self.go_on)(self.copied.bytes)?;
        self.check_room(4096)?;
        let io = |e: Errno| Error::io(STEP, OsStr::from_bytes(&node.path), e);
        match node.kind() {
            FileKind::File => self.copy_file(node, into, name),
            FileKind::Folder if depth == DEEPEST => Err(io(Errno::NAMETOOLONG)),
            FileKind::Folder => {
                rustix::fs::mkdirat(into, name, Mode::RWXU).map_err(io)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let folder = rustix::fs::openat(into, name, flags, Mode::empty()).map_err(io)?;
                node.children(self.from, |name, child| self.copy(&child, folder.as_fd(), name, depth + 1))?;
                seal(&folder, &node.stat).map_err(io)?;
                Folder { fd: folder, path: OsStr::from_bytes(&node.path).into() }.sync()
            }
            FileKind::Link => {
                rustix::fs::symlinkat(node.target()?, into, name).map_err(io)?;
                rustix::fs::utimensat(into, name, &times(&node.stat), AtFlags::SYMLINK_NOFOLLOW).map_err(io)
            }
            FileKind::Other => {
                self.leave_out(&node.path);
                Ok(())
            }
        }
    }

    /// Is there still room when so many bytes more were written?
    fn check_room(&mut self, bytes: u64) -> Result<()> {
        self.unlooked += bytes;
        if self.unlooked < UNLOOKED {
            return Ok(());
        }
        self.unlooked = 0;
        let told = match rustix::fs::fstatvfs(self.to) {
            Err(error) if lacking::is_unknown(error) => return Ok(()),
            told => told.map_err(|e| Error::io(STEP, &self.to.path, e))?,
        };
        let (blocks, files) = (KEPT_FREE.0 / told.f_frsize.max(1), KEPT_FREE.1);
        if is_little(told.f_bavail, told.f_blocks, blocks) || is_little(told.f_favail, told.f_files, files) {
            let cause = format!("the file system of '{}' is nearly full", self.to.path.display());
            return Err(Error::new(Code::NoSpace, STEP, cause));
        }
        Ok(())
    }

    fn leave_out(&mut self, path: &[u8]) {
        let path = lossy(path);
        self.told += path.len();
        if self.told <= MOST_TOLD {
            self.copied.left_out.push(path.into_owned());
        } else {
            self.copied.more_left_out += 1;
        }
    }

    fn copy_file(&mut self, node: &Node, into: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        let io = |e: std::io::Error| Error::io(STEP, OsStr::from_bytes(&node.path), e);
        let mut from = node.read()?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = rustix::fs::openat(into, name, flags, Mode::RUSR | Mode::WUSR).map_err(|e| io(e.into()))?;
        let mut to = File::from(to);
        let mut piece = vec![0; PIECE];
        let (before, length) = (self.copied.bytes, u64::try_from(node.stat.st_size).unwrap_or(0));
        let (mut at, mut unsynced) = (0, 0);
        while at < length
            && let Some(data) = next_data(&from, at).map_err(io)?
        {
            at = data;
            let read = from.read(&mut piece).map_err(io)?;
            if read == 0 {
                break;
            }
            if piece[..read].iter().any(|byte| *byte != 0) {
                rustix::fs::seek(&to, SeekFrom::Start(at)).map_err(|e| io(e.into()))?;
                to.write_all(&piece[..read]).map_err(io)?;
                unsynced += read as u64;
                self.check_room(read as u64)?;
            }
            if unsynced >= UNSYNCED {
                to.sync_data().map_err(io)?;
                unsynced = 0;
            }
            at += read as u64;
            self.copied.bytes = before + at;
            (self.go_on)(self.copied.bytes)?;
        }
        to.set_len(length).map_err(io)?;
        self.copied.bytes = before + length;
        self.copied.files += 1;
        seal(&to, &node.stat).map_err(|e| io(e.into()))?;
        self.unsynced.push(to);
        if self.unsynced.len() == TOGETHER { self.sync() } else { Ok(()) }
    }

    /// Makes the copies durable.
    fn sync(&mut self) -> Result<()> {
        // it waits for nothing, and what it can't do the sync does
        self.unsynced.iter().for_each(|file| _ = sys::begin_writeback(file, 0, 0));
        for file in self.unsynced.drain(..) {
            file.sync_all().map_err(|e| Error::io("sync the copies", &self.to.path, e))?;
            (self.go_on)(self.copied.bytes)?;
        }
        Ok(())
    }
}

/// Where the next data of the file are, from there on, to which it is set; none if it has no more.
fn next_data(file: &File, at: u64) -> std::io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Err(Errno::NXIO) => Ok(None),
        // a file system that knows no holes
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(rustix::fs::seek(file, SeekFrom::Start(at))?)),
        found => Ok(Some(found?)),
    }
}

/// Is less free than a twentieth of all, and than `kept`?
fn is_little(free: u64, all: u64, kept: u64) -> bool {
    // a file system may not tell: then all is 0, or as large as a number can be
    free < kept.min(all / 20)
}

/// Gives a copy the times of the guest's file, and what it permits, without what has a program run as its owner.
fn seal(copy: impl AsFd, stat: &Stat) -> rustix::io::Result<()> {
    rustix::fs::fchmod(&copy, Mode::from_raw_mode(stat.st_mode & 0o777))?;
    rustix::fs::futimens(&copy, &times(stat))
}

fn times(stat: &Stat) -> Timestamps {
    let time = |tv_sec, nanoseconds: u64| Timespec { tv_sec, tv_nsec: nanoseconds.min(999_999_999).cast_signed() };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType};

    use super::*;

    #[test]
    fn a_twentieth_is_kept_free_or_less_of_what_is_large() {
        for (free, all, expected) in [
            (4, 100, true),
            (5, 100, false),
            (999, 1_000_000, true),
            (1000, 1_000_000, false),
            (0, 0, false),
            (u64::MAX, 5, false),
            (u64::MAX, u64::MAX, false),
        ] {
            assert_eq!(is_little(free, all, 1000), expected, "{free} of {all}");
        }
    }

    #[test]
    fn what_is_left_out_is_named_as_far_as_it_fits_and_counted() {
        let (guest, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folder = guest.path().join("all").join("x".repeat(255));
        fs::create_dir_all(&folder).unwrap();
        for number in 0..1000 {
            rustix::fs::mknodat(CWD, folder.join(format!("{number:03}")), FileType::Fifo, Mode::RUSR, 0).unwrap();
        }
        let tree = Tree::new(rustix::fs::open(guest.path(), OFlags::PATH, Mode::empty()).unwrap());
        let to = Destination::find(vec![b"all".to_vec()], to.path()).unwrap();
        let copied = to.copy(&tree, &mut |_| Ok(())).unwrap().name().unwrap();
        let bytes: usize = copied.left_out.iter().map(String::len).sum();
        assert!(bytes <= MOST_TOLD && bytes > MOST_TOLD / 2, "{bytes}");
        assert_eq!(copied.left_out.len() as u64 + copied.more_left_out, 1000);
    }
}
