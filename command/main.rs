//! `nasbackup`: what the library does, for a person at a terminal and for scripts. A second thin caller beside JNI: it reads
//! arguments, calls an operation, and shows its answer.

mod arguments;
mod boot;
mod delete;
mod doctor;
mod files;
mod flatten;
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
mod tree;
mod verify;
mod words;

use std::process::ExitCode;

use arguments::{Arguments, Command};
use clap::Parser;
use nasbackup::error::Result;
use nasbackup::operation::point_files::OwnMounts;
use output::Output;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(refused) => return output::refused(&refused),
    };
    let output = Output { json: arguments.json };
    run(arguments).unwrap_or_else(|error| output.fail(&error))
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
        Command::Mount(_) => mount::start(output),
        Command::Umount(umount) => mount::unmount(umount, output),
        Command::Files(files) => files::list(OwnMounts::make()?, &host()?, files, output),
        Command::Get(get) => files::get(OwnMounts::make()?, &host()?, get, output),
        Command::Boot(boot) => boot::run(&host()?, boot, output),
        Command::Delete(delete) => delete::run(&host()?, delete, output),
        Command::Rebase(rebase) => rebase::run(&host()?, rebase, output),
        Command::Flatten(flatten) => flatten::run(&host()?, flatten, output),
        Command::Take(take) => take::run(&host()?, take, output),
        Command::Metrics => metrics::run(&host()?, output),
        Command::Doctor => doctor::run(&host()?, output),
        Command::Jobs => host().and_then(|_| jobs::run(output)),
        Command::Cancel(cancel) => host().and_then(|_| jobs::cancel(cancel, output)),
        Command::Completions(completions) => output::completions(completions.shell, output),
        Command::Manual => output::manual(output),
    }
}
