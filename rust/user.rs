//! What other users may do. Work on a thread that has another user's rights to files: what that user may do, and how much it
//! may take, only the file system knows. And who may write to a folder that we trust.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};
use rustix::thread::{CapabilitySet, Gid, capabilities, set_capabilities, set_thread_groups, set_thread_res_gid};

use crate::error::{Code, Error, Result};
use crate::second_table;
use crate::sys;

/// Does something on a thread that takes on the user's rights to files and ends with them. The inner error says that it could
/// not take them on.
pub(crate) fn with_rights_of<T: Send>(
    owner: (u32, u32),
    step: &'static str,
    work: impl FnOnce() -> T + Send,
) -> Result<std::io::Result<T>> {
    static DUMPABLE: OnceLock<Option<DumpableBehavior>> = OnceLock::new();
    let dumpable = *DUMPABLE.get_or_init(|| dumpable_behavior().ok());
    let done = thread::scope(|scope| {
        let thread = thread::Builder::new().name(step.to_owned());
        let work = second_table::of_this_table(|| take_on(owner).map(|()| work()));
        thread.spawn_scoped(scope, work).map(|thread| thread.join())
    });
    // a change of rights makes the whole process one that dumps no core
    if let Some(dumpable) = dumpable {
        set_dumpable_behavior(dumpable).ok();
    }
    let done = done.map_err(|e| Error::new(Code::Io, step, format!("unable to start a thread - {e}")))?;
    done.map_err(|_| Error::new(Code::Internal, step, "the thread panicked"))
}

/// The same for what nobody else's rights will do for: `PERMISSION_DENIED` when this process can't take them on.
pub(crate) fn as_user<T: Send>(owner: (u32, u32), step: &'static str, work: impl FnOnce() -> T + Send) -> Result<T> {
    with_rights_of(owner, step, work)?.map_err(|error| {
        let cause = format!(
            "unable to act as user {}, as which QEMU runs: this process needs CAP_SETUID and CAP_SETGID - {error}",
            owner.0
        );
        Error::new(Code::PermissionDenied, step, cause)
    })
}

/// Gives this thread, and no other, the user's rights to files and no more. Its user ids stay ours: as the user's own,
/// QEMU could signal or trace it, and so this process. The group id tells FUSE that it is somebody else.
fn take_on((user, group): (u32, u32)) -> std::io::Result<()> {
    let (own, own_group) = (rustix::process::geteuid(), rustix::process::getegid());
    if !own.is_root() && (own.as_raw(), own_group.as_raw()) == (user, group) {
        return Ok(());
    }
    set_thread_groups(&[])?;
    set_thread_res_gid(None, Gid::from_raw(group), None)?;
    sys::access_files_as(user)?;
    // by which root may exceed a quota, and take what a file system keeps for it
    let mut rights = capabilities(None)?;
    rights.effective.remove(CapabilitySet::SYS_RESOURCE);
    Ok(set_capabilities(None, rights)?)
}

/// As many symbolic links as the kernel follows in one path.
const LINKS: usize = 40;
/// In such a folder (as `/tmp` is one) nobody renames or removes what is another's.
const STICKY: u32 = 0o1000;

/// `INVALID_ARGUMENT` on `field` if others than root and us may put something in the place of the folder `path`, or of
/// anything in it: if it, or a folder above it, is another's or may be written by others. Symbolic links are followed, and
/// the folders that they lie in looked at as well. What is not there is not looked at: to be asked again once it was made.
pub(crate) fn refuse_writable_by_others(field: &str, path: &Path) -> Result<()> {
    let io = |at: &Path, error: Errno| Error::io("look at who may write to a folder", at, error);
    let open = |at: Option<&OwnedFd>, name: &OsStr| {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(at.map_or(CWD, AsFd::as_fd), name, flags, Mode::empty())
    };
    let (mut seen, mut links) = (PathBuf::new(), 0);
    let mut at: Option<OwnedFd> = None;
    // what is still to be passed, its end first
    let mut rest = parts(path);
    while let Some(name) = rest.pop() {
        let found = match open(at.as_ref(), &name) {
            Err(Errno::NOENT) => return Ok(()),
            found => found.map_err(|e| io(&seen.join(&name), e))?,
        };
        let now = seen.join(&name);
        let stat = rustix::fs::fstat(&found).map_err(|e| io(&now, e))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            links += 1;
            if links > LINKS {
                return Err(io(&now, Errno::LOOP));
            }
            refuse_owner(field, &now, &stat)?;
            let target = rustix::fs::readlinkat(&found, "", Vec::new()).map_err(|e| io(&now, e))?;
            let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
            if target.is_absolute() {
                (at, seen) = (None, PathBuf::new());
            }
            rest.extend(parts(&target));
            continue;
        }
        refuse_owner(field, &now, &stat)?;
        refuse_mode(field, &now, &stat, rest.is_empty())?;
        (at, seen) = (Some(found), now);
    }
    Ok(())
}

/// The components of a path, the last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let parts = path.components().map(|part| OsStr::from_bytes(part.as_os_str().as_bytes()).to_owned());
    parts.collect::<Vec<_>>().into_iter().rev().collect()
}

fn refuse_owner(field: &str, path: &Path, stat: &Stat) -> Result<()> {
    if stat.st_uid == 0 || stat.st_uid == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    Err(Error::invalid(field, format!("'{}' belongs to user {}: it has to be root's", path.display(), stat.st_uid)))
}

/// In the `last` folder names are made that others may not take before; in those above only what is there counts.
fn refuse_mode(field: &str, path: &Path, stat: &Stat, last: bool) -> Result<()> {
    if stat.st_mode & 0o022 == 0 || (stat.st_mode & STICKY != 0 && !last) {
        return Ok(());
    }
    let mode = stat.st_mode & 0o7777;
    let cause = format!("'{}' has mode {mode:04o}: others than its owner may write to it", path.display());
    Err(Error::invalid(field, cause))
}

/// Does it as a process would that can't take on anybody's rights.
#[cfg(test)]
pub(crate) fn unable_to_act<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let without = || {
            let mut rights = capabilities(None).unwrap();
            rights.effective.remove(CapabilitySet::SETGID);
            rights.permitted.remove(CapabilitySet::SETGID);
            set_capabilities(None, rights).unwrap();
            second_table::use_own_pool().unwrap();
            work()
        };
        scope.spawn(without).join().unwrap()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::process::Command;

    /// In a process of its own, for in this one other tests take on rights, too.
    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn the_process_dumps_core_as_before() {
        const ALONE: &str = "NASBACKUP_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let mut alone = Command::new(std::env::current_exe().unwrap());
            alone
                .args(["--include-ignored", "--exact", "user::tests::the_process_dumps_core_as_before"])
                .env(ALONE, "1");
            let ended = alone.output().unwrap();
            let output = String::from_utf8_lossy(&ended.stdout);
            assert!(ended.status.success() && output.contains("1 passed"), "{output}");
            return;
        }
        set_dumpable_behavior(DumpableBehavior::Dumpable).unwrap();
        let within = with_rights_of((65534, 65534), "ask", dumpable_behavior).unwrap().unwrap();
        assert_ne!(within, Ok(DumpableBehavior::Dumpable), "or the test says nothing");
        assert_eq!(dumpable_behavior(), Ok(DumpableBehavior::Dumpable));
    }

    /// QEMU must not be able to signal or trace this process, although its rights are tried; and it may not exceed a quota.
    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn the_thread_that_asks_stays_root_s() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let before = capabilities(None).unwrap();
        let asked = with_rights_of((65534, 65534), "open it", || {
            assert!(rustix::process::getuid().is_root() && rustix::process::geteuid().is_root());
            assert!(!capabilities(None).unwrap().effective.contains(CapabilitySet::SYS_RESOURCE));
            File::open(file.path()).unwrap_err().kind()
        });
        assert_eq!(asked.unwrap().unwrap(), std::io::ErrorKind::PermissionDenied);
        File::open(file.path()).unwrap();
        assert_eq!(capabilities(None).unwrap(), before);
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn what_can_not_be_done_as_the_user_is_not_done() {
        let error = unable_to_act(|| as_user((65534, 65534), "try it", || panic!("it was done"))).unwrap_err();
        assert_eq!((error.code, error.step), (Code::PermissionDenied, "try it"));
        assert!(error.cause.starts_with("unable to act as user 65534, as which QEMU runs"), "{error}");
        assert_eq!(as_user((65534, 65534), "try it", || 7).unwrap(), 7);
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_folder_that_others_may_write_to_is_refused_and_so_is_what_lies_below() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let ask = |name: &str| refuse_writable_by_others("scratchDir", &path(name));
        fs::create_dir_all(path("ours/inner")).unwrap();
        for (name, mode) in [("group", 0o770), ("all", 0o777), ("sticky", 0o1777)] {
            fs::create_dir_all(path(name).join("inner")).unwrap();
            fs::set_permissions(path(name).join("inner"), Permissions::from_mode(0o711)).unwrap();
            fs::set_permissions(path(name), Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir(path("theirs")).unwrap();
        chown(path("theirs"), Some(65534), None).unwrap();
        symlink("ours", path("link")).unwrap();
        symlink(path("ours"), path("all/to")).unwrap();
        symlink("all/to", path("twice")).unwrap();
        symlink("round", path("round")).unwrap();
        symlink(path("ours"), path("sticky/foreign")).unwrap();
        std::os::unix::fs::lchown(path("sticky/foreign"), Some(65534), None).unwrap();
        for good in ["ours", "ours/inner/not/there", "link/inner", "sticky/inner", "sticky/none", "ours/../link"] {
            ask(good).unwrap();
        }
        for (bad, named, why) in [
            ("group", "group", "mode 0770"),
            ("all/inner", "all", "mode 0777"),
            ("all/none", "all", "mode 0777"),
            ("sticky", "sticky", "mode 1777"),
            ("theirs/x", "theirs", "user 65534"),
            ("twice/inner", "all", "mode 0777"),
            ("sticky/foreign", "sticky/foreign", "user 65534"),
        ] {
            let error = ask(bad).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument, "{bad}: {error}");
            let named = format!("scratchDir: '{}' ", path(named).display());
            assert!(error.cause.starts_with(&named) && error.cause.contains(why), "{bad}: {error}");
        }
        assert_eq!(ask("round").unwrap_err().code, Code::Io);
    }
}
