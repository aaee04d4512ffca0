//! The storage that a disk is written to.

use std::io;
use std::sync::Arc;

use crate::apart::{AnyFile, Apart, Descriptor};
use crate::operation::ceph::CephImage;
use crate::qcow2::{Direct, Source as _, Storage as _, Zeroing};

/// Bytes that are written between two syncs, so that the last sync is short enough to be waited for.
pub(super) const SYNC_EACH: u64 = 1 << 30;

/// The storage of one output. Several threads may write to it at once.
#[derive(Debug)]
pub(super) enum OutputTarget {
    /// A new file, in the second table of descriptors, or a block device.
    File(Direct<AnyFile>),
    /// An image in Ceph.
    Image(Arc<CephImage>),
}

impl OutputTarget {
    /// Length in bytes.
    pub(super) fn length(&self) -> io::Result<u64> {
        match self {
            OutputTarget::File(file) => file.length(),
            OutputTarget::Image(image) => Ok(image.size()),
        }
    }

    /// Fills all of the buffer, past the page cache, as `write` writes.
    pub(super) fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        match self {
            OutputTarget::File(file) => {
                let mut filled = 0;
                while filled < buffer.len() {
                    filled += match file.read_at(&mut buffer[filled..], at + filled as u64)? {
                        0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                        read => read,
                    };
                }
                Ok(())
            }
            OutputTarget::Image(image) => image.read(buffer, at),
        }
    }

    /// Writes the bytes, and returns how many of them went through the page cache: these need a sync later.
    pub(super) fn write(&self, bytes: &[u8], at: u64) -> io::Result<u64> {
        match self {
            OutputTarget::File(file) => file.write(bytes, at),
            OutputTarget::Image(image) => image.write(bytes, at).map(|()| 0),
        }
    }

    /// Makes the first of `length` bytes at `at` zero. Returns how many, never none, and whether zeroes were written to do so.
    pub(super) fn zero(&self, zeroing: &mut Zeroing, at: u64, length: u64) -> io::Result<(u64, bool)> {
        match self {
            OutputTarget::File(file) => file.file().with(|file| zeroing.make(file, at, length)),
            OutputTarget::Image(image) => Ok((image.zero(at, length)?, false)),
        }
    }

    /// Hints to the kernel that it should begin to write these bytes to the disk.
    pub(super) fn begin_writing(&self, from: u64, length: u64) -> io::Result<()> {
        match self {
            OutputTarget::File(file) => file.file().with(|file| file.begin_writing(from, length)),
            OutputTarget::Image(_) => Ok(()),
        }
    }

    /// Makes all that was written durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        match self {
            OutputTarget::File(file) => file.file().with(|file| file.sync()),
            OutputTarget::Image(image) => image.sync(),
        }
    }

    /// The new file, for operations that only files know; `None` of a device or an image in Ceph.
    pub(super) fn new_file(&self) -> Option<&Apart> {
        match self {
            OutputTarget::File(file) => match file.file() {
                AnyFile::SecondTable(file) => Some(file),
                AnyFile::FirstTable(_) => None,
            },
            OutputTarget::Image(_) => None,
        }
    }
}
