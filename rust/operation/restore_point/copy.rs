//! The copy: a pool of threads over all disks, so that a NAS that answers slowly is asked for much at once. Whoever waits for
//! it tells of progress, and leaves it behind if the NAS does not answer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::disk::{Disk, Room};
use crate::engine::rate::Limiter;
use crate::error::{Code, Error, Result};
use crate::job::Reporter;
use crate::nas::deadline::{self, Background};

/// Threads that copy, each with a piece of its own.
const THREADS: usize = 16;
/// Between two reports.
const TICK: Duration = Duration::from_millis(100);
/// With nothing done for so long, a sync included, nobody answers any more.
const LIMIT: Duration = Duration::from_secs(600);
/// What was told to stop is given so long for it.
const STOP: Duration = Duration::from_secs(10);

/// What the threads and whoever waits for them share.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) disks: Vec<Disk>,
    pub(super) limiter: Limiter,
    stopped: AtomicBool,
    /// The first failure.
    failed: Mutex<Option<Error>>,
    begun: Instant,
    /// When something was done last, in milliseconds.
    active: AtomicU64,
}

/// What one disk was, at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Finished {
    /// Bytes that could not be compared.
    pub(super) unknown: u64,
    /// Milliseconds until it was durable.
    pub(super) millis: u64,
}

impl Copy {
    pub(super) fn new(disks: Vec<Disk>, limiter: Limiter) -> Copy {
        let (stopped, failed) = (AtomicBool::new(false), Mutex::new(None));
        Copy { disks, limiter, stopped, failed, begun: Instant::now(), active: AtomicU64::new(0) }
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Something was done, and more may be.
    fn go_on(&self) -> Result<()> {
        self.active.store(self.elapsed(), Relaxed);
        if self.stopped.load(Relaxed) {
            return Err(Error::new(Code::Cancelled, "copy", "it was told to stop"));
        }
        Ok(())
    }

    /// Ends all with this failure, unless there was one before.
    fn fail(&self, error: Error) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.stopped.store(true, Relaxed);
    }

    /// Runs `work` on so many threads of their own, each with its number, and waits for them.
    fn on_threads(&self, count: usize, work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
        let work = &work;
        thread::scope(|scope| {
            for number in 0..count {
                let run = move || work(number).unwrap_or_else(|error| self.fail(error));
                if let Err(error) = thread::Builder::new().name(format!("restore {number}")).spawn_scoped(scope, run) {
                    // those that are there do it
                    log::warn!("no more than {number} threads copy - {error}");
                    if number == 0 {
                        self.fail(Error::new(Code::Io, "copy", format!("unable to start a thread - {error}")));
                    }
                    break;
                }
            }
        });
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }

    /// One of the threads: each begins with another disk, and ends with the last one.
    fn copy(&self, number: usize) -> Result<()> {
        let mut room = Room::default();
        let count = self.disks.len();
        for disk in (0..count).map(|i| &self.disks[(i + number) % count]) {
            disk.enter(&mut room);
            loop {
                self.go_on()?;
                let Some(work) = disk.next()? else { break };
                disk.perform(&work, &mut room, &self.limiter, || self.go_on())?;
            }
        }
        Ok(())
    }

    fn finish(&self) -> Result<Vec<Finished>> {
        let finished: Vec<_> = self.disks.iter().map(|_| Mutex::new(None)).collect();
        let next = AtomicU64::new(0);
        self.on_threads(self.disks.len().min(THREADS), |_| {
            while let Some((disk, told)) =
                usize::try_from(next.fetch_add(1, Relaxed)).ok().and_then(|i| self.disks.get(i).zip(finished.get(i)))
            {
                self.go_on()?;
                let unknown = disk.finish()?;
                let told_of = Finished { unknown, millis: self.elapsed() };
                *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(told_of);
            }
            Ok(())
        })?;
        let taken = finished.into_iter().map(|told| told.into_inner().unwrap_or_else(PoisonError::into_inner));
        let none = || Error::new(Code::Internal, "sync", "a disk was passed over");
        taken.map(|told| told.ok_or_else(none)).collect()
    }
}

/// Copies all disks, and makes them whole and durable. `held` is kept until nothing of it runs any more.
pub(super) fn run(
    copy: &Arc<Copy>,
    held: &(impl Clone + Send + 'static),
    job: &mut Reporter<'_>,
) -> Result<Vec<Finished>> {
    job.begin("copy")?;
    let (ours, kept) = (copy.clone(), held.clone());
    let work = move || {
        let _held = kept;
        ours.on_threads(THREADS, |number| ours.copy(number))
    };
    attend("copy", &deadline::start("copy", work, || ())?, copy, job)?;
    job.begin("sync")?;
    let (ours, kept) = (copy.clone(), held.clone());
    let work = move || {
        let _held = kept;
        ours.finish()
    };
    attend("sync", &deadline::start("sync", work, || ())?, copy, job)
}

/// Waits for the result, and tells of progress meanwhile.
fn attend<T>(step: &'static str, work: &Background<T>, copy: &Copy, job: &mut Reporter<'_>) -> Result<T> {
    let total = copy.disks.iter().map(Disk::size).sum();
    copy.active.store(copy.elapsed(), Relaxed);
    loop {
        let ended = work.wait(TICK);
        job.progress(copy.disks.iter().map(|disk| disk.done.guest.load(Relaxed)).sum(), total);
        if let Some(result) = ended {
            return result;
        }
        let idle = Duration::from_millis(copy.elapsed().saturating_sub(copy.active.load(Relaxed)));
        let stalled = || Error::new(Code::NasUnresponsive, step, format!("nothing was done for {} s", idle.as_secs()));
        let told = job.tell().and_then(|()| if idle > LIMIT { Err(stalled()) } else { Ok(()) });
        if let Err(error) = told {
            copy.stopped.store(true, Relaxed);
            let hangs = work.wait(STOP).is_none() && !work.has_ended();
            return Err(if hangs { error.with_leftover("a read that the NAS does not answer") } else { error });
        }
    }
}
