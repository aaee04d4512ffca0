//! The push engine: QEMU writes the targets itself, and may not return from a NAS that hangs.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::incident::Incident;
use super::job::{BackupJob, CALL, COPY, Signal};
use crate::error::{Code, Error, Result};
use crate::job::Reporter;
use crate::libvirt::{Event, JobPicture, JobState, State};
use crate::nas::deadline::{ask, ask_who_writes};

/// How long QEMU may take to close its targets before we ask by another way.
const CLOSE: Duration = Duration::from_secs(5);
/// How long to wait, after a failure, for the event that names the disk.
const BLAME: Duration = Duration::from_millis(300);

/// Waits until QEMU has written and closed the target of each of the `disks`, which it does at `rate` bytes a second if
/// that is given; why it did not, if so. On an error the job is aborted, unless it has ended.
pub fn copy(
    backup: &mut BackupJob,
    disks: BTreeSet<String>,
    rate: Option<u64>,
    job: &mut Reporter<'_>,
    deadline: Instant,
) -> Result<Option<Error>> {
    let mut push = Push { backup, disks, rate, closed: BTreeSet::new(), failed_disk: None };
    let limited = push.limit();
    let outcome = push.wait_completed(job, deadline).and_then(|()| push.wait_closed(deadline));
    outcome.map(|()| limited.err()).map_err(|error| backup.abort(error))
}

/// A push job that runs.
struct Push<'a> {
    backup: &'a mut BackupJob,
    disks: BTreeSet<String>,
    /// Bytes a second that all disks together may have.
    rate: Option<u64>,
    /// Disks whose block job ended, and whose targets so are closed.
    closed: BTreeSet<String>,
    /// The first disk whose block job failed.
    failed_disk: Option<String>,
}

impl Push<'_> {
    fn wait_completed(&mut self, job: &mut Reporter<'_>, deadline: Instant) -> Result<()> {
        loop {
            match self.backup.next(job, deadline)? {
                Some(Signal::Event(Event::JobCompleted { success: true, .. })) => break,
                Some(Signal::Event(Event::JobCompleted { error, .. })) => return Err(self.failed(error)),
                Some(Signal::Over(JobPicture { state: JobState::Completed, backup: true, .. })) => break,
                Some(Signal::Over(picture)) => return Err(self.failed(picture.error)),
                Some(Signal::Event(Event::DiskClosed { disk, completed })) => {
                    self.disk_closed(disk, completed);
                    // A job that is over, too, takes no limit.
                    let _ = self.limit().inspect_err(|error| log::debug!("{error}"));
                }
                Some(Signal::Running(picture)) => {
                    job.progress(picture.done, picture.total);
                    job.tell()?;
                }
                _ => {}
            }
            if let Some(incident) = self.backup.incident().cloned() {
                return Err(self.harmed(&incident));
            }
        }
        self.backup.ended = true;
        Ok(())
    }

    fn disk_closed(&mut self, disk: String, completed: bool) {
        if !completed {
            self.failed_disk.get_or_insert_with(|| disk.clone());
        }
        self.closed.insert(disk);
    }

    /// Shares the limit out among the disks that are under way.
    fn limit(&self) -> Result<()> {
        let open: Vec<String> = self.disks.difference(&self.closed).cloned().collect();
        let Some(rate) = self.rate.filter(|_| !open.is_empty()) else { return Ok(()) };
        let (domain, share) = (self.backup.domain().clone(), (rate / open.len() as u64).max(1));
        ask("limit the job's speed", CALL, move || {
            let domain = domain.again()?;
            open.iter().try_for_each(|disk| domain.as_ref().map_or(Ok(()), |d| d.limit_block_job(disk, share)))
        })
    }

    /// The error of a job that has harmed the guest, with the reason of its own failure if that follows: what keeps QEMU from
    /// writing an old block to the NAS keeps it from writing any.
    fn harmed(&mut self, incident: &Incident) -> Error {
        let until = Instant::now() + BLAME;
        let mut error = Error::new(Code::JobFailed, COPY, incident);
        while let Some(signal) = self.backup.signal(until.saturating_duration_since(Instant::now())) {
            let text = match signal {
                Signal::Event(Event::DiskClosed { disk, completed }) => {
                    self.disk_closed(disk, completed);
                    continue;
                }
                Signal::Event(Event::JobCompleted { error, .. }) => error,
                Signal::Over(picture) => picture.error,
                _ => continue,
            };
            self.backup.ended = true;
            error.cause.extend(text.map(|text| format!(" ({text})")));
            break;
        }
        match incident.disk.as_ref().or(self.failed_disk.as_ref()) {
            Some(disk) => error.on_disk(disk),
            None => error,
        }
    }

    /// The error of a job that libvirt says has failed, naming the disk if an event does.
    fn failed(&mut self, text: Option<String>) -> Error {
        self.backup.ended = true;
        let until = Instant::now() + BLAME;
        while self.failed_disk.is_none()
            && let Some(signal) = self.backup.signal(until.saturating_duration_since(Instant::now()))
        {
            if let Signal::Event(Event::DiskClosed { disk, completed }) = signal {
                self.disk_closed(disk, completed);
            }
        }
        let cause = text.unwrap_or_else(|| match self.backup.state() {
            Ok(State::Other) => "the guest stopped during the backup".to_owned(),
            _ => "libvirt gives no reason".to_owned(),
        });
        let error = Error::new(Code::JobFailed, COPY, cause);
        match &self.failed_disk {
            Some(disk) => error.on_disk(disk),
            None => error,
        }
    }

    /// The job has completed, but QEMU writes a target's last tables when it closes it: wait for that of each.
    fn wait_closed(&mut self, deadline: Instant) -> Result<()> {
        const STEP: &str = "close the target";
        let until = Instant::now() + CLOSE;
        while !self.disks.is_subset(&self.closed) {
            match self.backup.signal(until.saturating_duration_since(Instant::now())) {
                Some(Signal::Event(Event::DiskClosed { disk, completed })) => self.disk_closed(disk, completed),
                Some(Signal::Event(Event::Gone) | Signal::Gone) if self.backup.state()? == State::Other => {
                    return Err(Error::new(Code::JobFailed, STEP, "the guest stopped before its targets were closed"));
                }
                Some(_) => {}
                None => {
                    self.settle(deadline)?;
                    break;
                }
            }
        }
        match &self.failed_disk {
            Some(disk) => Err(Error::new(Code::JobFailed, STEP, "QEMU says that it failed").on_disk(disk)),
            None => Ok(()),
        }
    }

    /// Waits for the close where its event did not come.
    fn settle(&mut self, deadline: Instant) -> Result<()> {
        let domain = self.backup.domain().clone();
        let limit = deadline.saturating_duration_since(Instant::now()).max(CALL);
        let settled = ask_who_writes("wait for the targets' close", limit, move || match domain.again()? {
            Some(domain) if domain.state()? != State::Other => domain.settle(),
            _ => {
                Err(Error::new(Code::JobFailed, "close the target", "the guest stopped before its targets were closed"))
            }
        });
        // A QEMU that hangs in the close must not be asked anything more, as if its job still ran.
        self.backup.ended = !settled.as_ref().is_err_and(|error| error.code == Code::NasUnresponsive);
        settled
    }
}
