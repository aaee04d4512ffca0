//! What a backup knows of a running guest.

use std::sync::Arc;

use super::super::call::Call;
use super::super::constraints::Constraints;
use super::super::found::FoundGuest;
use super::super::snapshots::DiskImage;
use crate::config::Engine;
use crate::engine::choice::{self, Choice};
use crate::engine::job::BackupJob;
use crate::engine::scratch::Scratch;
use crate::error::Result;
use crate::nas::view::TargetView;

/// A running guest, and the job of its backup.
pub(in super::super) struct Running {
    pub(super) found: FoundGuest,
    pub(super) engine: ChosenEngine,
    pub(super) job: OwnedJob,
    /// The images in Ceph of which it has taken snapshots.
    pub(super) images: Vec<DiskImage>,
}

/// The engine that moves a guest's data, with what it needs on this host.
pub(super) struct ChosenEngine {
    pub(super) kind: Engine,
    /// Why the library chose this engine, if that is not ordinary.
    pub(super) details: Option<String>,
    /// For a pull, until its job has ended: the library knows by its folder a job that outlives this process.
    pub(super) scratch: Option<Arc<Scratch>>,
    /// For a push, until its targets are shown to QEMU.
    pub(super) view: Option<TargetView>,
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

impl ChosenEngine {
    /// Chooses the engine for the guest, and makes what it needs on this host.
    pub(super) fn choose(call: &Call<'_>, found: &FoundGuest, constraints: &Constraints) -> Result<ChosenEngine> {
        let Call { checked, config, .. } = *call;
        let (refused, disks) = (constraints.pull.clone(), found.engine_disks());
        let Choice { scratch, details } =
            choice::choose_engine(checked.engine, refused, config, &found.domain, found.xml.owner, &disks)?;
        Ok(match scratch {
            Some(scratch) => ChosenEngine { kind: Engine::Pull, details, scratch: Some(Arc::new(scratch)), view: None },
            None => {
                let view = Some(TargetView::prepare(config)?);
                ChosenEngine { kind: Engine::Push, details, scratch: None, view }
            }
        })
    }
}
