//! `nasbackup list`: the chains of a repository as trees.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use nasbackup::error::{Error, Result};
use nasbackup::operation::list_points::{ListedMachine, ListedPoint, ListedPoints};
use nasbackup::operation::verified::PastVerdict;
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
        write(file, &picture::html(&listed, &text(&listed, &place, None)))?;
    }
    output.print(&listed, |listed| text(listed, &place, terminal_width()))?;
    Ok(ExitCode::SUCCESS)
}

/// What a delete gives back, or how much the points that stand on it would have to take over first, at most.
fn deletion(point: &ListedPoint, children: u64, narrow: Narrow) -> String {
    let (word, sign, bytes) = match children {
        0 => ("frees ", "-", point.size),
        _ => ("merges ", "+", point.size.saturating_mul(children)),
    };
    if narrow < SHORT_SIZES { format!("{word}{}", size(bytes)) } else { format!("{sign}{}", short_size(bytes)) }
}

/// `5 GiB`, `1.5 GiB`.
fn short_size(bytes: u64) -> String {
    let text = size(bytes);
    let Some((number, unit)) = text.split_once(' ') else { return text };
    let digits = if number.find('.') == Some(1) { 3 } else { number.find('.').unwrap_or(number.len()) };
    format!("{} {unit}", &number[..digits.min(number.len())])
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

/// Columns of the terminal; none where all there is to tell is read by something else.
fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then_some(size.ws_col.into())
}

fn text(listed: &ListedPoints, place: &str, width: Option<usize>) -> String {
    let told = listed.machines.iter().filter(|machine| !is_empty(machine));
    let mut text: Vec<_> = told.map(|told| machine(told, width)).collect();
    if !listed.foreign.is_empty() {
        text.push(format!("foreign: {}\n", listed.foreign.join(", ")));
    }
    if text.is_empty() { format!("no restore points in {place}\n") } else { text.join("\n") }
}

/// Is there nothing to tell of the machine?
fn is_empty(machine: &ListedMachine) -> bool {
    machine.points.is_empty() && machine.unfinished.is_empty() && machine.problem.is_none()
}

/// How much is left out for a terminal that is narrow: nothing, and in the end all but the least.
type Narrow = u8;
const SHORT_WORDS: Narrow = 1;
const SHORT_SIZES: Narrow = 2;
const NO_DATES: Narrow = 3;
const NAMES_AND_VERDICTS: Narrow = 7;

/// The columns beside the points' names, from how narrow a terminal on each is left out, and whether it is of numbers.
const COLUMNS: [(&str, Narrow, bool); 7] = [
    ("kind", 6, false),
    ("disks", SHORT_SIZES, true),
    ("own", NAMES_AND_VERDICTS, true),
    ("chain", 5, true),
    ("delete", 4, true),
    ("verified", Narrow::MAX, false),
    ("booted", Narrow::MAX, false),
];

/// As much of the machine's chains as fits into `width`. What does not fit is never wrapped: it would be no tree any more.
fn machine(machine: &ListedMachine, width: Option<usize>) -> String {
    let width = width.unwrap_or(usize::MAX);
    let fits = |text: &String| text.lines().all(|line| line.chars().count() <= width);
    let cut =
        |text: &str| text.lines().map(|line| line.chars().take(width).chain(['\n']).collect::<String>()).collect();
    let text = (0..=NAMES_AND_VERDICTS).map(|narrow| chains(machine, narrow)).find(fits);
    let mut text = text.unwrap_or_else(|| cut(&chains(machine, NAMES_AND_VERDICTS)));
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

fn chains(machine: &ListedMachine, narrow: Narrow) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    let instance = plain(&machine.instance);
    let columns = COLUMNS.into_iter().filter(|(_, left_out, _)| narrow < *left_out);
    table.set_header([&*instance].into_iter().chain(columns.clone().map(|(name, ..)| name)));
    let children = children(&machine.points);
    for (indent, point) in tree(&machine.points) {
        let children = children.get(&*point.backup_path).copied().unwrap_or(0);
        table.add_row(row(&indent, point, children, narrow));
    }
    for (column, _) in table.column_iter_mut().skip(1).zip(columns).filter(|(_, (.., is_number))| *is_number) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt() + "\n"
}

fn row(indent: &str, point: &ListedPoint, children: u64, narrow: Narrow) -> Vec<String> {
    let name = plain(point.backup_path.rsplit('/').next().unwrap_or_default());
    let kind = match point.kind {
        Kind::Full => "full",
        Kind::Incremental if narrow < SHORT_WORDS => "incremental",
        Kind::Incremental => "incr",
    };
    let size = if narrow < SHORT_SIZES { size } else { short_size };
    let found = |past: Option<&PastVerdict>| {
        past.map_or_else(String::new, |past| match narrow {
            0 => points::said(past),
            _ => points::said_shortly(past, narrow < NO_DATES),
        })
    };
    let cells = [
        kind.to_owned(),
        point.disks.len().to_string(),
        size(point.size),
        size(point.chain_size),
        deletion(point, children, narrow),
        found(points::telling(point)),
        found(points::last_boot(point)),
    ];
    let cells = cells.into_iter().zip(COLUMNS).filter(|(_, (_, left_out, _))| narrow < *left_out);
    [format!("{indent}{name}")].into_iter().chain(cells.map(|(cell, _)| cell)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::points::tests::point;
    use jiff::Timestamp;
    use nasbackup::operation::verified::Scope;
    use nasbackup::operation::verify_chain::Verdict;

    #[test]
    fn chains_fit_into_a_terminal_and_all_is_told_elsewhere() {
        let past =
            |scope| PastVerdict { scope, when: Timestamp::UNIX_EPOCH, verdict: Verdict::Aborted, current: false };
        let full = |name: &str, parents: &[&str]| ListedPoint {
            size: 999 << 30,
            chain_size: 1023 << 40,
            verified: vec![past(Scope::Data)],
            booted: vec![past(Scope::Boot)],
            ..point(name, parents)
        };
        let (first, second) = ("2026.11.22.01.00.00", "2026.11.23.01.00.00");
        let points = vec![full(first, &[]), full(second, &[first])];
        let told = ListedMachine { instance: "i-2-10-VM".into(), points, ..ListedMachine::default() };
        for width in [200, 120, 100, 80, 72, 60, 50, 40] {
            let text = machine(&told, Some(width));
            assert!(text.lines().all(|line| line.chars().count() <= width) && text.lines().count() == 3, "{text}");
            assert!(text.contains(&format!("└ {second} ")) && text.contains("  aborted"), "{text}");
        }
        let text = machine(&told, Some(10));
        assert!(text.lines().all(|line| line.chars().count() <= 10) && text.lines().count() == 3, "{text}");
        let all = machine(&told, None);
        assert_eq!(all, machine(&told, Some(200)));
        assert!(all.contains("aborted data 1970-01-01, changed since") && all.contains("incremental"), "{all}");
    }

    #[test]
    fn a_short_size_has_two_digits_at_least() {
        for (bytes, short) in [(0, "0 B"), (1023, "1023 B"), (3 << 19, "1.5 MiB"), (3 << 22, "12 MiB")] {
            assert_eq!(short_size(bytes), short);
        }
    }
}
