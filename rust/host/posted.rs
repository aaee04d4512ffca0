//! The jobs of this host, whichever process runs them: each tells in a file below `stateDir` what it does, and heeds a file that
//! asks it to stop. What goes wrong with that is logged and disturbs no job.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::run_dir::{RunDir, RunDirs};
use crate::error::{Error, Result};

/// Where a job has its folder.
const JOBS: &str = "jobs";
const PREFIX: &str = "job-";
const STATUS: &str = "status.json";
const NEW: &str = "status.new";
const CANCEL: &str = "cancel";
const STEP: &str = "tell this host of the job";
/// Between two times that progress is written.
const OFTEN: Duration = Duration::from_secs(1);

/// What a job tells others of itself.
#[derive(Debug, Default)]
pub enum Post {
    /// Nothing yet.
    #[default]
    Silent,
    /// Its folder, and when it last told something.
    Open(RunDir, Instant),
    /// Nothing any more.
    Closed,
}

/// A job of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostJob {
    /// The process that runs it.
    #[serde(default)]
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
    /// Milliseconds from its start until it last told.
    pub elapsed_millis: u64,
    /// Bytes a second; null while that is not known.
    pub bytes_per_second: Option<u64>,
    /// Milliseconds since it last told: one that waits for a NAS tells nothing.
    #[serde(default)]
    pub silent_millis: u64,
}

impl Post {
    /// Tells where the job stands: always at a new phase, else at most once a second. True once somebody has asked it to stop.
    pub fn tell<T: Serialize>(&mut self, state_dir: &Path, new_phase: bool, status: impl FnOnce() -> T) -> bool {
        match self {
            Post::Silent => match open(state_dir) {
                Ok(dir) => *self = Post::Open(dir, Instant::now()),
                Err(error) => {
                    log::info!("other processes can't see this job: {error}");
                    *self = Post::Closed;
                }
            },
            Post::Open(_, last) if !new_phase && last.elapsed() < OFTEN => return false,
            Post::Open(_, last) => *last = Instant::now(),
            Post::Closed => {}
        }
        let Post::Open(dir, _) = self else { return false };
        if let Err(error) = write(dir.path(), &status()) {
            log::debug!("'{}' is not up to date: {error}", dir.path().display());
        }
        dir.path().join(CANCEL).exists()
    }

    /// Removes what the job has told.
    pub fn close(&mut self) {
        if let Post::Open(dir, _) = std::mem::replace(self, Post::Closed)
            && let Err(error) = fs::remove_dir_all(dir.path())
        {
            log::warn!("unable to remove '{}', leaving it to the next sweep: {error}", dir.path().display());
        }
    }
}

/// The folders of jobs, those that processes left when they were killed among them.
fn all(state_dir: &Path) -> RunDirs {
    RunDirs { all: state_dir.join(JOBS), setting: ("stateDir", state_dir.to_owned()), prefix: PREFIX, mode: 0o700 }
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

/// The jobs that run on this host, the longest first.
pub fn posted(state_dir: &Path) -> Vec<HostJob> {
    sweep_posted(state_dir);
    let Ok(entries) = fs::read_dir(state_dir.join(JOBS)) else { return Vec::new() };
    let mut jobs: Vec<_> = entries.flatten().filter_map(|entry| read(&entry.path())).collect();
    jobs.sort_by_key(|job| std::cmp::Reverse(job.elapsed_millis + job.silent_millis));
    jobs
}

/// None for one that has just begun, or ended meanwhile.
fn read(dir: &Path) -> Option<HostJob> {
    let process = dir.file_name()?.to_str()?.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()?;
    let file = File::open(dir.join(STATUS)).ok()?;
    let silent = file.metadata().ok()?.modified().ok()?.elapsed().unwrap_or_default();
    let job: HostJob = serde_json::from_reader(file).ok()?;
    let silent_millis = u64::try_from(silent.as_millis()).unwrap_or(u64::MAX);
    Some(HostJob { process, silent_millis, ..job })
}

/// Asks the jobs of that id to stop; how many there are.
pub fn ask_to_stop(state_dir: &Path, id: &str) -> Result<usize> {
    // one whose process has died hears nothing
    sweep_posted(state_dir);
    let Ok(entries) = fs::read_dir(state_dir.join(JOBS)) else { return Ok(0) };
    let dirs = entries.flatten().map(|entry| entry.path());
    let mut asked = 0;
    for dir in dirs.filter(|dir| read(dir).is_some_and(|job| job.job == id)) {
        match File::create(dir.join(CANCEL)) {
            // it has ended
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            made => {
                made.map_err(|error| Error::io("ask the job to stop", &dir, error))?;
                asked += 1;
            }
        }
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn status(done: u64) -> Value {
        json!({"job": "a", "operation": "verifyData", "vmName": null, "phase": "copy", "doneBytes": done,
            "totalBytes": 9, "elapsedMillis": 5, "bytesPerSecond": null, "remainingMillis": null})
    }

    fn done(state: &Path) -> Vec<u64> {
        posted(state).into_iter().map(|job| job.done_bytes).collect()
    }

    #[test]
    fn a_job_is_seen_and_stopped_by_others_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let state = &dir.path().join("state");
        assert!(done(state).is_empty());
        assert_eq!(ask_to_stop(state, "a").unwrap(), 0);
        let mut post = Post::default();
        assert!(!post.tell(state, true, || status(1)));
        assert_eq!(posted(state)[0].process, std::process::id());
        post.tell(state, true, || status(2));
        assert_eq!(done(state), [2]);
        assert_eq!(ask_to_stop(state, "b").unwrap(), 0);
        assert!(!post.tell(state, true, || status(3)));
        assert_eq!(ask_to_stop(state, "a").unwrap(), 1);
        assert!(post.tell(state, true, || status(4)));
        post.close();
        assert!(!post.tell(state, true, || status(5)), "a thread that was left behind tells nothing");
        assert_eq!(fs::read_dir(state.join(JOBS)).unwrap().count(), 0);
    }

    #[test]
    fn what_can_t_be_told_or_is_left_disturbs_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let state = &dir.path().join("state");
        let mut left = Post::default();
        left.tell(state, true, || status(1));
        // as when its process was killed: the lock goes, the folder stays
        drop(left);
        assert!(done(state).is_empty());
        assert_eq!(fs::read_dir(state.join(JOBS)).unwrap().count(), 0);
        let no_folder = &dir.path().join("file");
        fs::write(no_folder, "").unwrap();
        let mut post = Post::default();
        assert!(!post.tell(no_folder, true, || status(1)));
        post.close();
        assert!(done(no_folder).is_empty());
    }
}
