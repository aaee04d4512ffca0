//! What a file system need not have: the library uses it where it is there and does without it where not, with one line in
//! the log for each file system and thing.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use log::Level;
use rustix::fs::StatxFlags;
use rustix::io::Errno;

use crate::descriptor::Attributes;
use crate::mountinfo;

/// The kernel's own number for "not supported" (ENOTSUPP), which NFS and CIFS let through to programs.
const NOT_SUPPORTED: Errno = Errno::from_raw_os_error(524);

/// The file systems that lack something, and what.
static TOLD: Mutex<BTreeSet<(u64, &str)>> = Mutex::new(BTreeSet::new());

/// True if the error says that the file system, or the kernel, does not know the call.
pub(crate) fn is_unknown(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOTTY | NOT_SUPPORTED)
}

/// True if the error says that programs can't set the rights of files there, e.g. because a server's ACLs decide.
pub(crate) fn is_unsettable(error: Errno) -> bool {
    is_unknown(error) || matches!(error, Errno::PERM | Errno::ACCESS)
}

/// Logs that the file system of `file` lacks `what`, and what is done `instead`, unless that was logged before.
pub(crate) fn tell(level: Level, file: impl AsFd, what: &'static str, error: impl Display, instead: &str) {
    // one whose number is not known is told each time; by `fstat` an NFS server would be asked, for all attributes
    let number = Attributes::of(&file, StatxFlags::empty()).ok().map(|found| found.device);
    if number.is_none_or(|number| TOLD.lock().unwrap_or_else(PoisonError::into_inner).insert((number, what))) {
        let name =
            mountinfo::place(file.as_fd()).map_or_else(|_| "a file system".to_owned(), |place| place.file_system);
        log::log!(level, "{name} lacks {what}, {instead} - {error}");
    }
}

/// Was that told of the file system of `file`?
#[cfg(test)]
pub(crate) fn is_told(file: impl AsFd, what: &'static str) -> bool {
    TOLD.lock().unwrap().contains(&(rustix::fs::fstat(file).unwrap().st_dev, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_is_told_once_of_each_file_system() {
        let (dir, proc) = (tempfile::tempdir().unwrap(), std::fs::File::open("/proc").unwrap());
        let file = std::fs::File::open(dir.path()).unwrap();
        let times = || TOLD.lock().unwrap().iter().filter(|(_, what)| what.starts_with("a test's")).count();
        for (expected, file, what) in [
            (1, &file, "a test's flock"),
            (1, &file, "a test's flock"),
            (2, &file, "a test's chmod"),
            (3, &proc, "a test's flock"),
        ] {
            tell(Level::Info, file, what, Errno::OPNOTSUPP, "it goes on");
            assert_eq!(times(), expected, "{what}");
        }
    }

    #[test]
    fn an_error_of_the_disk_is_no_lack() {
        for error in [Errno::IO, Errno::NOSPC, Errno::ROFS, Errno::STALE, Errno::DQUOT, Errno::NOENT] {
            assert!(!is_unknown(error) && !is_unsettable(error), "{error}");
        }
        assert!(is_unknown(NOT_SUPPORTED) && !is_unknown(Errno::PERM) && is_unsettable(Errno::PERM));
    }
}
