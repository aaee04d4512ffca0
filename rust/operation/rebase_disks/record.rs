//! What a point's manifest says of an image that is rebased: neither its length nor its fingerprints while it may change.
//! What no rebase changes stays there as it was written, or nobody would see what else has changed it.

use std::collections::BTreeSet;
use std::fs::File;

use super::{Disk, Held};
use crate::error::{Error, Result};
use crate::nas::folder::Folder;
use crate::nas::path::{PointPath, RepoPath};
use crate::point::fingerprints::Fingerprints;
use crate::point::{self, Kind, Link, Manifest, ManifestDisk, ParentPoint};
use crate::qcow2;

const STEP: &str = "write the manifest";

/// Lets the manifest, if there is one, say nothing more of the image, durably; which fingerprints it named.
pub(super) fn begin(held: &Held, at: &PointPath, image: &Disk) -> Result<Option<Fingerprints>> {
    let folder = held.session.root().open_dir(&at.folder())?;
    let Some(mut manifest) = Manifest::read_sound(&folder, at)? else { return Ok(None) };
    let written = manifest.clone();
    let Some(disk) = named(&mut manifest, image) else { return Ok(None) };
    let fingerprints = disk.fingerprints.take();
    disk.size = 0;
    if manifest != written {
        held.lock.check()?;
        manifest.replace(&folder)?;
    }
    Ok(fingerprints)
}

/// Lets it say what the image is now, and what the point stands on, if `begin` has let it say nothing: by this call, or by
/// one that was cut off.
pub(super) fn end(held: &Held, at: &PointPath, image: &Disk, fingerprints: Option<Fingerprints>) -> Result<()> {
    let root = held.session.root();
    let folder = root.open_dir(&at.folder())?;
    let Some(mut manifest) = Manifest::read_sound(&folder, at)? else { return folder.sync() };
    let before = manifest.clone();
    if let Some(disk) = named(&mut manifest, image).filter(|disk| disk.size == 0) {
        let Link { path, file } = &image.chain[0];
        disk.size = file.metadata().map_err(|e| Error::io(STEP, path.as_str(), e))?.len();
        let below = backing(path, file)?;
        image.check_backing(below.as_ref())?;
        disk.kind = if below.is_some() { Kind::Incremental } else { Kind::Full };
        disk.parent = below.map(|below| below.to_string());
        disk.fingerprints = fingerprints;
    }
    let incremental = manifest.disks.iter().any(|disk| disk.kind == Kind::Incremental);
    manifest.kind = if incremental { Kind::Incremental } else { Kind::Full };
    manifest.parent = parent_point(root, &before, &parents(root, at, &manifest)?)?;
    if manifest == before {
        return folder.sync();
    }
    held.lock.check()?;
    manifest.replace(&folder)
}

/// What a manifest records of the image.
fn named<'a>(manifest: &'a mut Manifest, image: &Disk) -> Option<&'a mut ManifestDisk> {
    manifest.disks.iter_mut().find(|disk| disk.file == image.chain[0].path.name())
}

/// What the image stands on.
fn backing(image: &RepoPath, file: &File) -> Result<Option<RepoPath>> {
    let backing = qcow2::backing(file).map_err(|e| e.at(STEP, image.as_str()))?;
    backing.map(|backing| point::resolve(image, &backing)).transpose()
}

/// The points that the disks stand on.
fn parents(root: &Folder, at: &PointPath, manifest: &Manifest) -> Result<BTreeSet<String>> {
    let mut parents = BTreeSet::new();
    for disk in &manifest.disks {
        let path = at.file(&disk.file)?;
        let below = backing(&path, &root.open_file(&path)?)?;
        parents.extend(below.and_then(|below| below.parent()).map(|folder| folder.to_string()));
    }
    Ok(parents)
}

/// The point that the disks stand on; while they stand on several, the one that was named before, if it is one of them.
fn parent_point(root: &Folder, before: &Manifest, parents: &BTreeSet<String>) -> Result<Option<ParentPoint>> {
    if let Some(parent) = before.parent.as_ref().filter(|parent| parents.contains(&parent.backup_path)) {
        return Ok(Some(parent.clone()));
    }
    let Some(path) = parents.first() else { return Ok(None) };
    let point = PointPath::parse("parent", path)?;
    let manifest = Manifest::read_sound(&root.open_dir(&point.folder())?, &point)?;
    // a point of the script has no id
    let point_id = manifest.map_or_else(String::new, |manifest| manifest.point_id);
    Ok(Some(ParentPoint { backup_path: path.clone(), point_id }))
}
