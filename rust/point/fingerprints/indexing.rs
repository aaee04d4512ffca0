//! Giving an image an index by reading it.

use std::fs::File;
use std::io::Write;
use std::time::Instant;

use super::contents::Contents;
use super::{Content, Digest, Recorder};
use crate::qcow2::{CLUSTER, Error, Rest};

/// The making of an index under way. Memory: 3 MiB and a bit for each cluster of the file.
#[derive(Debug)]
pub struct Indexing<W: Write> {
    contents: Contents,
    recorder: Option<Recorder<W>>,
    rest: Rest<File>,
    hash: Option<Digest>,
}

/// Begins to read `image`, whose index goes to `to`, which is empty. Errors as those of `Mapping::open`. What the image
/// holds now counts as right: whether it is can't be known.
pub fn index_image<W: Write>(image: File, to: W) -> Result<Indexing<W>, Error> {
    let contents = Contents::open(image.try_clone()?)?;
    let recorder = Some(Recorder::begin(to, contents.virtual_size())?);
    Ok(Indexing { contents, recorder, rest: Rest::begin(image)?, hash: None })
}

impl<W: Write> Indexing<W> {
    /// Bytes of the image's file that were read.
    pub fn done(&self) -> u64 {
        self.contents.read + self.rest.hashed()
    }

    /// Goes on until that time; once all is read, the hash of the index and that of the image's rest. Nothing is synced.
    pub fn advance(&mut self, until: Instant) -> Result<Option<(Digest, Digest)>, Error> {
        while Instant::now() < until {
            if let Some(hash) = self.hash {
                return Ok(self.rest.advance(until)?.map(|rest| (hash, rest.into())));
            }
            self.step()?;
        }
        Ok(None)
    }

    fn step(&mut self) -> Result<(), Error> {
        let Some(recorder) = &mut self.recorder else { return Ok(()) };
        let Some((piece, bytes)) = self.contents.next_piece()? else {
            self.hash = self.recorder.take().map(Recorder::finish).transpose()?.map(|(_, hash)| hash);
            return Ok(());
        };
        if piece.host.is_none() {
            recorder.add(piece.guest, Content::Zero, piece.length)?;
        }
        let mut at = piece.guest;
        for cluster in bytes.chunks(CLUSTER as usize) {
            recorder.add(at, Content::of(cluster), cluster.len() as u64)?;
            at += cluster.len() as u64;
        }
        Ok(())
    }
}
