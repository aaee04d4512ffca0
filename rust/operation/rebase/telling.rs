//! Who is told how far the work on an image is.

use super::disk::RebasedDisk;
use crate::error::{Error, Result, Stopped};
use crate::nas::instance::Instance;
use crate::qcow2::{ImageFailure, Progress};
use crate::work::phase::Phase;
use crate::work::worker::Pulse;

/// Tells how far a rebase is, and looks for whether the lock is still ours.
pub(super) struct Telling<'a> {
    held: &'a Instance,
    pulse: &'a Pulse,
    phase: Option<Phase>,
    /// The lock is another's.
    lost: Option<Error>,
}

impl<'a> Telling<'a> {
    pub(super) fn new(held: &'a Instance, pulse: &'a Pulse) -> Telling<'a> {
        Telling { held, pulse, phase: None, lost: None }
    }

    pub(super) fn of(&mut self, progress: Progress) -> Result<(), Stopped> {
        self.pulse.at(progress.done, progress.total)?;
        if self.phase != Some(progress.phase) {
            self.phase = Some(progress.phase);
            self.pulse.enter(progress.phase).map_err(|_| Stopped)?;
        }
        self.held.fence_lately().map_err(|error| {
            self.lost = Some(error);
            Stopped
        })
    }

    /// `BUSY` when another host has taken the lock over, whatever came of it.
    pub(super) fn explain(&mut self, disk: &RebasedDisk, failure: ImageFailure) -> Error {
        let lost = self.lost.take().or_else(|| self.held.fence().err());
        let step = self.phase.map_or("check the image", Phase::as_str);
        lost.unwrap_or_else(|| disk.explain(step, failure))
    }
}
