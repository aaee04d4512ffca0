//! What the threads of one copy tell each other: how far it is, and that it is to end.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::job::COPY;
use crate::error::{Code, Error, Result};
use crate::job::Reporter;

/// What the threads of one copy share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    stop: AtomicBool,
    aborted: AtomicBool,
    done: AtomicU64,
    total: AtomicU64,
}

impl Shared {
    /// The copy is to end.
    pub(super) fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// `CANCELLED` when the copy is to end.
    pub(super) fn check_not_stopped(&self) -> Result<()> {
        if self.stop.load(Relaxed) { Err(Error::new(Code::Cancelled, COPY, "it was stopped")) } else { Ok(()) }
    }

    /// The job is over, or as good as that: nobody waits for replies any more.
    pub(super) fn forget_replies(&self) {
        self.aborted.store(true, Relaxed);
    }

    /// `CANCELLED` when no reply is of any use.
    pub(super) fn check_replies_wanted(&self) -> Result<()> {
        if self.aborted.load(Relaxed) { Err(Error::new(Code::Cancelled, COPY, "the job is over")) } else { Ok(()) }
    }

    /// So many bytes more are written.
    pub(super) fn add_written(&self, bytes: u64) {
        self.done.fetch_add(bytes, Relaxed);
    }

    /// So many bytes are to be written in all.
    pub(super) fn set_total(&self, bytes: u64) {
        self.total.store(bytes, Relaxed);
    }

    /// Tells how far it is.
    pub(super) fn report(&self, job: &mut Reporter<'_>) -> Result<()> {
        job.progress(self.done.load(Relaxed), self.total.load(Relaxed));
        job.tell()
    }
}
