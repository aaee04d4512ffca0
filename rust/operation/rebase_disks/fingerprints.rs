//! What becomes of the fingerprints of an image that is rebased. The manifest stops naming them before the image is written
//! to, and names the merged ones once these are durable: whatever cuts it off in between, there are none, and never
//! wrong ones.

use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use super::{Disk, Held, LIMIT, Target};
use crate::config;
use crate::error::{Code, Error, Result};
use crate::job::Reporter;
use crate::nas::deadline::bounded;
use crate::nas::folder::Folder;
use crate::nas::path::{PointPath, RepoPath};
use crate::operation::steps::{self, in_steps};
use crate::point::fingerprints::{self, Digest, Fingerprints, Merge};
use crate::point::{Link, Manifest};
use crate::qcow2::{self, Rest};

const STEP: &str = "merge the fingerprints";

/// `CORRUPT_IMAGE` when the tables of the image, or of one that it is to absorb, are not what was recorded: a key would vouch from
/// now on for what they say. Data are not read; those that a later reading finds changed are told by the fingerprints.
pub(super) fn check_tables(held: &Held, disk: &Disk, job: &mut Reporter<'_>) -> Result<()> {
    const STEP: &str = "compare the tables";
    job.begin(STEP)?;
    for link in std::iter::once(&disk.chain[0]).chain(absorbed(disk)) {
        let (ours, path) = (held.clone(), link.path.clone());
        let file = link.file.try_clone().map_err(|e| Error::io(STEP, path.as_str(), e))?;
        let begun = bounded(STEP, LIMIT, move || {
            let recorded = recorded(ours.session.root(), &path)?;
            Ok(recorded.map(|recorded| (recorded.rest, Rest::begin(file))))
        })?;
        let Some((recorded, rest)) = begun else { continue };
        let at = |error: qcow2::Error| error.at(STEP, link.path.as_str());
        let advance = |rest: &mut Rest<_>| rest.advance(Instant::now() + steps::STEP);
        let rest = in_steps(held, STEP, LIMIT, rest.map_err(at)?, advance, |_| job.tell())?.map_err(at)?;
        if Digest::from(rest) != recorded {
            let cause = format!("the header or the tables of '{}' are not what was written", link.path);
            return Err(Error::new(Code::CorruptImage, STEP, cause));
        }
    }
    Ok(())
}

/// The images that the target is to absorb.
fn absorbed(disk: &Disk) -> &[Link] {
    match disk.target {
        Target::Onto(position) => &disk.chain[1..position],
        Target::Alone | Target::Same => &disk.chain[1..],
    }
}

/// The fingerprints of an image that was rebased, out of its own of `before` and of those of the images that it has
/// absorbed. None, with a line in the log, when they can't be had; the rebase is none the worse for it. With a key it
/// fails when they do not fit the images, for the key would vouch for what it makes of them.
pub(super) fn merge(
    held: &Held,
    disk: &Arc<Disk>,
    before: Option<Fingerprints>,
    job: &mut Reporter<'_>,
) -> Result<Option<Fingerprints>> {
    let Some(before) = before else { return Ok(None) };
    job.begin(STEP)?;
    let (ours, rebased, old) = (held.clone(), disk.clone(), before.file.clone());
    let path = disk.chain[0].path.clone();
    let merged = match bounded(STEP, LIMIT, move || Ok(begin(&ours, &rebased, before)))? {
        Ok(begun) => run(held, disk, begun, job)?,
        Err(error) => Err(error),
    };
    if let Err(error) = &merged {
        if error.code == Code::CorruptImage && config::current().keys.is_some() {
            return Err(error.clone());
        }
        log::warn!("'{path}' has no fingerprints any more: {error}");
        let ours = held.clone();
        let cleared = bounded(STEP, LIMIT, move || fingerprints::clear(ours.session.root(), &ours.lock, &path, &old));
        if let Err(error) = cleared {
            log::warn!("an index that nothing names is left - {error}");
        }
    }
    Ok(merged.ok())
}

/// A new index on its way.
struct Begun {
    merge: Merge<File, File, File>,
    /// The same file as it is written to.
    file: File,
}

fn begin(held: &Held, disk: &Disk, before: Fingerprints) -> Result<Begun> {
    let root = held.session.root();
    let target = &disk.chain[0];
    let mut indexes = vec![fingerprints::open(root, &target.path, &before)?];
    for link in absorbed(disk) {
        let recorded = recorded(root, &link.path)?.ok_or_else(|| missing(&link.path))?;
        indexes.push(fingerprints::open(root, &link.path, &recorded)?);
    }
    let file = fingerprints::create(root, &held.lock, &target.path)?;
    let io = |e| Error::io(STEP, target.path.as_str(), e);
    let (image, to) = (target.file.try_clone().map_err(io)?, file.try_clone().map_err(io)?);
    let merge = Merge::begin(image, indexes, to).map_err(|e| e.at(STEP, target.path.as_str()))?;
    Ok(Begun { merge, file })
}

/// Merges, and lets the new index take the place of the old one.
fn run(held: &Held, disk: &Arc<Disk>, begun: Begun, job: &mut Reporter<'_>) -> Result<Result<Fingerprints>> {
    let path = disk.chain[0].path.clone();
    let failed = |error: qcow2::Error| match error {
        qcow2::Error::Io(error) => fingerprints::failed(STEP, path.as_str(), error),
        other => other.at(STEP, path.as_str()),
    };
    let Begun { merge, file } = begun;
    let advance = |merge: &mut Merge<_, _, _>| merge.advance(Instant::now() + steps::STEP);
    let merged = in_steps(held, STEP, LIMIT, merge, advance, |merge| {
        let (done, total) = merge.position();
        job.progress(done, total);
        job.tell()
    })?;
    let hash = match merged {
        Ok(hash) => hash,
        Err(error) => return Ok(Err(failed(error))),
    };
    let (session, ours) = (held.clone(), disk.clone());
    let begun = bounded(STEP, LIMIT, move || {
        let (_session, target) = (session, &ours.chain[0]);
        let image = target.file.try_clone().map_err(|e| Error::io(STEP, target.path.as_str(), e))?;
        Ok(Rest::begin(image))
    })?;
    let rest = match begun {
        Ok(rest) => {
            let advance = |rest: &mut Rest<_>| rest.advance(Instant::now() + steps::STEP);
            in_steps(held, STEP, LIMIT, rest, advance, |_| job.tell())?
        }
        Err(error) => Err(error),
    };
    let rest = match rest {
        Ok(rest) => Digest::from(rest),
        Err(error) => return Ok(Err(failed(error))),
    };
    let (held, target) = (held.clone(), path.clone());
    let place = move || Ok(fingerprints::place(held.session.root(), &held.lock, &target, &file));
    let placed = bounded(STEP, LIMIT, place)?;
    Ok(placed.map(|file| Fingerprints { file, hash, rest }))
}

/// What the manifest beside an image says of its fingerprints.
fn recorded(root: &Folder, image: &RepoPath) -> Result<Option<Fingerprints>> {
    let folder = image.parent().ok_or_else(|| Error::invalid("target", "lies in no folder"))?;
    let point = PointPath::parse("target", folder.as_str())?;
    let manifest = Manifest::read_sound(&root.open_dir(&folder)?, &point)?;
    let disk = manifest.into_iter().flat_map(|manifest| manifest.disks).find(|disk| disk.file == image.name());
    Ok(disk.and_then(|disk| disk.fingerprints))
}

fn missing(image: &RepoPath) -> Error {
    Error::new(Code::NotFound, STEP, format!("'{image}' has no fingerprints"))
}
