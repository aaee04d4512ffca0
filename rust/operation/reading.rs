//! What an operation holds on to that only reads restore points: the repository, and the instance's lock, so that no
//! chain is changed under it. Backups go on meanwhile, and so do others who read.

use std::sync::Arc;
use std::time::Duration;

use crate::config;
use crate::error::{Error, Result};
use crate::nas::deadline::{LIMIT, bounded};
use crate::nas::denied;
use crate::nas::health;
use crate::nas::lock::{InstanceLock, WAIT};
use crate::nas::path::PointPath;
use crate::nas::purpose::Purpose;
use crate::nas::repository::Export;
use crate::nas::session::Session;

/// How long a look at a lock may take.
const CHECK: Duration = Duration::from_secs(10);

/// An open repository of which one instance's points stay as they are. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    // before the session, which may unmount
    lock: Arc<InstanceLock>,
    pub(super) session: Session,
    export: Export,
}

impl Reading {
    /// `BUSY` when somebody changes the instance's points; `NOT_FOUND` without the instance.
    pub(super) fn open(export: Export, point: &PointPath) -> Result<Reading> {
        Reading::lock(export.clone(), point).inspect_err(|error| health::note(&export, error))
    }

    fn lock(export: Export, point: &PointPath) -> Result<Reading> {
        let session = Session::open_bounded(export.clone(), config::current())?;
        let instance = point.instance_folder();
        bounded("lock the instance", LIMIT + WAIT, move || {
            let root = session.root();
            let folder = root.open_dir(&instance).map_err(|error| denied::explain_reading(error, &root.path))?;
            let lock = Arc::new(InstanceLock::take(&folder, Purpose::Read)?);
            Ok(Reading { lock, session, export })
        })
    }

    /// Have the points stayed as they were? `BUSY` when another host has taken this one for dead: to be asked before what was
    /// read is believed.
    pub(super) fn check(&self) -> Result<()> {
        let lock = self.lock.clone();
        bounded("look at the instance's lock", CHECK, move || lock.check())
    }

    /// Does the repository answer? It is asked something that only it can tell.
    pub(super) fn answers(&self) -> bool {
        let held = self.clone();
        bounded("ask the repository", CHECK, move || held.session.root().room()).is_ok()
    }

    /// Tells of a failure of what was read.
    pub(super) fn note(&self, error: &Error) {
        health::note(&self.export, error);
    }
}
