//! The private folder of one mount: the mount point and, while `mount` needs them, the credentials. A sweep clears what
//! processes that were killed have left.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use rustix::mount::UnmountFlags;

use crate::config::Config;
use crate::config::FILE_MODE;
use crate::config::FOLDER_MODE;
use crate::error::{Error, Result};
use crate::host::{RunDir, RunDirs, make_folder};
use crate::{host, mountinfo, sys};

const POINT: &str = "mount";
const CREDENTIALS: &str = "credentials";
/// The mode of such a folder: this host's users get no rights by the modes of an export's files.
const ROOT_ONLY: u32 = 0o700;
/// The mode of a folder that QEMU's group may pass through.
const ROOT_AND_GROUP_ONLY: u32 = 0o710;
/// The most mounts on top of each other that are unmounted from a mount point that was left.
const MOST_MOUNTS: usize = 16;

/// The folders of this process.
static LIVE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
static AT_EXIT: Once = Once::new();
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// The folder of one mount. Its drop unmounts what is mounted there and removes the folder.
#[derive(Debug)]
pub(super) struct MountFolder {
    dir: RunDir,
}

impl MountFolder {
    /// Makes a folder below `mount_dir`, and `mount_dir` if it is missing.
    pub(super) fn make(mount_dir: &Path) -> Result<MountFolder> {
        let step = "make the mount point";
        if !mount_dir.is_dir() {
            let above = mount_dir.parent().unwrap_or(mount_dir);
            let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(above);
            made.and_then(|()| make_folder(mount_dir, FOLDER_MODE))
                .or_else(|e| if e.kind() == ErrorKind::AlreadyExists { Ok(()) } else { Err(e) })
                .map_err(|e| Error::io(step, mount_dir, e))?;
        }
        let dir = all(mount_dir).make(step)?;
        live().insert(dir.path().to_owned());
        let folder = MountFolder { dir };
        clear_at_exit();
        make_folder(&folder.point(), ROOT_ONLY).map_err(|e| Error::io(step, folder.point(), e))?;
        Ok(folder)
    }

    /// Lets only QEMU, which runs as `owner`, pass through to the mount; lets everybody pass if `owner` is unknown.
    pub(super) fn let_qemu_pass(&self, owner: Option<(u32, u32)>) -> io::Result<()> {
        if let Some((_, group)) = owner {
            chown(self.dir.path(), None, Some(group))?;
        }
        let mode = if owner.is_some() { ROOT_AND_GROUP_ONLY } else { FOLDER_MODE };
        fs::set_permissions(self.dir.path(), Permissions::from_mode(mode))
    }

    /// The mount point.
    pub(super) fn point(&self) -> PathBuf {
        self.dir.path().join(POINT)
    }

    /// Writes credentials into a file that only root can read. The drop of the result removes the file.
    pub(super) fn write_credentials(&self, text: &str) -> Result<Credentials> {
        let step = "write the credentials";
        let path = self.dir.path().join(CREDENTIALS);
        let made = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path);
        let mut file = made.map_err(|e| Error::io(step, &path, e))?;
        let credentials = Credentials { path };
        file.write_all(text.as_bytes()).map_err(|e| Error::io(step, &credentials.path, e))?;
        Ok(credentials)
    }
}

impl Drop for MountFolder {
    fn drop(&mut self) {
        live().remove(self.dir.path());
        // the next sweep removes what can't be removed now
        if let Err(error) = clear(self.dir.path()) {
            log::warn!("unable to remove '{}', leaving it to the next sweep: {error}", self.dir.path().display());
        }
    }
}

/// Where the folders of all mounts of this host lie.
fn all(mount_dir: &Path) -> RunDirs {
    let (setting, all) = (Some(("mountDir", mount_dir.to_owned())), mountinfo::resolved(mount_dir));
    RunDirs { setting, all, prefix: "nas-", mode: ROOT_ONLY }
}

fn live() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Registers the unmount of kept mounts at the process's regular exit. The mounts of a killed process are left to the next
/// sweep.
fn clear_at_exit() {
    AT_EXIT.call_once(|| {
        PROCESS.store(std::process::id(), Relaxed);
        if let Err(error) = sys::at_exit(clear_all) {
            log::warn!("unable to register the unmount at exit, leaving kept mounts behind then: {error}");
        }
    });
}

extern "C" fn clear_all() {
    // does nothing in a forked child that exits, and logs nothing, because the log may be gone by now
    if std::process::id() != PROCESS.load(Relaxed) {
        return;
    }
    let cleared = std::panic::catch_unwind(|| {
        for path in LIVE.try_lock().iter().flat_map(|live| live.iter()) {
            clear(path).ok();
        }
    });
    drop(cleared);
}

/// A file with credentials that `mount` reads, so that they appear on no command line.
#[derive(Debug)]
pub(super) struct Credentials {
    path: PathBuf,
}

impl Credentials {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Credentials {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            log::error!("unable to remove the credentials '{}' - {error}", self.path.display());
        }
    }
}

/// Clears what dead processes have left in the configured folder for mounts. Touches nothing else there, no mount elsewhere,
/// and no mount in which a dead backup still has to be undone.
pub(super) fn sweep(config: &Config) {
    all(&config.mount_dir).sweep(
        |_| true,
        |left| {
            // a process makes its record before it dies, so the records are complete once its lock is free
            let is_used = host::begun(&config.state_dir).iter().any(|begun| begun.uses(left.path()));
            if is_used { Ok(false) } else { clear(left.path()).map(|()| true) }
        },
    );
}

/// Detaches what is mounted in the folder at `path`, whether or not the NAS answers, and removes the folder, which nobody uses.
pub(super) fn clear(path: &Path) -> io::Result<()> {
    let point = path.join(POINT);
    for _ in 0..MOST_MOUNTS {
        if !mountinfo::is_mounted(&point)? {
            break;
        }
        rustix::mount::unmount(&point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    let gone = |removed: io::Result<()>| match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    gone(fs::remove_file(path.join(CREDENTIALS)))?;
    gone(fs::remove_dir(point))?;
    gone(fs::remove_dir(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use crate::host::{Begun, HostState};
    use std::process::Command;

    fn config(mount_dir: &Path) -> Config {
        Config { mount_dir: mount_dir.to_owned(), state_dir: mount_dir.join("state"), ..Default::default() }
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn mount_tmpfs(at: &Path) {
        assert!(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(at).status().unwrap().success());
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_sweep_removes_only_what_dead_processes_left() {
        let dir = tempfile::tempdir().unwrap();
        // with its mount still there, twice, and a folder whose making was cut off
        let left = dir.path().join("nas-1-0");
        fs::create_dir_all(left.join(POINT)).unwrap();
        fs::write(left.join(CREDENTIALS), "password=x").unwrap();
        mount_tmpfs(&left.join(POINT));
        mount_tmpfs(&left.join(POINT));
        fs::create_dir(dir.path().join("nas-1-1")).unwrap();
        // of a process that lives, of an administrator, and a link
        let ours = MountFolder::make(dir.path()).unwrap();
        mount_tmpfs(&ours.point());
        let foreign = dir.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        mount_tmpfs(&foreign);
        std::os::unix::fs::symlink("/", dir.path().join("nas-link")).unwrap();

        sweep(&config(dir.path()));
        let own = ours.dir.path().file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(names(dir.path()), ["foreign", &own, "nas-link"]);
        assert!(mountinfo::is_mounted(&ours.point()).unwrap() && mountinfo::is_mounted(&foreign).unwrap());
        drop(ours);
        assert_eq!(names(dir.path()), ["foreign", "nas-link"]);
        rustix::mount::unmount(&foreign, UnmountFlags::DETACH).unwrap();
    }

    #[test]
    fn a_folder_is_made_in_spite_of_concurrent_sweeps() {
        let dir = tempfile::tempdir().unwrap();
        let (config, done) = (config(dir.path()), std::sync::atomic::AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    sweep(&config);
                }
            });
            let made: Vec<_> = (0..1_000).map(|_| MountFolder::make(dir.path()).map(drop)).collect();
            done.store(true, Relaxed);
            made.into_iter().for_each(Result::unwrap);
        });
    }

    #[test]
    fn a_mount_stays_until_the_dead_backup_in_it_is_undone() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join("nas-1-0");
        fs::create_dir_all(left.join(POINT)).unwrap();
        let config = config(dir.path());
        let mut host = HostState::lock(&config.state_dir, "i-1-VM").unwrap();
        let begun = Begun {
            vm: "i-1-VM".into(),
            job: "j".into(),
            root: left.join(POINT),
            point: "i-1-VM/T".into(),
            bitmap: None,
            may_resume: true,
            disks: Vec::new(),
            view: None,
        };
        host.begin(begun).unwrap();
        sweep(&config);
        assert!(left.exists());
        host.end();
        sweep(&config);
        assert!(!left.exists());
    }

    #[test]
    fn a_failed_removal_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let folder = MountFolder::make(dir.path()).unwrap();
        let (path, stray) = (folder.dir.path().to_owned(), folder.point().join("stray"));
        fs::write(&stray, "").unwrap();
        drop(folder);
        assert!(path.exists(), "no file is removed that is not ours");
        fs::remove_file(stray).unwrap();
        sweep(&config(dir.path()));
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn nothing_is_mounted_where_others_may_write() {
        let dir = tempfile::tempdir().unwrap();
        let (open, mounts) = (dir.path().join("open"), dir.path().join("open/mounts"));
        fs::create_dir(&open).unwrap();
        for (mode, refused) in [(0o775, true), (0o777, true), (0o1777, false), (0o755, false)] {
            fs::set_permissions(&open, Permissions::from_mode(mode)).unwrap();
            let config = Config { mount_dir: mounts.clone(), ..Config::default() };
            let answers = [config.check_folders(), MountFolder::make(&mounts).map(drop)];
            for answer in answers {
                let named = answer.err().map(|error| (error.code, error.cause.starts_with("mountDir: ")));
                assert_eq!(named, refused.then_some((Code::InvalidArgument, true)), "{mode:o}");
            }
        }
        // what is anybody's is none of ours
        fs::set_permissions(&mounts, Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(MountFolder::make(&mounts).unwrap_err().code, Code::InvalidArgument);
        fs::create_dir(mounts.join("nas-1-0")).unwrap();
        sweep(&config(&mounts));
        assert_eq!(names(&mounts), ["nas-1-0"]);
    }

    #[test]
    fn credentials_lie_in_a_private_file_as_long_as_they_are_needed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = MountFolder::make(dir.path()).unwrap();
        let credentials = folder.write_credentials("password=x\n").unwrap();
        let path = credentials.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read(&path).unwrap(), b"password=x\n");
        drop(credentials);
        assert!(!path.exists());
    }
}
