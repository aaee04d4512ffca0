//! Long work: it runs on a thread of its own and tells how far it is, and whoever began it waits, tells the job's
//! listener, and may end it. Work that says nothing for too long is left behind; it finds out when it wants to say something
//! again, and cleans up after itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use crate::error::{Code, Error, Result, Stopped};
use crate::limits;
use crate::work::background;
use crate::work::background::Background;
use crate::work::call_end;
use crate::work::deadline;
use crate::work::job::Reporter;
use crate::work::phase::Phase;
use crate::work::steps;

/// What the work sends to whoever waits.
enum Message {
    /// It begins this phase, and waits until the listener was told.
    Phase(Phase),
    Ended,
}

/// How far the work is, and whether it is to end.
#[derive(Debug, Default)]
struct Shared {
    beats: AtomicU64,
    done: AtomicU64,
    total: AtomicU64,
    stopped: AtomicBool,
}

/// The work's way to tell how far it is.
#[derive(Debug)]
pub(crate) struct Pulse {
    shared: Arc<Shared>,
    sender: Sender<Message>,
    /// Gets a message for each phase that the listener was told of; none any more once nobody waits for the work.
    phase_shown: Receiver<()>,
}

impl Pulse {
    /// Begins a phase. The job's listener has been told when this returns; an error when the work is to end, or was left behind.
    pub(crate) fn enter(&self, phase: Phase) -> Result<()> {
        let is_shown = self.sender.send(Message::Phase(phase)).is_ok() && self.phase_shown.recv().is_ok();
        if is_shown { self.look() } else { Err(Stopped) }.map_err(Stopped::error)
    }

    /// Tells how far the phase is, in bytes; as often as anything is done. `Stopped` as there.
    pub(crate) fn at(&self, done: u64, total: u64) -> Result<(), Stopped> {
        self.shared.done.store(done, Relaxed);
        self.shared.total.store(total, Relaxed);
        self.look()
    }

    fn look(&self) -> Result<(), Stopped> {
        self.shared.beats.fetch_add(1, Relaxed);
        if self.shared.stopped.load(Relaxed) { Err(Stopped) } else { Ok(()) }
    }
}

/// Runs `work`, of which `step` is the first phase, and waits for it. A cancel, or an error of the job's listener, ends it at its next
/// word, and is the result, unless the work is done all the same. `NAS_UNRESPONSIVE` when it says nothing for `limit`.
pub(crate) fn run<T: Send + 'static>(
    step: &'static str,
    limit: Duration,
    job: &mut Reporter<'_>,
    work: impl FnOnce(&Pulse) -> Result<T> + Send + 'static,
) -> Result<T> {
    run_until(step, (limit, limit), job, work)
}

/// Like `run`, for work that changes nothing: once it is to end it is left behind sooner.
pub(crate) fn look<T: Send + 'static>(
    step: &'static str,
    limit: Duration,
    job: &mut Reporter<'_>,
    work: impl FnOnce(&Pulse) -> Result<T> + Send + 'static,
) -> Result<T> {
    let limit_of_end = limits::within("a look that is to end", limits::NAS_AFTER_CANCEL);
    run_until(step, (limit, limit_of_end), job, work)
}

/// With the limit for work that is to end, too.
fn run_until<T: Send + 'static>(
    step: &'static str,
    (limit, limit_of_end): (Duration, Duration),
    job: &mut Reporter<'_>,
    work: impl FnOnce(&Pulse) -> Result<T> + Send + 'static,
) -> Result<T> {
    job.tell()?;
    let shared = Arc::<Shared>::default();
    let (sender, messages) = mpsc::channel();
    let (phase_shown, is_shown) = mpsc::channel();
    let pulse = Pulse { shared: shared.clone(), sender: sender.clone(), phase_shown: is_shown };
    let ended = move || drop(sender.send(Message::Ended));
    let work = background::start(step, move || work(&pulse), ended)?;
    Watch { shared, messages, phase_shown, step, limit, limit_of_end, stopped: None }.wait(job, &work)
}

/// Whoever waits for the work.
struct Watch {
    shared: Arc<Shared>,
    messages: Receiver<Message>,
    phase_shown: Sender<()>,
    /// The phase.
    step: &'static str,
    limit: Duration,
    /// How long the work may say nothing once it is to end.
    limit_of_end: Duration,
    /// Why the work is to end.
    stopped: Option<Error>,
}

impl Watch {
    fn wait<T>(mut self, job: &mut Reporter<'_>, work: &Background<T>) -> Result<T> {
        let mut beats = 0;
        let (mut begun, mut limit) = (Instant::now(), self.limit());
        loop {
            match self.messages.recv_timeout(limits::within(self.step, limits::JOB_LOOK)) {
                Ok(Message::Phase(phase)) => {
                    steps::done(self.step);
                    self.step = phase.as_str();
                    self.tell(job, Some(phase));
                    // fails only where the work has ended meanwhile
                    let _ = self.phase_shown.send(());
                    // the work has waited for the listener, however long that took
                    (begun, limit) = (Instant::now(), self.limit());
                }
                Ok(Message::Ended) | Err(RecvTimeoutError::Disconnected) => return self.end(work.wait(Duration::ZERO)),
                Err(RecvTimeoutError::Timeout) => {
                    let now = self.shared.beats.load(Relaxed);
                    if now != beats {
                        beats = now;
                        job.heard();
                        (begun, limit) = (Instant::now(), self.limit());
                    }
                    let limit = if self.stopped.is_some() { limit.min(self.limit_of_end) } else { limit };
                    if begun.elapsed() >= limit {
                        return Err(self.hangs(limit));
                    }
                    self.tell(job, None);
                }
            }
        }
    }

    /// How long nothing may be heard from now on.
    fn limit(&self) -> Duration {
        limits::within(self.step, call_end::within_call(self.limit))
    }

    /// Tells the job how far the work is, and its listener, unless that has ended it.
    fn tell(&mut self, job: &mut Reporter<'_>, phase: Option<Phase>) {
        if self.shared.beats.load(Relaxed) > 0 {
            job.progress(self.shared.done.load(Relaxed), self.shared.total.load(Relaxed));
        }
        let told = match phase {
            Some(phase) if self.stopped.is_some() => return job.enter(phase),
            None if self.stopped.is_some() => return,
            Some(phase) => job.begin(phase),
            None => job.tell(),
        };
        if let Err(error) = told {
            self.shared.stopped.store(true, Relaxed);
            self.stopped = Some(error);
        }
    }

    /// The work is left behind. If it was told to end, that is the result.
    fn hangs(&mut self, limit: Duration) -> Error {
        let hangs = deadline::no_answer(Code::NasUnresponsive, self.step, limit);
        match self.stopped.take() {
            None => hangs,
            Some(stopped) => {
                log::warn!("work that is to end is left behind: {hangs}");
                stopped
            }
        }
    }

    /// Work that was told to end, and did so, ends with the reason for that. A success, or a failure of its own, is its result all the same.
    fn end<T>(mut self, result: Option<Result<T>>) -> Result<T> {
        match (result, self.stopped.take()) {
            (Some(Err(error)), Some(stopped)) if error.code == Code::Cancelled => Err(stopped),
            (Some(result), _) => result,
            (None, _) => Err(Error::new(Code::Internal, self.step, "the work has ended without a result")),
        }
    }
}

impl Drop for Watch {
    /// Nobody waits any more, be it for a panic of the listener's.
    fn drop(&mut self) {
        self.shared.stopped.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::work::job::{self, JobStatus};

    /// Runs `work`; what came of it, and the phases that the listener was told of, which it answers as `answer` does.
    fn run<T: Send + 'static>(
        id: &str,
        limit: Duration,
        mut answer: impl FnMut(&JobStatus) -> Result<()>,
        work: impl FnOnce(&Pulse) -> Result<T> + Send + 'static,
    ) -> (Result<T>, Vec<Phase>) {
        let job = job::start(Some(id.into()), "verifyChain", "dir '/nas'", None).unwrap();
        let mut phases = Vec::new();
        let mut listener = |status: &JobStatus| {
            phases.push(status.phase);
            answer(status)
        };
        let mut job = Reporter::new(job, &mut listener).unwrap();
        let result = super::run("work", limit, &mut job, work);
        drop(job);
        phases.dedup();
        (result, phases)
    }

    const LONG: Duration = Duration::from_secs(600);

    fn until_stopped(pulse: &Pulse) -> Stopped {
        loop {
            if let Err(stopped) = pulse.at(0, 0) {
                return stopped;
            }
            thread::yield_now();
        }
    }

    #[test]
    fn phases_are_told_before_they_begin_and_the_result_comes_back() {
        let (result, phases) = run(
            "told",
            LONG,
            |_| Ok(()),
            |pulse| {
                pulse.enter(Phase::CompareData)?;
                pulse.at(1, 2).map_err(Stopped::error)?;
                pulse.enter(Phase::WriteManifest)?;
                Ok(7)
            },
        );
        assert_eq!((result.unwrap(), phases), (7, vec![Phase::Start, Phase::CompareData, Phase::WriteManifest]));
    }

    #[test]
    fn what_the_listener_says_ends_the_work_at_its_next_word() {
        let refuse = |status: &JobStatus| match status.phase {
            Phase::WriteManifest => Err(Error::new(Code::Internal, "tell", "an exception")),
            _ => Ok(()),
        };
        let (result, phases) = run("refused", LONG, refuse, |pulse| {
            pulse.enter(Phase::WriteManifest)?;
            Ok(())
        });
        assert_eq!((result.unwrap_err().code, phases), (Code::Internal, vec![Phase::Start, Phase::WriteManifest]));

        let (result, _) = run(
            "cancelled",
            LONG,
            |_| Ok(()),
            |pulse| {
                assert!(job::cancel("cancelled"));
                Err::<(), _>(until_stopped(pulse).error())
            },
        );
        let error = result.unwrap_err();
        assert_eq!((error.code, error.cause.as_str()), (Code::Cancelled, "the caller cancelled the job"));

        let (result, _) = run(
            "failed",
            LONG,
            |_| Ok(()),
            |pulse| {
                assert!(job::cancel("failed"));
                until_stopped(pulse);
                Err::<(), _>(Error::new(Code::CorruptImage, "read", "it is damaged"))
            },
        );
        assert_eq!(result.unwrap_err().code, Code::CorruptImage);

        let (result, _) = run("too late", LONG, |_| Ok(()), |_| Ok(job::cancel("too late")));
        assert!(result.unwrap());
    }

    #[test]
    fn work_that_says_nothing_is_left_behind_and_finds_out() {
        let (go_on, wait) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let (result, _) = run(
            "hung",
            Duration::from_millis(20),
            |_| Ok(()),
            move |pulse| {
                wait.recv().unwrap();
                tell.send((pulse.at(0, 0).is_err(), pulse.enter(Phase::Sync).is_err())).unwrap();
                Ok(())
            },
        );
        let error = result.unwrap_err();
        assert_eq!((error.code, error.cause.as_str()), (Code::NasUnresponsive, "no answer for 0 s"));
        go_on.send(()).unwrap();
        assert_eq!(told.recv().unwrap(), (true, true));
    }

    #[test]
    fn work_that_changes_nothing_is_left_behind_soon_after_a_cancel() {
        let (go_on, wait) = mpsc::channel::<()>();
        let job = job::start(Some("looks".into()), "listPoints", "dir '/nas'", None).unwrap();
        let mut listener = |_: &JobStatus| Ok(());
        let mut job = Reporter::new(job, &mut listener).unwrap();
        limits::shorten(&["a look that is to end"], Duration::from_millis(20));
        let result = super::look("look", LONG, &mut job, move |_| {
            assert!(job::cancel("looks"));
            Ok(wait.recv().is_ok())
        });
        assert_eq!(result.unwrap_err().code, Code::Cancelled);
        drop(go_on);
    }

    #[test]
    fn a_listener_that_takes_its_time_is_no_work_that_hangs() {
        let limit = Duration::from_secs(5);
        let slow = |status: &JobStatus| {
            if status.phase == Phase::CompareData {
                thread::sleep(limit + limits::JOB_LOOK);
            }
            Ok(())
        };
        let (result, _) = run("slow", limit, slow, |pulse| pulse.enter(Phase::CompareData));
        result.unwrap();
    }

    #[test]
    fn work_that_ends_while_the_listener_takes_its_time_is_done() {
        let limit = Duration::from_secs(5);
        let (mut reports, (go_on, wait)) = (0, mpsc::channel());
        // the first two are of the begin
        let slow = move |_: &JobStatus| {
            reports += 1;
            if reports == 3 {
                go_on.send(()).unwrap();
                thread::sleep(limit + limits::JOB_LOOK);
            }
            Ok(())
        };
        let (result, _) = run("slower", limit, slow, move |_| Ok(wait.recv().is_ok()));
        assert!(result.unwrap());
    }

    #[test]
    fn where_the_listener_panics_the_work_is_told_to_end() {
        let (tell, told) = mpsc::channel();
        let panic = |status: &JobStatus| match status.phase {
            Phase::CompareData => panic!("the listener"),
            _ => Ok(()),
        };
        let begin = || {
            run("panic of the listener", LONG, panic, move |pulse| {
                let entered = pulse.enter(Phase::CompareData).is_err();
                until_stopped(pulse);
                tell.send(entered).unwrap();
                Ok(())
            })
        };
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(begin)).is_err());
        assert!(told.recv().unwrap());
    }

    #[test]
    fn a_panic_is_the_result() {
        let (result, _) = run("panics", LONG, |_| Ok(()), |_| -> Result<()> { panic!("the text") });
        assert_eq!(result.unwrap_err().code, Code::Internal);
    }
}
