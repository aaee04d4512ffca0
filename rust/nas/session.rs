//! Access to a repository for as long as somebody needs it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::deadline;
use super::folder::Folder;
use super::mount::Mount;
use super::repository::Export;
use crate::config::Config;
use crate::error::{Code, Error, Result};

/// A folder that is mounted already opens at once, or its NAS hangs.
const DIR_LIMIT: Duration = Duration::from_secs(20);
/// Longer than a mount may take, so that its own error comes first.
const OPEN_LIMIT: Duration = Duration::from_secs(75);

/// An open repository. Clones, and sessions opened meanwhile on the same export, share one mount; the last to go
/// unmounts it.
#[derive(Debug, Clone)]
pub struct Session(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    // in this order: an open folder would keep the mount busy
    root: Folder,
    _mount: Option<Mount>,
}

/// The mounts of this process. Each has its own lock, so that one NAS that does not answer holds up no other.
type Mounts = HashMap<(Export, PathBuf), Arc<Mutex<Weak<Opened>>>>;
static MOUNTS: LazyLock<Mutex<Mounts>> = LazyLock::new(Mutex::default);

impl Session {
    /// Opens the folder of a `dir`, or mounts the export below the configured folder unless it is mounted already.
    /// `NOT_FOUND`, `PERMISSION_DENIED`, `MOUNT_FAILED`, `NAS_UNRESPONSIVE`.
    pub fn open(export: &Export, config: &Config) -> Result<Session> {
        if export.is_dir() {
            let root = open_root(Path::new(export.address()))?;
            return Ok(Session(Arc::new(Opened { root, _mount: None })));
        }
        let slot = slot(export, &config.mount_dir);
        let mut shared = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = shared.upgrade() {
            return Ok(Session(opened));
        }
        let mount = Mount::make(export, &config.mount_dir)?;
        let opened = Arc::new(Opened { root: open_root(mount.path())?, _mount: Some(mount) });
        *shared = Arc::downgrade(&opened);
        Ok(Session(opened))
    }

    /// The same within a deadline: a folder of a hung NAS does not open either.
    pub fn open_bounded(export: Export, config: Arc<Config>) -> Result<Session> {
        let limit = if export.is_dir() { DIR_LIMIT } else { OPEN_LIMIT };
        deadline::bounded("open the repository", limit, move || Session::open(&export, &config))
    }

    /// The repository's root.
    pub fn root(&self) -> &Folder {
        &self.0.root
    }
}

/// The place of an export in the table; places that nobody uses any more are cleared.
fn slot(export: &Export, mount_dir: &Path) -> Arc<Mutex<Weak<Opened>>> {
    let mut mounts = MOUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    // a place that only the table knows is not locked
    mounts.retain(|_, slot| {
        Arc::strong_count(slot) > 1 || slot.lock().unwrap_or_else(PoisonError::into_inner).strong_count() > 0
    });
    mounts.entry((export.clone(), mount_dir.to_owned())).or_default().clone()
}

fn open_root(path: &Path) -> Result<Folder> {
    Folder::open_root(path).map_err(|error| match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => {
            Error::new(Code::Io, "open the repository", format!("'{}' is not a folder", path.display()))
        }
        _ => Error { step: "open the repository", ..error },
    })
}
