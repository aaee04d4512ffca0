//! The names of a disk and its files, by which errors tell whose failure it is.

use std::io;

use crate::error::{Code, Error};
use crate::point::fingerprints;
use crate::qcow2::{self, ImageFailure};

pub(super) const STEP: &str = "copy";

/// A disk's name, and the paths of its files.
#[derive(Debug)]
pub(super) struct DiskPaths {
    pub(super) volume: String,
    /// The output's path, and those of the images, the newest first.
    pub(super) names: Vec<String>,
}

impl DiskPaths {
    /// The error of data at guest offset `at`, from the image at that position of the chain, that differ from their fingerprint.
    pub(super) fn data_differ(&self, at: u64, image: usize) -> Error {
        let image = self.names.get(image + 1).map_or("", String::as_str);
        let cause = format!("'{image}': the data at guest offset {at} are not those that were backed up");
        Error::new(Code::CorruptImage, STEP, cause).on_disk(&self.volume)
    }

    /// The error of an image that could not be read.
    pub(super) fn image_failed(&self, failure: ImageFailure) -> Error {
        let ImageFailure { image, error } = failure;
        error.at(STEP, self.names.get(image).map_or("", String::as_str)).on_disk(&self.volume)
    }

    /// The error of the output's storage.
    pub(super) fn output_failed(&self, error: io::Error) -> Error {
        Error::io(STEP, &self.names[0], error).on_disk(&self.volume)
    }

    /// The error of a metadata table of the output that could not be written.
    pub(super) fn table_failed(&self, error: qcow2::Error) -> Error {
        error.at(STEP, &self.names[0]).on_disk(&self.volume)
    }

    /// The error of the fingerprints' file.
    pub(super) fn index_failed(&self, error: io::Error) -> Error {
        fingerprints::failed("read the fingerprints", &self.names[1], error).on_disk(&self.volume)
    }

    /// The output's path.
    pub(super) fn output(&self) -> &str {
        &self.names[0]
    }

    /// What could be read of the volume that is replaced. A failure is only logged, since the NAS has all the data.
    pub(super) fn readable_old<T>(&self, read: Result<T, qcow2::Error>) -> Option<T> {
        let log = |error: &qcow2::Error| {
            log::warn!(
                "unable to read the former content of '{}', taking all data from the NAS: {error}",
                self.names[0]
            )
        };
        read.inspect_err(log).ok()
    }
}
