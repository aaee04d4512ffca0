//! Which kind of file system a file lies on.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::StatFs;

use crate::mountinfo;

/// The kind of file system, which says whose rules apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FsKind {
    Nfs,
    Cifs,
    /// A `dir` on a disk of this host, or any other.
    Other,
}

const NFS: i64 = 0x6969;
/// The types that the kernel's CIFS client reports, for SMB 1 and for later versions.
const CIFS: [i64; 2] = [0xFF53_4D42, 0xFE53_4D42];

/// True if what `file` lies on may copy from file to file by itself, as servers do. On these the kernel reads and writes, through
/// the page cache.
pub(crate) fn copies_by_itself(file: impl AsFd) -> bool {
    let place = mountinfo::place(file.as_fd());
    let kind = place.as_ref().ok().and_then(|place| place.file_system.split(' ').next());
    !matches!(kind, Some("ext2" | "ext3" | "ext4" | "xfs"))
}

impl FsKind {
    /// The kind of file system that `file` lies on.
    pub(crate) fn of(file: impl AsFd) -> FsKind {
        FsKind::told(rustix::fs::fstatfs(file))
    }

    /// The kind of file system that `path` lies on.
    pub(crate) fn at(path: &Path) -> FsKind {
        FsKind::told(rustix::fs::statfs(path))
    }

    /// The same by the kernel's table of mounts: where `of` asks the server, this asks nobody.
    pub(crate) fn in_table(file: impl AsFd) -> FsKind {
        let place = mountinfo::place(file.as_fd());
        match place.as_ref().ok().and_then(|place| place.file_system.split(' ').next()) {
            Some("nfs" | "nfs4") => FsKind::Nfs,
            Some("cifs" | "smb3") => FsKind::Cifs,
            _ => FsKind::Other,
        }
    }

    fn told(told: rustix::io::Result<StatFs>) -> FsKind {
        match told.map(|told| told.f_type) {
            Ok(NFS) => FsKind::Nfs,
            Ok(kind) if CIFS.contains(&kind) => FsKind::Cifs,
            _ => FsKind::Other,
        }
    }
}
