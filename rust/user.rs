//! Work on a thread that has another user's rights to files: what that user may do, and how much it may take, only the file
//! system knows.

use std::sync::OnceLock;
use std::thread;

use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};
use rustix::thread::{CapabilitySet, Gid, capabilities, set_capabilities, set_thread_groups, set_thread_res_gid};

use crate::error::{Code, Error, Result};
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
        thread.spawn_scoped(scope, || take_on(owner).map(|()| work())).map(|thread| thread.join())
    });
    // a change of rights makes the whole process one that dumps no core
    if let Some(dumpable) = dumpable {
        set_dumpable_behavior(dumpable).ok();
    }
    let done = done.map_err(|e| Error::new(Code::Io, step, format!("unable to start a thread - {e}")))?;
    done.map_err(|_| Error::new(Code::Internal, step, "the thread panicked"))
}

/// Gives this thread, and no other, the user's rights to files and no more. Its user ids stay ours: as the user's own,
/// QEMU could signal or trace it, and so this process. The group id tells FUSE that it is somebody else.
fn take_on((user, group): (u32, u32)) -> std::io::Result<()> {
    set_thread_groups(&[])?;
    set_thread_res_gid(None, Gid::from_raw(group), None)?;
    sys::access_files_as(user)?;
    // by which root may exceed a quota, and take what a file system keeps for it
    let mut rights = capabilities(None)?;
    rights.effective.remove(CapabilitySet::SYS_RESOURCE);
    Ok(set_capabilities(None, rights)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::process::Command;

    /// In a process of its own, for in this one other tests take on rights, too.
    #[test]
    fn the_process_dumps_core_as_before() {
        const ALONE: &str = "NASBACKUP_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let mut alone = Command::new(std::env::current_exe().unwrap());
            alone.args(["--exact", "user::tests::the_process_dumps_core_as_before"]).env(ALONE, "1");
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
}
