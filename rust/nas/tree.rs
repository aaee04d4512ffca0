//! Mounts that are attached nowhere yet. The library confines a mount before it attaches it, because the copies of the mount in
//! other mount namespaces, such as QEMU's, keep the flags of that moment.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Once;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use crate::error::{Error, Result};
use crate::sys;

/// No file on a NAS is a device or a program of this host.
const CONFINED: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NODEV.union(MountAttrFlags::MOUNT_ATTR_NOSUID).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
const NO_LINKS: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW;

/// A copy of a mount, or of a folder as a mount, with what is mounted below it.
pub(super) struct Tree(OwnedFd);

impl Tree {
    /// Copies an open folder.
    pub(super) fn of(folder: BorrowedFd<'_>) -> rustix::io::Result<Tree> {
        clone(folder, "", OpenTreeFlags::AT_EMPTY_PATH)
    }

    /// Copies what is mounted at `point`.
    pub(super) fn at(point: &Path) -> rustix::io::Result<Tree> {
        clone(CWD, point, OpenTreeFlags::AT_SYMLINK_NOFOLLOW)
    }

    /// Tells the kernel to follow no symbolic link in the tree. False if the kernel is older than Linux 5.14.
    pub(super) fn follow_no_links(&self) -> rustix::io::Result<bool> {
        match sys::make_mounts_private(self.0.as_fd(), NO_LINKS) {
            // an older kernel lacks the flag, or the system call
            Err(error @ (Errno::INVAL | Errno::NOSYS)) => {
                tell_lack(error);
                Ok(false)
            }
            set => set.map(|()| true),
        }
    }

    /// Tells the kernel to treat no file of the tree as a device or a program.
    pub(super) fn confine(&self) -> rustix::io::Result<()> {
        match sys::make_mounts_private(self.0.as_fd(), CONFINED) {
            Err(Errno::NOSYS) => Ok(()),
            set => set,
        }
    }

    /// Mounts the tree at `point`.
    pub(super) fn attach(self, point: &Path) -> rustix::io::Result<()> {
        rustix::mount::move_mount(self.0, "", CWD, point, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
    }
}

fn clone(from: BorrowedFd<'_>, path: impl rustix::path::Arg, flags: OpenTreeFlags) -> rustix::io::Result<Tree> {
    let flags = flags | OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    rustix::mount::open_tree(from, path, flags).map(Tree)
}

/// Logs once that the kernel follows links in mounts.
pub(super) fn tell_lack(error: Errno) {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        log::warn!(
            "this kernel lacks nosymfollow, or does not let us have it: by push, QEMU and libvirt follow a link that \
             somebody puts in the place of a target - {error}"
        );
    });
}

/// True if this kernel can follow no links in a mount. Tries that on a mount that nobody sees.
pub fn knows_nosymfollow() -> Result<bool> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tried = rustix::mount::open_tree(CWD, "/", flags)
        .and_then(|tree| sys::make_mounts_private(tree.as_fd(), MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW));
    match tried {
        Err(Errno::INVAL | Errno::NOSYS) => Ok(false),
        tried => tried.map(|()| true).map_err(|e| Error::io("ask for nosymfollow", "/", e)),
    }
}
