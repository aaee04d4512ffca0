//! The copy of all disks by a pool of threads, so that a NAS that answers slowly is asked for much at once. The caller's thread
//! reports progress, and leaves the pool behind if a storage does not answer.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::copier::Copier;
use super::disk::{PIECE, RestoredDisk};
use super::gate::Gate;
use super::paths::STEP;
use crate::engine::rate::Limiter;
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::operation::reading::Reading;
use crate::qcow2::Buffer;
use crate::work::background;
use crate::work::background::Background;
use crate::work::deadline;
use crate::work::job::Reporter;
use crate::work::phase::Phase;
use crate::work::side_by_side::begin_threads;

/// Threads that copy, each with a piece of its own.
const THREADS: usize = 16;

/// What the threads and the caller share.
#[derive(Debug)]
pub(super) struct Copying {
    pub(super) disks: Vec<RestoredDisk>,
    pub(super) limiter: Limiter,
    /// Each write to an output passes the gate. It is closed when the copy is to stop.
    gate: Arc<Gate>,
    /// The first failure.
    failed: Mutex<Option<Error>>,
    begun: Instant,
    /// When something was done last, in milliseconds since `begun`.
    active: AtomicU64,
}

/// What is known of a disk when it is finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Finished {
    /// Bytes that could not be compared.
    pub(super) unknown: u64,
    /// Milliseconds until the disk was durable.
    pub(super) millis: u64,
}

impl Copying {
    pub(super) fn new(disks: Vec<RestoredDisk>, limiter: Limiter) -> Copying {
        let (gate, failed) = (Arc::default(), Mutex::new(None));
        Copying { disks, limiter, gate, failed, begun: Instant::now(), active: AtomicU64::new(0) }
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// How long the outputs' storage is waited for after the copy has failed: less if it is the storage that does not answer.
    pub(super) fn storage_limit(&self) -> Duration {
        if self.gate.waits_for_storage(|| true) { limits::RESTORE_STOP } else { limits::STORAGE_LONG_STEP }
    }

    /// Notes that something was done; an error if the copy is to stop.
    fn note_activity(&self) -> Result<()> {
        self.active.store(self.elapsed(), Relaxed);
        self.gate.check("copy")
    }

    /// Adds to the error the outputs that were overwritten in part: they hold neither their former content nor the restored one.
    pub(super) fn add_lost_outputs(&self, error: Error) -> Error {
        let lost = self.disks.iter().filter(|disk| disk.device && disk.has_begun());
        let lost = lost.map(|disk| {
            let kept = disk.kept();
            let kept = kept
                .as_ref()
                .filter(|kept| kept.is_named())
                .map(|kept| format!(", and kept as '{}'", kept.path().display()));
            format!("; what '{}' held is overwritten{}", disk.paths.output(), kept.unwrap_or_default())
        });
        Error { cause: lost.fold(error.cause, |cause, lost| cause + &lost), ..error }
    }

    /// Removes the kept copies of outputs that were not overwritten. A thread that still makes such a copy gives it no name.
    pub(super) fn forget_kept(&self) -> Result<()> {
        let forget = |disk: &RestoredDisk| match disk.try_kept().as_deref_mut() {
            Some(Some(kept)) => kept.forget(),
            _ => Ok(()),
        };
        self.disks.iter().filter(|disk| !disk.has_begun()).map(forget).fold(Ok(()), Result::and)
    }

    /// Stops the copy, with this failure unless there was one before.
    fn fail(&self, error: Error) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.gate.close();
    }

    /// Runs `work` on `count` threads, each with its number, and waits for them.
    fn on_threads(&self, count: usize, work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
        let work = &work;
        thread::scope(|scope| {
            let run = move |number| work(number).unwrap_or_else(|error| self.fail(error));
            if let Err(error) = begin_threads(scope, "copy", count, run) {
                self.fail(error);
            }
        });
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }

    /// The disks that go to devices, or those that go to files, each with its position.
    fn disks_of_kind(&self, devices: bool) -> Vec<(usize, &RestoredDisk)> {
        self.disks.iter().enumerate().filter(|(_, disk)| disk.device == devices).collect()
    }

    /// Copies the disks by threads, each with memory for a piece. It is part of one buffer, so that two pieces share a huge page.
    fn copy_all(&self, disks: &[(usize, &RestoredDisk)]) -> Result<()> {
        let mut memory = Buffer::default();
        let made = memory.resize(THREADS * PIECE as usize);
        made.map_err(|error| Error::io(STEP, "memory for the pieces", error))?;
        let memory = Mutex::new(memory.chunks_exact_mut(PIECE as usize));
        self.on_threads(THREADS, |number| {
            let buffer = memory.lock().unwrap_or_else(PoisonError::into_inner).next();
            self.copy(number, disks, buffer.unwrap_or_default())
        })
    }

    /// The work of one thread. Each thread begins with another disk, and goes on until all are copied.
    fn copy(&self, number: usize, disks: &[(usize, &RestoredDisk)], buffer: &mut [u8]) -> Result<()> {
        let mut copier = Copier::new(&self.gate, buffer);
        let count = disks.len();
        for disk in (0..count).map(|i| disks[(i + number) % count].1) {
            copier.begin_disk(disk);
            loop {
                self.note_activity()?;
                let Some(work) = disk.next(&self.gate)? else { break };
                copier.copy_piece(disk, &work, &self.limiter, || self.note_activity())?;
            }
        }
        Ok(())
    }

    /// Runs `work` on each of the disks, however few threads could be started.
    fn with_each(
        &self,
        disks: &[(usize, &RestoredDisk)],
        work: impl Fn(usize, &RestoredDisk) -> Result<()> + Sync,
    ) -> Result<()> {
        let next = AtomicUsize::new(0);
        self.on_threads(disks.len().min(THREADS), |_| {
            while let Some((place, disk)) = disks.get(next.fetch_add(1, Relaxed)) {
                self.note_activity()?;
                work(*place, disk)?;
            }
            Ok(())
        })
    }

    /// Makes the outputs whole and durable.
    fn finish(&self, disks: &[(usize, &RestoredDisk)]) -> Result<Vec<(usize, Finished)>> {
        let finished = Mutex::new(Vec::new());
        self.with_each(disks, |place, disk| {
            let unknown = disk.finish(&self.gate)?;
            let told = Finished { unknown, millis: self.elapsed() };
            finished.lock().unwrap_or_else(PoisonError::into_inner).push((place, told));
            Ok(())
        })?;
        Ok(finished.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Copies all disks, and makes the outputs whole and durable. Devices, whose content is lost by that, come after all files; as these
/// may have taken hours, `may_go` is asked before. The point stays open by `reading` until no thread reads it any more.
pub(super) fn run(
    copy: &Arc<Copying>,
    reading: &Reading,
    may_go: impl Fn(&mut Reporter<'_>) -> Result<()>,
    job: &mut Reporter<'_>,
) -> Result<Vec<Finished>> {
    let mut all = Vec::new();
    for devices in [false, true] {
        if copy.disks_of_kind(devices).is_empty() {
            continue;
        }
        if devices {
            keep_replaced(copy, job)?;
            may_go(job)?;
        }
        let done = copy_and_sync(copy, devices, reading, job);
        // where a write hangs, a sync would hang, too
        let flush = |error| if copy.gate.is_used() { error } else { flush_devices(copy, error) };
        all.extend(if devices { done.map_err(flush)? } else { done? });
    }
    all.sort_unstable_by_key(|(place, _)| *place);
    Ok(all.into_iter().map(|(_, finished)| finished).collect())
}

/// Copies what devices hold, if it is to be kept, before one of them is written to.
fn keep_replaced(copy: &Arc<Copying>, job: &mut Reporter<'_>) -> Result<()> {
    const STEP: &str = Phase::KeepReplaced.as_str();
    if copy.disks_of_kind(true).iter().all(|(_, disk)| disk.kept().is_none()) {
        return Ok(());
    }
    job.begin(Phase::KeepReplaced)?;
    let ours = copy.clone();
    let work = move || {
        let _moved = ours.gate.move_data();
        ours.with_each(&ours.disks_of_kind(true), |_, disk| disk.make_kept_copy(&ours.gate, || ours.note_activity()))
    };
    // this asks the NAS for nothing
    wait_and_report(STEP, false, &background::start_for_the_host(STEP, work, || ())?, copy, || true, job)
}

/// Copies and finishes the disks that go to devices, or those that go to files.
fn copy_and_sync(
    copy: &Arc<Copying>,
    devices: bool,
    reading: &Reading,
    job: &mut Reporter<'_>,
) -> Result<Vec<(usize, Finished)>> {
    job.begin(Phase::Copy)?;
    let (ours, kept) = (copy.clone(), reading.clone());
    let work = move || {
        let (_held, disks) = (kept, ours.disks_of_kind(devices));
        ours.copy_all(&disks)
    };
    wait_and_report("copy", devices, &background::start("copy", work, || ())?, copy, || reading.answers(), job)?;
    job.begin(Phase::Sync)?;
    let (ours, kept) = (copy.clone(), reading.clone());
    let work = move || {
        let (_held, disks) = (kept, ours.disks_of_kind(devices));
        ours.finish(&disks)
    };
    wait_and_report(
        "sync",
        devices,
        &background::start_for_the_host("sync", work, || ())?,
        copy,
        || reading.answers(),
        job,
    )
}

/// Syncs the devices after a failure, before the caller is told: else late writes could land on top of what the next user writes.
fn flush_devices(copy: &Arc<Copying>, error: Error) -> Error {
    let ours = copy.clone();
    let flush = move || ours.disks_of_kind(true).into_iter().try_for_each(|(_, disk)| disk.sync());
    match deadline::bounded_for_host("sync", limits::STORAGE_STEP, flush) {
        Ok(()) => error,
        Err(stuck) => {
            error.with_leftover(format!("what was written to the devices, and may reach them later: {stuck}"))
        }
    }
}

/// The error of a copy in which nothing was done for so long.
fn stall_error(step: &'static str, idle: Duration, writing: bool) -> Error {
    let (code, what) = if writing {
        (Code::Io, "the outputs' storage does not answer")
    } else {
        (Code::NasUnresponsive, "nothing was done")
    };
    Error::new(code, step, format!("{what} for {} s", idle.as_secs()))
}

/// Describes the call that is left behind, and what it may still do.
fn describe_leftover(writing: bool, devices: &[&str]) -> String {
    match (writing, devices) {
        (true, []) => "a call that the outputs' storage does not answer".into(),
        (true, _) => format!("a write to one of {devices:?} that is not answered, and may still be made"),
        (false, []) => "a read that the NAS does not answer".into(),
        (false, _) => {
            format!("a read that the NAS does not answer: it holds {devices:?} open, and writes nothing any more")
        }
    }
}

/// Leaves the threads behind, counted for the storage that does not answer. Returns a description of the call that hangs.
fn leave_behind<T>(work: &Background<T>, copy: &Copying, devices: bool, nas_answers: impl Fn() -> bool) -> String {
    let storage = copy.gate.waits_for_storage(nas_answers);
    if storage {
        work.leave_to_the_host();
    } else {
        work.leave_to_the_nas();
    }
    let devices = if devices { copy.disks_of_kind(true) } else { Vec::new() };
    describe_leftover(storage, &devices.into_iter().map(|(_, disk)| disk.paths.output()).collect::<Vec<_>>())
}

/// Waits for the work's result, and reports progress meanwhile.
fn wait_and_report<T>(
    step: &'static str,
    devices: bool,
    work: &Background<T>,
    copy: &Copying,
    nas_answers: impl Fn() -> bool,
    job: &mut Reporter<'_>,
) -> Result<T> {
    let total = copy.disks.iter().map(|disk| disk.guest).sum();
    copy.active.store(copy.elapsed(), Relaxed);
    loop {
        let ended = work.wait(limits::CALLER_LOOK);
        job.progress(copy.disks.iter().map(|disk| disk.done.guest.load(Relaxed)).sum(), total);
        if let Some(result) = ended {
            return result;
        }
        let idle = Duration::from_millis(copy.elapsed().saturating_sub(copy.active.load(Relaxed)));
        let stalled = || stall_error(step, idle, copy.gate.waits_for_storage(&nas_answers));
        let told = job.tell().and_then(|()| {
            if idle > limits::within(step, limits::STORAGE_LONG_STEP) { Err(stalled()) } else { Ok(()) }
        });
        if let Err(error) = told {
            copy.gate.close();
            if work.wait(limits::within(step, limits::RESTORE_STOP)).is_some() || work.has_ended() {
                return Err(error);
            }
            return Err(error.with_leftover(leave_behind(work, copy, devices, nas_answers)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::tests::{device, is_being_finished};
    use super::*;
    use crate::engine::rate::Rate;
    use crate::nas::repository::Repository;
    use crate::work::job;

    #[test]
    fn a_sync_that_takes_its_time_can_be_cancelled() {
        let nas = Repository { kind: Some("dir".into()), address: Some("/nas".into()), ..Repository::default() };
        let guard = job::start(None, "restorePoint", Repository::check(Some(nas)).unwrap(), None).unwrap();
        let mut told = 0;
        let mut listener = |status: &job::JobStatus| {
            told += 1;
            assert!(told < 2 || job::cancel(&status.job));
            Ok(())
        };
        let mut job = Reporter::new(guard, &mut listener).unwrap();
        let copy = Arc::new(Copying::new(vec![device(false)], Limiter::new(Rate::default())));
        let finishing = is_being_finished(&copy.disks[0]);
        let ours = copy.clone();
        let work = move || {
            while ours.gate.check("sync").is_ok() {
                thread::yield_now();
            }
            Ok(())
        };
        let work = background::start_for_the_host("sync", work, || ()).unwrap();
        let error = wait_and_report("sync", true, &work, &copy, || true, &mut job).unwrap_err();
        assert_eq!((error.code, error.leftovers), (Code::Cancelled, false), "{error}");
        drop(finishing);
    }

    #[test]
    fn a_storage_that_does_not_answer_is_not_taken_for_the_nas() {
        for (writing, code) in [(true, Code::Io), (false, Code::NasUnresponsive)] {
            assert_eq!(stall_error("copy", limits::STORAGE_LONG_STEP, writing).code, code);
        }
        for (writing, devices, words) in [
            (true, &[][..], "storage"),
            (false, &[], "NAS"),
            (true, &["/dev/a"], "\"/dev/a\"] that is not answered, and may still be made"),
            (false, &["/dev/a"], "holds [\"/dev/a\"] open, and writes nothing any more"),
        ] {
            assert!(describe_leftover(writing, devices).contains(words), "{}", describe_leftover(writing, devices));
        }
    }

    /// A failure shows where a user may have few threads: `setpriv --reuid 61234 --clear-groups prlimit --nproc=12`.
    #[test]
    fn each_device_is_kept_before_one_is_written_to_however_few_threads_there_are() {
        use super::super::kept::KeptCopy;
        use super::super::output_path::PointFolders;
        use crate::nas::folder::Folder;
        let (dir, points) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = Folder::open_root(points.path()).unwrap();
        let points = PointFolders::of(&root, &root).unwrap();
        let disks: Vec<_> = (0..24).map(|_| device(false)).collect();
        for disk in &disks {
            disk.set_kept_copy(KeptCopy::make(dir.path().to_str().unwrap(), "v", &points).unwrap());
        }
        let nas = Repository { kind: Some("dir".into()), address: Some("/nas".into()), ..Repository::default() };
        let guard = job::start(None, "restorePoint", Repository::check(Some(nas)).unwrap(), None).unwrap();
        let mut listener = |_: &job::JobStatus| Ok(());
        let mut job = Reporter::new(guard, &mut listener).unwrap();
        let copy = Arc::new(Copying::new(disks, Limiter::new(Rate::default())));
        let kept = keep_replaced(&copy, &mut job);
        let missing = copy.disks.iter().filter(|disk| !disk.kept().as_ref().unwrap().is_named()).count();
        assert!(kept.is_err() || missing == 0, "{missing} of 24 devices are not kept, and are written to next");
    }
}
