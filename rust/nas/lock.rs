//! The lock of an instance: which work on its restore points may run at the same time, on all processes and hosts.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use log::Level;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::claim::{boot_time, claimed_by};
use super::denied;
use super::folder::Folder;
use super::lease::Lease;
use super::purpose::Purpose;
use crate::apart::{AnyFile, Apart, Descriptor};
use crate::config::FILE_MODE;
use crate::digest::Digest;
use crate::error::{Code, Error, Result, called};
use crate::fs_kind::FsKind;
use crate::host::{self, Flock};
use crate::limits;
use crate::{config, lacking, mountinfo};

const STEP: &str = "lock the instance";
/// The wait by which a test shortens for how long a look at the lock counts.
pub(crate) const LOOK: &str = "look at the instance's lock again";
/// Locked exclusively to make, change or remove points.
const WRITERS: &str = ".nasbackup.lock";
/// Shared to read points, locked exclusively to change or remove them.
const CHAINS: &str = ".nasbackup.chains.lock";

/// Holds the locks of an instance's folder until its drop. The locks are `flock`'s: the kernel frees them when a process dies,
/// NFS carries them to other hosts, and two holders in one process exclude each other, too. The lock files stay, because
/// another process could be waiting on a removed one. A lease excludes other hosts where `flock` ends at the host. Where the
/// repository has no `flock`, files of this host take the locks' place.
#[derive(Debug)]
pub struct InstanceLock {
    // dropped in this order: the next holder of this host's locks must find no claim of this host
    lease: Option<Lease>,
    /// What the folder held when it was locked, if it was listed then.
    names: Mutex<Option<Vec<OsString>>>,
    /// When the claim was last known to be ours, by a clock that goes on while the host sleeps.
    looked: Mutex<Option<Duration>>,
    _locks: Vec<Flock>,
}

/// Where the lock is.
#[derive(Debug)]
pub enum Locked<T> {
    /// On the file in the repository.
    InRepository(T),
    /// On a file of this host, because the file system has no `flock`: it excludes only what runs on this host.
    OnHost(T),
}

/// Calls `take` to lock `file`, which has this name in the folder, or, where its file system has no `flock`, a file of this
/// host in its place. `WOULDBLOCK` at once when somebody holds the lock.
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
            // NFS locks only files that are open for writing, and the NAS may forbid to change this one
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
    /// Takes the locks of the instance's folder. `BUSY` when somebody else does conflicting work there: at once on this host,
    /// or where `flock` reaches the other host, else within seconds.
    pub fn take(instance: &Folder, purpose: Purpose) -> Result<InstanceLock> {
        InstanceLock::take_within(Duration::MAX, instance, purpose)
    }

    /// Like `take`, as a part of work that may take `limit`: a claim that is neither renewed nor expired by then is `BUSY`,
    /// too, so that the caller does not take the wait for a NAS that does not answer.
    pub fn take_within(limit: Duration, instance: &Folder, purpose: Purpose) -> Result<InstanceLock> {
        let most = limits::CLAIM_WAIT.min(limit / 4 * 3);
        let specs = specs(purpose);
        let explain = |error| denied::explain_writing(error, instance);
        if purpose == Purpose::Add && instance.kind(CHAINS).map_err(explain)? != Some(FileType::RegularFile) {
            // made now, because a delete needs this file, and can't make it on a full repository
            allow_missing(instance, purpose, open(instance, purpose, CHAINS)).map_err(explain)?;
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
        // of the moment before: only one host can make a claim
        let looked = Mutex::new(Some(boot_time()));
        let lease = match Lease::take(instance, purpose, most) {
            Err(error) if error.code == Code::NoSpace && purpose != Purpose::Read && !reaches_others => {
                let why = "and without flock nothing else keeps other hosts out; make some room by hand";
                return Err(Error { cause: format!("{}; {why}", error.cause), ..error });
            }
            taken => allow_missing(instance, purpose, taken).map_err(explain)?,
        };
        let (lease, names) = lease.unzip();
        Ok(InstanceLock { lease, names: Mutex::new(names.flatten()), looked, _locks: locks })
    }

    /// `BUSY` if another host has taken the instance over. The caller checks right before each step that can't be undone.
    pub fn check(&self) -> Result<()> {
        let Some(lease) = &self.lease else { return Ok(()) };
        // of the moment before the question
        let now = boot_time();
        let checked = lease.check();
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = checked.is_ok().then_some(now);
        checked
    }

    /// Like `check`, of steps one after the other: nobody is asked again within a `JOB_LOOK` while the claim is renewed. One is taken over
    /// only once it has not been renewed for a hundred times as long.
    pub fn check_lately(&self) -> Result<()> {
        let looked = *self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_late = |looked: Duration| boot_time().saturating_sub(looked) >= limits::within(LOOK, limits::JOB_LOOK);
        let is_fresh = self.lease.as_ref().is_none_or(Lease::is_fresh);
        if looked.is_none_or(is_late) || !is_fresh { self.check() } else { Ok(()) }
    }

    /// The names in the folder as it was locked, but those of readers' claims; once, and if they are known.
    pub fn take_names(&self) -> Option<Vec<OsString>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Goes on without a lock's file, or a claim, that could not be made: an operator has to be able to delete from a full
/// repository, and to restore from a read-only one.
fn allow_missing<T>(instance: &Folder, purpose: Purpose, taken: Result<T>) -> Result<Option<T>> {
    match taken {
        Err(error) if error.code == Code::NoSpace => {
            log::warn!("unable to lock '{}', which is full, going on unlocked: {error}", instance.path.display());
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

/// A lock's file, how to lock it, and what it means when somebody holds the lock.
type LockSpec = (&'static str, fn(AnyFile) -> rustix::io::Result<Flock>, &'static str);

fn specs(purpose: Purpose) -> Vec<LockSpec> {
    let writers: LockSpec = (WRITERS, Flock::take, "another backup or delete is under way");
    let chains: LockSpec = (CHAINS, Flock::take, "its points are being verified, restored or mounted");
    match purpose {
        Purpose::Add => vec![writers],
        Purpose::Change => vec![writers, chains],
        Purpose::Read => vec![(CHAINS, Flock::share, "its points are being changed")],
    }
}

/// `BUSY` where a process of this host holds a lock that this purpose needs for itself. Locks nothing.
pub fn refuse_held(instance: &Folder, purpose: Purpose) -> Result<()> {
    for (name, _, otherwise) in specs(purpose).into_iter().filter(|_| purpose != Purpose::Read) {
        let file = match instance.open_file_in(name) {
            Err(error) if error.code == Code::NotFound => continue,
            file => file?,
        };
        if let Some(process) = file.stat().ok().and_then(|found| host::holder(&found)) {
            return Err(busy(instance, otherwise, Some(format!("process {process} of this host"))));
        }
    }
    Ok(())
}

fn busy(instance: &Folder, otherwise: &str, who: Option<String>) -> Error {
    let who = who.map(|who| format!(", by {who}")).unwrap_or_default();
    Error::new(Code::Busy, STEP, format!("'{}': {otherwise}{who}", instance.path.display()))
}

fn lock(instance: &Folder, purpose: Purpose, (name, take, otherwise): LockSpec) -> Result<Option<Locked<Flock>>> {
    let Some(file) = allow_missing(instance, purpose, open(instance, purpose, name))? else { return Ok(None) };
    let found = file.stat();
    // errors from here on are not tolerated as a lack of the repository's: the file may be on this host
    let taken = lock_file(instance, name, AnyFile::from(file), take)?.map_err(|error| match error {
        Errno::WOULDBLOCK => {
            let ours = found.ok().and_then(|found| host::holder(&found));
            let ours = ours.map(|process| format!("process {process} of this host"));
            busy(instance, otherwise, ours.or_else(|| claimed_by(instance)))
        }
        error => Error::io(STEP, instance.path.join(name), called("flock")(error.into())),
    });
    taken.map(Some)
}

/// Opens a file to lock, and makes it if it is missing. Opens it for writing, because NFS locks only such; if the NAS forbids
/// to change the file, opens it for reading, which suffices elsewhere.
fn open(instance: &Folder, purpose: Purpose, name: &str) -> Result<Apart> {
    let open = || match purpose {
        // NFS locks a file for several only if it is open for reading
        Purpose::Read => instance.open_for_writing(name),
        Purpose::Add | Purpose::Change => instance.open_for_writing_alone(name),
    };
    let there = || match open() {
        Err(error) if error.code == Code::PermissionDenied => {
            instance.open_file_in(name).ok().and_then(|file| Apart::of(&file).ok()).ok_or(error)
        }
        opened => opened,
    };
    match there() {
        Err(error) if error.code == Code::NotFound => match create(instance, name) {
            // somebody else made it meanwhile
            Err(error) if error.code == Code::AlreadyExists => there(),
            made => made,
        },
        found => found,
    }
}

fn create(instance: &Folder, name: &str) -> Result<Apart> {
    instance.create_file_once(name, FILE_MODE, FsKind::in_table(instance))
}

#[cfg(test)]
mod tests {
    use super::super::claim::{TAKE_OVER, WRITER};
    use super::*;
    use rustix::fs::Mode;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;

    #[test]
    fn each_purpose_conflicts_only_with_those_that_it_would_harm() {
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

    #[test]
    fn a_look_counts_no_more_once_another_host_may_take_over_or_has_done_so() {
        for (expiry, then) in
            [(limits::CLAIM, InstanceLock::check as fn(&_) -> _), (Duration::ZERO, InstanceLock::check_lately)]
        {
            limits::shorten(&[TAKE_OVER], expiry);
            let dir = tempfile::tempdir().unwrap();
            let held = InstanceLock::take(&Folder::open_root(dir.path()).unwrap(), Purpose::Change).unwrap();
            held.check_lately().unwrap();
            std::fs::remove_file(dir.path().join(WRITER)).unwrap();
            // that it was made is a look, and here a late one
            let looked = held.looked.lock().unwrap().as_mut().map(|looked| *looked += limits::CLAIM);
            let asked = looked.is_none() || held.check_lately().is_err();
            assert!(asked || expiry > Duration::ZERO);
            assert!(!asked || !held.lease.as_ref().unwrap().is_fresh(), "{expiry:?}");
            for check in [then, InstanceLock::check_lately] {
                assert_eq!(check(&held).unwrap_err().code, Code::Busy, "{expiry:?}");
            }
        }
    }
}
