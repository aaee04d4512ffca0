//! Threads left behind, because what they wait for does not answer. They are counted for each repository and each guest, and limited,
//! so that one NAS or QEMU that never answers does not use up the threads of the others.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::owner::WorkOwner;
use crate::error::Code;

/// The most threads that may be left behind for one repository, or for one guest.
const MOST_OF_ONE: usize = 16;
/// If so many threads are left behind in all, only owners without one of their own may start more.
const MOST: usize = 64;

/// Answers of the NAS.
pub(super) static NAS: WaitKind = WaitKind::new(Code::NasUnresponsive, |owner| &owner.repository);
/// Answers of libvirt.
pub(super) static QUESTIONS: WaitKind = WaitKind::new(Code::Libvirt, |owner| &owner.guest);
/// The guest's QEMU, or its own storage, and maybe the NAS, too.
pub(super) static STORAGE: WaitKind = WaitKind::new(Code::NasUnresponsive, |owner| &owner.guest);
/// The host's own disks.
pub(super) static DISKS: WaitKind = WaitKind::new(Code::Io, |owner| &owner.guest);

/// What a thread may wait for.
pub(super) struct WaitKind {
    /// The code of the error when there is no answer.
    pub code: Code,
    pub owner_of: fn(&WorkOwner) -> &Arc<str>,
    pub stuck_threads: StuckThreads,
}

impl WaitKind {
    pub(super) const fn new(code: Code, owner_of: fn(&WorkOwner) -> &Arc<str>) -> WaitKind {
        WaitKind { code, owner_of, stuck_threads: StuckThreads::new() }
    }
}

/// The threads left behind, by repository or guest.
pub(super) struct StuckThreads(Mutex<BTreeMap<Arc<str>, Stuck>>);

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
    pub(super) fn of(&self, owner: &str) -> usize {
        self.lock().get(owner).map_or(0, |own| own.threads)
    }

    /// The number of all threads left behind.
    fn all(&self) -> usize {
        self.lock().values().map(|own| own.threads).sum()
    }

    /// Gives the work back, or keeps it and fails if no more threads may start for this owner.
    pub(super) fn admit<W: Send + 'static>(&self, owner: &str, work: W) -> Result<W, String> {
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

    pub(super) fn take(&self, owner: &Arc<str>) {
        self.lock().entry(owner.clone()).or_default().threads += 1;
    }

    /// A thread has come back. It drops what was refused meanwhile, and counts as left behind until that is over.
    pub(super) fn give_back(&self, owner: &Arc<str>) {
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
pub(super) fn drop_late(step: &str, late: impl Sized) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Condvar, mpsc};
    use std::thread;
    use std::time::Duration;

    use crate::limits;
    use crate::work::deadline::bounded_and_counted;
    use crate::work::owner::WorkFor;

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
        static HUNG: WaitKind = WaitKind::new(Code::NasUnresponsive, |owner| &owner.repository);
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
        static HUNG: WaitKind = WaitKind::new(Code::NasUnresponsive, |owner| &owner.repository);
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
}
