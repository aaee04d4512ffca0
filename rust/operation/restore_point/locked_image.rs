//! A volume under QEMU's image lock, so that no guest can open it while a restore replaces it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::output_path::{STEP, refused};
use crate::error::{Code, Error, Result};
use crate::nas::folder::Folder;
use crate::qemu::image_lock::WRITER;

/// A file or device that no guest can open meanwhile: this holds QEMU's image lock as a writer does.
#[derive(Debug)]
pub(super) struct LockedImage {
    pub(super) file: File,
    pub(super) path: PathBuf,
}

/// How often the library looks again whether somebody holds the volume.
const HELD_TRIES: u32 = 10;

impl LockedImage {
    /// Locks the file `file` at `path`. `DOMAIN_STATE` when a guest or a tool of QEMU has it open.
    pub(super) fn take(file: File, path: &Path) -> Result<LockedImage> {
        // a program that is just being started holds for a moment, too, what an earlier call had open
        if !WRITER.lock(&file, HELD_TRIES).map_err(|error| Error::io(STEP, path, error))? {
            let cause = format!("'{}' is in use: does the guest run?", path.display());
            return Err(Error::new(Code::DomainState, STEP, cause));
        }
        Ok(LockedImage { file, path: path.to_owned() })
    }

    /// Opens and locks the block device `path` for a disk of `size` bytes.
    pub(super) fn open_device(path: &Path, size: u64) -> Result<LockedImage> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(refused(path, "is no device's name"));
        };
        // EXCL refuses a device that is mounted, or that is part of another
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
        LockedImage::take(file, path)
    }
}
