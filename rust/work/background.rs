//! Work on a thread of its own, whose result is taken when it is there, or which is given up.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::owner::{WorkOwner, keep_owner};
use super::steps;
use super::stuck::{DISKS, NAS, STORAGE, WaitKind, drop_late};
use crate::error::{Code, Error, Result};
use crate::panics::caught;
use crate::second_table;

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

pub(super) fn begin<T: Send + 'static>(
    kind: &'static WaitKind,
    step: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
    ended: impl FnOnce() + Send + 'static,
) -> Result<Arc<WorkSlot<T>>> {
    if second_table::is_here() {
        return Err(Error::new(Code::Internal, step, "the thread would have the NAS's files, and nothing else"));
    }
    let owner = WorkOwner::current();
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

pub(super) struct WorkSlot<T> {
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

    pub(super) fn wait(&self, limit: Duration) -> Option<Result<T>> {
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
    pub(super) fn give_up(&self, waits_for: &'static WaitKind) {
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

    use crate::work::owner::{Cancel, WorkFor};

    #[test]
    fn work_in_the_background_is_taken_once_or_given_up() {
        let (release, wait) = mpsc::channel::<()>();
        let (told, ended) = mpsc::channel();
        let work = start("go on", move || Ok(wait.recv().is_ok()), move || told.send(()).unwrap()).unwrap();
        assert_eq!(work.wait(Duration::ZERO), None);
        release.send(()).unwrap();
        ended.recv().unwrap();
        assert_eq!((work.wait(Duration::ZERO), work.wait(Duration::ZERO)), (Some(Ok(true)), None));

        static HUNG: WaitKind = WaitKind::new(Code::NasUnresponsive, |owner| &owner.repository);
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
}
