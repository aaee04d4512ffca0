//! The index of an image that has taken in what others had: of each cluster that it provides now, the youngest index that
//! has it tells the content. No data are read.

use std::io::{Read, Write};
use std::time::Instant;

use super::overlay::{Look, Overlay};
use super::{Content, Digest, Index, Recorder};
use crate::qcow2::{CLUSTER, Error, Mapped, Mapping, Source};

/// A merge under way. Memory: 70 KiB for each index, and 300 KiB.
#[derive(Debug)]
pub struct Merge<S, R, W: Write> {
    mapping: Mapping<S>,
    overlay: Overlay<R>,
    recorder: Option<Recorder<W>>,
    /// What of the image is being told.
    part: Option<Mapped>,
    /// The first cluster that was not asked for.
    next: u64,
}

impl<S: Source, R: Read, W: Write> Merge<S, R, W> {
    /// The index of the image `source` as it is now goes to `to`, which is empty. `indexes` are those of the image as it was
    /// and of the images that it has absorbed, the youngest first. `Error::Unsupported` unless all are of disks of one
    /// size: where a smaller one ends, what is below it is hidden.
    pub fn begin(source: S, indexes: Vec<Index<R>>, to: W) -> Result<Merge<S, R, W>, Error> {
        let mapping = Mapping::open(source)?;
        let size = mapping.virtual_size();
        let overlay = Overlay::begin(indexes)?;
        if !overlay.is_of(size) {
            return Err(Error::Unsupported("the images are of disks of different sizes".into()));
        }
        let recorder = Some(Recorder::begin(to, size)?);
        Ok(Merge { mapping, overlay, recorder, part: None, next: 0 })
    }

    /// Bytes of the guest's disk that are dealt with, and all.
    pub fn position(&self) -> (u64, u64) {
        let size = self.mapping.virtual_size();
        (self.part.map_or(0, |part| part.guest), size)
    }

    /// Goes on until that time; the hash of the new index once it is complete. `Error::Corrupt` when an index is not what was
    /// recorded, or not that of these images. Nothing is synced.
    pub fn advance(&mut self, until: Instant) -> Result<Option<Digest>, Error> {
        loop {
            match self.part {
                Some(part) if part.length > 0 => self.part = Some(self.tell(part)?),
                _ => match self.mapping.next_part()? {
                    Some(part) => self.part = Some(part),
                    None => return self.finish().map(Some),
                },
            }
            if Instant::now() >= until {
                return Ok(None);
            }
        }
    }

    /// Records the begin of a part; what is left of it.
    fn tell(&mut self, part: Mapped) -> Result<Mapped, Error> {
        let cluster = part.guest / CLUSTER;
        self.pass_to(cluster)?;
        let Look::Has(content, count) = self.overlay.look(cluster)? else {
            return Err(Error::Corrupt(format!("no index has guest offset {}", part.guest)));
        };
        // zeroes that are stored as data read as they should, data that are marked as zeroes do not
        if part.host.is_none() && content != Content::Zero {
            return Err(Error::Corrupt(format!("guest offset {} reads as zeroes and should not", part.guest)));
        }
        let length = count.saturating_mul(CLUSTER).min(part.length);
        if let Some(recorder) = &mut self.recorder {
            recorder.add(part.guest, content, length)?;
        }
        self.next = cluster + length.div_ceil(CLUSTER);
        let (guest, left) = (part.guest + length, part.length - length);
        Ok(Mapped { guest, length: left, host: part.host.map(|host| host + length) })
    }

    /// What an index has and the image has not would be read from below: only zeroes may go, where they are there, too.
    fn pass_to(&mut self, cluster: u64) -> Result<(), Error> {
        while self.next < cluster {
            let count = match self.overlay.look(self.next)? {
                Look::Has(Content::Zero, count) | Look::Lacks(count) => count,
                Look::Has(..) => {
                    return Err(Error::Corrupt(format!("guest offset {} is in an index only", self.next * CLUSTER)));
                }
            };
            self.next = self.next.saturating_add(count).min(cluster);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Digest, Error> {
        self.pass_to(self.mapping.virtual_size().div_ceil(CLUSTER))?;
        let overlay = Overlay { layers: std::mem::take(&mut self.overlay.layers) };
        overlay.finish()?;
        let recorder = self.recorder.take().ok_or_else(|| Error::Unsupported("the merge has ended before".into()))?;
        Ok(recorder.finish()?.1)
    }
}
