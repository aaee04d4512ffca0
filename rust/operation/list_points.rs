//! `listPoints`: what lies in a repository, machine by machine. Nothing is locked and nothing written: what others change
//! meanwhile is told as it was before, or after.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;

use jiff::Timestamp;
use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

use super::verified::{self, PastVerdict};
use crate::config;
use crate::config::Engine;
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::nas::folder::Folder;
use crate::nas::health;
use crate::nas::path::{PARTIAL, PointPath, RepoPath};
use crate::nas::removal::DELETED;
use crate::nas::repository::{Export, Repository};
use crate::nas::session::Session;
use crate::plain::plain;
use crate::point::{self, Kind, Manifest, image_names, volume_of_image};
use crate::qcow2;
use crate::work::deadline::bounded;
use crate::work::job::{self, Listener, Reporter};
use crate::work::phase::Phase;

const STEP: &str = "look at the points";
/// How the names of what the library keeps beside points begin.
const OURS: &str = ".nasbackup.";

/// What `listPoints` is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ListPointsRequest {
    /// The caller's id for this job.
    pub job: Option<String>,
    /// The NAS export.
    pub repository: Option<Repository>,
    /// The folder of the one machine whose points are meant. Absent: all machines'.
    pub instance: Option<String>,
}

/// What `listPoints` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedPoints {
    /// The machines that have a folder, by name.
    pub machines: Vec<ListedMachine>,
    /// What else lies in the repository's root.
    pub foreign: Vec<String>,
}

/// A machine's folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedMachine {
    /// The folder's name.
    pub instance: String,
    /// Its points, oldest first.
    pub points: Vec<ListedPoint>,
    /// Points that a call has begun to write or to remove, and has not finished, or not yet.
    pub unfinished: Vec<String>,
    /// What else lies there and is not the library's.
    pub foreign: Vec<String>,
    /// Why it could not be looked at, if that is so.
    pub problem: Option<String>,
}

/// A restore point. Sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedPoint {
    /// Its folder, `<instance>/<timestamp>`.
    pub backup_path: String,
    /// Its id; null of a point without a manifest, as the script makes it.
    pub point_id: Option<String>,
    /// The name by which a request can call it its parent (`bitmapParent`); null where none can.
    pub name: Option<String>,
    /// The instant that it shows; null without a manifest.
    pub when: Option<Timestamp>,
    /// Full if no disk stands on another point's.
    pub kind: Kind,
    /// The engine that moved the data; null without a manifest.
    pub engine: Option<Engine>,
    /// Its disks.
    pub disks: Vec<ListedDisk>,
    /// The points that its disks stand on, by their headers.
    pub parents: Vec<String>,
    /// What its images take on the NAS.
    pub size: u64,
    /// What they take together with all images that they stand on.
    pub chain_size: u64,
    /// What the last verifications have found, of each scope that still tells something.
    pub verified: Vec<PastVerdict>,
    /// What is wrong with it, as far as its manifest and headers tell.
    pub problems: Vec<String>,
}

/// A disk of a restore point. Sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedDisk {
    /// The volume's name.
    pub volume: String,
    /// Its image's name in the point's folder.
    pub file: String,
    /// What the image takes on the NAS.
    pub size: u64,
    /// The size that the guest sees; null without a manifest.
    pub virtual_size: Option<u64>,
    /// The image that it stands on, relative to the repository's root.
    pub backing: Option<String>,
}

/// Runs `listPoints`. `listener` is told before each machine.
pub fn run(request: ListPointsRequest, listener: Listener<'_>) -> Result<ListedPoints> {
    let export = Repository::check(request.repository)?;
    let only = request.instance.map(|name| PointPath::parse("instance", &format!("{name}/x"))).transpose()?;
    let only = only.map(|point| point.instance().to_owned());
    let mut job = Reporter::new(job::start(request.job, "listPoints", &export, only.clone())?, listener)?;
    list(&export, only, &mut job).inspect_err(|error| health::note_failure(&export, error))
}

fn list(export: &Export, only: Option<String>, job: &mut Reporter<'_>) -> Result<ListedPoints> {
    job.begin(Phase::OpenRepository)?;
    let session = Session::open_bounded(export.clone(), config::current())?;
    let held = session.clone();
    let (machines, foreign) = match &only {
        Some(name) => (vec![name.clone()], Vec::new()),
        None => bounded("look for the machines", limits::STORAGE_STEP, move || instances(held.root()))?,
    };
    job.begin(Phase::FollowChains)?;
    let mut listed = Vec::new();
    for name in machines {
        job.tell()?;
        let (held, at) = (session.clone(), name.clone());
        match bounded(STEP, limits::STORAGE_STEP, move || machine(held.root(), &at)) {
            Ok(machine) => listed.push(machine),
            Err(error) if only.is_some() || error.code == Code::NasUnresponsive => return Err(error),
            Err(error) => {
                let problem = Some(error.to_string());
                listed.push(ListedMachine { instance: name, problem, ..ListedMachine::default() });
            }
        }
    }
    Ok(ListedPoints { machines: listed, foreign })
}

/// The names of the machines' folders, and of what else lies in the root.
fn instances(root: &Folder) -> Result<(Vec<String>, Vec<String>)> {
    let (mut machines, mut foreign) = (Vec::new(), Vec::new());
    for name in sorted(root)? {
        let is_instance = PointPath::parse("instance", &format!("{name}/x")).is_ok();
        if is_instance && root.kind(&name)? == Some(FileType::Directory) {
            machines.push(name);
        } else if name != "lost+found" {
            foreign.push(plain(&name).into_owned());
        }
    }
    Ok((machines, foreign))
}

/// The names in a folder, those that are no UTF-8 as they can be shown.
fn sorted(folder: &Folder) -> Result<Vec<String>> {
    let mut names: Vec<_> = folder.names()?.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

pub(super) fn machine(root: &Folder, instance: &str) -> Result<ListedMachine> {
    let folder = root.open_dir_in(instance)?;
    let mut listed = ListedMachine { instance: instance.to_owned(), ..ListedMachine::default() };
    for name in sorted(&folder)? {
        let path = PointPath::parse("point", &format!("{instance}/{name}"));
        let is_folder = folder.kind(&name)? == Some(FileType::Directory);
        if [PARTIAL, DELETED].iter().any(|prefix| name.starts_with(prefix)) {
            listed.unfinished.push(plain(&name).into_owned());
        } else if let (true, Ok(path)) = (is_folder, path) {
            match point(root, &path) {
                Ok(Some(point)) => listed.points.push(point),
                Ok(None) => listed.foreign.push(plain(&name).into_owned()),
                // it was removed meanwhile
                Err(error) if error.code == Code::NotFound => {}
                Err(error) => return Err(error),
            }
        } else if !name.starts_with(OURS) {
            listed.foreign.push(plain(&name).into_owned());
        }
    }
    sum_chains(&mut listed.points);
    Ok(listed)
}

/// The point in a folder; none if that holds neither a manifest nor an image.
fn point(root: &Folder, path: &PointPath) -> Result<Option<ListedPoint>> {
    let folder = root.open_dir(&path.folder())?;
    let mut problems = Vec::new();
    let manifest = Manifest::read_with_text(&folder).unwrap_or_else(|error| {
        problems.push(error.reason());
        None
    });
    let manifest = manifest.map(|(manifest, text)| {
        problems.extend(manifest.doubts(&text, path, config::current().keys.as_deref()));
        manifest
    });
    let mut disks: Vec<_> = match &manifest {
        Some(manifest) => manifest.disks.iter().map(|disk| (disk.file.clone(), Some(disk.clone()))).collect(),
        None => image_names(&folder)?.into_iter().map(|file| (file, None)).collect(),
    };
    if disks.is_empty() && problems.is_empty() {
        return Ok(None);
    }
    disks.sort_by_key(|(_, recorded)| recorded.is_none());
    let mut listed = Vec::new();
    for (file, recorded) in disks {
        if recorded.as_ref().is_some_and(point::ManifestDisk::is_unfinished) {
            problems.push(format!("a rebase of '{file}' was cut off, or goes on"));
        }
        let (size, backing) = image(root, path, &file).unwrap_or_else(|error| {
            problems.push(format!("'{file}': {}", error.reason()));
            (0, None)
        });
        let volume = recorded.as_ref().map(|disk| disk.volume.clone()).or_else(|| volume_of_image(&file));
        listed.push(ListedDisk {
            volume: plain(&volume.unwrap_or_else(|| file.clone())).into_owned(),
            virtual_size: recorded.map(|disk| disk.virtual_size),
            file,
            size,
            backing: backing.map(|backing| backing.as_str().to_owned()),
        });
    }
    let parents = parents(path, &listed);
    Ok(Some(ListedPoint {
        backup_path: path.to_string(),
        point_id: manifest.as_ref().map(|manifest| manifest.point_id.clone()),
        name: manifest.as_ref().and_then(|manifest| manifest.name.clone().or_else(|| manifest.bitmap.clone())),
        when: manifest.as_ref().map(|manifest| manifest.when),
        kind: if listed.iter().any(|disk| disk.backing.is_some()) { Kind::Incremental } else { Kind::Full },
        verified: verified::read(&folder, manifest.as_ref()),
        engine: manifest.map(|manifest| manifest.engine),
        size: listed.iter().map(|disk| disk.size).sum(),
        chain_size: 0,
        parents,
        disks: listed,
        problems: problems.iter().map(|problem| plain(problem).into_owned()).collect(),
    }))
}

/// What an image takes, and the image that its header names.
fn image(root: &Folder, point: &PointPath, name: &str) -> Result<(u64, Option<RepoPath>)> {
    let path = point.file(name)?;
    let file = root.open_file(&path)?;
    let taken = file.metadata().map_err(|e| Error::io(STEP, path.as_str(), e))?.blocks() * 512;
    let backing = qcow2::backing(&file).map_err(|e| e.at(STEP, path.as_str()))?;
    Ok((taken, backing.map(|backing| point::resolve(&path, &backing)).transpose()?))
}

/// The points, other than `own`, that hold what the disks stand on.
fn parents(own: &PointPath, disks: &[ListedDisk]) -> Vec<String> {
    let folders = disks.iter().filter_map(|disk| disk.backing.as_deref()?.rsplit_once('/').map(|(folder, _)| folder));
    let others: BTreeSet<_> = folders.filter(|folder| *folder != own.to_string()).map(str::to_owned).collect();
    others.into_iter().collect()
}

/// Tells each point what it takes with all that it stands on, and which of its images stand on one that is not there.
fn sum_chains(points: &mut [ListedPoint]) {
    let images: BTreeMap<String, (u64, Option<String>)> = points
        .iter()
        .flat_map(|point| {
            let image = |disk: &ListedDisk| format!("{}/{}", point.backup_path, disk.file);
            point.disks.iter().map(move |disk| (image(disk), (disk.size, disk.backing.clone())))
        })
        .collect();
    for point in points {
        let mut chain = BTreeMap::new();
        for disk in &point.disks {
            let mut next = Some(format!("{}/{}", point.backup_path, disk.file));
            while let Some(path) = next {
                let Some((size, backing)) = images.get(&path) else {
                    point.problems.push(format!("'{}' stands on '{}', which is not there", disk.file, plain(&path)));
                    break;
                };
                // one that was there stands on itself, or is shared with another disk
                next = if chain.insert(path, *size).is_none() { backing.clone() } else { None };
            }
        }
        point.chain_size = chain.values().sum();
    }
}
