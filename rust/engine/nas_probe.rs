//! Does the NAS answer? It is asked before it is found to hang: one that is busy with what all guests write takes its time.

use std::time::Duration;

use rustix::fs::OFlags;

use crate::error::{Code, Error, Result};
use crate::nas::apart::{Apart, Descriptor};
use crate::nas::deadline;

/// How long it may take to say how large it is.
pub(super) const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// A way to it.
#[derive(Debug, Clone)]
pub(super) struct NasProbe(Apart);

impl NasProbe {
    /// Leads by this file, and has nothing written back when it is closed: that would wait for a NAS that hangs.
    pub(super) fn open(file: &Apart) -> Result<NasProbe> {
        file.open_again(OFlags::PATH).map(NasProbe).map_err(|e| Error::io("look at the targets", "the target", e))
    }

    /// Has it said nothing in that time? A refusal is an answer.
    pub(super) fn hangs(self, patience: Duration) -> bool {
        const STEP: &str = "ask the repository";
        let ask = move || {
            let room = self.0.with(|target| rustix::fs::fstatvfs(target));
            room.map_err(|e| Error::io(STEP, "the target", e))
        };
        deadline::bounded(STEP, patience, ask).is_err_and(|error| error.code == Code::NasUnresponsive)
    }
}
