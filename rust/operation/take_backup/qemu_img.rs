//! What is left to `qemu-img`: bitmaps, for QEMU alone writes to a guest's disk, and the copy of images that only QEMU knows
//! how to read.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Code, Error, Result};
use crate::job::Reporter;

/// How long `qemu-img bitmap` may take: it writes a few clusters.
const BITMAP: Duration = Duration::from_secs(120);
/// Between two looks at a process.
const TICK: Duration = Duration::from_millis(50);

/// Adds or removes a bitmap (`--add`, `--remove`), under QEMU's image lock.
pub(super) fn bitmap(what: &str, path: &str, bitmap: &str) -> Result<()> {
    let mut command = Command::new("qemu-img");
    command.args(["bitmap", what, "-f", "qcow2", "--", path, bitmap]);
    let mut process = Process::start("change the disk's bitmaps", &mut command)?;
    let until = Instant::now() + BITMAP;
    loop {
        match process.ended()? {
            Some(status) => return process.result(status),
            None if Instant::now() > until => {
                let late = Error::new(Code::Timeout, "change the disk's bitmaps", "qemu-img did not end");
                return Err(process.kill(late));
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// Copies what a guest sees of the image `source` into the empty qcow2 `target`. `progress` makes bytes done and bytes to
/// do out of the bytes that were read.
pub(super) fn convert(
    (source, format): (&str, &str),
    target: &str,
    job: &mut Reporter<'_>,
    deadline: Instant,
    progress: impl Fn(u64) -> (u64, u64),
) -> Result<()> {
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-n", "--target-is-zero", "-f", format, "-O", "qcow2", source, target]);
    let mut process = Process::start("copy the disk", &mut command)?;
    loop {
        if let Some(status) = process.ended()? {
            return process.result(status);
        }
        let (done, total) = progress(process.bytes_read());
        job.progress(done, total);
        job.tell().map_err(|error| process.kill(error))?;
        if Instant::now() >= deadline {
            return Err(process.kill(Error::new(Code::Timeout, "copy the disk", "not done within waitSeconds")));
        }
        std::thread::sleep(TICK);
    }
}

/// A process of qemu-img; dropped, it is killed.
struct Process {
    step: &'static str,
    child: Child,
}

impl Process {
    fn start(step: &'static str, command: &mut Command) -> Result<Process> {
        let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let child = started.map_err(|e| Error::io(step, "qemu-img", e))?;
        Ok(Process { step, child })
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().map_err(|e| Error::io(self.step, "qemu-img", e))
    }

    /// Bytes that it has read so far (proc(5), "/proc/pid/io"); 0 once it has ended. Asking the kernel about the process
    /// can't hang, asking a NAS about the file could.
    fn bytes_read(&self) -> u64 {
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.child.id())).unwrap_or_default();
        io.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse().ok()).unwrap_or(0)
    }

    /// What the process that ended says.
    fn result(&mut self, status: ExitStatus) -> Result<()> {
        if status.success() {
            return Ok(());
        }
        let mut text = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            stderr.take(4096).read_to_string(&mut text).map_err(|e| Error::io(self.step, "qemu-img", e))?;
        }
        Err(Error::new(Code::JobFailed, self.step, format!("qemu-img: {} ({status})", text.trim())))
    }

    /// Kills the process because of `error`. One that hangs in the NAS does not die before the NAS answers: it is left
    /// behind, and the guest can't be started as long as it holds the disk's lock.
    fn kill(&mut self, error: Error) -> Error {
        if let Err(failed) = self.child.kill() {
            log::warn!("qemu-img could not be killed: {failed}");
        }
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            if let Ok(Some(_)) = self.child.try_wait() {
                return error;
            }
            std::thread::sleep(TICK);
        }
        let code = if error.code == Code::Timeout { Code::NasUnresponsive } else { error.code };
        Error { code, ..error }.with_leftover("a process of qemu-img that hangs and holds the disk's lock")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // It has ended meanwhile, or it hangs: `kill` has told of that. It is reaped whenever it ends.
            let _ = self.child.kill();
            let pid = rustix::process::Pid::from_child(&self.child);
            let reap = move || {
                if let Err(error) = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()) {
                    log::warn!("qemu-img could not be reaped: {error}");
                }
            };
            if let Err(error) = std::thread::Builder::new().name("nasbackup-reap".to_owned()).spawn(reap) {
                log::warn!("the thread that reaps qemu-img could not be started: {error}");
            }
        }
    }
}
