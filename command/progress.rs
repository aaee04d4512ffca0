//! What is told while an operation works: a bar on a terminal, a line every ten seconds elsewhere, nothing beside JSON. A thread
//! of the command's own tells it, for a call that waits for a NAS tells nothing. A Ctrl-C, or a SIGTERM, cancels the operation,
//! which then undoes what it has begun.

use std::io::{IsTerminal, Write as _};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, LazyLock, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nasbackup::error::{Code, Error, Result};
use nasbackup::operation::{self, observed};
use nasbackup::work::job::JobStatus;
use nasbackup::work::phase::Phase;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::output::{Output, size, time};
use crate::words;

/// Between two lines where nobody watches a bar, and how long nothing was heard when that is told.
const LINE: Duration = Duration::from_secs(10);
/// Between two looks at what is done.
const TICK: Duration = Duration::from_millis(200);

/// What is said to whoever interrupts once more. Nothing is left behind by that: it could be what replaces a file.
const WAITS: &str = "a step that gets no answer is given up after 3 minutes, or 10 where much is synced or removed. \
    A kill -9 harms no restore point, and leaves to the next call what was begun";

static CANCELLED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
/// A signal has come of which nobody was told yet.
static NEWS: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Runs an operation, which asks the given listener whether it is to go on.
pub(crate) fn with<T>(
    output: Output,
    operation: impl FnOnce(&mut dyn FnMut(&JobStatus) -> Result<()>) -> Result<T>,
) -> Result<T> {
    during(output, Phase::Start.as_str(), || {
        observed(|| operation(&mut |status: &JobStatus| refuse_if_cancelled(status.phase.as_str())))
    })
}

/// Runs `work`, which is called `what` until a job of its own tells more.
pub(crate) fn during<T>(output: Output, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    heed_signals()?;
    refuse_if_cancelled("begin")?;
    told(output, what, work).map_err(words::own)
}

/// The same for what a signal ends by itself.
pub(crate) fn told<T>(output: Output, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let _teller = Teller::begin(output, what)?;
    work()
}

/// `CANCELLED` once a signal has come. A command of several steps asks before each of them: a signal may come when a step has
/// asked for the last time.
pub(crate) fn refuse_if_cancelled(step: &'static str) -> Result<()> {
    if CANCELLED.load(Relaxed) { Err(Error::new(Code::Cancelled, step, "interrupted")) } else { Ok(()) }
}

/// Once for the process. What the caller has had this process ignore, as `nohup` does with SIGHUP, stays ignored.
fn heed_signals() -> Result<()> {
    static HEEDED: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    let heed = || -> std::io::Result<()> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let mut heeded = [SIGHUP, SIGINT, SIGTERM].into_iter().filter(|signal| !is_ignored(&status, *signal));
        heeded.try_for_each(|signal| {
            signal_hook::flag::register(signal, CANCELLED.clone())?;
            signal_hook::flag::register(signal, NEWS.clone()).map(drop)
        })
    };
    let heeded = HEEDED.get_or_init(|| heed().map_err(|error| error.to_string()));
    heeded.clone().map_err(|cause| Error::new(Code::Internal, "wait for signals", cause))
}

/// Does a process ignore the signal, by its `status` in proc(5)?
fn is_ignored(status: &str, signal: i32) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    ignored.is_some_and(|bits| bits >> (signal - 1) & 1 == 1)
}

/// The thread that tells what is done, until its drop.
struct Teller(Option<(Sender<()>, JoinHandle<()>)>);

impl Teller {
    fn begin(output: Output, what: &str) -> Result<Teller> {
        let (end, ended) = mpsc::channel();
        let mut told = Told::new(output, what);
        let tell = move || {
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(TICK) {
                told.look();
            }
            told.end();
        };
        let thread = thread::Builder::new().name("nasbackup-tell".to_owned()).spawn(tell);
        let thread = thread.map_err(|error| Error::io("tell what is done", "a thread", error))?;
        Ok(Teller(Some((end, thread))))
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.0.take() {
            drop(end);
            // a panic of it has been told
            _ = thread.join();
        }
    }
}

/// What is told, and to whom.
struct Told {
    what: String,
    begun: Instant,
    progress: Progress,
    /// How often it was interrupted.
    interrupts: u32,
    /// The job that was asked to end.
    asked: Option<String>,
}

/// Who watches, and how.
enum Progress {
    Bar(ProgressBar),
    Lines { last: Instant },
    Nothing,
}

impl Told {
    fn new(output: Output, what: &str) -> Told {
        let progress = match output.json {
            true => Progress::Nothing,
            false if !std::io::stderr().is_terminal() => Progress::Lines { last: Instant::now() },
            false => Progress::Bar(
                ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style(false)),
            ),
        };
        Told { what: what.to_owned(), begun: Instant::now(), progress, interrupts: 0, asked: None }
    }

    fn look(&mut self) {
        let job = operation::jobs().into_iter().next();
        if CANCELLED.load(Relaxed) {
            self.cancel(job.as_ref());
        }
        // nobody watches a mount
        if job.as_ref().is_some_and(|status| status.phase == Phase::KeepMounted) {
            return self.end();
        }
        let without_job = format!("{}{}", self.what, silent(self.begun.elapsed()));
        match &mut self.progress {
            Progress::Bar(bar) => {
                match &job {
                    Some(status) => draw(bar, status),
                    None => bar.set_message(without_job),
                }
                bar.tick();
            }
            Progress::Lines { last } if last.elapsed() >= between_lines() => {
                *last = Instant::now();
                say(&job.as_ref().map_or(without_job, line));
            }
            Progress::Lines { .. } | Progress::Nothing => {}
        }
    }

    /// Asks the job to end, and tells so.
    fn cancel(&mut self, job: Option<&JobStatus>) {
        if let Some(status) = job
            && self.asked.as_ref() != Some(&status.job)
        {
            operation::cancel(&status.job);
            self.asked = Some(status.job.clone());
        }
        if !NEWS.swap(false, Relaxed) {
            return;
        }
        self.interrupts += 1;
        let step = job.map_or(self.what.as_str(), |status| status.phase.as_str());
        let told = match self.interrupts {
            1 => format!("interrupted: waiting until the step '{step}' can be left safely"),
            _ => format!("still waiting for the step '{step}': {WAITS}"),
        };
        match &self.progress {
            Progress::Bar(bar) => bar.suspend(|| say(&told)),
            Progress::Lines { .. } => say(&told),
            Progress::Nothing => {}
        }
    }

    fn end(&self) {
        if let Progress::Bar(bar) = &self.progress {
            bar.finish_and_clear();
        }
    }
}

/// Whoever reads may have seen enough.
fn say(text: &str) {
    _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(not(feature = "test-hooks"))]
fn between_lines() -> Duration {
    LINE
}

/// A test may have less time.
#[cfg(feature = "test-hooks")]
fn between_lines() -> Duration {
    let millis = std::env::var("NASBACKUP_LINE_MILLIS").ok().and_then(|millis| millis.parse().ok());
    millis.map_or(LINE, Duration::from_millis)
}

fn style(known: bool) -> ProgressStyle {
    let text =
        if known { "{spinner} {msg} [{wide_bar}] {binary_bytes}/{binary_total_bytes}" } else { "{spinner} {msg}" };
    let style = ProgressStyle::with_template(text).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("=> ")
}

fn draw(bar: &ProgressBar, status: &JobStatus) {
    let known = status.total_bytes > 0;
    bar.set_style(style(known));
    if known {
        bar.set_length(status.total_bytes);
    }
    bar.set_position(status.done_bytes);
    bar.set_message(format!("{}{}", status.phase, news(status)));
}

/// `copy data: 1.00 GiB of 4.00 GiB, 100.00 MiB/s, 30 seconds left`
fn line(status: &JobStatus) -> String {
    let done = match status.total_bytes {
        0 => String::new(),
        total => format!(": {} of {}", size(status.done_bytes), size(total)),
    };
    format!("{}{done}{}", status.phase, news(status))
}

/// How fast it goes, or how long nothing was heard.
fn news(status: &JobStatus) -> String {
    match silent(Duration::from_millis(status.silent_millis)) {
        silent if silent.is_empty() => speed(status),
        silent => silent,
    }
}

fn silent(silent: Duration) -> String {
    if silent < between_lines() { String::new() } else { format!(", nothing heard for {}", time(silent)) }
}

fn speed(status: &JobStatus) -> String {
    // nothing is counted where there is nothing to copy
    let rate = status.bytes_per_second.filter(|_| status.done_bytes > 0).map(|rate| format!(", {}/s", size(rate)));
    let left = status.remaining_millis.map(|millis| format!(", {} left", time(Duration::from_millis(millis))));
    format!("{}{}", rate.unwrap_or_default(), left.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_in_one_step_ends_what_comes_next() {
        let output = Output { json: true };
        let raised = with(output, |_| Ok(signal_hook::low_level::raise(SIGTERM)));
        raised.unwrap().unwrap();
        let next = with(output, |_| -> Result<()> { panic!("it has begun") });
        assert_eq!(next.unwrap_err().code, Code::Cancelled);
        CANCELLED.store(false, Relaxed);
    }

    #[test]
    fn a_signal_is_ignored_if_its_bit_is_set() {
        let status = "SigBlk:\t0000000000000002\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000002\n";
        assert_eq!([SIGHUP, SIGINT, SIGTERM].map(|signal| is_ignored(status, signal)), [true, false, false]);
        assert!(!is_ignored("", SIGHUP));
    }
}
