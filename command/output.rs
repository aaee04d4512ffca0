//! How answers are shown.

use std::process::ExitCode;
use std::time::Duration;

use clap::CommandFactory as _;

use indicatif::{BinaryBytes, HumanDuration};
use nasbackup::error::{Code, Error, Result};
use nasbackup::operation::verify_chain::Verdict;
use nasbackup::plain::plain_json;
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

/// Prints a text. Whoever reads may have seen enough: then nothing is wrong.
pub(crate) fn print_text(text: &str) -> Result<()> {
    use std::io::{ErrorKind, Write, stdout};
    match stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| Error::io("print the answer", "stdout", error)),
    }
}

/// Prints what a shell completes arguments by.
pub(crate) fn completions(shell: clap_complete::Shell) -> Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "nasbackup", &mut text);
    print_text(&String::from_utf8_lossy(&text)).map(|()| ExitCode::SUCCESS)
}

/// Prints the manual page.
pub(crate) fn manual() -> Result<ExitCode> {
    let mut text = Vec::new();
    let made = clap_mangen::Man::new(Arguments::command()).render(&mut text);
    made.map_err(|error| Error::io("print the manual page", "stdout", error))?;
    print_text(&String::from_utf8_lossy(&text)).map(|()| ExitCode::SUCCESS)
}

/// The verdict as `verifyChain` answers it.
pub(crate) fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Good => "good",
        Verdict::Aborted => "aborted",
        Verdict::Bad => "bad",
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

/// Bytes, as `1.50 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

/// A time that has gone by, as `3 minutes`.
pub(crate) fn time(time: Duration) -> String {
    HumanDuration(time).to_string()
}
