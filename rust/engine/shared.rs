//! What the threads of one copy tell each other: how far the copy is, and that it is to stop.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::job::COPY;
use crate::error::{Code, Error, Result};
use crate::work::job::Reporter;

/// The state that the threads of one copy share.
#[derive(Debug, Default)]
pub(super) struct CopyState {
    stop: AtomicBool,
    aborted: AtomicBool,
    done: AtomicU64,
    total: AtomicU64,
}

impl CopyState {
    /// Tells the threads to stop.
    pub(super) fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// `CANCELLED` after `stop`.
    pub(super) fn check_not_stopped(&self) -> Result<()> {
        if self.stop.load(Relaxed) { Err(Error::new(Code::Cancelled, COPY, "it was stopped")) } else { Ok(()) }
    }

    /// Tells the reader that the job has ended, or will soon, and that it need not wait for replies.
    pub(super) fn forget_replies(&self) {
        self.aborted.store(true, Relaxed);
    }

    /// `CANCELLED` after `forget_replies`.
    pub(super) fn check_replies_wanted(&self) -> Result<()> {
        if self.aborted.load(Relaxed) { Err(Error::new(Code::Cancelled, COPY, "the job is over")) } else { Ok(()) }
    }

    /// Adds to the bytes that are written.
    pub(super) fn add_written(&self, bytes: u64) {
        self.done.fetch_add(bytes, Relaxed);
    }

    /// Sets the bytes to write in all.
    pub(super) fn set_total(&self, bytes: u64) {
        self.total.store(bytes, Relaxed);
    }

    /// Reports to the caller how far the copy is.
    pub(super) fn report(&self, job: &mut Reporter<'_>) -> Result<()> {
        job.progress(self.done.load(Relaxed), self.total.load(Relaxed));
        job.tell()
    }
}
