//! Moves data from a file to a target. It shares blocks where both files can; else it lets the kernel or the server copy; else it reads
//! and writes.

use std::fs::File;
use std::io;
use std::ops::Range;

use log::Level;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::direct::{Buffer, Direct};
use super::holes;
use super::read_write::{Fault, copy};
use super::storage::Storage;
use crate::error::{called, errno};
use crate::fs_kind;
use crate::lacking;

/// Sharing works on blocks of the file system; all those that can share have blocks of 4 KiB, or refuse.
const BLOCK: u64 = 4096;
/// Bytes that one call shares at most, so that it ends soon.
const MOST_CLONED: u64 = 1 << 30;
/// Bytes that one call copies at most: a server answers it when they are durable, and knows nothing of a cancel until then.
const MOST_COPIED: u64 = 64 << 20;
/// The same where it reads and writes, which ends sooner when it is to.
const MOST_READ: u64 = 256 << 20;
/// Bytes that are copied before the kernel is told to write them. By itself it waits for many more, while the disk idles.
const WRITE_EACH: u64 = 16 << 20;

/// The best method that has not been refused yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum CopyMethod {
    ReadWrite,
    CopyRange,
    Clone,
}

/// The way from one file to the target.
#[derive(Debug)]
pub struct Route {
    method: CopyMethod,
    /// The source's file system tells where holes are, as far as it was asked.
    tells_holes: bool,
    length: u64,
    /// The source, to be read past the page cache, once it was read.
    past_cache: Option<Direct>,
    /// What a short run is read into.
    buffer: Buffer,
}

/// Notes what was written to a target, and tells when the kernel should begin to write it to the disk.
#[derive(Debug, Default)]
pub struct Writeback {
    span: Range<u64>,
    bytes: u64,
}

impl Writeback {
    /// `length` bytes at `at` are written.
    pub fn wrote<T: Storage>(&mut self, target: &T, at: u64, length: u64) {
        let Some(span) = self.note(at, length) else { return };
        // a write that fails here makes the sync fail, too
        if let Err(error) = target.begin_writing(span.start, span.end - span.start) {
            log::debug!("unable to start writeback, going on without: {error}");
        }
    }

    /// The part of the file in which enough is written to begin, with these `length` bytes at `at`.
    pub fn note(&mut self, at: u64, length: u64) -> Option<Range<u64>> {
        if self.bytes == 0 {
            self.span = at..at;
        }
        self.span = self.span.start.min(at)..self.span.end.max(at + length);
        self.bytes += length;
        (self.bytes >= WRITE_EACH).then(|| std::mem::take(self).span)
    }
}

/// Tries whether `target`, an empty file, can share blocks of `source`. The target is empty again afterwards.
pub fn shares(source: &File, target: &impl Storage) -> io::Result<bool> {
    let shares = target.clone_from(0, source, 0, BLOCK).is_ok();
    if shares {
        target.set_length(0)?;
    }
    Ok(shares)
}

/// Bytes that one step has moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// By sharing blocks.
    pub cloned: u64,
    /// By copying, or as holes.
    pub copied: u64,
}

/// What the kernel did by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It moved some.
    Moved(Moved),
    /// Nothing: so many bytes are to be read and written.
    Left(u64),
}

impl Route {
    /// The way from a file of that length.
    pub fn new(length: u64) -> Route {
        Route { method: CopyMethod::Clone, tells_holes: true, length, past_cache: None, buffer: Buffer::default() }
    }

    /// True if only reading and writing is left.
    pub fn is_read_write(&self) -> bool {
        self.method == CopyMethod::ReadWrite
    }

    /// Moves the first part of `length` bytes of `source` at `from`; never nothing. `fresh`: the target reads as zeroes
    /// there, so that holes need not be written. Writes nothing more once `goes_on`, which is asked between two writes, says no.
    pub fn step<T: Storage>(
        &mut self,
        target: &T,
        to: u64,
        (source, from): (&File, u64),
        (length, fresh): (u64, bool),
        goes_on: &mut dyn FnMut() -> bool,
    ) -> Result<Moved, Fault> {
        let left = match self.step_by_kernel(target, to, (source, from), length, fresh)? {
            Step::Moved(moved) => return Ok(moved),
            Step::Left(left) => left,
        };
        let source = match &self.past_cache {
            Some(source) => source,
            None => self.past_cache.insert(Direct::new(source.try_clone().map_err(|error| (true, error))?)),
        };
        let copied = copy(target, to, (source, from), left, &mut self.buffer, goes_on)?;
        Ok(Moved { cloned: 0, copied })
    }

    /// The same, as far as the kernel does it by itself, on a file system, or a server, that has both.
    pub fn step_by_kernel<T: Storage>(
        &mut self,
        target: &T,
        to: u64,
        (source, from): (&File, u64),
        length: u64,
        fresh: bool,
    ) -> Result<Step, Fault> {
        let of_target = |error| (false, error);
        let inside = self.length.saturating_sub(from).min(length);
        let whole = inside - inside % BLOCK;
        if self.method == CopyMethod::Clone && (to | from).is_multiple_of(BLOCK) && whole > 0 {
            let cloned = whole.min(MOST_CLONED);
            match target.clone_from(to, source, from, cloned) {
                Ok(()) => return Ok(Step::Moved(Moved { cloned, copied: 0 })),
                Err(error) => {
                    let copies = fs_kind::copies_by_itself(source);
                    let next = if copies { CopyMethod::CopyRange } else { CopyMethod::ReadWrite };
                    self.refused("FICLONERANGE", next, source, error).map_err(of_target)?;
                }
            }
        }
        let length = length.min(if self.is_read_write() { MOST_READ } else { MOST_COPIED });
        let hole = self.hole(source, from, length);
        if hole > 0 && fresh {
            return Ok(Step::Moved(Moved { cloned: 0, copied: hole }));
        }
        let data = if hole > 0 { hole } else { self.data(source, from, length) };
        if hole == 0 && self.method >= CopyMethod::CopyRange {
            match target.copy_from(to, source, from, data) {
                Ok(copied) if copied > 0 => return Ok(Step::Moved(Moved { cloned: 0, copied })),
                // a copy ends where the file ends, and some file systems copy nothing instead of refusing
                Ok(_) => self.method = CopyMethod::ReadWrite,
                Err(error) => {
                    self.refused("copy_file_range", CopyMethod::ReadWrite, source, error).map_err(of_target)?;
                }
            }
        }
        Ok(Step::Left(data))
    }

    /// Changes to the next way for good. Whatever the reason was, reading and writing succeed or show the fault. But where there is no
    /// space for shared blocks there is none for their copy, either.
    fn refused(&mut self, what: &'static str, next: CopyMethod, source: &File, error: io::Error) -> io::Result<()> {
        match errno(&error) {
            None => Err(error),
            Some(Errno::NOSPC | Errno::DQUOT | Errno::ROFS | Errno::INTR) => Err(called(what)(error)),
            Some(errno) => {
                if errno == Errno::XDEV {
                    log::debug!("{what} does not lead from one file system to another: {next:?}");
                } else {
                    lacking::tell(Level::Info, source, what, errno, "data are copied in another way");
                }
                // sharing is tried for aligned parts only, so a copy may have been refused before
                self.method = self.method.min(next);
                Ok(())
            }
        }
    }

    /// How many of the bytes at `from` are a hole; all beyond the end are. An error of the question, and there are file
    /// systems that answer with any, means data: reading them tells what is wrong.
    fn hole(&mut self, source: &File, from: u64, length: u64) -> u64 {
        match self.seek(source, SeekFrom::Data(from)) {
            Some(data) => data.saturating_sub(from).min(length),
            None => 0,
        }
    }

    /// How many bytes lie before the next hole; `from` is in none.
    fn data(&mut self, source: &File, from: u64, length: u64) -> u64 {
        match self.seek(source, SeekFrom::Hole(from)) {
            Some(hole) if hole > from => (hole - from).min(length),
            _ => length,
        }
    }

    fn seek(&mut self, source: &File, to: SeekFrom) -> Option<u64> {
        let found = if self.tells_holes { holes::seek(source, to) } else { None };
        self.tells_holes = found.is_some();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_begins_once_enough_is_written_wherever_it_lies() {
        let mut writeback = Writeback::default();
        let half = WRITE_EACH / 2;
        for (at, length, expected) in [
            (100 << 20, half - 1, None),
            (50 << 20, 1, None),
            (60 << 20, half, Some(50 << 20..(100 << 20) + half - 1)),
            (0, half, None),
            (half, half, Some(0..WRITE_EACH)),
            (4096, 2 * WRITE_EACH, Some(4096..4096 + 2 * WRITE_EACH)),
            (7, 0, None),
        ] {
            assert_eq!(writeback.note(at, length), expected, "{length} bytes at {at}");
        }
    }
}
