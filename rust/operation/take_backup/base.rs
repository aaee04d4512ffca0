//! What a disk is compared with where no bitmap tells what changed: the fingerprints of the parent point's images. The library
//! first reads the images that have none, and records theirs.

use std::time::Instant;

use super::plan::{DiskPlan, Plan, Strategy};
use super::targets::Targets;
use crate::apart::Apart;
use crate::error::{Code, Error, Result, Stopped};
use crate::limits;
use crate::nas::folder::Folder;
use crate::nas::instance::Instance;
use crate::nas::path::{PointPath, RepoPath};
use crate::point::fingerprints::{self, Base, Fingerprints};
use crate::point::{ChainImage, Manifest};
use crate::qcow2;
use crate::work::deadline::bounded;
use crate::work::job::Reporter;
use crate::work::phase::Phase;
use crate::work::worker;

const STEP: &str = "compare with the parent point";

/// Gives the images that the plan compares disks with fingerprints where they have none.
pub(super) fn complete(targets: &Targets, plan: &mut Plan, job: &mut Reporter<'_>, deadline: Instant) -> Result<()> {
    for disk in &mut plan.disks {
        let Strategy::Compared(chain, _) = &mut disk.strategy else { continue };
        for image in chain.iter_mut().filter(|image| image.fingerprints.is_none()) {
            job.begin(Phase::ReadParentPoint)?;
            image.fingerprints = Some(index(targets, image, job, deadline)?);
            plan.details.push(format!("'{}' had no fingerprints: its {} bytes were read", image.file, image.size));
        }
    }
    Ok(())
}

/// Opens what each disk is compared with, if it is.
pub(super) fn open(targets: &Targets, plan: &Plan) -> Result<Vec<Option<Base<Apart>>>> {
    let base = |DiskPlan { facts, strategy, .. }: &DiskPlan| {
        let Strategy::Compared(chain, _) = strategy else { return Ok(None) };
        let (instance, chain, size) = (targets.instance().clone(), chain.clone(), facts.virtual_size);
        let opened = bounded(STEP, limits::STORAGE_STEP, move || open_chain(instance.root(), &chain, size));
        opened.map(Some).map_err(|error| match error.code {
            Code::CorruptImage | Code::NotFound => Error { code: Code::ParentInvalid, ..error }.on_disk(&facts.target),
            _ => error.on_disk(&facts.target),
        })
    };
    plan.disks.iter().map(base).collect()
}

fn open_chain(root: &Folder, chain: &[ChainImage], size: u64) -> Result<Base<Apart>> {
    let index = |image: &ChainImage| match &image.fingerprints {
        // read where the image is written
        Some(recorded) => fingerprints::open_as(root, &image.file, recorded, |file| Apart::of(&file)),
        None => Err(Error::new(Code::ParentInvalid, STEP, format!("'{}' has no fingerprints", image.file))),
    };
    let indexes = chain.iter().map(index).collect::<Result<Vec<_>>>()?;
    Base::begin(indexes, size).map_err(|e| fingerprints::failed(STEP, chain[0].file.as_str(), e))
}

/// Reads an image of a published point and records its fingerprints in the point's manifest.
fn index(targets: &Targets, image: &ChainImage, job: &mut Reporter<'_>, deadline: Instant) -> Result<Fingerprints> {
    let (instance, path, size) = (targets.instance().clone(), image.file.clone(), image.size);
    let (file, hash, rest) = worker::run(STEP, limits::STORAGE_STEP, job, move |pulse| {
        let mut late = false;
        let source = instance.root().open_file(&path)?;
        let file = fingerprints::create(&instance, &folder_of(&instance, &path)?, &path)?;
        let read = fingerprints::index_image(source, file.clone(), &mut |done, _| {
            late = Instant::now() >= deadline;
            if late { Err(Stopped) } else { pulse.at(done, size) }
        });
        let (hash, rest) = read.map_err(|error| match error {
            qcow2::Error::Io(error) => Error::io(STEP, path.as_str(), error),
            qcow2::Error::Stopped(_) if late => Error::new(Code::Timeout, STEP, "not done within waitSeconds"),
            qcow2::Error::Stopped(stopped) => stopped.error(),
            other => Error { code: Code::ParentInvalid, ..other.at(STEP, path.as_str()) },
        })?;
        Ok((file, hash, rest))
    })?;
    let (instance, path) = (targets.instance().clone(), image.file.clone());
    // a sync says nothing until its end
    let limit = limits::STORAGE_STEP.max(deadline.saturating_duration_since(Instant::now()));
    bounded(STEP, limit, move || {
        // the file is closed before the instance's session may unmount
        let (instance, file) = (instance, file);
        let file = fingerprints::place(&instance, &folder_of(&instance, &path)?, &path, &file, None)?;
        let recorded = Fingerprints { file, hash, rest };
        record(&instance, &path, &recorded)?;
        Ok(recorded)
    })
}

fn folder_of(instance: &Instance, image: &RepoPath) -> Result<Folder> {
    let folder =
        image.parent().ok_or_else(|| Error::invalid("image", format!("'{image}' lies in no restore point")))?;
    instance.root().open_dir(&folder)
}

fn record(instance: &Instance, image: &RepoPath, recorded: &Fingerprints) -> Result<()> {
    let gone = || Error::new(Code::ParentInvalid, STEP, format!("no manifest tells of '{image}'"));
    let point = PointPath::parse("image", image.parent().ok_or_else(gone)?.as_str())?;
    let folder = instance.point(&point)?;
    let mut manifest = Manifest::read_sound(&folder, &point)?.ok_or_else(gone)?;
    let disk = manifest.disks.iter_mut().find(|disk| disk.file == image.name()).ok_or_else(gone)?;
    (disk.fingerprints, disk.lost_fingerprints) = (Some(recorded.clone()), false);
    instance.fence()?;
    // without the key that vouches for the parent, nothing is added to it
    manifest.replace(&folder).map(drop).map_err(|error| match error.code {
        Code::InvalidArgument => Error { code: Code::ParentInvalid, ..error },
        _ => error,
    })
}
