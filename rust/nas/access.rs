//! Checks whether QEMU may write in a folder, before it has to, so that the error of one that refuses it says who may not do what, and
//! what helps.

use std::os::unix::fs::fchown;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::denied::{Denied, advice};
use super::folder::Folder;
use crate::apart::{Apart, Descriptor};
use crate::config::FILE_MODE;
use crate::error::{Code, Error, Result};
use crate::fs_kind::FsKind;
use crate::second_table;
use crate::user::as_user;

const STEP: &str = "ask whether QEMU can write";
/// A file in the folder that is removed at once.
const PROBE: &str = ".access";

/// `PERMISSION_DENIED` when QEMU, which runs as `owner` and sees `folder` at the path `seen`, can't open a file there that
/// libvirt gives to it.
pub(crate) fn check_qemu(folder: &Folder, seen: &Path, owner: (u32, u32)) -> Result<()> {
    let file = folder.create_file(PROBE, FILE_MODE)?;
    let path = seen.join(PROBE);
    let checked = try_as_qemu(&file, &path, owner);
    drop(file);
    let removed = folder.remove_tree(PROBE).map(drop);
    checked.and(removed)
}

fn try_as_qemu(file: &Apart, path: &Path, owner: (u32, u32)) -> Result<()> {
    // libvirt does so, too; on some file systems that fails, and QEMU may write nevertheless
    let given = file.with(|file| fchown(file, Some(owner.0), Some(owner.1)));
    if can_open(owner, path, OFlags::RDWR)? {
        return Ok(());
    }
    let mut ancestors: Vec<&Path> = path.ancestors().skip(1).collect();
    ancestors.reverse();
    for folder in ancestors {
        // a user who may pass a folder can look up its entry '.'
        if !can_open(owner, &folder.join("."), OFlags::PATH)? {
            let helps = advice(FsKind::at(folder), Denied::QemuPassing { owner }, Errno::ACCESS);
            return Err(denied(owner, &format!("can't pass through '{}': {helps}", folder.display())));
        }
    }
    let kind = file.with(|file| FsKind::of(file));
    let helps = advice(kind, Denied::QemuWriting { given: given.is_ok(), owner }, Errno::ACCESS);
    let failed = given.err().map(|error| format!(", and it could not be given to it ({error})")).unwrap_or_default();
    Err(denied(owner, &format!("can't write to '{}'{failed}: {helps}", path.display())))
}

fn denied((user, group): (u32, u32), what: &str) -> Error {
    Error::new(Code::PermissionDenied, STEP, format!("user {user}:{group}, as which QEMU runs, {what}"))
}

/// True if the user can open `path` with these flags. Tries it, because only the NAS knows.
fn can_open(owner: (u32, u32), path: &Path, how: OFlags) -> Result<bool> {
    // somebody may have put a link or a FIFO in the file's place
    let how = how | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(CWD, path, how, Mode::empty()).map(drop);
    match second_table::run_there(|| as_user(owner, STEP, open))? {
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
    #[ignore = "needs a lab: root, QEMU"]
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
    #[ignore = "needs a lab: root, QEMU"]
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
    #[ignore = "needs a lab: root, QEMU"]
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
