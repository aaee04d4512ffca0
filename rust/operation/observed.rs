//! Tells this host what operations have come to (`metricsFile`).

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use crate::config;
use crate::error::Result;
use crate::host::metrics::{self, End};
use crate::limits;
use crate::work::deadline::bounded_for_host;
use crate::work::stuck;
use crate::work::watched;

/// Runs an operation, and tells of it. A failure to tell is logged, once until it works again.
pub fn observed<T>(operation: impl FnOnce() -> Result<T>) -> Result<T> {
    static IS_LOGGED: AtomicBool = AtomicBool::new(false);
    let config = config::current();
    let Some(file) = config.metrics_file.clone() else { return operation() };
    watched::watch();
    let begun = Instant::now();
    let answer = operation();
    let failure = answer.as_ref().err().map(|error| error.code.as_str());
    let end = End { failure, took: begun.elapsed(), stuck: stuck::all_stuck() };
    let Some(watched) = watched::watched() else { return answer };
    let tell = move || metrics::tell(&config.state_dir, &file, &watched, end);
    // their file systems may hang, and the operation has ended
    match bounded_for_host(metrics::STEP, limits::METRICS, tell) {
        Ok(()) => IS_LOGGED.store(false, Relaxed),
        Err(error) if !IS_LOGGED.swap(true, Relaxed) => log::warn!("metrics are not up to date: {error}"),
        Err(_) => {}
    }
    answer
}
