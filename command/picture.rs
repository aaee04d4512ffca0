//! The chains of a repository as a picture: a square for each point, its area what the point takes, its colour what verifications
//! have found, a dot in it that of boot tests; a line leads from a point to the one that stands on it.

use std::collections::BTreeMap;

use nasbackup::operation::list_points::{ListedPoint, ListedPoints};
use nasbackup::operation::verified::PastVerdict;
use nasbackup::operation::verify_chain::Verdict;

use crate::output::size;
use crate::points;
use crate::tree::{below, paths, tree};

/// Pixels: the side of the largest square and of the smallest, what a point has of a row and of a column, a line of text.
const LARGEST: f64 = 64.0;
const SMALLEST: f64 = 4.0;
const COLUMN: f64 = 116.0;
const ROW: f64 = 96.0;
const TEXT: f64 = 20.0;
const MARGIN: f64 = 12.0;

/// Colours that can be told apart without red and green, and what each says.
const LEGEND: [(&str, &str); 5] = [
    ("#2c7fb8", "good"),
    ("#d95f0e", "bad"),
    ("#fec44f", "aborted"),
    ("#9ecae1", "changed since"),
    ("#bdbdbd", "not verified"),
];

/// A page with the picture and the same as text.
pub(crate) fn html(listed: &ListedPoints, text: &str) -> String {
    let head = "<head><meta charset=\"utf-8\"><title>Restore points</title></head>";
    let (picture, text) = (svg(listed), escaped(text));
    format!("<!DOCTYPE html>\n<html lang=\"en\">{head}\n<body>\n{picture}<pre>{text}</pre>\n</body></html>\n")
}

pub(crate) fn svg(listed: &ListedPoints) -> String {
    let all = listed.machines.iter().flat_map(|machine| &machine.points);
    let most = all.map(|point| point.size).max().unwrap_or(0);
    let (mut body, mut y, mut columns) = (String::new(), MARGIN, 6);
    for (i, (colour, says)) in LEGEND.into_iter().enumerate() {
        let x = MARGIN + i as f64 * 110.0;
        body += &format!("<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\n");
        body += &label(x + 16.0, y + 10.0, 11, says);
    }
    body += &label(MARGIN + LEGEND.len() as f64 * 110.0, y + 10.0, 11, "a dot: does it boot");
    for machine in listed.machines.iter().filter(|machine| !machine.points.is_empty()) {
        y += 2.0 * TEXT;
        body += &label(MARGIN, y, 14, &machine.instance);
        let places = places(&machine.points);
        let middle =
            |place: &Place| (MARGIN + (place.column as f64 + 0.5) * COLUMN, y + (place.row as f64 + 0.5) * ROW);
        for place in &places {
            let (x, y) = middle(place);
            if let Some((from_x, from_y)) = place.parent.and_then(|parent| places.get(parent)).map(middle) {
                body += &format!("<path d=\"M{from_x} {from_y}L{x} {y}\" stroke=\"#888\" fill=\"none\"/>\n");
            }
        }
        for place in &places {
            body += &draw(place.point, middle(place), most);
            columns = columns.max(place.column + 1);
        }
        y += places.iter().map(|place| place.row + 1).max().unwrap_or(0) as f64 * ROW;
    }
    let (width, height) = (2.0 * MARGIN + columns as f64 * COLUMN, y + MARGIN + TEXT);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{body}</svg>\n"
    )
}

/// Where a point is drawn.
struct Place<'a> {
    point: &'a ListedPoint,
    /// How many it stands on.
    column: usize,
    row: usize,
    /// The place of the one that it stands on.
    parent: Option<usize>,
}

/// A chain goes straight to the right, and what branches off from it has rows of its own.
fn places(points: &[ListedPoint]) -> Vec<Place<'_>> {
    let (rows, there) = (tree(points), paths(points));
    // the last one on a point goes on in its row
    let next: BTreeMap<_, _> = rows.iter().map(|&(_, point)| (below(&there, point), point)).collect();
    let mut places: Vec<Place<'_>> = Vec::new();
    let mut placed = BTreeMap::<_, usize>::new();
    let mut used = 0;
    for &(_, point) in &rows {
        let below = below(&there, point);
        let parent = below.and_then(|path| placed.get(path).copied());
        let straight = parent.is_some() && next.get(&below).is_some_and(|last| *last == point);
        let row = match parent {
            Some(parent) if straight => places[parent].row,
            _ => {
                used += 1;
                used - 1
            }
        };
        let column = parent.map_or(0, |parent| places[parent].column + 1);
        placed.insert(point.backup_path.as_str(), places.len());
        places.push(Place { point, column, row, parent });
    }
    places
}

fn draw(point: &ListedPoint, (x, y): (f64, f64), most: u64) -> String {
    let side = (LARGEST * (point.size as f64 / most.max(1) as f64).sqrt()).max(SMALLEST);
    let name = point.backup_path.rsplit('/').next().unwrap_or_default();
    let when = point.when.map_or_else(|| name.to_owned(), |when| when.strftime("%Y-%m-%d %H:%M").to_string());
    let (mut said, mut dot) = (format!("{}: {}", point.backup_path, size(point.size)), String::new());
    let found = Some(points::verified(point)).filter(|found| !found.is_empty());
    said.extend(found.map(|found| format!(", {found}")));
    if let Some(past) = points::last_boot(point) {
        said += &format!(", boots: {}", points::booted(point));
        let colour = colour(Some(past));
        dot = format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{colour}\" stroke=\"#fff\"/>\n");
    }
    let frame = if point.problems.is_empty() { "none" } else { "#d00" };
    let (left, top, colour) = (x - side / 2.0, y - side / 2.0, colour(points::telling(point)));
    format!(
        "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{side:.1}\" height=\"{side:.1}\" fill=\"{colour}\" stroke=\"{frame}\">\
         <title>{}</title></rect>\n{dot}{}",
        escaped(&said),
        label(x - COLUMN / 2.0 + 4.0, y + LARGEST / 2.0 + 11.0, 10, &when)
    )
}

fn colour(found: Option<&PastVerdict>) -> &'static str {
    let [good, bad, aborted, changed, none] = LEGEND.map(|(colour, _)| colour);
    match found {
        None => none,
        Some(past) if !past.current => changed,
        Some(past) => match past.verdict {
            Verdict::Good => good,
            Verdict::Aborted => aborted,
            Verdict::Bad => bad,
        },
    }
}

fn label(x: f64, y: f64, height: u32, text: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{height}\">{}</text>\n", escaped(text))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::points::tests::point;
    use jiff::Timestamp;
    use nasbackup::operation::list_points::ListedMachine;
    use nasbackup::operation::verified::Scope;

    #[test]
    fn chains_go_to_the_right_and_branches_down() {
        let points =
            [point("1", &[]), point("2", &["1"]), point("3", &["1"]), point("4", &["3"]), point("5", &["gone"])];
        let found: Vec<_> =
            places(&points).iter().map(|place| (&place.point.backup_path[3..], place.column, place.row)).collect();
        assert_eq!(found, [("1", 0, 0), ("2", 1, 1), ("3", 1, 0), ("4", 2, 0), ("5", 0, 2)]);
    }

    #[test]
    fn a_square_s_area_is_the_size_and_its_colour_the_verdict() {
        let past = |verdict, current| PastVerdict { scope: Scope::Data, when: Timestamp::UNIX_EPOCH, verdict, current };
        for (size, verified, side, colour) in [
            (400, vec![past(Verdict::Good, true)], "64.0", LEGEND[0].0),
            (100, vec![past(Verdict::Bad, true)], "32.0", LEGEND[1].0),
            (25, vec![past(Verdict::Aborted, true)], "16.0", LEGEND[2].0),
            (0, vec![past(Verdict::Bad, false)], "4.0", LEGEND[3].0),
            (400, vec![], "64.0", LEGEND[4].0),
        ] {
            let drawn = draw(&ListedPoint { size, verified, ..point("1", &[]) }, (0.0, 0.0), 400);
            assert!(drawn.contains(&format!("width=\"{side}\"")) && drawn.contains(colour), "{drawn}");
            assert!(!drawn.contains("<circle"), "{drawn}");
        }
        let booted = vec![PastVerdict { scope: Scope::Boot, ..past(Verdict::Bad, true) }];
        let drawn = draw(&ListedPoint { booted, ..point("1", &[]) }, (0.0, 0.0), 400);
        assert!(drawn.contains(&format!("<circle cx=\"0.0\" cy=\"0.0\" r=\"5\" fill=\"{}\"", LEGEND[1].0)), "{drawn}");
        assert!(drawn.contains("boots: bad 1970-01-01"), "{drawn}");
    }

    #[test]
    fn names_on_the_nas_are_text_and_nothing_else() {
        let machine =
            ListedMachine { instance: "<a&\"b>".into(), points: vec![point("1", &[])], ..ListedMachine::default() };
        let listed = ListedPoints { machines: vec![machine], foreign: vec![] };
        let page = html(&listed, "<script>");
        assert!(page.contains(">&lt;a&amp;&quot;b&gt;<") && page.contains("<pre>&lt;script&gt;</pre>"), "{page}");
    }
}
