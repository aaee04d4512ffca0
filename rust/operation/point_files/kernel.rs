//! A guest's file system, mounted by the host's own kernel: where libguestfs is not installed. Its drivers trust what they read
//! more than an appliance does, so the list of them is short, and their options are such that nothing is written or repaired.

use std::fs::File;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use super::partitions::Extent;
use crate::error::{Code, Error, Result};
use crate::sys::LoopDevice;

const STEP: &str = "mount the guest's file system";
/// Types, the driver of each and its options. btrfs is none of them: the kernel keeps a list of its devices by what they say of
/// themselves, and may take a guest's for the host's own.
const DRIVERS: [(&str, &str, &std::ffi::CStr); 5] = [
    // what the superblock has the kernel do at an error may be a panic
    ("ext2", "ext4", c"noload,errors=continue"),
    ("ext3", "ext4", c"noload,errors=continue"),
    ("ext4", "ext4", c"noload,errors=continue"),
    ("xfs", "xfs", c"norecovery,nouuid"),
    ("vfat", "vfat", c""),
];

pub(super) fn reads(kind: &str) -> bool {
    DRIVERS.iter().any(|driver| driver.0 == kind)
}

/// Mounts a partition of a disk. What it is mounted from goes with the result and the mount.
pub(super) fn mount_extent(disk: &Path, extent: &Extent, kind: &str, at: &Path) -> Result<LoopDevice> {
    let driver = DRIVERS.iter().find(|driver| driver.0 == kind);
    let (_, driver, options) = driver.ok_or_else(|| Error::new(Code::UnsupportedImage, STEP, kind))?;
    let file = File::open(disk).map_err(|e| Error::io(STEP, disk, e))?;
    let device = LoopDevice::of(&file, extent.start, extent.length).map_err(|e| {
        Error::new(Code::MountFailed, STEP, format!("a loop device: {e}; libguestfs (guestfish) does without"))
    })?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    match mount(device.path(), at, *driver, flags, *options) {
        Ok(()) => Ok(device),
        Err(Errno::NODEV) => {
            let cause = format!("this host's kernel has no {driver}; libguestfs (guestfish) has its own");
            Err(Error::new(Code::UnsupportedImage, STEP, cause))
        }
        Err(error) => Err(Error::new(Code::CorruptImage, STEP, format!("the {kind} can't be mounted: {error}"))),
    }
}
