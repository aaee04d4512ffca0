//! Snapshots of images in Ceph, and what has changed between two of them, by Ceph's own tool.
//!
//! Each object of an image is asked what of it has changed (`rbd diff` without `--whole-object`). The map of objects that `fast-diff`
//! keeps would be quicker to read, but names whole objects of 4 MiB, and older versions of Ceph may have it wrong (docs/backups.md).

use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;

use super::{Rbd, tool};
use crate::error::Result;
use crate::limits;
use crate::process::Tool;
use crate::work::call_end::within_call;
use crate::work::steps;

const TAKE: Tool = tool::rbd("take a snapshot of the image in Ceph");
const REMOVE: Tool = tool::rbd("remove a snapshot of the image in Ceph");
const LOOK: Tool = tool::rbd("look at the image in Ceph");
const COMPARE: Tool = tool::rbd("ask what has changed in the image in Ceph");

/// What Ceph tells of an image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(in crate::operation) struct ImageInfo {
    /// Its id, which no other image of the cluster gets; images of format 1 have none.
    #[serde(default)]
    pub id: Option<String>,
    /// What it can do.
    #[serde(default)]
    pub features: Vec<String>,
}

/// A snapshot of an image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(in crate::operation) struct ListedSnapshot {
    /// Its id, which no other snapshot of the pool gets.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// The image's size then, in bytes.
    pub size: u64,
}

#[derive(Deserialize)]
struct Extent {
    offset: u64,
    length: u64,
}

/// Takes a snapshot of what the image holds. If a client has the image locked, Ceph has that client do it, which first writes what it
/// still keeps to itself (librbd, `SnapshotCreateRequest`).
pub(in crate::operation) fn take(
    image: &Rbd,
    name: &str,
    limit: Duration,
    go_on: impl FnMut() -> Result<()>,
) -> Result<()> {
    change(TAKE, &["snap", "create", "--no-progress"], image, name, limit, go_on)
}

/// Removes the snapshot `name`.
pub(in crate::operation) fn remove(image: &Rbd, name: &str) -> Result<()> {
    change(REMOVE, &["snap", "rm", "--no-progress"], image, name, within_call(limits::CEPH), || Ok(()))
}

/// Runs a command that changes the image to its end: a client that is killed may keep the image locked for half a minute.
fn change(
    tool: Tool,
    command: &[&str],
    image: &Rbd,
    snapshot: &str,
    limit: Duration,
    mut go_on: impl FnMut() -> Result<()>,
) -> Result<()> {
    let mut ends = Ok(());
    let wait = || {
        if ends.is_ok() {
            ends = go_on();
        }
        Ok(())
    };
    steps::at("snapshot");
    tool::run(tool, command, image, Some(snapshot), limit, wait)?;
    steps::done("snapshot");
    ends
}

/// What the image is.
pub(in crate::operation) fn info(image: &Rbd, limit: Duration, go_on: impl FnMut() -> Result<()>) -> Result<ImageInfo> {
    tool::parse(LOOK, &tool::run(LOOK, &["info", "--format=json"], image, None, limit, go_on)?)
}

/// Its snapshots.
pub(in crate::operation) fn list(
    image: &Rbd,
    limit: Duration,
    go_on: impl FnMut() -> Result<()>,
) -> Result<Vec<ListedSnapshot>> {
    tool::parse(LOOK, &tool::run(LOOK, &["snap", "ls", "--format=json"], image, None, limit, go_on)?)
}

/// The ranges of bytes that may have changed from one snapshot to the next, in ascending order. None of them touches another.
pub(in crate::operation) fn changes(
    image: &Rbd,
    (from, to): (&str, &str),
    limit: Duration,
    go_on: impl FnMut() -> Result<()>,
) -> Result<Vec<Range<u64>>> {
    let from = format!("--from-snap={from}");
    ranges(&tool::run(COMPARE, &["diff", "--format=json", &from], image, Some(to), limit, go_on)?)
}

fn ranges(told: &str) -> Result<Vec<Range<u64>>> {
    let extents: Vec<Extent> = tool::parse(COMPARE, told)?;
    let mut found: Vec<_> =
        extents.iter().map(|extent| extent.offset..extent.offset.saturating_add(extent.length)).collect();
    // of an image whose stripes lie in several objects they come out of order
    found.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in found {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    Ok(joined)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn what_has_changed_is_told_in_order_and_once() {
        let extent = |offset, length, exists| format!(r#"{{"offset":{offset},"length":{length},"exists":"{exists}"}}"#);
        let told = [extent(8, 4, "true"), extent(0, 4, "false"), extent(12, 4, "false"), extent(4, 1, "true")];
        assert_eq!(ranges(&format!("[{}]", told.join(","))), Ok(vec![0..5, 8..16]));
        assert_eq!(ranges("[]"), Ok(vec![]));
        let cut_off = format!("[{},", told.join(","));
        for told in ["", "{}", r#"[{"offset":1}]"#, &cut_off, "Offset Length Type"] {
            assert_eq!(ranges(told).unwrap_err().code, Code::JobFailed, "{told}");
        }
    }

    #[test]
    fn an_image_and_its_snapshots_are_understood() {
        let info = r#"{"name":"i","id":"10c2","size":1,"features":["layering","exclusive-lock"],"flags":[]}"#;
        let told = ImageInfo { id: Some("10c2".into()), features: vec!["layering".into(), "exclusive-lock".into()] };
        assert_eq!(tool::parse::<ImageInfo>(LOOK, info), Ok(told));
        let old = r#"{"name":"i","size":1,"format":1}"#;
        assert_eq!(tool::parse::<ImageInfo>(LOOK, old), Ok(ImageInfo { id: None, features: vec![] }));
        let list = r#"[{"id":4,"name":"s","size":67108864,"protected":"false","timestamp":"Mon"}]"#;
        let told = vec![ListedSnapshot { id: 4, name: "s".into(), size: 64 << 20 }];
        assert_eq!(tool::parse::<Vec<ListedSnapshot>>(LOOK, list), Ok(told));
    }
}
