//! Reads an index from its beginning to its end. The index is not trusted: memory is bounded, and at the end its hash is compared with the
//! recorded one. Until then a caller may not rely on what it has decided by the index.

use std::fmt;
use std::io::{self, BufReader, ErrorKind, Read};

use super::format::{self, EncodedRun};
use super::{Content, Digest, HASH, damaged};
use crate::error::called;
use crate::qcow2::CLUSTER;

/// Clusters, one after the other, of the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// The first of them.
    pub cluster: u64,
    /// How many: one, unless they are zero.
    pub count: u64,
    /// What each holds.
    pub content: Content,
}

impl IndexEntry {
    /// Behind the last one.
    pub fn end(&self) -> u64 {
        self.cluster + self.count
    }
}

/// An index being read. Memory: 64 KiB.
pub struct Index<R> {
    from: BufReader<HashedReader<R>>,
    expected: Digest,
    virtual_size: u64,
    /// The cluster after the last one that was told.
    at: u64,
    /// Hashes that the run has left.
    hashes: u64,
    ended: bool,
}

impl<R: Read> Index<R> {
    /// Reads the header. At the end the whole index must have the hash `expected`.
    pub fn open(from: R, expected: Digest) -> io::Result<Index<R>> {
        let hashed = HashedReader { from, hasher: blake3::Hasher::new() };
        let mut from = BufReader::with_capacity(64 << 10, hashed);
        let virtual_size = format::read_header(&mut from)?;
        Ok(Index { from, expected, virtual_size, at: 0, hashes: 0, ended: false })
    }

    /// Size that the guest sees of the image, in bytes.
    pub fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    /// The next clusters that the image provides; `None` once the end was reached and the hash is as recorded.
    pub fn next_entry(&mut self) -> io::Result<Option<IndexEntry>> {
        if self.hashes == 0 && !self.ended {
            let run = format::read_run(&mut self.from)?;
            if run == format::END {
                self.verify()?;
                self.ended = true;
            } else {
                self.begin_run(run)?;
                if run.zero {
                    let entry = IndexEntry { cluster: self.at, count: run.count, content: Content::Zero };
                    self.at = entry.end();
                    return Ok(Some(entry));
                }
            }
        }
        if self.ended {
            return Ok(None);
        }
        let mut hash = [0; HASH];
        self.from.read_exact(&mut hash)?;
        let entry = IndexEntry { cluster: self.at, count: 1, content: Content::Hash(hash) };
        (self.at, self.hashes) = (entry.end(), self.hashes - 1);
        Ok(Some(entry))
    }

    /// Reads up to the end, so that the hash is compared.
    pub fn finish(mut self) -> io::Result<()> {
        while self.next_entry()?.is_some() {}
        Ok(())
    }

    fn begin_run(&mut self, run: EncodedRun) -> io::Result<()> {
        let start = self.at.checked_add(run.gap);
        let end = start.and_then(|start| start.checked_add(run.count));
        let inside = end.is_some_and(|end| end <= self.virtual_size.div_ceil(CLUSTER));
        let Some(start) = start.filter(|_| inside && run.count > 0) else {
            return Err(damaged(format!("{} clusters, {} after cluster {}", run.count, run.gap, self.at)));
        };
        self.at = start;
        self.hashes = if run.zero { 0 } else { run.count };
        Ok(())
    }

    fn verify(&mut self) -> io::Result<()> {
        if self.from.read(&mut [0])? != 0 {
            return Err(damaged("something follows its end"));
        }
        let hash = Digest::from(self.from.get_ref().hasher.finalize());
        if hash == self.expected { Ok(()) } else { Err(damaged(format!("its hash is {hash}"))) }
    }
}

impl<R> fmt::Debug for Index<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").field("at", &self.at).field("virtual_size", &self.virtual_size).finish_non_exhaustive()
    }
}

/// Hashes what is read through it.
struct HashedReader<R> {
    from: R,
    hasher: blake3::Hasher,
}

impl<R: Read> Read for HashedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.from.read(buffer) {
                Ok(read) => {
                    self.hasher.update(&buffer[..read]);
                    return Ok(read);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(called("read")(error)),
            }
        }
    }
}
