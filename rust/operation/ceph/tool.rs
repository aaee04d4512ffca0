//! Ceph's own tool, run on an image.

use std::io::ErrorKind;
use std::process::Command;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{Rbd, WRITTEN, confinement};
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::process::{Ended, Process, Tool};
use crate::sys;

const PROGRAM: &str = "rbd";

/// The tool, at this step.
pub(super) const fn rbd(step: &'static str) -> Tool {
    Tool { program: PROGRAM, step, late: "Ceph does not answer" }
}

/// A command of it. The error says how the host gets the tool if it lacks that.
pub(super) fn command(tool: Tool) -> Result<Command> {
    tool.command().map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            Error::new(Code::JobFailed, tool.step, format!("install '{PROGRAM}', package ceph-common - {error}"))
        }
        _ => Error::io(tool.step, PROGRAM, error),
    })
}

/// Runs the tool with these arguments on `image`, or on its `snapshot`. `go_on` is asked while this waits, and its error ends the tool.
pub(super) fn run(
    tool: Tool,
    arguments: &[&str],
    image: &Rbd,
    snapshot: Option<&str>,
    limit: Duration,
    go_on: impl FnMut() -> Result<()>,
) -> Result<String> {
    let mut command = command(tool)?;
    let key = image.key_file().map_err(|e| Error::io(tool.step, "the key", e))?;
    command.args(arguments).args(image.arguments(snapshot)).stdin(key);
    confinement().put_on(&mut command);
    // the change of the user resets this, so it is set afterwards
    sys::end_with_thread(&mut command);
    let ended: Ended =
        tool.start(&mut command)?.told_up_to(WRITTEN).wait(limits::within(tool.step, limit), go_on, Process::ended)?;
    ended.result()
}

/// Understands what it tells in JSON.
pub(super) fn parse<T: DeserializeOwned>(tool: Tool, told: &str) -> Result<T> {
    serde_json::from_str(told)
        .map_err(|e| Error::new(Code::JobFailed, tool.step, format!("{PROGRAM} does not tell it in its JSON: {e}")))
}
