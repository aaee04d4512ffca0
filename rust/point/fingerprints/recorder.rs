//! Writes an index while the data pass.

use std::fmt;
use std::io::{self, BufWriter, ErrorKind, Write};

use super::format::{self, EncodedRun};
use super::{Content, Digest, Hash};
use crate::error::called;
use crate::qcow2::CLUSTER;

/// Hashes that are kept until their number is known; 96 KiB.
const MOST_HASHES: usize = 4096;

/// An index that is being written; before `finish` the file is no index. Memory: 160 KiB.
pub struct Recorder<W: Write> {
    to: BufWriter<HashedWriter<W>>,
    /// Clusters of the disk.
    clusters: u64,
    /// Where the last run that was written ends.
    written: u64,
    /// Where the run that is being collected begins, and ends.
    start: u64,
    end: u64,
    /// Its hashes; none for zeroes.
    hashes: Vec<Hash>,
}

impl<W: Write> Recorder<W> {
    /// Begins the index of an image of `virtual_size` bytes in `to`, which is empty.
    pub fn begin(to: W, virtual_size: u64) -> io::Result<Recorder<W>> {
        let mut to = BufWriter::with_capacity(64 << 10, HashedWriter { to, hasher: blake3::Hasher::new() });
        to.write_all(&format::header(virtual_size))?;
        let clusters = virtual_size.div_ceil(CLUSTER);
        Ok(Recorder { to, clusters, written: 0, start: 0, end: 0, hashes: Vec::new() })
    }

    /// Records that each cluster of the `length` bytes from `offset` on has `content`. The caller records whole clusters, but for the end of
    /// the disk, each once and in order.
    pub fn add(&mut self, offset: u64, content: Content, length: u64) -> io::Result<()> {
        let (first, count) = (offset / CLUSTER, length.div_ceil(CLUSTER));
        let in_order = first >= self.end && first.saturating_add(count) <= self.clusters;
        if !in_order || !offset.is_multiple_of(CLUSTER) {
            let why = format!("{length} bytes at {offset} are not next after cluster {}", self.end);
            return Err(io::Error::new(ErrorKind::InvalidInput, why));
        }
        let same_kind = matches!(content, Content::Zero) == self.hashes.is_empty();
        if first != self.end || !same_kind {
            self.write_run()?;
            (self.start, self.end) = (first, first);
        }
        let Content::Hash(hash) = content else {
            self.end += count;
            return Ok(());
        };
        for _ in 0..count {
            if self.hashes.len() == MOST_HASHES {
                self.write_run()?;
            }
            self.hashes.push(hash);
            self.end += 1;
        }
        Ok(())
    }

    /// Writes the rest, and returns the hash of the whole index; syncs nothing.
    pub fn finish(mut self) -> io::Result<(W, Digest)> {
        self.write_run()?;
        format::write_run(&mut self.to, format::END)?;
        let HashedWriter { to, hasher } = self.to.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok((to, hasher.finalize().into()))
    }

    fn write_run(&mut self) -> io::Result<()> {
        if self.start == self.end {
            return Ok(());
        }
        let run =
            EncodedRun { gap: self.start - self.written, count: self.end - self.start, zero: self.hashes.is_empty() };
        format::write_run(&mut self.to, run)?;
        self.hashes.iter().try_for_each(|hash| self.to.write_all(hash))?;
        self.hashes.clear();
        (self.written, self.start) = (self.end, self.end);
        Ok(())
    }
}

impl<W: Write> fmt::Debug for Recorder<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("end", &self.end).field("clusters", &self.clusters).finish_non_exhaustive()
    }
}

/// Hashes what is written through it.
struct HashedWriter<W> {
    to: W,
    hasher: blake3::Hasher,
}

impl<W: Write> Write for HashedWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes).map_err(called("write"))?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
