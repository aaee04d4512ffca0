//! Access to a repository for as long as somebody needs it, and its mount for a while longer.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use log::Level;

use super::folder::Folder;
use super::mount::Mount;
use super::repository::Export;
use super::{deadline, health, mount_folder};
use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::lacking;
use crate::panics::caught;

/// A folder that is mounted already opens at once, or its NAS hangs.
const DIR_LIMIT: Duration = Duration::from_secs(20);
/// Longer than a mount may take, so that its own error comes first.
const OPEN_LIMIT: Duration = Duration::from_secs(75);

/// An open repository. Clones, and sessions opened meanwhile on the same export, share one mount. It is kept for the
/// configured time after the last of them, for the next; then it is unmounted.
#[derive(Debug, Clone)]
pub struct Session(Arc<Use>);

/// What a session holds; the last of its clones gives the mount to those that are kept.
#[derive(Debug)]
struct Use {
    opened: Arc<Opened>,
    keep: Duration,
}

#[derive(Debug)]
struct Opened {
    // in this order: an open folder would keep the mount busy
    root: Folder,
    mount: Option<Mount>,
}

/// The mounts of this process. Each has its own lock, so that one NAS that does not answer holds up no other.
type Mounts = HashMap<(Export, PathBuf), Arc<Mutex<Weak<Opened>>>>;
static MOUNTS: LazyLock<Mutex<Mounts>> = LazyLock::new(Mutex::default);

impl Session {
    /// Opens the folder of a `dir`, or mounts the export below the configured folder unless it is mounted already.
    /// `NOT_FOUND`, `PERMISSION_DENIED`, `MOUNT_FAILED`, `NAS_UNRESPONSIVE`.
    pub fn open(export: &Export, config: &Config) -> Result<Session> {
        let opened = open(export, config, health::admit)?;
        Ok(Session(Arc::new(Use { opened, keep: Duration::from_secs(config.mount_keep_seconds) })))
    }

    /// The same within a deadline: a folder of a hung NAS does not open either. One that did not answer before is asked
    /// no more, `NAS_UNRESPONSIVE`, until it has answered.
    pub fn open_bounded(export: Export, config: Arc<Config>) -> Result<Session> {
        Session::open_within(Duration::MAX, export, config)
    }

    /// The same within `most`, where that is less.
    pub fn open_within(most: Duration, export: Export, config: Arc<Config>) -> Result<Session> {
        health::admit(&export)?;
        let limit = if export.is_dir() { DIR_LIMIT } else { OPEN_LIMIT };
        deadline::bounded("open the repository", limit.min(most), move || Session::open(&export, &config))
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

impl Drop for Use {
    fn drop(&mut self) {
        if self.opened.mount.is_some() && !self.keep.is_zero() {
            keep(self.opened.clone(), Instant::now() + self.keep);
        }
    }
}

impl Opened {
    /// Can it be used still? Somebody may have unmounted it, and a server that was set up anew knows its handles no more.
    fn is_alive(&self) -> bool {
        self.mount.as_ref().is_none_or(Mount::is_there) && self.root.room().is_ok()
    }
}

/// Opens the repository; `admit` is asked again by those who have waited for others on the same export.
fn open(export: &Export, config: &Config, admit: impl Fn(&Export) -> Result<()>) -> Result<Arc<Opened>> {
    if export.is_dir() {
        let root = open_root(Path::new(export.address()))?;
        return Ok(Arc::new(Opened { root, mount: None }));
    }
    let slot = slot(export, &config.mount_dir);
    let mut shared = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(opened) = shared.upgrade() {
        if opened.is_alive() {
            return Ok(opened);
        }
        log::warn!("{export} is mounted anew: its mount can't be used any more");
    }
    admit(export)?;
    let mount = Mount::make(export, config)?;
    let opened = Arc::new(Opened { root: open_root(&mount.path())?, mount: Some(mount) });
    *shared = Arc::downgrade(&opened);
    Ok(opened)
}

/// Asks the repository something that only it can answer.
pub(super) fn probe(export: &Export, config: &Config) -> Result<()> {
    let opened = open(export, config, |_| Ok(()))?;
    opened.root.room().map(drop).map_err(|error| Error { step: "ask the repository", ..error })
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
        _ if error.code == Code::PermissionDenied => {
            let user = rustix::process::geteuid().as_raw();
            let advice = "can't read it: give the right to it, or to the user that the export makes of it";
            let cause = format!("{}; user {user}, as which this process runs, {advice}", error.cause);
            Error { step: "open the repository", cause, ..error }
        }
        _ => Error { step: "open the repository", ..error },
    })
}

/// Mounts that nobody uses, kept until their time is over, and whether a thread waits for that.
#[derive(Debug)]
struct Kept {
    mounts: Vec<(Arc<Opened>, Instant)>,
    watched: bool,
}

static KEPT: Mutex<Kept> = Mutex::new(Kept { mounts: Vec::new(), watched: false });
static KEPT_MORE: Condvar = Condvar::new();

fn kept() -> MutexGuard<'static, Kept> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps a mount until that moment. Who uses it again meanwhile gives it back later, and its time begins anew.
fn keep(opened: Arc<Opened>, until: Instant) {
    let mut kept = kept();
    match kept.mounts.iter_mut().find(|(other, _)| Arc::ptr_eq(other, &opened)) {
        Some((_, time)) => *time = until.max(*time),
        None => kept.mounts.push((opened, until)),
    }
    if !kept.watched {
        let watch = thread::Builder::new().name("kept mounts".to_owned()).spawn(unmount_in_time);
        kept.watched = watch.is_ok();
        if let Err(error) = watch {
            log::error!("no mount is kept - {error}");
            let mounts = std::mem::take(&mut kept.mounts);
            drop(kept);
            drop(mounts);
            return;
        }
    }
    KEPT_MORE.notify_all();
}

/// Lets mounts go when their time is over; ends with the last.
fn unmount_in_time() {
    let mut kept = kept();
    while let Some(next) = kept.mounts.iter().map(|(_, until)| *until).min() {
        let now = Instant::now();
        if next > now {
            kept = KEPT_MORE.wait_timeout(kept, next - now).unwrap_or_else(PoisonError::into_inner).0;
            continue;
        }
        let (over, rest) = std::mem::take(&mut kept.mounts).into_iter().partition(|(_, until)| *until <= now);
        kept.mounts = rest;
        drop(kept);
        // an unmount may take its time, and panics of a drop must not end the others' watch
        let over: Vec<(Arc<Opened>, Instant)> = over;
        let dropped = caught(|| {
            drop(over);
            Ok(())
        });
        if let Err(error) = dropped {
            log::error!("{error}");
        }
        kept = self::kept();
    }
    kept.watched = false;
}

/// Clears the mounts that processes have left that were killed.
pub fn clear_left(config: &Config) {
    mount_folder::sweep(config);
}

/// Lets all mounts go that nobody uses, now.
#[cfg(test)]
pub(super) fn unmount_kept() {
    let mounts = std::mem::take(&mut kept().mounts);
    drop(mounts);
}
