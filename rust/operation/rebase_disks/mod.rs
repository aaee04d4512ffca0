//! The way of a rebase, of one file or of all of a point: chains opened and planned, each disk rebased in steps that
//! have a deadline, its fingerprints merged, the manifest at last.
//!
//! No journal is kept: the images' headers are the truth, the manifest tells what an image was and is to be, and the same call
//! again finishes what was cut off.

mod fingerprints;
mod guarded;
mod record;

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FileType;
use serde::Serialize;

use crate::config;
use crate::error::{Code, Error, Result};
use crate::job::Reporter;
use crate::nas::deadline::bounded;
use crate::nas::folder::{Folder, open_same_for_writing};
use crate::nas::health;
use crate::nas::lock::{InstanceLock, Purpose, WAIT};
use crate::nas::path::{PointPath, RepoPath};
use crate::nas::removal;
use crate::nas::repository::Export;
use crate::nas::session::Session;
use crate::operation::verify_chain::chains;
use crate::point::fingerprints::Digest;
use crate::point::{Link, Manifest, ManifestDisk};
use crate::qcow2::{Failure, Progress, Rebase, Storage};
use fingerprints::Indexed;
use guarded::Guarded;
use record::{Ended, Record};

/// A step is short, but for the sync of all that was written.
const LIMIT: Duration = Duration::from_secs(600);

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
    let instance = point.instance_folder();
    let at = point.clone();
    let (held, record, disks) = bounded("follow the chains", LIMIT + WAIT, move || {
        let lock = Arc::new(InstanceLock::take(&session.root().open_dir(&instance)?, Purpose::Change)?);
        let held = Held { session, lock };
        let disks = plan(held.session.root())?;
        // what is wrong now would be written down as right
        let opened: Vec<_> = disks.iter().flat_map(|disk| &disk.chain).collect();
        let judged = chains::find(held.session.root(), &at, None, &opened)?;
        // where CloudStack's own script has made all of it, there is nothing that a key could vouch for, and nothing is signed
        if judged.has_manifests {
            judged.refuse_manifests()?;
        }
        // all are looked at before the first is changed, or the manifest says what it is
        let is_recorded = |disk: &&Disk| judged.record(&disk.chain[0].path).is_some_and(ManifestDisk::is_unfinished);
        for disk in disks.iter().filter(|disk| disk.target != Target::Same || is_recorded(disk)) {
            judged.refuse_images(&disk.chain)?;
            judged.refuse_unfinished(disk.absorbed())?;
            if disk.target != Target::Same {
                disk.begin(&held)?;
            }
        }
        Ok((held, Arc::new(Record::new(at, judged)), disks))
    })?;
    let mut rebased = Rebased::default();
    for disk in disks.into_iter().map(Arc::new) {
        finish_left(&held, &record, &disk, job)?;
        if disk.target == Target::Same {
            sync(&held, &record, &disk, job)?;
        } else {
            rebase(&held, &record, &disk, job, &mut rebased)?;
        }
        let held = held.clone();
        rebased.size += bounded("read the size", LIMIT, move || {
            let (_held, Link { path, file }) = (held, &disk.chain[0]);
            Ok(file.metadata().map_err(|e| Error::io("read the size", path.as_str(), e))?.len())
        })?;
    }
    rebased.mac = record.mac();
    rebased.total_millis = job.elapsed_millis();
    Ok(rebased)
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
    fn begin(&self, held: &Held) -> Result<Rebase<Guarded<File>>> {
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
fn finish_left(held: &Held, record: &Arc<Record>, disk: &Arc<Disk>, job: &mut Reporter<'_>) -> Result<()> {
    let below = disk.chain.get(1).map(|below| below.path.as_str());
    let stands_there = |own: ManifestDisk| {
        own.parent.as_deref() != below && own.rebasing.is_some_and(|rebasing| rebasing.onto.as_deref() == below)
    };
    if !record.of(disk).is_some_and(stands_there) {
        return Ok(());
    }
    job.begin("sync")?;
    let (ours, same) = (held.clone(), disk.clone());
    bounded("sync", LIMIT, move || {
        let _ours = ours;
        same.chain[0].sync()
    })?;
    let left = fingerprints::left_to_merge(held, record, disk)?;
    finish(held, record, disk, left, job)
}

/// A disk that stands where it should may be so only in memory, by a call that was killed; and now its old parent may go.
fn sync(held: &Held, record: &Arc<Record>, disk: &Arc<Disk>, job: &mut Reporter<'_>) -> Result<()> {
    job.begin("sync")?;
    let (ours, same) = (held.clone(), disk.clone());
    bounded("sync", LIMIT, move || {
        let _ours = ours;
        same.chain[0].sync()
    })?;
    let is_unfinished = record.of(disk).is_some_and(|own| own.is_unfinished());
    let ended = if is_unfinished { fingerprints::unless_changed(held, record, disk)? } else { Ended::Unchanged };
    end(held, record, disk, ended)
}

/// Rebases one disk. From before the first write to it until after the last the manifest says what it was and is to be.
fn rebase(
    held: &Held,
    record: &Arc<Record>,
    disk: &Arc<Disk>,
    job: &mut Reporter<'_>,
    rebased: &mut Rebased,
) -> Result<()> {
    if config::current().keys.is_some() {
        fingerprints::check_tables(held, record, disk, job)?;
    }
    let (ours, begun) = (held.clone(), disk.clone());
    let begun = bounded("check the image", LIMIT, move || begun.begin(&ours))?;
    let checked = advance(held, record, disk, job, begun, |rebase, _| rebase.is_checked())?;
    job.begin("write the manifest")?;
    let (ours, own, same) = (held.clone(), record.clone(), disk.clone());
    bounded("write the manifest", LIMIT, move || own.begin(&ours, &same))?;
    let done = advance(held, record, disk, job, checked, |_, progress| progress.finished)?;
    let (path, cloned, copied) = (&disk.chain[0].path, done.bytes_cloned(), done.bytes_copied());
    rebased.bytes_cloned += cloned;
    rebased.bytes_copied += copied;
    log::info!("rebased '{path}': {cloned} bytes cloned, {copied} copied");
    finish(held, record, disk, fingerprints::to_merge(record, disk), job)
}

/// Lets the manifest say what the image is now that stands where it was to stand.
fn finish(
    held: &Held,
    record: &Arc<Record>,
    disk: &Arc<Disk>,
    indexed: Option<Indexed>,
    job: &mut Reporter<'_>,
) -> Result<()> {
    match fingerprints::merge(held, disk, indexed, job) {
        Ok(fingerprints) => {
            job.enter("write the manifest");
            end(held, record, disk, Ended::Changed(fingerprints))
        }
        // the next call finishes it
        Err(error) if error.code == Code::NasUnresponsive => Err(error),
        Err(error) => {
            // the image is whole, whatever has become of its fingerprints
            let path = &disk.chain[0].path;
            end(held, record, disk, Ended::Changed(None))
                .unwrap_or_else(|left| log::warn!("'{path}' is rebased - {left}"));
            Err(error)
        }
    }
}

fn end(held: &Held, record: &Arc<Record>, disk: &Arc<Disk>, ended: Ended) -> Result<()> {
    let (held, record, disk) = (held.clone(), record.clone(), disk.clone());
    bounded("write the manifest", LIMIT, move || record.end(&held, &disk, ended))
}

/// Goes on with a rebase until `is_there`, step by step, each with a deadline.
fn advance(
    held: &Held,
    record: &Arc<Record>,
    disk: &Arc<Disk>,
    job: &mut Reporter<'_>,
    mut rebase: Rebase<Guarded<File>>,
    is_there: fn(&Rebase<Guarded<File>>, &Progress) -> bool,
) -> Result<Rebase<Guarded<File>>> {
    loop {
        let phase = rebase.phase();
        let told = if job.status().phase == phase { job.tell() } else { job.begin(phase) };
        let step = match told {
            Ok(()) => {
                let held = held.clone();
                let (same, step) = bounded(phase, LIMIT, move || {
                    let mut rebase = rebase;
                    let step = step(&held, &mut rebase)?;
                    Ok((rebase, step))
                })?;
                rebase = same;
                step.map_err(|failure| disk.explain(phase, failure))
            }
            Err(error) => Err(error),
        };
        match step {
            Ok(progress) if is_there(&rebase, &progress) => return Ok(rebase),
            Ok(progress) => job.progress(progress.done, progress.total),
            Err(error) => return Err(abandon(held, record, disk, rebase, error)),
        }
    }
}

/// One step. `BUSY` when another host has taken the lock over; nothing is taken back then, either.
fn step<S: Storage>(held: &Held, rebase: &mut Rebase<Guarded<S>>) -> Result<std::result::Result<Progress, Failure>> {
    held.lock.check()?;
    let step = rebase.advance();
    if step.is_err() {
        held.lock.check()?;
    }
    Ok(step)
}

/// After a failure or a cancel: the image reads as before, what was written beside it goes, and the manifest says what
/// it is.
fn abandon(held: &Held, record: &Arc<Record>, disk: &Arc<Disk>, rebase: Rebase<Guarded<File>>, error: Error) -> Error {
    const STEP: &str = "take back what was written";
    let (is_checked, has_changed) = (rebase.is_checked(), rebase.has_changed());
    let (ours, same) = (held.clone(), disk.clone());
    let abandoned = bounded(STEP, LIMIT, move || {
        ours.lock.check()?;
        // clusters that are left are no part of the image, and the next rebase of it takes them back
        let left = rebase.abandon().map_err(|e| e.at(STEP, same.chain[0].path.as_str()));
        same.chain[0].sync()?;
        Ok(left)
    });
    let told = abandoned.and_then(|left| {
        // until all is checked the image is as it was, and so is what the manifest says
        if is_checked {
            // a call that was cut off may have changed it, too
            let is_as_before = left.is_ok() && !has_changed && !record.was_unfinished(disk);
            let ended = if is_as_before { Ended::Unchanged } else { fingerprints::unless_changed(held, record, disk)? };
            end(held, record, disk, ended)?;
        }
        left
    });
    if let Err(left) = told {
        log::warn!("an image is sound, and not quite as it was before its rebase - {left}");
    }
    error
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
