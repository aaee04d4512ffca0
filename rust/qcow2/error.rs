//! The errors of work on an image, and the callback that follows and may end such work.

use std::io;
use std::path::Path;

use crate::error::{Code, Error as CoreError, Stopped};

/// Why an image can't be read or made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file does not begin with qcow2's magic number.
    #[error("not a qcow2 image")]
    NotQcow2,
    /// The metadata contradicts itself, the file's length or the specification.
    #[error("corrupt qcow2 image: {0}")]
    Corrupt(String),
    /// The image seems valid, but has a feature that this library does not know.
    #[error("unsupported qcow2 image: {0}")]
    Unsupported(String),
    /// The file could not be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The callback has ended the work.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Is called with what long work has done and what it has to do in all. It is called at least once for each few requests to the
/// storage, and may end the work.
pub type Pulse<'a> = dyn FnMut(u64, u64) -> Result<(), Stopped> + 'a;

/// Separates the end of the work by its caller, which says nothing of the image, from failures that are about the image.
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

/// The image contradicts itself in this.
pub(super) fn corrupt<T>(what: impl Into<String>) -> Result<T, Error> {
    Err(Error::Corrupt(what.into()))
}
