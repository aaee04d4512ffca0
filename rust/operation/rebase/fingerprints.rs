//! What becomes of the fingerprints of an image that is rebased. The manifest says so before the image is written to, and names
//! the merged ones once these are durable. Whatever cuts it off in between, the old ones are those of the image as it was,
//! and the next call makes the merged ones of them.

use super::disk::RebasedDisk;
use super::record::{ImageEnd, PointRecord, taken_in};
use crate::config;
use crate::digest::Digest;
use crate::error::{Code, Error, Result};
use crate::nas::folder::Folder;
use crate::nas::instance::Instance;
use crate::nas::path::RepoPath;
use crate::point::Link;
use crate::point::fingerprints::{self, Fingerprints};
use crate::qcow2;
use crate::work::phase::Phase;
use crate::work::worker::Pulse;

const STEP: &str = Phase::MergeFingerprints.as_str();

/// `CORRUPT_IMAGE` when the tables of the image, or of one that it is to absorb, are not what was recorded: a key would vouch from
/// now on for what they say. Data are not read; those that a later reading finds changed are told by the fingerprints. Those of an
/// image that a rebase has begun to change are not what was recorded.
pub(super) fn check_tables(record: &PointRecord, disk: &RebasedDisk, pulse: &Pulse) -> Result<()> {
    const STEP: &str = Phase::CompareTables.as_str();
    pulse.enter(Phase::CompareTables)?;
    for link in std::iter::once(&disk.chain[0]).chain(disk.absorbed()) {
        let Some(recorded) = record.fingerprints(&link.path).map(|recorded| recorded.rest) else { continue };
        let rest = rest_of(link, &mut |done, total| pulse.at(done, total));
        let rest = rest.map_err(|error| error.at(STEP, link.path.as_str()))?;
        if rest != recorded {
            let cause = format!("the header or the tables of '{}' are not what was written", link.path);
            return Err(Error::new(Code::CorruptImage, STEP, cause));
        }
    }
    Ok(())
}

/// The hash of all of an image that is not guest data, as it is now.
fn rest_of(link: &Link, pulse: &mut qcow2::Pulse<'_>) -> std::result::Result<Digest, qcow2::Error> {
    Ok(qcow2::hash_rest(link.file.try_clone()?, pulse)?.into())
}

/// What an image is of which a rebase was begun and has changed no data, as far as is known: what it was, with the fingerprints
/// that it had, if its header and its tables are what was recorded.
pub(super) fn unless_changed(record: &PointRecord, disk: &RebasedDisk, pulse: &Pulse) -> ImageEnd {
    let Some(own) = record.of(disk).and_then(|own| own.fingerprints) else { return ImageEnd::Changed(None) };
    let rest = rest_of(&disk.chain[0], &mut |done, total| {
        go_on(pulse.at(done, total));
        Ok(())
    });
    if rest.is_ok_and(|rest| rest == own.rest) { ImageEnd::Unchanged } else { ImageEnd::Changed(None) }
}

/// Images with their fingerprints.
pub(super) type Indexed = Vec<(RepoPath, Fingerprints)>;

/// What is merged once the disk is rebased: the fingerprints of its image as it was, and those of all that it absorbs; none if
/// they have not all some.
pub(super) fn to_merge(record: &PointRecord, disk: &RebasedDisk) -> Option<Indexed> {
    let own = (disk.chain[0].path.clone(), record.of(disk)?.fingerprints?);
    let absorbed = disk.absorbed().iter().map(|link| Some((link.path.clone(), record.fingerprints(&link.path)?)));
    std::iter::once(Some(own)).chain(absorbed).collect()
}

/// The same for a disk whose rebase was cut off when its image stood where it was to stand.
pub(super) fn left_to_merge(held: &Instance, record: &PointRecord, disk: &RebasedDisk) -> Option<Indexed> {
    let own = record.of(disk)?;
    let path = &disk.chain[0].path;
    let fingerprints = own.fingerprints.clone()?;
    match taken_in(held.root(), &own) {
        Ok(taken_in) => Some(std::iter::once((path.clone(), fingerprints)).chain(taken_in).collect()),
        Err(error) => {
            log::warn!("'{path}' has no fingerprints any more: {error}");
            None
        }
    }
}

/// The fingerprints of an image that was rebased, out of its own as it was and of those of the images that it has
/// absorbed. None, with a line in the log, when they can't be had; the rebase is none the worse for it. With a key it
/// fails when they do not fit the images, for the key would vouch for what it makes of them.
pub(super) fn merge(
    held: &Instance,
    folder: &Folder,
    disk: &RebasedDisk,
    indexed: Option<Indexed>,
    pulse: &Pulse,
) -> Result<Option<Fingerprints>> {
    let Some(indexed) = indexed.filter(|indexed| !indexed.is_empty()) else { return Ok(None) };
    go_on(pulse.enter(Phase::MergeFingerprints));
    let merged = merge_all(held, folder, &disk.chain[0], &indexed, pulse);
    if let Err(error) = &merged {
        if error.code == Code::CorruptImage && config::current().keys.is_some() {
            return Err(error.clone());
        }
        log::warn!("'{}' has no fingerprints any more: {error}", disk.chain[0].path);
    }
    Ok(merged.ok())
}

/// No cancel is heard once the image is what it was to be, or again what it was: it would only lose its fingerprints.
pub(super) fn go_on<E>(_told: std::result::Result<(), E>) {}

/// Merges, and puts the new index beside the old one.
fn merge_all(
    held: &Instance,
    folder: &Folder,
    target: &Link,
    indexed: &Indexed,
    pulse: &Pulse,
) -> Result<Fingerprints> {
    let root = held.root();
    let path = target.path.as_str();
    let failed = |error: qcow2::Error| match error {
        qcow2::Error::Io(error) => fingerprints::failed(STEP, path, error),
        other => other.at(STEP, path),
    };
    let mut tell = |done, total| {
        go_on(pulse.at(done, total));
        Ok(())
    };
    let indexes = indexed.iter().map(|(image, recorded)| fingerprints::open(root, image, recorded));
    let indexes = indexes.collect::<Result<_>>()?;
    let file = fingerprints::create(held, folder, &target.path)?;
    let io = |e| Error::io(STEP, path, e);
    let image = target.file.try_clone().map_err(io)?;
    let hash = fingerprints::merge(image, indexes, file.clone(), &mut tell).map_err(failed)?;
    let rest = rest_of(target, &mut tell).map_err(failed)?;
    let file = fingerprints::place(held, folder, &target.path, &file, Some(&indexed[0].1.file))?;
    Ok(Fingerprints { file, hash, rest })
}
