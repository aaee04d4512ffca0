//! Fingerprints: for each 64 KiB cluster that an image itself provides, a hash of its content at the restore point. They
//! lie in a file beside the image, its index, which the point's manifest covers by a hash of its own.
//!
//! An index is written and read as a stream, in the order of the guest's disk: it is never held in memory as a whole.

mod base;
mod contents;
mod files;
mod format;
mod index;
mod indexing;
mod merge;
mod overlay;
mod recorder;
#[cfg(test)]
mod tests;
mod verification;

use std::io::{self, ErrorKind};
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use base::{Base, Expected};
pub use files::{clear, create, open, open_as, place};
pub use index::{Index, IndexEntry};
pub use indexing::index_image;
pub use merge::merge;
pub use recorder::Recorder;
pub use verification::{Findings, verify};

use crate::digest::Digest;
use crate::error::{Code, Error};
use crate::qcow2::CLUSTER;

/// Length of a cluster's hash, in bytes.
pub const HASH: usize = 24;

static ZEROES: [u8; CLUSTER as usize] = [0; CLUSTER as usize];

/// BLAKE3 of a cluster, cut to 192 bits.
pub type Hash = [u8; HASH];

/// What a cluster holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Content {
    /// Nothing but zeroes.
    Zero,
    /// Something that has this hash.
    Hash(Hash),
}

impl Content {
    /// The content of a cluster; what a short one, at the end of a disk, lacks counts as zeroes.
    pub fn of(cluster: &[u8]) -> Content {
        let zeroes = &ZEROES[..cluster.len().min(ZEROES.len())];
        if cluster == zeroes {
            return Content::Zero;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(cluster).update(&ZEROES[zeroes.len()..]);
        let mut hash = [0; HASH];
        hasher.finalize_xof().fill(&mut hash);
        Content::Hash(hash)
    }
}

/// What a manifest records of an image's fingerprints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fingerprints {
    /// The index's name in the point's folder.
    pub file: String,
    /// BLAKE3 of the index.
    pub hash: Digest,
    /// BLAKE3 of all that is not guest data in the image's file: header, tables, padding, in the file's order.
    pub rest: Digest,
}

/// The name of the index of the image `image`: `root.x.fingerprints` for `root.x.qcow2`.
pub fn file_name(image: &str) -> String {
    format!("{}.fingerprints", image.strip_suffix(".qcow2").unwrap_or(image))
}

/// An index that could not be read or written, as the crate's error: one that contradicts itself or its recorded hash
/// is `CORRUPT_IMAGE`.
pub fn failed(step: &'static str, path: impl AsRef<Path>, error: io::Error) -> Error {
    if is_damage(&error) {
        Error::new(Code::CorruptImage, step, format!("'{}': {error}", path.as_ref().display()))
    } else {
        Error::io(step, path, error)
    }
}

/// Is the index damaged, and not only unreadable?
pub fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof)
}

fn damaged(what: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("damaged index of fingerprints: {}", what.into()))
}
