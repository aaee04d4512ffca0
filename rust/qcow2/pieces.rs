//! A chain that several threads read at once: `Pieces` tells in the guest's order where bytes lie, `Images` reads them there.

use std::fs::File;
use std::io;
use std::ops::Range;

use super::Error;
use super::chain::ImageFailure;
use super::chain::{Chain, Provided, read_and_inflate};
use super::create::CLUSTER;
use super::direct::Direct;
use super::image::{Compressed, Image, What};
use super::storage::read_padded;

/// Tells where the guest's bytes lie, in the guest's order.
#[derive(Debug)]
pub struct Pieces {
    chain: Chain,
    size: u64,
}

/// Whole clusters of the guest's disk, up to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Guest offset.
    pub at: u64,
    /// In bytes.
    pub length: u64,
    /// Its parts, in order; none if all of it reads as zeroes.
    pub parts: Vec<Part>,
}

/// Bytes that lie together in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// In bytes.
    pub length: u64,
    /// Where they lie.
    pub place: Place,
}

/// Where bytes of the guest's disk lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: they read as zeroes.
    Hole,
    /// In the file of an image of the chain, at an offset.
    Data(usize, u64),
    /// In a compressed cluster.
    Packed(Packed),
}

/// Bytes within a compressed cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    image: usize,
    cluster: Compressed,
    within: u64,
}

impl Place {
    /// Where the bytes at the guest offset `at` are that `chain` was found to have.
    pub(super) fn of(chain: &Chain, found: Provided, at: u64) -> Place {
        match found.extent.what {
            What::Unallocated | What::Zero => Place::Hole,
            What::Data(offset) => Place::Data(found.image, offset),
            What::Compressed(cluster) => {
                let within = at % chain.images[found.image].cluster_size();
                Place::Packed(Packed { image: found.image, cluster, within })
            }
        }
    }

    /// The image that it is in.
    pub fn image(self) -> Option<usize> {
        match self {
            Place::Hole => None,
            Place::Data(image, _) | Place::Packed(Packed { image, .. }) => Some(image),
        }
    }

    /// The place `bytes` later.
    pub fn skip(self, bytes: u64) -> Place {
        match self {
            Place::Hole => Place::Hole,
            Place::Data(image, offset) => Place::Data(image, offset + bytes),
            Place::Packed(packed) => Place::Packed(Packed { within: packed.within + bytes, ..packed }),
        }
    }
}

impl Pieces {
    /// Opens `images`, the newest first, each standing on the next, and a second set of descriptors for the threads that read.
    pub fn open(images: Vec<File>) -> Result<(Pieces, Images), ImageFailure> {
        let mut chain = Chain::open(images).map_err(|(i, error)| ImageFailure::of(i + 1, error))?;
        chain.check_tables_are_distinct()?;
        let images = Images::again(&chain, None)?;
        let size = chain.images.first().map_or(0, |image| image.virtual_size());
        Ok((Pieces { chain, size }, images))
    }

    /// An error if an image has been truncated since it was opened. The caller asks before it relies on what it has read.
    pub fn check_whole(&self) -> Result<(), ImageFailure> {
        self.chain.check_whole()
    }

    /// Size that the guest sees, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next piece from `at` on, which is the beginning of a cluster below the disk's end: either clusters that all read as zeroes, or
    /// at most `most` bytes of others, a multiple of `CLUSTER`. A piece counts as taken once it is told.
    pub fn next(&mut self, at: u64, most: u64) -> Result<Piece, ImageFailure> {
        let first = self.part(at, self.size - at)?;
        let whole = whole_clusters(&first, self.size - at);
        if whole > 0 {
            return Ok(Piece { at, length: whole, parts: Vec::new() });
        }
        let (end, mut piece) = (most.min(self.size - at), Piece { at, length: 0, parts: Vec::new() });
        while piece.length < end {
            let mut part = self.part(at + piece.length, end - piece.length)?;
            if piece.length.is_multiple_of(CLUSTER) && whole_clusters(&part, end - piece.length) > 0 {
                break;
            }
            match part.place {
                Place::Hole => part.length = part.length.min(CLUSTER - piece.length % CLUSTER),
                Place::Data(image, _) => self.chain.spend(image, part.length)?,
                Place::Packed(_) => {}
            }
            piece.length += part.length;
            piece.parts.push(part);
        }
        Ok(piece)
    }

    fn part(&mut self, at: u64, limit: u64) -> Result<Part, ImageFailure> {
        let all = 0..self.chain.images.len();
        let found = self.chain.provider(all, at, limit)?;
        Ok(Part { length: found.extent.length, place: Place::of(&self.chain, found, at) })
    }
}

/// Bytes of whole clusters that read as zeroes, of a part that begins a cluster `left` bytes before the disk's end.
fn whole_clusters(part: &Part, left: u64) -> u64 {
    match part.place {
        Place::Hole if part.length == left => left,
        Place::Hole => part.length / CLUSTER * CLUSTER,
        _ => 0,
    }
}

/// The images of a chain, which any number of threads reads at once.
#[derive(Debug)]
pub struct Images {
    images: Vec<Image<Direct>>,
    /// The plain bytes below them.
    raw: Option<Direct>,
}

/// A thread's buffers to inflate clusters in, and the cluster that was inflated last.
#[derive(Debug, Default)]
pub struct Inflated {
    last: Option<(usize, Compressed)>,
    cluster: Vec<u8>,
    deflated: Vec<u8>,
}

impl Images {
    /// A second set of descriptors for the images of `chain`, and the plain bytes below them.
    pub(super) fn again(chain: &Chain, raw: Option<&File>) -> Result<Images, ImageFailure> {
        let again = |(i, image): (usize, &Image<File>)| image.again().map_err(|error| ImageFailure::of(i + 1, error));
        let images = chain.images.iter().enumerate().map(again).collect::<Result<Vec<_>, _>>()?;
        let raw = raw.map(File::try_clone).transpose().map_err(|error| ImageFailure::of(images.len() + 1, error))?;
        Ok(Images { images, raw: raw.map(Direct::new) })
    }

    /// The file of an image, and its length.
    pub fn file(&self, image: usize) -> (&File, u64) {
        (self.images[image].storage.file(), self.images[image].length)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.images.len()
    }

    /// Where the data of an image are, or, after the last image's, the plain bytes.
    fn data(&self, image: usize) -> &Direct {
        match &self.raw {
            Some(raw) if image == self.images.len() => raw,
            _ => &self.images[image].storage,
        }
    }

    /// Fills `buffer` with what the bytes `range` of `piece` are.
    pub fn read(
        &self,
        piece: &Piece,
        range: Range<u64>,
        buffer: &mut [u8],
        inflated: &mut Inflated,
    ) -> Result<(), ImageFailure> {
        let (mut start, mut rest) = (0, buffer);
        for part in &piece.parts {
            let end = start + part.length;
            let (from, to) = (start.max(range.start), end.min(range.end));
            if from < to {
                let (into, after) = rest.split_at_mut(usize::try_from(to - from).unwrap_or(usize::MAX));
                self.read_place(part.place.skip(from - start), into, inflated)?;
                rest = after;
            }
            start = end;
        }
        rest.fill(0);
        Ok(())
    }

    /// Fills `buffer` with what lies at `place`, within one part.
    pub fn read_place(&self, place: Place, buffer: &mut [u8], inflated: &mut Inflated) -> Result<(), ImageFailure> {
        match place {
            Place::Hole => buffer.fill(0),
            Place::Data(image, offset) => {
                read_padded(self.data(image), buffer, offset).map_err(|e| ImageFailure::of(image + 1, e))?;
            }
            Place::Packed(Packed { image, cluster, within }) => {
                if inflated.last != Some((image, cluster)) {
                    inflated.last = None;
                    let Inflated { cluster: into, deflated, .. } = inflated;
                    read_and_inflate(&self.images[image], cluster, deflated, into)
                        .map_err(|e| ImageFailure::of(image + 1, e))?;
                    inflated.last = Some((image, cluster));
                }
                let within = usize::try_from(within).unwrap_or(usize::MAX);
                let from = within.checked_add(buffer.len()).and_then(|end| inflated.cluster.get(within..end));
                let from = from.ok_or_else(|| Error::Corrupt("a compressed cluster is too short".into()));
                buffer.copy_from_slice(from.map_err(|e| ImageFailure::of(image + 1, e))?);
            }
        }
        Ok(())
    }
}

impl Image<File> {
    /// Opens the file that the image's data are in once more.
    fn again(&self) -> io::Result<Image<Direct>> {
        let (data, length) = self.data();
        Ok(Image::of(Direct::new(data.try_clone()?), self.header.clone(), length))
    }
}
