//! May we, and may QEMU, write where the backup goes? Asked before the guest is touched, so that a refusal of the NAS is
//! told as what it is: who may not do what, and what helps.

use std::fs::File;
use std::os::unix::fs::fchown;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::fs::StatVfsMountFlags;

use crate::error::{Code, Error, Result};
use crate::nas::command;
use crate::nas::folder::Folder;

const STEP: &str = "ask whether QEMU can write";
/// How long one question may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Made in the unfinished point, and removed at once.
const PROBE: &str = ".access";

/// What helps against a refusal that met ourselves.
pub(super) fn explain(error: Error, root: &Folder) -> Error {
    if error.code != Code::PermissionDenied {
        return error;
    }
    let read_only = rustix::fs::fstatvfs(root).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY));
    let cause = format!("{}; {}", error.cause, advice(rustix::process::geteuid().as_raw(), read_only));
    Error { cause, ..error }
}

fn advice(user: u32, read_only: bool) -> String {
    let what = if read_only {
        "the repository is mounted read-only: mount it read-write"
    } else {
        "export it with no_root_squash, or let this user write there"
    };
    format!("user {user}, as which this process runs, can't write there: {what}")
}

/// `PERMISSION_DENIED` when QEMU, which runs as `owner`, can't open a file in `folder` that libvirt gives to it.
pub(super) fn check_qemu(folder: &Folder, owner: (u32, u32)) -> Result<()> {
    let file = folder.create_file(PROBE, crate::nas::folder::FILE_MODE)?;
    let path = folder.path.join(PROBE);
    let checked = ask(&file, &path, owner);
    drop(file);
    let removed = folder.remove_tree(PROBE).map(drop);
    checked.and(removed)
}

fn ask(file: &File, path: &Path, owner: (u32, u32)) -> Result<()> {
    // as libvirt does it; on some file systems that fails and QEMU may write all the same
    let given = fchown(file, Some(owner.0), Some(owner.1));
    if let Some(true) | None = may(owner, &["-r", "-w"], path)? {
        return Ok(());
    }
    let mut ancestors: Vec<&Path> = path.ancestors().skip(1).collect();
    ancestors.reverse();
    for folder in ancestors {
        if may(owner, &["-x"], folder)? == Some(false) {
            return Err(denied(owner, &format!("can't pass through '{}': give others its x bit", folder.display())));
        }
    }
    let path = path.display();
    Err(denied(
        owner,
        &match given {
            Err(error) => format!(
                "can't write to '{path}', and it could not be given to it ({error}): export with no_root_squash"
            ),
            Ok(()) => format!("can't write to '{path}': look at the export's and the file system's rights"),
        },
    ))
}

fn denied((user, group): (u32, u32), what: &str) -> Error {
    Error::new(Code::PermissionDenied, STEP, format!("user {user}:{group}, as which QEMU runs, {what}"))
}

/// Has the user all these rights (options of test(1))? None when that can't be found out here.
fn may((user, group): (u32, u32), rights: &[&str], path: &Path) -> Result<Option<bool>> {
    // a process of its own: the rights that a thread takes on make the whole process one that dumps no core
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={user}"), format!("--regid={group}"), "--clear-groups".into()]).arg("test");
    for (i, right) in rights.iter().enumerate() {
        command.args(if i > 0 { &["-a"][..] } else { &[] }).arg(right).arg(path);
    }
    match command::run(command, LIMIT) {
        Ok(ended) => Ok(match ended.status.code() {
            Some(0) => Some(true),
            Some(1) if ended.complaint.is_empty() => Some(false),
            _ => {
                log::warn!("{STEP}: 'setpriv' failed: {}", ended.complaint.trim());
                None
            }
        }),
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
            Err(Error::new(Code::NasUnresponsive, STEP, format!("no answer for {} s", LIMIT.as_secs())))
        }
        Err(error) => {
            log::warn!("{STEP}: unable to run 'setpriv' - {error}");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    const NOBODY: (u32, u32) = (65534, 65534);

    #[test]
    fn who_can_not_pass_or_write_is_named_with_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
        let folder = Folder::open_root(dir.path()).unwrap().make_dir("point", 0o711).unwrap();
        check_qemu(&folder, NOBODY).unwrap();
        assert!(folder.names().unwrap().is_empty());
        set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
        let error = check_qemu(&folder, NOBODY).unwrap_err();
        assert_eq!(error.code, Code::PermissionDenied);
        let named = format!("user 65534:65534, as which QEMU runs, can't pass through '{}'", dir.path().display());
        assert!(error.cause.contains(&named), "{error}");
        assert!(folder.names().unwrap().is_empty());
        check_qemu(&folder, (0, 0)).unwrap();
    }

    #[test]
    fn a_refusal_says_who_and_what_helps() {
        assert!(advice(0, true).contains("user 0") && advice(0, true).contains("read-only"));
        assert!(advice(0, false).contains("no_root_squash"));
        let dir = tempfile::tempdir().unwrap();
        let root = Folder::open_root(dir.path()).unwrap();
        let other = Error::new(Code::Io, "read", "x");
        assert_eq!(explain(other.clone(), &root), other);
        let denied = explain(Error::new(Code::PermissionDenied, "make the folder", "'x'"), &root);
        assert!(denied.cause.starts_with("'x'; user 0"), "{denied}");
    }
}
