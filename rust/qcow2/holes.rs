//! Where a file has data and where it has none, as far as its file system tells.

use std::fs::File;

use log::Level;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::lacking;

/// The next data, or the next hole; `u64::MAX` for data where there are none any more. None where the file system does not
/// tell: with whatever error it says so (CIFS with EIO), all has to be taken for data, and reading it tells what is wrong.
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
