//! An open repository.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;

use super::folder::{Folder, Room};
use super::mounts::{self, OpenExport};
use super::repository::Export;
use super::{health, mount_folder};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::limits;
use crate::work::deadline;
use crate::{lacking, mountinfo};

const STEP: &str = "open the repository";

/// An open repository. Clones, and sessions opened meanwhile on the same export, share one mount. After the last of them the
/// library keeps the mount for the configured time, and then unmounts it.
#[derive(Debug, Clone)]
pub struct Session(Arc<SharedMount>);

/// What the clones of a session share. Its drop hands the mount over to the kept ones.
#[derive(Debug)]
struct SharedMount {
    opened: Arc<OpenExport>,
    /// The room, if it was asked for when the repository was opened.
    room: Option<Room>,
    keep: Duration,
}

impl Session {
    /// Opens the folder of a `dir`, or mounts the export below the configured folder unless it is mounted already.
    /// `NOT_FOUND`, `PERMISSION_DENIED`, `MOUNT_FAILED`, `NAS_UNRESPONSIVE`.
    pub fn open(export: &Export, config: &Config) -> Result<Session> {
        Session::open_until(Instant::now() + limits::MOUNT, export, config)
    }

    fn open_until(until: Instant, export: &Export, config: &Config) -> Result<Session> {
        let (opened, room) = mounts::open(until, export, config, health::check_responsive)?;
        Ok(Session(Arc::new(SharedMount { opened, room, keep: Duration::from_secs(config.mount_keep_seconds) })))
    }

    /// Like `open`, with a time limit. A NAS that did not answer before is `NAS_UNRESPONSIVE` at once, until it has answered.
    pub fn open_bounded(export: Export, config: Arc<Config>) -> Result<Session> {
        Session::open_within(Duration::MAX, export, config)
    }

    /// Like `open_bounded`, within `most` if that is less.
    pub fn open_within(most: Duration, export: Export, config: Arc<Config>) -> Result<Session> {
        health::check_responsive(&export)?;
        let limit = most.min(if export.is_dir() { limits::NAS_PROBE } else { limits::MOUNT_AND_OPEN });
        // less than `limit`, so that the mount's own error comes before the limit's
        let until = Instant::now() + limit / 5 * 4;
        let is_dir = export.is_dir();
        let open = move || Session::open_until(until, &export, &config);
        if is_dir {
            return deadline::bounded_until_cancelled(STEP, limit, open);
        }
        // a cancel ends `mount`, which is not left behind
        deadline::bounded(STEP, limit, open)
    }

    /// The repository's root.
    pub fn root(&self) -> &Folder {
        &self.0.opened.root
    }

    /// How many clones there are.
    #[cfg(test)]
    pub(crate) fn users(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    /// The bytes that were available when the repository was opened, or now if nobody has asked then.
    pub fn free_at_open(&self) -> Result<u64> {
        self.0.room.map_or_else(|| self.free(), |room| Ok(room.available))
    }

    /// The bytes that are available in the repository; `u64::MAX` where the NAS does not tell.
    pub fn free(&self) -> Result<u64> {
        Ok(self.root().room()?.map_or(u64::MAX, |room| room.available))
    }

    /// True of a Btrfs, which shows the room of a removal only with its next commit, half a minute later, or once it is synced.
    /// Asks no file system.
    pub fn shows_room_late(&self) -> bool {
        mountinfo::place(self.root().as_fd()).is_ok_and(|place| place.file_system.starts_with("btrfs "))
    }

    /// Syncs a file system that shows room late. Others show it at once, and a sync would write back all that this host's guests
    /// have written there.
    pub fn sync(&self) -> Result<()> {
        if !self.shows_room_late() {
            return Ok(());
        }
        let root = self.root();
        match rustix::fs::syncfs(root) {
            Err(error) if lacking::is_unknown(error) => {
                lacking::tell(Level::Info, root, "syncfs", error, "room that is given back may show later");
                Ok(())
            }
            synced => synced.map_err(|e| Error::io("sync the file system", &root.path, e)),
        }
    }
}

impl Drop for SharedMount {
    fn drop(&mut self) {
        if self.opened.mount.is_some() && !self.keep.is_zero() {
            mounts::keep(self.opened.clone(), Instant::now() + self.keep);
        }
    }
}

/// Clears the mounts that killed processes have left.
pub fn clear_left(config: &Config) {
    mount_folder::sweep(config);
}
