//! Where a restored disk goes: a file that appears under its name when it is whole, or a block device.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use log::Level;
use rustix::fs::{FlockOperation, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::target::Target;
use crate::error::{Code, Error, Result, called};
use crate::nas::apart::{AnyFile, Apart, Descriptor};
use crate::nas::folder::{FILE_MODE, Folder};
use crate::nas::lock::{Locked, lock_file};
use crate::operation::ceph::Image;
use crate::point::Manifest;
use crate::qcow2::Direct;
use crate::qemu::image_file;
use crate::work::steps;
use crate::{host, lacking, sys};

const STEP: &str = "open the output";
const PUBLISH: &str = "publish the output";
/// Digits at the end of a partial output's name, which nobody can know before.
pub(super) const ID: usize = 16;

/// An output that is open. Dropped without `publish`, a file that was made is removed.
#[derive(Debug)]
pub(in crate::operation) enum Output {
    /// A file that is written beside its name.
    File(NewFile),
    /// A block device, which is written as it is.
    Device(InUse),
    /// An image in Ceph, which is, too.
    Image(Arc<Image>),
}

/// A file beside the name that it is to have.
#[derive(Debug)]
pub(in crate::operation) struct NewFile {
    folder: Folder,
    name: String,
    /// Its name until it is published; none afterwards.
    beside: Option<String>,
    file: Apart,
    /// The file that it replaces.
    old: Option<InUse>,
    // closed last: until then no other call writes for the name
    lock: Option<Lock>,
}

/// A file or device that no guest can open meanwhile: QEMU's image lock is held, as by one who writes.
#[derive(Debug)]
pub(in crate::operation) struct InUse {
    file: File,
    path: PathBuf,
}

/// QEMU's lock bytes (docs/system/qemu-block-drivers: "Disk image file locking"): what a user does, and what it lets
/// nobody else do; the permissions to read, to write and to resize.
const DOES: i64 = 100;
const FORBIDS: i64 = 200;
const PERMISSIONS: [i64; 3] = [0, 1, 3];
/// How often, and after which pause, it is looked again whether somebody holds an output.
const HELD_TRIES: u32 = 10;
const HELD_PAUSE: Duration = Duration::from_millis(20);

impl Output {
    /// Opens the absolute host path `path` for a disk of `size` bytes, which lies where no restore points are.
    pub(in crate::operation) fn open(path: &str, raw: bool, size: u64, points: &Points) -> Result<Output> {
        let (path, old) = resolve(Path::new(path))?;
        match old {
            Some(old) if old.file_type().is_block_device() => Ok(Output::Device(open_device(&path, raw, size)?)),
            Some(old) if !old.is_file() => Err(refused(&path, "is neither a file nor a block device")),
            old => {
                points.refuse(&path)?;
                Ok(Output::File(NewFile::make(&path, old)?))
            }
        }
    }

    /// The same of an image in Ceph that is open.
    pub(in crate::operation) fn of_image(name: &str, image: Arc<Image>, size: u64) -> Result<Output> {
        if image.size() < size {
            return Err(refused(Path::new(name), &format!("has {} bytes, the disk {size}", image.size())));
        }
        Ok(Output::Image(image))
    }

    /// What is written, once more.
    pub(super) fn target(&self) -> Result<Target> {
        match self {
            Output::File(NewFile { file, .. }) => Ok(Target::File(Direct::new(file.clone().into()))),
            Output::Device(InUse { file, .. }) => {
                let again = file.try_clone().map_err(|e| Error::io(STEP, "output", e))?;
                Ok(Target::File(Direct::new(again.into())))
            }
            Output::Image(image) => Ok(Target::Image(image.clone())),
        }
    }

    /// It is written as it is, and not beside.
    pub(super) fn is_in_place(&self) -> bool {
        !matches!(self, Output::File(_))
    }

    /// It has all of its content: whoever may read what it replaces may read it, and it is durable.
    pub(in crate::operation) fn settle(&mut self) -> Result<()> {
        match self {
            Output::Device(_) | Output::Image(_) => Ok(()),
            Output::File(new) => new.settle(),
        }
    }

    /// A file's folder, and its name there.
    pub(in crate::operation) fn name(&self) -> Option<(&Folder, &str)> {
        match self {
            Output::Device(_) | Output::Image(_) => None,
            Output::File(new) => Some((&new.folder, &new.name)),
        }
    }

    /// The name that a file has until it is published, the file, and what it replaces.
    pub(in crate::operation) fn beside(&self) -> Option<(&str, &Apart, Option<&File>)> {
        match self {
            Output::Device(_) | Output::Image(_) => None,
            Output::File(new) => Some((new.beside.as_deref()?, &new.file, new.old.as_ref().map(|old| &old.file))),
        }
    }

    /// What it replaces, open for reading.
    pub(in crate::operation) fn old(&self) -> Option<(&File, &Path)> {
        let (Output::Device(old) | Output::File(NewFile { old: Some(old), .. })) = self else { return None };
        Some((&old.file, &old.path))
    }

    /// The path that the file that it replaces can be kept under, as is tried; none if it replaces none.
    pub(in crate::operation) fn name_to_keep(&self) -> Result<Option<String>> {
        match self {
            Output::Device(_) | Output::Image(_) | Output::File(NewFile { old: None, .. }) => Ok(None),
            Output::File(NewFile { folder, name, old: Some(old), .. }) => {
                let kept = format!("{}{}", kept(name), &Manifest::new_point_id()?[..ID]);
                // not all storage has second names, and once all is copied it would be late to see that
                let tried = folder.link(&old.file, name, &kept).and_then(|()| folder.remove_file(&old.file, &kept));
                let why = "keepOld: what is replaced is kept by a second name, which its storage does not give it";
                tried.map_err(|e| Error { cause: format!("{why}: {}", e.cause), ..e })?;
                Ok(Some(folder.path.join(kept).display().to_string()))
            }
        }
    }

    /// Gives what it replaces that name, too.
    pub(in crate::operation) fn keep_old(&self, kept: &str) -> Result<()> {
        let (Output::File(NewFile { folder, name, old: Some(old), .. }), Some(kept)) = (self, kept.rsplit('/').next())
        else {
            return Ok(());
        };
        folder.link(&old.file, name, kept)
    }

    /// Has what it replaces its name still? Who has put something else there may be using it.
    pub(in crate::operation) fn check_old(&self) -> Result<()> {
        match self {
            Output::File(NewFile { folder, name, old: Some(old), .. }) => folder.check_is(PUBLISH, name, &old.file),
            _ => Ok(()),
        }
    }

    /// Has a file got its name?
    pub(in crate::operation) fn is_published(&self) -> bool {
        matches!(self, Output::File(NewFile { beside: None, .. }))
    }

    /// Takes that name away again, unless it is the only one by now.
    pub(in crate::operation) fn forget_old(&self, kept: &str) -> Result<()> {
        let (Output::File(NewFile { folder, old: Some(old), .. }), Some(kept)) = (self, kept.rsplit('/').next()) else {
            return Ok(());
        };
        if self.check_old().is_err() { Ok(()) } else { folder.remove_file(&old.file, kept) }
    }

    /// Removes what killed calls have left beside the names that what is called `name` was to be kept under.
    pub(in crate::operation) fn remove_left_of_kept(&self, name: &str) -> Result<()> {
        let Output::File(NewFile { folder, file, beside: Some(own), .. }) = self else { return Ok(()) };
        let all = folder.names_that(|left| left.to_str().is_some_and(|left| kept_beside(name, left).is_some()))?;
        for left in all.iter().filter_map(|left| left.to_str()).filter(|left| left != own) {
            // a call that lives holds its lock; where there are no locks it is not known, and nothing goes
            let lock = |left: Apart| lock_exclusively(left.into()).is_ok();
            if let Some(output) = kept_beside(name, left)
                && folder.open_for_writing(left).is_ok_and(lock)
            {
                remove_left(folder, left, output, file)?;
            }
        }
        Ok(())
    }

    /// It has all of its content, durably: a file gets its name.
    pub(in crate::operation) fn publish(&mut self) -> Result<()> {
        match self {
            Output::Device(_) | Output::Image(_) => Ok(()),
            Output::File(new) => new.publish(),
        }
    }

    /// Takes the name away that a new file has got.
    pub(super) fn retract(&self) -> Result<()> {
        match self {
            Output::Device(_) | Output::Image(_) => Ok(()),
            Output::File(NewFile { folder, file, name, .. }) => folder.remove_file(file, name),
        }
    }

    /// What was made stays, even without its name.
    pub(in crate::operation) fn leave(&mut self) {
        if let Output::File(new) = self {
            new.beside = None;
        }
    }

    /// Takes back what was made. What a device held is lost.
    pub(in crate::operation) fn discard(self) -> Result<()> {
        match self {
            Output::Device(_) | Output::Image(_) => Ok(()),
            Output::File(mut new) => new.remove(),
        }
    }
}

fn refused(path: &Path, why: &str) -> Error {
    Error::invalid("output.path", format!("'{}' {why}", path.display()))
}

/// The path without symbolic links, and what is there. Root's links alone are followed: another's may lead to any volume.
pub(in crate::operation) fn resolve(path: &Path) -> Result<(PathBuf, Option<Metadata>)> {
    let io = |error| Error::io(STEP, path, error);
    let not_roots = || refused(path, "is reached by a link that root has not made");
    match image_file::resolve(path) {
        Ok(found) => found.map(|(real, metadata)| (real, Some(metadata))).ok_or_else(not_roots),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if fs::symlink_metadata(path).is_ok() {
                return Err(refused(path, "is a link that leads nowhere"));
            }
            let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(refused(path, "is no file's name"));
            };
            let (folder, _) = image_file::resolve(folder).map_err(io)?.ok_or_else(not_roots)?;
            Ok((folder.join(name), None))
        }
        Err(error) => Err(io(error)),
    }
}

/// Where a repository's restore points are, by the numbers of its folders: whoever compares them asks the repository nothing.
#[derive(Debug, Clone, Copy)]
pub(in crate::operation) struct Points {
    root: (u64, u64),
    instance: (u64, u64),
}

impl Points {
    pub(in crate::operation) fn of(root: &Folder, instance: &Folder) -> Result<Points> {
        let id = |folder: &Folder| {
            let stat = rustix::fs::fstat(folder).map_err(|e| Error::io(STEP, &folder.path, e))?;
            Ok((stat.st_dev, stat.st_ino))
        };
        Ok(Points { root: id(root)?, instance: id(instance)? })
    }

    /// Restore points lie two folders deep; nothing else is put there, nor anywhere below the instance's folder.
    fn refuse(&self, path: &Path) -> Result<()> {
        for (depth, folder) in path.ancestors().skip(1).enumerate() {
            let metadata = fs::metadata(folder).map_err(|e| Error::io(STEP, folder, e))?;
            let this = (metadata.dev(), metadata.ino());
            if this == self.instance || this == self.root && depth > 1 {
                return Err(refused(path, "lies where the repository's restore points are"));
            }
        }
        Ok(())
    }
}

fn open_device(path: &Path, raw: bool, size: u64) -> Result<InUse> {
    if !raw {
        return Err(refused(path, "is a block device, which takes the format 'raw' only"));
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(refused(path, "is no device's name"));
    };
    // exclusive: not mounted, and part of nothing
    let flags = OFlags::RDWR | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(&Folder::open_without_links(parent)?, name, flags, Mode::empty());
    let file = File::from(opened.map_err(|error| match error {
        Errno::BUSY => Error::new(Code::Busy, STEP, format!("'{}' is in use", path.display())),
        error => Error::io(STEP, path, io::Error::from(error)),
    })?);
    if !file.metadata().map_err(|e| Error::io(STEP, path, e))?.file_type().is_block_device() {
        return Err(refused(path, "is no block device any more"));
    }
    let length = crate::qcow2::Source::length(&file).map_err(|e| Error::io(STEP, path, e))?;
    if length < size {
        return Err(refused(path, &format!("has {length} bytes, the disk {size}")));
    }
    InUse::take(file, path)
}

impl InUse {
    /// `DOMAIN_STATE` when a guest, or a tool of QEMU, has it open.
    pub(in crate::operation) fn take(file: File, path: &Path) -> Result<InUse> {
        let io = |error| Error::io(STEP, path, error);
        for permission in PERMISSIONS {
            sys::share_byte(&file, DOES + permission).map_err(io)?;
            sys::share_byte(&file, FORBIDS + permission).map_err(io)?;
        }
        let is_held = || -> io::Result<bool> {
            let bytes = PERMISSIONS.iter().flat_map(|permission| [DOES + permission, FORBIDS + permission]);
            bytes.map(|byte| sys::byte_is_locked(&file, byte)).try_fold(false, |held, byte| Ok(held || byte?))
        };
        // what an earlier call had open, a program that is just being started has for a moment, too
        let mut tries = 0;
        while is_held().map_err(io)? {
            if tries == HELD_TRIES {
                let cause = format!("'{}' is in use: does the guest run?", path.display());
                return Err(Error::new(Code::DomainState, STEP, cause));
            }
            tries += 1;
            thread::sleep(HELD_PAUSE);
        }
        Ok(InUse { file, path: path.to_owned() })
    }
}

impl NewFile {
    fn make(path: &Path, old: Option<Metadata>) -> Result<NewFile> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            return Err(refused(path, "is no file's name"));
        };
        let folder = Folder::open_without_links(parent)?;
        let old = old.map(|_| InUse::take(folder.open_file_in(name)?, path)).transpose()?;
        let beside = format!("{}-{}", beside(name), &Manifest::new_point_id()?[..ID]);
        let file = folder.create_file(&beside, FILE_MODE)?;
        let mut new = NewFile { folder, name: name.to_owned(), beside: Some(beside), file, old, lock: None };
        new.keep_others_out()?;
        Ok(new)
    }

    /// Removes what calls that were killed have left. `BUSY` while another call writes for that name; of two that begin at
    /// once it may be neither.
    fn keep_others_out(&mut self) -> Result<()> {
        let NewFile { folder, name, beside: Some(own), file, .. } = self else { return Ok(()) };
        let path = folder.path.join(&*name);
        let busy = |by: &str| {
            let by = folder.path.join(by);
            let cause = format!("another call writes '{}': '{}' is locked", path.display(), by.display());
            Error::new(Code::Busy, STEP, cause)
        };
        // whoever writes it holds the lock, too, and no drop takes that away
        let (Locked::InRepository(lock) | Locked::OnHost(lock)) =
            lock_file(folder, &beside(name), AnyFile::from(file.clone()), lock_exclusively)?.map_err(|error| {
                match error {
                    Errno::WOULDBLOCK => busy(own),
                    error => Error::io(STEP, &path, called("flock")(error.into())),
                }
            })?;
        self.lock = Some(lock);
        let left = folder.names_that(|left| left.to_str().is_some_and(|left| left != own && is_beside(name, left)))?;
        for left in left.iter().filter_map(|left| left.to_str()) {
            if !remove_left(folder, left, name, file)? {
                return Err(busy(left));
            }
        }
        // another call may have taken it for one that was left, before it was locked
        folder.check_is(STEP, &*own, file).map_err(|_| busy(own))?;
        self.forget_kept()
    }

    /// Takes the names away that a killed call was to keep what it replaces under: it was not replaced.
    fn forget_kept(&self) -> Result<()> {
        let NewFile { folder, name, old: Some(old), .. } = self else { return Ok(()) };
        let links = rustix::fs::fstat(&old.file).map_err(|e| Error::io(STEP, &old.path, e))?.st_nlink;
        if links < 2 {
            return Ok(());
        }
        let all = folder.names_that(|other| other.to_str().is_some_and(|other| is_kept(name, other)))?;
        for left in all.iter().filter_map(|left| left.to_str()) {
            if folder.check_is(STEP, left, &old.file).is_ok() {
                log::info!("removing '{}', another name of the volume", folder.path.join(left).display());
                folder.remove_file(&old.file, left)?;
            }
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        let path = self.folder.path.join(&self.name);
        let io = |error| Error::io(PUBLISH, &path, error);
        if let Some(InUse { file, path: old }) = &self.old {
            // whoever may read or write the volume may do so afterwards
            let stat = rustix::fs::fstat(file).map_err(|e| Error::io(PUBLISH, old, e))?;
            let (owner, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            let owned = self.file.with(|file| rustix::fs::fchown(file, Some(owner), Some(group)));
            settle(&self.folder, "chown", owned).map_err(|e| io(e.into()))?;
            let moded = self.file.with(|file| rustix::fs::fchmod(file, Mode::from_raw_mode(stat.st_mode & 0o777)));
            settle(&self.folder, "chmod", moded).map_err(|e| io(e.into()))?;
        }
        self.file.sync_all().map_err(|e| io(called("fsync")(e)))
    }

    fn publish(&mut self) -> Result<()> {
        steps::at("give an output its name");
        let Some(beside) = &self.beside else { return Ok(()) };
        if let Some(old) = &self.old {
            self.folder.check_is(PUBLISH, &self.name, &old.file)?;
            self.folder.replace(&self.file, beside, &self.name)?;
        } else {
            self.folder.name_beside_others(&self.file, beside, &self.name)?;
        }
        self.beside = None;
        self.folder.sync()
    }

    fn remove(&mut self) -> Result<()> {
        match self.beside.take() {
            Some(beside) => self.folder.remove_file(&self.file, &beside),
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
fn settle(folder: &Folder, what: &'static str, set: rustix::io::Result<()>) -> rustix::io::Result<()> {
    set.or_else(|error| {
        if !lacking::is_unsettable(error) {
            return Err(error);
        }
        lacking::tell(Level::Info, folder, what, error, "what is made there has the rights that the server gives it");
        Ok(())
    })
}

/// How the names of the partial outputs of `name` begin.
fn beside(name: &str) -> String {
    format!(".{name}.nasbackup")
}

/// How the names begin that what had the name `name` is kept under.
fn kept(name: &str) -> String {
    format!("{name}.kept-")
}

fn is_kept(name: &str, other: &str) -> bool {
    other.strip_prefix(&kept(name)).is_some_and(is_id)
}

/// The name under which what is called `name` is kept, by that of a partial output of it.
fn kept_beside<'a>(name: &str, left: &'a str) -> Option<&'a str> {
    let (output, _) = left.strip_prefix('.')?.rsplit_once(".nasbackup")?;
    (is_kept(name, output) && is_beside(output, left)).then_some(output)
}

fn is_id(end: &str) -> bool {
    end.len() == ID && end.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Is it the name of a partial output of `name`, of this version or of older ones, which had no end?
pub(in crate::operation) fn is_beside(name: &str, other: &str) -> bool {
    let end = other.strip_prefix(&beside(name));
    end.is_some_and(|end| end.is_empty() || end.strip_prefix('-').is_some_and(is_id))
}

fn lock_exclusively(file: AnyFile) -> rustix::io::Result<AnyFile> {
    host::lock(&file, FlockOperation::NonBlockingLockExclusive).map(|()| file)
}

/// Keeps calls out that write for a name.
pub(in crate::operation) type Lock = AnyFile;

/// Locks `file`, a whole output of the name `name` that a call has left; `BUSY` while that one lives.
pub(in crate::operation) fn lock_left(folder: &Folder, name: &str, file: &File) -> Result<Option<Lock>> {
    let path = folder.path.join(name);
    let once_more = file.try_clone().map_err(|e| Error::io(STEP, &path, e))?;
    match lock_file(folder, &beside(name), once_more.into(), lock_exclusively)? {
        Ok(Locked::InRepository(lock) | Locked::OnHost(lock)) => Ok(Some(lock)),
        Err(Errno::WOULDBLOCK) => {
            Err(Error::new(Code::Busy, STEP, format!("another call gives '{}' its name", path.display())))
        }
        Err(error) => Err(Error::io(STEP, &path, called("flock")(error.into()))),
    }
}

/// Does the file belong to whom what we make in the folder belongs to?
pub(in crate::operation) fn is_owned_by_us(folder: &Folder, file: &impl Descriptor) -> Result<bool> {
    let probe = format!(".nasbackup-{}", Manifest::new_point_id()?);
    let ours = folder.create_file(&probe, FILE_MODE)?;
    folder.remove_file(&ours, &probe)?;
    Ok(owner(folder, file)? == owner(folder, &ours)?)
}

fn owner(folder: &Folder, file: &impl Descriptor) -> Result<u32> {
    file.stat().map(|stat| stat.st_uid).map_err(|e| Error::io(STEP, &folder.path, e))
}

/// Removes what a call that was killed has left under this name; false while a call that lives writes it. What is no file of
/// the owner of `ours`, or has another name, too, that is not the `output`'s, somebody else has put there: it is left alone,
/// and never written to.
fn remove_left(folder: &Folder, name: &str, output: &str, ours: &Apart) -> Result<bool> {
    let leave = |why: &dyn std::fmt::Display| {
        log::warn!("'{}' is none of ours and is left alone: {why}", folder.path.join(name).display());
        Ok(true)
    };
    // it has got its name, and was to lose this one
    if let Ok(published) = folder.open_file_in(output)
        && folder.check_is(STEP, name, &published).is_ok()
    {
        return folder.remove_file(&published, name).map(|()| true);
    }
    let left = match folder.open_for_writing(name) {
        Err(error) if error.code == Code::NotFound => return Ok(true),
        Err(error) => return leave(&error),
        Ok(left) => left,
    };
    // one that was about to get its name has the rights of what it replaces already
    let of_the_old = folder.open_file_in(output).and_then(|old| owner(folder, &old)).ok();
    let left_by = owner(folder, &left)?;
    if left_by != owner(folder, ours)? && Some(left_by) != of_the_old {
        return leave(&"another user owns it");
    }
    match lock_exclusively(left.clone().into()) {
        Err(Errno::WOULDBLOCK) => return Ok(false),
        // where there is no flock, this host's is held by now
        Err(error) if !lacking::is_unknown(error) && error != Errno::NOLCK => return leave(&error),
        _ => {}
    }
    log::info!("removing '{}', left by a call that was killed", folder.path.join(name).display());
    folder.remove_file(&left, name).map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qcow2::Storage;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

    use rustix::fs::{CWD, RenameFlags, renameat_with};

    const TEXT: &str = "somebody else's";

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn make(path: &Path) -> Result<NewFile> {
        NewFile::make(path, fs::metadata(path).ok())
    }

    fn write(path: &Path) -> Result<()> {
        let mut new = make(path)?;
        new.file.write_at(b"flattened", 0).unwrap();
        new.settle()?;
        new.publish()
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn what_somebody_has_planted_beside_the_name_is_neither_written_nor_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("x"), dir.path().join("victim"));
        fs::write(&victim, TEXT).unwrap();
        let planted = [".x.nasbackup", ".x.nasbackup-0123456789abcdef"].map(|name| dir.path().join(name));
        type Plant = (&'static str, fn(&Path, &Path));
        let plants: [Plant; 4] = [
            ("a second name of another image", |victim, at| fs::hard_link(victim, at).unwrap()),
            ("a link to another image", |victim, at| symlink(victim, at).unwrap()),
            ("a file that everybody may write", |_, at| {
                fs::write(at, TEXT).unwrap();
                fs::set_permissions(at, fs::Permissions::from_mode(0o666)).unwrap();
                chown(at, Some(65534), Some(65534)).unwrap();
            }),
            ("a folder", |_, at| fs::create_dir(at).unwrap()),
        ];
        for (what, plant) in plants {
            for at in &planted {
                plant(&victim, at);
            }
            for _ in 0..2 {
                write(&path).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(fs::read(&path).unwrap(), b"flattened", "{what}");
                let metadata = fs::metadata(&path).unwrap();
                assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o600, 0), "{what}");
            }
            assert_eq!(fs::read(&victim).unwrap(), TEXT.as_bytes(), "{what}");
            fs::remove_file(&path).unwrap();
            assert_eq!(names(dir.path()).len(), 3, "{what}");
            for at in &planted {
                fs::remove_file(at).or_else(|_| fs::remove_dir(at)).unwrap();
            }
        }
    }

    #[test]
    fn what_a_killed_call_has_left_goes_and_what_a_living_one_writes_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let others = [".x.nasbackup-y.nasbackup-0123456789abcdef", ".x.nasbackup.old", ".y.nasbackup"];
        for name in [".x.nasbackup", ".x.nasbackup-0123456789abcdef"].into_iter().chain(others) {
            fs::write(dir.path().join(name), TEXT).unwrap();
        }
        let living = make(&path).unwrap();
        let mut left = [&[living.beside.as_deref().unwrap()][..], &others].concat();
        left.sort_unstable();
        assert_eq!(names(dir.path()), left);
        assert_eq!(make(&path).unwrap_err().code, Code::Busy);
        assert_eq!(names(dir.path()), left);
        drop(living);
        write(&path).unwrap();
        assert_eq!(names(dir.path()).len(), 4);
    }

    #[test]
    fn a_file_that_looks_as_if_a_call_wrote_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let planted = dir.path().join(".x.nasbackup-0123456789abcdef");
        fs::write(&planted, TEXT).unwrap();
        let _lock = lock_exclusively(File::open(&planted).unwrap().into()).unwrap();
        let error = write(&dir.path().join("x")).unwrap_err();
        assert!(error.code == Code::Busy && error.cause.contains(planted.to_str().unwrap()), "{error}");
        assert_eq!(fs::read(&planted).unwrap(), TEXT.as_bytes());
    }

    #[test]
    fn a_call_that_was_killed_between_its_two_names_leaves_no_second_one_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write(&path).unwrap();
        fs::hard_link(&path, dir.path().join(".x.nasbackup-0123456789abcdef")).unwrap();
        write(&path).unwrap();
        assert_eq!((names(dir.path()), fs::read(&path).unwrap()), (vec!["x".to_owned()], b"flattened".to_vec()));
    }

    #[test]
    fn the_rights_of_the_volume_are_taken_over_but_for_those_of_a_program() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, TEXT).unwrap();
        chown(&path, Some(65534), Some(65534)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6640)).unwrap();
        write(&path).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o640, 65534, 65534));
    }

    /// A pool's folder belongs to others, too.
    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn no_link_that_root_has_not_made_leads_to_an_output() {
        use std::os::unix::fs::lchown;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["pool", "host"] {
            fs::create_dir(at(folder)).unwrap();
        }
        fs::write(at("host/victim"), TEXT).unwrap();
        symlink(at("host/victim"), at("pool/volume")).unwrap();
        symlink("../host", at("pool/folder")).unwrap();
        let paths = ["pool/volume", "pool/folder/victim", "pool/folder/new"].map(at);
        let real = ["host/victim", "host/victim", "host/new"].map(at);
        for (path, real) in paths.iter().zip(real) {
            assert_eq!(resolve(path).unwrap().0, real.canonicalize().unwrap_or(real));
        }
        for link in ["pool/volume", "pool/folder"] {
            lchown(at(link), Some(65534), Some(65534)).unwrap();
        }
        let folder = Folder::open_root(dir.path()).unwrap();
        let points = Points::of(&folder, &folder).unwrap();
        for path in paths {
            let error = Output::open(path.to_str().unwrap(), true, 4, &points).unwrap_err();
            assert!(error.code == Code::InvalidArgument && error.cause.contains("root has not made"), "{error}");
            assert_eq!(fs::read(at("host/victim")).unwrap(), TEXT.as_bytes());
        }
        // nor one that is made when the path was looked up
        let real = at("pool/a/volume");
        symlink(at("host"), at("pool/a")).unwrap();
        assert!(NewFile::make(&real, None).is_err() && open_device(&real, true, 4).is_err());
        assert_eq!(names(&at("host")), ["victim"]);
    }

    /// Whoever may write to the folder gives the partial output's name to another image, all the time.
    #[test]
    fn however_names_are_exchanged_nothing_else_is_written_to() {
        let (dir, outside) = (tempfile::tempdir_in("/dev/shm").unwrap(), tempfile::tempdir().unwrap());
        let victims = [dir.path().join("victim"), outside.path().join("victim")];
        victims.iter().for_each(|victim| fs::write(victim, TEXT).unwrap());
        let (path, done) = (dir.path().join("x"), AtomicBool::new(false));
        let exchange = || {
            let planted = dir.path().join("planted");
            for name in names(dir.path()).iter().filter(|name| is_beside("x", name)) {
                _ = symlink(&victims[1], &planted);
                _ = fs::rename(&planted, dir.path().join(name));
                _ = fs::hard_link(&victims[0], &planted);
                _ = fs::rename(&planted, dir.path().join(name));
                _ = fs::remove_file(dir.path().join(name));
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    exchange()
                }
            });
            for _ in 0..1_000 {
                if write(&path).is_ok() {
                    assert_eq!(fs::read(&path).unwrap(), b"flattened");
                }
                fs::remove_file(&path).ok();
            }
            done.store(true, Relaxed);
        });
        for victim in victims {
            assert_eq!(fs::read(victim).unwrap(), TEXT.as_bytes());
        }
    }

    /// The partial output is exchanged for a link to another image, and back, while it gets its name.
    #[test]
    fn however_names_are_exchanged_the_name_becomes_that_of_nothing_else() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let [path, victim, planted] = ["x", "victim", "planted"].map(|name| dir.path().join(name));
        fs::write(&victim, TEXT).unwrap();
        symlink(&victim, &planted).unwrap();
        let published = AtomicUsize::new(0);
        for _ in 0..1_000 {
            let mut new = make(&path).unwrap();
            new.file.write_at(b"flattened", 0).unwrap();
            let (beside, begun, done) =
                (dir.path().join(new.beside.as_ref().unwrap()), AtomicBool::new(false), AtomicBool::new(false));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !done.load(Relaxed) {
                        _ = renameat_with(CWD, &beside, CWD, &planted, RenameFlags::EXCHANGE);
                        begun.store(true, Relaxed);
                    }
                });
                while !begun.load(Relaxed) {
                    std::hint::spin_loop();
                }
                published.fetch_add(usize::from(new.publish().is_ok()), Relaxed);
                done.store(true, Relaxed);
            });
            // whatever was told, what has the name is the output
            if path.symlink_metadata().is_ok() {
                assert!(path.symlink_metadata().unwrap().is_file(), "a link has got the name");
                fs::remove_file(&path).unwrap();
            }
            drop(new);
            for left in [&beside, &planted] {
                fs::remove_file(left).ok();
            }
            symlink(&victim, &planted).unwrap();
        }
        assert!(published.load(Relaxed) > 0);
        assert_eq!(fs::read(&victim).unwrap(), TEXT.as_bytes());
    }

    /// A call lasts hours: a volume may be deleted meanwhile and made anew, and a guest run on it.
    #[test]
    fn a_volume_that_was_exchanged_or_deleted_since_is_not_replaced() {
        let (nas, pool) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = Folder::open_root(nas.path()).unwrap();
        let points = Points::of(&root, &root).unwrap();
        for another in [true, false] {
            let path = pool.path().join("v");
            fs::write(&path, "as it was").unwrap();
            let mut output = Output::open(path.to_str().unwrap(), true, 512, &points).unwrap();
            output.settle().unwrap();
            fs::remove_file(&path).unwrap();
            if another {
                fs::write(&path, TEXT).unwrap();
            }
            let published = output.publish();
            assert!(published.is_err(), "another: {another}");
            assert_eq!(fs::read(&path).ok(), another.then(|| TEXT.as_bytes().to_vec()), "another: {another}");
            drop(output);
            fs::remove_file(&path).ok();
        }
    }
}
