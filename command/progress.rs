//! What is told while an operation works: a bar on a terminal, a line every ten seconds elsewhere, nothing beside JSON. A
//! Ctrl-C, or a SIGTERM, cancels the operation, which then undoes what it has begun.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nasbackup::error::{Code, Error, Result};
use nasbackup::work::job::JobStatus;

use crate::output::{Output, size, time};

/// Between two lines where nobody watches a bar.
const LINE: Duration = Duration::from_secs(10);

static CANCELLED: AtomicBool = AtomicBool::new(false);

/// Runs an operation, which tells the given listener how far it is.
pub(crate) fn with<T>(
    output: Output,
    operation: impl FnOnce(&mut dyn FnMut(&JobStatus) -> Result<()>) -> Result<T>,
) -> Result<T> {
    heed_signals()?;
    let mut progress = Progress::new(output);
    let answer = operation(&mut |status| {
        progress.tell(status);
        if CANCELLED.load(Relaxed) { Err(cancelled(status)) } else { Ok(()) }
    });
    progress.end();
    answer
}

/// Once for the process.
fn heed_signals() -> Result<()> {
    static HEEDED: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    let heed = || ctrlc::set_handler(|| CANCELLED.store(true, Relaxed)).map_err(|error| error.to_string());
    HEEDED.get_or_init(heed).clone().map_err(|cause| Error::new(Code::Internal, "wait for signals", cause))
}

fn cancelled(status: &JobStatus) -> Error {
    Error::new(Code::Cancelled, status.phase.as_str(), "interrupted")
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
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
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

fn draw(bar: &ProgressBar, status: &JobStatus) {
    let known = status.total_bytes > 0;
    let text =
        if known { "{spinner} {msg} [{wide_bar}] {binary_bytes}/{binary_total_bytes}" } else { "{spinner} {msg}" };
    if let Ok(style) = ProgressStyle::with_template(text) {
        bar.set_style(style.progress_chars("=> "));
    }
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
    let rate = status.bytes_per_second.map(|rate| format!(", {}/s", size(rate)));
    let left = status.remaining_millis.map(|millis| format!(", {} left", time(Duration::from_millis(millis))));
    format!("{}{}", rate.unwrap_or_default(), left.unwrap_or_default())
}
