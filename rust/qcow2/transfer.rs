//! Moves data from a file to a target. It shares blocks where both files can; else it lets the kernel or the server copy; else it reads
//! and writes.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::mpsc;
use std::thread;

use log::Level;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::direct::{Buffer, Direct};
use super::holes;
use super::storage::{Storage, read_padded};
use crate::error::{called, errno};
use crate::fs_kind;
use crate::lacking;

/// Sharing works on blocks of the file system; all those that can share have blocks of 4 KiB, or refuse.
const BLOCK: u64 = 4096;
/// Bytes that one call shares at most, so that it ends soon.
const MOST_CLONED: u64 = 1 << 30;
/// Bytes that one call copies at most.
const MOST_COPIED: u64 = 16 << 20;
/// The same where it reads and writes.
const MOST_READ: u64 = 64 << 20;
/// Bytes that are read at once.
const BUFFER: u64 = 2 << 20;
/// Buffers that are read or written, or wait for that.
const BUFFERS: usize = 3;
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

/// The file is at fault, and not the target; with the error.
pub type Fault = (bool, io::Error);

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
        Route { method: CopyMethod::Clone, tells_holes: true, length, past_cache: None }
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
        let copied = copy(target, to, (source, from), left, goes_on)?;
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

/// Reads and writes, the next bytes while the last are written, for as long as it goes on. How many bytes.
fn copy<T: Storage>(
    target: &T,
    to: u64,
    (source, from): (&Direct, u64),
    length: u64,
    goes_on: &mut dyn FnMut() -> bool,
) -> Result<u64, Fault> {
    let read = |mut buffer: Buffer, at: u64| {
        let made = buffer.resize(usize::try_from((length - at).min(BUFFER)).unwrap_or(0));
        let read = made.and_then(|()| read_padded(source, &mut buffer, from + at));
        read.map(|()| buffer).map_err(|error| (true, error))
    };
    // little is written by the kernel, which does it while the next is read, and joins what lies together in the target
    let read_and_write = || {
        let buffer = read(Buffer::default(), 0)?;
        target.write_at(&buffer, to).map(|()| buffer.len() as u64).map_err(|error| (false, error))
    };
    if length <= BUFFER {
        return read_and_write();
    }
    thread::scope(|scope| {
        let (give_back, free) = mpsc::channel();
        let (fill, filled) = mpsc::channel();
        for _ in 0..BUFFERS {
            _ = give_back.send(Buffer::default());
        }
        let read_all = move || {
            let mut at = 0;
            // no buffer comes back, and none is taken, once the writer has failed
            while let Some(buffer) = (at < length).then(|| free.recv().ok()).flatten() {
                let buffer = read(buffer, at);
                let failed = buffer.is_err();
                if fill.send(buffer).is_err() || failed {
                    break;
                }
                at += BUFFER;
            }
        };
        let begun = thread::Builder::new().name("read ahead".to_owned()).spawn_scoped(scope, read_all);
        if let Err(error) = begun {
            log::debug!("unable to start a thread that reads ahead, going on without: {error}");
            return read_and_write();
        }
        let mut at = 0;
        while at < length && (at == 0 || goes_on()) {
            let buffer = filled.recv().map_err(|_| (true, io::Error::other("the thread that reads has ended")))??;
            target.write_past_cache(&buffer, to + at).map_err(|error| (false, error))?;
            at += buffer.len() as u64;
            // fails when all is read
            _ = give_back.send(buffer);
        }
        Ok(at)
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::qcow2::storage::Source;

    /// A target that takes so many bytes, and counts those that were to go past the page cache.
    struct Small(Direct, u64, Cell<u64>);

    impl Small {
        fn new(most: u64) -> Small {
            Small(Direct::new(file()), most, Cell::new(0))
        }

        fn has_room(&self, data: &[u8], offset: u64) -> io::Result<()> {
            if offset + data.len() as u64 <= self.1 { Ok(()) } else { Err(Errno::NOSPC.into()) }
        }
    }

    impl Source for Small {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            self.0.read_at(buffer, offset)
        }

        fn length(&self) -> io::Result<u64> {
            self.0.length()
        }
    }

    impl Storage for Small {
        fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
            self.has_room(data, offset)?;
            self.0.write_at(data, offset)
        }

        fn write_past_cache(&self, data: &[u8], offset: u64) -> io::Result<()> {
            self.has_room(data, offset)?;
            self.2.set(self.2.get() + data.len() as u64);
            self.0.write_past_cache(data, offset)
        }

        fn set_length(&self, length: u64) -> io::Result<()> {
            self.0.set_length(length)
        }

        fn sync(&self) -> io::Result<()> {
            self.0.sync()
        }

        fn clone_from(&self, _: u64, _: &File, _: u64, _: u64) -> io::Result<()> {
            Err(Errno::OPNOTSUPP.into())
        }

        fn copy_from(&self, _: u64, _: &File, _: u64, _: u64) -> io::Result<u64> {
            Err(Errno::OPNOTSUPP.into())
        }
    }

    /// In a folder of the build, which lies on a disk.
    fn file() -> File {
        tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap()
    }

    /// A source of that many bytes, none of its blocks like another, and what it holds.
    fn source(length: u64) -> (File, Vec<u8>) {
        let content: Vec<u8> =
            (0..length / 8).flat_map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
        let file = file();
        file.write_at(&content, 0).unwrap();
        (file, content)
    }

    #[test]
    fn what_the_kernel_does_not_copy_is_read_and_written_byte_for_byte() {
        let (source, content) = source(7 * BUFFER + 4096);
        for (from, to, length) in [
            (0, 0, 8),
            (4096, 1 << 16, BUFFER),
            (512, 100, BUFFER + 1),
            (0, 1 << 16, 7 * BUFFER + 4096),
            (3 * BUFFER, 0, 4 * BUFFER + 4000),
            // behind the source's end are zeroes
            (6 * BUFFER, 4096, 3 * BUFFER),
        ] {
            let target = Small::new(u64::MAX);
            let (mut route, mut done) = (Route::new(content.len() as u64), 0);
            while done < length {
                let moved = route
                    .step(&target, to + done, (&source, from + done), (length - done, false), &mut || true)
                    .unwrap();
                assert!(moved.cloned == 0 && moved.copied > 0);
                done += moved.copied;
            }
            let mut read = vec![1; usize::try_from(length).unwrap()];
            read_padded(&target, &mut read, to).unwrap();
            let mut expected = content[usize::try_from(from).unwrap()..].to_vec();
            expected.resize(read.len(), 0);
            assert!(read == expected, "{length} bytes from {from} to {to}");
            assert_eq!(target.2.get(), if length > BUFFER { length } else { 0 });
        }
    }

    #[test]
    fn nothing_is_written_once_the_work_is_to_end() {
        let (source, content) = source(9 * BUFFER);
        for writes in 1..=9 {
            let (target, mut asked) = (Small::new(u64::MAX), 0);
            let mut goes_on = || {
                asked += 1;
                asked < writes
            };
            let mut route = Route::new(9 * BUFFER);
            let moved = route.step(&target, 0, (&source, 0), (9 * BUFFER, false), &mut goes_on).unwrap();
            assert_eq!((moved.copied, target.length().unwrap()), (writes * BUFFER, writes * BUFFER));
            let mut read = vec![0; usize::try_from(writes * BUFFER).unwrap()];
            read_padded(&target, &mut read, 0).unwrap();
            assert!(read == content[..read.len()], "{writes}");
        }
    }

    #[test]
    fn a_file_at_fault_ends_the_copy_and_is_told() {
        let (source, _) = source(9 * BUFFER);
        for taken in [0, BUFFER, 5 * BUFFER + 1] {
            let target = Small::new(taken);
            let failed =
                copy(&target, 0, (&Direct::new(source.try_clone().unwrap()), 0), 9 * BUFFER, &mut || true).unwrap_err();
            assert!(!failed.0 && errno(&failed.1) == Some(Errno::NOSPC), "{taken}: {failed:?}");
        }
        let target = Small::new(u64::MAX);
        let folder = File::open(env!("CARGO_MANIFEST_DIR")).unwrap();
        for length in [BUFFER, 9 * BUFFER] {
            let folder = Direct::new(folder.try_clone().unwrap());
            let failed = copy(&target, 0, (&folder, 0), length, &mut || true).unwrap_err();
            assert!(failed.0 && errno(&failed.1) == Some(Errno::ISDIR), "{length}: {failed:?}");
        }
    }

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
