//! Makes the index of an image that has absorbed others, without reading data: for each cluster that the image provides now, the
//! youngest index that has the cluster tells its content.

use std::io::{Read, Write};

use super::overlay::{Look, Overlay};
use super::{Content, Digest, Index, Recorder};
use crate::qcow2::{CLUSTER, Error, Mapped, Mapping, Pulse, Source};

/// Writes the index of the present image `source` to `to`, which is empty, and returns its hash; syncs nothing. `indexes` are those of
/// the image as it was and of the images that it has absorbed, the youngest first. The pulse gets the bytes of the guest's disk that are
/// done, and all. `Error::Unsupported` unless all are of disks of one size: where a smaller one ends, what is below it is
/// hidden. `Error::Corrupt` when an index is not what was recorded, or not that of these images. Memory: 70 KiB for each index, and
/// 300 KiB.
pub fn merge<S: Source, R: Read, W: Write>(
    source: S,
    indexes: Vec<Index<R>>,
    to: W,
    pulse: &mut Pulse<'_>,
) -> Result<Digest, Error> {
    let mut mapping = Mapping::open(source)?;
    let size = mapping.virtual_size();
    let overlay = Overlay::begin(indexes)?;
    if !overlay.is_of(size) {
        return Err(Error::Unsupported("the images are of disks of different sizes".into()));
    }
    let mut merge = Merge { overlay, recorder: Recorder::begin(to, size)?, next: 0 };
    while let Some(mut part) = mapping.next_part()? {
        while part.length > 0 {
            part = merge.tell(part)?;
            pulse(part.guest, size)?;
        }
    }
    merge.pass_to(size.div_ceil(CLUSTER))?;
    merge.overlay.finish()?;
    Ok(merge.recorder.finish()?.1)
}

struct Merge<R, W: Write> {
    overlay: Overlay<R>,
    recorder: Recorder<W>,
    /// The first cluster that was not asked for.
    next: u64,
}

impl<R: Read, W: Write> Merge<R, W> {
    /// Records the beginning of a part, and returns the rest.
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
        self.recorder.add(part.guest, content, length)?;
        self.next = cluster + length.div_ceil(CLUSTER);
        let (guest, left) = (part.guest + length, part.length - length);
        Ok(Mapped { guest, length: left, host: part.host.map(|host| host + length) })
    }

    /// Checks clusters that an index has and the image lacks: these are now read from below, so only zeroes that are there, too, may be
    /// missing.
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
}
