//! qcow2 metadata, read and written without QEMU, by the public specification (QEMU's `docs/interop/qcow2`).
//!
//! Nothing that is read is trusted: each offset and length is checked before it is used, memory is bounded, and
//! files are read with `pread`, never mapped, so that a failing NAS is an error and not a signal.

mod absorb;
mod bitmaps;
mod chain;
mod check;
mod create;
mod direct;
mod dirty;
mod header;
mod holes;
mod image;
mod inflate;
mod mapping;
mod naming;
mod pieces;
mod refcount;
mod regrown;
mod storage;
mod stream;
mod survey;
mod transfer;
mod view;
mod write;
mod zeroing;

use std::fs::File;
use std::io;
use std::path::Path;

pub use absorb::{Absorb, Failure, Progress, Rebase, RebasePulse};
pub use bitmaps::Bitmap;
pub use check::{Checked, check};
pub use create::{CLUSTER, check_filled, create};
pub use direct::{Buffer, Direct};
pub use dirty::Dirty;
pub use header::Backing;
pub use mapping::{Mapped, Mapping, hash_rest};
pub use pieces::{Images, Inflated, Part, Piece, Pieces, Place};
pub use regrown::{Unseen, regrown};
pub use storage::{Source, Storage};
pub use stream::Stream;
pub use transfer::{Fault, Moved, Route, Step, Writeback, shares};
pub use view::{At, Layer, Run, View};
pub use zeroing::Zeroing;

use crate::error::{Code, Error as CoreError, Stopped};
use header::Header;
use image::Image;

/// How much of an image's L1 table is read at once.
const TABLE_SLICE: u64 = 64 << 10;

/// Why an image can't be read or made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file does not begin with qcow2's magic number.
    #[error("not a qcow2 image")]
    NotQcow2,
    /// The metadata contradicts itself, the file's length or the specification.
    #[error("corrupt qcow2 image: {0}")]
    Corrupt(String),
    /// Valid, as far as one can tell, but beyond what is known here.
    #[error("unsupported qcow2 image: {0}")]
    Unsupported(String),
    /// The file could not be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Whoever was told of the progress has ended the work.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Is told how far long work is: what is done, and all there is to do. It is asked at least after each piece of work that takes
/// as long as some requests to the storage, and may end it.
pub type Pulse<'a> = dyn FnMut(u64, u64) -> Result<(), Stopped> + 'a;

/// That the work was ended says nothing of an image, any other failure does.
pub fn unless_stopped<T>(result: Result<T, Error>) -> Result<Result<T, Error>, CoreError> {
    match result {
        Err(Error::Stopped(stopped)) => Err(stopped.error()),
        result => Ok(result),
    }
}

impl Error {
    /// The same failure as the crate's error: `CORRUPT_IMAGE`, `UNSUPPORTED_IMAGE`, or what the system error means.
    pub fn at(self, step: &'static str, path: impl AsRef<Path>) -> CoreError {
        let path = path.as_ref();
        match self {
            Error::Io(error) => CoreError::io(step, path, error),
            Error::Unsupported(_) => {
                CoreError::new(Code::UnsupportedImage, step, format!("'{}': {self}", path.display()))
            }
            Error::Stopped(stopped) => stopped.error(),
            Error::NotQcow2 | Error::Corrupt(_) => {
                CoreError::new(Code::CorruptImage, step, format!("'{}': {self}", path.display()))
            }
        }
    }
}

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

fn corrupt<T>(what: impl Into<String>) -> Result<T, Error> {
    Err(Error::Corrupt(what.into()))
}

#[cfg(test)]
mod tests;
