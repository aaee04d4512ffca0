//! A lock on an open file, and the files of this host that are locked for what has none of its own.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use crate::apart::{AnyFile, Descriptor};
use crate::error::{Error, Result};
use crate::fs_kind::FsKind;
use crate::user::refuse_writable_by_others;

pub(super) const LOCK: &str = "lock on this host";

/// An open file that is locked until this is dropped.
#[derive(Debug)]
pub struct Flock(AnyFile);

impl Flock {
    /// Locks the file exclusively; `WOULDBLOCK` at once when somebody holds its lock.
    pub fn take(file: impl Into<AnyFile>) -> rustix::io::Result<Flock> {
        Flock::lock(file.into(), FlockOperation::NonBlockingLockExclusive)
    }

    /// Locks the file together with others who do; `WOULDBLOCK` at once when somebody holds it exclusively.
    pub fn share(file: impl Into<AnyFile>) -> rustix::io::Result<Flock> {
        Flock::lock(file.into(), FlockOperation::NonBlockingLockShared)
    }

    fn lock(file: AnyFile, how: FlockOperation) -> rustix::io::Result<Flock> {
        lock(&file, how).map(|()| Flock(file))
    }
}

/// Locks the file for as long as it is open, as `flock` does; `WOULDBLOCK` at once when somebody holds its lock.
pub fn lock(file: &AnyFile, how: FlockOperation) -> rustix::io::Result<()> {
    let refused = |error| if error == Errno::ACCESS && is_on_smb(file) { Errno::WOULDBLOCK } else { error };
    file.with(|file| rustix::fs::flock(file, how)).map_err(refused)
}

/// Is its file system CIFS? There a server refuses a lock that somebody holds with `EACCES`, which says elsewhere that a right is lacking.
fn is_on_smb(file: &AnyFile) -> bool {
    file.with(|file| FsKind::of(file)) == FsKind::Cifs
}

impl Drop for Flock {
    fn drop(&mut self) {
        // closing alone leaves it to a process that another thread has just forked, until that one execs
        if let Err(error) = self.0.with(|file| rustix::fs::flock(file, FlockOperation::Unlock)) {
            log::warn!("a lock could not be given back - {error}");
        }
    }
}

/// How a file of ours is opened: no link that lies in its place is followed.
pub(super) fn own() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

/// Opens the file below `state_dir` that is locked for what `name`, a plain one, stands for. It stays, for somebody could
/// wait on the one that was removed.
pub fn lock_file(state_dir: &Path, name: &str) -> Result<File> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir);
    made.map_err(|e| Error::io(LOCK, state_dir, e))?;
    // what is recorded there is believed, and undone
    refuse_writable_by_others("stateDir", state_dir)?;
    let path = state_dir.join(format!("{name}.lock"));
    let open = own().create(true).truncate(false).open(&path);
    open.map_err(|e| Error::io(LOCK, &path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_free_at_once_whoever_has_inherited_the_descriptor() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let file_of_lock = file.reopen().unwrap();
        let _inherited = file_of_lock.try_clone().unwrap();
        let lock = Flock::take(file_of_lock).unwrap();
        assert_eq!(Flock::take(file.reopen().unwrap()).unwrap_err(), Errno::WOULDBLOCK);
        drop(lock);
        Flock::take(file.reopen().unwrap()).unwrap();
    }
}
