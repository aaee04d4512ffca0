//! `rebaseBackup`: one image of a restore point gets another backing file, or none, and reads as before.

use serde::Deserialize;

use super::rebase_disks::{self, Disk, Rebased};
use crate::error::{Code, Error, Result};
use crate::nas::path::{PointPath, RepoPath};
use crate::nas::repository::Repository;
use crate::point::{Link, open_chain};
use crate::work::job::{self, Listener, Reporter};

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

/// Runs `rebaseBackup`. `listener` is told of progress on this thread.
pub fn run(request: RebaseBackupRequest, listener: Listener<'_>) -> Result<Rebased> {
    let export = Repository::check(request.repository)?;
    let target = request.target.ok_or_else(|| Error::invalid("target", "is missing"))?;
    let target = RepoPath::parse("target", &target)?;
    let folder = target.parent().ok_or_else(|| Error::invalid("target", format!("'{target}' is in no point")))?;
    let point = PointPath::parse("target", folder.as_str())?;
    let onto = request.new_backing.map(|path| RepoPath::parse("newBacking", &path)).transpose()?;
    if onto.as_ref() == Some(&target) {
        return Err(Error::invalid("newBacking", "is the target itself"));
    }
    let job = job::start(request.job, "rebaseBackup", &export, Some(point.instance().to_owned()))?;
    let mut job = Reporter::new(job, listener)?;
    let rebased = rebase_disks::run(export, &point, &mut job, move |root| {
        let chain = open_chain(root, &target)?;
        let position = onto.map(|onto| ancestor(&chain, &onto)).transpose()?;
        Ok(vec![Disk::new(chain, position)])
    });
    rebased.inspect_err(|error| log::error!("rebase of a file of '{point}' failed: {error}"))
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
