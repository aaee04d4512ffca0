//! The storage of an image: a file, and in tests one that can be cut off at any write.

use std::fs::File;
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;

use rustix::fs::{Advice, FallocateFlags};

use super::{Error, corrupt};
use crate::apart::{Apart, Descriptor};
use crate::error::called;
use crate::sys;

/// Bytes that are read by position.
pub trait Source {
    /// As `pread`: how many bytes were read, 0 at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Length in bytes.
    fn length(&self) -> io::Result<u64>;

    /// Lets the kernel begin to read these bytes; no more than a hint.
    fn begin_reading(&self, _from: u64, _length: u64) {}
}

/// Storage that can be written to. Until `sync` returns, writes may reach the disk in any order.
pub trait Storage: Source + Send + Sync {
    /// Writes all of `data`, beyond the end too.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// The same with data that nobody reads soon: past the page cache, where that is possible.
    fn write_past_cache(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(data, offset)
    }

    /// Sets the length; new bytes read as zeroes.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Makes all that was written durable.
    fn sync(&self) -> io::Result<()>;

    /// Lets the kernel begin to write these bytes to the disk; no more than a hint.
    fn begin_writing(&self, _from: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }

    /// Gives the blocks of these bytes back, which nobody reads any more.
    fn give_back(&self, _from: u64, _length: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Lets `to` share the blocks of `length` bytes of `source` at `from` (FICLONERANGE).
    fn clone_from(&self, to: u64, source: &File, from: u64, length: u64) -> io::Result<()>;

    /// As `copy_file_range`: how many bytes were copied.
    fn copy_from(&self, to: u64, source: &File, from: u64, length: u64) -> io::Result<u64>;
}

impl Source for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset).map_err(called("read"))
    }

    /// By seeking: the metadata of a block device say 0. Reads give their own offset, so the position is nobody's.
    fn length(&self) -> io::Result<u64> {
        let mut file = self;
        file.seek(SeekFrom::End(0)).map_err(called("lseek"))
    }

    fn begin_reading(&self, from: u64, length: u64) {
        // what it is not begun for is read later
        _ = rustix::fs::fadvise(self, from, NonZeroU64::new(length), Advice::WillNeed);
    }
}

impl Storage for File {
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(data, offset).map_err(called("write"))
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.set_len(length).map_err(called("ftruncate"))
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data().map_err(called("fdatasync"))
    }

    fn begin_writing(&self, from: u64, length: u64) -> io::Result<()> {
        sys::begin_writeback(self, from, length)
    }

    fn give_back(&self, from: u64, length: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(self, flags, from, length).map_err(|error| called("fallocate")(error.into()))
    }

    fn clone_from(&self, to: u64, source: &File, from: u64, length: u64) -> io::Result<()> {
        sys::clone_range(self, to, source, from, length)
    }

    fn copy_from(&self, mut to: u64, source: &File, mut from: u64, length: u64) -> io::Result<u64> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let copied = rustix::fs::copy_file_range(source, Some(&mut from), self, Some(&mut to), length)?;
        Ok(copied as u64)
    }
}

impl Source for Apart {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|file| Source::read_at(file, buffer, offset))
    }

    fn length(&self) -> io::Result<u64> {
        self.with(Source::length)
    }

    fn begin_reading(&self, from: u64, length: u64) {
        self.with(|file| file.begin_reading(from, length));
    }
}

impl Storage for Apart {
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.with(|file| Storage::write_at(file, data, offset))
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.with(|file| file.set_length(length))
    }

    fn sync(&self) -> io::Result<()> {
        self.with(Storage::sync)
    }

    fn begin_writing(&self, from: u64, length: u64) -> io::Result<()> {
        self.with(|file| file.begin_writing(from, length))
    }

    fn give_back(&self, from: u64, length: u64) -> io::Result<()> {
        self.with(|file| file.give_back(from, length))
    }

    fn clone_from(&self, to: u64, source: &File, from: u64, length: u64) -> io::Result<()> {
        self.with_lent(source, |file, source| file.clone_from(to, source, from, length))
    }

    fn copy_from(&self, to: u64, source: &File, from: u64, length: u64) -> io::Result<u64> {
        self.with_lent(source, |file, source| file.copy_from(to, source, from, length))
    }
}

/// Fills the buffer from the start on; how many bytes there were.
pub(super) fn read_up_to(source: &dyn Source, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Fills the buffer; what lies beyond the end reads as zeroes.
pub(super) fn read_padded(source: &dyn Source, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let filled = read_up_to(source, buffer, offset)?;
    buffer[filled..].fill(0);
    Ok(())
}

/// Fills the buffer with a part of `what`, which must not end before.
pub(super) fn read_exact(source: &dyn Source, buffer: &mut [u8], offset: u64, what: &str) -> Result<(), Error> {
    if read_up_to(source, buffer, offset)? == buffer.len() {
        Ok(())
    } else {
        corrupt(format!("the file ends within the {what}, at {offset}"))
    }
}
