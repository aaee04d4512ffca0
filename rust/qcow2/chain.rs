//! The images that a target stands on, nearest first, and what they hold together.

use std::fs::File;
use std::ops::Range;

use super::image::{Compressed, Extent, Image, What};
use super::inflate::inflate;
use super::storage::{Source, read_padded};
use super::{Error, corrupt};

/// For the slices of tables of all images together.
const SLICES: u64 = 8 << 20;

/// Which image of a chain answers for a guest offset, and with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Provided {
    /// `Unallocated`: none of the images asked.
    pub(super) extent: Extent,
    /// Meaningful unless `Unallocated`.
    pub(super) image: usize,
}

/// The backing images of a target.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) images: Vec<Image<File>>,
    /// Bytes of each image that have not been taken yet.
    left: Vec<u64>,
    /// The cluster that was inflated last, and whose it is.
    inflated: Option<(usize, Compressed)>,
    cluster: Vec<u8>,
    deflated: Vec<u8>,
}

/// A failure, and the image that it is about: 0 is the target, 1 its backing file, and so on.
#[derive(Debug, thiserror::Error)]
#[error("image {image}: {error}")]
pub struct ImageFailure {
    /// Position in the chain.
    pub image: usize,
    /// What is wrong.
    pub error: Error,
}

impl ImageFailure {
    pub(super) fn of(image: usize, error: impl Into<Error>) -> ImageFailure {
        ImageFailure { image, error: error.into() }
    }
}

impl<E: Into<Error>> From<E> for ImageFailure {
    fn from(error: E) -> ImageFailure {
        ImageFailure::of(0, error)
    }
}

/// How much of a table is read at once when `images` images are open.
pub(super) fn slice_size(images: usize) -> u64 {
    let each = SLICES / 2 / (images as u64 + 1);
    (1 << each.max(1).ilog2()).clamp(4 << 10, 64 << 10)
}

impl Chain {
    /// Opens the images' tables.
    pub(super) fn open(files: Vec<File>) -> Result<Chain, (usize, Error)> {
        let slice = slice_size(files.len());
        let open = |(i, file)| Image::open(file, slice).map_err(|error| (i, error));
        Ok(Chain::of(files.into_iter().enumerate().map(open).collect::<Result<_, _>>()?))
    }

    /// The same for images of which a guest may be writing to the first, each with the file that its data are in, if not in
    /// its own.
    pub(super) fn open_in_use(files: Vec<(File, Option<File>)>) -> Result<Chain, Error> {
        let slice = slice_size(files.len());
        let open = |(file, data)| Image::open_in_use(file, data, slice);
        Ok(Chain::of(files.into_iter().map(open).collect::<Result<_, _>>()?))
    }

    /// The same for images that nobody writes to, but that their last writer may have left without notice.
    pub(super) fn open_at_rest(files: Vec<(File, Option<File>)>) -> Result<Chain, Error> {
        let slice = slice_size(files.len());
        let open = |(file, data)| Image::open_at_rest(file, data, slice);
        Ok(Chain::of(files.into_iter().map(open).collect::<Result<_, _>>()?))
    }

    fn of(images: Vec<Image<File>>) -> Chain {
        let left = images.iter().map(|image| image.data().1.next_multiple_of(image.cluster_size())).collect();
        Chain { images, left, inflated: None, cluster: Vec::new(), deflated: Vec::new() }
    }

    /// None of the images was cut off since it was opened: to be asked before what was read counts.
    pub(super) fn check_whole(&self) -> Result<(), ImageFailure> {
        let check =
            |(i, image): (usize, &Image<File>)| image.check_whole().map_err(|error| ImageFailure::of(i + 1, error));
        self.images.iter().enumerate().try_for_each(check)
    }

    /// No image names an L2 table twice.
    pub(super) fn check_tables_are_distinct(&mut self) -> Result<(), ImageFailure> {
        for (i, image) in self.images.iter_mut().enumerate() {
            image.check_tables_are_distinct().map_err(|error| ImageFailure::of(i + 1, error))?;
        }
        Ok(())
    }

    /// Data are taken once: an image of which more is taken than its file holds names clusters again and again, and
    /// would not come to an end.
    pub(super) fn spend(&mut self, image: usize, bytes: u64) -> Result<(), ImageFailure> {
        match self.left[image].checked_sub(bytes) {
            Some(left) => self.left[image] = left,
            None => {
                corrupt("it names the same data again and again").map_err(|error| ImageFailure::of(image + 1, error))?
            }
        }
        Ok(())
    }

    /// What the images of `range` hold at the guest offset `at`, for at most `limit` bytes. The area beyond the end of
    /// an image reads as zeroes, whatever those below it have there.
    pub(super) fn provider(&mut self, range: Range<usize>, at: u64, limit: u64) -> Result<Provided, ImageFailure> {
        let mut limit = limit;
        for image in range {
            let here = &mut self.images[image];
            let size = here.virtual_size();
            if at >= size {
                return Ok(Provided { extent: Extent { length: limit, what: What::Zero }, image });
            }
            let extent = here.extent(at).map_err(|e| ImageFailure::of(image + 1, e))?.limit(limit);
            if extent.what != What::Unallocated {
                return Ok(Provided { extent, image });
            }
            limit = extent.length;
        }
        Ok(Provided { extent: Extent { length: limit, what: What::Unallocated }, image: 0 })
    }

    /// Reads what the guest sees at `at` through all images.
    pub(super) fn read(&mut self, at: u64, buffer: &mut [u8]) -> Result<(), ImageFailure> {
        let mut done = 0;
        while done < buffer.len() {
            let from = at + done as u64;
            let Provided { extent, image } = self.provider(0..self.images.len(), from, (buffer.len() - done) as u64)?;
            let length = usize::try_from(extent.length).unwrap_or(usize::MAX);
            let part = &mut buffer[done..done + length];
            match extent.what {
                What::Unallocated | What::Zero => part.fill(0),
                What::Data(offset) => {
                    let read = read_padded(self.images[image].data().0, part, offset);
                    read.map_err(|e| ImageFailure::of(image + 1, e))?;
                    self.spend(image, extent.length)?;
                }
                What::Compressed(compressed) => {
                    self.inflate(image, compressed).map_err(|e| ImageFailure::of(image + 1, e))?;
                    let within = usize::try_from(from % self.images[image].cluster_size()).unwrap_or(usize::MAX);
                    part.copy_from_slice(&self.cluster[within..within + length]);
                }
            }
            done += length;
        }
        Ok(())
    }

    fn inflate(&mut self, image: usize, compressed: Compressed) -> Result<(), Error> {
        if self.inflated == Some((image, compressed)) {
            return Ok(());
        }
        self.inflated = None;
        let from = &self.images[image];
        read_and_inflate(from, compressed, &mut self.deflated, &mut self.cluster)?;
        self.inflated = Some((image, compressed));
        Ok(())
    }
}

/// Fills `cluster` with the content of a compressed cluster of `image`; `deflated` is room to read into.
pub(super) fn read_and_inflate<S: Source>(
    image: &Image<S>,
    compressed: Compressed,
    deflated: &mut Vec<u8>,
    cluster: &mut Vec<u8>,
) -> Result<(), Error> {
    let length = compressed.length.min(image.length - compressed.offset);
    let (Ok(length), Ok(size)) = (usize::try_from(length), usize::try_from(image.cluster_size())) else {
        return corrupt("a compressed cluster is too long");
    };
    deflated.resize(length, 0);
    cluster.resize(size, 0);
    read_padded(&image.storage, deflated, compressed.offset)?;
    inflate(&image.header, deflated, cluster)
}
