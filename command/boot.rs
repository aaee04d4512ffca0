//! `nasbackup boot`.

use std::process::ExitCode;
use std::time::Duration;

use nasbackup::error::{Error, Result};
use nasbackup::operation::boot_point::{self, BootPointRequest, BootedPoint, Wait};
use nasbackup::operation::verify_chain::Verdict;
use nasbackup::plain::plain;

use crate::arguments::Boot;
use crate::host::Host;
use crate::output::{Output, size, time, verdict_code, word};
use crate::progress;

pub(crate) fn run(host: &Host, arguments: &Boot, output: Output) -> Result<ExitCode> {
    let request = BootPointRequest {
        repository: Some(host.repository()?),
        backup_path: Some(arguments.point.clone()),
        memory: arguments.memory.as_deref().map(bytes).transpose()?,
        wait: arguments.wait.as_deref().map(wait).transpose()?,
        screenshot: arguments.screenshot.clone(),
        ..BootPointRequest::default()
    };
    let booted = progress::with(output, |listener| boot_point::run(request, listener))?;
    if let Some(failure) = booted.screenshot_failure.as_ref().filter(|_| !output.json) {
        eprintln!("nasbackup: no screenshot: {failure}");
    }
    output.print(&booted, text)?;
    Ok(ExitCode::from(verdict_code(booted.verdict)))
}

fn text(booted: &BootedPoint) -> String {
    let how = if booted.kvm { "by KVM" } else { "emulated, for there is no KVM here" };
    let mut text = word(booted.verdict).to_owned();
    if let Some(cause) = &booted.cause {
        text += &format!(": {cause}");
    }
    if let Some(wait) = &booted.waited_for {
        let seen = match wait {
            Wait::Agent => "the guest's agent".to_owned(),
            Wait::Console(expression) => format!("'{expression}' on the console"),
            Wait::Seconds(1) => "1 second".to_owned(),
            Wait::Seconds(seconds) => format!("{seconds} seconds"),
        };
        let took = time(Duration::from_millis(booted.total_millis));
        let tpm = if booted.tpm { " and its TPM" } else { "" };
        text += &format!("\n  waited for {seen}, {took} in all\n  {how}, with {} of memory{tpm}", size(booted.memory));
    }
    for target in &booted.left_out {
        text += &format!("\n  without {target}, which the point does not hold");
    }
    if booted.verdict != Verdict::Good {
        booted.console.lines().for_each(|line| text += &format!("\n  console: {}", plain(line)));
    }
    text + "\n"
}

/// `512M`, `2G`, or bytes.
fn bytes(text: &str) -> Result<u64> {
    let units = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
    let unit = units.into_iter().find_map(|(unit, bits)| Some((text.strip_suffix(unit)?, bits)));
    let (number, bits) = unit.unwrap_or((text, 0));
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << bits));
    bytes.ok_or_else(|| Error::invalid("--memory", format!("'{text}' is no size: 512M, 2G")))
}

/// `agent`, `console:REGEX`, or seconds.
fn wait(text: &str) -> Result<Wait> {
    let refuse = || Error::invalid("--wait", format!("'{text}' is none of agent, console:REGEX and seconds"));
    match (text, text.strip_prefix("console:")) {
        ("agent", _) => Ok(Wait::Agent),
        (_, Some(expression)) => Ok(Wait::Console(expression.to_owned())),
        _ => text.parse().ok().filter(|seconds| *seconds > 0).map(Wait::Seconds).ok_or_else(refuse),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_writes_turns_no_line_around() {
        let console = "a\u{202e}b\nc".to_owned();
        let booted = BootedPoint { verdict: Verdict::Bad, console, ..BootedPoint::default() };
        assert!(text(&booted).ends_with("\n  console: a\\u{202e}b\n  console: c\n"), "{}", text(&booted));
    }

    #[test]
    fn one_second_is_one() {
        for (seconds, told) in [(1, "waited for 1 second,"), (60, "waited for 60 seconds,")] {
            let booted = BootedPoint { waited_for: Some(Wait::Seconds(seconds)), ..BootedPoint::default() };
            assert!(text(&booted).contains(told), "{}", text(&booted));
        }
    }

    #[test]
    fn sizes_and_waits_are_read() {
        for (text, expected) in [
            ("512M", Some(512 << 20)),
            ("2G", Some(2 << 30)),
            ("4096", Some(4096)),
            ("", None),
            ("G", None),
            ("1X", None),
            ("-1", None),
            ("99999999999T", None),
        ] {
            assert_eq!(bytes(text).ok(), expected, "{text}");
        }
        for (text, expected) in [
            ("agent", Some(Wait::Agent)),
            ("60", Some(Wait::Seconds(60))),
            ("console:login: *$", Some(Wait::Console("login: *$".to_owned()))),
            ("console", None),
            ("0", None),
            ("-1", None),
        ] {
            assert_eq!(wait(text).ok(), expected, "{text}");
        }
    }
}
