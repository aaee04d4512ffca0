//! `verifyData` does what `verifyChain` does, and compares every byte of the files with what was recorded when they were written:
//! the images with their fingerprints, the manifests and texts with their hashes.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::Arc;

use super::reading::Reading;
use super::verified::Scope;
use super::verify_chain::Facts;
use super::verify_chain::chains::{self, Found, Judged};
use super::verify_chain::{self, UNANSWERED, Verdict, Verified, VerifiedFile, VerifyChainRequest};
use crate::config::{LEAST_RATE, check_limit};
use crate::digest::Digest;
use crate::engine::rate::{Limiter, Rate};
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::nas::folder::Folder;
use crate::nas::path::RepoPath;
use crate::point::fingerprints::{self, Findings, Fingerprints};
use crate::point::{LONGEST_STATE, MANIFEST, Manifest, StatePart};
use crate::qcow2;
use crate::work::deadline::bounded_until_cancelled;
use crate::work::job::{Listener, Reporter};
use crate::work::phase::Phase;
use crate::work::worker;

const STEP: &str = Phase::CompareData.as_str();

/// Runs `verifyData`. It answers as `verifyChain` does; the verdict on an image without fingerprints is `aborted`.
pub fn run(request: VerifyChainRequest, listener: Listener<'_>) -> Result<Verified> {
    let rate = Rate { own: check_limit("rateLimit", request.rate_limit, LEAST_RATE)?, host: None };
    verify_chain::verify(("verifyData", Scope::Data), request, listener, |reading, judged, job| {
        compare_all(reading, judged, Limiter::new(rate), job)
    })
}

fn compare_all(reading: &Reading, judged: &mut Judged, limiter: Limiter, job: &mut Reporter<'_>) -> Result<()> {
    let found = std::mem::take(&mut judged.found);
    let mut small = Vec::new();
    let folders: BTreeSet<_> = found.iter().filter_map(|found| found.path.parent()).collect();
    for folder in folders {
        let Some(manifest) = judged.manifest(&folder).cloned() else { continue };
        let held = reading.clone();
        let look = move || Ok(look_at_small(held.root(), &folder, manifest));
        small.extend(bounded_until_cancelled(STEP, limits::STORAGE_STEP, look)?);
    }
    let mut all = Data { reading, judged, limiter: Arc::new(limiter), gone: false, done: 0, total: 0 };
    all.total = found.iter().filter(|found| all.recorded(&found.path).is_some()).filter_map(Found::checkable).sum();
    job.progress(0, all.total);
    job.begin(Phase::CompareData)?;
    let mut told = Vec::new();
    for mut image in found {
        let name = image.path.name();
        let is_image = image.facts.is_some() || (name != MANIFEST && StatePart::of(name).is_none());
        let index = if is_image { all.compare(&mut image, job)? } else { None };
        told.push(image);
        told.extend(index);
    }
    small.into_iter().for_each(|file| add(&mut told, file));
    judged.found = told;
    Ok(())
}

/// Merges another verdict on a file into the one that the chain's check has given.
fn add(found: &mut Vec<Found>, file: VerifiedFile) {
    let known = found.iter_mut().find(|found| found.told.file == file.file);
    match (known, RepoPath::parse("file", &file.file)) {
        (Some(known), _) => {
            let new = file.reasons.into_iter().filter(|reason| !known.told.reasons.contains(reason));
            new.collect::<Vec<_>>().into_iter().for_each(|reason| known.told.blame(file.verdict, reason));
        }
        (None, Ok(path)) => found.push(Found { path, told: file, facts: None, unseen: None }),
        (None, Err(_)) => {}
    }
}

/// The comparison of the images, one after the other.
struct Data<'a> {
    reading: &'a Reading,
    judged: &'a Judged,
    limiter: Arc<Limiter>,
    /// The NAS has stopped answering.
    gone: bool,
    done: u64,
    total: u64,
}

impl Data<'_> {
    /// The fingerprints that the manifest beside an image records.
    fn recorded(&self, image: &RepoPath) -> Option<&Fingerprints> {
        self.judged.fingerprints(image)
    }

    /// Compares one image; what is found of its index.
    fn compare(&mut self, image: &mut Found, job: &mut Reporter<'_>) -> Result<Option<Found>> {
        let told = &mut image.told;
        if told.verdict == Verdict::Bad && image.facts.is_none() {
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
        // its verdict tells already why it was not looked at
        let Some(facts) = image.facts.clone() else { return Ok(None) };
        let length = facts.size;
        let path = image.path.parent().map(|folder| folder.join(&recorded.file)).transpose();
        let Ok(Some(path)) = path else {
            told.blame(Verdict::Bad, format!("its fingerprints are said to be in '{}'", recorded.file));
            return Ok(None);
        };
        let mut index =
            Found { told: VerifiedFile::good(path.as_str()), path: path.clone(), facts: None, unseen: None };
        let (verdict, reason) = match self.find(&image.path, facts, path, recorded, job) {
            Ok(Ok(findings)) => {
                tell(told, &mut index.told, findings);
                self.done += length;
                return Ok(Some(index));
            }
            Ok(Err(qcow2::Error::Io(error))) => (Verdict::Aborted, error.to_string()),
            // the index could be parsed when it was written, so it has been damaged since
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
        self.done += length;
        Ok(Some(index))
    }

    fn find(
        &self,
        image: &RepoPath,
        facts: Facts,
        index: RepoPath,
        recorded: Fingerprints,
        job: &mut Reporter<'_>,
    ) -> Result<Result<Findings, qcow2::Error>> {
        let (held, image, before, total) = (self.reading.clone(), image.clone(), self.done, self.total);
        let limiter = self.limiter.clone();
        worker::look(STEP, limits::STORAGE_STEP, job, move |pulse| {
            let root = held.root();
            let index = match root.open_file(&index) {
                Ok(file) => Ok(file),
                Err(error) if error.code == Code::NotFound => Err("is not there".to_owned()),
                Err(error) => return Err(error),
            };
            let mut read = 0;
            let tell = &mut |done: u64, _| {
                let more = done.saturating_sub(std::mem::replace(&mut read, done));
                limiter.wait(more, || pulse.at((before + done).min(total), total))
            };
            let image = chains::open_again(root, &image, &facts)?;
            qcow2::unless_stopped(image.and_then(|image| fingerprints::verify(image, index, &recorded, tell)))
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

/// Compares the texts that the manifest of a point names with their recorded hashes. The manifest itself has been checked before.
fn look_at_small(root: &Folder, folder: &RepoPath, manifest: Manifest) -> Vec<VerifiedFile> {
    let Ok(path) = folder.join(MANIFEST) else { return Vec::new() };
    let mut told = VerifiedFile::good(path.as_str());
    // this manifest has no fingerprints and no texts, or its verdict would be bad already
    if manifest.checksum.is_none() {
        told.blame(Verdict::Aborted, "has no checksum: what it was is not known".into());
    }
    let texts = manifest.texts.into_iter().flatten();
    let texts = texts.filter_map(|(name, hash)| Some(look_at_text(root, &folder.join(&name).ok()?, hash)));
    std::iter::once(told).chain(texts).collect()
}

fn look_at_text(root: &Folder, path: &RepoPath, recorded: Digest) -> VerifiedFile {
    let mut told = VerifiedFile::good(path.as_str());
    let read = root.open_file(path).and_then(|file| {
        let mut text = Vec::new();
        file.take(LONGEST_STATE + 1)
            .read_to_end(&mut text)
            .map_err(|e| Error::io("read the text", path.as_str(), e))?;
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
