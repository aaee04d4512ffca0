//! `nasbackup list`: the chains of a repository as trees.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use nasbackup::error::{Error, Result};
use nasbackup::operation::list_points::{ListedMachine, ListedPoint, ListedPoints};
use nasbackup::plain::plain;
use nasbackup::point::Kind;

use crate::arguments::List;
use crate::host::Host;
use crate::output::{Output, size};
use crate::tree::tree;
use crate::{picture, points, repository};

pub(crate) fn run(host: &Host, arguments: &List, output: Output) -> Result<ExitCode> {
    let listed = points::listed(host, arguments.vm.as_deref(), output)?;
    let place = repository::told(&host.repository()?);
    if let Some(file) = &arguments.svg {
        write(file, &picture::svg(&listed))?;
    }
    if let Some(file) = &arguments.html {
        write(file, &picture::html(&listed, &text(&listed, &place)))?;
    }
    output.print(&listed, |listed| text(listed, &place))?;
    Ok(ExitCode::SUCCESS)
}

/// What a delete gives back, or how much the points that stand on it would have to take over first, at most.
fn deletion(point: &ListedPoint, children: u64) -> String {
    match children {
        0 => format!("frees {}", size(point.size)),
        _ => format!("merges {}", size(point.size.saturating_mul(children))),
    }
}

/// How many points stand on each, by its path.
fn children(points: &[ListedPoint]) -> BTreeMap<&str, u64> {
    let mut children = BTreeMap::new();
    for point in points {
        for parent in BTreeSet::from_iter(&point.parents) {
            *children.entry(parent.as_str()).or_default() += 1;
        }
    }
    children
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).map_err(|error| Error::io("draw the chains", file, error))
}

fn text(listed: &ListedPoints, place: &str) -> String {
    let mut text: Vec<_> = listed.machines.iter().filter(|machine| !is_empty(machine)).map(machine).collect();
    if !listed.foreign.is_empty() {
        text.push(format!("foreign: {}\n", listed.foreign.join(", ")));
    }
    if text.is_empty() { format!("no restore points in {place}\n") } else { text.join("\n") }
}

/// Is there nothing to tell of the machine?
fn is_empty(machine: &ListedMachine) -> bool {
    machine.points.is_empty() && machine.unfinished.is_empty() && machine.problem.is_none()
}

fn machine(machine: &ListedMachine) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    let instance = plain(&machine.instance);
    table.set_header([&*instance, "kind", "disks", "own", "chain", "delete", "verified", "booted"]);
    let children = children(&machine.points);
    for (indent, point) in tree(&machine.points) {
        let name = plain(point.backup_path.rsplit('/').next().unwrap_or_default());
        let kind = if point.kind == Kind::Full { "full" } else { "incremental" };
        let disks = point.disks.len().to_string();
        table.add_row([
            &format!("{indent}{name}"),
            kind,
            &disks,
            &size(point.size),
            &size(point.chain_size),
            &deletion(point, children.get(&*point.backup_path).copied().unwrap_or(0)),
            &points::verified(point),
            &points::booted(point),
        ]);
    }
    for column in table.column_iter_mut().skip(2).take(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = table.trim_fmt() + "\n";
    let problems = machine.points.iter().flat_map(|point| {
        point.problems.iter().map(move |problem| format!("{}: {problem}", plain(&point.backup_path)))
    });
    for line in machine.problem.iter().cloned().chain(problems) {
        text += &format!("  problem: {line}\n");
    }
    for (what, names) in [("unfinished", &machine.unfinished), ("foreign", &machine.foreign)] {
        if !names.is_empty() {
            text += &format!("  {what}: {}\n", names.join(", "));
        }
    }
    text
}
