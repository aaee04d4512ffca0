//! Mounts that are attached nowhere yet. What confines a mount is set before anybody sees it: the copies of it in other mount
//! namespaces, such as QEMU's, keep what it had when it was attached.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Once;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use crate::error::{Error, Result};
use crate::sys;

/// Nothing on a NAS is a device or a program of this host.
const CONFINED: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NODEV.union(MountAttrFlags::MOUNT_ATTR_NOSUID).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
const NO_LINKS: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW;

/// A folder, with what is mounted below it, once more.
pub(super) struct Tree(OwnedFd);

impl Tree {
    /// Of the open folder.
    pub(super) fn of(folder: BorrowedFd<'_>) -> rustix::io::Result<Tree> {
        clone(folder, "", OpenTreeFlags::AT_EMPTY_PATH)
    }

    /// Of what is mounted at `point`.
    pub(super) fn at(point: &Path) -> rustix::io::Result<Tree> {
        clone(CWD, point, OpenTreeFlags::AT_SYMLINK_NOFOLLOW)
    }

    /// Has the kernel follow no symbolic link in it, for nobody. False where it does not know how to (Linux 5.14).
    pub(super) fn follow_no_links(&self) -> rustix::io::Result<bool> {
        match sys::make_mounts_private(self.0.as_fd(), NO_LINKS) {
            // an older one, which does not know the flag, or not the call
            Err(error @ (Errno::INVAL | Errno::NOSYS)) => {
                tell_lack(error);
                Ok(false)
            }
            set => set.map(|()| true),
        }
    }

    /// Takes devices and programs out of it.
    pub(super) fn confine(&self) -> rustix::io::Result<()> {
        match sys::make_mounts_private(self.0.as_fd(), CONFINED) {
            Err(Errno::NOSYS) => Ok(()),
            set => set,
        }
    }

    /// Mounts it at `point`.
    pub(super) fn attach(self, point: &Path) -> rustix::io::Result<()> {
        rustix::mount::move_mount(self.0, "", CWD, point, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
    }
}

fn clone(from: BorrowedFd<'_>, path: impl rustix::path::Arg, flags: OpenTreeFlags) -> rustix::io::Result<Tree> {
    let flags = flags | OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    rustix::mount::open_tree(from, path, flags).map(Tree)
}

/// Logs, once, that links are followed in what is mounted.
pub(super) fn tell_lack(error: Errno) {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        log::warn!(
            "this kernel lacks nosymfollow, or does not let us have it: by push, QEMU and libvirt follow a link that \
             somebody puts in the place of a target - {error}"
        );
    });
}

/// Can this kernel be kept from following links in a mount? Tried on one that nobody sees.
pub fn knows_nosymfollow() -> Result<bool> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tried = rustix::mount::open_tree(CWD, "/", flags)
        .and_then(|tree| sys::make_mounts_private(tree.as_fd(), MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW));
    match tried {
        Err(Errno::INVAL | Errno::NOSYS) => Ok(false),
        tried => tried.map(|()| true).map_err(|e| Error::io("ask for nosymfollow", "/", e)),
    }
}
