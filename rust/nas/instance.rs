//! The folder of one machine in a repository, locked for work on its restore points.

use std::sync::Arc;
use std::time::Duration;

use super::denied;
use super::folder::Folder;
use super::lock::InstanceLock;
use super::path::PointPath;
use super::purpose::Purpose;
use super::session::Session;
use crate::config;
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
    /// Opens the instance of `point` and locks it; makes its folder for a point that is to be added. `NOT_FOUND` without the
    /// folder, `BUSY` as from `InstanceLock::take`.
    pub fn open(session: Session, point: &PointPath, purpose: Purpose) -> Result<Instance> {
        Instance::open_within(Duration::MAX, session, point, purpose)
    }

    /// Like `open`, as a part of work that may take `limit`: see `InstanceLock::take_within`.
    pub fn open_within(limit: Duration, session: Session, point: &PointPath, purpose: Purpose) -> Result<Instance> {
        let root = session.root();
        let folder = match purpose {
            Purpose::Add => {
                let made = root.make_dir_if_missing(point.instance(), config::current().folder_mode());
                made.map_err(|error| denied::explain_writing(error, root))?
            }
            Purpose::Change | Purpose::Read => {
                let opened = root.open_dir(&point.instance_folder());
                opened.map_err(|error| denied::explain_reading(error, &root.path))?
            }
        };
        Instance::take_within(limit, session, folder, purpose)
    }

    /// Locks `folder`, that of an instance in the repository of `session`.
    pub fn take(session: Session, folder: Folder, purpose: Purpose) -> Result<Instance> {
        Instance::take_within(Duration::MAX, session, folder, purpose)
    }

    fn take_within(limit: Duration, session: Session, folder: Folder, purpose: Purpose) -> Result<Instance> {
        let lock = Arc::new(InstanceLock::take_within(limit, &folder, purpose)?);
        Ok(Instance { folder: Arc::new(folder), lock, session })
    }

    /// As `InstanceLock::check`.
    pub fn fence(&self) -> Result<()> {
        self.lock.check()
    }

    /// As `InstanceLock::check_lately`.
    pub fn fence_lately(&self) -> Result<()> {
        self.lock.check_lately()
    }

    /// The instance's lock.
    pub fn lock(&self) -> &InstanceLock {
        &self.lock
    }

    /// The instance's folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Opens the folder of a published point.
    pub fn point(&self, point: &PointPath) -> Result<Folder> {
        self.root().open_dir(&point.folder())
    }

    /// The session on the instance's repository.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The root of the instance's repository.
    pub fn root(&self) -> &Folder {
        self.session.root()
    }
}
