//! The folder of one machine in a repository, locked for work on its restore points.

use std::sync::Arc;

use super::denied;
use super::folder::Folder;
use super::lock::InstanceLock;
use super::path::PointPath;
use super::purpose::Purpose;
use super::session::Session;
use crate::error::Result;

/// A locked instance. Clones share the lock and the session; the drop of the last gives both back.
#[derive(Debug, Clone)]
pub struct Instance {
    // dropped in this order: an open folder, or a lock's file, would keep the mount busy
    folder: Arc<Folder>,
    lock: Arc<InstanceLock>,
    session: Session,
}

impl Instance {
    /// Opens the instance of `point` and locks it. `NOT_FOUND` without its folder, `BUSY` as from `InstanceLock::take`.
    pub fn open(session: Session, point: &PointPath, purpose: Purpose) -> Result<Instance> {
        let root = session.root();
        let folder = root.open_dir(&point.instance_folder());
        let folder = folder.map_err(|error| denied::explain_reading(error, &root.path))?;
        Instance::take(session, folder, purpose)
    }

    /// Locks `folder`, that of an instance in the repository of `session`.
    pub fn take(session: Session, folder: Folder, purpose: Purpose) -> Result<Instance> {
        let lock = Arc::new(InstanceLock::take(&folder, purpose)?);
        Ok(Instance { folder: Arc::new(folder), lock, session })
    }

    /// `BUSY` if another host has taken the instance over. The caller checks right before each step that can't be undone.
    pub fn fence(&self) -> Result<()> {
        self.lock.check()
    }

    /// The instance's lock.
    pub fn lock(&self) -> &InstanceLock {
        &self.lock
    }

    /// The instance's folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The root of the instance's repository.
    pub fn root(&self) -> &Folder {
        self.session.root()
    }
}
