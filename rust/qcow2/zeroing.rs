//! Makes parts of a device zero.

use std::fs::File;
use std::io;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::storage::Storage;

/// Bytes that one call makes zero, at most.
const MOST: u64 = 256 << 20;
/// Ranges that the kernel makes zero have to be aligned to the device's blocks.
const BLOCK: u64 = 4096;
const BUFFER: u64 = 1 << 20;

/// The best way to make a device zero that has not been refused yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Zeroing {
    /// Given back to the device, which guarantees zeroes.
    #[default]
    Unmap,
    /// By the device, or the kernel.
    Zero,
    /// The library writes zeroes.
    Write,
}

impl Zeroing {
    /// Makes the first of `length` bytes at `at` zero. Returns how many, never none, and whether zeroes were written to do so.
    pub fn make(&mut self, target: &File, at: u64, length: u64) -> io::Result<(u64, bool)> {
        let length = length.min(MOST);
        let whole = if at.is_multiple_of(BLOCK) { length - length % BLOCK } else { 0 };
        let zeroed = if whole > 0 { self.zero_blocks(target, at, whole)? } else { 0 };
        if zeroed > 0 {
            return Ok((zeroed, false));
        }
        // up to where blocks begin, or what is left behind them
        let most = if whole > 0 { BUFFER } else { BLOCK - at % BLOCK };
        let buffer = vec![0; usize::try_from(length.min(most)).unwrap_or(0)];
        target.write_at(&buffer, at)?;
        Ok((buffer.len() as u64, true))
    }

    /// Lets the device make zeroes; `None` if it can't.
    fn zero_blocks(&mut self, target: &File, at: u64, length: u64) -> io::Result<u64> {
        loop {
            let (flags, next) = match self {
                Zeroing::Unmap => (FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, Zeroing::Zero),
                Zeroing::Zero => (FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, Zeroing::Write),
                Zeroing::Write => return Ok(0),
            };
            match rustix::fs::fallocate(target, flags, at, length) {
                Ok(()) => return Ok(length),
                Err(Errno::INTR) => {}
                // whatever the reason, writing zeroes succeeds or shows the fault
                Err(error) => {
                    log::debug!("the device refuses zeroing by {self:?}, going on by {next:?}: {error}");
                    *self = next;
                }
            }
        }
    }
}
