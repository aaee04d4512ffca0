//! QEMU's image lock (docs/system/qemu-block-drivers: "Disk image file locking"). The library takes the lock as a reader that
//! allows no writer before it reads a stopped guest's disk, so that the guest can't start meanwhile.
//!
//! A user of an image takes shared locks, one byte for each permission: on the bytes from 100 on for what it does, and on those
//! from 200 on for what it forbids to others.

use std::fs::File;

use crate::error::{Code, Error, Result};
use crate::sys;

const DOES: i64 = 100;
const FORBIDS: i64 = 200;
/// QEMU's permissions by bit: read consistently, write, write what changes nothing, resize.
const READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;

const STEP: &str = "lock the disk's image";

/// An image that nobody writes to as long as this lives.
#[derive(Debug)]
pub(crate) struct ImageLock {
    file: File,
}

impl ImageLock {
    /// Locks the image that is open as `file`. `DOMAIN_STATE` when somebody writes to it.
    pub(crate) fn take(file: File, path: &str) -> Result<ImageLock> {
        let io = |error| Error::io(STEP, path, error);
        for byte in [DOES + READ, FORBIDS + WRITE, FORBIDS + RESIZE] {
            sys::share_byte(&file, byte).map_err(io)?;
        }
        for byte in [DOES + WRITE, DOES + RESIZE, FORBIDS + READ] {
            if sys::byte_is_locked(&file, byte).map_err(io)? {
                return Err(Error::new(
                    Code::DomainState,
                    STEP,
                    format!("'{path}' is in use: has the guest been started?"),
                ));
            }
        }
        Ok(ImageLock { file })
    }

    /// The image, open for reading.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}
