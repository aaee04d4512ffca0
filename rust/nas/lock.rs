//! Who may do what to an instance's restore points at the same time, whichever process or host they are of.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::Duration;

use log::Level;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::apart::{AnyFile, Descriptor};
use super::denied;
use super::folder::{FILE_MODE, Folder};
use super::lease::{Lease, PACE};
use super::purpose::Purpose;
use crate::error::{Code, Error, Result, called};
use crate::host::{self, Flock};
use crate::point::fingerprints::Digest;
use crate::{config, lacking, mountinfo};

const STEP: &str = "lock the instance";
/// How long claims of other hosts that do not answer any more may hold it up: a writer's, then those of readers.
pub const WAIT: Duration = PACE.lease.saturating_mul(2);
/// Exclusive for whoever makes, changes or removes points.
const WRITERS: &str = ".nasbackup.lock";
/// Shared by whoever reads points, exclusive for whoever changes or removes them.
const CHAINS: &str = ".nasbackup.chains.lock";

/// Holds the locks of an instance's folder until it is dropped. They are `flock`'s: the kernel frees them when a
/// process dies, NFS carries them to other hosts, and two holders in one process exclude each other as well.
/// Their files stay, since another could be waiting on the one that was removed. A lease that other hosts can see goes
/// with them, for where they end at the host. Where the repository has no `flock`, files of this host take their place.
#[derive(Debug)]
pub struct InstanceLock {
    // in this order: who gets the locks of this host finds no claim of this host
    lease: Option<Lease>,
    _locks: Vec<Flock>,
}

/// Whose lock keeps others out.
#[derive(Debug)]
pub enum Locked<T> {
    /// The file's in the repository.
    InRepository(T),
    /// This host's, for the file system has no `flock`: it keeps apart what runs on this host.
    OnHost(T),
}

/// Has `take` lock `file`, which has this name in the folder; where its file system has no `flock`, a file of this host in
/// its place. `WOULDBLOCK` at once when somebody holds the lock.
pub fn lock_file<F: Descriptor + From<File>, T>(
    folder: &Folder,
    name: &str,
    file: F,
    take: impl Fn(F) -> rustix::io::Result<T>,
) -> Result<rustix::io::Result<Locked<T>>> {
    let is_read_only =
        file.with(|file| rustix::fs::fcntl_getfl(file)).is_ok_and(|flags| flags & OFlags::ACCMODE == OFlags::RDONLY);
    match take(file) {
        Err(error) if lacking::is_unknown(error) || matches!(error, Errno::BADF | Errno::NOLCK) => {
            // NFS locks a file for writing only, and this one may be kept from being changed
            let lacks_right = is_read_only && error == Errno::BADF;
            let what = if lacks_right { "the right to write to a lock's file" } else { "flock" };
            lacking::tell(Level::Warn, folder, what, error, "locks of this host and claims take its place");
            let place = mountinfo::place(folder.fd.as_fd()).map_err(|e| Error::io(STEP, &folder.path, e))?;
            let key = format!("{}\0{}\0{name}", place.file_system, place.path.display());
            let name = format!("repository.{}", Digest::of(key.as_bytes()));
            let file = host::lock_file(&config::current().state_dir, &name)?;
            Ok(take(file.into()).map(Locked::OnHost))
        }
        taken => Ok(taken.map(Locked::InRepository)),
    }
}

impl InstanceLock {
    /// Takes the locks of the instance's folder. `BUSY` when what somebody else does there does not go with it: at once on
    /// this host, or where `flock` reaches the others, else within seconds.
    pub fn take(instance: &Folder, purpose: Purpose) -> Result<InstanceLock> {
        InstanceLock::take_within(Duration::MAX, instance, purpose)
    }

    /// The same as a part of what may take `limit`: before that is over a claim that nobody renews, and that has not expired,
    /// is `BUSY` as well. Whoever waits must not take it for a NAS that does not answer.
    pub fn take_within(limit: Duration, instance: &Folder, purpose: Purpose) -> Result<InstanceLock> {
        let most = WAIT.min(limit / 4 * 3);
        let writers: LockSpec = (WRITERS, Flock::take, "another backup or delete is under way");
        let chains: LockSpec = (CHAINS, Flock::take, "its points are being verified or restored");
        let specs: Vec<LockSpec> = match purpose {
            Purpose::Add => vec![writers],
            Purpose::Change => vec![writers, chains],
            Purpose::Read => vec![(CHAINS, Flock::share, "its points are being changed")],
        };
        let explain = |error| denied::explain_writing(error, instance);
        if purpose == Purpose::Add {
            // a delete needs this file, and can't make it when there is no room
            allow_missing(instance, purpose, open(instance, CHAINS)).map_err(explain)?;
        }
        let mut locks = Vec::new();
        let mut reaches_others = true;
        for spec in specs {
            match lock(instance, purpose, spec).map_err(explain)? {
                Some(Locked::InRepository(lock)) => locks.push(lock),
                Some(Locked::OnHost(lock)) => {
                    reaches_others = false;
                    locks.push(lock);
                }
                None => {}
            }
        }
        let lease = match Lease::take(instance, purpose, PACE, most) {
            Err(error) if error.code == Code::NoSpace && purpose != Purpose::Read && !reaches_others => {
                let why = "and without flock nothing else keeps other hosts out; make some room by hand";
                return Err(Error { cause: format!("{}; {why}", error.cause), ..error });
            }
            taken => allow_missing(instance, purpose, taken).map_err(explain)?,
        };
        Ok(InstanceLock { lease, _locks: locks })
    }

    /// Is it still ours? To be asked right before what can't be undone: `BUSY` when another host has taken it over.
    pub fn check(&self) -> Result<()> {
        self.lease.as_ref().map_or(Ok(()), Lease::check)
    }
}

/// Goes without a lock's file, or a claim, that could not be made: a full repository has to be emptied, and one that can't be
/// written to may be all that is left to restore from.
fn allow_missing<T>(instance: &Folder, purpose: Purpose, taken: Result<T>) -> Result<Option<T>> {
    match taken {
        Err(error) if error.code == Code::NoSpace => {
            log::warn!("'{}' has no room for its locks and goes without: {error}", instance.path.display());
            Ok(None)
        }
        Err(error) if purpose == Purpose::Read && error.code == Code::PermissionDenied => {
            let instead = "what is read there is not locked";
            lacking::tell(Level::Warn, instance, "the right to write", &error.cause, instead);
            Ok(None)
        }
        taken => taken.map(Some),
    }
}

/// A file, how it is to be locked, and what it means when that can't be.
type LockSpec = (&'static str, fn(AnyFile) -> rustix::io::Result<Flock>, &'static str);

fn lock(instance: &Folder, purpose: Purpose, (name, take, otherwise): LockSpec) -> Result<Option<Locked<Flock>>> {
    let Some(file) = allow_missing(instance, purpose, open(instance, name))? else { return Ok(None) };
    // what fails from here on is no lack of the repository's: the file may be this host's
    let taken = lock_file(instance, name, file, take)?.map_err(|error| match error {
        Errno::WOULDBLOCK => Error::new(Code::Busy, STEP, format!("'{}': {otherwise}", instance.path.display())),
        error => Error::io(STEP, instance.path.join(name), called("flock")(error.into())),
    });
    taken.map(Some)
}

/// Opens a file to lock, and makes it if it is missing. NFS locks what is open for writing; but a NAS that keeps old files
/// from being changed keeps this one, too, and others than NFS lock what is open for reading.
fn open(instance: &Folder, name: &str) -> Result<AnyFile> {
    let there = || match instance.open_for_writing(name) {
        Err(error) if error.code == Code::PermissionDenied => {
            instance.open_file_in(name).map(AnyFile::from).map_err(|_| error)
        }
        opened => opened.map(AnyFile::from),
    };
    match there() {
        Err(error) if error.code == Code::NotFound => match instance.create_file(name, FILE_MODE) {
            // by another, meanwhile
            Err(error) if error.code == Code::AlreadyExists => there(),
            made => made.map(AnyFile::from),
        },
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FileType, Mode};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;

    #[test]
    fn each_purpose_goes_with_those_that_it_does_not_harm() {
        use Purpose::{Add, Change, Read};
        let dir = tempfile::tempdir().unwrap();
        let open = || Folder::open_root(dir.path()).unwrap();
        for (first, second, together) in [
            (Add, Add, false),
            (Add, Change, false),
            (Change, Add, false),
            (Change, Change, false),
            (Change, Read, false),
            (Read, Change, false),
            (Read, Read, true),
            (Read, Add, true),
            (Add, Read, true),
        ] {
            let held = InstanceLock::take(&open(), first).unwrap();
            let other = InstanceLock::take(&open(), second);
            assert_eq!(other.is_ok(), together, "{first:?}, then {second:?}");
            assert!(other.as_ref().err().is_none_or(|error| error.code == Code::Busy), "{other:?}");
            drop((held, other));
            // a change that was refused at its second lock keeps the first no longer
            InstanceLock::take(&open(), Change).unwrap();
        }
    }

    #[test]
    fn another_process_is_kept_out_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let lock = InstanceLock::take(&Folder::open_root(dir.path()).unwrap(), Purpose::Change).unwrap();
        for name in [WRITERS, CHAINS] {
            assert_eq!(std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let other_process = || {
            let free = |name| Command::new("flock").arg("-n").arg(dir.path().join(name)).arg("true").status().unwrap();
            [WRITERS, CHAINS].map(|name| free(name).success())
        };
        assert_eq!(other_process(), [false, false]);
        drop(lock);
        assert_eq!(other_process(), [true, true]);
    }

    #[test]
    fn a_planted_link_makes_no_file_elsewhere() {
        for name in [WRITERS, CHAINS] {
            let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            symlink(outside.path().join("made"), dir.path().join(name)).unwrap();
            assert!(InstanceLock::take(&Folder::open_root(dir.path()).unwrap(), Purpose::Change).is_err());
            assert!(!outside.path().join("made").exists());
        }
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_planted_device_is_not_opened() {
        for (name, kind, (major, minor)) in [
            (WRITERS, FileType::CharacterDevice, (1, 3)),
            (CHAINS, FileType::CharacterDevice, (1, 3)),
            (WRITERS, FileType::BlockDevice, (250, 250)),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let folder = Folder::open_root(dir.path()).unwrap();
            let device = rustix::fs::makedev(major, minor);
            rustix::fs::mknodat(&folder.fd, name, kind, Mode::RWXU, device).unwrap();
            let error = InstanceLock::take(&folder, Purpose::Change).unwrap_err();
            assert!(error.cause.ends_with("is not a regular file"), "{error}");
        }
    }
}
