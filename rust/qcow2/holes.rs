//! Finds data and holes of a file, as far as its file system tells them.

use std::fs::File;

use log::Level;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::lacking;

/// Finds the next data or the next hole; `u64::MAX` if no data follow. `None` where the file system does not tell, whatever its error is
/// (CIFS says EIO): the caller takes all for data, and its reads show whether something is wrong.
pub(super) fn seek(file: &File, to: SeekFrom) -> Option<u64> {
    match rustix::fs::seek(file, to) {
        Ok(found) => Some(found),
        Err(Errno::NXIO) => Some(u64::MAX),
        Err(error) => {
            let what = if matches!(to, SeekFrom::Data(_)) { "SEEK_DATA" } else { "SEEK_HOLE" };
            lacking::tell(Level::Info, file, what, error, "all of a file is taken for data");
            None
        }
    }
}
