//! A backup job whose agent has died. The library recognizes the job by the folder of its files.

use std::path::Path;
use std::time::Instant;

use crate::error::{Code, Error, Result};
use crate::libvirt::{Domain, JobState};
use crate::limits;

/// True if a backup job runs on `domain` with its files or its socket in `folder`; `None` if one runs and libvirt does not yet
/// tell where these lie. libvirt answers without asking QEMU.
pub fn runs_in(domain: &Domain, folder: &Path) -> Result<Option<bool>> {
    let job = domain.job()?;
    if job.state != JobState::Running || !job.backup {
        return Ok(Some(false));
    }
    Ok(domain.running_backup()?.map(|xml| writes_into(&xml, folder)))
}

/// Aborts the backup job of `domain` if its files or its socket lie in `folder`. Another job may be somebody else's, which nobody but
/// its owner ends. What ran is told as by `runs_in`. Each caller waits for the end in its own way: by the job's signals, which tell
/// of incidents, too; for a limited time; or for as long as the NAS hangs.
pub fn abort_in(domain: &Domain, folder: &Path) -> Result<Option<bool>> {
    let runs = runs_in(domain, folder)?;
    if runs == Some(true)
        && let Err(refused) = domain.abort_job()
        && runs_in(domain, folder)? != Some(false)
    {
        // the job did not end by itself meanwhile
        return Err(refused);
    }
    Ok(runs)
}

/// Ends the backup job of `domain` if its files or its socket lie in `folder`; true if there was such a job. `TIMEOUT` when
/// QEMU does not end the job, as a hostile QEMU never does.
pub fn end_job(domain: &Domain, folder: &Path) -> Result<bool> {
    if runs_in(domain, folder)? != Some(true) {
        return Ok(false);
    }
    log::warn!("{}: aborting the backup job in '{}', whose agent is gone", domain.name(), folder.display());
    abort_in(domain, folder)?;
    let until = Instant::now() + limits::LEFT_JOB_ABORT;
    while domain.job()?.state == JobState::Running {
        if Instant::now() > until {
            let cause = format!("the job of {} goes on though it was aborted", domain.name());
            return Err(Error::new(Code::Timeout, "end what was left", cause));
        }
        std::thread::sleep(limits::CALLER_LOOK);
    }
    Ok(true)
}

/// Resumes a guest that has waited for storage since its backup. `may_resume` says that it did not wait before the backup: a
/// guest that did is none of ours to resume.
pub fn resume(domain: &Domain, may_resume: bool) {
    let go_on = || -> Result<bool> {
        let stopped = may_resume && domain.state()?.waits_for_storage();
        if stopped {
            domain.resume()?;
        }
        Ok(stopped)
    };
    match go_on() {
        Ok(true) => log::warn!("{}: the guest, paused by the failed backup, goes on", domain.name()),
        Ok(false) => {}
        Err(error) => log::error!("{}: unable to resume the guest: {error}", domain.name()),
    }
}

/// True if the job's XML names a file or a socket in `folder`.
fn writes_into(xml: &str, folder: &Path) -> bool {
    let Some(folder) = folder.to_str().filter(|folder| folder.starts_with('/')) else { return false };
    let named = quick_xml::escape::escape(folder);
    [r#"file=""#, r#"file='"#, r#"socket=""#, r#"socket='"#].iter().any(|name| xml.contains(&format!("{name}{named}/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_recognized_by_a_file_or_socket_directly_in_its_folder() {
        let push = "<disk name='vda' type='file'><target file='/n/i-1/.partial-T/root.x.qcow2'/></disk>";
        let pull = r#"<server transport="unix" socket="/s/a&apos;b/nbd"/>"#;
        for (xml, folder, meant) in [
            (push, "/n/i-1/.partial-T", true),
            (push, "/n/i-1/.partial-", false),
            (push, "/n/i-1/.partial-T2", false),
            (push, "n/i-1", false),
            (push, "", false),
            (push, "/i-1/.partial-T", false),
            (pull, "/s/a'b", true),
            (pull, "/s/a", false),
        ] {
            assert_eq!(writes_into(xml, Path::new(folder)), meant, "{folder}");
        }
    }
}
