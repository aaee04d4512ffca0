//! The way of a rebase, of one file or of all of a point: chains opened and planned, each disk rebased in steps that
//! have a deadline, its fingerprints merged, the manifest at last.
//!
//! No journal is kept: the images' headers are the truth, the manifest tells what an image was and is to be, and the same call
//! again finishes what was cut off.

mod fingerprints;
mod guarded;
mod record;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::FileType;
use serde::Serialize;

use crate::config;
use crate::error::{Code, Error, Result, Stopped};
use crate::job::Reporter;
use crate::nas::apart::Apart;
use crate::nas::denied;
use crate::nas::folder::{Folder, open_same_for_writing};
use crate::nas::health;
use crate::nas::lock::{InstanceLock, Purpose};
use crate::nas::path::{PointPath, RepoPath};
use crate::nas::removal;
use crate::nas::repository::Export;
use crate::nas::session::Session;
use crate::operation::verify_chain::chains;
use crate::point::fingerprints::Digest;
use crate::point::{Link, Manifest, ManifestDisk};
use crate::qcow2::{Absorb, Failure, Progress, Rebase};
use crate::worker::{self, Pulse};
use fingerprints::Indexed;
use guarded::Guarded;
use record::{Ended, Record};

/// How long nothing may be heard of it: a sync of all that was written says nothing until its end.
const LIMIT: Duration = Duration::from_secs(600);
/// How often it is looked whether the lock is still ours.
const LOOK: Duration = Duration::from_millis(250);

/// What a rebase answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rebased {
    /// Length of the rebased files, in bytes.
    pub size: u64,
    /// Bytes that were absorbed by sharing blocks.
    pub bytes_cloned: u64,
    /// Bytes that were absorbed by copying.
    pub bytes_copied: u64,
    /// What vouches for the point's manifest from now on; null where no key is configured, or without a manifest.
    pub mac: Option<Digest>,
    /// Milliseconds of the whole call.
    pub total_millis: u64,
}

/// What has to be done to one disk.
#[derive(Debug)]
pub(super) struct Disk {
    /// The file and all that it stands on, itself first.
    pub(super) chain: Vec<Link>,
    pub(super) target: Target,
}

/// What a disk is to stand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// What it stands on already.
    Same,
    /// The image at that position of its chain.
    Onto(usize),
    /// Nothing.
    Alone,
}

/// Everything that a step holds on to, even when nobody waits for it any more.
#[derive(Debug, Clone)]
struct Held {
    // before the session, which may unmount
    lock: Arc<InstanceLock>,
    session: Session,
}

/// Rebases the disks of `point`, as `rebase_all` does.
pub(super) fn run(
    export: Export,
    point: &PointPath,
    job: &mut Reporter<'_>,
    plan: impl FnOnce(&Folder) -> Result<Vec<Disk>> + Send + 'static,
) -> Result<Rebased> {
    rebase_all(export.clone(), point, job, plan).inspect_err(|error| health::note(&export, error))
}

/// Rebases the disks of `point` that `plan` returns; it is called under the instance's lock, and before any effect.
fn rebase_all(
    export: Export,
    point: &PointPath,
    job: &mut Reporter<'_>,
    plan: impl FnOnce(&Folder) -> Result<Vec<Disk>> + Send + 'static,
) -> Result<Rebased> {
    job.begin("open the repository")?;
    let session = Session::open_bounded(export, config::current())?;
    job.begin("follow the chains")?;
    let at = point.clone();
    let rebased = worker::run("follow the chains", LIMIT, job, move |pulse| {
        // nothing of the repository is open any more when the session is dropped, which may unmount
        let lock = Arc::new(lock(session.root(), &at)?);
        let held = Held { session, lock };
        let disks = plan(held.session.root())?;
        let record = look_at_all(&held, at, &disks)?;
        let mut rebased = Rebased::default();
        for disk in &disks {
            finish_left(&held, &record, disk, pulse)?;
            match disk.target {
                Target::Same => sync(&held, &record, disk, pulse)?,
                Target::Onto(_) | Target::Alone => rebase(&held, &record, disk, pulse, &mut rebased)?,
            }
            let Link { path, file } = &disk.chain[0];
            rebased.size += file.metadata().map_err(|e| Error::io("read the size", path.as_str(), e))?.len();
        }
        rebased.mac = record.mac();
        Ok(rebased)
    })?;
    Ok(Rebased { total_millis: job.elapsed_millis(), ..rebased })
}

/// Locks the point's instance, so that its points can be changed.
fn lock(root: &Folder, point: &PointPath) -> Result<InstanceLock> {
    let instance = root.open_dir(&point.instance_folder());
    InstanceLock::take(&instance.map_err(|error| denied::explain_reading(error, &root.path))?, Purpose::Change)
}

/// What is recorded of the disks. All are looked at before the first is changed, and what is wrong with one is an error: it would
/// be written down as right.
fn look_at_all(held: &Held, at: PointPath, disks: &[Disk]) -> Result<Record> {
    let opened: Vec<_> = disks.iter().flat_map(|disk| &disk.chain).collect();
    let judged = chains::find(held.session.root(), &at, None, &opened)?;
    // where CloudStack's own script has made all of it, there is nothing that a key could vouch for, and nothing is signed
    if judged.has_manifests {
        judged.refuse_manifests()?;
    }
    // of a disk that stands where it should only what the manifest says may be wrong
    let is_recorded = |disk: &&Disk| judged.record(&disk.chain[0].path).is_some_and(ManifestDisk::is_unfinished);
    for disk in disks.iter().filter(|disk| disk.target != Target::Same || is_recorded(disk)) {
        judged.refuse_images(&disk.chain)?;
        judged.refuse_unfinished(disk.absorbed())?;
        if disk.target != Target::Same {
            disk.begin(held)?;
        }
    }
    Ok(Record::new(at, judged))
}

impl Disk {
    /// What is left to do so that the disk stands on the image at `position` of its chain; without one, on nothing.
    pub(super) fn new(chain: Vec<Link>, position: Option<usize>) -> Disk {
        let target = match position {
            Some(1) => Target::Same,
            None if chain.len() == 1 => Target::Same,
            Some(position) => Target::Onto(position),
            None => Target::Alone,
        };
        Disk { chain, target }
    }

    /// The images that it is to absorb.
    fn absorbed(&self) -> &[Link] {
        match self.target {
            Target::Onto(position) => &self.chain[1..position],
            Target::Alone => &self.chain[1..],
            Target::Same => &[],
        }
    }

    /// Opens the target for writing, and checks it and its chain. Nothing is written.
    fn begin(&self, held: &Held) -> Result<Rebase<Guarded<Apart>>> {
        let path = &self.chain[0].path;
        let (keep, name) = match self.target {
            Target::Onto(position) => (position - 1, Some(relative(path, &self.chain[position].path))),
            Target::Same | Target::Alone => (self.chain.len() - 1, None),
        };
        let backing = self.chain[1..].iter().map(|link| link.file.try_clone());
        let backing =
            backing.collect::<std::io::Result<_>>().map_err(|e| Error::io("open the chain", path.as_str(), e))?;
        // the file that was looked at, whatever has its name by now
        let target = open_same_for_writing(&self.chain[0].file, path.as_str()).map_err(removal::explain)?;
        let target = Guarded::new(target, held);
        let begun = Rebase::begin(target, backing, keep, name.as_deref());
        begun.map_err(|failure| self.explain("check the image", failure))
    }

    /// `CORRUPT_IMAGE` when the image stands on something else than it did, or than it was to: what somebody has put there
    /// meanwhile is not written down.
    fn check_backing(&self, below: Option<&RepoPath>) -> Result<()> {
        let at = |position: usize| self.chain.get(position).map(|link| &link.path);
        let wanted = match self.target {
            Target::Same => at(1),
            Target::Onto(position) => at(position),
            Target::Alone => None,
        };
        if below == wanted || below == at(1) {
            return Ok(());
        }
        let is = below.map_or("nothing", RepoPath::as_str);
        let cause = format!("'{}' stands on '{is}' by now, which no rebase has written", self.chain[0].path);
        Err(Error::new(Code::CorruptImage, "write the manifest", cause))
    }

    fn explain(&self, step: &'static str, Failure { image, error }: Failure) -> Error {
        error.at(step, self.chain[image.min(self.chain.len() - 1)].path.as_str())
    }
}

/// The name by which an image refers to another.
fn relative(from: &RepoPath, to: &RepoPath) -> String {
    from.parent().map_or_else(|| to.to_string(), |folder| to.relative_to(&folder))
}

/// Finishes a rebase of the disk that was cut off when its image stood where it was to stand, whatever this call is to do.
fn finish_left(held: &Held, record: &Record, disk: &Disk, pulse: &Pulse) -> Result<()> {
    let below = disk.chain.get(1).map(|below| below.path.as_str());
    let stands_there = |own: ManifestDisk| {
        own.parent.as_deref() != below && own.rebasing.is_some_and(|rebasing| rebasing.onto.as_deref() == below)
    };
    if !record.of(disk).is_some_and(stands_there) {
        return Ok(());
    }
    pulse.enter("sync")?;
    disk.chain[0].sync()?;
    let left = fingerprints::left_to_merge(held, record, disk);
    finish(held, record, disk, left, pulse)
}

/// A disk that stands where it should may be so only in memory, by a call that was killed; and now its old parent may go.
fn sync(held: &Held, record: &Record, disk: &Disk, pulse: &Pulse) -> Result<()> {
    pulse.enter("sync")?;
    disk.chain[0].sync()?;
    let is_unfinished = record.of(disk).is_some_and(|own| own.is_unfinished());
    let ended = if is_unfinished { fingerprints::unless_changed(record, disk, pulse) } else { Ended::Unchanged };
    record.end(held, disk, ended)
}

/// Rebases one disk. From before the first write to it until after the last the manifest says what it was and is to be.
fn rebase(held: &Held, record: &Record, disk: &Disk, pulse: &Pulse, rebased: &mut Rebased) -> Result<()> {
    if config::current().keys.is_some() {
        fingerprints::check_tables(record, disk, pulse)?;
    }
    let mut tell = Telling::new(&held.lock, pulse);
    let checked = disk.begin(held)?.check(&mut |progress| tell.of(progress));
    let mut absorb = checked.map_err(|failure| tell.explain(disk, failure))?;
    pulse.enter("write the manifest")?;
    record.begin(held, disk)?;
    let moved = match absorb.run(&mut |progress| tell.of(progress)) {
        Ok(moved) => moved,
        Err(failure) => {
            let error = tell.explain(disk, failure);
            abandon(held, record, disk, absorb, pulse).unwrap_or_else(|left| {
                log::warn!("an image is sound, and not quite as it was before its rebase - {left}")
            });
            return Err(error);
        }
    };
    drop(absorb);
    rebased.bytes_cloned += moved.cloned;
    rebased.bytes_copied += moved.copied;
    log::info!("rebased '{}': {} bytes cloned, {} copied", disk.chain[0].path, moved.cloned, moved.copied);
    finish(held, record, disk, fingerprints::to_merge(record, disk), pulse)
}

/// Tells how far a rebase is, and looks for whether the lock is still ours.
struct Telling<'a> {
    lock: &'a InstanceLock,
    pulse: &'a Pulse,
    phase: &'static str,
    looked: Instant,
    /// The lock is another's.
    lost: Option<Error>,
}

impl<'a> Telling<'a> {
    fn new(lock: &'a InstanceLock, pulse: &'a Pulse) -> Telling<'a> {
        Telling { lock, pulse, phase: "check the image", looked: Instant::now(), lost: None }
    }

    fn of(&mut self, progress: Progress) -> Result<(), Stopped> {
        self.pulse.at(progress.done, progress.total)?;
        if progress.phase != self.phase {
            self.phase = progress.phase;
            self.pulse.enter(progress.phase).map_err(|_| Stopped)?;
        } else if self.looked.elapsed() < LOOK {
            return Ok(());
        }
        self.looked = Instant::now();
        self.lock.check().map_err(|error| {
            self.lost = Some(error);
            Stopped
        })
    }

    /// `BUSY` when another host has taken the lock over, whatever came of it.
    fn explain(&mut self, disk: &Disk, failure: Failure) -> Error {
        let lost = self.lost.take().or_else(|| self.lock.check().err());
        lost.unwrap_or_else(|| disk.explain(self.phase, failure))
    }
}

/// Lets the manifest say what the image is now that stands where it was to stand. The image is whole, whatever becomes of its
/// fingerprints.
fn finish(held: &Held, record: &Record, disk: &Disk, indexed: Option<Indexed>, pulse: &Pulse) -> Result<()> {
    let merged = fingerprints::merge(held, disk, indexed, pulse);
    fingerprints::go_on(pulse.enter("write the manifest"));
    let ended = record.end(held, disk, Ended::Changed(merged.clone().unwrap_or_default()));
    match (merged, ended) {
        (Err(error), Err(left)) => {
            log::warn!("'{}' is rebased - {left}", disk.chain[0].path);
            Err(error)
        }
        (Err(error), Ok(())) => Err(error),
        (Ok(_), ended) => ended,
    }
}

/// After a failure or a cancel: the image reads as before, what was written beside it goes, and the manifest says what
/// it is. Nothing is taken back once another host has the lock.
fn abandon(held: &Held, record: &Record, disk: &Disk, absorb: Absorb<Guarded<Apart>>, pulse: &Pulse) -> Result<()> {
    const STEP: &str = "take back what was written";
    held.lock.check()?;
    let has_changed = absorb.has_changed();
    // clusters that are left are no part of the image, and the next rebase of it takes them back
    let left = absorb.abandon().map_err(|e| e.at(STEP, disk.chain[0].path.as_str()));
    disk.chain[0].sync()?;
    // a call that was cut off may have changed it, too
    let is_as_before = left.is_ok() && !has_changed && !record.was_unfinished(disk);
    let ended = if is_as_before { Ended::Unchanged } else { fingerprints::unless_changed(record, disk, pulse) };
    record.end(held, disk, ended)?;
    left
}

/// The images of a point: those that its manifest names, else all files of that kind.
pub(super) fn images(root: &Folder, at: &PointPath) -> Result<Vec<RepoPath>> {
    let folder = root.open_dir(&at.folder())?;
    let names = match Manifest::read_sound(&folder, at)? {
        Some(manifest) => manifest.disks.into_iter().map(|disk| disk.file).collect(),
        None => image_names(&folder)?,
    };
    if names.is_empty() {
        return Err(Error::new(Code::NotFound, "look for the images", format!("'{at}' holds none")));
    }
    names.iter().map(|name| at.file(name)).collect()
}

pub(super) fn image_names(folder: &Folder) -> Result<Vec<String>> {
    let mut images = Vec::new();
    for name in folder.names_that(|name| name.as_encoded_bytes().ends_with(b".qcow2"))? {
        let Some(name) = name.to_str() else { continue };
        if folder.kind(name)? == Some(FileType::RegularFile) {
            images.push(name.to_owned());
        }
    }
    Ok(images)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_image_stood_on_or_was_to_stand_on_is_written_down() {
        let path = |point: usize| RepoPath::parse("image", &format!("i-1/T{point}/x.qcow2")).unwrap();
        let link = |point| Link { path: path(point), file: tempfile::tempfile().unwrap() };
        let (other, [t1, t2, t3]) = (RepoPath::parse("image", "i-1/T2/y.qcow2").unwrap(), [path(1), path(2), path(3)]);
        for (target, ours, others) in [
            (Target::Onto(2), vec![Some(&t2), Some(&t1)], vec![None, Some(&t3), Some(&other)]),
            (Target::Alone, vec![Some(&t2), None], vec![Some(&t1), Some(&other)]),
            (Target::Same, vec![Some(&t2)], vec![None, Some(&t1), Some(&other)]),
        ] {
            let disk = Disk { chain: vec![link(3), link(2), link(1)], target };
            assert!(ours.into_iter().all(|below| disk.check_backing(below).is_ok()), "{target:?}");
            for below in others {
                assert_eq!(disk.check_backing(below).unwrap_err().code, Code::CorruptImage, "{target:?} {below:?}");
            }
        }
        let full = Disk { chain: vec![link(1)], target: Target::Same };
        assert!(full.check_backing(None).is_ok() && full.check_backing(Some(&other)).is_err());
    }
}
