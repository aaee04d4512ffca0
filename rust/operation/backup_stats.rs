//! `backupStats` tells the size of a repository and how much of it is used.

use serde::{Deserialize, Serialize};

use crate::config;
use crate::error::Result;
use crate::limits;
use crate::nas::folder::{Folder, Room};
use crate::nas::health;
use crate::nas::repository::Repository;
use crate::nas::session::Session;
use crate::work::deadline;
use crate::work::job;
use crate::work::phase::Phase;

/// What `backupStats` is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BackupStatsRequest {
    /// The caller's id for this job.
    pub job: Option<String>,
    /// The NAS export.
    pub repository: Option<Repository>,
}

/// What `backupStats` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupStats {
    /// Size of the file system, in bytes; 0 where the storage does not tell.
    pub total_bytes: u64,
    /// Bytes in use.
    pub used_bytes: u64,
}

/// Runs `backupStats`.
pub fn run(request: BackupStatsRequest) -> Result<BackupStats> {
    let export = Repository::check(request.repository)?;
    let job = job::start(request.job, "backupStats", &export, None)?;
    job.enter(Phase::OpenRepository);
    let read = Session::open_bounded(export.clone(), config::current()).and_then(|session| {
        job.enter(Phase::ReadSize);
        deadline::bounded("read the file system's size", limits::STORAGE_STEP, move || stats(session.root()))
    });
    read.inspect_err(|error| health::note_failure(&export, error))
}

fn stats(root: &Folder) -> Result<BackupStats> {
    let used = |room: Room| BackupStats { total_bytes: room.total, used_bytes: room.total.saturating_sub(room.free) };
    Ok(root.room()?.map_or(BackupStats { total_bytes: 0, used_bytes: 0 }, used))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use std::process::Command;

    fn run_on(dir: &str) -> Result<BackupStats> {
        let repository = Repository { kind: Some("dir".into()), address: Some(dir.into()), options: None };
        run(BackupStatsRequest { job: None, repository: Some(repository) })
    }

    #[test]
    fn it_says_what_df_says() {
        let df = || {
            let df = Command::new("df").args(["-B1", "--output=size,used", "/dev/shm"]).output().unwrap();
            let text = String::from_utf8(df.stdout).unwrap();
            text.lines().nth(1).unwrap().split_whitespace().map(|n| n.parse().unwrap()).collect::<Vec<u64>>()
        };
        // others may write between the two looks
        let same = || {
            let (stats, df) = (run_on("/dev/shm").unwrap(), df());
            [stats.total_bytes, stats.used_bytes] == df[..]
        };
        assert!((0..10).any(|_| same()));
    }

    #[test]
    fn what_is_not_there_has_no_size() {
        assert_eq!(run_on("/no/such/folder").unwrap_err().code, Code::NotFound);
        assert_eq!(run(BackupStatsRequest::default()).unwrap_err().code, Code::InvalidArgument);
    }
}
