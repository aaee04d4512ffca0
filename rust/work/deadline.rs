//! Questions with a time limit. A call into a NAS or a QEMU that hangs can't be ended, only left behind on its own thread.

use std::time::{Duration, Instant};

use super::background::begin;
use super::call_end::within_call;
use super::owner::Cancel;
use super::stuck::{DISKS, NAS, QUESTIONS, STORAGE, WaitKind};
use crate::error::{Code, Error, Result};
use crate::limits;

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

/// Like `bounded_and_freed`, for questions to libvirt.
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

pub(super) fn bounded_and_counted<T: Send + 'static>(
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    use crate::work::owner::WorkFor;

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
    fn late_work_is_given_up_and_its_result_dropped_on_its_thread() {
        struct Guard(mpsc::Sender<Option<String>>);
        impl Drop for Guard {
            fn drop(&mut self) {
                self.0.send(thread::current().name().map(str::to_owned)).unwrap();
            }
        }
        static HUNG: WaitKind = WaitKind::new(Code::NasUnresponsive, |owner| &owner.repository);
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
}
