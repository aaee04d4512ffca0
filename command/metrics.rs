//! `nasbackup metrics`: what a repository holds, as Prometheus reads it.

use std::process::ExitCode;

use nasbackup::error::Result;
use nasbackup::host::metrics::{escaped, head};
use nasbackup::operation::list_points::{ListedMachine, ListedPoint, ListedPoints};
use nasbackup::operation::verified::PastVerdict;

use crate::host::Host;
use crate::output::{Output, word};
use crate::points;

pub(crate) fn run(host: &Host, output: Output) -> Result<ExitCode> {
    let listed = points::listed(host, None, output)?;
    output.print(&listed, text)?;
    Ok(ExitCode::SUCCESS)
}

/// A metric's name, what it tells, and its value for a machine; none without a sample.
type Metric = (&'static str, &'static str, fn(&ListedMachine) -> Option<u64>);

const METRICS: [Metric; 5] = [
    ("points", "Restore points.", |machine| Some(machine.points.len() as u64)),
    ("bytes", "What the images of its points take.", |machine| {
        Some(machine.points.iter().map(|point| point.size).sum())
    }),
    ("newest_timestamp_seconds", "When its newest point was taken; time() less this is its age.", newest),
    ("unfinished", "Points that were begun to be written or removed.", |machine| Some(machine.unfinished.len() as u64)),
    ("problems", "What is wrong, as far as manifests and headers tell.", |machine| {
        let of_points: usize = machine.points.iter().map(|point| point.problems.len()).sum();
        Some((of_points + usize::from(machine.problem.is_some())) as u64)
    }),
];

/// A metric's name, what it tells, and what it looks at of a point.
type Verdicts = (&'static str, &'static str, fn(&ListedPoint) -> Option<&PastVerdict>);

const VERDICTS: [Verdicts; 2] = [
    (
        "verdicts",
        "Points by what their last verification has found; none: not verified, or changed since.",
        points::telling,
    ),
    (
        "boot_verdicts",
        "Points by what their last boot test has found; none: not tried, or changed since.",
        points::last_boot,
    ),
];

fn newest(machine: &ListedMachine) -> Option<u64> {
    machine.points.iter().filter_map(|point| u64::try_from(point.when?.as_second()).ok()).max()
}

fn text(listed: &ListedPoints) -> String {
    let mut text = String::new();
    for (name, help, value) in METRICS {
        text += &head(name, "gauge", help);
        for machine in &listed.machines {
            if let Some(value) = value(machine) {
                text += &format!("nasbackup_{name}{{machine=\"{}\"}} {value}\n", escaped(&machine.instance));
            }
        }
    }
    for (name, help, telling) in VERDICTS {
        text += &head(name, "gauge", help);
        let verdict_of = |point| telling(point).filter(|past| past.current).map_or("none", |past| word(past.verdict));
        for machine in &listed.machines {
            let instance = escaped(&machine.instance);
            for verdict in ["good", "bad", "aborted", "none"] {
                let count = machine.points.iter().filter(|point| verdict_of(point) == verdict).count();
                text += &format!("nasbackup_{name}{{machine=\"{instance}\",verdict=\"{verdict}\"}} {count}\n");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::points::tests::point;
    use jiff::Timestamp;
    use nasbackup::operation::verified::Scope;
    use nasbackup::operation::verify_chain::Verdict;

    #[test]
    fn each_machine_has_a_sample_of_each_metric() {
        let past =
            |current| PastVerdict { scope: Scope::Data, when: Timestamp::UNIX_EPOCH, verdict: Verdict::Good, current };
        let when = |seconds| Timestamp::from_second(seconds).ok();
        let points = vec![
            ListedPoint {
                size: 5,
                when: when(70),
                verified: vec![past(true)],
                booted: vec![PastVerdict { verdict: Verdict::Bad, ..past(true) }],
                ..point("1", &[])
            },
            ListedPoint {
                size: 7,
                when: when(90),
                verified: vec![past(false)],
                problems: vec!["x".into()],
                ..point("2", &["1"])
            },
        ];
        let machines = vec![
            ListedMachine { instance: "a\"b\\".into(), points, ..ListedMachine::default() },
            ListedMachine { instance: "none".into(), problem: Some("y".into()), ..ListedMachine::default() },
        ];
        let text = text(&ListedPoints { machines, foreign: vec![] });
        let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let machine = r#"machine="a\"b\\""#;
        for sample in [
            &format!("nasbackup_points{{{machine}}} 2"),
            &format!("nasbackup_bytes{{{machine}}} 12"),
            &format!("nasbackup_newest_timestamp_seconds{{{machine}}} 90"),
            &format!("nasbackup_problems{{{machine}}} 1"),
            &format!("nasbackup_verdicts{{{machine},verdict=\"good\"}} 1"),
            &format!("nasbackup_verdicts{{{machine},verdict=\"none\"}} 1"),
            &format!("nasbackup_boot_verdicts{{{machine},verdict=\"bad\"}} 1"),
            &format!("nasbackup_boot_verdicts{{{machine},verdict=\"none\"}} 1"),
            "nasbackup_points{machine=\"none\"} 0",
            "nasbackup_problems{machine=\"none\"} 1",
        ] {
            assert!(samples.contains(&sample), "{sample}: {text}");
        }
        assert!(!text.contains("newest_timestamp_seconds{machine=\"none\"}"), "{text}");
    }
}
