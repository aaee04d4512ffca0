//! Work on the NAS with a time limit. A call into a hung NAS can't be ended, only left behind on a thread of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::error::{Code, Error, Result};
use crate::panics::caught;
use crate::steps;

/// How long an ordinary piece of work on the NAS may take.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Threads left behind at which no more are started.
const MAX_STUCK: usize = 64;

static STUCK: AtomicUsize = AtomicUsize::new(0);
static STUCK_QUESTIONS: AtomicUsize = AtomicUsize::new(0);
static STUCK_DISKS: AtomicUsize = AtomicUsize::new(0);

/// How many given-up pieces of work have not ended yet.
pub fn stuck() -> usize {
    STUCK.load(SeqCst)
}

/// Runs `work` on a thread of its own and waits for it no longer than `limit`: then `NAS_UNRESPONSIVE`.
/// A result that comes later is dropped on that thread, so that guards in it clean up; an error that comes later
/// is logged. A panic in `work` is `INTERNAL`.
pub fn bounded<T: Send + 'static>(
    step: &'static str,
    limit: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    bounded_and_counted(&STUCK, Code::NasUnresponsive, step, limit, work)
}

/// The same for questions to libvirt, which fail with `LIBVIRT`: they may hang with QEMU, whatever it waits for.
pub fn ask<T: Send + 'static>(
    step: &'static str,
    limit: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    bounded_and_counted(&STUCK_QUESTIONS, Code::Libvirt, step, limit, work)
}

/// The same for the host's own disks, which fail with `IO`.
pub fn of_the_host<T: Send + 'static>(
    step: &'static str,
    limit: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    bounded_and_counted(&STUCK_DISKS, Code::Io, step, limit, work)
}

/// Work that goes on while whoever began it does something else. Dropped before its end, it is given up as if it had been
/// waited for in vain.
pub struct Background<T>(Arc<Slot<T>>);

impl<T> std::fmt::Debug for Background<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Background").field(&self.0.lock().is_running()).finish()
    }
}

impl<T> Background<T> {
    /// Waits for the result, at most for `limit`; `None` when there is none yet, or it was taken before.
    pub fn wait(&self, limit: Duration) -> Option<Result<T>> {
        self.0.wait(limit)
    }

    /// Is it over, whether or not its result was taken?
    pub fn has_ended(&self) -> bool {
        !self.0.lock().is_running()
    }
}

impl<T> Drop for Background<T> {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

/// Begins `work` on a thread of its own, as `bounded` does, and calls `ended` there when its result can be taken.
pub fn start<T: Send + 'static>(
    step: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
    ended: impl FnOnce() + Send + 'static,
) -> Result<Background<T>> {
    begin(&STUCK, Code::NasUnresponsive, step, work, ended).map(Background)
}

fn bounded_and_counted<T: Send + 'static>(
    stuck: &'static AtomicUsize,
    code: Code,
    step: &'static str,
    limit: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let ours = begin(stuck, code, step, work, || ())?;
    let result = ours.wait(limit);
    ours.give_up();
    result.unwrap_or_else(|| Err(Error::new(code, step, format!("no answer for {} s", limit.as_secs_f64()))))
}

fn begin<T: Send + 'static>(
    stuck: &'static AtomicUsize,
    code: Code,
    step: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
    ended: impl FnOnce() + Send + 'static,
) -> Result<Arc<Slot<T>>> {
    let waiting = stuck.load(SeqCst);
    if waiting >= MAX_STUCK {
        let cause = format!("{waiting} earlier calls still wait for an answer");
        return Err(Error::new(code, step, cause));
    }
    let ours = Arc::new(Slot { state: Mutex::new(State::Running), ended: Condvar::new(), stuck });
    let theirs = ours.clone();
    let work = move || {
        steps::at(step);
        let result = caught(work);
        steps::done(step);
        theirs.deliver(step, result);
        ended();
    };
    thread::Builder::new()
        .name(step.to_owned())
        .spawn(work)
        .map_err(|e| Error::new(Code::Io, step, format!("unable to start a thread - {e}")))?;
    Ok(ours)
}

struct Slot<T> {
    state: Mutex<State<T>>,
    ended: Condvar,
    stuck: &'static AtomicUsize,
}

enum State<T> {
    Running,
    Ended(Result<T>),
    Taken,
    GivenUp,
}

impl<T> State<T> {
    fn is_running(&self) -> bool {
        matches!(self, State::Running)
    }
}

impl<T> Slot<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, limit: Duration) -> Option<Result<T>> {
        let running = |state: &mut State<T>| state.is_running();
        let (mut state, _) =
            self.ended.wait_timeout_while(self.lock(), limit, running).unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, State::Taken) {
            State::Ended(result) => Some(result),
            before => {
                *state = before;
                None
            }
        }
    }

    /// Nobody wants the result any more.
    fn give_up(&self) {
        let mut state = self.lock();
        if state.is_running() {
            *state = State::GivenUp;
            self.stuck.fetch_add(1, SeqCst);
        }
    }

    fn deliver(&self, step: &'static str, result: Result<T>) {
        let mut state = self.lock();
        if state.is_running() {
            *state = State::Ended(result);
            self.ended.notify_one();
            return;
        }
        drop(state);
        match &result {
            Ok(_) => log::warn!("{step}: the answer came after it had been given up"),
            Err(error) => log::warn!("failed after it had been given up: {error}"),
        }
        // the drop may go to the NAS again, and until it is over this thread is still stuck
        if catch_unwind(AssertUnwindSafe(|| drop(result))).is_err() {
            log::error!("{step}: clearing up after it had been given up panicked");
        }
        self.stuck.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn results_errors_and_panics_come_back() {
        assert_eq!(bounded("add", LIMIT, || Ok(1 + 1)).unwrap(), 2);
        let error = bounded("fail", LIMIT, || Err::<(), _>(Error::new(Code::Io, "inner", "x"))).unwrap_err();
        assert_eq!((error.code, error.step), (Code::Io, "inner"));
        let error = bounded("panic", LIMIT, || -> Result<()> { panic!("the {}", "text") }).unwrap_err();
        assert_eq!((error.code, error.cause.as_str()), (Code::Internal, "panic: the text"));
    }

    #[test]
    fn late_work_is_given_up_and_its_result_dropped_over_there() {
        struct Guard(mpsc::Sender<Option<String>>);
        impl Drop for Guard {
            fn drop(&mut self) {
                self.0.send(thread::current().name().map(str::to_owned)).unwrap();
            }
        }
        static STUCK: AtomicUsize = AtomicUsize::new(0);
        let (release, wait) = mpsc::channel::<()>();
        let (dropped, drops) = mpsc::channel();
        let error = bounded_and_counted(&STUCK, Code::NasUnresponsive, "hang", Duration::from_millis(20), move || {
            wait.recv().unwrap();
            Ok(Guard(dropped))
        });
        let error = error.err().unwrap();
        assert_eq!((error.code, error.cause.as_str()), (Code::NasUnresponsive, "no answer for 0.02 s"));
        assert_eq!(STUCK.load(SeqCst), 1);
        release.send(()).unwrap();
        assert_eq!(drops.recv().unwrap().as_deref(), Some("hang"));
        while STUCK.load(SeqCst) > 0 {
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

        static STUCK: AtomicUsize = AtomicUsize::new(0);
        let (release, wait) = mpsc::channel::<()>();
        let work = begin(&STUCK, Code::NasUnresponsive, "hang", move || Ok(wait.recv().is_ok()), || ()).unwrap();
        drop(Background(work));
        assert_eq!(STUCK.load(SeqCst), 1);
        drop(release);
        while STUCK.load(SeqCst) > 0 {
            thread::yield_now();
        }
    }

    #[test]
    fn no_more_threads_are_left_behind_than_the_limit() {
        static STUCK: AtomicUsize = AtomicUsize::new(0);
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let hang = || {
            let gate = gate.clone();
            bounded_and_counted(&STUCK, Code::NasUnresponsive, "hang", Duration::ZERO, move || {
                drop(gate.1.wait_while(gate.0.lock().unwrap(), |open| !*open).unwrap());
                Ok(())
            })
        };
        while STUCK.load(SeqCst) < MAX_STUCK {
            assert_eq!(hang().unwrap_err().code, Code::NasUnresponsive);
        }
        assert!(hang().unwrap_err().cause.contains("earlier calls"));
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
        while STUCK.load(SeqCst) > 0 {
            thread::yield_now();
        }
        assert!(bounded_and_counted(&STUCK, Code::NasUnresponsive, "works again", LIMIT, || Ok(())).is_ok());
    }
}
