//! The points of a repository, as the command looks at them and plans with them.

use nasbackup::error::{Code, Error, Result};
use nasbackup::nas::purpose::Purpose;
use nasbackup::operation::free;
use nasbackup::operation::list_points::{self, ListPointsRequest, ListedPoint, ListedPoints};
use nasbackup::operation::verified::{PastVerdict, Scope};
use nasbackup::operation::verify_chain::Verdict;

use crate::host::Host;
use crate::output::{Output, word};
use crate::progress;

/// What lies in the repository; with `instance` that machine's points alone.
pub(crate) fn listed(host: &Host, instance: Option<&str>, output: Output) -> Result<ListedPoints> {
    let request = ListPointsRequest {
        repository: Some(host.repository()?),
        instance: instance.map(str::to_owned),
        ..ListPointsRequest::default()
    };
    progress::with(output, |listener| list_points::run(request, listener))
}

/// The points of the machine that `point` is of, that one among them. `NOT_FOUND` if it is not there.
pub(crate) fn of_machine(host: &Host, point: &str, output: Output) -> Result<Vec<ListedPoint>> {
    let instance = point.split_once('/').map_or(point, |(instance, _)| instance);
    let listed = listed(host, Some(instance), output)?;
    let points: Vec<_> = listed.machines.into_iter().flat_map(|machine| machine.points).collect();
    find(&points, point)?;
    Ok(points)
}

/// `BUSY` while somebody on this host keeps the points of the machine that `point` is of from being changed.
pub(crate) fn check_free(host: &Host, point: &str, output: Output) -> Result<()> {
    let instance = point.split_once('/').map_or(point, |(instance, _)| instance);
    progress::with(output, |_| free::check(Some(host.repository()?), instance, Purpose::Change))
}

/// The point called `path`. `NOT_FOUND` without it.
pub(crate) fn find<'a>(points: &'a [ListedPoint], path: &str) -> Result<&'a ListedPoint> {
    let found = points.iter().find(|point| point.backup_path == path);
    found.ok_or_else(|| Error::new(Code::NotFound, "look for the point", format!("'{path}' is no restore point")))
}

/// A point, and one of its volumes if that is named: `MACHINE/TIMESTAMP:VOLUME`. A machine's name may have a colon in it, a
/// timestamp has none.
pub(crate) fn split_volume(text: &str) -> (&str, Option<&str>) {
    let timestamp = text.find('/').unwrap_or(0);
    match text[timestamp..].find(':') {
        Some(colon) => (&text[..timestamp + colon], Some(&text[timestamp + colon + 1..])),
        None => (text, None),
    }
}

/// The points that stand on `path`.
pub(crate) fn on<'a>(points: &'a [ListedPoint], path: &str) -> Vec<&'a ListedPoint> {
    points.iter().filter(|point| point.parents.iter().any(|parent| parent == path)).collect()
}

/// What a point's verifications have found that tells most: the worst that holds, of data before that of the chain alone. One that
/// came to nothing takes nothing from what another has found.
pub(crate) fn telling(point: &ListedPoint) -> Option<&PastVerdict> {
    worst(&point.verified)
}

/// The same of its boot tests.
pub(crate) fn last_boot(point: &ListedPoint) -> Option<&PastVerdict> {
    worst(&point.booted)
}

fn worst(found: &[PastVerdict]) -> Option<&PastVerdict> {
    found.iter().max_by_key(|past| {
        let tells = match past.verdict {
            Verdict::Aborted => 0,
            Verdict::Good => 1,
            Verdict::Bad => 2,
        };
        (past.current, tells, past.scope)
    })
}

/// What verifications have found, as `good data 2026-11-29`. Empty where nothing is known.
pub(crate) fn verified(point: &ListedPoint) -> String {
    telling(point).map_or_else(String::new, said)
}

/// What boot tests have found, as `good 2026-11-29`. Empty where nothing is known.
pub(crate) fn booted(point: &ListedPoint) -> String {
    last_boot(point).map_or_else(String::new, said)
}

/// Shorter, with the day of its year if there is room for that. What the point has changed since is doubtful.
pub(crate) fn said_shortly(past: &PastVerdict, with_date: bool) -> String {
    let when = if with_date { past.when.strftime(" %m-%d").to_string() } else { String::new() };
    format!("{}{when}{}", word(past.verdict), if past.current { "" } else { "?" })
}

/// All of it.
pub(crate) fn said(past: &PastVerdict) -> String {
    let scope = match past.scope {
        Scope::Data => " data",
        Scope::Chain => " chain",
        Scope::Boot => "",
    };
    let changed = if past.current { "" } else { ", changed since" };
    format!("{}{scope} {}{changed}", word(past.verdict), past.when.strftime("%Y-%m-%d"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use jiff::Timestamp;
    use nasbackup::operation::list_points::ListedDisk;
    use nasbackup::point::Kind;

    /// A disk of a point of the machine `vm`, which stands on that of the same name in another point.
    pub(crate) fn disk(file: &str, parent: Option<&str>) -> ListedDisk {
        let backing = parent.map(|parent| format!("vm/{parent}/{file}"));
        ListedDisk { volume: file.to_owned(), file: file.to_owned(), size: 0, virtual_size: None, backing }
    }

    /// A point of the machine `vm`. Its disk `a` stands on the first of the parents, `b` on the second.
    pub(crate) fn point(name: &str, parents: &[&str]) -> ListedPoint {
        let path = |name: &str| format!("vm/{name}");
        ListedPoint {
            backup_path: path(name),
            point_id: None,
            name: None,
            when: None,
            kind: if parents.is_empty() { Kind::Full } else { Kind::Incremental },
            engine: None,
            disks: ["a", "b"].iter().enumerate().map(|(i, file)| disk(file, parents.get(i).copied())).collect(),
            parents: parents.iter().map(|name| path(name)).collect(),
            size: 0,
            chain_size: 0,
            verified: Vec::new(),
            booted: Vec::new(),
            problems: Vec::new(),
        }
    }

    #[test]
    fn a_volume_stands_behind_the_point() {
        for (text, expected) in [
            ("i-1/T", ("i-1/T", None)),
            ("i-1/T:vol", ("i-1/T", Some("vol"))),
            ("a:b/T:c:d", ("a:b/T", Some("c:d"))),
            ("x:y", ("x", Some("y"))),
            ("i-1/T:", ("i-1/T", Some(""))),
        ] {
            assert_eq!(split_volume(text), expected);
        }
    }

    #[test]
    fn what_was_found_and_holds_is_told_before_what_came_to_nothing() {
        let past =
            |verdict, current| PastVerdict { scope: Scope::Chain, when: Timestamp::UNIX_EPOCH, verdict, current };
        let (good, bad, aborted) = (past(Verdict::Good, true), past(Verdict::Bad, true), past(Verdict::Aborted, true));
        for (found, told) in [
            (vec![&good, &aborted], &good),
            (vec![&aborted, &good, &bad], &bad),
            (vec![&past(Verdict::Bad, false), &aborted], &aborted),
        ] {
            let point = ListedPoint { verified: found.into_iter().cloned().collect(), ..point("1", &[]) };
            assert_eq!(telling(&point), Some(told));
        }
    }
}
