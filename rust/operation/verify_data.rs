//! `verifyData`: what `verifyChain` does, and every byte of the files compared with what was recorded when they were
//! written: the images with their fingerprints, the manifests and texts with their hashes.

use std::collections::BTreeSet;
use std::io::Read;
use std::time::Instant;

use super::reading::Reading;
use super::steps::{self, in_steps};
use super::verify_chain::chains::Found;
use super::verify_chain::{self, UNANSWERED, Verdict, Verified, VerifiedFile, VerifyChainRequest};
use crate::config;
use crate::error::{Code, Error, Result};
use crate::job::{Listener, Reporter};
use crate::nas::deadline::{LIMIT, bounded};
use crate::nas::folder::Folder;
use crate::nas::path::{PointPath, RepoPath};
use crate::point::fingerprints::{Digest, Findings, Fingerprints, Verification};
use crate::point::{MANIFEST, Manifest};
use crate::qcow2;

const STEP: &str = "compare the data";
/// More than any of the domain's descriptions has, in bytes.
const LONGEST: u64 = 8 << 20;

/// Runs `verifyData`; as `verifyChain`, and images without fingerprints, too, are aborted.
pub fn run(request: VerifyChainRequest, listener: Listener<'_>) -> Result<Verified> {
    verify_chain::verify("verifyData", request, listener, compare_all)
}

/// What the manifest of a point says, and what is found of its small files.
struct Small {
    folder: RepoPath,
    manifest: Option<Manifest>,
    files: Vec<VerifiedFile>,
}

fn compare_all(reading: &Reading, found: &mut Vec<Found>, job: &mut Reporter<'_>) -> Result<()> {
    let mut points = Vec::new();
    let folders: BTreeSet<_> = found.iter().filter_map(|found| found.path.parent()).collect();
    for folder in folders {
        let (held, at) = (reading.clone(), folder.clone());
        let small = bounded(STEP, LIMIT, move || Ok(look_at_small(held.session.root(), at)))?;
        points.push(small);
    }
    let mut all = Data { reading, points: &points, gone: false, done: 0, total: 0 };
    all.total = found.iter().filter(|found| all.recorded(&found.path).is_some()).filter_map(|f| f.checkable).sum();
    job.progress(0, all.total);
    job.begin(STEP)?;
    let mut told = Vec::new();
    for mut image in std::mem::take(found) {
        let index = if image.path.name() == MANIFEST { None } else { all.compare(&mut image, job)? };
        told.push(image);
        told.extend(index);
    }
    *found = told;
    points.into_iter().flat_map(|point| point.files).for_each(|file| add(found, file));
    Ok(())
}

/// Adds what is found of a file to what is told of it already.
fn add(found: &mut Vec<Found>, file: VerifiedFile) {
    let known = found.iter_mut().find(|found| found.told.file == file.file);
    match (known, RepoPath::parse("file", &file.file)) {
        (Some(known), _) => {
            let new = file.reasons.into_iter().filter(|reason| !known.told.reasons.contains(reason));
            new.collect::<Vec<_>>().into_iter().for_each(|reason| known.told.blame(file.verdict, reason));
        }
        (None, Ok(path)) => found.push(Found { path, told: file, checkable: None, unseen: None }),
        (None, Err(_)) => {}
    }
}

/// The images, one after the other.
struct Data<'a> {
    reading: &'a Reading,
    points: &'a [Small],
    /// The NAS does not answer any more.
    gone: bool,
    done: u64,
    total: u64,
}

impl Data<'_> {
    /// What the manifest beside an image says of its fingerprints.
    fn recorded(&self, image: &RepoPath) -> Option<&Fingerprints> {
        let point = self.points.iter().find(|point| image.parent().as_ref() == Some(&point.folder))?;
        let disk = point.manifest.as_ref()?.disks.iter().find(|disk| disk.file == image.name())?;
        disk.fingerprints.as_ref()
    }

    /// Compares one image; what is found of its index.
    fn compare(&mut self, image: &mut Found, job: &mut Reporter<'_>) -> Result<Option<Found>> {
        let told = &mut image.told;
        if told.verdict == Verdict::Bad && image.checkable.is_none() {
            return Ok(None);
        }
        let Some(recorded) = self.recorded(&image.path).cloned() else {
            told.blame(Verdict::Aborted, "has no fingerprints: what its data were is not known".into());
            return Ok(None);
        };
        if self.gone {
            told.blame(Verdict::Aborted, UNANSWERED.into());
            return Ok(None);
        }
        let path = image.path.parent().map(|folder| folder.join(&recorded.file)).transpose();
        let Ok(Some(path)) = path else {
            told.blame(Verdict::Bad, format!("its fingerprints are said to be in '{}'", recorded.file));
            return Ok(None);
        };
        let mut index =
            Found { told: VerifiedFile::good(path.as_str()), path: path.clone(), checkable: None, unseen: None };
        let (verdict, reason) = match self.find(&image.path, path, recorded, job) {
            Ok(Ok(findings)) => {
                tell(told, &mut index.told, findings);
                self.done += image.checkable.unwrap_or(0);
                return Ok(Some(index));
            }
            Ok(Err(qcow2::Error::Io(error))) => (Verdict::Aborted, error.to_string()),
            // it could be understood when it was written
            Ok(Err(error)) => (Verdict::Bad, error.to_string()),
            Err(error) => {
                self.reading.note(&error);
                let cause = error.reason();
                self.gone = VerifiedFile::good("").excuse(error)?;
                (Verdict::Aborted, cause)
            }
        };
        told.blame(verdict, reason);
        index.told.blame(Verdict::Aborted, "was not compared with its image".into());
        self.done += image.checkable.unwrap_or(0);
        Ok(Some(index))
    }

    fn find(
        &self,
        image: &RepoPath,
        index: RepoPath,
        recorded: Fingerprints,
        job: &mut Reporter<'_>,
    ) -> Result<Result<Findings, qcow2::Error>> {
        let (held, image) = (self.reading.clone(), image.clone());
        let begun = bounded(STEP, LIMIT, move || {
            let root = held.session.root();
            let index = match root.open_file(&index) {
                Ok(file) => Ok(file),
                Err(error) if error.code == Code::NotFound => Err("is not there".to_owned()),
                Err(error) => return Err(error),
            };
            Ok(Verification::begin(root.open_file(&image)?, index, &recorded))
        })?;
        let verification = match begun {
            Ok(verification) => verification,
            Err(error) => return Ok(Err(error)),
        };
        let advance = |verification: &mut Verification| verification.advance(Instant::now() + steps::STEP);
        in_steps(self.reading, STEP, LIMIT, verification, advance, |verification| {
            job.progress((self.done + verification.done()).min(self.total), self.total);
            job.tell()
        })
    }
}

fn tell(image: &mut VerifiedFile, index: &mut VerifiedFile, findings: Findings) {
    if findings.rest_changed {
        image.blame(Verdict::Bad, "its header, its tables or what lies between its data were changed".into());
    }
    if let Some(why) = findings.index {
        index.blame(Verdict::Bad, why);
        image.blame(Verdict::Aborted, "its data were not compared: its fingerprints are damaged".into());
    }
    for guest in &findings.clusters {
        image.blame(Verdict::Bad, format!("the data at guest offset {guest} are not those that were backed up"));
    }
    let more = findings.changed - findings.clusters.len() as u64;
    if more > 0 {
        image.blame(Verdict::Bad, format!("{more} more clusters are not those that were backed up"));
    }
}

/// Reads the manifest of a point and compares it, and the texts that it names, with the recorded hashes.
fn look_at_small(root: &Folder, folder: RepoPath) -> Small {
    let mut files = Vec::new();
    let opened = root.open_dir(&folder);
    let read = opened.as_ref().map_err(Error::clone).and_then(Manifest::read_with_text);
    let Ok(path) = folder.join(MANIFEST) else { return Small { folder, manifest: None, files } };
    let mut told = VerifiedFile::good(path.as_str());
    let manifest = match read {
        Ok(None) => return Small { folder, manifest: None, files },
        Ok(Some((manifest, text))) => {
            // this reading is what the hashes come from, and may be another than the one before
            let at = PointPath::parse("backupPath", folder.as_str());
            let keys = config::current().keys.clone();
            let doubts = at.map_or_else(|e| vec![e.cause], |at| manifest.doubts(&text, &at, keys.as_deref()));
            doubts.into_iter().for_each(|doubt| told.blame(Verdict::Bad, doubt));
            if manifest.is_intact(&text).is_none() {
                told.blame(Verdict::Aborted, "has no checksum: what it was is not known".into());
            }
            Some(manifest)
        }
        // a folder that is not there is told of its images
        Err(error) if error.code == Code::NotFound => return Small { folder, manifest: None, files },
        Err(error) => {
            let verdict = if error.code == Code::CorruptImage { Verdict::Bad } else { Verdict::Aborted };
            told.blame(verdict, error.reason());
            None
        }
    };
    files.push(told);
    let texts = manifest.iter().filter_map(|manifest| manifest.texts.as_ref()).flatten();
    files.extend(texts.filter_map(|(name, hash)| Some(look_at_text(root, &folder.join(name).ok()?, *hash))));
    Small { folder, manifest, files }
}

fn look_at_text(root: &Folder, path: &RepoPath, recorded: Digest) -> VerifiedFile {
    let mut told = VerifiedFile::good(path.as_str());
    let read = root.open_file(path).and_then(|file| {
        let mut text = Vec::new();
        file.take(LONGEST).read_to_end(&mut text).map_err(|e| Error::io("read the text", path.as_str(), e))?;
        Ok(Digest::of(&text))
    });
    match read {
        Ok(hash) if hash == recorded => {}
        Ok(_) => told.blame(Verdict::Bad, "is not what was written".into()),
        Err(error) if error.code == Code::NotFound => told.blame(Verdict::Bad, "is not there".into()),
        Err(error) => told.blame(Verdict::Aborted, error.reason()),
    }
    told
}
