//! A question to the NAS, asked before an error calls the NAS hung: one that is busy with all guests' writes is only slow.

use std::time::Duration;

use rustix::fs::OFlags;

use crate::apart::{Apart, Descriptor};
use crate::error::{Code, Error, Result};
use crate::work::deadline;

/// A file on the NAS by which the library asks.
#[derive(Debug, Clone)]
pub(super) struct NasProbe(Apart);

impl NasProbe {
    /// Opens `file` once more with `O_PATH`: the close of such a descriptor writes nothing back, and so does not wait for a NAS
    /// that hangs.
    pub(super) fn open(file: &Apart) -> Result<NasProbe> {
        file.open_again(OFlags::PATH).map(NasProbe).map_err(|e| Error::io("look at the targets", "the target", e))
    }

    /// True if the NAS did not answer within `patience`. A refusal is an answer.
    pub(super) fn hangs(self, patience: Duration) -> bool {
        const STEP: &str = "ask the repository";
        let ask = move || {
            let room = self.0.with(|target| rustix::fs::fstatvfs(target));
            room.map_err(|e| Error::io(STEP, "the target", e))
        };
        deadline::bounded(STEP, patience, ask).is_err_and(|error| error.code == Code::NasUnresponsive)
    }
}
