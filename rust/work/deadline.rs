//! Work with a time limit. A call into a NAS or a QEMU that hangs can't be ended, only left behind on its own thread. The library
//! counts the threads left behind for each repository and each guest and limits them, so that one NAS or QEMU that never
//! answers does not use up the threads of the others.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Code, Error, Result};
use crate::limits;
use crate::panics::caught;
use crate::second_table;
use crate::work::steps;

/// The most threads that may be left behind for one repository, or for one guest.
const MOST_OF_ONE: usize = 16;
/// If so many threads are left behind in all, only owners without one of their own may start more.
const MOST: usize = 64;

static NAS: WaitKind =
    WaitKind { code: Code::NasUnresponsive, owner_of: |owner| &owner.repository, stuck_threads: StuckThreads::new() };
static QUESTIONS: WaitKind =
    WaitKind { code: Code::Libvirt, owner_of: |owner| &owner.guest, stuck_threads: StuckThreads::new() };
static STORAGE: WaitKind =
    WaitKind { code: Code::NasUnresponsive, owner_of: |owner| &owner.guest, stuck_threads: StuckThreads::new() };
static DISKS: WaitKind =
    WaitKind { code: Code::Io, owner_of: |owner| &owner.guest, stuck_threads: StuckThreads::new() };

/// What a thread may wait for.
struct WaitKind {
    /// The code of the error when there is no answer.
    code: Code,
    owner_of: fn(&WorkOwner) -> &Arc<str>,
    stuck_threads: StuckThreads,
}

/// Whether somebody has cancelled a job. Clones are of the same job.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// That of the job that this thread works for.
    pub fn of_job() -> Cancel {
        OWNER.with_borrow(|owner| owner.cancel.clone())
    }

    /// The job is to end.
    pub fn set(&self) {
        self.0.store(true, Relaxed);
    }

    /// Is the job to end?
    pub fn is_set(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// `CANCELLED` once the job is to end.
    pub fn check(&self, step: &'static str) -> Result<()> {
        if self.is_set() { Err(Error::new(Code::Cancelled, step, "the caller cancelled the job")) } else { Ok(()) }
    }
}

/// The repository, the guest and the job that a thread works for.
#[derive(Debug, Clone, Default)]
struct WorkOwner {
    repository: Arc<str>,
    guest: Arc<str>,
    cancel: Cancel,
}

thread_local! {
    static OWNER: RefCell<WorkOwner> = RefCell::default();
}

/// Until the drop of this value, this thread, and those that it begins here, work for the repository and guest that it names.
#[derive(Debug)]
#[must_use]
pub struct WorkFor {
    before: WorkOwner,
    // the drop has to run on this thread
    _not_send: std::marker::PhantomData<*const ()>,
}

impl WorkFor {
    /// Sets the repository, the guest, and what tells of a cancel.
    pub fn job(repository: impl ToString, guest: &str, cancel: Cancel) -> WorkFor {
        let owner = WorkOwner { repository: repository.to_string().into(), guest: guest.into(), cancel };
        WorkFor::begin(|_| owner)
    }

    /// Sets the repository, for work on the NAS.
    pub fn repository(repository: impl ToString) -> WorkFor {
        let repository = repository.to_string().into();
        WorkFor::begin(|before| WorkOwner { repository, ..before })
    }

    /// Sets the guest, for questions to libvirt and work on this host's disks.
    pub fn guest(guest: &str) -> WorkFor {
        let guest = guest.into();
        WorkFor::begin(|before| WorkOwner { guest, ..before })
    }

    fn begin(now: impl FnOnce(WorkOwner) -> WorkOwner) -> WorkFor {
        let before = OWNER.with_borrow(WorkOwner::clone);
        OWNER.set(now(before.clone()));
        WorkFor { before, _not_send: std::marker::PhantomData }
    }
}

impl Drop for WorkFor {
    fn drop(&mut self) {
        OWNER.set(std::mem::take(&mut self.before));
    }
}

thread_local! {
    static END: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Until the drop of this value, this thread waits for no step beyond the call's end, whatever the step's own limit.
#[derive(Debug)]
#[must_use]
pub struct CallEnds {
    before: Option<Instant>,
    // the drop has to run on this thread
    _not_send: std::marker::PhantomData<*const ()>,
}

impl CallEnds {
    /// The call ends at this moment.
    pub fn at(end: Instant) -> CallEnds {
        CallEnds { before: END.replace(Some(end)), _not_send: std::marker::PhantomData }
    }
}

impl Drop for CallEnds {
    fn drop(&mut self) {
        END.set(self.before);
    }
}

/// How long this thread waits for a step with this `limit`, within the call that the thread serves.
pub fn within_call(limit: Duration) -> Duration {
    END.get().map_or(limit, |end| {
        let least = limits::within("a step after the deadline", limits::STORAGE_STEP_AFTER_DEADLINE);
        limit.min(end.saturating_duration_since(Instant::now()).max(least))
    })
}

/// Wraps `work` for another thread, so that it counts for the repository and guest of this one.
pub fn keep_owner<T: 'static>(work: impl FnOnce() -> T + Send + 'static) -> impl FnOnce() -> T + Send + 'static {
    let owner = OWNER.with_borrow(WorkOwner::clone);
    #[cfg(any(test, feature = "test-hooks"))]
    let work = limits::inherited(second_table::of_the_same_pool(work));
    move || {
        OWNER.set(owner);
        work()
    }
}

/// The threads left behind, by repository or guest.
struct StuckThreads(Mutex<BTreeMap<Arc<str>, Stuck>>);

/// What was left behind for one owner.
#[derive(Default)]
struct Stuck {
    threads: usize,
    /// Work that was refused, until a thread comes back: what it holds may wait for an answer when it is dropped.
    refused: Vec<Box<dyn Send>>,
}

impl StuckThreads {
    const fn new() -> StuckThreads {
        StuckThreads(Mutex::new(BTreeMap::new()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Stuck>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of threads left behind for this owner.
    fn of(&self, owner: &str) -> usize {
        self.lock().get(owner).map_or(0, |own| own.threads)
    }

    /// The number of all threads left behind.
    fn all(&self) -> usize {
        self.lock().values().map(|own| own.threads).sum()
    }

    /// Gives the work back, or keeps it and fails if no more threads may start for this owner.
    fn admit<W: Send + 'static>(&self, owner: &str, work: W) -> Result<W, String> {
        let mut stuck = self.lock();
        let all = stuck.values().map(|own| own.threads).sum();
        match stuck.get_mut(owner) {
            Some(own) if !may_start(own.threads, all) => {
                own.refused.push(Box::new(work));
                Err(format!("{} earlier calls still wait for an answer, {all} in all", own.threads))
            }
            _ => Ok(work),
        }
    }

    fn take(&self, owner: &Arc<str>) {
        self.lock().entry(owner.clone()).or_default().threads += 1;
    }

    /// A thread has come back. It drops what was refused meanwhile, and counts as left behind until that is over.
    fn give_back(&self, owner: &Arc<str>) {
        loop {
            let mut stuck = self.lock();
            let Some(own) = stuck.get_mut(owner) else { return };
            let refused = std::mem::take(&mut own.refused);
            if refused.is_empty() {
                own.threads -= 1;
                if own.threads == 0 {
                    stuck.remove(owner);
                }
                return;
            }
            drop(stuck);
            drop_late("refused work", refused);
        }
    }
}

/// Drops what may call the NAS again, on a thread that nobody waits for.
fn drop_late(step: &str, late: impl Sized) {
    if catch_unwind(AssertUnwindSafe(|| drop(late))).is_err() {
        log::error!("{step}: the cleanup of a late result panicked");
    }
}

/// True if one more thread may start for an owner with `own` left behind, of `all`.
fn may_start(own: usize, all: usize) -> bool {
    own == 0 || (own < MOST_OF_ONE && all < MOST)
}

/// The number of threads that were given up on this repository and have not ended yet.
pub fn stuck(repository: impl ToString) -> usize {
    NAS.stuck_threads.of(&repository.to_string())
}

/// The number of threads of this process that were given up on anything and have not ended yet.
pub fn all_stuck() -> usize {
    [&NAS, &QUESTIONS, &STORAGE, &DISKS].map(|kind| kind.stuck_threads.all()).iter().sum()
}

/// Runs `work` on its own thread and waits for the result, after `limit` `NAS_UNRESPONSIVE`. A result that comes later is
/// dropped on that thread, so that guards in it clean up; a later error is logged. A panic in `work` is `INTERNAL`.
pub fn bounded<T: Send + 'static>(
    step: &'static str,
    limit: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    bounded_and_counted(&NAS, step, limit, work)
}

/// Like `bounded`, for what may be left behind at any moment: a cancel of the job ends the wait, too, with `CANCELLED`.
pub fn bounded_until_cancelled<T: Send + 'static>(
    step: &'static str,
    limit: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let cancel = Cancel::of_job();
    bounded_while(&NAS, step, limit, work, || cancel.check(step))
}

/// Like `bounded`, for what `free` has end soon: that is called again and again once the job is cancelled, and when nobody waits any
/// longer. Work that fails after a cancel is `CANCELLED`.
pub fn bounded_and_freed<T: Send + 'static>(
    step: &'static str,
    limit: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
    free: impl Fn(),
) -> Result<T> {
    wait_and_free(&NAS, step, limit, work, free)
}

/// The same for questions to libvirt.
pub fn ask_and_free<T: Send + 'static>(
    step: &'static str,
    limit: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
    free: impl Fn(),
) -> Result<T> {
    wait_and_free(&QUESTIONS, step, limit, work, free)
}

/// Like `bounded`, for questions to libvirt, which may hang with QEMU: fails with `LIBVIRT`.
pub fn ask<T: Send + 'static>(
    step: &'static str,
    limit: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    bounded_and_counted(&QUESTIONS, step, limit, work)
}

/// Like `bounded`, for work that waits for the guest's QEMU or the guest's own storage, and maybe for the NAS, too: fails with
/// `NAS_UNRESPONSIVE`, and counts for the guest and not for the repository.
pub fn bounded_for_guest<T: Send + 'static>(
    step: &'static str,
    limit: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    bounded_and_counted(&STORAGE, step, limit, work)
}

/// Like `bounded`, for work on the host's own disks: fails with `IO`.
pub fn bounded_for_host<T: Send + 'static>(
    step: &'static str,
    limit: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    bounded_and_counted(&DISKS, step, limit, work)
}

/// Open files of the NAS, held by a thread that must not wait: the drop leaves their close to another thread.
#[derive(Debug)]
pub struct NasFiles<T: Send + 'static>(Option<T>);

impl<T: Send> From<T> for NasFiles<T> {
    fn from(files: T) -> NasFiles<T> {
        NasFiles(Some(files))
    }
}

impl<T: Send> std::ops::Deref for NasFiles<T> {
    type Target = T;
    fn deref(&self) -> &T {
        match &self.0 {
            Some(files) => files,
            None => unreachable!("they are taken by the drop alone"),
        }
    }
}

impl<T: Send> Drop for NasFiles<T> {
    fn drop(&mut self) {
        let files = self.0.take();
        let close = move || {
            drop(files);
            Ok(())
        };
        if let Err(error) = bounded("close files of the NAS", limits::FILE_CLOSE, close) {
            log::debug!("{error}");
        }
    }
}

/// Work that runs in the background. The drop of this value before the work's end gives the work up, as after a time limit.
pub struct Background<T>(Arc<WorkSlot<T>>);

impl<T> std::fmt::Debug for Background<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Background").field(&self.0.lock().is_running()).finish()
    }
}

impl<T> Background<T> {
    /// Waits for the result, at most for `limit`; `None` if there is none yet, or it was taken before.
    pub fn wait(&self, limit: Duration) -> Option<Result<T>> {
        self.0.wait(limit)
    }

    /// Gives the work up, and counts it as waiting for the host's own disks.
    pub fn leave_to_the_host(&self) {
        self.0.give_up(&DISKS);
    }

    /// Gives the work up, and counts it as waiting for the NAS.
    pub fn leave_to_the_nas(&self) {
        self.0.give_up(&NAS);
    }

    /// True if the work has ended, whether or not its result was taken.
    pub fn has_ended(&self) -> bool {
        !self.0.lock().is_running()
    }
}

impl<T> Drop for Background<T> {
    fn drop(&mut self) {
        self.0.give_up(self.0.kind);
    }
}

/// Begins `work` on its own thread, as `bounded` does, and calls `ended` there when the result can be taken.
pub fn start<T: Send + 'static>(
    step: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
    ended: impl FnOnce() + Send + 'static,
) -> Result<Background<T>> {
    begin(&NAS, step, work, ended).map(Background)
}

/// Like `start`, for work that waits for the guest's disks.
pub fn start_for_the_guest<T: Send + 'static>(
    step: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
    ended: impl FnOnce() + Send + 'static,
) -> Result<Background<T>> {
    begin(&STORAGE, step, work, ended).map(Background)
}

/// Like `start`, for work on the host's own disks.
pub fn start_for_the_host<T: Send + 'static>(
    step: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
    ended: impl FnOnce() + Send + 'static,
) -> Result<Background<T>> {
    begin(&DISKS, step, work, ended).map(Background)
}

fn bounded_and_counted<T: Send + 'static>(
    kind: &'static WaitKind,
    step: &'static str,
    limit: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    bounded_while(kind, step, limit, work, || Ok(()))
}

fn wait_and_free<T: Send + 'static>(
    kind: &'static WaitKind,
    step: &'static str,
    limit: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
    free: impl Fn(),
) -> Result<T> {
    let cancel = Cancel::of_job();
    let free_if_cancelled = || {
        if cancel.is_set() {
            free();
        }
        Ok(())
    };
    bounded_while(kind, step, limit, work, free_if_cancelled).or_else(|error| {
        free();
        cancel.check(step).and(Err(error))
    })
}

/// Waits as long as `go_on` says so, too.
fn bounded_while<T: Send + 'static>(
    kind: &'static WaitKind,
    step: &'static str,
    limit: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
    go_on: impl Fn() -> Result<()>,
) -> Result<T> {
    let limit = limits::within(step, within_call(limit));
    let ours = begin(kind, step, work, || ())?;
    let until = Instant::now() + limit;
    let result = loop {
        let left = until.saturating_duration_since(Instant::now());
        if let Some(result) = ours.wait(left.min(limits::CALLER_LOOK)) {
            return result;
        }
        if let Err(ended) = go_on() {
            break ended;
        }
        if left.is_zero() {
            break no_answer(kind.code, step, limit);
        }
    };
    ours.give_up(kind);
    Err(result)
}

/// The error of a step that has not answered within `limit`.
pub(crate) fn no_answer(code: Code, step: &'static str, limit: Duration) -> Error {
    Error::new(code, step, format!("no answer for {} s", limit.as_secs()))
}

fn begin<T: Send + 'static>(
    kind: &'static WaitKind,
    step: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
    ended: impl FnOnce() + Send + 'static,
) -> Result<Arc<WorkSlot<T>>> {
    if second_table::is_here() {
        return Err(Error::new(Code::Internal, step, "the thread would have the NAS's files, and nothing else"));
    }
    let owner = OWNER.with_borrow(WorkOwner::clone);
    let admitted = kind.stuck_threads.admit((kind.owner_of)(&owner), (work, ended));
    let (work, ended) = admitted.map_err(|why| Error::new(kind.code, step, why))?;
    let ours = Arc::new(WorkSlot { state: Mutex::new(WorkState::Running), ended: Condvar::new(), kind, owner });
    let theirs = ours.clone();
    let work = keep_owner(move || {
        steps::at(step);
        let result = caught(work);
        steps::done(step);
        theirs.deliver(step, result);
        ended();
    });
    thread::Builder::new()
        .name(step.to_owned())
        .spawn(work)
        .map_err(|e| Error::new(Code::Io, step, format!("unable to start a thread - {e}")))?;
    Ok(ours)
}

struct WorkSlot<T> {
    state: Mutex<WorkState<T>>,
    ended: Condvar,
    kind: &'static WaitKind,
    /// The repository and guest that the work is for.
    owner: WorkOwner,
}

enum WorkState<T> {
    Running,
    Ended(Result<T>),
    Taken,
    /// Given up, and counted as waiting for this.
    GivenUp(&'static WaitKind),
}

impl<T> WorkState<T> {
    fn is_running(&self) -> bool {
        matches!(self, WorkState::Running)
    }
}

impl<T> WorkSlot<T> {
    fn lock(&self) -> MutexGuard<'_, WorkState<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, limit: Duration) -> Option<Result<T>> {
        let running = |state: &mut WorkState<T>| state.is_running();
        let (mut state, _) =
            self.ended.wait_timeout_while(self.lock(), limit, running).unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, WorkState::Taken) {
            WorkState::Ended(result) => Some(result),
            before => {
                *state = before;
                None
            }
        }
    }

    /// Gives the work up if it still runs: nobody waits for the result any more.
    fn give_up(&self, waits_for: &'static WaitKind) {
        let mut state = self.lock();
        if state.is_running() {
            *state = WorkState::GivenUp(waits_for);
            waits_for.stuck_threads.take((waits_for.owner_of)(&self.owner));
        }
    }

    fn deliver(&self, step: &'static str, result: Result<T>) {
        let mut state = self.lock();
        if state.is_running() {
            *state = WorkState::Ended(result);
            self.ended.notify_one();
            return;
        }
        let WorkState::GivenUp(waited_for) = *state else { return };
        drop(state);
        match &result {
            Ok(_) => log::warn!("{step}: the answer came after the library had given up waiting"),
            Err(error) => log::warn!("the error came after the library had given up waiting: {error}"),
        }
        // this thread counts as stuck until that is over
        drop_late(step, result);
        waited_for.stuck_threads.give_back((waited_for.owner_of)(&self.owner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const fn kind() -> WaitKind {
        WaitKind {
            code: Code::NasUnresponsive,
            owner_of: |owner| &owner.repository,
            stuck_threads: StuckThreads::new(),
        }
    }

    #[test]
    fn results_errors_and_panics_come_back() {
        assert_eq!(bounded("add", limits::STORAGE_STEP, || Ok(1 + 1)).unwrap(), 2);
        let error =
            bounded("fail", limits::STORAGE_STEP, || Err::<(), _>(Error::new(Code::Io, "inner", "x"))).unwrap_err();
        assert_eq!((error.code, error.step), (Code::Io, "inner"));
        let error = bounded("panic", limits::STORAGE_STEP, || -> Result<()> { panic!("the {}", "text") }).unwrap_err();
        assert_eq!((error.code, error.cause.as_str()), (Code::Internal, "panic: the text"));
    }

    #[test]
    fn a_limit_is_told_in_whole_seconds() {
        let error = no_answer(Code::Io, "read", Duration::from_secs_f64(82.753_035_379));
        assert_eq!((error.step, error.cause.as_str()), ("read", "no answer for 82 s"));
    }

    #[test]
    fn no_step_outlasts_its_call_and_each_gets_the_least() {
        let hour = Duration::from_secs(3600);
        assert_eq!(within_call(hour), hour);
        {
            let _ends = CallEnds::at(Instant::now() + 2 * limits::STORAGE_STEP);
            assert_eq!(within_call(limits::STORAGE_STEP), limits::STORAGE_STEP);
            assert!((limits::STORAGE_STEP..=2 * limits::STORAGE_STEP).contains(&within_call(hour)));
            {
                let _over = CallEnds::at(Instant::now());
                assert_eq!(
                    (within_call(hour), within_call(Duration::ZERO)),
                    (limits::STORAGE_STEP_AFTER_DEADLINE, Duration::ZERO)
                );
                // what it begins has a limit of its own, and may clear up when the call is over
                assert_eq!(bounded("deeper", hour, move || Ok(within_call(hour))).unwrap(), hour);
            }
            assert!(within_call(hour) >= limits::STORAGE_STEP);
        }
        assert_eq!(within_call(hour), hour);
    }

    #[test]
    fn late_work_is_given_up_and_its_result_dropped_on_its_thread() {
        struct Guard(mpsc::Sender<Option<String>>);
        impl Drop for Guard {
            fn drop(&mut self) {
                self.0.send(thread::current().name().map(str::to_owned)).unwrap();
            }
        }
        static HUNG: WaitKind = kind();
        let (release, wait) = mpsc::channel::<()>();
        let (dropped, drops) = mpsc::channel();
        let error = bounded_and_counted(&HUNG, "hang", Duration::from_millis(20), move || {
            wait.recv().unwrap();
            Ok(Guard(dropped))
        });
        let error = error.err().unwrap();
        assert_eq!((error.code, error.cause.as_str()), (Code::NasUnresponsive, "no answer for 0 s"));
        assert_eq!(HUNG.stuck_threads.of(""), 1);
        release.send(()).unwrap();
        assert_eq!(drops.recv().unwrap().as_deref(), Some("hang"));
        while HUNG.stuck_threads.of("") > 0 {
            thread::yield_now();
        }
    }

    #[test]
    fn what_may_be_left_behind_is_not_waited_for_once_the_job_is_cancelled() {
        let cancel = Cancel::default();
        let _on = WorkFor::job("nfs 'cancelled:/'", "", cancel.clone());
        let (release, wait) = mpsc::channel::<()>();
        let hang = move || {
            cancel.set();
            Ok(wait.recv().is_ok())
        };
        let error = bounded_until_cancelled("hang", Duration::from_secs(3600), hang).unwrap_err();
        assert_eq!((error.code, error.step), (Code::Cancelled, "hang"));
        assert_eq!(NAS.stuck_threads.of("nfs 'cancelled:/'"), 1);
        assert!(bounded("go on", limits::STORAGE_STEP, || Ok(Cancel::of_job().is_set())).unwrap());
        drop(release);
        while NAS.stuck_threads.of("nfs 'cancelled:/'") > 0 {
            thread::yield_now();
        }
    }

    #[test]
    fn work_in_the_background_is_taken_once_or_given_up() {
        let (release, wait) = mpsc::channel::<()>();
        let (told, ended) = mpsc::channel();
        let work = start("go on", move || Ok(wait.recv().is_ok()), move || told.send(()).unwrap()).unwrap();
        assert_eq!(work.wait(Duration::ZERO), None);
        release.send(()).unwrap();
        ended.recv().unwrap();
        assert_eq!((work.wait(Duration::ZERO), work.wait(Duration::ZERO)), (Some(Ok(true)), None));

        static HUNG: WaitKind = kind();
        let (release, wait) = mpsc::channel::<()>();
        let work = begin(&HUNG, "hang", move || Ok(wait.recv().is_ok()), || ()).unwrap();
        drop(Background(work));
        assert_eq!(HUNG.stuck_threads.of(""), 1);
        drop(release);
        while HUNG.stuck_threads.of("") > 0 {
            thread::yield_now();
        }
    }

    #[test]
    fn a_thread_left_behind_is_counted_for_what_it_waits_for() {
        let _on = WorkFor::job("nfs 'counted:/'", "i-2-12-VM", Cancel::default());
        type Leave = fn(&Background<bool>);
        let left: [(Leave, usize); 3] =
            [(Background::leave_to_the_host, 0), (Background::leave_to_the_nas, 1), (|_| (), 1)];
        for (leave, of_nas) in left {
            let (release, wait) = mpsc::channel::<()>();
            let work = start("copy", move || Ok(wait.recv().is_ok()), || ()).unwrap();
            leave(&work);
            drop(work);
            assert_eq!(
                (NAS.stuck_threads.of("nfs 'counted:/'"), DISKS.stuck_threads.of("i-2-12-VM")),
                (of_nas, 1 - of_nas)
            );
            drop(release);
            while NAS.stuck_threads.of("nfs 'counted:/'") + DISKS.stuck_threads.of("i-2-12-VM") > 0 {
                thread::yield_now();
            }
        }
    }

    #[test]
    fn an_owner_with_no_thread_left_behind_may_always_start_and_others_within_bounds() {
        for (own, all, expected) in [
            (0, 0, true),
            (0, MOST, true),
            (0, 10 * MOST, true),
            (1, 1, true),
            (1, MOST - 1, true),
            (1, MOST, false),
            (MOST_OF_ONE - 1, MOST_OF_ONE - 1, true),
            (MOST_OF_ONE, MOST_OF_ONE, false),
            (MOST_OF_ONE, MOST, false),
        ] {
            assert_eq!(may_start(own, all), expected, "{own} of {all}");
        }
    }

    #[test]
    fn an_owner_that_never_answers_uses_up_no_threads_of_others() {
        static HUNG: WaitKind = kind();
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let hang = || {
            let gate = gate.clone();
            bounded_and_counted(&HUNG, "hang", Duration::ZERO, move || {
                drop(gate.1.wait_while(gate.0.lock().unwrap(), |open| !*open).unwrap());
                Ok(())
            })
        };
        let works = || bounded_and_counted(&HUNG, "work", limits::STORAGE_STEP, || Ok(()));
        let hostile: Vec<_> = (0..MOST / MOST_OF_ONE).map(|n| format!("nfs 'hostile{n}:/'")).collect();
        for nas in &hostile {
            let _on = WorkFor::repository(nas);
            while HUNG.stuck_threads.of(nas) < MOST_OF_ONE {
                assert_eq!(hang().unwrap_err().cause, "no answer for 0 s");
            }
            assert_eq!(works().unwrap_err().cause.split(',').next(), Some("16 earlier calls still wait for an answer"));
        }
        // all there are for all together are taken
        let _on = WorkFor::repository("nfs 'well:/'");
        works().unwrap();
        assert_eq!(hang().unwrap_err().cause, "no answer for 0 s");
        assert_eq!(works().unwrap_err().cause, "1 earlier calls still wait for an answer, 65 in all");
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
        while !HUNG.stuck_threads.lock().is_empty() {
            thread::yield_now();
        }
        works().unwrap();
        let _on = WorkFor::repository(&hostile[0]);
        works().unwrap();
    }

    #[test]
    fn what_refused_work_holds_is_dropped_by_a_thread_that_comes_back() {
        #[derive(Debug)]
        struct Holds(mpsc::Sender<Option<String>>);
        impl Drop for Holds {
            fn drop(&mut self) {
                self.0.send(thread::current().name().map(str::to_owned)).unwrap();
            }
        }
        static HUNG: WaitKind = kind();
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        while HUNG.stuck_threads.of("") < MOST_OF_ONE {
            let gate = gate.clone();
            let hang = bounded_and_counted(&HUNG, "hang", Duration::ZERO, move || {
                drop(gate.1.wait_while(gate.0.lock().unwrap(), |open| !*open).unwrap());
                Ok(())
            });
            assert_eq!(hang.unwrap_err().cause, "no answer for 0 s");
        }
        let (dropped, drops) = mpsc::channel();
        let holds = Holds(dropped);
        let refused = bounded_and_counted(&HUNG, "use it", limits::STORAGE_STEP, move || Ok(holds));
        assert!(refused.unwrap_err().cause.starts_with("16 earlier calls"));
        assert_eq!(drops.try_recv(), Err(mpsc::TryRecvError::Empty), "its drop may hang, too");
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
        assert_eq!(drops.recv().unwrap().as_deref(), Some("hang"));
        while HUNG.stuck_threads.of("") > 0 {
            thread::yield_now();
        }
    }

    #[test]
    fn what_a_cancel_frees_ends_and_its_failure_is_the_cancel() {
        let cancel = Cancel::default();
        let _on = WorkFor::job("nfs 'freed:/'", "", cancel.clone());
        for (answer, expected) in [(true, None), (false, Some(Code::Cancelled))] {
            let (free, freed) = mpsc::channel();
            let cancel = cancel.clone();
            let work = move || {
                cancel.set();
                freed.recv().unwrap();
                if answer { Ok(()) } else { Err(Error::new(Code::Io, "work", "it was freed")) }
            };
            // no longer is anybody there to be told
            let result = bounded_and_freed("hang", Duration::from_secs(3600), work, || _ = free.send(()));
            assert_eq!(result.err().map(|error| error.code), expected);
        }
        assert_eq!(NAS.stuck_threads.of("nfs 'freed:/'"), 0);
    }

    #[test]
    fn work_that_a_thread_begins_counts_for_its_owner() {
        let owner = || OWNER.with_borrow(|owner| [&owner.repository, &owner.guest].map(ToString::to_string));
        let on = WorkFor::repository("nfs 'a:/'");
        let within = {
            let _for = WorkFor::guest("i-2-10-VM");
            let deeper = move || {
                bounded("outer", limits::STORAGE_STEP, move || {
                    bounded("inner", limits::STORAGE_STEP, move || Ok(owner()))
                })
            };
            deeper().unwrap()
        };
        assert_eq!(within, ["nfs 'a:/'", "i-2-10-VM"]);
        assert_eq!(owner(), ["nfs 'a:/'", ""]);
        drop(on);
        assert_eq!(bounded("of nobody", limits::STORAGE_STEP, move || Ok(owner())).unwrap(), ["", ""]);
    }

    #[test]
    fn a_thread_whose_job_has_ended_works_for_nobody() {
        let owner = || OWNER.with_borrow(|owner| [&owner.repository, &owner.guest].map(ToString::to_string));
        let job = crate::work::job::start(None, "takeBackup", "dir '/srv'", Some("i-2-11-VM".into())).unwrap();
        assert_eq!(owner(), ["dir '/srv'", "i-2-11-VM"]);
        drop(job);
        assert_eq!(owner(), ["", ""]);
    }
}
