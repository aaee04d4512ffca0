//! The base tells, by the indexes of all images of a chain, what a guest's disk held at a restore point. A new incremental is compared
//! with it.

use std::io::{self, Read};
use std::ops::Range;

use super::overlay::{Look, Overlay};
use super::{Content, Hash, Index};
use crate::qcow2::CLUSTER;

/// What a cluster held by the fingerprints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Nothing but zeroes.
    Zero,
    /// Something that has this hash.
    Hash(Hash),
    /// Not known: the cluster has to be written, whatever it holds now.
    Unknown,
}

impl Expected {
    /// True if the cluster surely held `content`.
    pub fn is(self, content: Content) -> bool {
        match (self, content) {
            (Expected::Zero, Content::Zero) => true,
            (Expected::Hash(then), Content::Hash(now)) => then == now,
            _ => false,
        }
    }
}

/// The indexes of a chain, read in the order of the guest's disk. Memory: 70 KiB for each image.
#[derive(Debug)]
pub struct Base<R> {
    overlay: Overlay<R>,
    /// Size of the disk now, in bytes.
    disk: u64,
}

impl<R: Read> Base<R> {
    /// Begins with the indexes of all images of the chain, the youngest first, down to the full one. The disk has `disk`
    /// bytes now.
    pub fn begin(indexes: Vec<Index<R>>, disk: u64) -> io::Result<Base<R>> {
        Ok(Base { overlay: Overlay::begin(indexes)?, disk })
    }

    /// Tells what the clusters from `range.start` on held, and for how many bytes that is true, up to `range.end`. The range begins with a
    /// cluster that is not before one asked for earlier, and ends with a cluster or the disk.
    pub fn next(&mut self, range: Range<u64>) -> io::Result<(Expected, u64)> {
        let cluster = range.start / CLUSTER;
        let mut most = range.end.div_ceil(CLUSTER).saturating_sub(cluster).max(1);
        let mut state = Expected::Zero;
        for layer in &mut self.overlay.layers {
            let looked = layer.look(cluster)?;
            match reach(cluster, layer.virtual_size, self.disk) {
                // beyond the end of an image nothing below it is seen
                Reach::Behind => break,
                Reach::Across => {
                    (state, most) = (Expected::Unknown, 1);
                    break;
                }
                Reach::Inside(clusters) => most = most.min(clusters),
            }
            match looked {
                Look::Lacks(count) => most = most.min(count),
                Look::Has(content, count) => {
                    most = most.min(count);
                    state = match content {
                        Content::Zero => Expected::Zero,
                        Content::Hash(hash) => Expected::Hash(hash),
                    };
                    break;
                }
            }
        }
        let end = range.start.saturating_add(most.saturating_mul(CLUSTER)).min(range.end);
        Ok((state, end - range.start))
    }

    /// Compares the hashes of all indexes with the recorded ones. After an error the caller must drop all that `next` has told.
    pub fn finish(self) -> io::Result<()> {
        self.overlay.finish()
    }
}

/// Where a cluster lies in an image of a certain size.
enum Reach {
    /// Whole, or up to the disk's end as it is now; the same is true of so many clusters.
    Inside(u64),
    /// The image ends within it, elsewhere than the disk.
    Across,
    /// The image ends before it.
    Behind,
}

fn reach(cluster: u64, size: u64, disk: u64) -> Reach {
    let start = cluster.saturating_mul(CLUSTER);
    if start >= size {
        return Reach::Behind;
    }
    let whole = if size == disk { size.div_ceil(CLUSTER) } else { size.min(disk) / CLUSTER };
    if cluster < whole { Reach::Inside(whole - cluster) } else { Reach::Across }
}
