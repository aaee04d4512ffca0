//! Where a flattened disk goes: a file that appears under its name when it is whole, or a block device.

use std::fs::{self, File, Metadata};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use log::Level;
use rustix::fs::{FlockOperation, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::error::{Code, Error, Result, called};
use crate::nas::folder::{FILE_MODE, Folder};
use crate::nas::lock::{Taken, lock_file};
use crate::{lacking, sys};

const STEP: &str = "open the output";

/// An output that is open. Dropped without `publish`, a file that was made is removed.
#[derive(Debug)]
pub(super) enum Output {
    /// A file that is written beside its name.
    File(NewFile),
    /// A block device, which is written as it is.
    Device(InUse),
}

/// A file beside the name that it is to have.
#[derive(Debug)]
pub(super) struct NewFile {
    folder: Folder,
    name: String,
    /// Its name until it is published; none afterwards.
    beside: Option<String>,
    file: File,
    /// The file that it replaces.
    old: Option<InUse>,
    // closed last: until then no other call writes beside the name
    _lock: OwnedFd,
}

/// A file or device that no guest can open meanwhile: QEMU's image lock is held, as by one who writes.
#[derive(Debug)]
pub(super) struct InUse {
    file: File,
    path: PathBuf,
}

/// QEMU's lock bytes (docs/system/qemu-block-drivers: "Disk image file locking"): what a user does, and what it lets
/// nobody else do; the permissions to read, to write and to resize.
const DOES: i64 = 100;
const FORBIDS: i64 = 200;
const PERMISSIONS: [i64; 3] = [0, 1, 3];

impl Output {
    /// Opens the absolute host path `path` for a disk of `size` bytes. `root` and `instance` are the repository's, whose
    /// points it may not lie in.
    pub(super) fn open(path: &str, raw: bool, size: u64, root: &Folder, instance: &Folder) -> Result<Output> {
        let (path, old) = resolve(Path::new(path))?;
        match old {
            Some(old) if old.file_type().is_block_device() => Ok(Output::Device(open_device(&path, raw, size)?)),
            Some(old) if !old.is_file() => Err(refused(&path, "is neither a file nor a block device")),
            old => {
                refuse_points(&path, root, instance)?;
                Ok(Output::File(NewFile::make(&path, old)?))
            }
        }
    }

    /// Its descriptor once more.
    pub(super) fn file(&self) -> Result<File> {
        let (Output::File(NewFile { file, .. }) | Output::Device(InUse { file, .. })) = self;
        file.try_clone().map_err(|e| Error::io(STEP, "output", e))
    }

    /// It has all of its content, durably: a file gets its name.
    pub(super) fn publish(self) -> Result<()> {
        match self {
            Output::Device(_) => Ok(()),
            Output::File(mut new) => new.publish(),
        }
    }

    /// Takes back what was made. What a device held is lost.
    pub(super) fn discard(self) -> Result<()> {
        match self {
            Output::Device(_) => Ok(()),
            Output::File(mut new) => new.remove(),
        }
    }
}

fn refused(path: &Path, why: &str) -> Error {
    Error::invalid("output.path", format!("'{}' {why}", path.display()))
}

/// The path without symbolic links, and what is there.
fn resolve(path: &Path) -> Result<(PathBuf, Option<Metadata>)> {
    let io = |error| Error::io(STEP, path, error);
    match fs::canonicalize(path) {
        Ok(real) => fs::metadata(&real).map(|metadata| (real, Some(metadata))).map_err(io),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if fs::symlink_metadata(path).is_ok() {
                return Err(refused(path, "is a link that leads nowhere"));
            }
            let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(refused(path, "is no file's name"));
            };
            Ok((fs::canonicalize(folder).map_err(io)?.join(name), None))
        }
        Err(error) => Err(io(error)),
    }
}

/// Restore points lie two folders deep; nothing else is put there, nor anywhere below this instance's folder.
fn refuse_points(path: &Path, root: &Folder, instance: &Folder) -> Result<()> {
    let id = |folder: &Folder| {
        let stat = rustix::fs::fstat(folder).map_err(|e| Error::io(STEP, &folder.path, e))?;
        Ok((stat.st_dev, stat.st_ino))
    };
    let (root, instance) = (id(root)?, id(instance)?);
    for (depth, folder) in path.ancestors().skip(1).enumerate() {
        let metadata = fs::metadata(folder).map_err(|e| Error::io(STEP, folder, e))?;
        let this = (metadata.dev(), metadata.ino());
        if this == instance || this == root && depth > 1 {
            return Err(refused(path, "lies where the repository's restore points are"));
        }
    }
    Ok(())
}

fn open_device(path: &Path, raw: bool, size: u64) -> Result<InUse> {
    if !raw {
        return Err(refused(path, "is a block device, which takes the format 'raw' only"));
    }
    // exclusive: not mounted, and part of nothing
    let flags = OFlags::EXCL | OFlags::CLOEXEC;
    let options = fs::OpenOptions::new().read(true).write(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = options.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::BUSY) => Error::new(Code::Busy, STEP, format!("'{}' is in use", path.display())),
        _ => Error::io(STEP, path, error),
    })?;
    let length = crate::qcow2::Source::length(&file).map_err(|e| Error::io(STEP, path, e))?;
    if length < size {
        return Err(refused(path, &format!("has {length} bytes, the disk {size}")));
    }
    InUse::take(file, path)
}

impl InUse {
    /// `DOMAIN_STATE` when a guest, or a tool of QEMU, has it open.
    fn take(file: File, path: &Path) -> Result<InUse> {
        let io = |error| Error::io(STEP, path, error);
        for permission in PERMISSIONS {
            sys::share_byte(&file, DOES + permission).map_err(io)?;
            sys::share_byte(&file, FORBIDS + permission).map_err(io)?;
        }
        for permission in PERMISSIONS {
            for byte in [DOES + permission, FORBIDS + permission] {
                if sys::byte_is_locked(&file, byte).map_err(io)? {
                    let cause = format!("'{}' is in use: does the guest run?", path.display());
                    return Err(Error::new(Code::DomainState, STEP, cause));
                }
            }
        }
        Ok(InUse { file, path: path.to_owned() })
    }
}

impl NewFile {
    fn make(path: &Path, old: Option<Metadata>) -> Result<NewFile> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            return Err(refused(path, "is no file's name"));
        };
        let old = old
            .map(|_| {
                let file = File::open(path).map_err(|e| Error::io(STEP, path, e))?;
                InUse::take(file, path)
            })
            .transpose()?;
        let folder = Folder::open_root(parent)?;
        let beside = format!(".{name}.nasbackup");
        let (file, lock) = make_beside(&folder, &beside)?;
        let new = NewFile { folder, name: name.to_owned(), beside: Some(beside), file, old, _lock: lock };
        new.file.set_len(0).map_err(|e| Error::io(STEP, path, called("ftruncate")(e)))?;
        Ok(new)
    }

    fn publish(&mut self) -> Result<()> {
        const STEP: &str = "publish the output";
        let path = self.folder.path.join(&self.name);
        let io = |error| Error::io(STEP, &path, error);
        if let Some(InUse { file, path: old }) = &self.old {
            // whoever may read or write the volume may do so afterwards
            let stat = rustix::fs::fstat(file).map_err(|e| Error::io(STEP, old, e))?;
            let (owner, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            let owned = rustix::fs::fchown(&self.file, Some(owner), Some(group));
            settle(&self.file, "chown", owned).map_err(|e| io(e.into()))?;
            let moded = rustix::fs::fchmod(&self.file, Mode::from_raw_mode(stat.st_mode & 0o7777));
            settle(&self.file, "chmod", moded).map_err(|e| io(e.into()))?;
        }
        self.file.sync_all().map_err(|e| io(called("fsync")(e)))?;
        let Some(beside) = &self.beside else { return Ok(()) };
        if self.old.is_some() {
            let fd = &self.folder.fd;
            let renamed = rustix::fs::renameat(fd, beside.as_str(), fd, self.name.as_str());
            renamed.map_err(|e| io(called("rename")(e.into())))?;
        } else {
            self.folder.rename_beside_others(beside, &self.name)?;
        }
        self.beside = None;
        self.folder.sync()
    }

    fn remove(&mut self) -> Result<()> {
        match self.beside.take() {
            Some(beside) => self.folder.remove_tree(&beside).map(drop),
            None => Ok(()),
        }
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            log::warn!("a partial output is left: {error}");
        }
    }
}

/// Where a server decides who may do what, it has done so for the old file and for the new one alike.
fn settle(file: &File, what: &'static str, set: rustix::io::Result<()>) -> rustix::io::Result<()> {
    set.or_else(|error| {
        if !lacking::is_unsettable(error) {
            return Err(error);
        }
        lacking::tell(Level::Info, file, what, error, "what is made there has the rights that the server gives it");
        Ok(())
    })
}

/// Makes the file, or takes over what a call that was killed has left, and what locks it. `BUSY` while another call writes it.
fn make_beside(folder: &Folder, name: &str) -> Result<(File, OwnedFd)> {
    let path = folder.path.join(name);
    let io = |error: Errno| Error::io(STEP, &path, error);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&folder.fd, name, flags, Mode::from_raw_mode(FILE_MODE)).map_err(io)?;
    let busy = || Error::new(Code::Busy, STEP, format!("another call writes '{}'", path.display()));
    let once_more = fd.try_clone().map_err(|e| Error::io(STEP, &path, e))?;
    // whoever writes it holds the lock, too, and no drop takes that away
    let take = |fd: OwnedFd| rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).map(|()| fd);
    let (Taken::There(lock) | Taken::Here(lock)) =
        lock_file(folder, name, once_more, take)?.map_err(|error| match error {
            Errno::WOULDBLOCK => busy(),
            error => Error::io(STEP, &path, called("flock")(error.into())),
        })?;
    // it may have got its name, or been removed, before it was locked
    let ours = rustix::fs::fstat(&fd).map_err(io)?;
    let there = rustix::fs::statat(&folder.fd, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
    if !there.is_ok_and(|there| (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)) {
        return Err(busy());
    }
    if !rustix::fs::FileType::from_raw_mode(ours.st_mode).is_file() {
        return Err(Error::new(Code::Io, STEP, format!("'{}' is not a regular file", path.display())));
    }
    Ok((File::from(fd), lock))
}
