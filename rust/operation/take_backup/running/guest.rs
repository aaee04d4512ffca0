//! What a backup knows of a running guest.

use std::sync::Arc;

use super::super::call::Call;
use super::super::constraints::Constraints;
use super::super::found::FoundGuest;
use crate::engine::job::BackupJob;
use crate::engine::scratch::Scratch;
use crate::engine::{Engine, choice};
use crate::error::Result;
use crate::nas::view::TargetView;

/// A running guest, and the job of its backup.
pub(in super::super) struct Running {
    pub(super) found: FoundGuest,
    pub(super) engine: Engine,
    /// Why it is this engine, if that is not ordinary.
    pub(super) choice: Option<String>,
    /// For a pull, until its job has ended: by it a job is known that outlives this process.
    pub(super) scratch: Option<Arc<Scratch>>,
    /// For a push, until its targets are shown to QEMU.
    pub(super) view: Option<TargetView>,
    pub(super) job: OwnedJob,
}

/// The hypervisor's job of this backup.
pub(super) enum OwnedJob {
    /// It was not begun, or the hypervisor refused to, which changes nothing.
    None,
    /// libvirt did not come back from the begin: one may run.
    Unknown,
    /// It was begun; it says itself whether it has ended.
    Begun(Box<BackupJob>),
}

impl OwnedJob {
    pub(super) fn may_run(&self) -> bool {
        match self {
            OwnedJob::None => false,
            OwnedJob::Unknown => true,
            OwnedJob::Begun(job) => !job.has_ended(),
        }
    }
}

impl Running {
    /// As it was found: nothing is chosen yet.
    pub(super) fn new(found: FoundGuest) -> Running {
        Running { found, engine: Engine::Push, choice: None, scratch: None, view: None, job: OwnedJob::None }
    }

    /// Chooses the engine, and makes what it needs on this host.
    pub(super) fn choose_engine(&mut self, call: &Call<'_>, constraints: &Constraints) -> Result<()> {
        let Call { checked, config, .. } = *call;
        let (found, refused) = (&self.found, constraints.pull.clone());
        let disks = found.engine_disks();
        let chosen = choice::choose_engine(checked.engine, refused, config, &found.domain, found.xml.owner, &disks)?;
        self.engine = if chosen.scratch.is_some() { Engine::Pull } else { Engine::Push };
        self.view = if chosen.scratch.is_none() { Some(TargetView::prepare(config)?) } else { None };
        (self.scratch, self.choice) = (chosen.scratch.map(Arc::new), chosen.details);
        Ok(())
    }
}
