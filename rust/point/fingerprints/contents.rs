//! Reads the clusters that an image itself provides, as quickly as the disk delivers them.

use std::collections::VecDeque;
use std::fs::File;
use std::num::NonZeroU64;

use rustix::fs::{Advice, fadvise};

use crate::qcow2::{Error, Mapped, Mapping};

/// Bytes that are read at once.
const CHUNK: u64 = 2 << 20;
/// How many such reads the kernel is asked to make ahead.
const AHEAD: usize = 8;

/// The clusters of one image, in the order of the guest's disk. Memory: 2 MiB.
#[derive(Debug)]
pub(super) struct Contents {
    mapping: Mapping<File>,
    /// The rest of what the mapping has told last.
    part: Option<Mapped>,
    ahead: VecDeque<Mapped>,
    buffer: Vec<u8>,
    /// Bytes of the file that were read.
    pub(super) read: u64,
}

impl Contents {
    /// Reads the header; errors as those of `Mapping::open`. Drops the file from this host's page cache, so that the reads return what is
    /// stored.
    pub(super) fn open(file: File) -> Result<Contents, Error> {
        advise(&file, 0, None, Advice::DontNeed);
        let mapping = Mapping::open(file)?;
        Ok(Contents { mapping, part: None, ahead: VecDeque::new(), buffer: Vec::new(), read: 0 })
    }

    pub(super) fn virtual_size(&self) -> u64 {
        self.mapping.virtual_size()
    }

    /// The next clusters, with their bytes unless they read as zeroes; `None` at the end.
    pub(super) fn next_piece(&mut self) -> Result<Option<(Mapped, &[u8])>, Error> {
        while self.ahead.len() < AHEAD {
            let Some(piece) = self.look_ahead()? else { break };
            self.ahead.push_back(piece);
        }
        let Some(piece) = self.ahead.pop_front() else { return Ok(None) };
        let Some(host) = piece.host else { return Ok(Some((piece, &[]))) };
        self.buffer.resize(usize::try_from(piece.length).unwrap_or(0), 0);
        self.mapping.read(host, &mut self.buffer)?;
        // a process that reads whole repositories must not fill the host's page cache with them
        advise(self.mapping.source(), host, NonZeroU64::new(piece.length), Advice::DontNeed);
        self.read += piece.length;
        Ok(Some((piece, &self.buffer)))
    }

    fn look_ahead(&mut self) -> Result<Option<Mapped>, Error> {
        let Some(part) = self.part.take().map_or_else(|| self.mapping.next_part(), |part| Ok(Some(part)))? else {
            return Ok(None);
        };
        let Some(host) = part.host else { return Ok(Some(part)) };
        let length = part.length.min(CHUNK);
        if length < part.length {
            let host = Some(host + length);
            self.part = Some(Mapped { guest: part.guest + length, length: part.length - length, host });
        }
        advise(self.mapping.source(), host, NonZeroU64::new(length), Advice::WillNeed);
        Ok(Some(Mapped { length, ..part }))
    }
}

/// Advises the kernel to read ahead; without that the reads only take longer.
fn advise(file: &File, offset: u64, length: Option<NonZeroU64>, advice: Advice) {
    if let Err(error) = fadvise(file, offset, length, advice) {
        log::debug!("unable to advise the kernel about an image's file, going on without: {error}");
    }
}
