//! What a point's manifest says of an image that is rebased: what it was before, and what it is to stand on, for as long as it
//! may change. So a manifest of a rebase that was cut off, too, tells which images may have its name and which may not.
//! What no rebase changes stays there as it was written, or nobody would see what else has changed it.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::disk::{RebasedDisk, Target};
use crate::digest::Digest;
use crate::error::{Code, Error, Result};
use crate::nas::folder::Folder;
use crate::nas::instance::Instance;
use crate::nas::path::{PointPath, RepoPath};
use crate::operation::verify_chain::chains::Judged;
use crate::point::fingerprints::{self, Fingerprints};
use crate::point::{self, DEEPEST, Kind, Link, Manifest, ManifestDisk, ParentPoint, Rebasing};
use crate::qcow2::{self, Source};

const STEP: &str = "write the manifest";

/// The manifest of the point whose disks are rebased, if it has one: as it was judged, and as it was written since. It is not
/// read again, or somebody could put another there in between.
#[derive(Debug)]
pub(super) struct PointRecord {
    at: PointPath,
    judged: Judged,
    told: Mutex<Told>,
}

/// What the manifest tells.
#[derive(Debug)]
struct Told {
    manifest: Option<Manifest>,
    /// It is on the NAS as it is here. That the images are what they were to be is written down once the last one is: until then
    /// each is told of as one whose rebase was cut off when its image stood where it was to stand.
    is_written: bool,
    /// Images of which an index may be left that it does not name, the one that it names, and whether an unfinished one may be left.
    indexed: Vec<(RepoPath, Option<String>, bool)>,
}

/// What an image is once its rebase has ended.
pub(super) enum ImageEnd {
    /// What it was before.
    Unchanged,
    /// Another, with these fingerprints.
    Changed(Option<Fingerprints>),
}

impl PointRecord {
    pub(super) fn new(at: PointPath, judged: Judged) -> PointRecord {
        let manifest = judged.manifest(&at.folder()).cloned();
        let told = Mutex::new(Told { manifest, is_written: true, indexed: Vec::new() });
        PointRecord { at, judged, told }
    }

    /// The point's folder.
    pub(super) fn folder(&self) -> &Folder {
        &self.judged.folder
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What vouches for the manifest as it is now.
    pub(super) fn mac(&self) -> Option<Digest> {
        self.told().manifest.as_ref()?.mac
    }

    /// What it says of the image now.
    pub(super) fn of(&self, image: &RebasedDisk) -> Option<ManifestDisk> {
        let told = self.told();
        let mut disks = told.manifest.iter().flat_map(|manifest| &manifest.disks);
        disks.find(|disk| disk.file == image.chain[0].path.name()).cloned()
    }

    /// The manifest of the point in `folder`, as it was before this call.
    pub(super) fn manifest_of(&self, folder: &RepoPath) -> Option<&Manifest> {
        self.judged.manifest(folder)
    }

    /// What was recorded of an image before this call.
    pub(super) fn recorded(&self, image: &RepoPath) -> Option<&ManifestDisk> {
        self.judged.record(image)
    }

    /// Had a rebase of the image been cut off before this call?
    pub(super) fn was_unfinished(&self, image: &RebasedDisk) -> bool {
        self.judged.record(&image.chain[0].path).is_some_and(ManifestDisk::is_rebasing)
    }

    /// The fingerprints of what the rebased image takes of another one. They are right also where a commit into that one was cut off:
    /// of what has changed there nothing is taken.
    pub(super) fn fingerprints(&self, image: &RepoPath) -> Option<Fingerprints> {
        self.judged.record(image).filter(|disk| !disk.is_rebasing())?.fingerprints.clone()
    }

    /// Lets the manifest, if there is one, say what the images are to stand on, durably.
    pub(super) fn begin<'a>(&self, held: &Instance, images: impl Iterator<Item = &'a RebasedDisk>) -> Result<()> {
        let mut told = self.told();
        let Some(mut manifest) = told.manifest.clone() else { return Ok(()) };
        for image in images {
            let Some(disk) = named(&mut manifest, image) else { continue };
            disk.rebasing = Some(self.rebasing(image, disk));
            // it was not recorded in points of older versions
            disk.parent = disk.parent.take().or_else(|| image.chain.get(1).map(|below| below.path.to_string()));
        }
        self.replace(held, &mut told, &manifest)
    }

    /// What is said of the image, recorded as `disk`, while it is rebased.
    fn rebasing(&self, image: &RebasedDisk, disk: &ManifestDisk) -> Rebasing {
        let onto = match image.target {
            Target::Onto(position) => Some(&image.chain[position].path),
            Target::Alone | Target::Same => None,
        };
        let point = onto.and_then(|onto| self.judged.manifest(&onto.parent()?));
        let point_id = point.map(|point| point.point_id.clone());
        let mut absorbed = image.absorbed().iter().filter_map(|link| self.judged.record(&link.path));
        let had_fingerprints = disk.had_fingerprints() || absorbed.any(ManifestDisk::had_fingerprints);
        Rebasing { onto: onto.map(RepoPath::to_string), point_id, had_fingerprints }
    }

    /// Lets it say what the image is now, and what the point stands on, if `begin` was called for it: by this call, or by one
    /// that was cut off. The next `begin`, or `write`, makes that durable.
    pub(super) fn end(&self, image: &RebasedDisk, ended: ImageEnd) -> Result<()> {
        let mut told = self.told();
        let Some(mut manifest) = told.manifest.clone() else { return Ok(()) };
        let Link { path, file } = &image.chain[0];
        if let Some(disk) = named(&mut manifest, image).filter(|disk| disk.is_rebasing()) {
            disk.size = file.length().map_err(|e| Error::io(STEP, path.as_str(), e))?;
            let below = backing(path, file)?;
            image.check_backing(below.as_ref())?;
            disk.kind = if below.is_some() { Kind::Incremental } else { Kind::Full };
            disk.parent = below.map(|below| below.to_string());
            // one that was made has got its name
            let has_new = !matches!(ended, ImageEnd::Changed(Some(_)));
            if let ImageEnd::Changed(fingerprints) = ended {
                disk.lost_fingerprints = fingerprints.is_none() && disk.had_fingerprints();
                disk.fingerprints = fingerprints;
            }
            disk.rebasing = None;
            let named = disk.fingerprints.as_ref().map(|fingerprints| fingerprints.file.clone());
            told.indexed.push((path.clone(), named, has_new));
        }
        let incremental = manifest.disks.iter().any(|disk| disk.kind == Kind::Incremental);
        manifest.kind = if incremental { Kind::Incremental } else { Kind::Full };
        manifest.parent = self.parent_point(&manifest)?;
        told.is_written &= told.manifest.as_ref() == Some(&manifest);
        told.manifest = Some(manifest);
        Ok(())
    }

    /// Makes durable what it says, and the names in the point's folder.
    pub(super) fn write(&self, held: &Instance) -> Result<()> {
        let mut told = self.told();
        match told.manifest.clone().filter(|_| !told.is_written) {
            Some(manifest) => self.replace(held, &mut told, &manifest),
            None => self.folder().sync(),
        }
    }

    /// Indexes that it does not name any more go.
    fn replace(&self, held: &Instance, told: &mut Told, manifest: &Manifest) -> Result<()> {
        held.fence_lately()?;
        (told.manifest, told.is_written) = (Some(manifest.replace(self.folder())?), true);
        let indexed = std::mem::take(&mut told.indexed);
        let left = |error| log::warn!("{}: an index of fingerprints that nothing names is left: {error}", self.at);
        if indexed.is_empty() {
            return Ok(());
        }
        match held.fence_lately() {
            Ok(()) => indexed.into_iter().for_each(|(image, named, has_new)| {
                fingerprints::clear(self.folder(), &image, named.as_deref(), has_new).unwrap_or_else(left);
            }),
            Err(error) => left(error),
        }
        Ok(())
    }

    /// The point that the disks stand on; while they stand on several, the one that was named before, if it is one of them.
    fn parent_point(&self, manifest: &Manifest) -> Result<Option<ParentPoint>> {
        let below = manifest.disks.iter().map(|disk| self.below(disk)).collect::<Result<Vec<_>>>()?;
        let parents: BTreeSet<_> = below.into_iter().flatten().filter_map(|below| below.parent()).collect();
        let named = manifest.parent.as_ref();
        if let Some(named) = named.filter(|named| parents.iter().any(|path| path.as_str() == named.backup_path)) {
            return Ok(Some(named.clone()));
        }
        let parent = |path: &RepoPath| {
            // a point of the script has no id
            let point_id = self.judged.manifest(path).map_or_else(String::new, |manifest| manifest.point_id.clone());
            ParentPoint { backup_path: path.to_string(), point_id }
        };
        Ok(parents.first().map(parent))
    }

    /// What the image of a disk stands on: as it was judged, unless a rebase has ended since. It is not opened by its name, or
    /// what somebody has put there meanwhile would be written down.
    fn below(&self, disk: &ManifestDisk) -> Result<Option<RepoPath>> {
        let path = self.at.file(&disk.file)?;
        match self.judged.facts(&path).filter(|_| self.judged.record(&path) == Some(disk)) {
            Some(facts) => Ok(facts.backing.clone()),
            None => disk.parent.as_deref().map(|parent| RepoPath::parse("parent", parent)).transpose(),
        }
    }
}

/// What a manifest records of the image.
fn named<'a>(manifest: &'a mut Manifest, image: &RebasedDisk) -> Option<&'a mut ManifestDisk> {
    manifest.disks.iter_mut().find(|disk| disk.file == image.chain[0].path.name())
}

/// The images that the image of `record` has taken in by a rebase that was cut off, with their fingerprints, as their manifests
/// tell: nothing leads to them any more.
pub(super) fn taken_in(root: &Folder, record: &ManifestDisk) -> Result<Vec<(RepoPath, Fingerprints)>> {
    const STEP: &str = "look for what was taken in";
    let onto = record.rebasing.as_ref().and_then(|rebasing| rebasing.onto.as_ref());
    let (mut next, mut images) = (record.parent.clone(), Vec::new());
    while next.as_ref() != onto {
        let untold = || Error::new(Code::NotFound, STEP, "no manifest tells of it");
        let path = RepoPath::parse("image", &next.filter(|_| images.len() < DEEPEST).ok_or_else(untold)?)?;
        let point = PointPath::parse("image", path.parent().ok_or_else(untold)?.as_str())?;
        let manifest = Manifest::read_sound(&root.open_dir(&point.folder())?, &point)?.ok_or_else(untold)?;
        let disk = manifest.disks.into_iter().find(|disk| disk.file == path.name() && !disk.is_rebasing());
        let disk = disk.ok_or_else(untold)?;
        next = disk.parent;
        images.push((path, disk.fingerprints.ok_or_else(untold)?));
    }
    Ok(images)
}

/// What the image stands on.
pub(super) fn backing(image: &RepoPath, file: &File) -> Result<Option<RepoPath>> {
    let backing = qcow2::backing(file).map_err(|e| e.at(STEP, image.as_str()))?;
    backing.map(|backing| point::resolve(image, &backing)).transpose()
}
