//! `rebaseBackup` and `rebasePoint`: one image of a restore point, or all, get another backing file, or none, and read as
//! before. The chains are opened and planned, each disk rebased in steps that have a deadline, its fingerprints merged, the manifest at last.
//!
//! No journal is kept: the images' headers are the truth, the manifest tells what an image was and is to be, and the same call
//! again finishes what was cut off.

mod commit;
mod disk;
mod fingerprints;
mod guarded;
mod record;
mod request;
mod telling;

use std::collections::VecDeque;

use serde::Serialize;

use crate::config;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::limits;
use crate::logging::ANSWERED;
use crate::nas::health;
use crate::nas::instance::Instance;
use crate::nas::path::PointPath;
use crate::nas::purpose::Purpose;
use crate::nas::repository::Export;
use crate::nas::session::Session;
use crate::operation::verify_chain::chains;
use crate::point::{Link, ManifestDisk};
use crate::qcow2::{Absorb, Moved, Source};
use crate::work::job::{self, Listener, Reporter};
use crate::work::phase::Phase;
use crate::work::worker::{self, Pulse};
use commit::Committable;
use disk::{ImageFile, RebasedDisk, Target};
use fingerprints::Indexed;
use record::{ImageEnd, PointRecord};
use request::Subject;
pub use request::{Asked, RebaseBackupRequest, RebasePointRequest};
use telling::Telling;

/// The rebase of a disk whose images are sound.
type AbsorbDisk = Absorb<ImageFile>;

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

/// Runs `rebaseBackup` or `rebasePoint`. `listener` is told of progress on this thread.
pub fn run(asked: Asked, listener: Listener<'_>) -> Result<Rebased> {
    let Asked { job, export, point, subject } = asked;
    let job = job::start(job, subject.operation(), &export, Some(point.instance().to_owned()))?;
    let mut job = Reporter::new(job, listener)?;
    rebase_all(export.clone(), point.clone(), subject, &mut job).inspect_err(|error| {
        health::note_failure(&export, error);
        log::error!(target: ANSWERED, "rebase of '{point}' failed: {error}");
    })
}

/// Rebases the disks of `point` that the subject names. They are looked for under the instance's lock, and before any effect.
fn rebase_all(export: Export, at: PointPath, subject: Subject, job: &mut Reporter<'_>) -> Result<Rebased> {
    job.begin(Phase::OpenRepository)?;
    let session = Session::open_bounded(export, config::current())?;
    job.begin(Phase::FollowChains)?;
    let rebased = worker::run("follow the chains", limits::STORAGE_LONG_STEP, job, move |pulse| {
        // before the disks, whose files are closed before the repository may be unmounted
        let held = Instance::open(session, &at, Purpose::Change)?;
        let disks = subject.disks(held.root(), &at)?;
        if disks.is_empty() {
            // all of them have become another point's, and this one waits to be deleted
            return Ok(Rebased::default());
        }
        let record = look_at_all(&held, at, &disks)?;
        let mut rebased = Rebased::default();
        let ended = rebase_disks(&held, &record, disks, subject.going(), pulse, &mut rebased);
        let written = record.write(&held);
        if let (Err(_), Err(left)) = (&ended, &written) {
            log::warn!("a manifest does not tell how far the rebase is, the next one will: {left}");
        }
        ended.and(written)?;
        rebased.mac = record.mac();
        Ok(rebased)
    })?;
    Ok(Rebased { total_millis: job.elapsed_millis(), ..rebased })
}

/// What is recorded of the disks. All are looked at before the first is changed, and what is wrong with one is an error: it would
/// be written down as right.
fn look_at_all(held: &Instance, at: PointPath, disks: &[RebasedDisk]) -> Result<PointRecord> {
    let opened: Vec<_> = disks.iter().flat_map(|disk| &disk.chain).collect();
    let judged = chains::find(held.root(), &at, None, &opened)?;
    // where CloudStack's own script has made all of it, there is nothing that a key could vouch for, and nothing is signed
    if judged.has_manifests {
        judged.refuse_manifests()?;
    }
    // of a disk that stands where it should only what the manifest says may be wrong
    let is_recorded = |disk: &&RebasedDisk| judged.record(&disk.chain[0].path).is_some_and(ManifestDisk::is_rebasing);
    for disk in disks.iter().filter(|disk| disk.target != Target::Same || is_recorded(disk)) {
        judged.refuse_images(&disk.chain)?;
        judged.refuse_unfinished(disk.absorbed())?;
        if disk.target != Target::Same {
            disk.begin(held)?;
        }
    }
    Ok(PointRecord::new(at, judged))
}

/// Finishes a rebase of the disk that was cut off when its image stood where it was to stand, whatever this call is to do.
fn finish_left(held: &Instance, record: &PointRecord, disk: &RebasedDisk, pulse: &Pulse) -> Result<()> {
    let below = disk.chain.get(1).map(|below| below.path.as_str());
    let stands_there = |own: ManifestDisk| {
        own.parent.as_deref() != below && own.rebasing.is_some_and(|rebasing| rebasing.onto.as_deref() == below)
    };
    if !record.of(disk).is_some_and(stands_there) {
        return Ok(());
    }
    pulse.enter(Phase::Sync)?;
    disk.chain[0].sync()?;
    let left = fingerprints::left_to_merge(held, record, disk);
    finish(held, record, disk, left, pulse)
}

/// A disk that stands where it should may be so only in memory, by a call that was killed; and now its old parent may go.
fn sync(record: &PointRecord, disk: &RebasedDisk, pulse: &Pulse) -> Result<()> {
    pulse.enter(Phase::Sync)?;
    disk.chain[0].sync()?;
    let is_unfinished = record.of(disk).is_some_and(|own| own.is_rebasing());
    let ended = if is_unfinished { fingerprints::unless_changed(record, disk, pulse) } else { ImageEnd::Unchanged };
    record.end(disk, ended)
}

/// Rebases the disks. All are checked before the first is changed, and from before the first write to one until after the last the
/// manifest says what each was and is to be.
fn rebase_disks(
    held: &Instance,
    record: &PointRecord,
    disks: Vec<RebasedDisk>,
    going: Option<&PointPath>,
    pulse: &Pulse,
    rebased: &mut Rebased,
) -> Result<()> {
    let committable = going.map(|going| Committable::of(held, record, &disks, going));
    let mut begun = VecDeque::new();
    for disk in disks {
        finish_left(held, record, &disk, pulse)?;
        if disk.target == Target::Same {
            sync(record, &disk, pulse)?;
            rebased.size += length(&disk)?;
        } else {
            let absorb = check(held, record, &disk, pulse)?;
            begun.push_back((disk, absorb));
        }
    }
    if !begun.is_empty() {
        pulse.enter(Phase::WriteManifest)?;
        record.begin(held, begun.iter().map(|(disk, _)| disk))?;
    }
    while let Some((disk, absorb)) = begun.pop_front() {
        if let Err(error) = rebase(held, record, (disk, absorb), committable.as_ref(), pulse, rebased) {
            begun.iter().for_each(|(disk, _)| take_back(held, record, disk, None, pulse));
            return Err(error);
        }
    }
    Ok(())
}

/// Length of the disk's own file.
fn length(disk: &RebasedDisk) -> Result<u64> {
    let Link { path, file } = &disk.chain[0];
    file.length().map_err(|e| Error::io("read the size", path.as_str(), e))
}

/// Checks all images that the rebase of a disk reads.
fn check(held: &Instance, record: &PointRecord, disk: &RebasedDisk, pulse: &Pulse) -> Result<AbsorbDisk> {
    if config::current().keys.is_some() {
        fingerprints::check_tables(record, disk, pulse)?;
    }
    // what a commit that was cut off has changed may not be durable, and of what stays below the image relies on that
    let goes = |link: &&Link| record.recorded(&link.path).is_some_and(|recorded| recorded.goes_into.is_some());
    disk.chain[1..].iter().filter(goes).try_for_each(Link::sync)?;
    let mut tell = Telling::new(held, pulse);
    let checked = disk.begin(held)?.check(&mut |progress| tell.of(progress));
    checked.map_err(|failure| tell.explain(disk, failure))
}

/// Rebases one disk, of which the manifest says that it is begun.
fn rebase(
    held: &Instance,
    record: &PointRecord,
    (disk, absorb): (RebasedDisk, AbsorbDisk),
    committable: Option<&Committable<'_>>,
    pulse: &Pulse,
    rebased: &mut Rebased,
) -> Result<()> {
    let to_merge = fingerprints::to_merge(record, &disk);
    let below = committable.map_or(Ok(None), |committable| committable.below(held, &disk, &absorb));
    let (disk, moved) = match below {
        Ok(None) => absorb_all(held, record, disk, absorb, pulse)?,
        Ok(Some(below)) => {
            drop(absorb);
            commit::commit(held, record, disk, below, pulse).map_err(|(disk, error)| {
                disk.iter().for_each(|disk| take_back(held, record, disk, None, pulse));
                error
            })?
        }
        Err(error) => {
            take_back(held, record, &disk, Some(absorb), pulse);
            return Err(error);
        }
    };
    rebased.bytes_cloned += moved.cloned;
    rebased.bytes_copied += moved.copied;
    rebased.size += length(&disk)?;
    log::info!("rebased '{}': {} bytes cloned, {} copied", disk.chain[0].path, moved.cloned, moved.copied);
    finish(held, record, &disk, to_merge, pulse)
}

/// Lets the disk's own image take in what it lacks.
fn absorb_all(
    held: &Instance,
    record: &PointRecord,
    disk: RebasedDisk,
    mut absorb: AbsorbDisk,
    pulse: &Pulse,
) -> Result<(RebasedDisk, Moved)> {
    let mut tell = Telling::new(held, pulse);
    match absorb.run(&mut |progress| tell.of(progress)) {
        Ok(moved) => Ok((disk, moved)),
        Err(failure) => {
            let error = tell.explain(&disk, failure);
            take_back(held, record, &disk, Some(absorb), pulse);
            Err(error)
        }
    }
}

/// Lets the manifest say what the image is now that stands where it was to stand. The image is whole, whatever becomes of its
/// fingerprints.
fn finish(
    held: &Instance,
    record: &PointRecord,
    disk: &RebasedDisk,
    indexed: Option<Indexed>,
    pulse: &Pulse,
) -> Result<()> {
    let merged = fingerprints::merge(held, record.folder(), disk, indexed, pulse);
    fingerprints::go_on(pulse.enter(Phase::WriteManifest));
    let ended = record.end(disk, ImageEnd::Changed(merged.clone().unwrap_or_default()));
    match (merged, ended) {
        (Err(error), Err(left)) => {
            log::warn!("'{}' is rebased - {left}", disk.chain[0].path);
            Err(error)
        }
        (Err(error), Ok(())) => Err(error),
        (Ok(_), ended) => ended,
    }
}

/// After a failure or a cancel, also at another disk: the image reads as before, what was written beside it goes, and the manifest
/// says what it is.
fn take_back(held: &Instance, record: &PointRecord, disk: &RebasedDisk, absorb: Option<AbsorbDisk>, pulse: &Pulse) {
    if let Err(left) = abandon(held, record, disk, absorb, pulse) {
        log::warn!("{}: the image is sound, and not quite as it was before its rebase: {left}", disk.chain[0].path);
    }
}

/// Nothing is taken back once another host has the lock.
fn abandon(
    held: &Instance,
    record: &PointRecord,
    disk: &RebasedDisk,
    absorb: Option<AbsorbDisk>,
    pulse: &Pulse,
) -> Result<()> {
    const STEP: &str = "take back what was written";
    held.fence()?;
    let has_changed = absorb.as_ref().is_some_and(Absorb::has_changed);
    // clusters that are left are no part of the image, and the next rebase of it takes them back
    let left = absorb.map_or(Ok(()), Absorb::abandon).map_err(|e| e.at(STEP, disk.chain[0].path.as_str()));
    disk.chain[0].sync()?;
    // a call that was cut off may have changed it, too
    let is_as_before = left.is_ok() && !has_changed && !record.was_unfinished(disk);
    let ended = if is_as_before { ImageEnd::Unchanged } else { fingerprints::unless_changed(record, disk, pulse) };
    record.end(disk, ended)?;
    left
}
