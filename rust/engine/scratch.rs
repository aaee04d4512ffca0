//! A folder on the host's own disk for one pull backup: QEMU's socket, and the blocks that the guest overwrites meanwhile.

use std::fs::{self, DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::fs::{FlockOperation, flock};

use crate::config::Config;
use crate::error::{Error, Result};

const STEP: &str = "make the scratch folder";
/// Longest path of a unix socket: `sockaddr_un` without its NUL.
const LONGEST_SOCKET: usize = 107;

/// The folder; dropped, it goes with all that is in it.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
    /// Says that somebody still uses it.
    _lock: File,
}

impl Scratch {
    /// Makes the folder for `owner`, the user and group of QEMU (`None`: ours), below the configured one. What killed
    /// processes have left there is removed.
    pub fn make(config: &Config, owner: Option<(u32, u32)>) -> Result<Scratch> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let all = make_root(config)?;
        let io = |path: &Path| {
            let path = path.to_owned();
            move |e: std::io::Error| Error::io(STEP, path, e)
        };
        // Held until ours has its lock: else another would take it for a leftover.
        let root = File::open(&all).map_err(io(&all))?;
        flock(&root, FlockOperation::LockExclusive).map_err(|e| Error::io(STEP, &all, e))?;
        sweep(&all).map_err(io(&all))?;
        let folder = all.join(format!("{}-{}", std::process::id(), MADE.fetch_add(1, Relaxed)));
        if folder.join("nbd").as_os_str().len() > LONGEST_SOCKET || folder.to_str().is_none() {
            let cause = format!("'{}' is too long, or not UTF-8, for the path of a socket in it", all.display());
            return Err(Error::invalid("scratchDir", cause));
        }
        DirBuilder::new().mode(0o700).create(&folder).map_err(io(&folder))?;
        let lock = File::open(&folder).map_err(io(&folder))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|e| Error::io(STEP, &folder, e))?;
        let scratch = Scratch { folder, _lock: lock };
        if let Some((user, group)) = owner {
            chown(&scratch.folder, Some(user), Some(group)).map_err(io(&scratch.folder))?;
        }
        Ok(scratch)
    }

    /// Path of the socket.
    pub fn socket(&self) -> String {
        self.path("nbd")
    }

    /// Path of the scratch file of the disk `target`.
    pub fn file(&self, target: &str) -> String {
        self.path(&format!("{target}.qcow2"))
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).into_os_string().into_string().expect("checked when it was made")
    }

    /// Bytes that are free in it.
    pub fn free(&self) -> Result<u64> {
        let found = rustix::fs::statvfs(&self.folder);
        let found = found.map_err(|e| Error::io("look at the scratch folder", &self.folder, e))?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            log::error!("the scratch folder '{}' could not be removed: {error}", self.folder.display());
        }
    }
}

/// The folder that holds those of all backups of this host; QEMU's user can pass through it.
fn make_root(config: &Config) -> Result<PathBuf> {
    let (root, given) = match &config.scratch_dir {
        Some(given) => (given.clone(), true),
        None => (config.state_dir.join("scratch"), false),
    };
    let make = || -> std::io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o711).create(&root)?;
        if !given {
            for path in [&config.state_dir, &root] {
                let mode = fs::metadata(path)?.permissions().mode();
                fs::set_permissions(path, Permissions::from_mode(mode | 0o011))?;
            }
        }
        Ok(())
    };
    make().map_err(|e| Error::io(STEP, &root, e))?;
    Ok(root)
}

/// Removes the folders of ours that nobody holds.
fn sweep(all: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(all)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let ours = name.split_once('-').is_some_and(|(process, number)| {
            [process, number].iter().all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
        });
        if !ours || !path.symlink_metadata()?.is_dir() {
            continue;
        }
        match File::open(&path) {
            Ok(folder) if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() => {
                log::warn!("removing '{}', left by a backup that ended early", path.display());
                fs::remove_dir_all(&path)?;
            }
            // Held, or gone meanwhile.
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn config(folder: &Path) -> Config {
        Config { state_dir: folder.join("state"), ..Default::default() }
    }

    fn names(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn it_is_private_to_qemu_s_user_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        DirBuilder::new().mode(0o700).create(&config.state_dir).unwrap();
        let scratch = Scratch::make(&config, Some((64055, 64056))).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let root = config.state_dir.join("scratch");
        assert_eq!((mode(&config.state_dir), mode(&root), mode(&scratch.folder)), (0o711, 0o711, 0o700));
        let owner = fs::metadata(&scratch.folder).unwrap();
        assert_eq!((owner.uid(), owner.gid()), (64055, 64056));
        assert!(scratch.free().unwrap() > 0);
        fs::write(scratch.file("vda"), "x").unwrap();
        drop(scratch);
        assert_eq!(names(&root), 0);
    }

    #[test]
    fn leftovers_go_and_what_is_used_or_somebody_else_s_stays() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let root = config.state_dir.join("scratch");
        let used = Scratch::make(&config, None).unwrap();
        fs::create_dir_all(root.join("1-1")).unwrap();
        fs::write(root.join("1-1/vda.qcow2"), "x").unwrap();
        fs::create_dir(root.join("other")).unwrap();
        let second = Scratch::make(&config, None).unwrap();
        assert!(used.folder.exists() && second.folder.exists() && root.join("other").exists());
        assert_eq!(names(&root), 3);
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { scratch_dir: Some(dir.path().join("x".repeat(100))), ..config(dir.path()) };
        let error = Scratch::make(&config, None).unwrap_err();
        assert!(error.cause.starts_with("scratchDir:"), "{error}");
    }
}
