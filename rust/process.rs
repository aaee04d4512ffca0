//! QEMU's tools, which run beside us and never longer than they are wanted.

use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;
use rustix::process::{Pid, Signal};

use crate::error::{Code, Error, Result};
use crate::limits;
use crate::second_table;

/// As much of its output as is read, in bytes.
const OUTPUT: u64 = 1 << 20;
/// As much of a complaint as goes into an error, in bytes.
const COMPLAINT: u64 = 4096;

/// A tool at work; dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Process {
    program: &'static str,
    step: &'static str,
    child: Child,
    /// What it writes to its standard output and error: in memory, for nobody reads a pipe while it runs.
    output: File,
    complaint: File,
}

impl Process {
    /// Starts `program` with arguments, and an input, that the `command` has.
    pub(crate) fn start(program: &'static str, step: &'static str, command: &mut Command) -> Result<Process> {
        if second_table::is_here() {
            return Err(Error::new(Code::Internal, step, "the process would have the NAS's files"));
        }
        let io = |e| Error::io(step, program, e);
        let memory = |name| rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).map(File::from);
        let memory = |name| memory(name).map_err(|e| io(e.into()));
        let (output, complaint) = (memory("stdout")?, memory("stderr")?);
        command.stdout(output.try_clone().map_err(io)?).stderr(complaint.try_clone().map_err(io)?);
        let child = command.spawn().map_err(io)?;
        Ok(Process { program, step, child, output, complaint })
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().map_err(|e| Error::io(self.step, self.program, e))
    }

    /// What the process that ended says.
    pub(crate) fn result(&mut self, status: ExitStatus) -> Result<()> {
        if status.success() { Ok(()) } else { Err(self.failed(status)?) }
    }

    /// What it has written to its standard output.
    pub(crate) fn output(&mut self) -> Result<String> {
        start_of(&mut self.output, OUTPUT).map_err(|e| Error::io(self.step, self.program, e))
    }

    /// Its end as an error.
    pub(crate) fn failed(&mut self, status: ExitStatus) -> Result<Error> {
        let io = |e| Error::io(self.step, self.program, e);
        let text = start_of(&mut self.complaint, COMPLAINT).map_err(io)?;
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        let cause = format!("{}: {} ({status})", self.program, lines.join("; "));
        Ok(Error::new(Code::JobFailed, self.step, cause))
    }

    /// Kills the process because of `error`. One that hangs in the NAS does not die before the NAS answers: it is left
    /// behind, and the guest can't be started as long as it holds the disk's lock.
    pub(crate) fn kill(&mut self, error: Error) -> Error {
        let program = self.program;
        if let Err(failed) = self.child.kill() {
            log::warn!("{program} could not be killed: {failed}");
        }
        let until = Instant::now() + limits::KILLED;
        while Instant::now() < until {
            if let Ok(Some(_)) = self.child.try_wait() {
                return error;
            }
            std::thread::sleep(limits::COPY_LOOK);
        }
        let code = if error.code == Code::Timeout { Code::NasUnresponsive } else { error.code };
        Error { code, ..error }.with_leftover(format!("a process of {program} that hangs and holds the disk's lock"))
    }

    /// Has it end in order, and waits for that, at most for `limit`.
    pub(crate) fn end(&mut self, limit: Duration) {
        let until = Instant::now() + limit;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            // Once more each time: qemu-nbd forgets one that comes while it opens the image. Can't fail: the process was
            // not waited for.
            let _ = rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM);
            std::thread::sleep(limits::SHORT_LOOK);
        }
    }
}

fn start_of(file: &mut File, most: u64) -> std::io::Result<String> {
    let mut text = Vec::new();
    file.rewind()?;
    file.take(most).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // It has ended meanwhile, or it hangs: `kill` has told of that. It is reaped whenever it ends.
            let _ = self.child.kill();
            // One that does not hang is gone when the call is over.
            let until = Instant::now() + limits::KILLED_ASIDE;
            while Instant::now() < until {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(limits::SHORT_LOOK);
            }
            let (program, pid) = (self.program, Pid::from_child(&self.child));
            let reap = move || {
                if let Err(error) = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()) {
                    log::warn!("{program} could not be reaped: {error}");
                }
            };
            if let Err(error) = std::thread::Builder::new().name("nasbackup-reap".to_owned()).spawn(reap) {
                log::warn!("the thread that reaps {program} could not be started: {error}");
            }
        }
    }
}
