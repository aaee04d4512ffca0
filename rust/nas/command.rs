//! Runs commands of the system, without a shell and with a time limit.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::fs::MemfdFlags;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use crate::limits;
use crate::second_table;
use crate::sys;

/// The most bytes of a command's standard error that go into an error.
const MAX_COMPLAINT: u64 = 4096;

/// How a command ended.
pub(super) struct CommandResult {
    /// The exit status.
    pub(super) status: ExitStatus,
    /// What the command wrote to its standard error, or the beginning of that.
    pub(super) complaint: String,
}

/// Runs a command without input; after `limit` kills it with all that it started: `TimedOut`. The command inherits no
/// descriptor: its process would close an inherited file of a hung NAS, and then wait for that NAS, as would this process.
pub(super) fn run(command: Command, limit: Duration) -> io::Result<CommandResult> {
    if second_table::is_here() {
        return Err(io::Error::other("the process would have the NAS's files"));
    }
    sys::without_descriptors("run mount", move || start(command, limit))?
}

fn start(mut command: Command, limit: Duration) -> io::Result<CommandResult> {
    // a file in memory and not a pipe: a process left behind would keep the pipe open
    let mut complaint = File::from(rustix::fs::memfd_create("stderr", MemfdFlags::CLOEXEC)?);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(complaint.try_clone()?).process_group(0);
    let mut child = command.spawn()?;
    let Some(status) = wait(&mut child, limit)? else {
        // another thread waits, because a process that hangs in the kernel survives its kill
        thread::Builder::new().name("reap mount".to_owned()).spawn(move || child.wait())?;
        return Err(ErrorKind::TimedOut.into());
    };
    complaint.rewind()?;
    let mut text = Vec::new();
    complaint.take(MAX_COMPLAINT).read_to_end(&mut text)?;
    Ok(CommandResult { status, complaint: String::from_utf8_lossy(&text).into_owned() })
}

/// The child's status; `None` if the child was killed after `limit`.
fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let pid = Pid::from_child(child);
    let (ended, end) = mpsc::channel();
    thread::Builder::new().name("wait for mount".to_owned()).spawn(move || {
        // does not reap the process, so that no other process gets its id before a kill
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while rustix::process::waitid(WaitId::Pid(pid), options).is_err_and(|e| e == rustix::io::Errno::INTR) {}
        // fails when the wait was given up
        ended.send(()).ok();
    })?;
    if end.recv_timeout(limit).is_ok() {
        return child.wait().map(Some);
    }
    rustix::process::kill_process_group(pid, Signal::KILL)?;
    if end.recv_timeout(limits::KILLED).is_ok() {
        child.wait()?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_command_inherits_nothing_that_is_open_here() {
        let _open = rustix::fs::memfd_create("inherited", MemfdFlags::empty()).unwrap();
        let list = || {
            let mut command = Command::new("sh");
            command.args(["-c", "ls -l /proc/self/fd >&2"]);
            command
        };
        let listed = list().output().unwrap().stderr;
        assert!(String::from_utf8_lossy(&listed).contains("inherited"), "or the test says nothing");
        let CommandResult { complaint, .. } = run(list(), Duration::from_secs(60)).unwrap();
        assert!(complaint.contains("/memfd:stderr") && !complaint.contains("inherited"), "{complaint}");
    }

    #[test]
    fn a_command_that_does_not_end_is_killed_with_its_children() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ >&2; sleep 1000 & wait"]);
        let started = Instant::now();
        let error = run(command, Duration::from_millis(200)).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(started.elapsed() < limits::KILLED);

        let mut command = Command::new("sh");
        command.args(["-c", "echo complaint >&2; exit 3"]);
        let CommandResult { status, complaint } = run(command, Duration::from_secs(60)).unwrap();
        assert_eq!((status.code(), complaint.as_str()), (Some(3), "complaint\n"));
    }
}
