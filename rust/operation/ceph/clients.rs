//! Asks Ceph's own tool who has an image open for writing, because nothing locks an image in Ceph.

use std::time::Duration;

use serde::Deserialize;

use super::{Rbd, tool};
use crate::error::{Code, Error, Result};
use crate::process::Tool;

const RBD: Tool = tool::rbd("ask who has the image in Ceph open");

#[derive(Deserialize)]
struct WatcherList {
    watchers: Vec<serde::de::IgnoredAny>,
}

/// `INVALID_ARGUMENT` when this host lacks the tool that tells who has an image open.
pub(in crate::operation) fn can_be_asked() -> Result<()> {
    tool::command(RBD).map(drop).map_err(|error| match error.code {
        Code::JobFailed => {
            let why = "who has an image in Ceph open is asked before it is written, and this host lacks what tells";
            Error::invalid("output.path", format!("{why}: {}", error.cause))
        }
        _ => error,
    })
}

/// Counts the clients that have `image` open. Ceph counts a client that was killed for half a minute more. `go_on` is asked while this
/// waits.
pub(in crate::operation) fn clients(image: &Rbd, limit: Duration, go_on: impl FnMut() -> Result<()>) -> Result<usize> {
    count(&tool::run(RBD, &["status", "--format=json"], image, None, limit, go_on)?)
}

fn count(told: &str) -> Result<usize> {
    let status: WatcherList = tool::parse(RBD, told)?;
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
