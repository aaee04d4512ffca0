//! `nasbackup rebase`.

use std::process::ExitCode;

use nasbackup::error::{Code, Error, Result};
use nasbackup::operation::rebase::{self, RebasePointRequest, Rebased};
use nasbackup::operation::show_point::ShownPoint;

use crate::arguments::Rebase;
use crate::host::Host;
use crate::output::Output;
use crate::{points, progress, show};

pub(crate) fn run(host: &Host, arguments: &Rebase, output: Output) -> Result<ExitCode> {
    if arguments.dry_run {
        check(&show::point(host, &arguments.point, output)?, arguments.parent.as_deref())?;
        points::check_free(host, &arguments.point, output)?;
        let line = would(&arguments.point, arguments.parent.as_deref());
        output.print(&line, |line| format!("{line}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let rebased = rebase(host, &arguments.point, arguments.parent.clone(), None, output)?;
    let takes = show::takes(host, &arguments.point, output);
    output.print(&rebased, |_| format!("it {takes} now\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// `PARENT_INVALID` unless a disk of the point stands on `parent`, next or further down.
fn check(shown: &ShownPoint, parent: Option<&str>) -> Result<()> {
    let Some(parent) = parent else { return Ok(()) };
    let below = |image: &String| image.rsplit_once('/').is_some_and(|(folder, _)| folder == parent);
    if shown.chains.values().any(|chain| chain.iter().skip(1).any(below)) {
        return Ok(());
    }
    let cause = format!("no disk of '{}' stands on '{parent}'", shown.point.backup_path);
    Err(Error::new(Code::ParentInvalid, "look for the new parent", cause))
}

/// Has `point` stand on `onto`, or alone. `going` is a point that is deleted next.
pub(crate) fn rebase(
    host: &Host,
    point: &str,
    onto: Option<String>,
    going: Option<&str>,
    output: Output,
) -> Result<Rebased> {
    let request = RebasePointRequest {
        repository: Some(host.repository()?),
        backup_path: Some(point.to_owned()),
        new_parent: onto,
        going_point: going.map(str::to_owned),
        ..RebasePointRequest::default()
    };
    progress::with(output, |listener| rebase::run(request.check()?, listener))
}

/// What a rebase would do.
pub(crate) fn would(point: &str, onto: Option<&str>) -> String {
    match onto {
        Some(onto) => format!("would have '{point}' stand on '{onto}'"),
        None => format!("would have '{point}' stand alone"),
    }
}
