//! What a rebase is asked: another backing file for one image of a restore point, or another parent for all of its disks.

use serde::Deserialize;

use super::disk::RebasedDisk;
use crate::error::{Code, Error, Result};
use crate::nas::folder::Folder;
use crate::nas::path::{PointPath, RepoPath};
use crate::nas::repository::{Export, Repository};
use crate::point::{Link, Manifest, images, open_chain};

/// What `rebaseBackup` is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RebaseBackupRequest {
    /// The caller's id for this job.
    pub job: Option<String>,
    /// The NAS export.
    pub repository: Option<Repository>,
    /// The image, `<instance>/<timestamp>/<file>`.
    pub target: Option<String>,
    /// An image that the target stands on, next or further down; null: it is to stand alone.
    pub new_backing: Option<String>,
}

/// What `rebasePoint` is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RebasePointRequest {
    /// The caller's id for this job.
    pub job: Option<String>,
    /// The NAS export.
    pub repository: Option<Repository>,
    /// The restore point, `<instance>/<timestamp>`.
    pub backup_path: Option<String>,
    /// A point that it stands on, next or further down; null: it is to stand alone.
    pub new_parent: Option<String>,
    /// A point that is deleted next, whatever comes of this call. If it is the one that this one stands on, and that is less to write,
    /// its images take in those of this one, and get their names: it can't be restored any more then, not even after a failure.
    pub going_point: Option<String>,
}

/// A rebase whose request was checked.
#[derive(Debug)]
pub struct Asked {
    pub(super) job: Option<String>,
    pub(super) export: Export,
    /// The point that is rebased, or in which the image lies that is.
    pub(super) point: PointPath,
    pub(super) subject: Subject,
}

/// What of the point is rebased, and onto what; onto nothing, it is to stand alone.
#[derive(Debug)]
pub(super) enum Subject {
    Image(RepoPath, Option<RepoPath>),
    /// At last the point that is deleted next.
    AllDisks(Option<PointPath>, Option<PointPath>),
}

impl RebaseBackupRequest {
    /// Refuses what can't be meant: `INVALID_ARGUMENT`, naming the field.
    pub fn check(self) -> Result<Asked> {
        let export = Repository::check(self.repository)?;
        let target = self.target.ok_or_else(|| Error::invalid("target", "is missing"))?;
        let target = RepoPath::parse("target", &target)?;
        let folder = target.parent().ok_or_else(|| Error::invalid("target", format!("'{target}' is in no point")))?;
        let point = PointPath::parse("target", folder.as_str())?;
        let onto = self.new_backing.map(|path| RepoPath::parse("newBacking", &path)).transpose()?;
        if onto.as_ref() == Some(&target) {
            return Err(Error::invalid("newBacking", "is the target itself"));
        }
        Ok(Asked { job: self.job, export, point, subject: Subject::Image(target, onto) })
    }
}

impl RebasePointRequest {
    /// Refuses what can't be meant: `INVALID_ARGUMENT`, naming the field.
    pub fn check(self) -> Result<Asked> {
        let export = Repository::check(self.repository)?;
        let path = self.backup_path.ok_or_else(|| Error::invalid("backupPath", "is missing"))?;
        let point = PointPath::parse("backupPath", &path)?;
        let onto = self.new_parent.map(|path| PointPath::parse("newParent", &path)).transpose()?;
        if onto.as_ref() == Some(&point) {
            return Err(Error::invalid("newParent", "is the point itself"));
        }
        let going = self.going_point.map(|path| PointPath::parse("goingPoint", &path)).transpose()?;
        if going.as_ref().is_some_and(|going| *going == point || Some(going) == onto.as_ref()) {
            return Err(Error::invalid("goingPoint", "is the point itself, or its new parent"));
        }
        Ok(Asked { job: self.job, export, point, subject: Subject::AllDisks(onto, going) })
    }
}

impl Subject {
    /// The name of the operation.
    pub(super) fn operation(&self) -> &'static str {
        match self {
            Subject::Image(..) => "rebaseBackup",
            Subject::AllDisks(..) => "rebasePoint",
        }
    }

    /// The point that is deleted next.
    pub(super) fn going(&self) -> Option<&PointPath> {
        match self {
            Subject::AllDisks(_, going) => going.as_ref(),
            Subject::Image(..) => None,
        }
    }

    /// The disks of `point` that are rebased, each with what it is to stand on; none if all have become another point's.
    pub(super) fn disks(&self, root: &Folder, point: &PointPath) -> Result<Vec<RebasedDisk>> {
        match self {
            Subject::Image(image, onto) => {
                let chain = open_chain(root, image)?;
                let position = onto.as_ref().map(|onto| ancestor(&chain, onto)).transpose()?;
                Ok(vec![RebasedDisk::new(chain, position)])
            }
            Subject::AllDisks(onto, _) => all_disks(root, point, onto.as_ref()),
        }
    }
}

/// Where `onto` stands in the chain.
fn ancestor(chain: &[Link], onto: &RepoPath) -> Result<usize> {
    let below = chain.iter().skip(1).position(|link| link.path == *onto);
    below.map(|position| position + 1).ok_or_else(|| {
        let below: Vec<_> = chain.iter().skip(1).map(|link| link.path.as_str()).collect();
        let cause = format!("'{onto}' is none of what '{}' stands on: [{}]", chain[0].path, below.join(", "));
        Error::new(Code::ParentInvalid, "look for the new backing file", cause)
    })
}

/// True if the image has become another's, for its point is being deleted.
fn has_gone(root: &Folder, point: &PointPath, image: &RepoPath) -> Result<bool> {
    let manifest = Manifest::read_sound(&root.open_dir(&point.folder())?, point)?;
    let mut disks = manifest.into_iter().flat_map(|manifest| manifest.disks);
    Ok(disks.any(|disk| disk.file == image.name() && disk.goes_into.is_some()))
}

/// A disk that came later than the new parent has no image there, and is to stand alone; a point of which no disk stands on
/// the new parent is not to be rebased onto it.
fn all_disks(root: &Folder, point: &PointPath, parent: Option<&PointPath>) -> Result<Vec<RebasedDisk>> {
    let mut disks = Vec::new();
    let mut found = false;
    for image in images(root, point)? {
        let chain = match open_chain(root, &image) {
            Err(error) if error.code == Code::NotFound && has_gone(root, point, &image)? => {
                found = true;
                continue;
            }
            chain => chain?,
        };
        let position = parent.and_then(|parent| chain.iter().position(|link| link.path.is_in(&parent.folder())));
        found |= position.is_some();
        disks.push(RebasedDisk::new(chain, position));
    }
    match parent {
        Some(parent) if !found => {
            let cause = format!("no disk of '{point}' stands on '{parent}'");
            Err(Error::new(Code::ParentInvalid, "look for the new parent", cause))
        }
        _ => Ok(disks),
    }
}
