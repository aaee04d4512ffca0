//! One call of `takeBackup`: what was asked, and how long each of its steps may take.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::request::Checked;
use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::host::Begun;
use crate::limits;
use crate::work::call_end::CallEnds;
use crate::work::deadline;
use crate::work::job::Job;

/// One call of `takeBackup`, as its steps see it.
pub(super) struct Call<'a> {
    pub checked: &'a Checked,
    pub config: &'a Arc<Config>,
    pub deadline: Instant,
    /// The id of the point that is made.
    pub point_id: String,
}

impl Call<'_> {
    /// How much of the time that the job may take is left.
    pub(super) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// As much of `limit` as a step on the NAS may take. `TIMEOUT` when no time is left, and not `NAS_UNRESPONSIVE`, because
    /// the NAS was not asked.
    pub(super) fn time_for(&self, step: &'static str, limit: Duration) -> Result<Duration> {
        self.enough(step, self.left()).map(|left| limit.min(left))
    }

    fn enough(&self, step: &'static str, left: Duration) -> Result<Duration> {
        if left >= limits::STEP_LEAST {
            return Ok(left);
        }
        let cause = format!("nothing is left of the {} s that it may take", self.checked.wait.as_secs());
        Err(Error::new(Code::Timeout, step, cause))
    }

    /// When the backup has to be published or undone: soon after the job's deadline, because a point that the caller does not
    /// hear of belongs to nobody.
    pub(super) fn end(&self) -> Instant {
        self.deadline + limits::PUBLICATION.min(self.checked.wait / 2)
    }

    /// How long the publication may take. `TIMEOUT` when no time is left.
    pub(super) fn time_to_publish(&self, step: &'static str) -> Result<Duration> {
        self.enough(step, self.end().saturating_duration_since(Instant::now()))
    }

    /// Limits the steps of this thread, as long as there is nothing to undo, to the job's deadline.
    pub(super) fn prepares(&self) -> CallEnds {
        CallEnds::at(self.deadline)
    }

    /// Limits the later steps of this thread to the call's end.
    pub(super) fn winds_up(&self) -> CallEnds {
        CallEnds::at(self.end())
    }

    /// The host's record of this backup, made before its first effect.
    pub(super) fn begun(&self, root: &Path, bitmap: Option<&str>, job: &Job) -> Begun {
        Begun {
            vm: self.checked.vm.clone(),
            job: job.status().job,
            root: root.to_owned(),
            point: self.checked.point.to_string(),
            bitmap: bitmap.map(str::to_owned),
            may_resume: false,
            disks: Vec::new(),
            view: None,
        }
    }
}

/// Asks libvirt on a thread that may be given up: a QEMU that hangs, perhaps in its own storage, answers no question.
pub(super) fn ask<T: Send + 'static>(
    step: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    deadline::ask(step, limits::LIBVIRT_CALL, work)
}
