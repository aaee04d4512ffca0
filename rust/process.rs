//! The host's own tools, which run beside us and never longer than they are wanted. They are looked for in the system's folders
//! alone, whatever this process's environment says, and get an environment of their own.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process_group, pidfd_open, waitpid};

use crate::error::{Code, Error, Result};
use crate::limits;
use crate::second_table;
use crate::sys;

/// Where hosts have tools. `mount` gets its helpers from there, too.
const FOLDERS: [&str; 4] = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
/// As much of a tool's output as is read unless more is wanted, in bytes.
const OUTPUT: u64 = 1 << 20;
/// As much of a complaint as goes into an error, in bytes.
const COMPLAINT: u64 = 4096;

/// A tool of the host's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    /// Its name.
    pub(crate) program: &'static str,
    /// The step of the errors.
    pub(crate) step: &'static str,
    /// What it means when the tool takes too long.
    pub(crate) late: &'static str,
}

/// A tool at work. Its drop ends it.
#[derive(Debug)]
pub(crate) struct Process {
    tool: Tool,
    child: Child,
    /// What it writes to its standard output and error: in memory, for nobody reads a pipe while it runs, and a process that is
    /// left behind would keep a pipe open.
    output: File,
    complaint: File,
    /// As much of its output as is read, in bytes.
    most: u64,
    /// How long it may take to end in order before it is killed.
    in_order: Option<Duration>,
    /// It hangs, and another thread waits for its end.
    is_left: bool,
}

/// How a tool ended.
pub(crate) struct Ended {
    pub(crate) tool: Tool,
    pub(crate) status: ExitStatus,
    /// The beginning of what it wrote to its standard output.
    pub(crate) output: String,
    /// The same of its standard error.
    pub(crate) complaint: String,
}

impl Tool {
    /// A command that runs the tool, without input; `NotFound` when the host has no such tool.
    pub(crate) fn command(&self) -> io::Result<Command> {
        let folders = folders();
        let is_there = |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.is_file());
        let program = folders.iter().map(|folder| folder.join(self.program)).find(is_there).ok_or_else(|| {
            let shown: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
            io::Error::new(io::ErrorKind::NotFound, format!("no '{}' in {}", self.program, shown.join(", ")))
        })?;
        let mut command = Command::new(program);
        command.env_clear().env("PATH", FOLDERS.join(":")).env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
        Ok(command)
    }

    /// Starts the tool by this command of its own, as the first of a group of processes.
    pub(crate) fn start(self, command: &mut Command) -> Result<Process> {
        self.refuse_second_table()?;
        let io = |e| Error::io(self.step, self.program, e);
        let memory = |name| rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).map(File::from);
        let memory = |name| memory(name).map_err(|e| io(e.into()));
        let (output, complaint) = (memory("stdout")?, memory("stderr")?);
        command.stdout(output.try_clone().map_err(io)?).stderr(complaint.try_clone().map_err(io)?).process_group(0);
        let child = command.spawn().map_err(io)?;
        Ok(Process { tool: self, child, output, complaint, most: OUTPUT, in_order: None, is_left: false })
    }

    /// Runs the tool to its end, for at most `limit`. Asks `go_on` meanwhile, whose error ends it.
    pub(crate) fn run(
        self,
        command: &mut Command,
        limit: Duration,
        go_on: impl FnMut() -> Result<()>,
    ) -> Result<Ended> {
        self.start(command)?.wait(limit, go_on, Process::ended)
    }

    /// The same on a thread that has none of this process's descriptors: the tool would inherit a file of a hung NAS, close it,
    /// and then wait for that NAS, as would this process.
    pub(crate) fn run_apart(
        self,
        mut command: Command,
        limit: Duration,
        go_on: impl FnMut() -> Result<()> + Send + 'static,
    ) -> Result<Ended> {
        self.refuse_second_table()?;
        let run = move || self.run(&mut command, limit, go_on);
        sys::without_descriptors("run a tool", run).map_err(|e| Error::io(self.step, self.program, e))?
    }

    fn refuse_second_table(&self) -> Result<()> {
        let refused = || Error::new(Code::Internal, self.step, "the process would have the NAS's files");
        if second_table::is_here() { Err(refused()) } else { Ok(()) }
    }
}

#[cfg(not(feature = "test-hooks"))]
fn folders() -> Vec<PathBuf> {
    FOLDERS.map(PathBuf::from).to_vec()
}

/// A test may put other tools in their place: `NASBACKUP_TOOLS` names the only folder that is looked into.
#[cfg(feature = "test-hooks")]
fn folders() -> Vec<PathBuf> {
    std::env::var_os("NASBACKUP_TOOLS").map_or_else(|| FOLDERS.map(PathBuf::from).to_vec(), |path| vec![path.into()])
}

impl Process {
    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `look` finds something. Asks `go_on` meanwhile, whose error ends the wait; after `limit` the process is ended
    /// with all that it has started: `TIMEOUT`, and `NAS_UNRESPONSIVE` if it hangs in the kernel, so that it had to be left behind.
    pub(crate) fn wait<T>(
        &mut self,
        limit: Duration,
        mut go_on: impl FnMut() -> Result<()>,
        mut look: impl FnMut(&mut Process) -> Result<Option<T>>,
    ) -> Result<T> {
        let until = Instant::now() + limit;
        // none before Linux 5.3
        let mut end = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()).ok();
        loop {
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            if Instant::now() > until {
                return Err(self.give_up());
            }
            go_on()?;
            match &end {
                // one that has ended would be told at once again and again
                Some(of) if ends_in_a_moment(of) => end = None,
                Some(_) => {}
                None => thread::sleep(limits::TOOL_LOOK),
            }
        }
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<Ended>> {
        let io = |e| Error::io(self.tool.step, self.tool.program, e);
        let Some(status) = self.child.try_wait().map_err(io)? else { return Ok(None) };
        let output = start_of(&mut self.output, self.most).map_err(io)?;
        let complaint = start_of(&mut self.complaint, COMPLAINT).map_err(io)?;
        Ok(Some(Ended { tool: self.tool, status, output, complaint }))
    }

    /// Ends the process, for which nobody waits any longer.
    fn give_up(&mut self) -> Error {
        let Tool { program, step, late } = self.tool;
        if self.stop() {
            return Error::new(Code::Timeout, step, late);
        }
        let left = format!("a process of {program} that hangs and holds what it has locked");
        Error::new(Code::NasUnresponsive, step, late).with_leftover(left)
    }

    /// So many bytes of its output are read.
    pub(crate) fn told_up_to(mut self, most: u64) -> Process {
        self.most = most;
        self
    }

    /// It gets so long to end in order before it is killed.
    pub(crate) fn ends_within(mut self, limit: Duration) -> Process {
        self.in_order = Some(limit);
        self
    }

    /// Has it end in order, if it may, and else kills it; true if it has ended.
    fn stop(&mut self) -> bool {
        let in_order = self.in_order.filter(|_| !self.is_left);
        in_order.is_some_and(|limit| self.ends_by(Signal::TERM, limit)) || self.kill()
    }

    /// Kills the process with all that it has started. One that hangs in the kernel does not die before what it waits for
    /// answers: false, and it is reaped whenever it ends.
    fn kill(&mut self) -> bool {
        if !self.is_left && !self.ends_by(Signal::KILL, limits::KILLED) {
            self.is_left = true;
            let (program, pid) = (self.tool.program, Pid::from_child(&self.child));
            let reap = move || {
                if let Err(error) = waitpid(Some(pid), WaitOptions::empty()) {
                    log::warn!("{program} could not be reaped: {error}");
                }
            };
            if let Err(error) = thread::Builder::new().name("nasbackup-reap".to_owned()).spawn(reap) {
                log::warn!("the thread that reaps {program} could not be started: {error}");
            }
        }
        !self.is_left
    }

    fn ends_by(&mut self, signal: Signal, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > until {
                return false;
            }
            // Once more each time: qemu-nbd forgets one that comes while it opens the image. Can't fail: the process was
            // not waited for.
            let _ = kill_process_group(Pid::from_child(&self.child), signal);
            thread::sleep(limits::SHORT_LOOK);
        }
        true
    }
}

/// Waits a moment for the end of the process: a look at intervals would add most of one to what takes a millisecond. True, too,
/// where the kernel does not tell.
fn ends_in_a_moment(process: &OwnedFd) -> bool {
    let moment = Timespec { tv_sec: 0, tv_nsec: limits::TOOL_LOOK.subsec_nanos().into() };
    match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&moment)) {
        Ok(ended) => ended > 0,
        Err(error) => error != Errno::INTR,
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Ended {
    /// What it has said, or its failure.
    pub(crate) fn result(self) -> Result<String> {
        if self.status.success() { Ok(self.output) } else { Err(self.failed()) }
    }

    /// Its end as an error.
    pub(crate) fn failed(&self) -> Error {
        let lines: Vec<_> = self.complaint.lines().map(str::trim).collect();
        let cause = format!("{}: {} ({})", self.tool.program, lines.join("; "), self.status);
        Error::new(Code::JobFailed, self.tool.step, cause)
    }
}

fn start_of(file: &mut File, most: u64) -> io::Result<String> {
    let mut text = Vec::new();
    file.rewind()?;
    file.take(most).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn tool(program: &'static str) -> Tool {
        Tool { program, step: "test", late: "it is late" }
    }

    const SHELL: Tool = tool("sh");
    const LONG: Duration = Duration::from_secs(60);

    fn script(text: &str) -> Command {
        let mut command = SHELL.command().unwrap();
        command.args(["-c", text]);
        command
    }

    #[test]
    fn tools_are_the_system_s_own_and_know_nothing_of_this_process() {
        let command = tool("env").command().unwrap();
        assert!(command.get_program().to_str().unwrap().starts_with("/usr/bin/"));
        let output = { command }.output().unwrap();
        let environment = String::from_utf8(output.stdout).unwrap();
        assert_eq!(environment.lines().collect::<Vec<_>>(), ["LC_ALL=C", "PATH=/usr/bin:/usr/sbin:/bin:/sbin"]);
        let error = tool("no-such-tool").command().unwrap_err();
        assert!(error.to_string().contains("no 'no-such-tool' in /usr/bin, "), "{error}");
    }

    #[test]
    fn a_command_inherits_nothing_that_is_open_here() {
        let _open = rustix::fs::memfd_create("inherited", MemfdFlags::empty()).unwrap();
        let list = || script("ls -l /proc/self/fd >&2");
        let listed = list().output().unwrap().stderr;
        assert!(String::from_utf8_lossy(&listed).contains("inherited"), "or the test says nothing");
        let Ended { complaint, .. } = SHELL.run_apart(list(), LONG, || Ok(())).unwrap();
        assert!(complaint.contains("/memfd:stderr") && !complaint.contains("inherited"), "{complaint}");
    }

    #[test]
    fn a_command_that_does_not_end_is_killed_with_its_children() {
        let child = tempfile::NamedTempFile::new().unwrap();
        let mut command = script("sleep 1000 & echo $! > \"$0\"; wait");
        let mut process = SHELL.start(command.arg(child.path())).unwrap();
        let told = || fs::read_to_string(child.path()).unwrap().strip_suffix('\n').map(str::to_owned);
        let child = process.wait(LONG, || Ok(()), |_| Ok(told())).unwrap();
        let error = process.wait(Duration::ZERO, || Ok(()), Process::ended).err().unwrap();
        assert_eq!((error.code, &*error.cause), (Code::Timeout, "it is late"));
        // whoever has adopted it may still have to reap it
        let ends = Instant::now() + LONG;
        while fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(Instant::now() < ends, "{child} lives");
            thread::sleep(limits::TOOL_LOOK);
        }
    }

    #[test]
    fn a_command_that_may_end_in_order_does_so_at_its_limit() {
        let told = tempfile::NamedTempFile::new().unwrap();
        let mut command = script("trap 'echo ended > \"$0\"; exit' TERM; echo begun > \"$0\"; sleep 1000 & wait");
        let mut process = SHELL.start(command.arg(told.path())).unwrap().ends_within(LONG);
        let read = || fs::read_to_string(told.path()).unwrap();
        process.wait(LONG, || Ok(()), |_| Ok((read() == "begun\n").then_some(()))).unwrap();
        let error = process.wait(Duration::ZERO, || Ok(()), Process::ended).err().unwrap();
        assert_eq!((error.code, read().as_str()), (Code::Timeout, "ended\n"));
    }

    #[test]
    fn an_end_is_told_with_the_complaint() {
        let ended = SHELL.run_apart(script("echo complaint >&2; exit 3"), LONG, || Ok(())).unwrap();
        assert_eq!((ended.status.code(), ended.complaint.as_str()), (Some(3), "complaint\n"));
        assert_eq!(ended.result().unwrap_err().cause, "sh: complaint (exit status: 3)");
    }

    #[test]
    fn whoever_waits_may_give_up_and_the_drop_kills() {
        let mut process = SHELL.start(&mut script("sleep 1000")).unwrap();
        let enough = || Err(Error::new(Code::Cancelled, "test", "enough"));
        assert_eq!(process.wait(LONG, enough, Process::ended).err().unwrap().code, Code::Cancelled);
        let pid = Pid::from_child(&process.child);
        drop(process);
        assert!(rustix::process::test_kill_process(pid).is_err(), "it is killed and reaped");
        let ended = SHELL.run(&mut script("echo told"), LONG, || Ok(())).unwrap();
        assert_eq!(ended.result().unwrap(), "told\n");
    }
}
