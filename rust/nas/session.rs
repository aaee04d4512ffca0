//! Access to a repository for as long as somebody needs it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;

use super::folder::Folder;
use super::mounts::{self, OpenExport};
use super::repository::Export;
use super::{deadline, health, mount, mount_folder};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::lacking;

/// A folder that is mounted already opens at once, or its NAS hangs.
const DIR_LIMIT: Duration = Duration::from_secs(20);
/// Longer than a mount may take.
const OPEN_LIMIT: Duration = Duration::from_secs(75);

/// An open repository. Clones, and sessions opened meanwhile on the same export, share one mount. It is kept for the
/// configured time after the last of them, for the next; then it is unmounted.
#[derive(Debug, Clone)]
pub struct Session(Arc<SharedMount>);

/// What a session holds; the last of its clones gives the mount to those that are kept.
#[derive(Debug)]
struct SharedMount {
    opened: Arc<OpenExport>,
    keep: Duration,
}

impl Session {
    /// Opens the folder of a `dir`, or mounts the export below the configured folder unless it is mounted already.
    /// `NOT_FOUND`, `PERMISSION_DENIED`, `MOUNT_FAILED`, `NAS_UNRESPONSIVE`.
    pub fn open(export: &Export, config: &Config) -> Result<Session> {
        Session::open_until(Instant::now() + mount::LIMIT, export, config)
    }

    fn open_until(until: Instant, export: &Export, config: &Config) -> Result<Session> {
        let opened = mounts::open(until, export, config, health::check_responsive)?;
        Ok(Session(Arc::new(SharedMount { opened, keep: Duration::from_secs(config.mount_keep_seconds) })))
    }

    /// The same within a deadline: a folder of a hung NAS does not open either. One that did not answer before is asked
    /// no more, `NAS_UNRESPONSIVE`, until it has answered.
    pub fn open_bounded(export: Export, config: Arc<Config>) -> Result<Session> {
        Session::open_within(Duration::MAX, export, config)
    }

    /// The same within `most`, where that is less.
    pub fn open_within(most: Duration, export: Export, config: Arc<Config>) -> Result<Session> {
        health::check_responsive(&export)?;
        let limit = most.min(if export.is_dir() { DIR_LIMIT } else { OPEN_LIMIT });
        // the mount's own error comes first
        let until = Instant::now() + limit / 5 * 4;
        deadline::bounded("open the repository", limit, move || Session::open_until(until, &export, &config))
    }

    /// The repository's root.
    pub fn root(&self) -> &Folder {
        &self.0.opened.root
    }

    /// Bytes that are free in it; all that there could be where the NAS does not tell.
    pub fn free(&self) -> Result<u64> {
        Ok(self.root().room()?.map_or(u64::MAX, |room| room.available))
    }

    /// Has a Btrfs do what it has put off: it shows the room that a removal gives back with its next commit, half a minute
    /// later. Others show it at once, and would write all that the guests of this host have written there.
    pub fn sync(&self) -> Result<()> {
        const BTRFS: i64 = 0x9123_683e;
        let root = self.root();
        if !rustix::fs::fstatfs(root).is_ok_and(|told| told.f_type == BTRFS) {
            return Ok(());
        }
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

/// Clears the mounts that processes have left that were killed.
pub fn clear_left(config: &Config) {
    mount_folder::sweep(config);
}
