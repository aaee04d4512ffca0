//! `rebasePoint`: all disks of a restore point get another point as parent, or none.

use serde::Deserialize;

use super::rebase_disks::{self, Disk, Rebased};
use crate::error::{Code, Error, Result};
use crate::nas::folder::Folder;
use crate::nas::path::PointPath;
use crate::nas::repository::Repository;
use crate::point::{images, open_chain};
use crate::work::job::{self, Listener, Reporter};

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
}

/// Runs `rebasePoint`. `listener` is told of progress on this thread.
pub fn run(request: RebasePointRequest, listener: Listener<'_>) -> Result<Rebased> {
    let export = Repository::check(request.repository)?;
    let path = request.backup_path.ok_or_else(|| Error::invalid("backupPath", "is missing"))?;
    let point = PointPath::parse("backupPath", &path)?;
    let parent = request.new_parent.map(|path| PointPath::parse("newParent", &path)).transpose()?;
    if parent.as_ref() == Some(&point) {
        return Err(Error::invalid("newParent", "is the point itself"));
    }
    let job = job::start(request.job, "rebasePoint", &export, Some(point.instance().to_owned()))?;
    let mut job = Reporter::new(job, listener)?;
    let at = point.clone();
    let rebased = rebase_disks::run(export, &point, &mut job, move |root| plan(root, &at, parent.as_ref()));
    rebased.inspect_err(|error| log::error!("rebase of '{point}' failed: {error}"))
}

/// What is to be done to each disk. A disk that came later than the new parent has no image there, and is to stand
/// alone; a point of which no disk stands on the new parent is not to be rebased onto it.
fn plan(root: &Folder, point: &PointPath, parent: Option<&PointPath>) -> Result<Vec<Disk>> {
    let mut disks = Vec::new();
    let mut found = false;
    for image in images(root, point)? {
        let chain = open_chain(root, &image)?;
        let position = parent.and_then(|parent| chain.iter().position(|link| link.path.is_in(&parent.folder())));
        found |= position.is_some();
        disks.push(Disk::new(chain, position));
    }
    match parent {
        Some(parent) if !found => {
            let cause = format!("no disk of '{point}' stands on '{parent}'");
            Err(Error::new(Code::ParentInvalid, "look for the new parent", cause))
        }
        _ => Ok(disks),
    }
}
