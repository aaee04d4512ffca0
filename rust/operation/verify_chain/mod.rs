//! `verifyChain` checks that the images of a restore point, and all that they stand on, are there, sound, and as the manifests say.
//! It checks the images' tables, and reads no data.

mod agreement;
pub(super) mod chains;
pub(super) mod verdict;

use serde::{Deserialize, Serialize};

use super::reading::Reading;
use super::verified::{self, Scope};
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::nas::path::{PointPath, RepoPath};
use crate::nas::repository::Repository;
use crate::qcow2::{self, CheckReport};
use crate::work::deadline::bounded_until_cancelled;
use crate::work::job::{self, Listener, Reporter};
use crate::work::phase::Phase;
use crate::work::watched;
use crate::work::worker;
pub(super) use agreement::Facts;
use chains::{Found, Judged, verdict_of};
pub use verdict::{Verdict, VerifiedFile};

/// The reason in the verdict of a file that was not checked because the NAS had stopped answering.
pub(super) const UNANSWERED: &str = "was not checked, the NAS does not answer";

/// What `verifyChain`, or `verifyData`, is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct VerifyChainRequest {
    /// The caller's id for this job.
    pub job: Option<String>,
    /// The NAS export.
    pub repository: Option<Repository>,
    /// The restore point, `<instance>/<timestamp>`.
    pub backup_path: Option<String>,
    /// The id that the point had when it was made, as its backup's answer told it: another one is bad. Absent: not asked.
    pub point_id: Option<String>,
    /// Bytes a second that are read from the NAS at most. Absent, or 0: no limit. `verifyChain` reads no data and refuses one.
    pub rate_limit: Option<u64>,
}

/// What `verifyChain` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// Bad if any file is, else aborted if any file is.
    pub verdict: Verdict,
    /// Each disk's chain from its newest image on, at last the manifest if the point has one.
    pub files: Vec<VerifiedFile>,
}

/// Runs `verifyChain`. `listener` is told of progress on this thread. What is wrong with the point stands in the answer. An error
/// means that there is no answer: the request is invalid, the repository or point can't be opened, the call was cancelled.
pub fn run(request: VerifyChainRequest, listener: Listener<'_>) -> Result<Verified> {
    if request.rate_limit.is_some_and(|rate| rate > 0) {
        return Err(Error::invalid("rateLimit", "is given, and verifyChain reads no data"));
    }
    verify(("verifyChain", Scope::Chain), request, listener, |_, _, _| Ok(()))
}

/// Runs a verification; `more` checks what goes beyond the chain's tables.
pub(super) fn verify(
    (operation, scope): (&'static str, Scope),
    request: VerifyChainRequest,
    listener: Listener<'_>,
    more: impl FnOnce(&Reading, &mut Judged, &mut Reporter<'_>) -> Result<()>,
) -> Result<Verified> {
    let export = Repository::check(request.repository)?;
    let path = request.backup_path.ok_or_else(|| Error::invalid("backupPath", "is missing"))?;
    let point = PointPath::parse("backupPath", &path)?;
    let id = check_id(request.point_id)?;
    let job = job::start(request.job, operation, &export, Some(point.instance().to_owned()))?;
    let mut job = Reporter::new(job, listener)?;
    job.begin(Phase::OpenRepository)?;
    let reading = Reading::open(export, &point)?;
    job.begin(Phase::FollowChains)?;
    let (held, at) = (reading.clone(), point.clone());
    let asked = id.clone();
    let judge = move || chains::find(held.root(), &at, asked.as_deref(), &[]);
    let judged = bounded_until_cancelled("follow the chains", limits::STORAGE_STEP, judge);
    let mut judged = judged.inspect_err(|error| reading.note(error))?;
    job.begin(Phase::CheckImages)?;
    check_all(&reading, &mut judged.found, &mut job)?;
    more(&reading, &mut judged, &mut job)?;
    let answers = match reading.check() {
        Err(error) if matches!(error.code, Code::Busy | Code::Cancelled) => return Err(error),
        // the verdicts tell of a NAS that does not answer
        checked => checked.inspect_err(|error| reading.note(error)).is_ok(),
    };
    let manifest = judged.manifest(&point.folder()).cloned();
    let files: Vec<_> = judged.found.into_iter().map(|found| found.told.plain()).collect();
    let verdict = files.iter().map(|file| file.verdict).max().unwrap_or(Verdict::Good);
    let bad = files.iter().filter(|file| file.verdict != Verdict::Good).count();
    log::info!("{operation} of '{point}': {verdict:?}, {bad} of {} files not good", files.len());
    match verdict {
        Verdict::Good => {}
        Verdict::Bad => watched::has_found("bad"),
        Verdict::Aborted => watched::has_found("aborted"),
    }
    // that the caller meant another point says nothing of this one
    let is_meant = id.is_none() || id == manifest.as_ref().map(|manifest| manifest.point_id.clone());
    if answers && is_meant {
        verified::note(&reading, &point, manifest, scope, verdict);
    }
    Ok(Verified { verdict, files })
}

/// Refuses an empty id: no answer has ever told one.
pub(super) fn check_id(id: Option<String>) -> Result<Option<String>> {
    match id {
        Some(id) if id.is_empty() => Err(Error::invalid("pointId", "is empty")),
        id => Ok(id),
    }
}

fn check_all(reading: &Reading, found: &mut [Found], job: &mut Reporter<'_>) -> Result<()> {
    let total = found.iter().filter_map(Found::checkable).sum();
    let mut done = 0;
    let mut gone = false;
    for Found { path, told, facts, .. } in found {
        let Some(facts) = facts else { continue };
        if gone {
            told.blame(Verdict::Aborted, UNANSWERED.into());
            continue;
        }
        match check(reading, path, facts, (done, total), job) {
            Ok(Ok(checked)) => tell(told, checked),
            Ok(Err(error)) => told.blame(verdict_of(&error), error.to_string()),
            Err(error) => {
                reading.note(&error);
                gone = told.excuse(error)?;
            }
        }
        done += facts.size;
    }
    Ok(())
}

/// Checks the tables of one image. Of all images' `total` bytes, `done` lie in those before it.
fn check(
    reading: &Reading,
    path: &RepoPath,
    facts: &Facts,
    (done, total): (u64, u64),
    job: &mut Reporter<'_>,
) -> Result<Result<CheckReport, qcow2::Error>> {
    let (held, at, facts) = (reading.clone(), path.clone(), facts.clone());
    worker::look("check an image", limits::STORAGE_STEP, job, move |pulse| {
        let tell = &mut |part, all| pulse.at(done + share(facts.size, part, all), total);
        let image = chains::open_again(held.root(), &at, &facts)?;
        qcow2::unless_stopped(image.and_then(|image| qcow2::check(image, tell)))
    })
}

/// The share `part / all` of `length`.
fn share(length: u64, part: u64, all: u64) -> u64 {
    let share = u128::from(length) * u128::from(part) / u128::from(all.max(1));
    u64::try_from(share).unwrap_or(length).min(length)
}

fn tell(told: &mut VerifiedFile, checked: CheckReport) {
    if checked.leaked > 0 {
        // leaked clusters cost space until the next rebase; the image reads as it should
        told.blame(Verdict::Good, format!("{} clusters are in no use", checked.leaked));
    }
    let more = checked.damaged.saturating_sub(checked.reasons.len() as u64);
    for reason in checked.reasons {
        told.blame(Verdict::Bad, reason);
    }
    if more > 0 {
        told.blame(Verdict::Bad, format!("damaged in {more} more places"));
    }
}
