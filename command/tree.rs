//! The points of a machine as a tree, each above the one that it stands on.

use std::collections::{BTreeMap, BTreeSet};

use nasbackup::operation::list_points::ListedPoint;

/// The points, each behind the one that it stands on, with the lines that lead to it: a chain goes straight down, and what
/// branches off from it is drawn to its right. One that stands on none that is there begins a chain.
pub(crate) fn tree(points: &[ListedPoint]) -> Vec<(String, &ListedPoint)> {
    let (there, mut above) = (paths(points), Above::new());
    for point in points {
        above.entry(below(&there, point)).or_default().push(point);
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

/// The paths of the points.
pub(crate) fn paths(points: &[ListedPoint]) -> BTreeSet<&str> {
    points.iter().map(|point| point.backup_path.as_str()).collect()
}

/// The one of those that are `there` that a point stands on; where its disks stand on several, the newest.
pub(crate) fn below<'a>(there: &BTreeSet<&str>, point: &'a ListedPoint) -> Option<&'a str> {
    point.parents.iter().map(String::as_str).filter(|path| there.contains(path)).max()
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
