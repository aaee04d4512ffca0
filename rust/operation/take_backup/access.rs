//! May we, and may QEMU, write where the backup goes? Asked before the guest is touched, so that a refusal of the NAS is
//! told as what it is: who may not do what, and what helps.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::fchown;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;

use crate::error::{Code, Error, Result};
use crate::nas::folder::{FILE_MODE, Folder};
use crate::user::as_user;

const STEP: &str = "ask whether QEMU can write";
/// Made in the unfinished point, and removed at once.
const PROBE: &str = ".access";

/// The types of file systems that the kernel's CIFS client has: of SMB 1, and of the later ones.
const CIFS: [i64; 2] = [0xFF53_4D42, 0xFE53_4D42];

/// What helps against a refusal that met ourselves.
pub(super) fn explain(error: Error, root: &Folder) -> Error {
    if error.code != Code::PermissionDenied {
        return error;
    }
    let by = if rustix::fs::fstatvfs(root).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY)) {
        By::Mount
    } else if error.cause.contains(&io::Error::from(Errno::ROFS).to_string()) {
        By::ReadOnlyServer
    } else if is_cifs(root) {
        By::Cifs
    } else {
        By::Server
    };
    let cause = format!("{}; {}", error.cause, advice(rustix::process::geteuid().as_raw(), by));
    Error { cause, ..error }
}

/// What keeps us from writing.
#[derive(Debug, Clone, Copy)]
enum By {
    /// This host's mount is read-only.
    Mount,
    /// The server lets nobody write.
    ReadOnlyServer,
    /// A CIFS server does not let the user write whom the mount's options name.
    Cifs,
    Server,
}

fn advice(user: u32, by: By) -> String {
    let what = match by {
        By::Mount => "the repository is mounted read-only: mount it read-write",
        By::ReadOnlyServer => "the server exports it read-only: export it read-write",
        By::Cifs => "give the right to the user of the server's that the mount options name (username=)",
        By::Server => "give the right to it, or to the user that the export makes of it",
    };
    format!("user {user}, as which this process runs, can't write there: {what}")
}

/// `PERMISSION_DENIED` when QEMU, which runs as `owner` and sees `folder` at the path `seen`, can't open a file there that
/// libvirt gives to it.
pub(super) fn check_qemu(folder: &Folder, seen: &Path, owner: (u32, u32)) -> Result<()> {
    let file = folder.create_file(PROBE, FILE_MODE)?;
    let path = seen.join(PROBE);
    let checked = ask(&file, &path, owner);
    drop(file);
    let removed = folder.remove_tree(PROBE).map(drop);
    checked.and(removed)
}

fn ask(file: &File, path: &Path, owner: (u32, u32)) -> Result<()> {
    // as libvirt does it; on some file systems that fails and QEMU may write all the same
    let given = fchown(file, Some(owner.0), Some(owner.1));
    if may(owner, path, OFlags::RDWR)? {
        return Ok(());
    }
    if is_cifs(file) {
        return Err(denied(owner, &cifs_advice(path, owner)));
    }
    let mut ancestors: Vec<&Path> = path.ancestors().skip(1).collect();
    ancestors.reverse();
    for folder in ancestors {
        // its own entry can be looked up by those who may pass
        if !may(owner, &folder.join("."), OFlags::PATH)? {
            return Err(denied(owner, &format!("can't pass through '{}': give others its x bit", folder.display())));
        }
    }
    let path = path.display();
    let what = match given {
        Err(error) => {
            format!(
                "can't write to '{path}', and it could not be given to it ({error}): export with no_root_squash, let new \
                 files inherit an ACL by which it can, or back up by pull"
            )
        }
        Ok(()) => format!("can't write to '{path}': look at the export's and the file system's rights"),
    };
    Err(denied(owner, &what))
}

fn is_cifs(file: impl AsFd) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|found| CIFS.contains(&found.f_type))
}

/// Rights on a CIFS server that tells none are those of the mount's options.
fn cifs_advice(path: &Path, (user, _): (u32, u32)) -> String {
    format!("can't write to '{}': mount with uid={user} among the options, or back up by pull", path.display())
}

fn denied((user, group): (u32, u32), what: &str) -> Error {
    Error::new(Code::PermissionDenied, STEP, format!("user {user}:{group}, as which QEMU runs, {what}"))
}

/// Can the user open it so? Tried, for only the NAS knows.
fn may(owner: (u32, u32), path: &Path, how: OFlags) -> Result<bool> {
    // a link, or a FIFO, that has its name by now is none of ours
    let how = how | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match as_user(owner, STEP, || rustix::fs::openat(CWD, path, how, Mode::empty()).map(drop))? {
        Ok(()) => Ok(true),
        Err(Errno::ACCESS | Errno::PERM) => Ok(false),
        Err(error) => Err(Error::io(STEP, path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use crate::user::unable_to_act;

    const NOBODY: (u32, u32) = (65534, 65534);

    #[test]
    fn who_can_not_pass_or_write_is_named_with_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
        let folder = Folder::open_root(dir.path()).unwrap().make_dir("point", 0o711).unwrap();
        check_qemu(&folder, &folder.path, NOBODY).unwrap();
        assert!(folder.names().unwrap().is_empty());
        set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
        let error = check_qemu(&folder, &folder.path, NOBODY).unwrap_err();
        assert_eq!(error.code, Code::PermissionDenied);
        let named = format!("user 65534:65534, as which QEMU runs, can't pass through '{}'", dir.path().display());
        assert!(error.cause.contains(&named), "{error}");
        assert!(folder.names().unwrap().is_empty());
        check_qemu(&folder, &folder.path, (0, 0)).unwrap();
        assert!(rustix::process::geteuid().is_root());
    }

    #[test]
    fn what_can_not_be_asked_is_no_yes() {
        let dir = tempfile::tempdir().unwrap();
        set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
        let folder = Folder::open_root(dir.path()).unwrap();
        let error = unable_to_act(|| check_qemu(&folder, &folder.path, NOBODY)).unwrap_err();
        assert!(error.code == Code::PermissionDenied && error.cause.starts_with("unable to act as"), "{error}");
        assert!(folder.names().unwrap().is_empty());
        check_qemu(&folder, &folder.path, NOBODY).unwrap();
    }

    #[test]
    fn a_refusal_says_who_and_what_helps() {
        for (by, what) in [
            (By::Mount, "mounted read-only"),
            (By::ReadOnlyServer, "the server exports it read-only"),
            (By::Cifs, "username="),
            (By::Server, "the export makes of it"),
        ] {
            let told = advice(0, by);
            // what QEMU needs is said where it is QEMU that can't
            assert!(told.contains("user 0") && told.contains(what) && !told.contains("no_root_squash"), "{told}");
        }
        assert!(cifs_advice(Path::new("/m/.access"), (64055, 108)).contains("mount with uid=64055"));
        let dir = tempfile::tempdir().unwrap();
        let root = Folder::open_root(dir.path()).unwrap();
        let other = Error::new(Code::Io, "read", "x");
        assert_eq!(explain(other.clone(), &root), other);
        for (errno, what) in [(Errno::ACCESS, "the export makes of it"), (Errno::ROFS, "exports it read-only")] {
            let denied = explain(Error::io("make the folder", "x", errno), &root);
            assert!(denied.cause.contains("; user 0") && denied.cause.contains(what), "{denied}");
        }
    }

    #[test]
    fn a_mount_that_is_root_s_alone_is_none_for_qemu() {
        let (behind, front) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for folder in [&behind, &front] {
            set_permissions(folder.path(), Permissions::from_mode(0o711)).unwrap();
        }
        let mount = Command::new("bindfs").arg("--no-allow-other").args([behind.path(), front.path()]).status();
        assert!(mount.unwrap().success());
        let asked = check_qemu(&Folder::open_root(front.path()).unwrap(), front.path(), NOBODY);
        rustix::mount::unmount(front.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
        assert!(asked.unwrap_err().cause.contains("can't pass through"));
    }
}
