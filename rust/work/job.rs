//! The table of running jobs: what `jobs` lists and `cancel` ends.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::work::owner::{Cancel, WorkFor};
use crate::work::phase::Phase;
use crate::work::speed::{self, Speed};
use crate::work::steps;
use crate::work::watched;

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
    /// Milliseconds since it was last heard of, for other processes alone: a caller hears that by itself.
    #[serde(skip)]
    pub silent_millis: u64,
}

/// Where other processes see a job, until this is dropped.
pub trait Notice: std::fmt::Debug + Send {
    /// Tells where the job stands. True once somebody has asked it to stop.
    fn tell(&mut self, status: &JobStatus) -> bool;
}

#[derive(Debug, Default)]
enum Noticed {
    #[default]
    Nowhere,
    At(Box<dyn Notice>),
    /// The job has ended.
    NoMore,
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
    /// Milliseconds from the start until it was last heard of.
    heard_millis: AtomicU64,
    cancel: Cancel,
    noticed: Mutex<Noticed>,
}

impl Job {
    /// Names what the job does from now on.
    pub fn enter(&self, phase: Phase) {
        log::debug!("{} {}: {phase}", self.operation, self.vm_name.as_deref().unwrap_or("-"));
        *lock(&self.phase) = phase;
        *lock(&self.speed) = Speed::default();
        self.heard();
        steps::at(phase.as_str());
    }

    /// Notes that the job goes on, whether or not there are bytes to tell of.
    pub(crate) fn heard(&self) {
        self.heard_millis.store(self.elapsed_millis(), Relaxed);
    }

    /// Records progress in bytes.
    pub fn progress(&self, done: u64, total: u64) {
        if self.done.swap(done, Relaxed) != done {
            self.heard();
        }
        self.total.store(total, Relaxed);
        lock(&self.speed).note(Instant::now(), done);
    }

    /// Has somebody called `cancel`?
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_set()
    }

    /// `CANCELLED` once somebody has called `cancel`.
    pub fn check_cancelled(&self) -> Result<()> {
        self.cancel.check(lock(&self.phase).as_str())
    }

    /// A picture of the job at this moment.
    pub fn status(&self) -> JobStatus {
        let (done_bytes, total_bytes) = (self.done.load(Relaxed), self.total.load(Relaxed));
        let bytes_per_second = lock(&self.speed).bytes_per_second(Instant::now());
        let elapsed_millis = self.elapsed_millis();
        JobStatus {
            job: self.id.clone(),
            operation: self.operation,
            vm_name: self.vm_name.clone(),
            phase: *lock(&self.phase),
            done_bytes,
            total_bytes,
            elapsed_millis,
            bytes_per_second,
            remaining_millis: speed::remaining_millis(done_bytes, total_bytes, bytes_per_second),
            silent_millis: elapsed_millis.saturating_sub(self.heard_millis.load(Relaxed)),
        }
    }

    /// Milliseconds since the job started.
    pub fn elapsed_millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Tells other processes where the job stands, and heeds one that wants it to end.
    fn notify(&self, post: impl FnOnce() -> Box<dyn Notice>) {
        let mut noticed = lock(&self.noticed);
        if let Noticed::Nowhere = *noticed {
            *noticed = Noticed::At(post());
        }
        if let Noticed::At(notice) = &mut *noticed
            && notice.tell(&self.status())
        {
            self.cancel.set();
        }
    }
}

static RUNNING: Mutex<BTreeMap<String, Arc<Job>>> = Mutex::new(BTreeMap::new());
static STARTED: Condvar = Condvar::new();
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
        *lock(&self.0.noticed) = Noticed::NoMore;
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
    let cancel = Cancel::default();
    let works_for = WorkFor::job(repository, vm_name.as_deref().unwrap_or_default(), cancel.clone());
    let id = id.unwrap_or_else(|| format!("{operation}-{}-{}", std::process::id(), MADE.fetch_add(1, Relaxed)));
    let mut running = lock(&RUNNING);
    if running.contains_key(&id) {
        return Err(Error::invalid("job", format!("'{id}' is running already")));
    }
    watched::has_begun(operation, vm_name.as_deref());
    let job = Arc::new(Job {
        id: id.clone(),
        operation,
        vm_name,
        phase: Mutex::new(Phase::Start),
        done: AtomicU64::new(0),
        total: AtomicU64::new(0),
        speed: Mutex::default(),
        started: Instant::now(),
        heard_millis: AtomicU64::new(0),
        cancel,
        noticed: Mutex::default(),
    });
    running.insert(id, job.clone());
    STARTED.notify_all();
    Ok(JobGuard(job, works_for))
}

/// Waits until a job runs.
pub fn wait_for_any() {
    let running = lock(&RUNNING);
    drop(STARTED.wait_while(running, |running| running.is_empty()).unwrap_or_else(PoisonError::into_inner));
}

/// Tells other processes of each job that has run for `age`, by what `post` makes for it, and cancels those that they want to end.
pub fn notify_all(age: Duration, post: impl Fn() -> Box<dyn Notice>) {
    let jobs: Vec<_> = lock(&RUNNING).values().filter(|job| job.started.elapsed() >= age).cloned().collect();
    jobs.iter().for_each(|job| job.notify(&post));
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
        job.cancel.set();
    }
    job.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

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

    #[derive(Debug)]
    struct Board(Arc<AtomicU64>);

    impl Notice for Board {
        fn tell(&mut self, status: &JobStatus) -> bool {
            self.0.store(status.done_bytes, Relaxed);
            status.done_bytes == 2
        }
    }

    impl Drop for Board {
        fn drop(&mut self) {
            self.0.store(99, Relaxed);
        }
    }

    #[test]
    fn others_are_told_of_a_job_until_it_ends_and_can_stop_it() {
        let job = start("noticed").unwrap();
        let seen = Arc::new(AtomicU64::new(0));
        let board = || -> Box<dyn Notice> { Box::new(Board(seen.clone())) };
        job.progress(1, 2);
        notify_all(Duration::from_secs(3600), board);
        assert_eq!(seen.load(Relaxed), 0, "it is too young");
        let shared = job.share();
        shared.notify(board);
        assert!(seen.load(Relaxed) == 1 && !job.is_cancelled());
        job.progress(2, 2);
        shared.notify(board);
        assert!(seen.load(Relaxed) == 2 && job.is_cancelled());
        drop(job);
        assert_eq!(seen.load(Relaxed), 99);
        shared.notify(board);
        assert_eq!(seen.load(Relaxed), 99, "a thread that was left behind tells nothing");
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
