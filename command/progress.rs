//! What is told while an operation works: a bar on a terminal, a line every ten seconds elsewhere, nothing beside JSON. A
//! Ctrl-C, or a SIGTERM, cancels the operation, which then undoes what it has begun.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nasbackup::error::{Code, Error, Result};
use nasbackup::operation::observed;
use nasbackup::work::job::JobStatus;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::output::{Output, size, time};

/// Between two lines where nobody watches a bar.
const LINE: Duration = Duration::from_secs(10);

static CANCELLED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Runs an operation, which tells the given listener how far it is.
pub(crate) fn with<T>(
    output: Output,
    operation: impl FnOnce(&mut dyn FnMut(&JobStatus) -> Result<()>) -> Result<T>,
) -> Result<T> {
    heed_signals()?;
    refuse_if_cancelled("begin")?;
    let mut progress = Progress::new(output);
    let mut listener = |status: &JobStatus| {
        progress.tell(status);
        refuse_if_cancelled(status.phase.as_str())
    };
    let answer = observed(|| operation(&mut listener));
    progress.end();
    answer
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
        heeded.try_for_each(|signal| signal_hook::flag::register(signal, CANCELLED.clone()).map(drop))
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

/// Who watches, and how.
enum Progress {
    Bar(ProgressBar),
    Lines { last: Instant },
    Nothing,
}

impl Progress {
    fn new(output: Output) -> Progress {
        if output.json {
            return Progress::Nothing;
        }
        if !std::io::stderr().is_terminal() {
            return Progress::Lines { last: Instant::now() };
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style(false));
        bar.enable_steady_tick(Duration::from_millis(200));
        Progress::Bar(bar)
    }

    fn tell(&mut self, status: &JobStatus) {
        match self {
            Progress::Bar(bar) => draw(bar, status),
            Progress::Lines { last } if last.elapsed() >= LINE => {
                *last = Instant::now();
                eprintln!("{}", line(status));
            }
            Progress::Lines { .. } | Progress::Nothing => {}
        }
    }

    fn end(&self) {
        if let Progress::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
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
    bar.set_message(format!("{}{}", status.phase, speed(status)));
}

/// `copy data: 1.00 GiB of 4.00 GiB, 100.00 MiB/s, 30 seconds left`
fn line(status: &JobStatus) -> String {
    let done = match status.total_bytes {
        0 => String::new(),
        total => format!(": {} of {}", size(status.done_bytes), size(total)),
    };
    format!("{}{done}{}", status.phase, speed(status))
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
