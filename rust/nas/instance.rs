//! The folder of one machine in a repository, locked for work on its restore points.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::claim::boot_time;
use super::denied;
use super::folder::Folder;
use super::lock::InstanceLock;
use super::path::PointPath;
use super::purpose::Purpose;
use super::session::Session;
use crate::config;
use crate::error::Result;
use crate::limits;

/// The wait by which a test shortens for how long a look at the lock counts.
pub(crate) const LOOK: &str = "look at the instance's lock again";

/// A locked instance. Clones share the lock and the session; the drop of the last gives both back.
#[derive(Debug, Clone)]
pub struct Instance {
    // dropped in this order: an open folder, or a lock's file, would keep the mount busy
    folder: Arc<Folder>,
    lock: Arc<InstanceLock>,
    /// When the lock was looked at and found ours, by a clock that goes on while the host sleeps.
    looked: Arc<Mutex<Option<Duration>>>,
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
        Ok(Instance { folder: Arc::new(folder), lock, looked: Arc::default(), session })
    }

    /// `BUSY` if another host has taken the instance over. The caller checks right before each step that can't be undone.
    pub fn fence(&self) -> Result<()> {
        // of the moment before the question
        let now = boot_time();
        let checked = self.lock.check();
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = checked.is_ok().then_some(now);
        checked
    }

    /// Like `fence`, of steps one after the other: nobody is asked again within a `JOB_LOOK` while the claim is renewed. One is taken over
    /// only once it has not been renewed for a hundred times as long.
    pub fn fence_lately(&self) -> Result<()> {
        let looked = *self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_late = |looked: Duration| boot_time().saturating_sub(looked) >= limits::within(LOOK, limits::JOB_LOOK);
        if looked.is_none_or(is_late) || !self.lock.is_fresh() { self.fence() } else { Ok(()) }
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::claim::TAKE_OVER;
    use super::*;
    use crate::config::Config;
    use crate::error::Code;
    use crate::nas::repository::Repository;

    fn take(dir: &Path) -> Instance {
        let address = Some(dir.to_str().unwrap().to_owned());
        let export = Repository { kind: Some("dir".into()), address, options: None };
        let session = Session::open(&Repository::check(Some(export)).unwrap(), &Config::default()).unwrap();
        let folder = session.root().make_dir_if_missing("i-1", 0o711).unwrap();
        Instance::take(session, folder, Purpose::Change).unwrap()
    }

    #[test]
    fn a_look_counts_no_more_once_another_host_may_take_over_or_has_done_so() {
        for (expiry, then) in
            [(limits::CLAIM, Instance::fence as fn(&_) -> _), (Duration::ZERO, Instance::fence_lately)]
        {
            limits::shorten(&[TAKE_OVER], expiry);
            let dir = tempfile::tempdir().unwrap();
            let held = take(dir.path());
            held.fence_lately().unwrap();
            std::fs::remove_file(dir.path().join("i-1/.nasbackup.lease")).unwrap();
            for fence in [then, Instance::fence_lately] {
                assert_eq!(fence(&held).unwrap_err().code, Code::Busy, "{expiry:?}");
            }
        }
    }
}
