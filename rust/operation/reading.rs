//! What an operation holds on to that only reads restore points: the repository, and the instance's lock, so that no
//! chain is changed under it. Backups go on meanwhile, and so do others who read.

use crate::config;
use crate::error::{Error, Result};
use crate::limits;
use crate::nas::folder::Folder;
use crate::nas::health;
use crate::nas::instance::Instance;
use crate::nas::path::PointPath;
use crate::nas::purpose::Purpose;
use crate::nas::repository::Export;
use crate::nas::session::Session;
use crate::work::deadline::{bounded, bounded_until_cancelled};

/// An open repository of which one instance's points stay as they are. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    instance: Instance,
    export: Export,
}

impl Reading {
    /// `BUSY` when somebody changes the instance's points; `NOT_FOUND` without the instance.
    pub(super) fn open(export: Export, point: &PointPath) -> Result<Reading> {
        Reading::lock(export.clone(), point).inspect_err(|error| health::note_failure(&export, error))
    }

    fn lock(export: Export, point: &PointPath) -> Result<Reading> {
        let session = Session::open_bounded(export.clone(), config::current())?;
        let at = point.clone();
        let open = move || Instance::open(session, &at, Purpose::Read);
        let locked = bounded_until_cancelled("lock the instance", limits::STORAGE_STEP + limits::CLAIM_WAIT, open);
        Ok(Reading { instance: locked?, export })
    }

    /// The root of its repository.
    pub(super) fn root(&self) -> &Folder {
        self.instance.root()
    }

    /// Have the points stayed as they were? `BUSY` when another host has taken this one for dead: to be asked before what was
    /// read is believed.
    pub(super) fn check(&self) -> Result<()> {
        let instance = self.instance.clone();
        bounded_until_cancelled("look at the instance's lock", limits::NAS_LOOK, move || instance.fence())
    }

    /// Does the repository answer? It is asked something that only it can tell.
    pub(super) fn answers(&self) -> bool {
        let held = self.clone();
        bounded("ask the repository", limits::NAS_LOOK, move || held.root().room()).is_ok()
    }

    /// Tells of a failure of what was read.
    pub(super) fn note(&self, error: &Error) {
        health::note_failure(&self.export, error);
    }
}
