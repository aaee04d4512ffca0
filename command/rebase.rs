//! `nasbackup rebase`.

use std::process::ExitCode;

use nasbackup::error::Result;
use nasbackup::operation::rebase::{self, RebasePointRequest, Rebased};

use crate::arguments::Rebase;
use crate::host::Host;
use crate::output::{Output, size};
use crate::{points, progress};

pub(crate) fn run(host: &Host, arguments: &Rebase, output: Output) -> Result<ExitCode> {
    if arguments.dry_run {
        points::of_machine(host, &arguments.point, output)?;
        let line = would(&arguments.point, arguments.parent.as_deref());
        output.print(&line, |line| format!("{line}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let rebased = rebase(host, &arguments.point, arguments.parent.clone(), output)?;
    output.print(&rebased, |rebased| format!("it takes {} now\n", size(rebased.size)))?;
    Ok(ExitCode::SUCCESS)
}

/// Has `point` stand on `onto`, or alone.
pub(crate) fn rebase(host: &Host, point: &str, onto: Option<String>, output: Output) -> Result<Rebased> {
    let request = RebasePointRequest {
        repository: Some(host.repository()?),
        backup_path: Some(point.to_owned()),
        new_parent: onto,
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
