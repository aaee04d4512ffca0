//! `nasbackup doctor`.

use std::process::ExitCode;

use nasbackup::config;
use nasbackup::error::Result;
use nasbackup::operation::doctor::{self, Finding, State};
use nasbackup::plain::plain;

use crate::host::Host;
use crate::output::Output;
use crate::progress;

pub(crate) fn run(host: &Host, output: Output) -> Result<ExitCode> {
    let config = config::current();
    let mut findings = progress::during(output, "look at this host", || Ok(doctor::host(&config)))?;
    for (name, repository) in host.repositories() {
        let try_it = || Ok(doctor::repository(&name, repository, config.clone()));
        findings.extend(progress::during(output, &format!("try repository '{name}'"), try_it)?);
    }
    output.print(&findings, |findings| text(findings))?;
    Ok(ExitCode::from(status(&findings)))
}

/// As of a verification: 1 when backups fail, 23 when they may, for what could not be tried.
fn status(findings: &[Finding]) -> u8 {
    let stops = |finding: &&Finding| finding.stops && finding.state != State::Ok;
    match findings.iter().filter(stops).map(|finding| finding.state == State::Untried).min() {
        None => 0,
        Some(false) => 1,
        Some(true) => 23,
    }
}

fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let state = match finding.state {
            State::Ok => "ok",
            State::Lacks => "lacks",
            State::Defect => "defect",
            State::Untried => "untried",
        };
        let stops = match finding.state {
            _ if !finding.stops => "",
            State::Untried => "; backups may fail",
            _ => "; backups fail",
        };
        text += &format!("{state:<8} {}: {}{stops}\n", plain(&finding.what), plain(&finding.found));
        finding.advice.iter().for_each(|advice| text += &format!("         {advice}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_what_stops_backups_most_surely() {
        let finding = |state, stops| Finding { what: "a".into(), state, found: "b".into(), advice: None, stops };
        let (ok, lacks) = (finding(State::Ok, false), finding(State::Lacks, false));
        let (may, will) = (finding(State::Untried, true), finding(State::Lacks, true));
        for (findings, expected) in [
            (vec![], 0),
            (vec![ok.clone(), lacks, finding(State::Untried, false)], 0),
            (vec![ok.clone(), may.clone()], 23),
            (vec![may, will, ok], 1),
        ] {
            assert_eq!(status(&findings), expected, "{findings:?}");
        }
    }
}
