//! `nasbackup verify`.

use std::process::ExitCode;

use nasbackup::error::Result;
use nasbackup::operation::verify_chain::{self, Verdict, Verified, VerifyChainRequest};
use nasbackup::operation::verify_data;

use crate::arguments::Verify;
use crate::host::Host;
use crate::output::Output;
use crate::progress;

pub(crate) fn run(host: &Host, arguments: &Verify, output: Output) -> Result<ExitCode> {
    let request = VerifyChainRequest {
        repository: Some(host.repository()?),
        backup_path: Some(arguments.point.clone()),
        ..VerifyChainRequest::default()
    };
    let verify = if arguments.data { verify_data::run } else { verify_chain::run };
    let verified = progress::with(output, |listener| verify(request, listener))?;
    output.print(&verified, text)?;
    Ok(ExitCode::from(match verified.verdict {
        Verdict::Good => 0,
        Verdict::Bad => 1,
        Verdict::Aborted => 23,
    }))
}

/// A line for each file, and one below it for each reason.
fn text(verified: &Verified) -> String {
    let mut text = String::new();
    for file in &verified.files {
        text += &format!("{:<8} {}\n", word(file.verdict), file.file);
        file.reasons.iter().for_each(|reason| text += &format!("         {reason}\n"));
    }
    text
}

/// The verdict as `verifyChain` answers it.
pub(crate) fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Good => "good",
        Verdict::Aborted => "aborted",
        Verdict::Bad => "bad",
    }
}
