//! The mounts of this process. Callers share one mount of an export; it is kept for a while after the last of them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Instant;

use super::denied;
use super::folder::{Folder, Room};
use super::fstab;
use super::mount::{self, Mount};
use super::repository::Export;
use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::panics::caught;

/// An export that is open.
#[derive(Debug)]
pub(super) struct OpenExport {
    // dropped in this order: an open folder would keep the mount busy
    pub(super) root: Folder,
    pub(super) mount: Option<Mount>,
}

/// The mounts of this process. Each has its own lock, so that a NAS that does not answer delays no other.
type Mounts = HashMap<(Export, PathBuf), Arc<MountSlot>>;
static MOUNTS: LazyLock<Mutex<Mounts>> = LazyLock::new(Mutex::default);

impl OpenExport {
    /// The room, if the mount can still be used. Somebody may have unmounted it, and a server that was set up anew rejects its
    /// handles.
    fn room_if_alive(&self) -> Option<Option<Room>> {
        self.mount.as_ref().is_none_or(Mount::is_there).then(|| self.root.room().ok()).flatten()
    }
}

/// Opens the repository, and tells its room if that was asked for. Calls `admit` before a mount, because the caller may have waited
/// for others on the same export.
pub(super) fn open(
    until: Instant,
    export: &Export,
    config: &Config,
    admit: impl Fn(&Export) -> Result<()>,
) -> Result<(Arc<OpenExport>, Option<Room>)> {
    if export.is_dir() {
        let folder = Path::new(export.address());
        let root = open_root(folder)?;
        fstab::check_mounted(folder, &root)?;
        return Ok((Arc::new(OpenExport { root, mount: None }), None));
    }
    let slot = slot(export, &config.mount_dir);
    let mut dead = Weak::new();
    loop {
        match slot.find(export, &dead, until)? {
            // each caller asks the NAS itself: a hung NAS delays only its askers, and each reports that itself
            FoundMount::Opened(opened) => match opened.room_if_alive() {
                Some(room) => return Ok((opened, room)),
                None => {
                    log::warn!("mounting {export} anew: its mount can't be used any more");
                    dead = Arc::downgrade(&opened);
                }
            },
            FoundMount::Turn(turn) => {
                admit(export)?;
                return Ok((turn.make(export, config, until)?, None));
            }
        }
    }
}

/// One export's mount, which one caller at a time makes.
#[derive(Debug, Default)]
struct MountSlot {
    place: Mutex<MountState>,
    given_back: Condvar,
}

#[derive(Debug, Default)]
struct MountState {
    opened: Weak<OpenExport>,
    /// True while somebody mounts the export.
    taken: bool,
    /// The last error of whoever mounts the export, or has tried to.
    last_error: Option<Error>,
}

/// What a caller finds: the mount, or the turn to make it.
enum FoundMount {
    Opened(Arc<OpenExport>),
    Turn(Turn),
}

impl MountSlot {
    fn lock(&self) -> MutexGuard<'_, MountState> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mount, unless it is the `dead` one, or the turn to make it. Waits until `until` for whoever has the turn, and fails
    /// with the error of those who tried.
    fn find(self: &Arc<MountSlot>, export: &Export, dead: &Weak<OpenExport>, until: Instant) -> Result<FoundMount> {
        let place = self.lock();
        let (waits, left) = (place.taken, until.saturating_duration_since(Instant::now()));
        let (mut place, _) = self
            .given_back
            .wait_timeout_while(place, left, |place| place.taken)
            .unwrap_or_else(PoisonError::into_inner);
        if !place.opened.ptr_eq(dead)
            && let Some(opened) = place.opened.upgrade()
        {
            return Ok(FoundMount::Opened(opened));
        }
        if place.taken || (waits && place.last_error.is_some() && mount::is_too_late(until)) {
            return Err(mount::waited_in_vain(export, place.last_error.clone()));
        }
        (place.taken, place.last_error) = (true, None);
        Ok(FoundMount::Turn(Turn(self.clone())))
    }
}

/// The turn to mount the export. Its drop gives the turn to the next caller.
struct Turn(Arc<MountSlot>);

impl Turn {
    fn make(self, export: &Export, config: &Config, until: Instant) -> Result<Arc<OpenExport>> {
        let tell = |error: &Error| self.0.lock().last_error = Some(error.clone());
        let mount = Mount::make(export, config, until, tell)?;
        let opened = Arc::new(OpenExport { root: open_root(&mount.path())?, mount: Some(mount) });
        let mut place = self.0.lock();
        (place.opened, place.last_error) = (Arc::downgrade(&opened), None);
        drop(place);
        Ok(opened)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.lock().taken = false;
        self.0.given_back.notify_all();
    }
}

/// Asks the repository something that only the NAS can answer.
pub(super) fn probe(export: &Export, config: &Config) -> Result<()> {
    let (opened, _) = open(Instant::now() + limits::MOUNT, export, config, |_| Ok(()))?;
    opened.root.room().map(drop).map_err(|error| Error { step: "ask the repository", ..error })
}

/// The slot of an export in the table. Removes slots that nobody uses any more.
fn slot(export: &Export, mount_dir: &Path) -> Arc<MountSlot> {
    let mut mounts = MOUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    // under the table's lock nobody can take a slot that only the table holds
    mounts.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.lock().opened.strong_count() > 0);
    mounts.entry((export.clone(), mount_dir.to_owned())).or_default().clone()
}

fn open_root(path: &Path) -> Result<Folder> {
    Folder::open_root(path).map_err(|error| match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => {
            Error::new(Code::Io, "open the repository", format!("'{}' is not a folder", path.display()))
        }
        _ => Error { step: "open the repository", ..denied::explain_reading(error, path) },
    })
}

/// Mounts that nobody uses, with the end of their time, and whether a thread waits for that.
#[derive(Debug)]
struct Kept {
    mounts: Vec<(Arc<OpenExport>, Instant)>,
    watched: bool,
}

static KEPT: Mutex<Kept> = Mutex::new(Kept { mounts: Vec::new(), watched: false });
static KEPT_MORE: Condvar = Condvar::new();

fn kept() -> MutexGuard<'static, Kept> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps a mount until this moment, or longer if somebody uses it again meanwhile.
pub(super) fn keep(opened: Arc<OpenExport>, until: Instant) {
    let mut kept = kept();
    match kept.mounts.iter_mut().find(|(other, _)| Arc::ptr_eq(other, &opened)) {
        Some((_, time)) => *time = until.max(*time),
        None => kept.mounts.push((opened, until)),
    }
    if !kept.watched {
        let watch = thread::Builder::new().name("kept mounts".to_owned()).spawn(unmount_in_time);
        kept.watched = watch.is_ok();
        if let Err(error) = watch {
            log::error!("unable to start the thread that unmounts, keeping no mount: {error}");
            let mounts = std::mem::take(&mut kept.mounts);
            drop(kept);
            drop(mounts);
            return;
        }
    }
    KEPT_MORE.notify_all();
}

/// Unmounts kept mounts when their time is over; ends after the last.
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
        // without the lock, because an unmount may take long; a panic in a drop must not end this thread
        let over: Vec<(Arc<OpenExport>, Instant)> = over;
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

/// Unmounts all kept mounts now.
#[cfg(test)]
pub(super) fn unmount_kept() {
    let mounts = std::mem::take(&mut kept().mounts);
    drop(mounts);
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;
    use crate::nas::health;
    use crate::nas::repository::Repository;

    /// The program of a type of file systems that is refused until its folder has a file `end`, and is denied then.
    const REFUSED: &str = r#"#!/bin/sh
if [ -e "${0%/*}/end" ]; then echo 'access denied by server' >&2; else echo 'Connection refused' >&2; fi
exit 32
"#;

    #[test]
    fn a_waiting_caller_gets_the_others_error_within_its_own_time() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("refused");
        fs::write(&program, REFUSED).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        let address = Some(format!("{}#", program.display()));
        let export = Repository { kind: Some("fuse".into()), address, options: None };
        let export = Repository::check(Some(export)).unwrap();
        let config = Config { mount_dir: dir.path().join("mounts"), mount_keep_seconds: 0, ..Default::default() };
        let open = |until| open(until, &export, &config, health::check_responsive).map(drop);
        thread::scope(|scope| {
            let first = scope.spawn(|| open(Instant::now() + limits::MOUNT));
            let slot = slot(&export, &config.mount_dir);
            while slot.lock().last_error.is_none() {
                assert!(!first.is_finished());
                thread::yield_now();
            }
            let error = open(Instant::now() + Duration::from_millis(100)).unwrap_err();
            fs::write(dir.path().join("end"), "").unwrap();
            assert_eq!(error.code, Code::MountFailed);
            assert!(error.cause.contains("other calls") && error.cause.contains("Connection refused"), "{error}");
            let error = first.join().unwrap().unwrap_err();
            assert!(error.code == Code::MountFailed && error.cause.contains("access denied"), "{error}");
        });
    }
}
