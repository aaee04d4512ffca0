//! What becomes of the fingerprints of an image that is rebased. The manifest says so before the image is written to, and names
//! the merged ones once these are durable. Whatever cuts it off in between, the old ones are those of the image as it was,
//! and the next call makes the merged ones of them.

use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use super::record::{Ended, Record, taken_in};
use super::{Disk, Held, LIMIT};
use crate::config;
use crate::error::{Code, Error, Result};
use crate::job::Reporter;
use crate::nas::deadline::bounded;
use crate::nas::path::RepoPath;
use crate::operation::steps::{self, in_steps};
use crate::point::Link;
use crate::point::fingerprints::{self, Digest, Fingerprints, Merge};
use crate::qcow2::{self, Rest};

const STEP: &str = "merge the fingerprints";

/// `CORRUPT_IMAGE` when the tables of the image, or of one that it is to absorb, are not what was recorded: a key would vouch from
/// now on for what they say. Data are not read; those that a later reading finds changed are told by the fingerprints. Those of an
/// image that a rebase has begun to change are not what was recorded.
pub(super) fn check_tables(held: &Held, record: &Record, disk: &Disk, job: &mut Reporter<'_>) -> Result<()> {
    const STEP: &str = "compare the tables";
    job.begin(STEP)?;
    for link in std::iter::once(&disk.chain[0]).chain(disk.absorbed()) {
        let Some(recorded) = record.fingerprints(&link.path).map(|recorded| recorded.rest) else { continue };
        let rest = rest_of(held, STEP, link, || job.tell())?.map_err(|error| error.at(STEP, link.path.as_str()))?;
        if rest != recorded {
            let cause = format!("the header or the tables of '{}' are not what was written", link.path);
            return Err(Error::new(Code::CorruptImage, STEP, cause));
        }
    }
    Ok(())
}

/// The hash of all of an image that is not guest data, as it is now.
fn rest_of(
    held: &Held,
    step: &'static str,
    link: &Link,
    mut between: impl FnMut() -> Result<()>,
) -> Result<std::result::Result<Digest, qcow2::Error>> {
    let file = link.file.try_clone().map_err(|e| Error::io(step, link.path.as_str(), e))?;
    let ours = held.clone();
    let begun = bounded(step, LIMIT, move || {
        let _ours = ours;
        Ok(Rest::begin(file))
    })?;
    let rest = match begun {
        Ok(rest) => rest,
        Err(error) => return Ok(Err(error)),
    };
    let advance = |rest: &mut Rest<_>| rest.advance(Instant::now() + steps::STEP);
    Ok(in_steps(held, step, LIMIT, rest, advance, |_| between())?.map(Digest::from))
}

/// What an image is of which a rebase was begun and has changed no data, as far as is known: what it was, with the fingerprints
/// that it had, if its header and its tables are what was recorded.
pub(super) fn unless_changed(held: &Held, record: &Record, disk: &Disk) -> Result<Ended> {
    let Some(own) = record.of(disk).and_then(|own| own.fingerprints) else { return Ok(Ended::Changed(None)) };
    let rest = rest_of(held, "compare the tables", &disk.chain[0], || Ok(()))?;
    Ok(if rest.is_ok_and(|rest| rest == own.rest) { Ended::Unchanged } else { Ended::Changed(None) })
}

/// Images with their fingerprints.
pub(super) type Indexed = Vec<(RepoPath, Fingerprints)>;

/// What is merged once the disk is rebased: the fingerprints of its image as it was, and those of all that it absorbs; none if
/// they have not all some.
pub(super) fn to_merge(record: &Record, disk: &Disk) -> Option<Indexed> {
    let own = (disk.chain[0].path.clone(), record.of(disk)?.fingerprints?);
    let absorbed = disk.absorbed().iter().map(|link| Some((link.path.clone(), record.fingerprints(&link.path)?)));
    std::iter::once(Some(own)).chain(absorbed).collect()
}

/// The same for a disk whose rebase was cut off when its image stood where it was to stand.
pub(super) fn left_to_merge(held: &Held, record: &Record, disk: &Disk) -> Result<Option<Indexed>> {
    let Some((own, fingerprints)) = record.of(disk).and_then(|own| Some((own.clone(), own.fingerprints?))) else {
        return Ok(None);
    };
    let (ours, path) = (held.clone(), disk.chain[0].path.clone());
    bounded(STEP, LIMIT, move || match taken_in(ours.session.root(), &own) {
        Ok(taken_in) => Ok(Some(std::iter::once((path, fingerprints)).chain(taken_in).collect())),
        Err(error) if error.code == Code::NasUnresponsive => Err(error),
        Err(error) => {
            log::warn!("'{path}' has no fingerprints any more: {error}");
            Ok(None)
        }
    })
}

/// The fingerprints of an image that was rebased, out of its own as it was and of those of the images that it has
/// absorbed. None, with a line in the log, when they can't be had; the rebase is none the worse for it. With a key it
/// fails when they do not fit the images, for the key would vouch for what it makes of them. No cancel is heard: the image is
/// what it was to be, and would only lose them.
pub(super) fn merge(
    held: &Held,
    disk: &Arc<Disk>,
    indexed: Option<Indexed>,
    job: &mut Reporter<'_>,
) -> Result<Option<Fingerprints>> {
    let Some(indexed) = indexed.filter(|indexed| !indexed.is_empty()) else { return Ok(None) };
    job.enter(STEP);
    let (ours, rebased, old) = (held.clone(), disk.clone(), indexed[0].1.file.clone());
    let path = &disk.chain[0].path;
    let merged = match bounded(STEP, LIMIT, move || Ok(begin(&ours, &rebased, &indexed)))? {
        Ok(begun) => run(held, disk, begun, old, job)?,
        Err(error) => Err(error),
    };
    if let Err(error) = &merged {
        if error.code == Code::CorruptImage && config::current().keys.is_some() {
            return Err(error.clone());
        }
        log::warn!("'{path}' has no fingerprints any more: {error}");
    }
    Ok(merged.ok())
}

/// A new index on its way.
struct Begun {
    merge: Merge<File, File, File>,
    /// The same file as it is written to.
    file: File,
}

fn begin(held: &Held, disk: &Disk, indexed: &Indexed) -> Result<Begun> {
    let root = held.session.root();
    let target = &disk.chain[0];
    let indexes = indexed.iter().map(|(image, recorded)| fingerprints::open(root, image, recorded));
    let indexes = indexes.collect::<Result<_>>()?;
    let file = fingerprints::create(root, &held.lock, &target.path)?;
    let io = |e| Error::io(STEP, target.path.as_str(), e);
    let (image, to) = (target.file.try_clone().map_err(io)?, file.try_clone().map_err(io)?);
    let merge = Merge::begin(image, indexes, to).map_err(|e| e.at(STEP, target.path.as_str()))?;
    Ok(Begun { merge, file })
}

/// Merges, and puts the new index beside the `old` one.
fn run(
    held: &Held,
    disk: &Arc<Disk>,
    begun: Begun,
    old: String,
    job: &mut Reporter<'_>,
) -> Result<Result<Fingerprints>> {
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
        let _ = job.tell();
        Ok(())
    })?;
    let hash = match merged {
        Ok(hash) => hash,
        Err(error) => return Ok(Err(failed(error))),
    };
    let told = || {
        let _ = job.tell();
        Ok(())
    };
    let rest = match rest_of(held, STEP, &disk.chain[0], told)? {
        Ok(rest) => rest,
        Err(error) => return Ok(Err(failed(error))),
    };
    let (held, target) = (held.clone(), path.clone());
    let place = move || Ok(fingerprints::place(held.session.root(), &held.lock, &target, &file, Some(&old)));
    let placed = bounded(STEP, LIMIT, place)?;
    Ok(placed.map(|file| Fingerprints { file, hash, rest }))
}
