//! `nasbackup jobs` and `nasbackup cancel`: what runs on this host, whoever started it.

use std::process::ExitCode;
use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use nasbackup::config;
use nasbackup::error::{Code, Error, Result};
use nasbackup::host::{HostJob, ask_to_stop, posted};
use nasbackup::plain::plain;

use crate::arguments::Cancel;
use crate::output::{Output, size, time};

pub(crate) fn run(output: Output) -> Result<ExitCode> {
    output.print(&posted(&config::current().state_dir)?, |jobs| text(jobs))?;
    Ok(ExitCode::SUCCESS)
}

/// `NOT_FOUND` when no such job runs. It stops within a second or two.
pub(crate) fn cancel(arguments: &Cancel, output: Output) -> Result<ExitCode> {
    let asked = ask_to_stop(&config::current().state_dir, &arguments.job)?;
    if asked == 0 {
        let cause = format!("no job '{}' runs on this host", arguments.job);
        return Err(Error::new(Code::NotFound, "look for the job", cause));
    }
    output.print(&serde_json::json!({ "asked": asked }), |_| String::new())?;
    Ok(ExitCode::SUCCESS)
}

fn text(jobs: &[HostJob]) -> String {
    if jobs.is_empty() {
        return "no jobs\n".to_owned();
    }
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table.set_header(["job", "process", "operation", "machine", "phase", "done", "since"]);
    for job in jobs {
        let done = match job.total_bytes {
            0 => String::new(),
            total => format!("{} of {}", size(job.done_bytes), size(total)),
        };
        table.add_row([
            &plain(&job.job),
            job.process.to_string().as_str(),
            &job.operation,
            &plain(job.vm_name.as_deref().unwrap_or("-")),
            &job.phase,
            &done,
            &time(Duration::from_millis(job.elapsed_millis)),
        ]);
    }
    table.trim_fmt() + "\n"
}
