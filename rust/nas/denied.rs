//! What a file system's refusal means, and what helps. On NFS the server decides, for the user that the export makes of root.
//! On CIFS both sides decide: the server, for the one user that the mount options name, and this host, for its own users, by
//! the mount options. The library runs as root, whom this host denies nothing; QEMU does not.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::StatVfsMountFlags;
use rustix::io::Errno;

use crate::error::{Code, Error};
use crate::fs_kind::FsKind;

/// What was denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The library may not read.
    Reading,
    /// The library may not make, change or remove something.
    Writing { mount_is_read_only: bool },
    /// QEMU's user and group may not pass a folder.
    QemuPassing { owner: (u32, u32) },
    /// QEMU's user and group may not write to the file; `given` says whether the file could be given to them.
    QemuWriting { given: bool, owner: (u32, u32) },
}

/// What the operator can do.
pub(crate) fn advice(kind: FsKind, denied: Denied, errno: Errno) -> String {
    use Denied::{QemuPassing, QemuWriting, Reading, Writing};
    let by_mount = matches!(denied, Writing { mount_is_read_only: true });
    match (kind, denied, errno) {
        _ if by_mount => "the repository is mounted read-only: mount it read-write".to_owned(),
        (FsKind::Nfs, Writing { .. }, Errno::ROFS) => "the server exports it read-only: export it read-write".to_owned(),
        (FsKind::Cifs, Writing { .. }, Errno::ROFS) => "the server shares it read-only: share it read-write".to_owned(),
        (FsKind::Other, Writing { .. }, Errno::ROFS) => "its file system is read-only: mount it read-write".to_owned(),
        (FsKind::Nfs, Reading | Writing { .. }, _) => {
            "give the right to the user that the export makes of it (root_squash, all_squash), and look whether it is still \
             exported to this host"
                .to_owned()
        }
        (FsKind::Cifs, Reading, _) => {
            "give the right to the user of the server's that the mount options name (username=); uid=, file_mode= and noperm \
             say nothing to the server"
                .to_owned()
        }
        (FsKind::Cifs, Writing { .. }, _) => {
            "the server shares it read-only, or give the right to the user of the server's that the mount options name \
             (username=); uid=, file_mode= and noperm say nothing to the server"
                .to_owned()
        }
        (FsKind::Other, Reading | Writing { .. }, _) => "give the right to it".to_owned(),
        (FsKind::Cifs, QemuPassing { owner: (user, group) }, _) => format!(
            "mount with uid={user} among the options, or with gid={group} and a dir_mode= and file_mode= that let the group \
             in, or with noperm, by which the server alone decides, or back up by pull"
        ),
        (FsKind::Nfs | FsKind::Other, QemuPassing { .. }, _) => "give others its x bit".to_owned(),
        (FsKind::Cifs, QemuWriting { owner: (user, group), .. }, _) => format!(
            "mount with uid={user} among the options, or with gid={group} and a file_mode= by which the group writes, or with \
             noperm, by which the server alone decides, or back up by pull"
        ),
        (FsKind::Nfs | FsKind::Other, QemuWriting { given: false, .. }, _) => {
            "export with no_root_squash, let new files inherit an ACL by which it can, or back up by pull".to_owned()
        }
        (FsKind::Nfs, QemuWriting { given: true, .. }, _) => {
            "it was given to it all the same: look at the export's squashes and the file system's ACLs".to_owned()
        }
        (FsKind::Other, QemuWriting { given: true, .. }, _) => {
            "it was given to it all the same: look at the file system's rights and ACLs".to_owned()
        }
    }
}

/// Adds advice to the error of a refusal that the library met when it made, changed or removed something below this folder.
pub(crate) fn explain_writing(error: Error, folder: impl AsFd) -> Error {
    let told = || rustix::fs::fstatvfs(&folder).is_ok_and(|told| told.f_flag.contains(StatVfsMountFlags::RDONLY));
    explain(error, || (FsKind::of(&folder), Denied::Writing { mount_is_read_only: told() }), "write")
}

/// Adds advice to the error of a refusal that the library met when it read the folder, or something below it.
pub(crate) fn explain_reading(error: Error, folder: &Path) -> Error {
    explain(error, || (FsKind::at(folder), Denied::Reading), "read")
}

fn explain(error: Error, denied: impl FnOnce() -> (FsKind, Denied), what: &str) -> Error {
    if error.code != Code::PermissionDenied {
        return error;
    }
    let (kind, denied) = denied();
    let is = |errno: &Errno| error.cause.contains(&io::Error::from(*errno).to_string());
    let errno = [Errno::ROFS, Errno::PERM].into_iter().find(is).unwrap_or(Errno::ACCESS);
    let (user, advice) = (rustix::process::geteuid().as_raw(), advice(kind, denied, errno));
    let cause = format!("{}; user {user}, as which this process runs, can't {what} there: {advice}", error.cause);
    Error { cause, ..error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_denied_what_and_what_helps() {
        let owner = (64055, 108);
        let passing = Denied::QemuPassing { owner };
        let [given, kept] = [true, false].map(|given| Denied::QemuWriting { given, owner });
        let [mounted, writing] = [true, false].map(|mount_is_read_only| Denied::Writing { mount_is_read_only });
        let squash: &[&str] = &["the user that the export makes of it", "root_squash", "still exported"];
        let server: &[&str] = &["username=", "say nothing to the server"];
        let options: &[&str] = &["uid=64055", "gid=108", "file_mode=", "noperm", "by pull"];
        let (nfs, cifs, other) = (FsKind::Nfs, FsKind::Cifs, FsKind::Other);
        for (kind, denied, errno, told, untold) in [
            (nfs, Denied::Reading, Errno::ACCESS, squash, ["username=", "no_root_squash"]),
            (nfs, Denied::Reading, Errno::PERM, squash, ["username=", "no_root_squash"]),
            (nfs, writing, Errno::ACCESS, squash, ["username=", "no_root_squash"]),
            (nfs, writing, Errno::PERM, squash, ["username=", "no_root_squash"]),
            (nfs, writing, Errno::ROFS, &["exports it read-only"], ["squash", "username="]),
            (nfs, mounted, Errno::ROFS, &["mounted read-only"], ["export", "squash"]),
            (nfs, passing, Errno::ACCESS, &["x bit"], ["uid=", "noperm"]),
            (nfs, kept, Errno::ACCESS, &["no_root_squash", "ACL", "by pull"], ["uid=", "noperm"]),
            (nfs, given, Errno::ACCESS, &["squashes", "ACLs"], ["uid=", "noperm"]),
            (cifs, Denied::Reading, Errno::ACCESS, server, ["squash", "export"]),
            (cifs, writing, Errno::ACCESS, server, ["squash", "export"]),
            (cifs, writing, Errno::ACCESS, &["shares it read-only, or"], ["squash", "export"]),
            (cifs, writing, Errno::PERM, server, ["squash", "export"]),
            (cifs, writing, Errno::ROFS, &["shares it read-only"], ["squash", "username="]),
            (cifs, mounted, Errno::ROFS, &["mounted read-only"], ["share", "username="]),
            (cifs, passing, Errno::ACCESS, options, ["squash", "x bit"]),
            (cifs, passing, Errno::ACCESS, &["dir_mode="], ["squash", "x bit"]),
            (cifs, kept, Errno::ACCESS, options, ["squash", "ACL"]),
            (cifs, given, Errno::ACCESS, options, ["squash", "ACL"]),
            (other, Denied::Reading, Errno::ACCESS, &["give the right to it"], ["export", "username="]),
            (other, writing, Errno::ACCESS, &["give the right to it"], ["export", "username="]),
            (other, writing, Errno::ROFS, &["file system is read-only"], ["export", "username="]),
            (other, mounted, Errno::ROFS, &["mounted read-only"], ["export", "username="]),
            (other, passing, Errno::ACCESS, &["x bit"], ["export", "uid="]),
            (other, kept, Errno::ACCESS, &["no_root_squash", "ACL", "by pull"], ["noperm", "uid="]),
            (other, given, Errno::ACCESS, &["rights and ACLs"], ["squash", "uid="]),
        ] {
            let advice = advice(kind, denied, errno);
            assert!(told.iter().all(|what| advice.contains(what)), "{kind:?} {denied:?} {errno}: {advice}");
            assert!(!untold.iter().any(|what| advice.contains(what)), "{kind:?} {denied:?} {errno}: {advice}");
        }
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_refusal_alone_is_explained() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let other = Error::new(Code::Io, "read", "x");
        assert_eq!(explain_writing(other.clone(), &root), other);
        assert_eq!(explain_reading(other.clone(), dir.path()), other);
        let denied = |errno| Error::io("make the folder", "x", errno);
        for (error, what) in [
            (explain_writing(denied(Errno::ACCESS), &root), "can't write there: give the right to it"),
            (explain_writing(denied(Errno::ROFS), &root), "can't write there: its file system is read-only"),
            (explain_reading(denied(Errno::ACCESS), dir.path()), "can't read there: give the right to it"),
        ] {
            assert!(error.cause.contains(&format!("; user 0, as which this process runs, {what}")), "{error}");
        }
    }
}
