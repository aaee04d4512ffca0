//! `nasbackup files` and `get`.

use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

use nasbackup::error::Result;
use nasbackup::operation::point_files::{self, Copied, Entry, FileKind, FileSystem, OwnMounts, PointFilesRequest};
use nasbackup::plain::plain;

use crate::arguments::{Files, Get};
use crate::host::Host;
use crate::output::{Output, size};
use crate::{points, progress};

pub(crate) fn list(own: OwnMounts, host: &Host, arguments: &Files, output: Output) -> Result<ExitCode> {
    let request = request(host, &arguments.point, arguments.partition.as_deref())?;
    if let Some(path) = arguments.path.clone() {
        let found = progress::with(output, |listener| point_files::list(own, request, path.into_vec(), listener))?;
        output.print(&found, |found| found.entries.iter().map(entry_line).collect())?;
    } else {
        let found = progress::with(output, |listener| point_files::find(own, request, listener))?;
        output.print(&found, |found| file_systems(found))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn get(own: OwnMounts, host: &Host, arguments: &Get, output: Output) -> Result<ExitCode> {
    let request = request(host, &arguments.point, arguments.partition.as_deref())?;
    let paths = arguments.paths.iter().cloned().map(OsStringExt::into_vec).collect();
    let to = arguments.dest.clone();
    let copied = progress::with(output, |listener| point_files::get(own, request, paths, to, listener))?;
    output.print(&copied, text)?;
    Ok(ExitCode::SUCCESS)
}

fn request(host: &Host, point: &str, partition: Option<&str>) -> Result<PointFilesRequest> {
    let (point, volume) = points::split_volume(point);
    Ok(PointFilesRequest {
        repository: Some(host.repository()?),
        backup_path: Some(point.to_owned()),
        volume: volume.map(str::to_owned),
        partition: partition.map(str::to_owned),
        ..PointFilesRequest::default()
    })
}

fn file_systems(found: &[FileSystem]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(["volume", "partition", "type", "size", "label", "readable"]);
    for told in found {
        table.add_row([
            plain(told.volume.as_deref().unwrap_or("-")).into_owned(),
            plain(told.partition.as_deref().unwrap_or("-")).into_owned(),
            plain(&told.kind).into_owned(),
            told.size.map_or_else(|| "-".to_owned(), size),
            plain(told.label.as_deref().unwrap_or("-")).into_owned(),
            (if told.readable { "yes" } else { "no" }).to_owned(),
        ]);
    }
    table.trim_fmt() + "\n"
}

/// `-rw-r--r--      0      0         1234 2026-01-02 03:04:05 name`, the time in UTC.
fn entry_line(entry: &Entry) -> String {
    let time = entry.modified.map_or_else(|| "-".to_owned(), |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string());
    let target = entry.target.as_ref().map(|target| format!(" -> {}", plain(target))).unwrap_or_default();
    let Entry { owner, group, size, .. } = entry;
    format!("{} {owner:>6} {group:>6} {size:>12} {time:<19} {}{target}\n", permissions(entry), plain(&entry.name))
}

fn permissions(entry: &Entry) -> String {
    let kind = match entry.kind {
        FileKind::File => '-',
        FileKind::Folder => 'd',
        FileKind::Link => 'l',
        FileKind::Other => '?',
    };
    let mode = u32::from_str_radix(&entry.mode, 8).unwrap_or(0);
    let bit = |bit: u32| if mode >> bit & 1 == 1 { ["x", "w", "r"][bit as usize % 3] } else { "-" };
    format!("{kind}{}", (0..9).rev().map(bit).collect::<String>())
}

fn text(copied: &Copied) -> String {
    let copies = copied.copies.iter().map(|path| format!("{}\n", plain(&path.to_string_lossy())));
    let count = std::iter::once(format!("{} files, {}\n", copied.files, size(copied.bytes)));
    let left_out = copied.left_out.iter().map(|path| format!("left out: {}, which is no file\n", plain(path)));
    let more = (copied.more_left_out > 0).then(|| format!("left out: {} more\n", copied.more_left_out));
    copies.chain(count).chain(left_out).chain(more).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_on_a_line_each_and_do_nothing() {
        let entry = Entry {
            name: "a\n\u{1b}[2J\u{202e}".into(),
            kind: FileKind::Link,
            mode: "4751".into(),
            owner: 0,
            group: 1000,
            size: 3,
            modified: Some("2026-01-02T03:04:05Z".parse().unwrap()),
            target: Some("x\ry".into()),
        };
        let shown = "lrwxr-x--x      0   1000            3 2026-01-02 03:04:05 a\\n\\u{1b}[2J\\u{202e} -> x\\ry\n";
        assert_eq!(entry_line(&entry), shown);
    }
}
