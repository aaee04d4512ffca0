//! Asks Ceph's own tool who has an image open for writing, because nothing locks an image in Ceph.

use std::io::ErrorKind;
use std::process::Command;

use serde::Deserialize;

use super::{Rbd, confinement};
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::process::Tool;
use crate::sys;

const PROGRAM: &str = "rbd";
const STEP: &str = "ask who has the image in Ceph open";
const RBD: Tool = Tool { program: PROGRAM, step: STEP, late: "Ceph does not answer" };

#[derive(Deserialize)]
struct WatcherList {
    watchers: Vec<serde::de::IgnoredAny>,
}

/// `INVALID_ARGUMENT` when this host lacks the tool that tells who has an image open.
pub(in crate::operation) fn can_be_asked() -> Result<()> {
    command().map(drop)
}

fn command() -> Result<Command> {
    RBD.command().map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            let why = "who has an image in Ceph open is asked before it is written, and this host lacks what tells";
            Error::invalid("output.path", format!("{why}: install '{PROGRAM}', package ceph-common - {error}"))
        }
        _ => Error::io(STEP, PROGRAM, error),
    })
}

/// Counts the clients that have `image` open. Ceph counts a client that was killed for half a minute more. `go_on` is asked while this
/// waits.
pub(in crate::operation) fn clients(image: &Rbd, go_on: impl FnMut() -> Result<()>) -> Result<usize> {
    let mut command = command()?;
    let key = image.key_file().map_err(|e| Error::io(STEP, "the key", e))?;
    command.args(["status", "--format=json"]).args(image.arguments()).stdin(key);
    confinement().put_on(&mut command);
    // the change of the user resets this, so it is set afterwards
    sys::end_with_thread(&mut command);
    count(&RBD.run(&mut command, limits::CEPH, go_on)?.result()?)
}

fn count(told: &str) -> Result<usize> {
    let status: WatcherList = serde_json::from_str(told)
        .map_err(|e| Error::new(Code::JobFailed, STEP, format!("{PROGRAM} does not tell it in its JSON: {e}")))?;
    Ok(status.watchers.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_are_counted_that_ceph_names_and_what_it_does_not_tell_is_not_none() {
        let one = r#"{"address":"192.0.2.1:0/1","client":4117,"cookie":1}"#;
        assert_eq!(count(r#"{"watchers":[]}"#), Ok(0));
        assert_eq!(count(&format!(r#"{{"watchers":[{one},{one}],"migration":{{}}}}"#)), Ok(2));
        for told in ["", "{}", r#"{"watchers":{}}"#, "Watchers: none"] {
            assert_eq!(count(told).unwrap_err().code, Code::JobFailed, "{told}");
        }
    }
}
