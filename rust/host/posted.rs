//! The jobs of this host, whichever process runs them: each process tells in a file below `stateDir` what a job of its does, and
//! heeds a file that asks it to stop. What goes wrong with that is logged and disturbs no job.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::run_dir::{RunDir, RunDirs};
use crate::config;
use crate::error::{Error, Result};
use crate::work::job::{self, JobStatus, Notice};
use crate::work::phase::Phase;

/// Where a job has its folder.
const JOBS: &str = "jobs";
const PREFIX: &str = "job-";
const STATUS: &str = "status.json";
const NEW: &str = "status.new";
const CANCEL: &str = "cancel";
const STEP: &str = "tell this host of the job";
/// Between two looks at the jobs of this process. One that ends sooner is told to nobody: that costs more than many a call.
const LOOK: Duration = Duration::from_millis(200);
/// Between two times that progress is written.
const OFTEN: Duration = Duration::from_secs(1);

/// A job of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostJob {
    /// The process that runs it.
    pub process: u32,
    /// The caller's id, or one made for it.
    pub job: String,
    /// The operation's name.
    pub operation: String,
    /// The domain that it works on, if any.
    pub vm_name: Option<String>,
    /// What it was doing when it last told.
    pub phase: String,
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes to do; 0 while unknown.
    pub total_bytes: u64,
    /// Milliseconds since its start.
    pub elapsed_millis: u64,
    /// Bytes a second; null while that is not known.
    pub bytes_per_second: Option<u64>,
    /// Milliseconds since it was last heard of.
    pub silent_millis: u64,
}

impl From<&JobStatus> for HostJob {
    fn from(status: &JobStatus) -> HostJob {
        HostJob {
            process: std::process::id(),
            job: status.job.clone(),
            operation: status.operation.to_owned(),
            vm_name: status.vm_name.clone(),
            phase: status.phase.as_str().to_owned(),
            done_bytes: status.done_bytes,
            total_bytes: status.total_bytes,
            elapsed_millis: status.elapsed_millis,
            bytes_per_second: status.bytes_per_second,
            silent_millis: status.silent_millis,
        }
    }
}

/// A job's folder, or none where it could not be made, and when it was told to be in which phase.
#[derive(Debug)]
struct Post(Option<RunDir>, Option<(Instant, Phase)>);

impl Post {
    fn open(state_dir: &Path) -> Post {
        let dir = open(state_dir).inspect_err(|error| log::info!("other processes can't see this job: {error}"));
        Post(dir.ok(), None)
    }
}

impl Notice for Post {
    /// Writes at each new phase, else at most once a second.
    fn tell(&mut self, status: &JobStatus) -> bool {
        let Post(Some(dir), told) = self else { return false };
        if !told.is_some_and(|(when, phase)| phase == status.phase && when.elapsed() < OFTEN) {
            *told = Some((Instant::now(), status.phase));
            if let Err(error) = write(dir.path(), &HostJob::from(status)) {
                log::debug!("'{}' is not up to date: {error}", dir.path().display());
            }
        }
        dir.path().join(CANCEL).exists()
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        if let Some(dir) = &self.0
            && let Err(error) = fs::remove_dir_all(dir.path())
        {
            log::warn!("unable to remove '{}', leaving it to the next sweep: {error}", dir.path().display());
        }
    }
}

/// Tells other processes of this one's jobs, from now on.
pub fn post_jobs() {
    static POSTS: Once = Once::new();
    let post = || loop {
        job::wait_for_any();
        thread::sleep(LOOK);
        job::notify_all(LOOK, || Box::new(Post::open(&config::current().state_dir)));
    };
    POSTS.call_once(|| {
        if let Err(error) = thread::Builder::new().name("nasbackup-jobs".to_owned()).spawn(post) {
            log::warn!("other processes can't see the jobs of this one: {error}");
        }
    });
}

/// The folders of jobs, those that processes left when they were killed among them.
fn all(state_dir: &Path) -> RunDirs {
    RunDirs {
        all: state_dir.join(JOBS),
        setting: Some(("stateDir", state_dir.to_owned())),
        prefix: PREFIX,
        mode: 0o700,
    }
}

fn open(state_dir: &Path) -> Result<RunDir> {
    let all = all(state_dir);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&all.all);
    made.map_err(|error| Error::io(STEP, &all.all, error))?;
    all.make(STEP)
}

/// By rename, so that nobody reads half of it.
fn write(dir: &Path, status: &impl Serialize) -> io::Result<()> {
    fs::write(dir.join(NEW), serde_json::to_vec(status)?)?;
    fs::rename(dir.join(NEW), dir.join(STATUS))
}

/// Removes what killed processes have left.
pub fn sweep_posted(state_dir: &Path) {
    all(state_dir).sweep(|_| true, |left| fs::remove_dir_all(left.path()).map(|()| true));
}

/// The jobs that run on this host, the longest first. `PERMISSION_DENIED` to whoever may not look for them.
pub fn posted(state_dir: &Path) -> Result<Vec<HostJob>> {
    let mut jobs: Vec<_> = folders(state_dir)?.iter().filter_map(|dir| read(dir)).collect();
    jobs.sort_by_key(|job| std::cmp::Reverse(job.elapsed_millis));
    Ok(jobs)
}

/// The jobs' folders, none of which a killed process has left: it would hear nothing. None before the first job.
fn folders(state_dir: &Path) -> Result<Vec<PathBuf>> {
    sweep_posted(state_dir);
    let all = state_dir.join(JOBS);
    let io = |error| Error::io("look for the jobs", &all, error);
    match fs::read_dir(&all) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries.map_err(io)?.map(|entry| Ok(entry.map_err(io)?.path())).collect(),
    }
}

/// None for one that has just begun, or ended meanwhile.
fn read(dir: &Path) -> Option<HostJob> {
    let file = File::open(dir.join(STATUS)).ok()?;
    let since = file.metadata().ok()?.modified().ok()?.elapsed().unwrap_or_default();
    let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let job: HostJob = serde_json::from_reader(file).ok()?;
    let later = |millis: u64| millis.saturating_add(since);
    Some(HostJob { elapsed_millis: later(job.elapsed_millis), silent_millis: later(job.silent_millis), ..job })
}

/// Asks the jobs of that id to stop; how many there are. `PERMISSION_DENIED` as of `posted`.
pub fn ask_to_stop(state_dir: &Path, id: &str) -> Result<usize> {
    let mut asked = 0;
    for dir in folders(state_dir)?.iter().filter(|dir| read(dir).is_some_and(|job| job.job == id)) {
        match File::create(dir.join(CANCEL)) {
            // it has ended
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            made => {
                made.map_err(|error| Error::io("ask the job to stop", dir, error))?;
                asked += 1;
            }
        }
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    fn status(phase: Phase, done_bytes: u64) -> JobStatus {
        JobStatus {
            job: "a".to_owned(),
            operation: "verifyData",
            vm_name: None,
            phase,
            done_bytes,
            total_bytes: 9,
            elapsed_millis: 5,
            bytes_per_second: None,
            remaining_millis: None,
            silent_millis: 0,
        }
    }

    fn done(state: &Path) -> Vec<u64> {
        posted(state).unwrap().into_iter().map(|job| job.done_bytes).collect()
    }

    #[test]
    fn a_job_is_seen_and_stopped_by_others_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let state = &dir.path().join("state");
        assert!(done(state).is_empty());
        assert_eq!(ask_to_stop(state, "a").unwrap(), 0);
        let mut post = Post::open(state);
        assert!(!post.tell(&status(Phase::Start, 1)));
        assert_eq!(posted(state).unwrap()[0].process, std::process::id());
        assert!(!post.tell(&status(Phase::Copy, 2)));
        assert!(!post.tell(&status(Phase::Copy, 3)));
        assert_eq!(done(state), [2], "at a new phase, else once a second");
        assert_eq!(ask_to_stop(state, "b").unwrap(), 0);
        assert!(!post.tell(&status(Phase::Copy, 3)));
        assert_eq!(ask_to_stop(state, "a").unwrap(), 1);
        assert!(post.tell(&status(Phase::Copy, 3)));
        drop(post);
        assert_eq!(fs::read_dir(state.join(JOBS)).unwrap().count(), 0);
    }

    #[test]
    fn what_can_t_be_told_or_is_left_disturbs_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let state = &dir.path().join("state");
        let mut left = Post::open(state);
        left.tell(&status(Phase::Copy, 1));
        // as when its process was killed: the lock goes, the folder stays
        left.0 = None;
        assert!(done(state).is_empty());
        assert_eq!(fs::read_dir(state.join(JOBS)).unwrap().count(), 0);
        let no_folder = &dir.path().join("file");
        fs::write(no_folder, "").unwrap();
        assert!(!Post::open(no_folder).tell(&status(Phase::Copy, 1)));
        assert_eq!(posted(no_folder).unwrap_err().code, Code::Io);
        assert!(ask_to_stop(no_folder, "a").is_err());
    }
}
