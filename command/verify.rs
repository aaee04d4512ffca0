//! `nasbackup verify`.

use std::ops::RangeInclusive;
use std::process::ExitCode;

use jiff::{SignedDuration, Timestamp};
use nasbackup::error::{Code, Error, Result};
use nasbackup::operation::list_points::ListedPoint;
use nasbackup::operation::verified::Scope;
use nasbackup::operation::verify_chain::{self, Verdict, Verified, VerifyChainRequest};
use nasbackup::operation::verify_data;
use serde::Serialize;

use crate::arguments::Verify;
use crate::host::Host;
use crate::output::{Failure, Output, exit_code, print_text, verdict_code, word};
use crate::{points, progress, repository};

pub(crate) fn run(host: &Host, arguments: &Verify, output: Output) -> Result<ExitCode> {
    let (points, mut all) = points(host, arguments, output)?;
    let is_only = points.len() + all.len() == 1;
    for backup_path in points {
        let request = VerifyChainRequest {
            repository: Some(host.repository()?),
            backup_path: Some(backup_path.clone()),
            rate_limit: arguments.rate_limit,
            ..VerifyChainRequest::default()
        };
        let verify = if arguments.data { verify_data::run } else { verify_chain::run };
        let (verified, failure) = match progress::with(output, |listener| verify(request, listener)) {
            Ok(verified) => (Some(verified), None),
            // nobody wants the others any more, or can have them
            Err(error) if matches!(error.code, Code::Cancelled | Code::NasUnresponsive) => return Err(error),
            Err(error) => (None, Some(error)),
        };
        if let Some(failure) = failure.as_ref().filter(|_| !output.json) {
            eprintln!("nasbackup: {backup_path}: {failure}");
        }
        let told = Told { backup_path, verified, failure };
        // at once: the others may take days, or not come
        if !output.json {
            print_text(&text(&told, is_only))?;
        }
        all.push(told);
    }
    if output.json {
        output.print(&all, |_| String::new())?;
    } else if let (Some(age), true) = (&arguments.not_verified_since, all.is_empty()) {
        print_text(&format!("nothing is due: each point was verified within {age}\n"))?;
    }
    Ok(ExitCode::from(status(&all)))
}

/// What became of the verification of a point.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    backup_path: String,
    #[serde(flatten)]
    verified: Option<Verified>,
    #[serde(serialize_with = "as_failure")]
    failure: Option<Error>,
}

fn as_failure<S: serde::Serializer>(error: &Option<Error>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    error.as_ref().map(Failure::from).serialize(serializer)
}

/// The points that are meant, and the machines that could not be looked at. A machine's points, and all, are those that no verification
/// of that scope has judged in the given time. `NOT_FOUND` for a point that is not there, and
/// where there is none at all.
fn points(host: &Host, arguments: &Verify, output: Output) -> Result<(Vec<String>, Vec<Told>)> {
    let age = arguments.not_verified_since.as_deref().map(age).transpose()?;
    let now = Timestamp::now();
    let since = age.map(|age| now.saturating_sub(age).unwrap_or(Timestamp::MIN)..=now);
    let machines: Vec<_> = match arguments.all {
        true => vec![None],
        false => arguments.what.iter().map(Some).collect(),
    };
    let (mut points, mut unseen) = (Vec::new(), Vec::new());
    for what in machines {
        let (instance, only) = match what {
            None => (None, None),
            Some(what) => (
                Some(what.split_once('/').map_or(what.as_str(), |(instance, _)| instance)),
                what.contains('/').then_some(what),
            ),
        };
        if let (Some(only), None) = (only, &since) {
            points.push(only.clone());
            continue;
        }
        let listed = points::listed(host, instance, output)?;
        let mut found = Vec::new();
        for machine in listed.machines {
            unseen.extend(machine.failure.map(|error| Told {
                backup_path: machine.instance,
                verified: None,
                failure: Some(error),
            }));
            let meant = machine.points.into_iter().filter(|point| only.is_none_or(|only| point.backup_path == *only));
            found.extend(meant);
        }
        if let (Some(only), true) = (only, found.is_empty()) {
            return Err(Error::new(Code::NotFound, "look for the point", format!("'{only}' is no restore point")));
        }
        if found.is_empty() && unseen.is_empty() {
            let of = instance.map(|instance| format!(" of '{instance}'")).unwrap_or_default();
            let cause = format!("no restore points{of} in {}", repository::told(&host.repository()?));
            return Err(Error::new(Code::NotFound, "look for the points", cause));
        }
        let due = found.into_iter().filter(|point| is_due(point, arguments.data, since.as_ref()));
        points.extend(due.map(|point| point.backup_path));
    }
    for machine in unseen.iter().filter(|_| !output.json) {
        eprintln!(
            "nasbackup: {}: {}",
            machine.backup_path,
            machine.failure.as_ref().map_or_else(String::new, Error::to_string)
        );
    }
    Ok((points, unseen))
}

/// True if no verification has judged the point within `since`. What a clock that was wrong has dated into the future does not count.
fn is_due(point: &ListedPoint, data: bool, since: Option<&RangeInclusive<Timestamp>>) -> bool {
    let Some(since) = since else { return true };
    let counts = |scope: Scope| scope == Scope::Data || !data;
    !point.verified.iter().any(|past| {
        past.current && since.contains(&past.when) && past.verdict != Verdict::Aborted && counts(past.scope)
    })
}

/// `30d`, `12h`.
fn age(text: &str) -> Result<SignedDuration> {
    let refuse = || Error::invalid("--not-verified-since", format!("'{text}' is no number of days or hours: 30d, 12h"));
    let (number, hours) = match (text.strip_suffix('d'), text.strip_suffix('h')) {
        (Some(number), _) => (number, 24),
        (_, Some(number)) => (number, 1),
        _ => return Err(refuse()),
    };
    let number: u32 = number.parse().map_err(|_| refuse())?;
    Ok(SignedDuration::from_hours(i64::from(number) * hours))
}

/// What is worst decides: a bad point, then a failure, then a point of which nothing can be known.
fn status(all: &[Told]) -> u8 {
    let verdict = all.iter().filter_map(|told| Some(told.verified.as_ref()?.verdict)).max();
    let failure = all.iter().find_map(|told| told.failure.as_ref());
    match (verdict, failure) {
        (Some(verdict @ Verdict::Bad), _) | (Some(verdict), None) => verdict_code(verdict),
        (_, Some(failure)) => exit_code(failure.code),
        (None, None) => 0,
    }
}

/// A line for each file that is not good, and one below it for each reason. Of one that is the only point, a line for each file.
fn text(told: &Told, is_only: bool) -> String {
    let Some(verified) = &told.verified else { return String::new() };
    let mut text = String::new();
    if !is_only {
        text += &format!("{}: {}\n", told.backup_path, word(verified.verdict));
    }
    for file in verified.files.iter().filter(|file| is_only || file.verdict != Verdict::Good) {
        text += &format!("{:<8} {}\n", word(file.verdict), file.file);
        file.reasons.iter().for_each(|reason| text += &format!("         {reason}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::points::tests::point;
    use nasbackup::operation::verified::PastVerdict;

    #[test]
    fn a_point_is_due_unless_it_was_judged_in_time_and_as_thoroughly() {
        let hour = |hours| Timestamp::UNIX_EPOCH.saturating_add(SignedDuration::from_hours(hours)).unwrap();
        let past = |scope, when, verdict, current| PastVerdict { scope, when: hour(when), verdict, current };
        for (verified, data, due) in [
            (vec![], false, true),
            (vec![past(Scope::Chain, 9, Verdict::Good, true)], false, true),
            (vec![past(Scope::Chain, 10, Verdict::Good, true)], false, false),
            (vec![past(Scope::Chain, 10, Verdict::Good, true)], true, true),
            (vec![past(Scope::Data, 10, Verdict::Bad, true)], true, false),
            (vec![past(Scope::Data, 10, Verdict::Bad, true)], false, false),
            (vec![past(Scope::Data, 10, Verdict::Aborted, true)], true, true),
            (vec![past(Scope::Data, 10, Verdict::Good, false)], true, true),
            (vec![past(Scope::Data, 21, Verdict::Good, true)], true, true),
        ] {
            let point = ListedPoint { verified, ..point("1", &[]) };
            assert_eq!(is_due(&point, data, Some(&(hour(10)..=hour(20)))), due, "{:?}", point.verified);
            assert!(is_due(&point, data, None));
        }
    }

    #[test]
    fn an_age_is_days_or_hours() {
        for (text, hours) in
            [("30d", Some(720)), ("12h", Some(12)), ("0d", Some(0)), ("30", None), ("-1d", None), ("d", None)]
        {
            assert_eq!(age(text).ok(), hours.map(SignedDuration::from_hours), "{text}");
        }
    }
}
