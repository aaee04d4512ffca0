//! `signPoints` gives the manifests of a repository a MAC by the first key of the configuration, so that hosts with that key trust
//! points that had no MAC, or one by a key that is to be removed. It reads and writes nothing but manifests.

use std::sync::Arc;

use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

use crate::config;
use crate::error::{Code, Error, Result};
use crate::keys::Keys;
use crate::limits;
use crate::nas::folder::Folder;
use crate::nas::health;
use crate::nas::instance::Instance;
use crate::nas::path::PointPath;
use crate::nas::purpose::Purpose;
use crate::nas::repository::{Export, Repository};
use crate::nas::session::Session;
use crate::point::{MANIFEST, Manifest, UNTOLD};
use crate::work::deadline::bounded;
use crate::work::job::{self, Listener, Reporter};
use crate::work::phase::Phase;

const STEP: &str = Phase::SignManifests.as_str();

/// What `signPoints` is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SignPointsRequest {
    /// The caller's id for this job.
    pub job: Option<String>,
    /// The NAS export.
    pub repository: Option<Repository>,
    /// The folder of the one machine whose points are meant. Absent: all machines'.
    pub instance: Option<String>,
    /// Sign points without a MAC, too: the caller vouches that nobody has changed them. Absent: no.
    pub trust_unsigned: Option<bool>,
}

/// What `signPoints` answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SignedPoints {
    /// Points whose manifest has got a MAC by the first key.
    pub signed: u64,
    /// Points whose manifest had one.
    pub kept: u64,
    /// Points that still no key vouches for, and machines whose folder can't be read, or of whose points one is half deleted. The log has
    /// a line for each.
    pub refused: u64,
    /// Machines whose points another call held: none of these points was looked at.
    pub busy: u64,
}

/// Runs `signPoints`. `listener` is told on this thread before each point. After an error, or a cancel, the same call goes on.
pub fn run(request: SignPointsRequest, listener: Listener<'_>) -> Result<SignedPoints> {
    let export = Repository::check(request.repository)?;
    let instance = request.instance.map(check_instance).transpose()?;
    let none = || Error::invalid("keyFile", "is not configured: there is no key to sign with");
    let keys = config::current().keys.clone().ok_or_else(none)?;
    let how = How { keys, trusts: request.trust_unsigned.unwrap_or(false) };
    let mut job = Reporter::new(job::start(request.job, "signPoints", &export, instance.clone())?, listener)?;
    let signed =
        sign_all(&export, instance, &how, &mut job).inspect_err(|error| health::note_failure(&export, error))?;
    log::info!("signPoints of {export}: {signed:?}");
    Ok(signed)
}

fn check_instance(name: String) -> Result<String> {
    PointPath::parse_instance("instance", &name).map(|folder| folder.name().to_owned())
}

/// How points are signed.
#[derive(Clone)]
struct How {
    keys: Arc<Keys>,
    /// Points without a MAC are signed, too.
    trusts: bool,
}

fn sign_all(export: &Export, only: Option<String>, how: &How, job: &mut Reporter<'_>) -> Result<SignedPoints> {
    job.begin(Phase::OpenRepository)?;
    let session = Session::open_bounded(export.clone(), config::current())?;
    let ours = session.clone();
    let machines = match only {
        Some(name) => vec![name],
        None => bounded("look for the machines", limits::STORAGE_STEP, move || folders(ours.root()))?,
    };
    job.begin(Phase::SignManifests)?;
    let mut all = SignedPoints::default();
    for name in machines {
        job.tell()?;
        let (ours, at) = (session.clone(), name.clone());
        match bounded("lock the instance", limits::STORAGE_STEP + limits::CLAIM_WAIT, move || lock(ours, &at)) {
            Ok(Some((instance, points))) => sign_machine(&instance, points, how, job, &mut all)?,
            Ok(None) => {}
            Err(error) if error.code == Code::Busy => {
                log::warn!("unable to sign the points of '{name}', leaving them as they are: {error}");
                all.busy += 1;
            }
            // the folder is gone or can't be read: the points of the other machines are signed all the same
            Err(error) if matches!(error.code, Code::NotFound | Code::PermissionDenied | Code::Io) => {
                log::warn!("unable to sign the points of '{name}', leaving them as they are: {error}");
                all.refused += u64::from(error.code != Code::NotFound);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// The names of the folders in one, but for hidden ones.
fn folders(folder: &Folder) -> Result<Vec<String>> {
    let names = folder.names()?.into_iter().filter_map(|name| name.into_string().ok());
    let mut folders = Vec::new();
    for name in names.filter(|name| check_instance(name.clone()).is_ok()) {
        if folder.kind(&name)? == Some(FileType::Directory) {
            folders.push(name);
        }
    }
    Ok(folders)
}

/// Opens a machine's folder and lists its points. `None` if the folder holds no point of this library; nothing is made there then.
fn lock(session: Session, name: &str) -> Result<Option<(Instance, Vec<PointPath>)>> {
    let folder = session.root().open_dir_in(name)?;
    // this opens one folder at a time, and stops at the first point of this library
    let is_ours = |point: &String| Ok(folder.open_dir_in(point)?.kind(MANIFEST)?.is_some());
    let ours = folders(&folder)?.iter().map(is_ours).find(|is_ours| !matches!(is_ours, Ok(false)));
    if ours.transpose()?.is_none() {
        return Ok(None);
    }
    let instance = Instance::take(session, folder, Purpose::Change)?;
    let point = |point: String| PointPath::parse("point", &format!("{name}/{point}"));
    let points = folders(instance.folder())?.into_iter().map(point).collect::<Result<_>>()?;
    Ok(Some((instance, points)))
}

fn sign_machine(
    instance: &Instance,
    points: Vec<PointPath>,
    how: &How,
    job: &mut Reporter<'_>,
    all: &mut SignedPoints,
) -> Result<()> {
    for point in points.iter().filter(|_| how.trusts) {
        let (held, at) = (instance.clone(), point.clone());
        if bounded(STEP, limits::STORAGE_STEP, move || is_going(&held, &at))? {
            log::warn!("no point of '{}' is signed: delete '{point}' first, on a host without a key", point.instance());
            all.refused += 1;
            return Ok(());
        }
    }
    for point in points {
        job.tell()?;
        let (held, ours, at) = (instance.clone(), how.clone(), point.clone());
        match bounded(STEP, limits::STORAGE_STEP, move || sign(&held, &at, &ours)) {
            Ok(Signed::Anew) => all.signed += 1,
            Ok(Signed::Already) => all.kept += 1,
            Ok(Signed::NotOurs) => {}
            Err(error) if matches!(error.code, Code::CorruptImage | Code::PermissionDenied) => {
                log::warn!("no key vouches for '{point}': {error}");
                all.refused += 1;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// True if a merge of the point was cut off: no key could vouch for its images then, and only a host without a key can end the merge,
/// which it could not if their manifests were signed. What is wrong with a manifest is told when it is to be signed.
fn is_going(instance: &Instance, point: &PointPath) -> Result<bool> {
    let manifest =
        match instance.folder().open_dir_in(point.name()).and_then(|folder| Manifest::read_with_text(&folder)) {
            Err(error) if [Code::NotFound, Code::CorruptImage, Code::PermissionDenied].contains(&error.code) => None,
            manifest => manifest?,
        };
    let mut disks =
        manifest.iter().filter(|(manifest, _)| manifest.mac.is_none()).flat_map(|(manifest, _)| &manifest.disks);
    Ok(disks.any(|disk| disk.goes_into.is_some()))
}

enum Signed {
    Anew,
    Already,
    /// The point has no manifest, or has gone meanwhile.
    NotOurs,
}

/// Signs one point's manifest. `CORRUPT_IMAGE` when the manifest is not trusted.
fn sign(instance: &Instance, point: &PointPath, how: &How) -> Result<Signed> {
    let folder = match instance.folder().open_dir_in(point.name()) {
        Err(error) if error.code == Code::NotFound => return Ok(Signed::NotOurs),
        folder => folder?,
    };
    let refuse = |why: &str| Error::new(Code::CorruptImage, STEP, format!("'{point}' {why}"));
    let Some((manifest, text)) = Manifest::read_with_text(&folder)? else { return Ok(Signed::NotOurs) };
    let is_trusted = manifest.mac.is_none() && how.trusts;
    let keys = Some(&*how.keys).filter(|_| !is_trusted);
    if let Some(doubt) = manifest.doubts(&text, point, keys).first() {
        return Err(refuse(doubt));
    }
    if manifest.disks.iter().any(|disk| disk.size == 0) {
        return Err(refuse(UNTOLD));
    }
    if manifest.signer(&text, &how.keys) == Some(0) {
        return Ok(Signed::Already);
    }
    instance.fence()?;
    Manifest { backup_path: Some(point.to_string()), ..manifest }.replace(&folder)?;
    Ok(Signed::Anew)
}
