//! `showPoint`: all that a restore point tells of itself. Nothing is locked and nothing written.

use std::collections::BTreeMap;
use std::io::Read;

use serde::{Deserialize, Serialize};

use super::list_points::{self, ListedPoint};
use crate::config;
use crate::error::{Code, Error, Result, Stopped};
use crate::limits;
use crate::nas::folder::Folder;
use crate::nas::health;
use crate::nas::path::PointPath;
use crate::nas::repository::{Export, Repository};
use crate::nas::session::Session;
use crate::plain::plain;
use crate::point::{DOMAIN, Manifest, open_chain_while};
use crate::work::job::{self, Listener, Reporter};
use crate::work::phase::Phase;
use crate::work::worker::{self, Pulse};

const STEP: &str = "look at the point";
/// More than any domain's XML has, in bytes.
const LONGEST: u64 = 8 << 20;

/// What `showPoint` is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ShowPointRequest {
    /// The caller's id for this job.
    pub job: Option<String>,
    /// The NAS export.
    pub repository: Option<Repository>,
    /// The restore point, `<instance>/<timestamp>`.
    pub backup_path: Option<String>,
}

/// What `showPoint` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownPoint {
    /// As `listPoints` has it, but that `chain_size` is of those chains that can be followed.
    pub point: ListedPoint,
    /// The images of each disk, its own first, each standing on the next; by the disk's file.
    pub chains: BTreeMap<String, Vec<String>>,
    /// Its manifest; null without one that can be read.
    pub manifest: Option<Manifest>,
    /// The domain's XML; null where the point has none.
    pub domain: Option<String>,
}

/// Runs `showPoint`. `listener` is told before each image. `NOT_FOUND` without the point.
pub fn run(request: ShowPointRequest, listener: Listener<'_>) -> Result<ShownPoint> {
    let export = Repository::check(request.repository)?;
    let path = request.backup_path.ok_or_else(|| Error::invalid("backupPath", "is missing"))?;
    let point = PointPath::parse("backupPath", &path)?;
    let job = job::start(request.job, "showPoint", &export, Some(point.instance().to_owned()))?;
    let mut job = Reporter::new(job, listener)?;
    open(export.clone(), point, &mut job).inspect_err(|error| health::note_failure(&export, error))
}

fn open(export: Export, point: PointPath, job: &mut Reporter<'_>) -> Result<ShownPoint> {
    job.begin(Phase::OpenRepository)?;
    let session = Session::open_bounded(export, config::current())?;
    job.begin(Phase::FollowChains)?;
    worker::look(STEP, limits::STORAGE_STEP, job, move |pulse| show(session.root(), &point, pulse))
}

fn show(root: &Folder, path: &PointPath, pulse: &Pulse) -> Result<ShownPoint> {
    // of a long chain each image is a question of its own
    let go_on = || pulse.at(0, 0).map_err(Stopped::error);
    let none = || Error::new(Code::NotFound, STEP, format!("'{path}' holds neither a manifest nor an image"));
    let (mut point, manifest) = list_points::point(root, path)?.ok_or_else(none)?;
    let (mut chains, mut sizes) = (BTreeMap::new(), BTreeMap::new());
    for disk in &point.disks {
        let file = path.file(&disk.file)?;
        sizes.insert(file.as_str().to_owned(), disk.size);
        let chain = match open_chain_while(root, &file, go_on) {
            Err(error) if error.code == Code::Cancelled => return Err(error),
            Err(error) => {
                point.problems.push(plain(&format!("'{}': {}", disk.file, error.reason())).into_owned());
                Vec::new()
            }
            Ok(chain) => chain,
        };
        for link in &chain {
            go_on()?;
            sizes.insert(link.path.as_str().to_owned(), list_points::taken(&link.file, &link.path)?);
        }
        chains.insert(disk.file.clone(), chain.into_iter().map(|link| link.path.as_str().to_owned()).collect());
    }
    point.chain_size = sizes.values().sum::<u64>() + point.besides_disks();
    let domain = domain(root, path)?.map(|text| String::from_utf8_lossy(&text).into_owned());
    Ok(ShownPoint { point, chains, manifest, domain })
}

/// The domain's XML, as it stands in the point, if it does.
pub(super) fn domain(root: &Folder, path: &PointPath) -> Result<Option<Vec<u8>>> {
    let file = match root.open_file(&path.file(DOMAIN)?) {
        Err(error) if error.code == Code::NotFound => return Ok(None),
        file => file?,
    };
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text).map_err(|e| Error::io(STEP, DOMAIN, e))?;
    Ok(Some(text))
}
