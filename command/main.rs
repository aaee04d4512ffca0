//! `nasbackup`: what the library does, for a person at a terminal and for scripts. A second thin caller beside JNI: it reads
//! arguments, calls an operation, and shows its answer.

mod arguments;
mod delete;
mod host;
mod jobs;
mod list;
mod metrics;
mod mount;
mod output;
mod picture;
mod points;
mod progress;
mod rebase;
mod repository;
mod restore;
mod show;
mod take;
mod verify;

use std::process::ExitCode;

use arguments::{Arguments, Command};
use clap::Parser;
use nasbackup::error::{Code, Result};
use output::Output;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("nasbackup: {error}");
            ExitCode::from(exit_code(error.code))
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let output = Output { json: arguments.json };
    // opened by those alone that look at a repository
    let host = || host::open(&arguments);
    match &arguments.command {
        Command::List(list) => list::run(&host()?, list, output),
        Command::Show(show) => show::run(&host()?, show, output),
        Command::Verify(verify) => verify::run(&host()?, verify, output),
        Command::Restore(restore) => restore::run(&host()?, restore, output),
        Command::Mount(mount) if mount.foreground || arguments.holder => {
            mount::hold(&host()?, mount, arguments.holder, output)
        }
        Command::Mount(_) => mount::start(),
        Command::Umount(umount) => mount::unmount(umount),
        Command::Delete(delete) => delete::run(&host()?, delete, output),
        Command::Rebase(rebase) => rebase::run(&host()?, rebase, output),
        Command::Take(take) => take::run(&host()?, take, output),
        Command::Metrics => metrics::run(&host()?, output),
        Command::Jobs => host().and_then(|_| jobs::run(output)),
        Command::Cancel(cancel) => host().and_then(|_| jobs::cancel(cancel)),
        Command::Completions(completions) => output::completions(completions.shell),
        Command::Manual => output::manual(),
    }
}

/// What the process ends with for each code. 0 is success, 1 the verdict bad, 23 a verdict that could not be
/// found, and 2 what clap ends with for arguments that it does not understand.
fn exit_code(code: Code) -> u8 {
    match code {
        Code::InvalidArgument => 2,
        Code::NotFound => 3,
        Code::AlreadyExists => 4,
        Code::Busy => 5,
        Code::HasChildren => 6,
        Code::ParentInvalid => 7,
        Code::CorruptImage => 8,
        Code::UnsupportedImage => 9,
        Code::NoSpace => 10,
        Code::PermissionDenied => 11,
        Code::NasUnresponsive => 12,
        Code::MountFailed => 13,
        Code::DomainNotFound => 14,
        Code::DomainState => 15,
        Code::JobFailed => 16,
        Code::Libvirt => 17,
        Code::QuiesceFailed => 18,
        Code::Timeout => 19,
        Code::Io => 20,
        Code::Internal => 21,
        Code::VersionMismatch => 22,
        // as a shell tells of a process that SIGINT has ended
        Code::Cancelled => 130,
    }
}
