//! The images that a point's disks stand on, found by their headers, and what is wrong with them before their tables
//! are looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::Arc;

use rustix::fs::FileType;

use super::agreement::{self, Facts};
use super::verdict::{Verdict, VerifiedFile};
use crate::config;
use crate::error::{Code, Error, Result};
use crate::keys::Keys;
use crate::nas::folder::Folder;
use crate::nas::path::{PointPath, RepoPath};
use crate::plain::plain;
use crate::point::fingerprints::Fingerprints;
use crate::point::{self, DEEPEST, Link, MANIFEST, Manifest, ManifestDisk, open_with_images};
use crate::qcow2::{self, Source};

const STEP: &str = "follow the chains";
const CHECK: &str = "check the point";
/// Images of a point that no manifest names and that are looked at: more than a machine has disks.
const MOST_UNNAMED: usize = 512;
/// Folders that are open at a time: a chain may have more than a process may have files.
const MOST_FOLDERS: usize = 64;
/// What is told of one beyond those.
const TOO_MANY: &str = "was not checked, for its point holds too many images that no manifest names";
/// What is told of an image that is not any more what was judged.
const EXCHANGED: &str = "is another by now than when it was looked at: somebody has exchanged it";
/// What is told of one whose rebase has not ended.
const UNFINISHED: &str = "a rebase of it was cut off: what it has to be is not known until that is done again";
/// What is told of a manifest that is not there, where keys are configured.
const UNVOUCHED: &str = "is not there, and without it no key of keyFile vouches for the point";

/// A file of the chains.
#[derive(Debug)]
pub(in crate::operation) struct Found {
    pub(in crate::operation) path: RepoPath,
    pub(in crate::operation) told: VerifiedFile,
    /// What the image is, if its tables can be checked.
    pub(in crate::operation) facts: Option<Facts>,
    /// Why it could not be looked at, if that is so.
    pub(in crate::operation) unseen: Option<Code>,
}

/// What was found of a point and of all that it stands on.
#[derive(Debug)]
pub(in crate::operation) struct Judged {
    /// The point's.
    pub(in crate::operation) folder: Arc<Folder>,
    /// Each disk's chain from its newest image on, at last the manifests.
    pub(in crate::operation) found: Vec<Found>,
    /// One of the points has a manifest, be it one that can't be read.
    pub(in crate::operation) has_manifests: bool,
    /// There are keys, and what they do not vouch for is not served.
    is_keyed: bool,
    /// The manifests that were judged, by the point's folder; none for a point without one that can be read.
    manifests: BTreeMap<RepoPath, Option<Manifest>>,
}

/// Looks at all files that the point's disks consist of. The manifest is bad if the point is to have another `id`. The images of
/// `opened` are judged as they are open, whatever has their names by now.
pub(in crate::operation) fn find(
    root: &Folder,
    point: &PointPath,
    id: Option<&str>,
    opened: &[&Link],
) -> Result<Judged> {
    let (folder, listed) = open_with_images(root, point)?;
    let (images, manifests, keys) = (BTreeMap::new(), BTreeMap::new(), config::current().keys.clone());
    let opened = opened.iter().map(|link| (&link.path, &link.file)).collect();
    let folder = Arc::new(folder);
    let folders = BTreeMap::from([(point.folder(), folder.clone())]);
    let mut chains =
        Chains { root, point, keys, opened, folders, found: Vec::new(), images, manifests, has_manifests: false };
    let recorded = chains.manifest(&point.folder()).map(|manifest| manifest.disks.clone());
    let mut named = BTreeSet::new();
    let mut names: Vec<_> = recorded.into_iter().flatten().map(|disk| disk.file).collect();
    names.retain(|name| named.insert(name.clone()));
    let mut others: Vec<_> = listed.into_iter().filter(|name| !named.contains(name)).collect();
    let rest = others.split_off(MOST_UNNAMED.min(others.len()));
    names.extend(others);
    for name in &names {
        match point.file(name) {
            Ok(path) => chains.follow(path),
            Err(error) => chains.blame_manifest(&point.folder(), &error.cause),
        }
    }
    if let Some(name) = rest.first() {
        match point.file(name) {
            Ok(path) => chains.pass_over(path, rest.len()),
            Err(error) => chains.blame_manifest(&point.folder(), &error.cause),
        }
    }
    if chains.found.is_empty() {
        return Err(Error::new(Code::NotFound, STEP, format!("'{point}' holds no image")));
    }
    chains.look_for_state();
    chains.check_manifests(id);
    let Chains { found, has_manifests, keys, manifests, .. } = chains;
    Ok(Judged { folder, found, has_manifests, is_keyed: keys.is_some(), manifests })
}

impl Judged {
    /// The manifest of the point in `folder`, as it was judged.
    pub(in crate::operation) fn manifest(&self, folder: &RepoPath) -> Option<&Manifest> {
        self.manifests.get(folder)?.as_ref()
    }

    /// What the manifest beside an image says of it.
    pub(in crate::operation) fn record(&self, image: &RepoPath) -> Option<&ManifestDisk> {
        self.manifest(&image.parent()?)?.disks.iter().find(|disk| disk.file == image.name())
    }

    /// What an image is, if its tables can be checked.
    pub(in crate::operation) fn facts(&self, image: &RepoPath) -> Option<&Facts> {
        self.found.iter().find(|found| found.path == *image)?.facts.as_ref()
    }

    /// The fingerprints of what an image holds now; none while it may hold more than it did.
    pub(in crate::operation) fn fingerprints(&self, image: &RepoPath) -> Option<&Fingerprints> {
        self.record(image).filter(|disk| !disk.is_unfinished())?.fingerprints.as_ref()
    }

    /// `CORRUPT_IMAGE` when one of the manifests is bad, the failure's own code when it could not be looked at: nothing that
    /// they tell may then be believed.
    pub(in crate::operation) fn refuse_manifests(&self) -> Result<()> {
        let mut manifests = self.found.iter().filter(|found| found.path.name() == MANIFEST);
        manifests.find(|found| found.told.verdict != Verdict::Good).map_or(Ok(()), |found| Err(found.refusal()))
    }

    /// `CORRUPT_IMAGE` when one of the images of `chain` is bad, those of other disks may be, or when it was judged to stand on
    /// something else than it does there; `IO` when one was not looked at.
    pub(in crate::operation) fn refuse_images(&self, chain: &[Link]) -> Result<()> {
        for (position, link) in chain.iter().enumerate() {
            let refuse = |code, why: &str| Err(Error::new(code, CHECK, format!("'{}': {why}", link.path)));
            let Some(found) = self.found.iter().find(|found| found.path == link.path) else {
                return if position == 0 { refuse(Code::Io, TOO_MANY) } else { refuse(Code::CorruptImage, EXCHANGED) };
            };
            if found.told.verdict == Verdict::Bad || found.unseen.is_some() {
                return Err(found.refusal());
            }
            let judged = found.facts.as_ref().map(|facts| facts.backing.as_ref());
            if judged != Some(chain.get(position + 1).map(|below| &below.path)) {
                return refuse(Code::CorruptImage, EXCHANGED);
            }
        }
        Ok(())
    }

    /// `CORRUPT_IMAGE` where a key has to vouch for the images of `chain`, and the rebase of one was cut off: a manifest tells
    /// of that one what it was, and what it was to stand on, and not what it is.
    pub(in crate::operation) fn refuse_unfinished(&self, chain: &[Link]) -> Result<()> {
        let is_unfinished = |link: &&Link| self.record(&link.path).is_some_and(ManifestDisk::is_unfinished);
        match chain.iter().find(is_unfinished).filter(|_| self.is_keyed) {
            Some(link) => Err(Error::new(Code::CorruptImage, CHECK, format!("'{}': {UNFINISHED}", link.path))),
            None => Ok(()),
        }
    }
}

impl Found {
    /// Length of the image if its tables can be checked.
    pub(in crate::operation) fn checkable(&self) -> Option<u64> {
        self.facts.as_ref().map(|facts| facts.size)
    }

    fn refusal(&self) -> Error {
        let code = if self.told.verdict == Verdict::Bad { Code::CorruptImage } else { self.unseen.unwrap_or(Code::Io) };
        Error::new(code, CHECK, format!("'{}': {}", self.path, self.told.reasons.join("; ")))
    }
}

/// Opens a judged image again: only so many stay open. One that is no longer what was judged is damaged.
pub(in crate::operation) fn open_again(
    root: &Folder,
    path: &RepoPath,
    judged: &Facts,
) -> Result<Result<File, qcow2::Error>> {
    let file = root.open_file(path)?;
    let size = file.length().map_err(|e| Error::io(STEP, path.as_str(), e))?;
    let info = match qcow2::inspect(&file) {
        Ok(info) => info,
        Err(error) => return Ok(Err(error)),
    };
    let backing = info.backing.as_ref().and_then(|backing| point::resolve(path, backing).ok());
    let is = Facts { size, virtual_size: info.virtual_size, has_backing: info.backing.is_some(), backing };
    Ok(if is == *judged { Ok(file) } else { Err(qcow2::Error::Corrupt(EXCHANGED.into())) })
}

struct Chains<'a> {
    root: &'a Folder,
    point: &'a PointPath,
    keys: Option<Arc<Keys>>,
    opened: BTreeMap<&'a RepoPath, &'a File>,
    /// The points' folders, or some of them.
    folders: BTreeMap<RepoPath, Arc<Folder>>,
    found: Vec<Found>,
    images: BTreeMap<RepoPath, Option<Facts>>,
    has_manifests: bool,
    /// By the point's folder; none for a point without one that can be read.
    manifests: BTreeMap<RepoPath, Option<Manifest>>,
}

impl Chains<'_> {
    /// Tells of this image, for so many that are not looked at.
    fn pass_over(&mut self, path: RepoPath, images: usize) {
        let reason = format!("{TOO_MANY}, nor {} more", images - 1);
        match self.found.iter_mut().find(|found| found.path == path) {
            // another's chain led to it
            Some(found) => found.told.blame(Verdict::Aborted, reason),
            None => {
                let mut told = VerifiedFile::good(path.as_str());
                told.blame(Verdict::Aborted, reason);
                self.found.push(Found { told, path, facts: None, unseen: Some(Code::Io) });
            }
        }
    }

    /// Looks at an image and all that it stands on.
    fn follow(&mut self, path: RepoPath) {
        let mut last = None;
        let look = |path: RepoPath| {
            last = Some(path.clone());
            let below = if self.images.contains_key(&path) { self.known_backing(&path) } else { self.look(path) };
            Ok(((), below))
        };
        if let Err(path) = qcow2::follow(path, DEEPEST, RepoPath::as_str, look, |path| path) {
            let reason = format!("the chain comes back to it, or has more than {DEEPEST} images");
            // one that no chain has led to before is not looked at any more
            let blamed = if self.images.contains_key(&path) { Some(path) } else { last };
            if let Some(found) = self.found.iter_mut().find(|found| Some(&found.path) == blamed.as_ref()) {
                found.told.blame(Verdict::Bad, reason);
            }
        }
    }

    /// What an image stands on that another disk's chain led to before; only to see whether the chain ends.
    fn known_backing(&self, path: &RepoPath) -> Option<RepoPath> {
        self.images.get(path)?.as_ref()?.backing.clone()
    }

    /// Looks at one image; what it stands on.
    fn look(&mut self, path: RepoPath) -> Option<RepoPath> {
        let mut found =
            Found { told: VerifiedFile::good(path.as_str()), path: path.clone(), facts: None, unseen: None };
        let opened = self.open(&path, &mut found);
        let facts = opened.as_ref().map(|(facts, _)| facts.clone());
        if let Some(facts) = &facts {
            self.compare(&path, facts, &mut found.told);
        }
        self.images.insert(path, facts);
        self.found.push(found);
        opened.and_then(|(_, backing)| backing)
    }

    /// Reads an image's header.
    fn open(&mut self, path: &RepoPath, found: &mut Found) -> Option<(Facts, Option<RepoPath>)> {
        let opened = match self.opened.get(path).copied() {
            Some(file) => file.try_clone().map_err(|e| unknown(Error::io(STEP, path.as_str(), e))),
            None => self.open_image(path),
        };
        let read = opened.and_then(|file| {
            let size = file.length().map_err(|e| unknown(Error::io(STEP, path.as_str(), e)))?;
            let info = qcow2::inspect(&file).map_err(|error| (verdict_of(&error), error.to_string()));
            // of an image that is bad anyway what can be had
            let backing = match &info {
                Ok(info) => info.backing.clone(),
                Err(_) => qcow2::backing(&file).ok().flatten(),
            };
            Ok((size, info, backing))
        });
        let (size, info, backing) = match read {
            Ok(read) => read,
            Err((verdict, reason)) => {
                match self.asked_goes_into(path) {
                    Some(into) => found.told.blame(Verdict::Aborted, going(&into)),
                    None => found.told.blame(verdict, reason),
                }
                return None;
            }
        };
        let below = backing.as_ref().and_then(|backing| match point::resolve(path, backing) {
            Ok(below) => Some(below),
            Err(error) => {
                found.told.blame(Verdict::Bad, error.cause);
                None
            }
        });
        match info {
            Ok(info) if info.external_data => found.told.blame(Verdict::Bad, "its data are in another file".into()),
            Ok(info) => {
                let (virtual_size, has_backing) = (info.virtual_size, backing.is_some());
                let facts = Facts { size, virtual_size, has_backing, backing: below.clone() };
                found.facts = Some(facts.clone());
                return Some((facts, below));
            }
            Err((verdict, reason)) => found.told.blame(verdict, reason),
        }
        None
    }

    /// Which image takes the place of this one of the point that was asked for. What stands on one that is not there is damaged.
    fn asked_goes_into(&mut self, path: &RepoPath) -> Option<String> {
        let folder = path.parent().filter(|folder| *folder == self.point.folder())?;
        let disks = &self.manifest(&folder)?.disks;
        disks.iter().find(|disk| disk.file == path.name())?.goes_into.clone()
    }

    fn open_image(&mut self, path: &RepoPath) -> Result<File, (Verdict, String)> {
        let opened = match path.parent() {
            Some(folder) => self.folder(&folder).and_then(|folder| folder.open_file_in(path.name())),
            None => return Err((Verdict::Bad, "lies in no point".to_owned())),
        };
        opened.map_err(|error| match self.kind(path) {
            _ if error.code == Code::NotFound => (Verdict::Bad, "is not there".to_owned()),
            Ok(Some(kind)) if kind != FileType::RegularFile => (Verdict::Bad, "is not a regular file".to_owned()),
            _ => unknown(error),
        })
    }

    /// The folder of a point, which is opened once.
    fn folder(&mut self, path: &RepoPath) -> Result<Arc<Folder>> {
        if let Some(folder) = self.folders.get(path) {
            return Ok(folder.clone());
        }
        if self.folders.len() >= MOST_FOLDERS {
            self.folders.clear();
        }
        let folder = Arc::new(self.root.open_to_pass(path.as_str())?);
        self.folders.insert(path.clone(), folder.clone());
        Ok(folder)
    }

    fn kind(&mut self, path: &RepoPath) -> Result<Option<FileType>, (Verdict, String)> {
        let folder = match path.parent() {
            Some(folder) => self.folder(&folder),
            None => return Err((Verdict::Bad, "lies in no point".to_owned())),
        };
        match folder {
            Ok(folder) => folder.kind(path.name()).map_err(unknown),
            Err(error) if error.code == Code::NotFound => Ok(None),
            Err(error) => Err(unknown(error)),
        }
    }

    /// Looks whether the files of the machine's state are there. What they hold tells `verifyData`, and a restore of them.
    fn look_for_state(&mut self) {
        let folder = self.point.folder();
        let names: Vec<_> = self.manifest(&folder).into_iter().flat_map(Manifest::state_files).collect();
        for path in names.iter().filter_map(|name| folder.join(name).ok()) {
            let (verdict, reason) = match self.kind(&path) {
                Ok(Some(FileType::RegularFile)) => continue,
                Ok(None) => (Verdict::Bad, "is not there".to_owned()),
                Ok(Some(_)) => (Verdict::Bad, "is not a regular file".to_owned()),
                Err(unknown) => unknown,
            };
            let mut told = VerifiedFile::good(path.as_str());
            told.blame(verdict, reason);
            self.found.push(Found { path, told, facts: None, unseen: None });
        }
    }

    /// Compares an image with the record in its own point's manifest.
    fn compare(&mut self, path: &RepoPath, facts: &Facts, told: &mut VerifiedFile) {
        let Some(folder) = path.parent() else { return };
        let is_asked = folder == self.point.folder();
        let Some(manifest) = self.manifest(&folder) else { return };
        match manifest.disks.iter().find(|disk| disk.file == path.name()) {
            Some(record) => {
                for reason in agreement::of_image(record, facts) {
                    told.blame(Verdict::Bad, reason);
                }
                if record.is_unfinished() {
                    let why = record.goes_into.as_deref().map_or_else(|| UNFINISHED.to_owned(), going);
                    told.blame(Verdict::Aborted, why);
                }
            }
            None if is_asked => told.blame(Verdict::Bad, "its point's manifest does not name it".into()),
            None => {}
        }
    }

    /// The manifest of a point, if it has one that can be read.
    fn manifest(&mut self, folder: &RepoPath) -> Option<&Manifest> {
        if !self.manifests.contains_key(folder) {
            let read = self.folder(folder).and_then(|opened| {
                let point = PointPath::parse("folder", folder.as_str())?;
                let read = Manifest::read_with_text(&opened)?;
                Ok(read.map(|(manifest, text)| (manifest.doubts(&text, &point, self.keys.as_deref()), manifest)))
            });
            self.has_manifests |= !matches!(read, Ok(None));
            let manifest = match read {
                Ok(None) => None,
                Ok(Some((doubts, manifest))) => {
                    doubts.iter().for_each(|doubt| self.blame_manifest(folder, doubt));
                    Some(manifest)
                }
                Err(error) => {
                    let verdict = if error.code == Code::CorruptImage { Verdict::Bad } else { Verdict::Aborted };
                    self.tell_of_manifest(folder, verdict, error.reason());
                    let path = folder.join(MANIFEST).ok();
                    let told = self.found.iter_mut().find(|found| Some(&found.path) == path.as_ref());
                    told.into_iter().for_each(|found| found.unseen = Some(error.code));
                    None
                }
            };
            self.manifests.insert(folder.clone(), manifest);
        }
        self.manifests.get(folder)?.as_ref()
    }

    /// Compares the manifests of the point and of those that it stands on with the images that were looked at.
    fn check_manifests(&mut self, id: Option<&str>) {
        let images: Vec<_> =
            self.images.iter().filter_map(|(path, facts)| Some((path.clone(), facts.clone()?))).collect();
        let mut points = BTreeMap::<_, BTreeMap<_, _>>::from([(self.point.folder(), BTreeMap::new())]);
        for (path, facts) in images {
            let Some(folder) = path.parent() else { continue };
            if let Some(reason) = facts.backing.as_ref().and_then(|below| self.contradiction(&path, below)) {
                self.blame_manifest(&folder, &reason);
            }
            points.entry(folder).or_default().insert(path.name().to_owned(), facts);
        }
        for (folder, files) in points {
            let reasons = self.manifest(&folder).map(|manifest| agreement::of_point(manifest, &files));
            reasons.iter().flatten().for_each(|reason| self.blame_manifest(&folder, reason));
            if reasons.is_none() && self.keys.is_some() {
                self.blame_manifest(&folder, UNVOUCHED);
            }
        }
        self.check_own_manifest(id);
    }

    /// Why an image can't stand on `below`, if its manifest says so.
    fn contradiction(&mut self, image: &RepoPath, below: &RepoPath) -> Option<String> {
        let below_id = below.parent().and_then(|parent| Some(self.manifest(&parent)?.point_id.clone()));
        self.manifest(&image.parent()?)?.contradicts(image.name(), below, below_id.as_deref())
    }

    /// Is it the point that was asked for?
    fn check_own_manifest(&mut self, id: Option<&str>) {
        let folder = self.point.folder();
        let own = self.manifest(&folder).map(|manifest| (manifest.point_id.clone(), manifest.backup_path.is_some()));
        if let Some((_, names_itself)) = own {
            let old = "is of an older version and does not tell where it was written";
            self.tell_of_manifest(&folder, Verdict::Good, if names_itself { String::new() } else { old.to_owned() });
        }
        let Some(asked) = id.filter(|id| own.as_ref().is_none_or(|(own, _)| own != id)) else { return };
        let is = own.map_or("it has none".to_owned(), |(own, _)| format!("it has '{own}'"));
        self.blame_manifest(&folder, &format!("is not that of the point with the id '{asked}': {is}"));
    }

    fn blame_manifest(&mut self, folder: &RepoPath, reason: &str) {
        self.tell_of_manifest(folder, Verdict::Bad, reason.to_owned());
    }

    /// Adds to what is told of a manifest; without a reason only that it is there.
    fn tell_of_manifest(&mut self, folder: &RepoPath, verdict: Verdict, reason: String) {
        let Ok(path) = folder.join(MANIFEST) else { return };
        let place = self.found.iter().position(|found| found.path == path).unwrap_or_else(|| {
            self.found.push(Found { told: VerifiedFile::good(path.as_str()), path, facts: None, unseen: None });
            self.found.len() - 1
        });
        let told = &mut self.found[place].told;
        if !reason.is_empty() && !told.reasons.contains(&reason) {
            told.blame(verdict, reason);
        }
    }
}

/// What is told of an image that has become another's, or is about to.
pub(in crate::operation) fn going(into: &str) -> String {
    format!("its point is being deleted, and it becomes '{}': delete the point again", plain(into))
}

fn unknown(error: Error) -> (Verdict, String) {
    (Verdict::Aborted, error.reason())
}

/// What is damaged is bad; of what is not known here, or can't be read, nothing can be said.
pub(super) fn verdict_of(error: &qcow2::Error) -> Verdict {
    match error {
        qcow2::Error::NotQcow2 | qcow2::Error::Corrupt(_) => Verdict::Bad,
        qcow2::Error::Unsupported(_) | qcow2::Error::Io(_) | qcow2::Error::Stopped(_) => Verdict::Aborted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn of_images_that_no_manifest_names_some_hundred_are_looked_at() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let at = dir.path().join("i-1/T1");
        fs::create_dir_all(&at).unwrap();
        qcow2::create(&fs::File::create_new(at.join("0.qcow2")).unwrap(), 1 << 20, None).unwrap();
        (1..1000).for_each(|n| fs::hard_link(at.join("0.qcow2"), at.join(format!("{n}.qcow2"))).unwrap());
        let point = PointPath::parse("point", "i-1/T1").unwrap();
        let root = Folder::open_root(dir.path()).unwrap();
        let judged = find(&root, &point, None, &[]).unwrap();
        let (good, unseen): (Vec<_>, Vec<_>) =
            judged.found.iter().partition(|found| found.told.verdict == Verdict::Good);
        assert_eq!((good.len(), unseen.len()), (512, 1));
        assert_eq!(unseen[0].told.verdict, Verdict::Aborted);
        assert!(unseen[0].told.reasons[0].ends_with("487 more"), "{:?}", unseen[0].told.reasons);
        judged.refuse_manifests().unwrap();
        let refused = |name: &str| {
            let chain = point::open_chain(&root, &point.file(name).unwrap()).unwrap();
            judged.refuse_images(&chain).err().map(|error| error.code)
        };
        assert_eq!((refused("0.qcow2"), refused("999.qcow2")), (None, Some(Code::Io)), "what is not known is no yes");
        assert_eq!(refused(unseen[0].path.name()), Some(Code::Io));
    }

    #[test]
    fn an_image_is_opened_again_as_what_was_judged_or_not_at_all() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let at = dir.path().join("i-1/T1");
        fs::create_dir_all(&at).unwrap();
        let make = |name: &str, size, on| qcow2::create(&File::create(at.join(name)).unwrap(), size, on).unwrap();
        let (point, root) = (PointPath::parse("point", "i-1/T1").unwrap(), Folder::open_root(dir.path()).unwrap());
        let path = point.file("x.qcow2").unwrap();
        make("x.qcow2", 1 << 20, None);
        make("y.qcow2", 1 << 20, None);
        let judged = find(&root, &point, None, &[]).unwrap();
        let facts = judged.found.iter().find(|found| found.path == path).unwrap().facts.clone().unwrap();
        let again = || open_again(&root, &path, &facts).unwrap();
        again().unwrap();
        for (size, on) in [(2 << 20, None), (1 << 20, Some("y.qcow2"))] {
            let link = point::open_chain(&root, &path).unwrap();
            make("new.qcow2", size, on);
            fs::rename(at.join("new.qcow2"), at.join("x.qcow2")).unwrap();
            assert!(again().unwrap_err().to_string().contains("exchanged"));
            // what is open is judged, and not what has its name
            let opened = find(&root, &point, None, &[&link[0]]).unwrap();
            assert_eq!(opened.found.iter().find(|found| found.path == path).unwrap().facts.as_ref(), Some(&facts));
            opened.refuse_images(&link).unwrap();
            let there = point::open_chain(&root, &path).unwrap();
            assert_eq!(opened.refuse_images(&there).is_err(), there.len() > 1, "it was not judged to stand there");
            make("x.qcow2", 1 << 20, None);
        }
    }
}
