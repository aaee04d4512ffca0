//! An open folder of the repository. Every lookup starts at the folder's descriptor and follows no symbolic link, so that
//! nothing that somebody else puts on the NAS leads out of the folder.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use log::Level;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::apart::{Apart, Descriptor};
use super::denied::FsKind;
use super::path::RepoPath;
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::work::steps;
use crate::{descriptor, lacking};

/// The mode of new folders: QEMU, which runs as another user, has to pass through.
pub const FOLDER_MODE: u32 = 0o711;
/// The mode of new files.
pub const FILE_MODE: u32 = 0o600;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const FILE: OFlags = OFlags::NOCTTY.union(OFlags::CLOEXEC);
const WRITE: &str = "open the file for writing";
const LIST: &str = "list the folder";
/// How often a lookup is tried while somebody renames files.
const RACES: u32 = 100;
/// The deepest tree that is removed, deeper than any restore point's: each level holds descriptors.
const MAX_DEPTH: u32 = 32;
/// The most entries of a tree that one removal removes: more than any restore point has.
pub const MOST_REMOVED: u32 = 10_000;
/// The most names held in memory while a folder is emptied.
const BATCH: usize = 256;
/// The most names of a folder that are listed: more than a machine has restore points, or a point has files.
pub const MOST_NAMES: usize = 50_000;
/// How often, and at which interval, the removal of a folder that does not get empty is tried: NFS and FUSE keep an open file
/// under another name until it is closed.
const TRIES: u32 = 40;

/// A way to rename a file of a folder.
type Rename = fn(&Folder, &OsStr, &OsStr) -> rustix::io::Result<()>;

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
        self.look_and_open(name.as_ref(), WRITE, open_same_for_writing_if_there)
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
        const CREATE: &str = "create the file";
        self.check_name(CREATE, name.as_ref())?;
        let made = Apart::open(self, |folder| create(folder, name, OFlags::RDWR, mode));
        let made = made.map_err(|e| failed(CREATE, self.path.join(name), e))?;
        let set = self.accept_unsettable_mode(made.with(|file| set_mode(file, mode)), name);
        set.inspect_err(|_| self.remove_made(name, AtFlags::empty())).map(|()| made)
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
    fn remove_made(&self, name: impl AsRef<OsStr>, flags: AtFlags) {
        let name = name.as_ref();
        if let Err(error) = rustix::fs::unlinkat(&self.fd, name, flags) {
            log::warn!("unable to remove '{}' - {error}", self.path.join(name).display());
        }
    }

    /// The names in this folder, without `.` and `..`, sorted.
    pub fn names(&self) -> Result<Vec<OsString>> {
        self.names_that(|_| true)
    }

    /// The names in this folder that are wanted, sorted; an error if there are more than `MOST_NAMES`.
    pub fn names_that(&self, are_wanted: impl Fn(&OsStr) -> bool) -> Result<Vec<OsString>> {
        let (names, more) = self.first_names(MOST_NAMES, are_wanted)?;
        if more {
            let cause =
                format!("'{}' holds more than {MOST_NAMES} names, which no backup has made", self.path.display());
            return Err(Error::new(Code::Io, LIST, cause));
        }
        Ok(names)
    }

    /// The first `most` wanted names that the folder lists, sorted, and whether there are more.
    pub fn first_names(&self, most: usize, are_wanted: impl Fn(&OsStr) -> bool) -> Result<(Vec<OsString>, bool)> {
        let mut entries = Dir::read_from(&self.fd).map_err(|e| failed(LIST, &self.path, e))?;
        let mut names = next_names(&mut entries, most + 1, are_wanted).map_err(|e| failed(LIST, &self.path, e))?;
        let more = names.len() > most;
        names.truncate(most);
        names.sort();
        Ok((names, more))
    }

    /// The type of `name`, without following a link; `None` if there is no such name.
    pub fn kind(&self, name: impl AsRef<OsStr>) -> Result<Option<FileType>> {
        let name = name.as_ref();
        match stat(self.as_fd(), name) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(failed("look up", self.path.join(name), error)),
        }
    }

    /// Renames within this folder; `ALREADY_EXISTS` when `to` is there. The caller holds the instance's lock, or gives a unique
    /// name.
    pub fn rename(&self, from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> Result<()> {
        self.rename_or(from.as_ref(), to.as_ref(), Folder::rename_after_check)
    }

    /// Renames `file`, and nothing else that has the name `from` by now, to `to` in a folder in which others rename, too;
    /// `ALREADY_EXISTS` when `to` is there.
    pub fn name_beside_others(&self, file: &impl Descriptor, from: &str, to: &str) -> Result<()> {
        const STEP: &str = "rename";
        self.check_name(STEP, to.as_ref())?;
        match file.link_to(self.as_fd(), to) {
            // the server may have linked although its answer was lost
            linked if linked.is_ok() || self.check_is(STEP, to, file).is_ok() => {
                if let Err(error) = self.remove_file(file, from) {
                    log::warn!("'{}' has a second name: {error}", self.path.join(to).display());
                }
                Ok(())
            }
            Err(Errno::EXIST) => Err(failed(STEP, self.path.join(to), Errno::EXIST)),
            // where files can't have two names, or a process may not link an open file
            _ => {
                self.check_is(STEP, from, file)?;
                self.rename_or(from.as_ref(), to.as_ref(), Folder::rename_onto_own)?;
                self.check_is(STEP, to, file)
            }
        }
    }

    /// Renames with `RENAME_NOREPLACE`, or by `otherwise` where the file system lacks that.
    fn rename_or(&self, from: &OsStr, to: &OsStr, otherwise: Rename) -> Result<()> {
        let step = "rename";
        self.check_name(step, from)?;
        self.check_name(step, to)?;
        let before = stat(self.as_fd(), from);
        let once = || match rustix::fs::renameat_with(&self.fd, from, &self.fd, to, RenameFlags::NOREPLACE) {
            // NFS and others lack the flag
            Err(error) if lacking::is_unknown(error) => {
                let instead = "a new name is looked at, or linked to, before the old one goes";
                lacking::tell(Level::Info, self, "RENAME_NOREPLACE", error, instead);
                otherwise(self, from, to)
            }
            other => other,
        };
        let mut renamed = once();
        for _ in 1..TRIES {
            if renamed != Err(Errno::ACCESS) || !self.may_be_held_by_its_files(&before) {
                break;
            }
            std::thread::sleep(limits::REMOVAL_PAUSE);
            renamed = once();
        }
        let Err(error) = renamed else { return Ok(()) };
        let both = format!("{}' to '{}", self.path.join(from).display(), to.display());
        let Ok(before) = before else { return Err(failed(step, both, error)) };
        match self.has_moved(&before, from, to) {
            Ok(true) => {
                log::warn!("the NAS renamed '{both}', going on although it answered: {error}");
                Ok(())
            }
            Ok(false) => Err(failed(step, both, error)),
            Err(unknown) => {
                let left = format!("'{}', unless it has its old name: {unknown}", self.path.join(to).display());
                Err(failed(step, both, error).with_leftover(left))
            }
        }
    }

    /// True for a folder on CIFS. The CIFS client closes a file at the server up to a second after the file was closed here,
    /// and a server renames no folder in which one is open.
    fn may_be_held_by_its_files(&self, found: &rustix::io::Result<Stat>) -> bool {
        let is_folder = |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        found.as_ref().is_ok_and(is_folder) && FsKind::of(self) == FsKind::Cifs
    }

    /// Renames `file`, and nothing else that has the name `from` by now, to `to`, and replaces what has that name.
    pub fn replace(&self, file: &impl Descriptor, from: &str, to: &str) -> Result<()> {
        const STEP: &str = "rename";
        self.check_name(STEP, from.as_ref())?;
        self.check_name(STEP, to.as_ref())?;
        self.check_is(STEP, from, file)?;
        rustix::fs::renameat(&self.fd, from, &self.fd, to).map_err(|e| failed(STEP, self.path.join(to), e))?;
        self.check_is(STEP, to, file)
    }

    /// Moves `file`, and nothing else that has its `name` by now, to another folder under the same name.
    pub fn move_to(&self, file: &impl Descriptor, name: &str, other: &Folder) -> Result<()> {
        const STEP: &str = "move";
        self.check_name(STEP, name.as_ref())?;
        self.check_is(STEP, name, file)?;
        rustix::fs::renameat(&self.fd, name, &other.fd, name).map_err(|e| failed(STEP, self.path.join(name), e))?;
        other.check_is(STEP, name, file)
    }

    /// Gives `file`, which has the name `from`, the second name `to`; `ALREADY_EXISTS` when `to` is there.
    pub fn link(&self, file: &File, from: &str, to: &str) -> Result<()> {
        const STEP: &str = "link";
        self.check_name(STEP, from.as_ref())?;
        self.check_name(STEP, to.as_ref())?;
        rustix::fs::linkat(&self.fd, from, &self.fd, to, AtFlags::empty())
            .map_err(|e| failed(STEP, self.path.join(to), e))?;
        self.check_is(STEP, to, file)
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

    /// True if the file was renamed although the server's answer was lost or wrong: it has the name `to` and not `from`.
    fn has_moved(&self, before: &Stat, from: &OsStr, to: &OsStr) -> rustix::io::Result<bool> {
        match (stat(self.as_fd(), from), stat(self.as_fd(), to)) {
            (Err(Errno::NOENT), Ok(now)) => Ok((now.st_dev, now.st_ino) == (before.st_dev, before.st_ino)),
            (Ok(_), _) | (_, Err(Errno::NOENT)) => Ok(false),
            (Err(error), _) => Err(error),
        }
    }

    /// Renames if `to` is not there. Should somebody make `to` meanwhile, a folder replaces at most an empty folder.
    fn rename_after_check(&self, from: &OsStr, to: &OsStr) -> rustix::io::Result<()> {
        match stat(self.as_fd(), to) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => rustix::fs::renameat(&self.fd, from, &self.fd, to),
            Err(error) => Err(error),
        }
    }

    /// Links the file to its new name, which fails if that is there, and removes the old name.
    fn rename_onto_own(&self, from: &OsStr, to: &OsStr) -> rustix::io::Result<()> {
        let is_linked = || Ok::<_, Errno>(is_same(&stat(self.as_fd(), from)?, &stat(self.as_fd(), to)?));
        match rustix::fs::linkat(&self.fd, from, &self.fd, to, AtFlags::empty()) {
            // the server may have linked although its answer was lost
            linked if linked.is_ok() || is_linked() == Ok(true) => {
                // a failure is only logged: the file has its new name
                self.remove_made(from, AtFlags::empty());
                Ok(())
            }
            Err(error) if lacking::is_unsettable(error) || error == Errno::MLINK => self.rename_onto_empty(from, to),
            other => other,
        }
    }

    /// Where files can't have two names: makes an empty file under the new name, which fails if that is there, and replaces it.
    fn rename_onto_empty(&self, from: &OsStr, to: &OsStr) -> rustix::io::Result<()> {
        stat(self.as_fd(), from)?;
        let own = Apart::open(self, |folder| create(folder, to, OFlags::WRONLY, FILE_MODE))?;
        let is_own = || Ok::<_, Errno>(is_same(&own.stat()?, &stat(self.as_fd(), to)?));
        rustix::fs::renameat(&self.fd, from, &self.fd, to).inspect_err(|_| {
            // the new name may belong to somebody else by now, or to our file if the rename worked in spite of the error
            if is_own() == Ok(true) {
                self.remove_made(to, AtFlags::empty());
            }
        })
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

    /// Like `remove_tree_within`, but errors call the tree `path`.
    pub(super) fn remove_tree_known_as(&self, name: &OsStr, path: &Path, left: &mut u32) -> Result<u64> {
        let step = "remove";
        self.check_name(step, name)?;
        let device = rustix::fs::fstat(&self.fd).map_err(|e| failed(step, &self.path, e))?.st_dev;
        let name = CString::new(name.as_bytes()).map_err(|_| failed(step, path, Errno::INVAL))?;
        remove(self.as_fd(), &name, path, &mut RemovalBounds { device, left }, 0)
    }

    /// Fails unless `name` is a plain name and not a path: an empty name would mean the folder itself.
    fn check_name(&self, step: &'static str, name: &OsStr) -> Result<()> {
        let bytes = name.as_bytes();
        if matches!(bytes, b"" | b"." | b"..") || bytes.iter().any(|byte| matches!(byte, b'/' | 0)) {
            let cause = format!("{name:?} is not the name of an entry of '{}'", self.path.display());
            return Err(Error::new(Code::InvalidArgument, step, cause));
        }
        Ok(())
    }
}

/// True for the name that an NFS client gives to a file that was removed while somebody on this host has it open.
pub(super) fn is_kept_by_nfs(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".nfs")
}

/// Opens the very file that is open as `file` for reading and writing. Refuses a file with a second name. `path` is for
/// messages.
pub fn open_same_for_writing(file: &File, path: impl AsRef<Path>) -> Result<Apart> {
    let path = path.as_ref();
    open_same_for_writing_if_there(file.as_fd(), path)?.ok_or_else(|| failed(WRITE, path, Errno::STALE))
}

fn open_same_for_writing_if_there(found: BorrowedFd<'_>, path: &Path) -> Result<Option<Apart>> {
    check_regular(found, OFlags::RDWR, WRITE, path)?;
    none_if_stale(Apart::open(found, |found| descriptor::open_again(found, OFlags::RDWR | FILE)), WRITE, path)
}

/// Checks what was `found` before it is opened: to open a planted device can do harm, and a file with a second name may be
/// somebody else's. The open of a regular file never blocks for long: on an NFS server's own host it waits until a client
/// returns its delegation.
fn check_regular(found: BorrowedFd<'_>, access: OFlags, step: &'static str, path: &Path) -> Result<()> {
    let stat = rustix::fs::fstat(found).map_err(|e| failed(step, path, e))?;
    let refuse = |why: String| Err(Error::new(Code::Io, step, format!("'{}' {why}", path.display())));
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return refuse("is not a regular file".into());
    }
    // some servers don't count names, and report 0
    if access == OFlags::RDWR && stat.st_nlink > 1 {
        return refuse(format!("has {} names, so that it may be somebody else's: it is not written to", stat.st_nlink));
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
    match rustix::fs::fstat(&made)?.st_mode & 0o7777 {
        same if same == mode => Ok(()),
        _ => rustix::fs::fchmod(made, Mode::from_raw_mode(mode)),
    }
}

/// Makes a file that must not exist.
fn create(folder: BorrowedFd<'_>, name: impl rustix::path::Arg, access: OFlags, mode: u32) -> rustix::io::Result<File> {
    let flags = access | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(mode)).map(File::from)
}

/// Opens `relative` below `folder`, by `openat2` where the kernel has it.
fn open_beneath(folder: BorrowedFd<'_>, relative: &OsStr, flags: OFlags) -> rustix::io::Result<OwnedFd> {
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
fn open_by_components(folder: BorrowedFd<'_>, relative: &OsStr, flags: OFlags) -> rustix::io::Result<OwnedFd> {
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

fn is_same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino, one.st_size) == (other.st_dev, other.st_ino, other.st_size)
}

fn stat(folder: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<Stat> {
    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// Up to `most` of the wanted names.
fn next_names(
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
    let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(0),
        Err(error) => return Err(failed(step, path, error)),
    };
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::Directory {
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            // the file is removed already; NFS removes this name when its user closes it
            Err(Errno::BUSY) if is_kept_by_nfs(OsStr::from_bytes(name.to_bytes())) => return Ok(0),
            removed => gone_is_fine(removed)?,
        }
        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
        return Ok(if kind == FileType::RegularFile { blocks.saturating_mul(512) } else { 0 });
    }
    if stat.st_dev != bounds.device {
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
            Err(Errno::NOTEMPTY) if left > 0 => std::thread::sleep(limits::REMOVAL_PAUSE),
            ended => {
                gone_is_fine(ended)?;
                break;
            }
        }
    }
    Ok(freed)
}

/// The error of a step. Calls a symbolic link by that name: the system's own text speaks of levels.
fn failed(step: &'static str, path: impl AsRef<Path>, error: Errno) -> Error {
    match error {
        Errno::LOOP => {
            Error::new(Code::Io, step, format!("'{}': a symbolic link, which is not followed", path.as_ref().display()))
        }
        error => Error::io(step, path, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::{Read, Write};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn folder() -> (tempfile::TempDir, Folder) {
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
    fn a_rename_replaces_nothing() {
        let (_dir, folder) = folder();
        folder.make_dir("from", FOLDER_MODE).unwrap();
        folder.make_dir("there", FOLDER_MODE).unwrap();
        assert_eq!(folder.rename("from", "there").unwrap_err().code, Code::AlreadyExists);
        assert_eq!(folder.rename_after_check("from".as_ref(), "there".as_ref()).unwrap_err(), Errno::EXIST);
        assert_eq!(folder.rename("none", "to").unwrap_err().code, Code::NotFound);
        folder.rename("from", "to").unwrap();
        folder.rename_after_check("to".as_ref(), "again".as_ref()).unwrap();
        folder.sync().unwrap();
        assert_eq!(folder.names().unwrap(), ["again", "there"]);
        for (name, text) in [("file", "new"), ("old", "old")] {
            folder.create_file(name, FILE_MODE).unwrap().write_all(text.as_bytes()).unwrap();
        }
        let file = folder.open_file_in("file").unwrap();
        assert_eq!(folder.name_beside_others(&file, "file", "old").unwrap_err().code, Code::AlreadyExists);
        for (rename, from, to) in
            [(Folder::rename_onto_own as Rename, "file", "linked"), (Folder::rename_onto_empty, "linked", "renamed")]
        {
            let rename = |from: &str, to: &str| rename(&folder, from.as_ref(), to.as_ref());
            assert_eq!(rename(from, "old").unwrap_err(), Errno::EXIST);
            assert_eq!(rename("none", "free").unwrap_err(), Errno::NOENT);
            rename(from, to).unwrap();
        }
        assert_eq!(folder.names().unwrap(), ["again", "old", "renamed", "there"]);
        let read = |name: &str| fs::read_to_string(folder.path.join(name)).unwrap();
        assert_eq!((read("old"), read("renamed")), ("old".to_owned(), "new".to_owned()));
    }

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
