//! What is open, by its descriptor.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{CWD, Mode, OFlags};

/// Opens what is open as `file` once more, with `flags` as open(2) takes them, by no name that anybody could exchange. It shares
/// neither locks nor position, and whoever opens it is asked for anew what it may.
pub(crate) fn open_again(file: impl AsFd, flags: OFlags) -> rustix::io::Result<File> {
    // of this thread: the process's first one may have ended
    let link = format!("/proc/thread-self/fd/{}", file.as_fd().as_raw_fd());
    rustix::fs::openat(CWD, link, flags | OFlags::CLOEXEC, Mode::empty()).map(File::from)
}
