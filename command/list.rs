//! `nasbackup list`: the chains of a repository as trees.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use nasbackup::error::{Error, Result};
use nasbackup::operation::list_points::{self, ListPointsRequest, ListedMachine, ListedPoint, ListedPoints};
use nasbackup::plain::plain;
use nasbackup::point::Kind;

use crate::arguments::List;
use crate::host::Host;
use crate::output::{Output, size};
use crate::{picture, points, progress};

pub(crate) fn run(host: &Host, arguments: &List, output: Output) -> Result<ExitCode> {
    let request = ListPointsRequest {
        repository: Some(host.repository()?),
        instance: arguments.vm.clone(),
        ..ListPointsRequest::default()
    };
    let listed = progress::with(output, |listener| list_points::run(request, listener))?;
    if let Some(file) = &arguments.svg {
        write(file, &picture::svg(&listed))?;
    }
    if let Some(file) = &arguments.html {
        write(file, &picture::html(&listed, &text(&listed)))?;
    }
    output.print(&listed, text)?;
    Ok(ExitCode::SUCCESS)
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).map_err(|error| Error::io("draw the chains", file, error))
}

fn text(listed: &ListedPoints) -> String {
    let mut text: Vec<_> = listed.machines.iter().filter(|machine| !is_empty(machine)).map(machine).collect();
    if !listed.foreign.is_empty() {
        text.push(format!("foreign: {}\n", listed.foreign.join(", ")));
    }
    if text.is_empty() { "no restore points\n".to_owned() } else { text.join("\n") }
}

/// Is there nothing to tell of the machine?
fn is_empty(machine: &ListedMachine) -> bool {
    machine.points.is_empty() && machine.unfinished.is_empty() && machine.problem.is_none()
}

fn machine(machine: &ListedMachine) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    let instance = plain(&machine.instance);
    table.set_header([&*instance, "kind", "disks", "own", "chain", "verified"]);
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
            &points::verified(point),
        ]);
    }
    for column in table.column_iter_mut().skip(2).take(3) {
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

/// The points, each behind the one that it stands on, with the lines that lead to it: a chain goes straight down, and what
/// branches off from it is drawn to its right. One that stands on none that is there begins a chain.
pub(crate) fn tree(points: &[ListedPoint]) -> Vec<(String, &ListedPoint)> {
    let mut above = Above::new();
    for point in points {
        above.entry(below(points, point)).or_default().push(point);
    }
    let mut rows = Vec::new();
    let mut todo: Vec<_> = on(&above, None).iter().rev().map(|point| (None, *point)).collect();
    while let Some((lines, point)) = todo.pop() {
        let children = on(&above, Some(&point.backup_path));
        let indent = lines.as_ref().map_or_else(String::new, |lines: &String| {
            format!("{lines}{}", if children.is_empty() { "└ " } else { "├ " })
        });
        rows.push((indent, point));
        let lines = lines.unwrap_or_default();
        // the newest goes on straight, below those that branch off
        if let Some((next, branches)) = children.split_last() {
            todo.push((Some(lines.clone()), *next));
            todo.extend(branches.iter().rev().map(|branch| (Some(right_of(&lines)), *branch)));
        }
    }
    let drawn: BTreeSet<_> = rows.iter().map(|(_, point)| &point.backup_path).collect();
    let in_circles: Vec<_> = points.iter().filter(|point| !drawn.contains(&point.backup_path)).collect();
    rows.extend(in_circles.into_iter().map(|point| (String::new(), point)));
    rows
}

/// The one among the points that a point stands on; where its disks stand on several, the newest.
pub(crate) fn below<'a>(points: &[ListedPoint], point: &'a ListedPoint) -> Option<&'a str> {
    let is_there = |path: &&String| points.iter().any(|point| point.backup_path == **path);
    point.parents.iter().filter(is_there).max().map(String::as_str)
}

/// The lines that lead to a branch. Nobody reads a tree that is wider than its terminal.
fn right_of(lines: &str) -> String {
    const WIDEST: usize = 40;
    if lines.chars().count() < WIDEST { format!("{lines}│ ") } else { lines.to_owned() }
}

/// Points by the one that they stand on.
type Above<'a> = BTreeMap<Option<&'a str>, Vec<&'a ListedPoint>>;

fn on<'m, 'a>(above: &'m Above<'a>, below: Option<&'a str>) -> &'m [&'a ListedPoint] {
    above.get(&below).map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::points::tests::point;

    #[test]
    fn chains_go_straight_down_and_branches_to_the_right() {
        let points = [
            point("1", &[]),
            point("2", &["1"]),
            point("3", &["2"]),
            point("4", &["2"]),
            point("5", &["3"]),
            point("6", &["4", "1"]),
            point("7", &[]),
            point("8", &["gone"]),
        ];
        let rows: Vec<_> = tree(&points).into_iter().map(|(lines, point)| lines + &point.backup_path[3..]).collect();
        assert_eq!(rows, ["1", "├ 2", "│ ├ 3", "│ └ 5", "├ 4", "└ 6", "7", "8"]);
    }

    #[test]
    fn points_that_stand_on_each_other_are_drawn_once() {
        let points = [point("1", &["2"]), point("2", &["1"]), point("3", &["2"])];
        let rows: Vec<_> = tree(&points).into_iter().map(|(_, point)| &point.backup_path).collect();
        assert_eq!(rows, ["vm/1", "vm/2", "vm/3"]);
    }
}
