//! `listPoints`: what lies in a repository, machine by machine. Nothing is locked and nothing written: what others change
//! meanwhile is told as it was before, or after.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use jiff::Timestamp;
use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

use super::verified::{self, PastVerdict, Scope};
use super::verify_chain::chains;
use crate::config;
use crate::config::Engine;
use crate::error::{Code, Error, Result, Stopped};
use crate::limits;
use crate::nas::folder::Folder;
use crate::nas::health;
use crate::nas::path::{PARTIAL, PointPath, RepoPath};
use crate::nas::removal::DELETED;
use crate::nas::repository::{Export, Repository};
use crate::nas::session::Session;
use crate::plain::plain;
use crate::point::{self, DEEPEST, Kind, Manifest, image_names, volume_of_image};
use crate::qcow2;
use crate::work::job::{self, Listener, Reporter};
use crate::work::phase::Phase;
use crate::work::worker::{self, Pulse};

const STEP: &str = "look at the points";
/// How the names of what the library keeps beside points begin.
pub(super) const OURS: &str = ".nasbackup.";

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
    /// The error that `problem` puts into words.
    #[serde(skip)]
    pub failure: Option<Error>,
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
    /// What all files in its folder take on the NAS.
    pub size: u64,
    /// `size`, and what all images take that its images stand on.
    pub chain_size: u64,
    /// What the last verifications have found, of each scope that still tells something.
    pub verified: Vec<PastVerdict>,
    /// What the last boot tests have found, likewise.
    pub booted: Vec<PastVerdict>,
    /// What is wrong with it, as far as its manifest and headers tell.
    pub problems: Vec<String>,
}

impl ListedPoint {
    /// What it takes besides its images.
    pub(super) fn besides_disks(&self) -> u64 {
        self.size.saturating_sub(self.disks.iter().map(|disk| disk.size).sum())
    }
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
    let only = request.instance.map(|name| PointPath::parse_instance("instance", &name)).transpose()?;
    let only = only.map(|folder| folder.name().to_owned());
    let mut job = Reporter::new(job::start(request.job, "listPoints", &export, only.clone())?, listener)?;
    list(&export, only, &mut job).inspect_err(|error| health::note_failure(&export, error))
}

fn list(export: &Export, only: Option<String>, job: &mut Reporter<'_>) -> Result<ListedPoints> {
    job.begin(Phase::OpenRepository)?;
    let session = Session::open_bounded(export.clone(), config::current())?;
    let held = session.clone();
    let (machines, foreign) = match &only {
        Some(name) => (vec![name.clone()], Vec::new()),
        None => worker::look("look for the machines", limits::STORAGE_STEP, job, move |pulse| {
            instances(held.root(), || go_on(pulse))
        })?,
    };
    job.begin(Phase::FollowChains)?;
    let mut listed = Vec::new();
    for name in machines {
        let (held, at) = (session.clone(), name.clone());
        let look = move |pulse: &Pulse| match machine(held.root(), &at, || go_on(pulse)) {
            Err(error) if error.code == Code::Cancelled => Err(error),
            looked => Ok(looked),
        };
        match worker::look(STEP, limits::STORAGE_STEP, job, look)? {
            Ok(machine) => listed.push(machine),
            Err(error) if only.is_some() => return Err(error),
            Err(error) => {
                let (problem, failure) = (Some(error.to_string()), Some(error));
                listed.push(ListedMachine { instance: name, problem, failure, ..ListedMachine::default() });
            }
        }
    }
    Ok(ListedPoints { machines: listed, foreign })
}

/// The NAS has answered: however many points there are, only one answer may not take too long.
fn go_on(pulse: &Pulse) -> Result<()> {
    pulse.at(0, 0).map_err(Stopped::error)
}

/// The names of the machines' folders, and of what else lies in the root.
fn instances(root: &Folder, mut go_on: impl FnMut() -> Result<()>) -> Result<(Vec<String>, Vec<String>)> {
    let (mut machines, mut foreign) = (Vec::new(), Vec::new());
    for name in root.names()? {
        go_on()?;
        let instance = name.to_str().filter(|name| PointPath::parse_instance("instance", name).is_ok());
        match instance {
            // what can't be looked at tells so as a machine
            Some(instance) if matches!(root.kind(&name), Ok(Some(FileType::Directory)) | Err(_)) => {
                machines.push(instance.to_owned());
            }
            _ if name == "lost+found" => {}
            _ => foreign.push(shown(&name)),
        }
    }
    Ok((machines, foreign))
}

fn shown(name: &OsStr) -> String {
    plain(&name.to_string_lossy()).into_owned()
}

fn machine(root: &Folder, instance: &str, mut go_on: impl FnMut() -> Result<()>) -> Result<ListedMachine> {
    let folder = root.open_dir_in(instance)?;
    let mut listed = ListedMachine { instance: instance.to_owned(), ..ListedMachine::default() };
    for name in folder.names()? {
        go_on()?;
        let begins = |prefix: &&str| name.as_bytes().starts_with(prefix.as_bytes());
        let path = name.to_str().and_then(|name| PointPath::parse("point", &format!("{instance}/{name}")).ok());
        if [PARTIAL, DELETED].iter().any(begins) {
            listed.unfinished.push(shown(&name));
        } else if let Some(path) = path {
            let found = match folder.kind(&name) {
                Ok(Some(FileType::Directory)) => point(root, &path).map(|found| found.map(|(point, _)| point)),
                other => other.map(|_| None),
            };
            match found {
                Ok(Some(point)) => listed.points.push(point),
                Ok(None) => listed.foreign.push(shown(&name)),
                // it was removed meanwhile
                Err(error) if error.code == Code::NotFound => {}
                Err(error) => listed.points.push(unreadable(&path, &error)),
            }
        } else if !begins(&OURS) {
            listed.foreign.push(shown(&name));
        }
    }
    sum_chains(&mut listed.points);
    Ok(listed)
}

/// A point that can't be looked at, which says nothing of the others.
fn unreadable(path: &PointPath, error: &Error) -> ListedPoint {
    ListedPoint {
        backup_path: path.to_string(),
        point_id: None,
        name: None,
        when: None,
        kind: Kind::Full,
        engine: None,
        disks: Vec::new(),
        parents: Vec::new(),
        size: 0,
        chain_size: 0,
        problems: vec![plain(&error.reason()).into_owned()],
        verified: Vec::new(),
        booted: Vec::new(),
    }
}

/// The point in a folder, and its manifest if that can be read; none if the folder holds neither a manifest nor an image.
pub(super) fn point(root: &Folder, path: &PointPath) -> Result<Option<(ListedPoint, Option<Manifest>)>> {
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
    let mut images: Vec<_> = match &manifest {
        Some(manifest) => manifest.disks.iter().map(|disk| (disk.file.clone(), Some(disk))).collect(),
        None => image_names(&folder)?.into_iter().map(|file| (file, None)).collect(),
    };
    if images.is_empty() && problems.is_empty() {
        return Ok(None);
    }
    images.sort_by_key(|(_, recorded)| recorded.is_none());
    let disks: Vec<_> =
        images.into_iter().map(|(file, recorded)| disk(root, path, file, recorded, &mut problems)).collect();
    for name in manifest.iter().flat_map(Manifest::state_files) {
        if let Err(error) = path.file(name).and_then(|path| root.open_file(&path)) {
            problems.push(format!("'{name}': {}", error.reason()));
        }
    }
    let size = folder.taken().unwrap_or_else(|error| {
        problems.push(error.reason());
        disks.iter().map(|disk| disk.size).sum()
    });
    let (booted, verified) =
        verified::read(root, path, manifest.as_ref()).into_iter().partition(|past| past.scope == Scope::Boot);
    let point = ListedPoint {
        backup_path: path.to_string(),
        point_id: manifest.as_ref().map(|manifest| manifest.point_id.clone()),
        name: manifest.as_ref().and_then(|manifest| manifest.name.clone().or_else(|| manifest.bitmap.clone())),
        when: manifest.as_ref().map(|manifest| manifest.when),
        kind: if disks.iter().any(|disk| disk.backing.is_some()) { Kind::Incremental } else { Kind::Full },
        verified,
        booted,
        engine: manifest.as_ref().map(|manifest| manifest.engine),
        size,
        chain_size: 0,
        parents: parents(path, &disks),
        disks,
        problems: problems.iter().map(|problem| plain(problem).into_owned()).collect(),
    };
    Ok(Some((point, manifest)))
}

/// The disk whose image is `file`, as `recorded` in the manifest. What is wrong with it is added to `problems`.
fn disk(
    root: &Folder,
    path: &PointPath,
    file: String,
    recorded: Option<&point::ManifestDisk>,
    problems: &mut Vec<String>,
) -> ListedDisk {
    match recorded.map(|recorded| (&recorded.goes_into, recorded.is_rebasing())) {
        Some((Some(into), _)) => problems.push(format!("'{file}': {}", chains::going(into))),
        Some((None, true)) => problems.push(format!("a rebase of '{file}' was cut off, or goes on")),
        _ => {}
    }
    let (size, backing) = image(root, path, &file).unwrap_or_else(|error| {
        problems.push(format!("'{file}': {}", error.reason()));
        (0, None)
    });
    let volume = recorded.map(|disk| disk.volume.clone()).or_else(|| volume_of_image(&file));
    ListedDisk {
        volume: plain(&volume.unwrap_or_else(|| file.clone())).into_owned(),
        virtual_size: recorded.map(|disk| disk.virtual_size),
        file,
        size,
        backing: backing.map(|backing| backing.as_str().to_owned()),
    }
}

/// What the file at `path` takes on the NAS.
pub(super) fn taken(file: &File, path: &RepoPath) -> Result<u64> {
    Ok(file.metadata().map_err(|e| Error::io(STEP, path.as_str(), e))?.blocks() * 512)
}

/// What an image takes, and the image that its header names.
fn image(root: &Folder, point: &PointPath, name: &str) -> Result<(u64, Option<RepoPath>)> {
    let path = point.file(name)?;
    let file = root.open_file(&path)?;
    let taken = taken(&file, &path)?;
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
        let mut chain = HashMap::new();
        for disk in &point.disks {
            let own = format!("{}/{}", point.backup_path, disk.file);
            let mut next = Some(own.as_str());
            for _ in 0..DEEPEST {
                let Some(path) = next else { break };
                let Some((path, (size, backing))) = images.get_key_value(path) else {
                    point.problems.push(format!(
                        "'{}' stands on '{}', which is not there",
                        plain(&disk.file),
                        plain(path)
                    ));
                    break;
                };
                // one that was there stands on itself, or is shared with another disk
                next = if chain.insert(path.as_str(), *size).is_none() { backing.as_deref() } else { None };
            }
        }
        point.chain_size = chain.values().sum::<u64>() + point.besides_disks();
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs;
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn one_entry_that_can_t_be_looked_at_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let vm = dir.path().join("vm");
        // names that grow, shown, beyond what a file system takes
        let no_text = OsString::from_vec(vec![0xff; 255]);
        for folder in [vm.join("1"), vm.join(&no_text), vm.join(".partial-2"), dir.path().join(&no_text)] {
            fs::create_dir_all(folder).unwrap();
        }
        fs::write(vm.join("1").join("root.a.qcow2"), "no image").unwrap();
        let root = Folder::open_root(dir.path()).unwrap();
        let (machines, foreign) = instances(&root, || Ok(())).unwrap();
        assert_eq!((machines, foreign.len()), (vec!["vm".to_owned()], 1));
        let mut words = 0;
        let count = || {
            words += 1;
            Ok(())
        };
        let listed = machine(&root, "vm", count).unwrap();
        assert_eq!((listed.points.len(), listed.unfinished.len(), listed.foreign.len()), (1, 1, 1));
        assert_eq!((listed.points[0].problems.len(), words), (1, 3), "a word for each entry");
        let stop = || Err(Error::new(Code::Cancelled, STEP, "interrupted"));
        assert_eq!(machine(&root, "vm", stop).unwrap_err().code, Code::Cancelled);
    }

    #[test]
    fn a_chain_of_many_points_is_summed_as_far_as_a_chain_goes() {
        let named = |i: usize| PointPath::parse("point", &format!("vm/{i}")).unwrap();
        let lost = Error::new(Code::Io, STEP, "lost");
        let mut points: Vec<_> = (0..5_000_usize)
            .map(|i| {
                let backing = i.checked_sub(1).map(|below| format!("vm/{below}/a"));
                let disk = ListedDisk { volume: "a".into(), file: "a".into(), size: 1, virtual_size: None, backing };
                ListedPoint { disks: vec![disk], ..unreadable(&named(i), &lost) }
            })
            .collect();
        sum_chains(&mut points);
        assert_eq!([0, 9, 4_999].map(|i| points[i].chain_size), [1, 10, DEEPEST as u64]);
    }
}
