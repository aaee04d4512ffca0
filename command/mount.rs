//! `nasbackup mount` and `umount`. What is mounted is held by a process, which locks the point and serves its disks: the command
//! itself, or one that the command leaves in the background.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use nasbackup::error::{Code, Error, Result};
use nasbackup::operation::mount_point::{self, MountPointRequest, MountedPoint};
use nasbackup::work::stuck::all_stuck;

use crate::arguments::{Mount, Umount};
use crate::host::Host;
use crate::output::{Output, print_text, size};
use crate::progress;

const STEP: &str = "start the process that holds the mounts";

/// What the holder writes after its answer. Its threads have tables of descriptors of their own, so that it can't close its output.
const END: u8 = 0;

/// Has a process of its own hold the mounts, and ends when that has told what it has mounted.
pub(crate) fn start(output: Output) -> Result<ExitCode> {
    let io = |error| Error::io(STEP, "nasbackup", error);
    let mut command = std::process::Command::new(std::env::current_exe().map_err(io)?);
    command.arg("--holder").args(std::env::args_os().skip(1)).stdin(Stdio::null()).stdout(Stdio::piped());
    // not ours: whoever reads that to its end would wait for the holder
    let complaint = rustix::fs::memfd_create("complaint", rustix::fs::MemfdFlags::CLOEXEC).map_err(|e| io(e.into()))?;
    let mut complaint = File::from(complaint);
    let mut holder = command.stderr(complaint.try_clone().map_err(io)?).spawn().map_err(io)?;
    let mut told = Vec::new();
    let listen =
        || holder.stdout.take().map_or(Ok(0), |out| BufReader::new(out).read_until(END, &mut told)).map_err(io);
    progress::told(output, "mount the point", listen)?;
    complaint.rewind().and_then(|()| std::io::copy(&mut complaint, &mut std::io::stderr())).map_err(io)?;
    let is_mounted = told.pop_if(|last| *last == END).is_some();
    // else an error as JSON
    print_text(&String::from_utf8_lossy(&told))?;
    if !is_mounted {
        // the holder itself has said why
        let ended = holder.wait().map_err(io)?;
        let code = ended.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0);
        let killed = || Error::new(Code::JobFailed, STEP, format!("it ended: {ended}"));
        return code.map(ExitCode::from).ok_or_else(killed);
    }
    Ok(ExitCode::SUCCESS)
}

/// Holds the mounts until they are unmounted, or this process is told to end.
pub(crate) fn hold(host: &Host, arguments: &Mount, background: bool, output: Output) -> Result<ExitCode> {
    let request = MountPointRequest {
        repository: Some(host.repository()?),
        backup_path: Some(arguments.point.clone()),
        folder: arguments.dir.clone(),
        ..MountPointRequest::default()
    };
    let mut is_mounted = false;
    let mounted = |point: &MountedPoint| {
        is_mounted = true;
        output.print(point, text)?;
        if background { leave_terminal() } else { Ok(()) }
    };
    let told = Output { json: output.json || background };
    match progress::with(told, |listener| mount_point::run(request, mounted, listener)) {
        // nothing of it waits for a NAS that hangs
        Err(error) if is_mounted && error.code == Code::Cancelled && all_stuck() == 0 => Ok(ExitCode::SUCCESS),
        Err(error) => {
            if is_mounted && background {
                tell_host(&host_log(), &arguments.dir, &error);
            }
            Err(error)
        }
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

/// Where the host's log takes lines (syslog(3)).
fn host_log() -> PathBuf {
    #[cfg(feature = "test-hooks")]
    if let Some(path) = std::env::var_os("NASBACKUP_HOST_LOG") {
        return path.into();
    }
    "/dev/log".into()
}

/// Tells the host's log why the mounts are gone: this process has no output any more. Without such a log nobody is told.
fn tell_host(log: &Path, folder: &Path, error: &Error) {
    const ERROR_OF_A_DAEMON: u8 = (3 << 3) | 3;
    let process = std::process::id();
    let line = format!("<{ERROR_OF_A_DAEMON}>nasbackup[{process}]: '{}' was unmounted: {error}", folder.display());
    if let Err(error) = UnixDatagram::unbound().and_then(|socket| socket.send_to(line.as_bytes(), log)) {
        log::debug!("'{}' can't be told: {error}", log.display());
    }
}

/// Unmounts the point.
pub(crate) fn unmount(arguments: &Umount, output: Output) -> Result<ExitCode> {
    progress::during(output, "unmount", || mount_point::unmount(&arguments.dir))?;
    output.print(&serde_json::json!({ "unmounted": arguments.dir }), |_| String::new())?;
    Ok(ExitCode::SUCCESS)
}

/// Leaves the caller's session, folder and output.
fn leave_terminal() -> Result<()> {
    let leave = || -> std::io::Result<()> {
        rustix::process::setsid()?;
        rustix::process::chdir("/")?;
        let null = File::options().write(true).open("/dev/null")?;
        rustix::stdio::dup2_stderr(&null)?;
        std::io::stdout().write_all(&[END])?;
        std::io::stdout().flush()?;
        Ok(rustix::stdio::dup2_stdout(&null)?)
    };
    leave().map_err(|error| Error::io(STEP, "nasbackup", error))
}

fn text(mounted: &MountedPoint) -> String {
    mounted.disks.iter().map(|disk| format!("{}  {}\n", disk.path.display(), size(disk.size))).collect()
}
