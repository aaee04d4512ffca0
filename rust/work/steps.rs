//! The steps at which a test kills this process, as `kill -9` would, interrupts it, as a Ctrl-C does, or stops it, to do something
//! meanwhile. In a library without `test-hooks` there are none.
//!
//! `NASBACKUP_STEP_LOG` names a file that gets a line for each step; `NASBACKUP_KILL_AT=STEP:N` kills at the step's Nth
//! time in this process, `NASBACKUP_INTERRUPT_AT` interrupts, and `NASBACKUP_STOP_AT` stops.

/// A step that is worth dying at.
#[cfg(not(feature = "test-hooks"))]
#[inline(always)]
pub(crate) fn at(_: &str) {}

/// The end of a step that began at its own name.
#[cfg(not(feature = "test-hooks"))]
#[inline(always)]
pub(crate) fn done(_: &str) {}

#[cfg(feature = "test-hooks")]
pub(crate) use hooks::{at, done};

#[cfg(feature = "test-hooks")]
mod hooks {
    use std::collections::BTreeMap;
    use std::fs::{File, OpenOptions};
    use std::io::Write;
    use std::sync::{LazyLock, Mutex, PoisonError};

    use rustix::process::{Signal, getpid, kill_process};
    use signal_hook::low_level::raise;

    struct Steps {
        log: Option<File>,
        signal_at: Option<((String, usize), Signal)>,
        times: BTreeMap<String, usize>,
    }

    static STEPS: LazyLock<Option<Mutex<Steps>>> = LazyLock::new(|| {
        let log = std::env::var_os("NASBACKUP_STEP_LOG");
        let log = log.map(|path| OpenOptions::new().append(true).create(true).open(path).expect("a test's folder"));
        let signal_at = at_step("NASBACKUP_KILL_AT", Signal::KILL);
        let signal_at = signal_at.or_else(|| at_step("NASBACKUP_INTERRUPT_AT", Signal::INT));
        let signal_at = signal_at.or_else(|| at_step("NASBACKUP_STOP_AT", Signal::STOP));
        let asked = log.is_some() || signal_at.is_some();
        asked.then(|| Mutex::new(Steps { log, signal_at, times: BTreeMap::new() }))
    });

    fn at_step(variable: &str, signal: Signal) -> Option<((String, usize), Signal)> {
        let text = std::env::var(variable).ok()?;
        let (step, time) = text.rsplit_once(':').expect("STEP:N");
        Some(((step.to_owned(), time.parse().expect("STEP:N")), signal))
    }

    pub(crate) fn done(step: &str) {
        at(&format!("{step}, done"));
    }

    pub(crate) fn at(step: &str) {
        let Some(steps) = &*STEPS else { return };
        let mut steps = steps.lock().unwrap_or_else(PoisonError::into_inner);
        let time = steps.times.entry(step.to_owned()).or_default();
        *time += 1;
        let here = (step.to_owned(), *time);
        if let Some(log) = &mut steps.log {
            writeln!(log, "{step}:{}", here.1).expect("a test's file");
        }
        let signal = steps.signal_at.as_ref().filter(|(step, _)| *step == here).map(|(_, signal)| *signal);
        if let Some(signal) = signal {
            if signal == Signal::STOP {
                // this very thread: one of its process may reach another first, and this one goes on for a moment
                raise(signal.as_raw()).expect("this thread may signal itself");
            } else {
                kill_process(getpid(), signal).expect("this process may signal itself");
            }
            if signal == Signal::KILL {
                // nothing more happens here, not even in the moment until the signal is there
                loop {
                    std::thread::park();
                }
            }
        }
    }
}
