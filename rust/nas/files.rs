//! Open files of the NAS, on a thread that must not wait.

use crate::limits;
use crate::work::deadline::bounded;

/// Open files of the NAS, held by a thread that must not wait: the drop leaves their close to another thread.
#[derive(Debug)]
pub struct NasFiles<T: Send + 'static>(Option<T>);

impl<T: Send> From<T> for NasFiles<T> {
    fn from(files: T) -> NasFiles<T> {
        NasFiles(Some(files))
    }
}

impl<T: Send> std::ops::Deref for NasFiles<T> {
    type Target = T;
    fn deref(&self) -> &T {
        match &self.0 {
            Some(files) => files,
            None => unreachable!("they are taken by the drop alone"),
        }
    }
}

impl<T: Send> Drop for NasFiles<T> {
    fn drop(&mut self) {
        let files = self.0.take();
        let close = move || {
            drop(files);
            Ok(())
        };
        if let Err(error) = bounded("close files of the NAS", limits::FILE_CLOSE, close) {
            log::debug!("{error}");
        }
    }
}
