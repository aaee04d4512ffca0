//! Moving data from a file to a target: blocks are shared where both can, else copied within the kernel or on the
//! server, else read and written.

use std::fs::File;
use std::io;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::storage::{Storage, read_padded};

/// Sharing works on blocks of the file system; all those that can share have blocks of 4 KiB, or refuse.
const BLOCK: u64 = 4096;
/// One call shares no more, so that it ends in time.
const MOST_CLONED: u64 = 1 << 30;
/// One call copies no more.
const MOST_COPIED: u64 = 16 << 20;
const BUFFER: usize = 1 << 20;

/// The best way that has not been refused yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    ReadWrite,
    CopyRange,
    Clone,
}

/// The way from one file to the target.
#[derive(Debug)]
pub(super) struct Route {
    way: Way,
    length: u64,
}

/// The file is at fault, and not the target; with the error.
pub(super) type Fault = (bool, io::Error);

/// Bytes that one step has moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Moved {
    /// By sharing blocks.
    pub(super) cloned: u64,
    /// By copying, or as holes.
    pub(super) copied: u64,
}

impl Route {
    /// The way from a file of that length.
    pub(super) fn new(length: u64) -> Route {
        Route { way: Way::Clone, length }
    }

    /// Moves the first part of `length` bytes of `source` at `from`; never nothing. `fresh`: the target reads as zeroes
    /// there, so that holes need not be written.
    pub(super) fn step<T: Storage>(
        &mut self,
        target: &T,
        to: u64,
        (source, from): (&File, u64),
        length: u64,
        fresh: bool,
    ) -> Result<Moved, Fault> {
        let (of_source, of_target) = (|error| (true, error), |error| (false, error));
        let inside = self.length.saturating_sub(from).min(length);
        let whole = inside - inside % BLOCK;
        if self.way == Way::Clone && (to | from).is_multiple_of(BLOCK) && whole > 0 {
            let cloned = whole.min(MOST_CLONED);
            match target.clone_from(to, source, from, cloned) {
                Ok(()) => return Ok(Moved { cloned, copied: 0 }),
                Err(error) => self.refused(Way::CopyRange, error).map_err(of_target)?,
            }
        }
        let length = length.min(MOST_COPIED);
        let hole = hole(source, from, length).map_err(of_source)?;
        if hole > 0 && fresh {
            return Ok(Moved { cloned: 0, copied: hole });
        }
        let data = if hole > 0 { hole } else { data(source, from, length).map_err(of_source)? };
        if hole == 0 && self.way >= Way::CopyRange {
            match target.copy_from(to, source, from, data) {
                Ok(copied) if copied > 0 => return Ok(Moved { cloned: 0, copied }),
                // it ends where the file ends, and there are file systems that copy nothing instead of refusing
                Ok(_) => self.way = Way::ReadWrite,
                Err(error) => self.refused(Way::ReadWrite, error).map_err(of_target)?,
            }
        }
        let mut buffer = vec![0; BUFFER.min(usize::try_from(data).unwrap_or(BUFFER))];
        read_padded(source, &mut buffer, from).map_err(of_source)?;
        target.write_at(&buffer, to).map_err(of_target)?;
        Ok(Moved { cloned: 0, copied: buffer.len() as u64 })
    }

    /// Takes the next way for good, if the error says that this one does not exist between the two.
    fn refused(&mut self, next: Way, error: io::Error) -> io::Result<()> {
        match Errno::from_io_error(&error) {
            Some(
                Errno::OPNOTSUPP
                | Errno::XDEV
                | Errno::INVAL
                | Errno::NOTTY
                | Errno::NOSYS
                | Errno::TXTBSY
                | Errno::PERM,
            ) => {
                log::debug!("{:?} is refused - {error}; from now on {next:?}", self.way);
                // sharing is tried for aligned parts only, so a copy may have been refused before
                self.way = self.way.min(next);
                Ok(())
            }
            _ => Err(error),
        }
    }
}

/// How many of the bytes at `from` are a hole; all beyond the end are.
fn hole(source: &File, from: u64, length: u64) -> io::Result<u64> {
    match rustix::fs::seek(source, SeekFrom::Data(from)) {
        Ok(data) => Ok((data - from).min(length)),
        Err(Errno::NXIO) => Ok(length),
        // nothing is known of holes there
        Err(Errno::INVAL) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// How many bytes lie before the next hole; `from` is in none.
fn data(source: &File, from: u64, length: u64) -> io::Result<u64> {
    match rustix::fs::seek(source, SeekFrom::Hole(from)) {
        Ok(hole) if hole > from => Ok((hole - from).min(length)),
        Ok(_) | Err(Errno::NXIO | Errno::INVAL) => Ok(length),
        Err(error) => Err(error.into()),
    }
}
