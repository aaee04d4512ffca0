//! An open folder of the repository. Every lookup starts at the folder's descriptor and follows no symbolic link, so that
//! nothing that somebody else puts on the NAS leads out of the folder.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use log::Level;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, StatxFlags};
use rustix::io::Errno;

use super::beneath::{RACES, open_beneath};
use super::path::RepoPath;
use crate::apart::{Apart, Descriptor};
use crate::descriptor::{self, Attributes};
use crate::error::{Code, Error, Result};
use crate::fs_kind::FsKind;
use crate::{lacking, sys};

pub(super) const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
pub(super) const FILE: OFlags = OFlags::NOCTTY.union(OFlags::CLOEXEC);
const WRITE: &str = "open the file for writing";
const LIST: &str = "list the folder";
const CREATE: &str = "create the file";
/// The most names of a folder that are listed: more than a machine has restore points, or a point has files.
pub const MOST_NAMES: usize = 50_000;

/// An open folder.
#[derive(Debug)]
pub struct Folder {
    /// The descriptor that all lookups start at.
    pub fd: OwnedFd,
    /// The folder's path on the host, for messages and for QEMU.
    pub path: PathBuf,
}

/// Room of a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// The size of the file system.
    pub total: u64,
    /// The free room.
    pub free: u64,
    /// The part of the free room that the library may use.
    pub available: u64,
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Folder {
    /// Opens a host folder; the path itself may lead through symbolic links.
    pub fn open_root(path: impl AsRef<Path>) -> Result<Folder> {
        let path = path.as_ref();
        let fd =
            rustix::fs::openat(CWD, path, FOLDER, Mode::empty()).map_err(|e| failed("open the folder", path, e))?;
        Ok(Folder { fd, path: path.to_owned() })
    }

    /// Opens a host folder by its absolute path, and follows no link on it.
    pub fn open_without_links(path: impl AsRef<Path>) -> Result<Folder> {
        let path = path.as_ref();
        let root = Folder::open_root("/")?;
        match path.strip_prefix("/") {
            Ok(below) if !below.as_os_str().is_empty() => {
                let fd = root.open(below.as_os_str(), FOLDER, "open the folder")?;
                Ok(Folder { fd, path: path.to_owned() })
            }
            _ => Ok(root),
        }
    }

    /// Opens a folder below this one.
    pub fn open_dir(&self, path: &RepoPath) -> Result<Folder> {
        self.open_dir_in(path.as_str())
    }

    /// Opens a folder below this one to look up and open what is in it: it can't be listed or synced. An NFS server is not asked
    /// whether it has changed, as it is at each open of a folder to be listed.
    pub fn open_to_pass(&self, path: impl AsRef<OsStr>) -> Result<Folder> {
        let path = path.as_ref();
        let fd = self.open(path, FOLDER | OFlags::PATH, "open the folder")?;
        Ok(Folder { fd, path: self.path.join(path) })
    }

    /// Opens a regular file below this folder for reading.
    pub fn open_file(&self, path: &RepoPath) -> Result<File> {
        self.open_file_in(path.as_str())
    }

    /// Opens the folder `name` of this one.
    pub fn open_dir_in(&self, name: impl AsRef<OsStr>) -> Result<Folder> {
        let name = name.as_ref();
        let fd = self.open(name, FOLDER, "open the folder")?;
        Ok(Folder { fd, path: self.path.join(name) })
    }

    /// Opens the regular file `name` of this folder for reading.
    pub fn open_file_in(&self, name: impl AsRef<OsStr>) -> Result<File> {
        const READ: &str = "open the file";
        self.look_and_open(name.as_ref(), READ, |found, path| {
            check_regular(found, OFlags::RDONLY, READ, path)?;
            none_if_stale(descriptor::open_again(found, OFlags::RDONLY | FILE), READ, path)
        })
    }

    /// Opens the regular file `name` of this folder for reading and writing. Refuses a file with a second name.
    pub fn open_for_writing(&self, name: impl AsRef<OsStr>) -> Result<Apart> {
        self.look_and_open(name.as_ref(), WRITE, |found, path| open_same_if_there(found, OFlags::RDWR, path))
    }

    /// Opens the regular file `name` of this folder, which nobody reads by this descriptor, for writing. Refuses a file with a second name.
    pub(super) fn open_for_writing_alone(&self, name: impl AsRef<OsStr>) -> Result<Apart> {
        let access = self.writing_alone();
        self.look_and_open(name.as_ref(), WRITE, |found, path| open_same_if_there(found, access, path))
    }

    /// An NFS server gives no delegation for what is open for writing alone, which the next open for writing would have to give back first.
    /// Elsewhere that spares nothing, and a kernel that writes a part of a page may have to read the rest of it by the same open file.
    fn writing_alone(&self) -> OFlags {
        if FsKind::in_table(self) == FsKind::Nfs { OFlags::WRONLY } else { OFlags::RDWR }
    }

    fn look_and_open<T>(
        &self,
        name: &OsStr,
        step: &'static str,
        open: impl Fn(BorrowedFd<'_>, &Path) -> Result<Option<T>>,
    ) -> Result<T> {
        let path = self.path.join(name);
        for _ in 0..RACES {
            let found = self.open(name, OFlags::PATH | OFlags::CLOEXEC, step)?;
            match open(found.as_fd(), &path)? {
                Some(file) => return Ok(file),
                // on NFS another file has the name by now
                None => continue,
            }
        }
        Err(failed(step, &path, Errno::STALE))
    }

    fn open(&self, relative: &OsStr, flags: OFlags, step: &'static str) -> Result<OwnedFd> {
        open_beneath(self.as_fd(), relative, flags).map_err(|e| failed(step, self.path.join(relative), e))
    }

    /// Makes the file `name`, which must not exist, open for reading and writing.
    pub fn create_file(&self, name: &str, mode: u32) -> Result<Apart> {
        self.create_file_for(OFlags::RDWR, name, mode)
    }

    /// Like `create_file`, where nobody reads by this descriptor.
    pub(super) fn create_file_for_writing_alone(&self, name: &str, mode: u32) -> Result<Apart> {
        self.create_file_for(self.writing_alone(), name, mode)
    }

    fn create_file_for(&self, access: OFlags, name: &str, mode: u32) -> Result<Apart> {
        self.check_name(CREATE, name.as_ref())?;
        let made = Apart::open(self, |folder| create(folder, name, access, mode));
        let made = made.map_err(|e| failed(CREATE, self.path.join(name), e))?;
        let set = self.accept_unsettable_mode(made.with(|file| set_mode(file, mode)), name);
        set.inspect_err(|_| self.remove_made(name, AtFlags::empty())).map(|()| made)
    }

    /// Like `create_file`, where nobody else makes the file, or it does not matter who does. On NFS, which `kind` tells, the server is not
    /// asked for a file that must not exist: it would note in the file's times who has asked, and another request would have to
    /// set them. A file that is there all the same is refused unless it is like a new one: it holds nothing, and has no other name.
    pub(super) fn create_file_once(&self, name: &str, mode: u32, kind: FsKind) -> Result<Apart> {
        if kind != FsKind::Nfs {
            return self.create_file(name, mode);
        }
        self.check_name(CREATE, name.as_ref())?;
        let fail = |e| failed(CREATE, self.path.join(name), e);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | FILE;
        let open = |folder: BorrowedFd<'_>| rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(mode));
        let made = Apart::open(self, |folder| open(folder).map(File::from)).map_err(fail)?;
        let stat = made.stat().map_err(fail)?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() || stat.st_size != 0 || stat.st_nlink > 1 {
            return Err(fail(Errno::EXIST));
        }
        self.accept_unsettable_mode(made.with(|file| set_mode(file, mode)), name).map(|()| made)
    }

    /// Makes the folder `name`, which must not exist.
    pub fn make_dir(&self, name: &str, mode: u32) -> Result<Folder> {
        let step = "make the folder";
        self.check_name(step, name.as_ref())?;
        rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(mode))
            .map_err(|e| failed(step, self.path.join(name), e))?;
        let made = self.open_dir_in(name).and_then(|folder| {
            self.accept_unsettable_mode(set_mode(&folder, mode), name)?;
            Ok(folder)
        });
        made.inspect_err(|_| self.remove_made(name, AtFlags::REMOVEDIR))
    }

    /// Makes the folder `name` unless it is there.
    pub fn make_dir_if_missing(&self, name: &str, mode: u32) -> Result<Folder> {
        self.check_name("make the folder", name.as_ref())?;
        match self.open_dir_in(name) {
            Err(error) if error.code == Code::NotFound => {}
            opened => return opened,
        }
        match self.make_dir(name, mode) {
            Err(error) if error.code == Code::AlreadyExists => self.open_dir_in(name),
            made => made,
        }
    }

    /// Accepts that a file system has no modes to set, and logs that. The server's ACLs apply then; the library checks later
    /// whether QEMU can open a target.
    fn accept_unsettable_mode(&self, set: rustix::io::Result<()>, name: &str) -> Result<()> {
        match set {
            Err(error) if lacking::is_unsettable(error) => {
                lacking::tell(Level::Info, self, "chmod", error, "what is made has the mode that the server gives it");
                Ok(())
            }
            set => set.map_err(|e| failed("set the mode", self.path.join(name), e)),
        }
    }

    /// Removes what was made a moment ago, after a failure that the caller reports.
    pub(super) fn remove_made(&self, name: impl AsRef<OsStr>, flags: AtFlags) {
        let name = name.as_ref();
        if let Err(error) = rustix::fs::unlinkat(&self.fd, name, flags) {
            log::warn!("unable to remove '{}' - {error}", self.path.join(name).display());
        }
    }

    /// The names in this folder, without `.` and `..`, sorted.
    pub fn names(&self) -> Result<Vec<OsString>> {
        self.names_that(|_| true)
    }

    /// What its files take, in bytes.
    pub fn taken(&self) -> Result<u64> {
        let taken = |name: &OsString| match stat(self.as_fd(), name) {
            Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => Ok(0),
            Ok(found) => Ok(u64::try_from(found.st_blocks).unwrap_or(0) * 512),
            Err(error) => Err(failed("look up", self.path.join(name), error)),
        };
        self.names()?.iter().map(taken).sum()
    }

    /// The names in this folder that are wanted, sorted; an error if there are more than `MOST_NAMES`.
    pub fn names_that(&self, are_wanted: impl Fn(&OsStr) -> bool) -> Result<Vec<OsString>> {
        self.unless_more(self.first_names(MOST_NAMES, are_wanted)?)
    }

    /// Opens the folder `name` of this one, and lists it as `names_that` does: a NAS is asked once for both.
    pub fn open_and_list(
        &self,
        name: impl AsRef<OsStr>,
        are_wanted: impl Fn(&OsStr) -> bool,
    ) -> Result<(Folder, Vec<OsString>)> {
        let folder = self.open_dir_in(name)?;
        // nobody else reads by this descriptor, which is at the folder's begin
        let entries = rustix::io::fcntl_dupfd_cloexec(&folder.fd, 0).and_then(Dir::new);
        let names = folder.unless_more(folder.read(entries, MOST_NAMES, are_wanted)?)?;
        Ok((folder, names))
    }

    fn unless_more(&self, (names, more): (Vec<OsString>, bool)) -> Result<Vec<OsString>> {
        if more {
            let cause =
                format!("'{}' holds more than {MOST_NAMES} names, which no backup has made", self.path.display());
            return Err(Error::new(Code::Io, LIST, cause));
        }
        Ok(names)
    }

    /// The first `most` wanted names that the folder lists, sorted, and whether there are more.
    pub fn first_names(&self, most: usize, are_wanted: impl Fn(&OsStr) -> bool) -> Result<(Vec<OsString>, bool)> {
        self.read(Dir::read_from(&self.fd), most, are_wanted)
    }

    /// Like `first_names`, of a folder in which this host has just made a name: by that an NFS client knows that it has to list the folder
    /// anew, and does not have to be told so by another open.
    pub(super) fn first_names_after_making(
        &self,
        most: usize,
        are_wanted: impl Fn(&OsStr) -> bool,
    ) -> Result<(Vec<OsString>, bool)> {
        if FsKind::in_table(self) != FsKind::Nfs {
            return self.first_names(most, are_wanted);
        }
        let mut entries = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0).and_then(Dir::new);
        entries.iter_mut().for_each(Dir::rewind);
        self.read(entries, most, are_wanted)
    }

    fn read(
        &self,
        entries: rustix::io::Result<Dir>,
        most: usize,
        are_wanted: impl Fn(&OsStr) -> bool,
    ) -> Result<(Vec<OsString>, bool)> {
        let mut entries = entries.map_err(|e| failed(LIST, &self.path, e))?;
        let mut names = next_names(&mut entries, most + 1, are_wanted).map_err(|e| failed(LIST, &self.path, e))?;
        let more = names.len() > most;
        names.truncate(most);
        names.sort();
        Ok((names, more))
    }

    /// The type of `name`, without following a link; `None` if there is no such name.
    pub fn kind(&self, name: impl AsRef<OsStr>) -> Result<Option<FileType>> {
        Ok(self.find(name.as_ref(), StatxFlags::TYPE)?.map(|found| found.kind))
    }

    /// Has the server say what the folder is now, whatever this host remembers.
    pub(super) fn look_anew(&self) -> Result<()> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
        match rustix::fs::statx(&self.fd, c"", flags, StatxFlags::BASIC_STATS) {
            // a filter that does not know the system call
            Ok(_) | Err(Errno::NOSYS) => Ok(()),
            Err(error) => Err(failed("look at the folder", &self.path, error)),
        }
    }

    /// What has the name, without following a link; `None` if there is no such name.
    pub(super) fn find(&self, name: &OsStr, wanted: StatxFlags) -> Result<Option<Attributes>> {
        match Attributes::of_name(self, name, wanted) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(failed("look up", self.path.join(name), error)),
        }
    }

    /// By what its file system knows the file `name`, which its server says now to be there, whatever this host remembers: empty if the
    /// file system does not tell. `None` if there is none, or one that was removed by another host while this one has it open: that has no
    /// name left.
    pub(super) fn handle_now(&self, name: &CStr) -> Result<Option<Vec<u8>>> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_FORCE_SYNC;
        match rustix::fs::statx(&self.fd, name, flags, StatxFlags::BASIC_STATS) {
            Ok(found) if found.stx_nlink > 0 => Ok(Some(sys::handle_of(self.as_fd(), name).unwrap_or_default())),
            Ok(_) | Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(failed("look up", self.path.join(OsStr::from_bytes(name.to_bytes())), error)),
        }
    }

    /// `IO` unless `name` names this very `file`.
    pub fn check_is(&self, step: &'static str, name: impl AsRef<OsStr>, file: &impl Descriptor) -> Result<()> {
        let path = self.path.join(name.as_ref());
        let look = || Ok((stat(self.as_fd(), name.as_ref())?, file.stat()?));
        let (there, ours) = look().map_err(|e| failed(step, &path, e))?;
        if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino) {
            return Ok(());
        }
        Err(Error::new(Code::Io, step, format!("'{}' was exchanged by somebody", path.display())))
    }

    /// Like `check_is`, of a name that this host has just made or given to the file. What an NFS client knows of that suffices: it is not made to ask
    /// for the times of the file.
    pub(super) fn check_is_ours(&self, step: &'static str, name: &str, file: &impl Descriptor) -> Result<()> {
        let there = self.find(name.as_ref(), StatxFlags::empty())?.map(|found| found.id());
        let ours = file.with(|file| Attributes::of(file, StatxFlags::empty()));
        if there == Some(ours.map_err(|e| failed(step, self.path.join(name), e))?.id()) {
            return Ok(());
        }
        Err(Error::new(Code::Io, step, format!("'{}' was exchanged by somebody", self.path.join(name).display())))
    }

    /// Removes the name of this very `file`, and of nothing else that has it by now. A missing name is success.
    pub fn remove_file(&self, file: &impl Descriptor, name: &str) -> Result<()> {
        const STEP: &str = "remove";
        self.check_name(STEP, name.as_ref())?;
        match self.check_is(STEP, name, file) {
            Err(error) if error.code == Code::NotFound => return Ok(()),
            checked => checked?,
        }
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failed(STEP, self.path.join(name), error)),
        }
    }

    /// Duplicates the folder's descriptor.
    pub fn open_again(&self) -> Result<Folder> {
        let fd = self.fd.try_clone().map_err(|e| Error::io("open the folder", &self.path, e))?;
        Ok(Folder { fd, path: self.path.clone() })
    }

    /// Makes the names in this folder durable.
    pub fn sync(&self) -> Result<()> {
        match rustix::fs::fsync(&self.fd) {
            Err(error) if lacking::is_unknown(error) || matches!(error, Errno::BADF | Errno::ISDIR) => {
                lacking::tell(Level::Info, self, "fsync of a folder", error, "its server keeps names as it does");
                Ok(())
            }
            synced => synced.map_err(|e| failed("sync the folder", &self.path, e)),
        }
    }

    /// The room of the file system; `None` where it does not tell.
    pub fn room(&self) -> Result<Option<Room>> {
        let told = match rustix::fs::fstatvfs(&self.fd) {
            Ok(told) if told.f_blocks > 0 => told,
            Ok(_) => return Ok(self.note_no_size("it says 0 blocks")),
            Err(error) if lacking::is_unknown(error) => return Ok(self.note_no_size(error)),
            Err(error) => return Err(failed("read the file system's size", &self.path, error)),
        };
        let size = if told.f_frsize > 0 { told.f_frsize } else { told.f_bsize };
        let [total, free, available] = [told.f_blocks, told.f_bfree, told.f_bavail].map(|n| n.saturating_mul(size));
        Ok(Some(Room { total, free, available }))
    }

    fn note_no_size(&self, why: impl std::fmt::Display) -> Option<Room> {
        lacking::tell(Level::Info, self, "a size", why, "whether there is room shows when it is written to");
        None
    }

    /// Fails unless `name` is a plain name and not a path: an empty name would mean the folder itself.
    pub(super) fn check_name(&self, step: &'static str, name: &OsStr) -> Result<()> {
        let bytes = name.as_bytes();
        if matches!(bytes, b"" | b"." | b"..") || bytes.iter().any(|byte| matches!(byte, b'/' | 0)) {
            let cause = format!("{name:?} is not the name of an entry of '{}'", self.path.display());
            return Err(Error::new(Code::InvalidArgument, step, cause));
        }
        Ok(())
    }
}

/// Opens the very file that is open as `file` for reading and writing. Refuses a file with a second name. `path` is for
/// messages.
pub fn open_same_for_writing(file: &File, path: impl AsRef<Path>) -> Result<Apart> {
    let path = path.as_ref();
    open_same_if_there(file.as_fd(), OFlags::RDWR, path)?.ok_or_else(|| failed(WRITE, path, Errno::STALE))
}

fn open_same_if_there(found: BorrowedFd<'_>, access: OFlags, path: &Path) -> Result<Option<Apart>> {
    check_regular(found, access, WRITE, path)?;
    none_if_stale(Apart::open(found, |found| descriptor::open_again(found, access | FILE)), WRITE, path)
}

/// Checks what was `found` before it is opened: to open a planted device can do harm, and a file with a second name may be
/// somebody else's. The open of a regular file never blocks for long: on an NFS server's own host it waits until a client
/// returns its delegation.
fn check_regular(found: BorrowedFd<'_>, access: OFlags, step: &'static str, path: &Path) -> Result<()> {
    let writes = access != OFlags::RDONLY;
    let wanted = if writes { StatxFlags::NLINK } else { StatxFlags::empty() };
    let found = Attributes::of(found, wanted).map_err(|e| failed(step, path, e))?;
    let refuse = |why: String| Err(Error::new(Code::Io, step, format!("'{}' {why}", path.display())));
    if !found.kind.is_file() {
        return refuse("is not a regular file".into());
    }
    // some servers don't count names, and report 0
    if writes && found.links > 1 {
        return refuse(format!("has {} names, so that it may be somebody else's: it is not written to", found.links));
    }
    Ok(())
}

/// Turns the error of a file that is gone into `None`.
fn none_if_stale<T>(opened: rustix::io::Result<T>, step: &'static str, path: &Path) -> Result<Option<T>> {
    match opened {
        Err(Errno::STALE) => Ok(None),
        opened => opened.map(Some).map_err(|e| failed(step, path, e)),
    }
}

/// Sets the mode if the umask has changed it; else makes no call, which some file systems would refuse.
fn set_mode(made: impl AsFd, mode: u32) -> rustix::io::Result<()> {
    match Attributes::of(&made, StatxFlags::MODE)?.mode {
        same if same == mode => Ok(()),
        _ => rustix::fs::fchmod(made, Mode::from_raw_mode(mode)),
    }
}

/// Makes a file that must not exist.
pub(super) fn create(
    folder: BorrowedFd<'_>,
    name: impl rustix::path::Arg,
    access: OFlags,
    mode: u32,
) -> rustix::io::Result<File> {
    let flags = access | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(mode)).map(File::from)
}

pub(super) fn stat(folder: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<Stat> {
    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// Up to `most` of the wanted names.
pub(super) fn next_names(
    entries: &mut Dir,
    most: usize,
    are_wanted: impl Fn(&OsStr) -> bool,
) -> rustix::io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    while names.len() < most
        && let Some(entry) = entries.read()
    {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if !matches!(name.as_bytes(), b"." | b"..") && are_wanted(name) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// The error of a step. Calls a symbolic link by that name: the system's own text speaks of levels.
pub(super) fn failed(step: &'static str, path: impl AsRef<Path>, error: Errno) -> Error {
    match error {
        Errno::LOOP => {
            Error::new(Code::Io, step, format!("'{}': a symbolic link, which is not followed", path.as_ref().display()))
        }
        error => Error::io(step, path, error),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::beneath::open_by_components;
    use super::*;
    use crate::config::{FILE_MODE, FOLDER_MODE};
    use std::fs;
    use std::io::{Read, Write};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    pub(in super::super) fn folder() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open_root(dir.path()).unwrap();
        (dir, folder)
    }

    fn path(text: &str) -> RepoPath {
        RepoPath::parse("path", text).unwrap()
    }

    #[test]
    fn the_root_may_be_a_link_but_nothing_below() {
        let (dir, folder) = folder();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/file"), "text").unwrap();
        symlink("a", dir.path().join("link")).unwrap();
        symlink("b/file", dir.path().join("a/filelink")).unwrap();
        symlink("/", dir.path().join("out")).unwrap();

        let by_link = Folder::open_root(dir.path().join("link")).unwrap();
        assert_eq!(by_link.names().unwrap(), ["b", "filelink"]);
        assert_eq!(folder.open_dir(&path("a/b")).unwrap().path, dir.path().join("a/b"));
        assert_eq!(std::io::read_to_string(folder.open_file(&path("a/b/file")).unwrap()).unwrap(), "text");
        for bad in ["link/b/file", "a/filelink", "out/etc/passwd"] {
            let error = folder.open_file(&path(bad)).unwrap_err();
            assert!(error.cause.ends_with("a symbolic link, which is not followed"), "{error}");
            assert!(open_by_components(folder.as_fd(), bad.as_ref(), FILE).is_err(), "{bad}");
        }
        assert!(folder.open_dir(&path("link")).is_err());
        assert_eq!(folder.open_dir(&path("none")).unwrap_err().code, Code::NotFound);
        assert!(Folder::open_root(dir.path().join("a/b/file")).is_err());
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn only_regular_files_are_files() {
        let (dir, folder) = folder();
        fs::create_dir(dir.path().join("dir")).unwrap();
        for (name, kind, device) in [
            ("fifo", FileType::Fifo, 0),
            ("device", FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
            // to open it fails otherwise: no driver has it
            ("unopened", FileType::BlockDevice, rustix::fs::makedev(250, 250)),
        ] {
            rustix::fs::mknodat(&folder.fd, name, kind, Mode::RWXU, device).unwrap();
        }
        for name in ["fifo", "dir", "device", "unopened"] {
            for error in [folder.open_file_in(name).unwrap_err(), folder.open_for_writing(name).unwrap_err()] {
                assert!(error.cause.ends_with("is not a regular file"), "{name}: {error}");
            }
        }
    }

    #[test]
    fn a_file_with_a_second_name_can_be_read_and_not_written_to() {
        let (dir, folder) = folder();
        let outside = tempfile::tempdir_in(dir.path()).unwrap();
        fs::write(outside.path().join("victim"), "x").unwrap();
        fs::hard_link(outside.path().join("victim"), dir.path().join("linked")).unwrap();
        let file = folder.open_file_in("linked").unwrap();
        for error in
            [folder.open_for_writing("linked").unwrap_err(), open_same_for_writing(&file, "linked").unwrap_err()]
        {
            assert!(error.cause.contains("linked' has 2 names"), "{error}");
        }
        fs::remove_file(outside.path().join("victim")).unwrap();
        folder.open_for_writing("linked").unwrap();
        // that very file, whatever has its name by now
        fs::rename(dir.path().join("linked"), dir.path().join("moved")).unwrap();
        fs::write(dir.path().join("linked"), "another").unwrap();
        open_same_for_writing(&file, "linked").unwrap().write_all(b"y").unwrap();
        assert_eq!(fs::read(dir.path().join("moved")).unwrap(), b"y");
        assert_eq!(fs::read(dir.path().join("linked")).unwrap(), b"another");
    }

    /// The NFS server holds such a lease on its own host for a client with a delegation.
    #[test]
    fn a_file_that_has_a_lease_is_opened_once_its_holder_has_given_it_back() {
        const HOLD: &str = "
import fcntl, os, signal, sys
file = os.open(sys.argv[1], os.O_RDONLY)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
print('held', flush=True)
signal.sigwait([signal.SIGIO])
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
";
        let (dir, folder) = folder();
        let path = dir.path().join("leased");
        fs::write(&path, "x").unwrap();
        let mut holder = std::process::Command::new("python3");
        let mut holder = holder.args(["-c", HOLD]).arg(&path).stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut held = [0; 5];
        holder.stdout.take().unwrap().read_exact(&mut held).unwrap();
        folder.open_for_writing("leased").unwrap();
        assert!(holder.wait().unwrap().success());
    }

    #[test]
    fn new_files_and_folders_have_their_mode_whatever_the_umask() {
        let (_dir, folder) = folder();
        let made = folder.make_dir("made", 0o777).unwrap();
        let file = made.create_file("file", 0o666).unwrap();
        assert_eq!(file.with(File::metadata).unwrap().permissions().mode() & 0o7777, 0o666);
        assert_eq!(fs::metadata(&made.path).unwrap().mode() & 0o7777, 0o777);
        assert_eq!(made.create_file("file", 0o600).unwrap_err().code, Code::AlreadyExists);
        assert_eq!(folder.make_dir("made", 0o711).unwrap_err().code, Code::AlreadyExists);
        folder.make_dir_if_missing("made", 0o711).unwrap();
        folder.make_dir_if_missing("other", FOLDER_MODE).unwrap();
        assert_eq!(fs::metadata(folder.path.join("other")).unwrap().mode() & 0o7777, 0o711);
        symlink("other", folder.path.join("link")).unwrap();
        assert!(folder.make_dir_if_missing("link", FOLDER_MODE).is_err());
        assert!(folder.create_file("link", FILE_MODE).is_err());
    }

    #[test]
    fn names_that_are_paths_are_refused() {
        let (_dir, folder) = folder();
        folder.create_file("keep", FILE_MODE).unwrap();
        for bad in ["", ".", "..", "a/b", "/", "a\0"] {
            assert_eq!(folder.remove_tree(bad).unwrap_err().code, Code::InvalidArgument);
            assert_eq!(folder.create_file(bad, FILE_MODE).unwrap_err().code, Code::InvalidArgument);
            assert_eq!(folder.make_dir(bad, FOLDER_MODE).unwrap_err().code, Code::InvalidArgument);
            assert_eq!(folder.rename("keep", bad).unwrap_err().code, Code::InvalidArgument);
            assert_eq!(folder.rename(bad, "x").unwrap_err().code, Code::InvalidArgument);
        }
        assert_eq!(folder.names().unwrap(), ["keep"]);
    }

    #[test]
    fn a_folder_with_more_names_than_ours_have_is_not_listed() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let folder = Folder::open_root(dir.path()).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        (0..MOST_NAMES).for_each(|n| fs::hard_link(dir.path().join("file"), dir.path().join(n.to_string())).unwrap());
        let error = folder.names().unwrap_err();
        assert!(
            error.cause.contains(dir.path().to_str().unwrap()) && error.cause.contains("more than 50000"),
            "{error}"
        );
        assert_eq!(folder.names_that(|name| name == "file" || name == "7").unwrap(), ["7", "file"]);
    }
}
