//! What an image tells of itself.

use std::fs::File;

use super::bitmaps::Bitmap;
use super::error::Error;
use super::header::{self, Backing, Header};
use super::image::Image;

/// How much of an image's L1 table is read at once.
const TABLE_SLICE: u64 = 64 << 10;

/// What an image's header, header extensions and bitmap directory say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// 2 or 3.
    pub version: u32,
    /// Binary logarithm of the cluster size, 9 to 21.
    pub cluster_bits: u32,
    /// Size that the guest sees, in bytes; never 0.
    pub virtual_size: u64,
    /// The backing file, if the image has one.
    pub backing: Option<Backing>,
    /// The header names an encryption method (AES or LUKS).
    pub encrypted: bool,
    /// Incompatible feature bit 0: reference counts may be stale.
    pub dirty: bool,
    /// Incompatible feature bit 1: QEMU found it corrupt, and opens it for reading only.
    pub corrupt: bool,
    /// Incompatible feature bit 2: the data lies in another file.
    pub external_data: bool,
    /// The name of that file as it stands in the header; bytes that are not UTF-8 are replaced.
    pub data_file: Option<String>,
    /// Incompatible feature bit 4: L2 entries with subclusters.
    pub extended_l2: bool,
    /// Incompatible feature bits that the specification did not define when this was written.
    pub unknown_incompatible: u64,
    /// How many internal snapshots it holds.
    pub snapshots: u32,
    /// The bitmaps stored in the image; empty, as for QEMU, unless `bitmaps_consistent`.
    pub bitmaps: Vec<Bitmap>,
    /// Autoclear feature bit 0: whoever wrote the image last kept the bitmaps up to date.
    pub bitmaps_consistent: bool,
}

/// Reads the header, its extensions and the bitmap directory.
pub fn inspect(file: &File) -> Result<Info, Error> {
    info(file, Header::read(file)?)
}

/// The same of an image that is to be read as a part of a chain; the error says why that can't be, as far as its header and
/// its L1 table tell. What its L2 tables name is looked at by whoever follows them.
pub fn inspect_readable(file: &File) -> Result<Info, Error> {
    let mut image = Image::open(file.try_clone()?, TABLE_SLICE)?;
    image.check_l1()?;
    info(file, image.header)
}

fn info(file: &File, header: Header) -> Result<Info, Error> {
    let bitmaps_consistent = header.autoclear & header::AUTOCLEAR_BITMAPS != 0;
    let bitmaps = match &header.bitmaps {
        Some(directory) if bitmaps_consistent => directory.read(file, header.cluster_size())?,
        _ => Vec::new(),
    };
    Ok(Info {
        version: header.version,
        cluster_bits: header.cluster_bits,
        virtual_size: header.virtual_size,
        encrypted: header.crypt_method != 0,
        dirty: header.incompatible & header::DIRTY != 0,
        corrupt: header.incompatible & header::CORRUPT != 0,
        external_data: header.incompatible & header::EXTERNAL_DATA != 0,
        extended_l2: header.incompatible & header::EXTENDED_L2 != 0,
        unknown_incompatible: header.incompatible & !header::KNOWN_INCOMPATIBLE,
        snapshots: header.tables.snapshots,
        bitmaps,
        bitmaps_consistent,
        data_file: header.data_file,
        backing: header.backing,
    })
}

/// Reads no more than is needed to tell the backing file, so that damage elsewhere does not hide it.
pub fn backing(file: &File) -> Result<Option<Backing>, Error> {
    Ok(Header::read(file)?.backing)
}
