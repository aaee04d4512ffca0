//! The folder that a point is mounted in: each disk is a file system of one file there. Its lock tells whether somebody holds
//! the mounts, for the kernel keeps those of a process that was killed.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::error::{Code, Error, Result};
use crate::host::Flock;
use crate::nas::folder::Folder;
use crate::{limits, mountinfo};

pub(in crate::operation) const STEP: &str = "mount the point";
const UNMOUNT: &str = "unmount the point";
/// The type of the mounts, by which they are known again.
const TYPE: &str = "fuse.nasbackup";
/// How the names of the files end.
const END: &str = ".raw";
/// Flags of the mounts, of which those that are given to a reader get read-only then.
const HELD: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
/// Their mode below the mounts.
const MODE: u32 = 0o400;

/// The folder, locked.
#[derive(Debug)]
pub(in crate::operation) struct Place {
    folder: Folder,
    _lock: Flock,
    /// The user and group that may read the files beside root.
    reader: Option<(u32, u32)>,
}

impl Place {
    /// Locks the folder, which has to be empty but for what a killed holder has left there: that is cleared. `BUSY` when a
    /// point is mounted there.
    pub(in crate::operation) fn take(path: &Path) -> Result<Place> {
        let folder = open(STEP, path)?;
        let busy = || Error::new(Code::Busy, STEP, format!("a point is mounted in '{}'", folder.path.display()));
        let lock = lock(STEP, &folder)?.ok_or_else(busy)?;
        clear(&folder)?;
        if let Some(name) = folder.first_names(1, |_| true)?.0.first() {
            let cause = format!("'{}' is to be empty, and holds '{}'", folder.path.display(), name.display());
            return Err(Error::new(Code::AlreadyExists, STEP, cause));
        }
        Ok(Place { folder, _lock: lock, reader: None })
    }

    /// The same, whose files this user and group may read, too.
    pub(in crate::operation) fn read_by(self, reader: Option<(u32, u32)>) -> Place {
        Place { reader, ..self }
    }

    /// Is any file of the folder still mounted?
    pub(super) fn has_mounts(&self) -> Result<bool> {
        Ok(!mounts(STEP, &self.folder)?.is_empty())
    }

    /// Mounts a file that is served through the device, for a disk of this volume.
    pub(super) fn mount(&self, volume: &str) -> Result<(MountedFile, FuseDevice)> {
        let name = format!("{volume}{END}");
        let path = self.folder.path.join(&name);
        let io = |e: std::io::Error| Error::io(STEP, &path, e);
        if volume.contains('/') {
            return Err(Error::new(Code::CorruptImage, STEP, format!("'{volume}' can't be a file's name")));
        }
        let device = File::options().read(true).write(true).open("/dev/fuse").map_err(|e| {
            let help = "it comes with the kernel's module fuse: 'modprobe fuse'";
            Error::new(Code::MountFailed, STEP, format!("/dev/fuse: {e}; {help}"))
        })?;
        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let below = rustix::fs::openat(&self.folder, &name, flags, Mode::from_raw_mode(MODE));
        let below = below.map_err(|e| io(e.into()))?;
        let (folder, reader) = (self.folder.open_again()?, self.reader);
        let file = MountedFile { folder, name, path: path.clone(), reader };
        let options = format!(
            "fd={},rootmode=100000,user_id=0,group_id=0,default_permissions{}",
            device.as_raw_fd(), // read by the kernel in this call
            if reader.is_some() { ",allow_other" } else { "" }
        );
        let at = format!("/proc/thread-self/fd/{}", below.as_raw_fd());
        let flags = if reader.is_some() { HELD } else { HELD | MountFlags::RDONLY };
        let options = std::ffi::CString::new(options).map_err(|e| io(e.into()))?;
        rustix::mount::mount("nasbackup", at, TYPE, flags, options.as_c_str())
            .map_err(|e| Error::new(Code::MountFailed, STEP, format!("'{}': {e}", path.display())))?;
        Ok((file, FuseDevice { device, below: below.into() }))
    }
}

/// What a server of a mounted file needs.
pub(super) struct FuseDevice {
    /// What it serves the file through. When the last duplicate is closed, whoever reads the file gets an error.
    pub(super) device: File,
    /// The empty file that is mounted over.
    pub(super) below: File,
}

/// A file that is mounted, or was. Its drop unmounts it, also from those who have it open, and removes what is below.
#[derive(Debug)]
pub(super) struct MountedFile {
    folder: Folder,
    name: String,
    /// Its path on the host.
    pub(in crate::operation) path: PathBuf,
    reader: Option<(u32, u32)>,
}

impl MountedFile {
    /// Gives the file, once it is served, to its reader, if it has one. Only its server knows that owner: nothing of the point changes.
    pub(super) fn hand_over(&self) -> Result<()> {
        let Some((user, group)) = self.reader else { return Ok(()) };
        let io = |e: Errno| Error::io(STEP, &self.path, e);
        rustix::fs::chown(&self.path, Some(Uid::from_raw(user)), Some(Gid::from_raw(group))).map_err(io)?;
        rustix::mount::mount_remount(&self.path, MountFlags::BIND | MountFlags::RDONLY | HELD, c"").map_err(io)
    }
}

/// Unmounts the file, and ends what its users wait for, also where its server can't end, as it waits for a NAS itself.
pub(in crate::operation) fn take_away(path: &Path) {
    match rustix::mount::unmount(path, UnmountFlags::FORCE | UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // it was unmounted by somebody, or never mounted
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(error) => log::warn!("unable to unmount '{}': {error}", path.display()),
    }
}

impl Drop for MountedFile {
    fn drop(&mut self) {
        take_away(&self.path);
        if let Err(error) = rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty())
            && error != Errno::NOENT
        {
            log::warn!("unable to remove '{}': {error}", self.path.display());
        }
    }
}

/// Unmounts what is mounted in the folder, and waits until its holder, if that lives, has given back what it locks. `BUSY`
/// when a file is in use, `NOT_FOUND` when nothing is mounted.
pub fn unmount(path: &Path) -> Result<()> {
    let folder = open(UNMOUNT, path)?;
    let points = mounts(UNMOUNT, &folder)?;
    for point in &points {
        detach(point, UnmountFlags::empty())?;
    }
    let until = Instant::now() + limits::STORAGE_STEP;
    let _lock = loop {
        match lock(UNMOUNT, &folder)? {
            Some(lock) => break lock,
            None if Instant::now() < until => thread::sleep(limits::TOOL_LOOK),
            None => return Err(Error::new(Code::Timeout, UNMOUNT, "the process that has mounted it does not end")),
        }
    };
    if clear(&folder)? == 0 && points.is_empty() {
        let cause = format!("no point is mounted in '{}'", folder.path.display());
        return Err(Error::new(Code::NotFound, UNMOUNT, cause));
    }
    Ok(())
}

/// Unmounts what a holder that was killed has left in the folder, also from those who use it.
pub(in crate::operation) fn clear_left(path: &Path) -> Result<()> {
    let folder = open(UNMOUNT, path)?;
    let busy = || Error::new(Code::Busy, UNMOUNT, format!("a point is mounted in '{}'", folder.path.display()));
    let _lock = lock(UNMOUNT, &folder)?.ok_or_else(busy)?;
    clear(&folder).map(drop)
}

/// Opens the folder by the path that the kernel has of it.
fn open(step: &'static str, path: &Path) -> Result<Folder> {
    Folder::open_root(path.canonicalize().map_err(|e| Error::io(step, path, e))?)
}

/// None when somebody has it.
fn lock(step: &'static str, folder: &Folder) -> Result<Option<Flock>> {
    let fd: OwnedFd = folder.open_again()?.fd;
    // a lock of its own
    let file = crate::descriptor::open_again(&fd, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC);
    match file.and_then(Flock::take) {
        Ok(lock) => Ok(Some(lock)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(Error::io(step, &folder.path, error)),
    }
}

fn mounts(step: &'static str, folder: &Folder) -> Result<Vec<PathBuf>> {
    mountinfo::of_type_in(TYPE, &folder.path).map_err(|e| Error::io(step, &folder.path, e))
}

fn detach(point: &Path, flags: UnmountFlags) -> Result<()> {
    match rustix::mount::unmount(point, flags | UnmountFlags::NOFOLLOW) {
        // its holder was faster
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(Errno::BUSY) => Err(Error::new(Code::Busy, UNMOUNT, format!("'{}' is in use", point.display()))),
        Err(error) => Err(Error::io(UNMOUNT, point, error)),
    }
}

/// Unmounts and removes what a killed holder has left in the folder, which is locked; tells how much that was.
fn clear(folder: &Folder) -> Result<usize> {
    let points = mounts(UNMOUNT, folder)?;
    points.iter().try_for_each(|point| detach(point, UnmountFlags::DETACH))?;
    let mut cleared = points.len();
    for name in folder.names_that(|name| name.as_encoded_bytes().ends_with(END.as_bytes()))? {
        if is_ours(folder, &name)? {
            rustix::fs::unlinkat(folder, &*name, AtFlags::empty())
                .map_err(|e| Error::io(UNMOUNT, folder.path.join(&name), e))?;
            cleared += 1;
        }
    }
    Ok(cleared)
}

/// Is it an empty file of the mode that those below the mounts have?
fn is_ours(folder: &Folder, name: &OsStr) -> Result<bool> {
    let file = match folder.open_file_in(name) {
        Ok(file) => file,
        Err(_) => return Ok(false),
    };
    let found = file.metadata().map_err(|e| Error::io(UNMOUNT, folder.path.join(name), e))?;
    Ok(found.len() == 0 && found.mode() & 0o7777 == MODE)
}
