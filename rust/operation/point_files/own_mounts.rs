//! Mounts that no other process sees. They end with this process, however that ends, and so does what it makes on them.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount};

use crate::config;
use crate::error::{Code, Error, Result};
use crate::sys;

const STEP: &str = "make mounts of its own";

/// This process has mounts of its own.
#[derive(Debug)]
pub struct OwnMounts(());

/// Folders in memory, in the place of the host's folder for mounts.
#[derive(Debug)]
pub(super) struct OwnFolders {
    /// For the point's disks.
    pub(super) disks: PathBuf,
    /// For a file system of the guest's.
    pub(super) root: PathBuf,
    /// For what tools put down meanwhile.
    pub(super) scratch: PathBuf,
}

impl OwnMounts {
    /// Parts with the host's mounts. To be called before anything else: a thread that runs already would keep them.
    pub fn make() -> Result<OwnMounts> {
        let io = |e| Error::io(STEP, "/proc/self/task", e);
        if fs::read_dir("/proc/self/task").map_err(io)?.count() > 1 {
            return Err(Error::new(Code::Internal, STEP, "other threads run"));
        }
        sys::part_with_mounts().map_err(|e| match Error::io(STEP, "/", e) {
            denied if denied.code == Code::PermissionDenied => Error { cause: "run as root".to_owned(), ..denied },
            other => other,
        })?;
        Ok(OwnMounts(()))
    }

    /// Covers the host's folder for mounts. What is mounted there from now on lies in this one.
    pub(super) fn cover(self) -> Result<OwnFolders> {
        let at = &config::current().mount_dir;
        let make = |path: &Path| fs::create_dir_all(path).map_err(|e| Error::io(STEP, path, e));
        make(at)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("nasbackup", at, "tmpfs", flags, c"mode=711,size=256m").map_err(|e| Error::io(STEP, at, e))?;
        let folders = OwnFolders { disks: at.join("disks"), root: at.join("root"), scratch: at.join("scratch") };
        [&folders.disks, &folders.root, &folders.scratch].into_iter().try_for_each(|path| make(path))?;
        Ok(folders)
    }
}
