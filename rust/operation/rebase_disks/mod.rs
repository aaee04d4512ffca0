//! The way of a rebase, of one file or of all of a point: chains opened and planned, each disk rebased in steps that
//! have a deadline, its fingerprints merged, the manifest at last.
//!
//! No journal is kept: the images' headers are the truth, and the same call again finishes what was cut off.

mod fingerprints;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags};
use serde::Serialize;

use crate::config;
use crate::error::{Code, Error, Result};
use crate::job::Reporter;
use crate::nas::deadline::bounded;
use crate::nas::folder::Folder;
use crate::nas::health;
use crate::nas::lock::{InstanceLock, Purpose, WAIT};
use crate::nas::path::{PointPath, RepoPath};
use crate::nas::repository::Export;
use crate::nas::session::Session;
use crate::point::fingerprints::Fingerprints;
use crate::point::{self, Kind, Link, Manifest, ParentPoint};
use crate::qcow2::{self, Failure, Progress, Rebase};

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
    only: Option<RepoPath>,
    plan: impl FnOnce(&Folder) -> Result<Vec<Disk>> + Send + 'static,
) -> Result<Rebased> {
    rebase_all(export.clone(), point, job, only, plan).inspect_err(|error| health::note(&export, error))
}

/// Rebases the disks of `point` that `plan` returns; it is called under the instance's lock, and before any effect.
/// The answer's size is of the one file `only`, or of all the point's images.
fn rebase_all(
    export: Export,
    point: &PointPath,
    job: &mut Reporter<'_>,
    only: Option<RepoPath>,
    plan: impl FnOnce(&Folder) -> Result<Vec<Disk>> + Send + 'static,
) -> Result<Rebased> {
    job.begin("open the repository")?;
    let session = Session::open_bounded(export, config::current())?;
    job.begin("follow the chains")?;
    let instance = point.instance_folder();
    let (held, disks) = bounded("follow the chains", LIMIT + WAIT, move || {
        let lock = Arc::new(InstanceLock::take(&session.root().open_dir(&instance)?, Purpose::Change)?);
        let disks = plan(session.root())?;
        // all are looked at before the first is changed
        for disk in disks.iter().filter(|disk| disk.target != Target::Same) {
            disk.begin(session.root())?;
        }
        Ok((Held { session, lock }, disks))
    })?;
    let mut before = forget_fingerprints(&held, point, &disks, job)?;
    let mut rebased = Rebased::default();
    let mut done = BTreeMap::new();
    for disk in disks {
        let image = disk.chain[0].path.name().to_owned();
        if disk.target == Target::Same {
            sync(&held, disk, job)?;
            done.insert(image, None);
            continue;
        }
        let disk = Arc::new(disk);
        rebase(&held, &disk, job, &mut rebased)?;
        let fingerprints = fingerprints::merge(&held, &disk, before.remove(&image), job)?;
        done.insert(image, fingerprints);
    }
    job.begin("write the manifest")?;
    let at = point.clone();
    rebased.size = bounded("write the manifest", LIMIT, move || {
        held.lock.check()?;
        follow(held.session.root(), &at, only.as_ref(), done)
    })?;
    rebased.total_millis = job.elapsed_millis();
    Ok(rebased)
}

/// Lets the manifest say nothing more of what is about to change; which fingerprints it named, by image.
fn forget_fingerprints(
    held: &Held,
    point: &PointPath,
    disks: &[Disk],
    job: &mut Reporter<'_>,
) -> Result<BTreeMap<String, Fingerprints>> {
    let changing = disks.iter().filter(|disk| disk.target != Target::Same);
    let images: BTreeSet<_> = changing.map(|disk| disk.chain[0].path.name().to_owned()).collect();
    if images.is_empty() {
        return Ok(BTreeMap::new());
    }
    job.begin("write the manifest")?;
    let (held, at) = (held.clone(), point.clone());
    bounded("write the manifest", LIMIT, move || fingerprints::forget(&held, &at, &images))
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

    /// Opens the target for writing, and checks it and its chain. Nothing is written.
    fn begin(&self, root: &Folder) -> Result<Rebase<File>> {
        let path = &self.chain[0].path;
        let (keep, name) = match self.target {
            Target::Onto(position) => (position - 1, Some(relative(path, &self.chain[position].path))),
            Target::Same | Target::Alone => (self.chain.len() - 1, None),
        };
        let backing = self.chain[1..].iter().map(|link| link.file.try_clone());
        let backing =
            backing.collect::<std::io::Result<_>>().map_err(|e| Error::io("open the chain", path.as_str(), e))?;
        let begun = Rebase::begin(open_target(root, path)?, backing, keep, name.as_deref());
        begun.map_err(|failure| self.explain("check the image", failure))
    }

    fn explain(&self, step: &'static str, Failure { image, error }: Failure) -> Error {
        error.at(step, self.chain[image.min(self.chain.len() - 1)].path.as_str())
    }
}

/// The name by which an image refers to another.
fn relative(from: &RepoPath, to: &RepoPath) -> String {
    from.parent().map_or_else(|| to.to_string(), |folder| to.relative_to(&folder))
}

/// Opens an image for writing. Its folder can't lead out, and the name is one component, which is not followed.
fn open_target(root: &Folder, path: &RepoPath) -> Result<File> {
    const STEP: &str = "open the image for writing";
    let folder = root.open_dir(&path.parent().ok_or_else(|| Error::invalid("target", "lies in no folder"))?)?;
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&folder.fd, path.name(), flags, Mode::empty());
    let file = File::from(file.map_err(|e| Error::io(STEP, path.as_str(), e))?);
    if !file.metadata().map_err(|e| Error::io(STEP, path.as_str(), e))?.is_file() {
        return Err(Error::new(Code::Io, STEP, format!("'{path}' is not a regular file")));
    }
    Ok(file)
}

/// A disk that stands where it should may be so only in memory, by a call that was killed; and now its old parent may go.
fn sync(held: &Held, disk: Disk, job: &mut Reporter<'_>) -> Result<()> {
    job.begin("sync")?;
    let held = held.clone();
    bounded("sync", LIMIT, move || {
        let (_held, target) = (held, &disk.chain[0]);
        target.file.sync_all().map_err(|e| Error::io("sync", target.path.as_str(), e))
    })
}

/// Rebases one disk, step by step, each with a deadline.
fn rebase(held: &Held, disk: &Arc<Disk>, job: &mut Reporter<'_>, rebased: &mut Rebased) -> Result<()> {
    let path = disk.chain[0].path.clone();
    let mut rebase = {
        let (held, disk) = (held.clone(), disk.clone());
        bounded("check the image", LIMIT, move || disk.begin(held.session.root()))?
    };
    loop {
        let phase = rebase.phase();
        let told = if job.status().phase == phase { job.tell() } else { job.begin(phase) };
        let step = match told {
            Ok(()) => {
                let held = held.clone();
                let (same, step) = bounded(phase, LIMIT, move || {
                    let mut rebase = rebase;
                    // any step may be the one that changes what the image stands on
                    held.lock.check()?;
                    let step = rebase.advance();
                    Ok((rebase, step))
                })?;
                rebase = same;
                step.map_err(|failure| disk.explain(phase, failure))
            }
            Err(error) => Err(error),
        };
        match step {
            Ok(Progress { finished: true, .. }) => break,
            Ok(progress) => job.progress(progress.done, progress.total),
            Err(error) => return Err(abandon(held, &path, rebase, error)),
        }
    }
    rebased.bytes_cloned += rebase.bytes_cloned();
    rebased.bytes_copied += rebase.bytes_copied();
    log::info!("rebased '{path}': {} bytes cloned, {} copied", rebase.bytes_cloned(), rebase.bytes_copied());
    Ok(())
}

/// After a failure or a cancel: the image is as before, and what was written beside it goes.
fn abandon(held: &Held, path: &RepoPath, rebase: Rebase<File>, error: Error) -> Error {
    let (held, path) = (held.clone(), path.clone());
    let abandoned = bounded("take back what was written", LIMIT, move || {
        let _held = held;
        rebase.abandon().map_err(|e| e.at("take back what was written", path.as_str()))
    });
    if let Err(left) = abandoned {
        // no part of the image, and the next rebase of it takes it back
        log::warn!("clusters without use are left in an image - {left}");
    }
    error
}

/// Lets the manifest of the point, if it has one, say what the images are that this call is `done` with, and name their
/// fingerprints; the length of `only`, or of all. The files decide: a call that was cut off between the two is made good
/// by the next.
fn follow(
    root: &Folder,
    at: &PointPath,
    only: Option<&RepoPath>,
    done: BTreeMap<String, Option<Fingerprints>>,
) -> Result<u64> {
    let folder = root.open_dir(&at.folder())?;
    if let Some(manifest) = Manifest::read_intact(&folder)? {
        update(root, at, &folder, manifest, done)?;
    }
    folder.sync()?;
    let files = only.map_or_else(|| images(root, at), |file| Ok(vec![file.clone()]))?;
    files.iter().try_fold(0, |sum, path| {
        let metadata = root.open_file(path)?.metadata().map_err(|e| Error::io("read the size", path.as_str(), e))?;
        Ok(sum + metadata.len())
    })
}

fn update(
    root: &Folder,
    at: &PointPath,
    folder: &Folder,
    mut manifest: Manifest,
    mut done: BTreeMap<String, Option<Fingerprints>>,
) -> Result<()> {
    let before = manifest.clone();
    let mut parents = BTreeSet::new();
    for disk in &mut manifest.disks {
        let path = at.file(&disk.file)?;
        let file = root.open_file(&path)?;
        let backing = qcow2::backing(&file).map_err(|e| e.at("write the manifest", path.as_str()))?;
        // what no rebase has changed stays as it was written, or nobody would see what else has
        if disk.size == 0
            && let Some(fingerprints) = done.remove(&disk.file)
        {
            disk.size = file.metadata().map_err(|e| Error::io("write the manifest", path.as_str(), e))?.len();
            disk.kind = if backing.is_some() { Kind::Incremental } else { Kind::Full };
            disk.fingerprints = fingerprints;
        }
        if let Some(backing) = backing {
            parents.extend(point::resolve(&path, &backing)?.parent().map(|folder| folder.to_string()));
        }
    }
    let incremental = manifest.disks.iter().any(|disk| disk.kind == Kind::Incremental);
    manifest.kind = if incremental { Kind::Incremental } else { Kind::Full };
    manifest.parent = parent_point(root, &before, &parents)?;
    if manifest == before { Ok(()) } else { manifest.replace(folder) }
}

/// The point that the disks stand on; while they stand on several, the one that was named before, if it is one of them.
fn parent_point(root: &Folder, before: &Manifest, parents: &BTreeSet<String>) -> Result<Option<ParentPoint>> {
    if let Some(parent) = before.parent.as_ref().filter(|parent| parents.contains(&parent.backup_path)) {
        return Ok(Some(parent.clone()));
    }
    let Some(path) = parents.first() else { return Ok(None) };
    let manifest = Manifest::read(&root.open_dir(&RepoPath::parse("parent", path)?)?)?;
    // a point of the script has no id
    let point_id = manifest.map_or_else(String::new, |manifest| manifest.point_id);
    Ok(Some(ParentPoint { backup_path: path.clone(), point_id }))
}

/// The images of a point: those that its manifest names, else all files of that kind.
pub(super) fn images(root: &Folder, at: &PointPath) -> Result<Vec<RepoPath>> {
    let folder = root.open_dir(&at.folder())?;
    let names = match Manifest::read(&folder)? {
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
    for name in folder.names()? {
        let Some(name) = name.to_str().filter(|name| name.ends_with(".qcow2")) else { continue };
        if folder.kind(name)? == Some(FileType::RegularFile) {
            images.push(name.to_owned());
        }
    }
    Ok(images)
}
