//! The steps at which a test kills this process, as `kill -9` would. In a library without `test-hooks` there are none.
//!
//! `NASBACKUP_STEP_LOG` names a file that gets a line for each step; `NASBACKUP_KILL_AT=STEP:N` kills at the step's Nth
//! time in this process.

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

    struct Steps {
        log: Option<File>,
        kill_at: Option<(String, usize)>,
        times: BTreeMap<String, usize>,
    }

    static STEPS: LazyLock<Option<Mutex<Steps>>> = LazyLock::new(|| {
        let log = std::env::var_os("NASBACKUP_STEP_LOG");
        let log = log.map(|path| OpenOptions::new().append(true).create(true).open(path).expect("a test's folder"));
        let kill_at = std::env::var("NASBACKUP_KILL_AT").ok().map(|text| {
            let (step, time) = text.rsplit_once(':').expect("STEP:N");
            (step.to_owned(), time.parse().expect("STEP:N"))
        });
        let asked = log.is_some() || kill_at.is_some();
        asked.then(|| Mutex::new(Steps { log, kill_at, times: BTreeMap::new() }))
    });

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
        if steps.kill_at.as_ref() == Some(&here) {
            kill_process(getpid(), Signal::KILL).expect("this process may kill itself");
            // nothing more happens here, not even in the moment until the signal is there
            loop {
                std::thread::park();
            }
        }
    }
}
