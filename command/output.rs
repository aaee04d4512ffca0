//! How answers are shown.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::CommandFactory as _;
use clap::error::ErrorKind;
use clap_mangen::Man;

use indicatif::HumanDuration;
use nasbackup::error::{Code, Error, Result};
use nasbackup::operation::verify_chain::Verdict;
use nasbackup::plain::plain_json;
pub(crate) use nasbackup::plain::size;
use serde::Serialize;

use crate::arguments::Arguments;

/// What the caller wants to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// One JSON value, and no text.
    pub(crate) json: bool,
}

impl Output {
    /// Prints the answer: as JSON, or as `text` shows it.
    pub(crate) fn print<T: Serialize>(self, answer: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        let shown = if self.json {
            let json = serde_json::to_string_pretty(answer);
            let json = json.map_err(|error| Error::new(Code::Internal, "print the answer", error))?;
            plain_json(&json).into_owned() + "\n"
        } else {
            text(answer)
        };
        print_text(&shown)
    }
}

/// An error, as `--json` tells it.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    code: Code,
    /// What was being done.
    step: &'static str,
    /// The disk that it concerned, if it was of one.
    disk: Option<String>,
    /// Why it failed.
    message: String,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Failure {
        let Error { code, step, disk, cause, .. } = error;
        Failure { code: *code, step, disk: disk.clone(), message: cause.clone() }
    }
}

impl Output {
    /// Tells the error that ends the command, in place of an answer.
    pub(crate) fn fail(self, error: &Error) -> ExitCode {
        if self.json {
            // else nobody reads it
            _ = self.print(&serde_json::json!({ "error": Failure::from(error) }), |_| String::new());
        } else {
            eprintln!("nasbackup: {error}");
        }
        ExitCode::from(exit_code(error.code))
    }
}

/// Tells that the arguments are not understood, or what they ask of clap: help, or the version.
pub(crate) fn refused(refused: &clap::Error) -> ExitCode {
    let json = std::env::args_os().any(|argument| argument == "--json");
    let is_bare = refused.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if refused.use_stderr() && (json || !is_bare) {
        let cause = if is_bare { "which command? --help tells all".to_owned() } else { on_one_line(refused) };
        return Output { json }.fail(&Error::new(Code::InvalidArgument, "read the arguments", cause));
    }
    // else nobody reads it
    _ = refused.print();
    ExitCode::from(u8::try_from(refused.exit_code()).unwrap_or(2))
}

/// What clap finds wrong, without how the command is used.
fn on_one_line(refused: &clap::Error) -> String {
    let text = refused.to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut cause = String::new();
    for line in lines.take_while(|line| !["Usage:", "For more information"].iter().any(|end| line.starts_with(end))) {
        let between = if cause.is_empty() {
            ""
        } else if cause.ends_with(':') {
            " "
        } else {
            "; "
        };
        cause = cause + between + line.strip_prefix("error: ").unwrap_or(line);
    }
    cause
}

/// Prints a text. Whoever reads may have seen enough: then nothing is wrong.
pub(crate) fn print_text(text: &str) -> Result<()> {
    use std::io::{Write, stdout};
    match stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| Error::io("print the answer", "stdout", error)),
    }
}

/// Prints what a shell completes arguments by.
pub(crate) fn completions(shell: clap_complete::Shell, output: Output) -> Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "nasbackup", &mut text);
    output.print(&String::from_utf8_lossy(&text), |text| text.clone().into_owned()).map(|()| ExitCode::SUCCESS)
}

/// Prints the manual page.
pub(crate) fn manual(output: Output) -> Result<ExitCode> {
    let page = page().map_err(|error| Error::io("print the manual page", "stdout", error))?;
    output.print(&String::from_utf8_lossy(&page), |page| page.clone().into_owned()).map(|()| ExitCode::SUCCESS)
}

/// One page for all: packages hold no other.
fn page() -> io::Result<Vec<u8>> {
    let all = Arguments::command();
    let (man, mut page) = (Man::new(all.clone()), Vec::new());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_options_section(&mut page)?;
    writeln!(page, ".SH COMMANDS")?;
    for command in all.get_subcommands() {
        let name = format!("nasbackup {}", command.get_name());
        writeln!(page, ".SS \"{name}\"")?;
        let man = Man::new(command.clone().disable_help_flag(true).bin_name(name));
        let mut part = Vec::new();
        man.render_synopsis_section(&mut part)?;
        man.render_description_section(&mut part)?;
        man.render_options_section(&mut part)?;
        for line in String::from_utf8_lossy(&part).lines() {
            // a heading of its own would end the list of commands
            writeln!(page, "{}", if line.starts_with(".SH ") { ".PP" } else { line })?;
        }
    }
    writeln!(
        page,
        ".SH EXIT STATUS\n0: success. 1: a verdict is bad, or backups fail. 23: nothing could be found out."
    )?;
    for code in CODES {
        writeln!(page, ".br\n{}: {code}", exit_code(code))?;
    }
    man.render_version_section(&mut page)?;
    Ok(page)
}

/// The verdict as `verifyChain` answers it.
pub(crate) fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Good => "good",
        Verdict::Aborted => "aborted",
        Verdict::Bad => "bad",
    }
}

/// All codes, by what the process ends with.
const CODES: [Code; 22] = [
    Code::InvalidArgument,
    Code::NotFound,
    Code::AlreadyExists,
    Code::Busy,
    Code::HasChildren,
    Code::ParentInvalid,
    Code::CorruptImage,
    Code::UnsupportedImage,
    Code::NoSpace,
    Code::PermissionDenied,
    Code::NasUnresponsive,
    Code::MountFailed,
    Code::DomainNotFound,
    Code::DomainState,
    Code::JobFailed,
    Code::Libvirt,
    Code::QuiesceFailed,
    Code::Timeout,
    Code::Io,
    Code::Internal,
    Code::VersionMismatch,
    Code::Cancelled,
];

/// What the process ends with for a verdict.
pub(crate) fn verdict_code(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Good => 0,
        Verdict::Bad => 1,
        Verdict::Aborted => 23,
    }
}

/// What the process ends with for each code. 0 is success, 1 the verdict bad, 23 a verdict that could not be
/// found, and 2 what clap ends with for arguments that it does not understand.
pub(crate) fn exit_code(code: Code) -> u8 {
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

/// A time that has gone by, as `3 minutes`.
pub(crate) fn time(time: Duration) -> String {
    HumanDuration(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_page_tells_each_command_s_options_and_each_status() {
        let page = String::from_utf8(page().unwrap()).unwrap();
        for part in Arguments::command().get_subcommands() {
            assert_eq!(page.matches(&format!(".SS \"nasbackup {}\"\n", part.get_name())).count(), 1);
            for option in part.get_arguments().filter_map(|option| option.get_long()) {
                assert!(page.contains(&format!("\\-\\-{}", option.replace('-', "\\-"))), "{option}: {page}");
            }
        }
        let statuses: Vec<_> = CODES.into_iter().map(exit_code).collect();
        assert_eq!(statuses, (2..=22).chain([130]).collect::<Vec<_>>());
        assert!(page.contains("5: BUSY\n") && page.matches(".SH OPTIONS").count() == 1, "{page}");
    }
}
