//! One change to an instance's restore points at a time, from whichever process or host.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::folder::{FILE_MODE, Folder};
use super::lease::{Lease, PACE};
use crate::error::{Code, Error, Result};

const NAME: &str = ".nasbackup.lock";
const STEP: &str = "lock the instance";
/// How long a claim of another host, which does not answer any more, may hold it up.
pub const WAIT: Duration = PACE.lease;

/// Holds the lock of an instance's folder until it is dropped. The lock is `flock`'s: the kernel frees it when a
/// process dies, NFS carries it to other hosts, and two holders in one process exclude each other as well.
/// Its file stays, since another could be waiting on the one that was removed. Where it ends at the host, a lease that the
/// others can see goes with it.
#[derive(Debug)]
pub struct InstanceLock {
    // in this order: who gets the lock of this host finds no claim of this host
    lease: Lease,
    _lock: Flock,
}

/// An open file that is locked exclusively until this is dropped.
#[derive(Debug)]
pub struct Flock(OwnedFd);

impl Flock {
    /// Locks the file; `WOULDBLOCK` at once when somebody holds its lock.
    pub fn take(file: impl Into<OwnedFd>) -> rustix::io::Result<Flock> {
        let file = file.into();
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map(|()| Flock(file))
    }
}

impl Drop for Flock {
    fn drop(&mut self) {
        // closing alone leaves it to a process that another thread has just forked, until that one execs
        if let Err(error) = rustix::fs::flock(&self.0, FlockOperation::Unlock) {
            log::warn!("a lock could not be given back - {error}");
        }
    }
}

impl InstanceLock {
    /// Takes the lock of the instance's folder. `BUSY` when somebody holds it: at once on this host, or where `flock`
    /// reaches the others, else within seconds.
    pub fn take(instance: &Folder) -> Result<InstanceLock> {
        let path = instance.path.join(NAME);
        // NFS needs a descriptor for writing; a symbolic link would make a file elsewhere
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&instance.fd, NAME, flags, Mode::from_raw_mode(FILE_MODE))
            .map_err(|e| Error::io(STEP, &path, e))?;
        match Flock::take(file) {
            Ok(lock) => Ok(InstanceLock { lease: Lease::take(instance, PACE)?, _lock: lock }),
            Err(Errno::WOULDBLOCK) => {
                let cause = format!("another backup or delete of '{}' is under way", instance.path.display());
                Err(Error::new(Code::Busy, STEP, cause))
            }
            Err(error) => Err(Error::io(STEP, &path, error)),
        }
    }

    /// Is it still ours? To be asked right before what can't be undone: `BUSY` when another host has taken it over.
    pub fn check(&self) -> Result<()> {
        self.lease.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;

    #[test]
    fn a_second_one_is_busy_until_the_first_ends() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open_root(dir.path()).unwrap();
        let lock = InstanceLock::take(&folder).unwrap();
        let file = dir.path().join(NAME);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

        let again = Folder::open_root(dir.path()).unwrap();
        assert_eq!(InstanceLock::take(&again).unwrap_err().code, Code::Busy);
        let other_process = || Command::new("flock").arg("-n").arg(&file).arg("true").status().unwrap().success();
        assert!(!other_process());
        drop(lock);
        assert!(other_process());
        InstanceLock::take(&again).unwrap();
    }

    #[test]
    fn it_is_free_at_once_whoever_has_inherited_the_descriptor() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lock = Flock::take(file.reopen().unwrap()).unwrap();
        let _inherited = lock.0.try_clone().unwrap();
        assert_eq!(Flock::take(file.reopen().unwrap()).unwrap_err(), Errno::WOULDBLOCK);
        drop(lock);
        Flock::take(file.reopen().unwrap()).unwrap();
    }

    #[test]
    fn a_planted_link_makes_no_file_elsewhere() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(outside.path().join("made"), dir.path().join(NAME)).unwrap();
        assert!(InstanceLock::take(&Folder::open_root(dir.path()).unwrap()).is_err());
        assert!(!outside.path().join("made").exists());
    }
}
