//! What this host remembers of a virtual machine: a lock against a second backup of it, the bitmaps that were begun here
//! and not removed since, and the backup that runs. The manifests name the published bitmaps too, but not once their point
//! was deleted.
//!
//! A process holds the lock as long as it works for the machine: a record that names a backup and whose lock is free is of a process
//! that has died, or that could not clear up.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::flock::{Flock, LOCK, lock_file, own};
use crate::error::{Code, Error, Result};
use crate::work::steps;

/// What a started backup changes, so that the next process can undo it should this one die. A scratch folder and a mount are
/// not part of it: they carry locks of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Begun {
    /// The virtual machine.
    pub vm: String,
    /// The caller's id of the job, or the one that it was given.
    pub job: String,
    /// The host path of the repository's root.
    pub root: PathBuf,
    /// The restore point, relative to it.
    pub point: String,
    /// The bitmap that begins with it.
    pub bitmap: Option<String>,
    /// True if the guest did not wait for failed storage before the backup: if it does now, the backup is to blame, and recovery
    /// may resume it.
    #[serde(alias = "ran")]
    pub may_resume: bool,
    /// The disks of a stopped guest that get the bitmap.
    pub disks: Vec<String>,
    /// The host path of the folder through which QEMU writes, of a push.
    #[serde(default)]
    pub view: Option<PathBuf>,
}

impl Begun {
    /// True if its repository, or what QEMU sees of it, is mounted below `folder`.
    pub fn uses(&self, folder: &Path) -> bool {
        self.view.iter().chain([&self.root]).any(|path| path.starts_with(folder))
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    #[serde(default)]
    bitmaps: BTreeSet<String>,
    #[serde(default)]
    begun: Option<Begun>,
    /// The guest whose file systems may be frozen, which may outlast its backup.
    #[serde(default)]
    frozen: Option<String>,
}

/// One virtual machine on this host, locked until dropped.
#[derive(Debug)]
pub struct HostState {
    _lock: Flock,
    // dropped after the lock: a machine that is locked while nobody holds this is being backed up
    _undoes: Option<Flock>,
    vm: String,
    path: PathBuf,
    record: Record,
}

impl HostState {
    /// Locks the virtual machine `vm` below `state_dir`. `BUSY` at once when somebody else has locked it on this host.
    pub fn lock(state_dir: &Path, vm: &str) -> Result<HostState> {
        HostState::lock_and_keep(state_dir, vm, None)
    }

    /// Locks the virtual machine to undo what a backup has left; `BUSY` at once, too.
    pub fn lock_to_undo(state_dir: &Path, vm: &str) -> Result<HostState> {
        let undoes = flock(state_dir, vm, UNDO, Flock::take)?;
        HostState::lock_and_keep(state_dir, vm, Some(undoes))
    }

    /// Locks the virtual machine for a backup. `BUSY` at once when another backup is under way; while somebody undoes what an
    /// earlier one has left, calls `wait` and tries again, until `wait` fails.
    pub fn lock_when_undone(state_dir: &Path, vm: &str, mut wait: impl FnMut() -> Result<()>) -> Result<HostState> {
        let is_busy = |error: &Error| error.code == Code::Busy;
        loop {
            match HostState::lock(state_dir, vm) {
                Err(error) if is_busy(&error) => {}
                locked => return locked,
            }
            match flock(state_dir, vm, UNDO, Flock::share) {
                Err(error) if is_busy(&error) => wait()?,
                Err(error) => return Err(error),
                Ok(_nobody_undoes) => return HostState::lock(state_dir, vm),
            }
        }
    }

    fn lock_and_keep(state_dir: &Path, vm: &str, undoes: Option<Flock>) -> Result<HostState> {
        let lock = flock(state_dir, vm, "", Flock::take)?;
        let path = state_dir.join(format!("{}.json", file_name(vm)));
        let record = read(&path)?;
        Ok(HostState { _lock: lock, _undoes: undoes, vm: vm.to_owned(), path, record })
    }

    /// The virtual machine.
    pub fn vm(&self) -> &str {
        &self.vm
    }

    /// The bitmaps that were begun on this host and not removed, as far as it knows.
    pub fn bitmaps(&self) -> &BTreeSet<String> {
        &self.record.bitmaps
    }

    /// The backup that was begun and neither completed nor undone.
    pub fn begun(&self) -> Option<&Begun> {
        self.record.begun.as_ref()
    }

    /// Records a backup before its first effect, and its bitmap as ours.
    pub fn begin(&mut self, begun: Begun) -> Result<()> {
        self.record.bitmaps.extend(begun.bitmap.clone());
        self.record.begun = Some(begun);
        self.write()
    }

    /// May the guest's file systems be frozen?
    pub fn frozen(&self) -> bool {
        self.record.frozen.is_some()
    }

    /// Records that the guest's file systems may be frozen, or that they are not any more.
    pub fn set_frozen(&mut self, frozen: bool) -> Result<()> {
        if self.frozen() == frozen {
            return Ok(());
        }
        self.record.frozen = frozen.then(|| self.vm.clone());
        self.write()
    }

    /// Records that the backup is complete, or that nothing is left of it. If the write fails, the next process checks this backup
    /// again.
    pub fn end(&mut self) {
        if self.record.begun.take().is_some()
            && let Err(error) = self.write()
        {
            log::warn!("{}: the next backup looks at this one again: {error}", self.vm);
        }
    }

    /// A backup has failed. What is left of it is looked for later.
    pub fn end_unless(&mut self, leftovers: bool) {
        if !leftovers {
            self.end();
        }
    }

    /// Remembers a bitmap before it is begun, so that it is known as ours if this process dies.
    pub fn remember(&mut self, bitmap: &str) -> Result<()> {
        if self.record.bitmaps.insert(bitmap.to_owned()) { self.write() } else { Ok(()) }
    }

    /// Forgets a bitmap that is gone.
    pub fn forget(&mut self, bitmap: &str) -> Result<()> {
        if self.record.bitmaps.remove(bitmap) { self.write() } else { Ok(()) }
    }

    fn write(&self) -> Result<()> {
        let replace = || -> std::io::Result<()> {
            if self.record.bitmaps.is_empty() && self.record.begun.is_none() && !self.frozen() {
                return match fs::remove_file(&self.path) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
                    _ => Ok(()),
                };
            }
            let new = self.path.with_extension("new");
            let mut file = own().create(true).truncate(true).open(&new)?;
            file.write_all(&serde_json::to_vec(&self.record)?)?;
            file.sync_all()?;
            fs::rename(&new, &self.path)?;
            File::open(self.path.parent().unwrap_or(Path::new("/")))?.sync_all()
        };
        steps::at("record");
        let written = replace().map_err(|e| Error::io("record what was begun on this host", &self.path, e));
        steps::done("record");
        written
    }
}

/// What the name of the file ends with that is locked beside the machine's own while somebody undoes.
const UNDO: &str = ".undo";

/// Locks the machine's file of this kind, by `take`.
fn flock(state_dir: &Path, vm: &str, kind: &str, take: fn(File) -> rustix::io::Result<Flock>) -> Result<Flock> {
    let name = format!("{}{kind}", file_name(vm));
    take(lock_file(state_dir, &name)?).map_err(|e| match e {
        rustix::io::Errno::WOULDBLOCK => {
            Error::new(Code::Busy, LOCK, format!("a backup of '{vm}' is under way, or is being cleaned up"))
        }
        e => Error::io(LOCK, state_dir.join(name), e),
    })
}

/// The backups that records name, of live and dead processes.
pub fn begun(state_dir: &Path) -> Vec<Begun> {
    records(state_dir).filter_map(|record| record.begun).collect()
}

/// The virtual machines of which something may have to be undone: those of these backups, and those that may be frozen.
pub fn unfinished(state_dir: &Path) -> BTreeSet<String> {
    records(state_dir).flat_map(|record| record.begun.map(|begun| begun.vm).into_iter().chain(record.frozen)).collect()
}

fn records(state_dir: &Path) -> impl Iterator<Item = Record> {
    let entries = fs::read_dir(state_dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let records = entries.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    // what can't be read is told when its virtual machine is locked
    records.filter_map(|path| read(&path).ok())
}

fn read(path: &Path) -> Result<Record> {
    const STEP: &str = "read this host's record";
    match fs::read(path) {
        Ok(text) => Ok(parse(path, &text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Record::default()),
        Err(e) => Err(Error::io(STEP, path, e)),
    }
}

/// The record; one that can't be understood is as good as none, for the manifests name the bitmaps too.
fn parse(path: &Path, text: &[u8]) -> Record {
    serde_json::from_slice(text).unwrap_or_else(|e| {
        log::warn!("'{}' can't be understood and is begun anew: {e}", path.display());
        Record::default()
    })
}

/// A file name for any domain name: what is not plain is written as `%` and two hexadecimal digits.
fn file_name(vm: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    vm.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02x}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_busy_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let first = HostState::lock(dir.path(), "i-2-10-VM").unwrap();
        assert_eq!(HostState::lock(dir.path(), "i-2-10-VM").unwrap_err().code, Code::Busy);
        HostState::lock(dir.path(), "i-2-11-VM").unwrap();
        drop(first);
        HostState::lock(dir.path(), "i-2-10-VM").unwrap();
    }

    #[test]
    fn a_backup_waits_for_who_undoes_and_for_no_other_backup() {
        let dir = tempfile::tempdir().unwrap();
        let lock = |waits: &mut dyn FnMut() -> Result<()>| HostState::lock_when_undone(dir.path(), "vm", waits);
        let never = || -> Result<()> { panic!("nobody undoes anything") };
        let undoes = HostState::lock_to_undo(dir.path(), "vm").unwrap();
        assert_eq!(HostState::lock_to_undo(dir.path(), "vm").unwrap_err().code, Code::Busy);
        let patience = Error::new(Code::Timeout, LOCK, "enough");
        assert_eq!(lock(&mut || Err(patience.clone())).unwrap_err(), patience);
        let (mut undoes, mut waited) = (Some(undoes), 0);
        let backup = lock(&mut || {
            waited += 1;
            drop(undoes.take_if(|_| waited == 2));
            Ok(())
        });
        assert_eq!(waited, 2);
        assert_eq!(lock(&mut { never }).unwrap_err().code, Code::Busy);
        assert_eq!(HostState::lock_to_undo(dir.path(), "vm").unwrap_err().code, Code::Busy);
        drop(backup.unwrap());
        lock(&mut { never }).unwrap();
    }

    #[test]
    fn no_record_is_believed_that_others_may_have_written() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        for state_dir in [dir.path().to_owned(), dir.path().join("state")] {
            let error = HostState::lock(&state_dir, "i-2-10-VM").unwrap_err();
            assert!(error.code == Code::InvalidArgument && error.cause.starts_with("stateDir: "), "{error}");
        }
    }

    #[test]
    fn a_link_in_the_place_of_a_record_or_a_lock_is_not_followed() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let victim = outside.path().join("victim");
        fs::write(&victim, "somebody else's").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join("vm.new")).unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join("other.lock")).unwrap();
        assert!(HostState::lock(dir.path(), "vm").unwrap().remember("backup-1").is_err());
        assert!(HostState::lock(dir.path(), "other").is_err());
        assert_eq!(fs::read(&victim).unwrap(), b"somebody else's");
    }

    #[test]
    fn a_record_that_is_damaged_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("vm.json"), "").unwrap();
        let mut state = HostState::lock(dir.path(), "vm").unwrap();
        assert!(state.bitmaps().is_empty());
        state.remember("backup-1").unwrap();
    }

    #[test]
    fn a_guest_may_be_frozen_for_longer_than_its_backup_runs() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = HostState::lock(dir.path(), "i-2-10-VM").unwrap();
        state.set_frozen(true).unwrap();
        state.end();
        drop(state);
        assert_eq!(unfinished(dir.path()), BTreeSet::from(["i-2-10-VM".to_owned()]));
        HostState::lock(dir.path(), "i-2-10-VM").unwrap().set_frozen(false).unwrap();
        assert_eq!(unfinished(dir.path()), BTreeSet::new());
    }

    #[test]
    fn bitmaps_are_remembered_across_locks() {
        let dir = tempfile::tempdir().unwrap();
        let vm = "näme/with . \"odd\"";
        let mut state = HostState::lock(dir.path(), vm).unwrap();
        state.remember("backup-1").unwrap();
        state.remember("backup-2").unwrap();
        state.forget("backup-1").unwrap();
        drop(state);
        let mut state = HostState::lock(dir.path(), vm).unwrap();
        assert_eq!(state.bitmaps().iter().collect::<Vec<_>>(), ["backup-2"]);
        state.forget("backup-2").unwrap();
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["n%c3%a4me%2fwith%20%2e%20%22odd%22.lock"], "an empty record leaves no file");
    }
}
