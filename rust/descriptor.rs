//! What is open, by its descriptor.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, Statx, StatxFlags};
use rustix::io::Errno;

/// What a file is. Only what was asked for is to be relied on, and the device, the inode and the type always: an NFS client tells
/// those of what it has open, or has looked up, and asks the server only for what else is wanted and may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) kind: FileType,
    pub(crate) mode: u32,
    pub(crate) links: u64,
    pub(crate) blocks: u64,
}

impl Attributes {
    /// Of what is open.
    pub(crate) fn of(file: impl AsFd, wanted: StatxFlags) -> rustix::io::Result<Attributes> {
        Attributes::at(file, c"", AtFlags::EMPTY_PATH, wanted)
    }

    /// Of a name in a folder, and not of what a link of that name leads to.
    pub(crate) fn of_name(
        folder: impl AsFd,
        name: impl rustix::path::Arg,
        wanted: StatxFlags,
    ) -> rustix::io::Result<Attributes> {
        Attributes::at(folder, name, AtFlags::SYMLINK_NOFOLLOW, wanted)
    }

    /// The device and the inode: two names of which they are the same are names of one file.
    pub(crate) fn id(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// The bytes that it occupies, if `BLOCKS` was asked for; those of a regular file alone.
    pub(crate) fn occupied(&self) -> u64 {
        if self.kind.is_file() { self.blocks.saturating_mul(512) } else { 0 }
    }

    fn at(
        at: impl AsFd,
        name: impl rustix::path::Arg,
        how: AtFlags,
        wanted: StatxFlags,
    ) -> rustix::io::Result<Attributes> {
        let (at, name) = (at.as_fd(), name.into_c_str()?);
        match rustix::fs::statx(at, &*name, how, wanted | StatxFlags::TYPE | StatxFlags::INO) {
            Ok(told) => Ok(told.into()),
            // a filter that does not know the system call
            Err(Errno::NOSYS) => rustix::fs::statat(at, &*name, how).map(Attributes::from),
            Err(error) => Err(error),
        }
    }
}

impl From<Statx> for Attributes {
    fn from(told: Statx) -> Attributes {
        Attributes {
            device: rustix::fs::makedev(told.stx_dev_major, told.stx_dev_minor),
            inode: told.stx_ino,
            kind: FileType::from_raw_mode(u32::from(told.stx_mode)),
            mode: u32::from(told.stx_mode) & 0o7777,
            links: u64::from(told.stx_nlink),
            blocks: told.stx_blocks,
        }
    }
}

impl From<Stat> for Attributes {
    fn from(told: Stat) -> Attributes {
        Attributes {
            device: told.st_dev,
            inode: told.st_ino,
            kind: FileType::from_raw_mode(told.st_mode),
            mode: told.st_mode & 0o7777,
            links: told.st_nlink,
            blocks: u64::try_from(told.st_blocks).unwrap_or(0),
        }
    }
}

/// Opens what is open as `file` once more, with `flags` as open(2) takes them, by no name that anybody could exchange. It shares
/// neither locks nor position, and whoever opens it is asked for anew what it may.
pub(crate) fn open_again(file: impl AsFd, flags: OFlags) -> rustix::io::Result<File> {
    // of this thread: the process's first one may have ended
    let link = format!("/proc/thread-self/fd/{}", file.as_fd().as_raw_fd());
    rustix::fs::openat(CWD, link, flags | OFlags::CLOEXEC, Mode::empty()).map(File::from)
}
