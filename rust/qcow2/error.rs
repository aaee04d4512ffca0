//! Why an image can't be read or made, and the progress of work on one, which may be ended.

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

/// The image contradicts itself in this.
pub(super) fn corrupt<T>(what: impl Into<String>) -> Result<T, Error> {
    Err(Error::Corrupt(what.into()))
}
