//! The table of running jobs: what `jobs` lists and `cancel` ends.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Serialize;

use crate::config;
use crate::error::{Code, Error, Result};
use crate::host::Post;
use crate::work::deadline::WorkFor;
use crate::work::phase::Phase;
use crate::work::speed::{self, Speed};
use crate::work::steps;

/// One running job, as `jobs` shows it and as progress listeners get it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobStatus {
    /// The caller's id, or one made for it.
    pub job: String,
    /// The operation's name, e.g. `takeBackup`.
    pub operation: &'static str,
    /// The domain that it works on, if any.
    pub vm_name: Option<String>,
    /// What it is doing now.
    pub phase: Phase,
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes to do; 0 while unknown.
    pub total_bytes: u64,
    /// Milliseconds since it started.
    pub elapsed_millis: u64,
    /// Bytes a second in the last seconds of this phase; null while that is not known.
    pub bytes_per_second: Option<u64>,
    /// Milliseconds until all bytes are done, at that speed; null while that is not known.
    pub remaining_millis: Option<u64>,
}

/// Is told of progress on the caller's own thread; an error from it cancels the job and becomes its result.
pub type Listener<'a> = &'a mut dyn FnMut(&JobStatus) -> Result<()>;

/// A job's shared state.
#[derive(Debug)]
pub struct Job {
    id: String,
    operation: &'static str,
    vm_name: Option<String>,
    phase: Mutex<Phase>,
    done: AtomicU64,
    total: AtomicU64,
    speed: Mutex<Speed>,
    started: Instant,
    cancelled: AtomicBool,
    post: Mutex<Post>,
}

impl Job {
    /// Names what the job does from now on.
    pub fn enter(&self, phase: Phase) {
        log::debug!("{} {}: {phase}", self.operation, self.vm_name.as_deref().unwrap_or("-"));
        *lock(&self.phase) = phase;
        *lock(&self.speed) = Speed::default();
        steps::at(phase.as_str());
        self.post(true);
    }

    /// Tells other processes of this host where the job stands, and heeds one that wants it to end.
    fn post(&self, new_phase: bool) {
        if lock(&self.post).tell(&config::current().state_dir, new_phase, || self.status()) {
            self.cancelled.store(true, Relaxed);
        }
    }

    /// Records progress in bytes.
    pub fn progress(&self, done: u64, total: u64) {
        self.done.store(done, Relaxed);
        self.total.store(total, Relaxed);
        lock(&self.speed).note(Instant::now(), done);
    }

    /// Has somebody called `cancel`?
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }

    /// `CANCELLED` once somebody has called `cancel`.
    pub fn check_cancelled(&self) -> Result<()> {
        if self.is_cancelled() {
            Err(Error::new(Code::Cancelled, lock(&self.phase).as_str(), "the caller cancelled the job"))
        } else {
            Ok(())
        }
    }

    /// A picture of the job at this moment.
    pub fn status(&self) -> JobStatus {
        let (done_bytes, total_bytes) = (self.done.load(Relaxed), self.total.load(Relaxed));
        let bytes_per_second = lock(&self.speed).bytes_per_second(Instant::now());
        JobStatus {
            job: self.id.clone(),
            operation: self.operation,
            vm_name: self.vm_name.clone(),
            phase: *lock(&self.phase),
            done_bytes,
            total_bytes,
            elapsed_millis: self.elapsed_millis(),
            bytes_per_second,
            remaining_millis: speed::remaining_millis(done_bytes, total_bytes, bytes_per_second),
        }
    }

    /// Milliseconds since the job started.
    pub fn elapsed_millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

static RUNNING: Mutex<BTreeMap<String, Arc<Job>>> = Mutex::new(BTreeMap::new());
static MADE: AtomicU64 = AtomicU64::new(0);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A job in the table, for whose guest and repository this thread works; dropping it takes it out.
#[derive(Debug)]
pub struct JobGuard(Arc<Job>, #[expect(dead_code, reason = "held")] WorkFor);

impl JobGuard {
    /// The job's state, for another thread.
    pub fn share(&self) -> Arc<Job> {
        self.0.clone()
    }
}

impl Deref for JobGuard {
    type Target = Job;
    fn deref(&self) -> &Job {
        &self.0
    }
}

impl Drop for JobGuard {
    fn drop(&mut self) {
        lock(&RUNNING).remove(&self.0.id);
        lock(&self.0.post).close();
    }
}

/// A running job together with the listener of its caller.
pub struct Reporter<'a> {
    job: JobGuard,
    listener: Listener<'a>,
}

impl std::fmt::Debug for Reporter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.job.fmt(f)
    }
}

impl Deref for Reporter<'_> {
    type Target = Job;
    fn deref(&self) -> &Job {
        &self.job
    }
}

impl<'a> Reporter<'a> {
    /// Tells `listener` what becomes of `job`, from now on.
    pub fn new(job: JobGuard, listener: Listener<'a>) -> Result<Reporter<'a>> {
        let mut reporter = Reporter { job, listener };
        reporter.tell()?;
        Ok(reporter)
    }

    /// Begins the next phase. Fails when the caller wants the job to end.
    pub fn begin(&mut self, phase: Phase) -> Result<()> {
        self.job.enter(phase);
        self.tell()
    }

    /// Tells the listener where the job stands; to be called at least once a second while data travels. Fails when the
    /// caller wants the job to end.
    pub fn tell(&mut self) -> Result<()> {
        (self.listener)(&self.job.status())?;
        self.job.post(false);
        self.job.check_cancelled()
    }
}

/// Enters a job on a repository into the table. `INVALID_ARGUMENT` when the caller's id is in use.
pub fn start(
    id: Option<String>,
    operation: &'static str,
    repository: impl ToString,
    vm_name: Option<String>,
) -> Result<JobGuard> {
    let works_for = WorkFor::job(repository, vm_name.as_deref().unwrap_or_default());
    let id = id.unwrap_or_else(|| format!("{operation}-{}-{}", std::process::id(), MADE.fetch_add(1, Relaxed)));
    let mut running = lock(&RUNNING);
    if running.contains_key(&id) {
        return Err(Error::invalid("job", format!("'{id}' is running already")));
    }
    let job = Arc::new(Job {
        id: id.clone(),
        operation,
        vm_name,
        phase: Mutex::new(Phase::Start),
        done: AtomicU64::new(0),
        total: AtomicU64::new(0),
        speed: Mutex::default(),
        started: Instant::now(),
        cancelled: AtomicBool::new(false),
        post: Mutex::default(),
    });
    running.insert(id, job.clone());
    Ok(JobGuard(job, works_for))
}

/// The running jobs, by id.
pub fn running() -> Vec<JobStatus> {
    lock(&RUNNING).values().map(|job| job.status()).collect()
}

/// Asks the job `id` to stop. False when no such job runs.
pub fn cancel(id: &str) -> bool {
    let job = lock(&RUNNING).get(id).cloned();
    if let Some(job) = &job {
        log::info!("cancel asked for job '{id}'");
        job.cancelled.store(true, Relaxed);
    }
    job.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(id: &str) -> Result<JobGuard> {
        super::start(Some(id.to_owned()), "takeBackup", "dir '/nas'", Some("i-2-10-VM".to_owned()))
    }

    #[test]
    fn a_job_is_listed_while_its_guard_lives() {
        let job = start("listed").unwrap();
        job.enter(Phase::Copy);
        job.progress(1, 2);
        let status = running().into_iter().find(|s| s.job == "listed").unwrap();
        assert_eq!((status.phase, status.done_bytes, status.total_bytes), (Phase::Copy, 1, 2));
        assert_eq!(serde_json::to_value(&status).unwrap()["phase"], "copy");
        assert_eq!(start("listed").unwrap_err().code, Code::InvalidArgument);
        drop(job);
        assert!(!running().iter().any(|s| s.job == "listed"));
    }

    #[test]
    fn cancel_reaches_the_job_and_says_whether_it_ran() {
        let job = start("cancelled").unwrap();
        assert!(job.check_cancelled().is_ok());
        assert!(cancel("cancelled"));
        assert_eq!(job.check_cancelled().unwrap_err().code, Code::Cancelled);
        drop(job);
        assert!(!cancel("cancelled"));
    }
}
