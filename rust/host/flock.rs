//! A lock on an open file, and the files of this host that are locked for what has none of its own.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, OFlags, Stat};
use rustix::io::Errno;

use crate::apart::{AnyFile, Descriptor};
use crate::error::{Error, Result};
use crate::fs_kind::FsKind;
use crate::user::refuse_writable_by_others;

pub(super) const LOCK: &str = "lock on this host";

/// An open file that is locked until this is dropped.
#[derive(Debug)]
pub struct Flock {
    /// None during the drop.
    file: Option<AnyFile>,
}

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
        lock(&file, how).map(|()| Flock { file: Some(file) })
    }
}

/// Locks the file for as long as it is open, as `flock` does; `WOULDBLOCK` at once when somebody holds its lock.
pub fn lock(file: &AnyFile, how: FlockOperation) -> rustix::io::Result<()> {
    let refused = |error| if error == Errno::ACCESS && is_on_smb(file) { Errno::WOULDBLOCK } else { error };
    file.with(|file| rustix::fs::flock(file, how)).map_err(refused)
}

/// The process of this host that holds a lock of this file, as `1234 (nasbackup)`; none if it is another host's, or can't be seen.
pub fn holder(file: &Stat) -> Option<String> {
    let process = holder_in(&fs::read_to_string("/proc/locks").ok()?, file.st_dev, file.st_ino)?;
    let command = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    Some(format!("{process} ({})", command.trim()))
}

/// The process that holds the lock, in a text as of `/proc/locks` (proc(5)): `1: FLOCK ADVISORY WRITE 1234 fd:01:5678 0 EOF`. A line of
/// a process that waits has an arrow before its type.
fn holder_in(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let file = format!("{:02x}:{:02x}:{inode}", rustix::fs::major(device), rustix::fs::minor(device));
    locks.lines().find_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [_, "FLOCK", _, _, process, of, ..] if of == file => process.parse().ok(),
        _ => None,
    })
}

/// Is its file system CIFS? There a server refuses a lock that somebody holds with `EACCES`, which says elsewhere that a right is lacking.
fn is_on_smb(file: &AnyFile) -> bool {
    file.with(|file| FsKind::of(file)) == FsKind::Cifs
}

impl Drop for Flock {
    fn drop(&mut self) {
        // closing alone leaves it to a process that another thread has just forked, until that one execs
        let unlock = |file: &File| rustix::fs::flock(file, FlockOperation::Unlock);
        if let Some(Err(error)) = self.file.take().and_then(|file| file.close_after(unlock)) {
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
    fn the_holder_of_a_lock_is_found_in_the_kernel_s_table() {
        let locks = "1: POSIX  ADVISORY  WRITE 5 fd:01:77 0 EOF\n2: FLOCK  ADVISORY  READ 12 fd:01:78 0 EOF\n\
            2: -> FLOCK  ADVISORY  WRITE 13 fd:01:77 0 EOF\n3: FLOCK  ADVISORY  WRITE 14 fd:01:77 0 EOF\n";
        let device = rustix::fs::makedev(0xfd, 1);
        assert_eq!([77, 78, 79].map(|inode| holder_in(locks, device, inode)), [Some(14), Some(12), None]);
        let file = tempfile::NamedTempFile::new().unwrap();
        let _lock = Flock::take(file.reopen().unwrap()).unwrap();
        let found = file.reopen().unwrap().stat().unwrap();
        // overlay and btrfs show another device to stat
        assert!(holder(&found).is_none_or(|told| told.starts_with(&format!("{} (", std::process::id()))));
    }

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
