//! Which kind of file system a file lies on.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::StatFs;

use crate::mountinfo::{self, MountPlace};

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

/// True if what `file` lies on may copy from file to file by itself, as servers do. Elsewhere the kernel reads and writes, through
/// the page cache; so it does on NFS before 4.2.
pub(crate) fn copies_by_itself(file: impl AsFd) -> bool {
    mountinfo::place(file.as_fd()).map_or(true, |place| may_copy(&place))
}

fn may_copy(place: &MountPlace) -> bool {
    match place.file_system.split(' ').next() {
        Some("ext2" | "ext3" | "ext4" | "xfs" | "nfs") => false,
        Some("nfs4") => {
            !["vers=4.0", "vers=4.1"].iter().any(|old| place.options.split(',').any(|option| option == *old))
        }
        _ => true,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_copy_by_itself_is_asked_to() {
        for (file_system, options, may) in [
            ("ext4 '/dev/vda'", "rw", false),
            ("xfs '/dev/vda'", "rw", false),
            ("nfs 'nas:/a'", "rw,vers=3,rsize=1048576", false),
            ("nfs4 'nas:/a'", "rw,vers=4.0", false),
            ("nfs4 'nas:/a'", "rw,vers=4.1,rsize=1048576", false),
            ("nfs4 'nas:/a'", "rw,vers=4.2,rsize=1048576", true),
            ("cifs '//nas/a'", "rw,vers=3.1.1", true),
            ("btrfs '/dev/vda'", "rw", true),
        ] {
            let place = MountPlace {
                point: "/mnt".into(),
                file_system: file_system.into(),
                path: "/".into(),
                options: options.into(),
            };
            assert_eq!(may_copy(&place), may, "{file_system} {options}");
        }
    }
}
