//! The push engine: QEMU writes the targets itself. It may not return from a NAS that hangs, so nothing here waits for a
//! libvirt call without a bound: begin and abort run on threads that may be given up, statistics come from a poller.

use std::collections::BTreeSet;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use crate::error::{Code, Error, Result};
use crate::job::Reporter;
use crate::libvirt::{self, Domain, Event, JobPicture, JobState, State, Subscription};
use crate::nas::deadline::bounded;

/// How long libvirt may take to begin or to abort.
const CALL: Duration = Duration::from_secs(60);
/// How long an aborted job may take to end on a NAS that answers.
const ABORT: Duration = Duration::from_secs(20);
/// How long QEMU may take to close its targets before we ask by another way.
const CLOSE: Duration = Duration::from_secs(5);
/// Between two looks at the statistics.
const POLL: Duration = Duration::from_millis(250);
/// Between two looks at cancel and deadline.
const TICK: Duration = Duration::from_millis(100);
/// How long to wait, after a failure, for the event that names the disk.
const BLAME: Duration = Duration::from_millis(300);

/// What reaches the waiting thread.
#[derive(Debug)]
enum Signal {
    Event(Event),
    Running(JobPicture),
    /// The poller saw that the job is over.
    Over(JobPicture),
    /// libvirt has no such domain any more.
    Gone,
}

/// A push job that was begun, or may have been.
#[derive(Debug)]
pub struct PushJob {
    domain: Domain,
    uri: String,
    targets: BTreeSet<String>,
    signals: Receiver<Signal>,
    _subscription: Subscription,
    _poller: Sender<()>,
    /// Targets whose block job ended, and so are closed.
    closed: BTreeSet<String>,
    /// The first disk whose block job failed.
    failed_disk: Option<String>,
    ended: bool,
}

impl PushJob {
    /// Begins the job that `backup` describes, together with the checkpoint. On failure nothing runs, or, when libvirt
    /// did not answer in time (`NAS_UNRESPONSIVE`), the job that comes up late is aborted at once.
    pub fn begin(
        domain: &Domain,
        uri: &str,
        targets: BTreeSet<String>,
        backup: String,
        checkpoint: Option<String>,
    ) -> Result<PushJob> {
        domain.forget_ended_job()?;
        let (sender, signals) = mpsc::channel();
        let subscription = libvirt::subscribe(domain.uuid(), sender.clone(), Signal::Event);
        let begun = {
            let domain = domain.clone();
            bounded("begin the backup", CALL, move || {
                domain.begin_backup(&backup, checkpoint.as_deref())?;
                Ok(Begun(Some(domain)))
            })?
        };
        begun.keep();
        let (stop, stopped) = mpsc::channel();
        poll(domain.clone(), uri.to_owned(), sender, stopped)?;
        Ok(PushJob {
            domain: domain.clone(),
            uri: uri.to_owned(),
            targets,
            signals,
            _subscription: subscription,
            _poller: stop,
            closed: BTreeSet::new(),
            failed_disk: None,
            ended: false,
        })
    }

    /// Waits until QEMU has written and closed every target. On an error the job is aborted, unless it has ended.
    pub fn wait(&mut self, job: &mut Reporter<'_>, deadline: Instant) -> Result<()> {
        let outcome = self.wait_completed(job, deadline).and_then(|()| self.wait_closed());
        outcome.map_err(|error| self.abort(error))
    }

    /// Has the job really ended? Only then may the domain's checkpoints be touched.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// The domain, on a new connection if the daemon was restarted.
    fn domain(&self) -> Domain {
        let found = libvirt::connect(&self.uri).and_then(|connection| self.domain.on(&connection));
        found.ok().flatten().unwrap_or_else(|| self.domain.clone())
    }

    fn wait_completed(&mut self, job: &mut Reporter<'_>, deadline: Instant) -> Result<()> {
        const STEP: &str = "copy the disks";
        loop {
            match self.signals.recv_timeout(TICK) {
                Ok(Signal::Event(Event::JobCompleted { success: true, .. })) => break,
                Ok(Signal::Event(Event::JobCompleted { error, .. })) => return Err(self.failed(error)),
                Ok(Signal::Over(JobPicture { state: JobState::Completed, .. })) => break,
                Ok(Signal::Over(picture)) => return Err(self.failed(picture.error)),
                Ok(Signal::Event(Event::DiskClosed { disk, completed })) => self.disk_closed(disk, completed),
                Ok(Signal::Event(Event::Gone) | Signal::Gone) => {
                    return Err(Error::new(Code::JobFailed, STEP, "the guest stopped during the backup"));
                }
                Ok(Signal::Running(picture)) => {
                    job.progress(picture.done, picture.total);
                    job.tell()?;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Error::new(Code::Internal, STEP, "the poller died")),
            }
            job.check_cancelled()?;
            if Instant::now() >= deadline {
                return Err(Error::new(Code::Timeout, STEP, "not done within waitSeconds"));
            }
        }
        self.ended = true;
        Ok(())
    }

    fn disk_closed(&mut self, disk: String, completed: bool) {
        if !completed {
            self.failed_disk.get_or_insert_with(|| disk.clone());
        }
        self.closed.insert(disk);
    }

    /// The error of a job that libvirt says has failed, naming the disk if an event does.
    fn failed(&mut self, text: Option<String>) -> Error {
        self.ended = true;
        let until = Instant::now() + BLAME;
        while self.failed_disk.is_none()
            && let Ok(signal) = self.signals.recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            if let Signal::Event(Event::DiskClosed { disk, completed }) = signal {
                self.disk_closed(disk, completed);
            }
        }
        let cause = text.unwrap_or_else(|| match self.domain().state() {
            Ok(State::Other) => "the guest stopped during the backup".to_owned(),
            _ => "libvirt gives no reason".to_owned(),
        });
        let error = Error::new(Code::JobFailed, "copy the disks", cause);
        match &self.failed_disk {
            Some(disk) => error.on_disk(disk),
            None => error,
        }
    }

    /// The job has completed, but QEMU writes a target's last tables when it closes it: wait for that of each.
    fn wait_closed(&mut self) -> Result<()> {
        let until = Instant::now() + CLOSE;
        while !self.targets.is_subset(&self.closed) {
            match self.signals.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Signal::Event(Event::DiskClosed { disk, completed })) => self.disk_closed(disk, completed),
                Ok(Signal::Event(Event::Gone) | Signal::Gone) => break,
                Ok(_) => {}
                Err(_) => {
                    let domain = self.domain();
                    bounded("wait for the targets' close", CALL, move || domain.settle())?;
                    break;
                }
            }
        }
        match (&self.failed_disk, self.domain().state()?) {
            (Some(disk), _) => {
                Err(Error::new(Code::JobFailed, "close the target", "QEMU says that it failed").on_disk(disk))
            }
            (None, State::Other) if !self.targets.is_subset(&self.closed) => {
                Err(Error::new(Code::JobFailed, "close the target", "the guest stopped before its targets were closed"))
            }
            _ => Ok(()),
        }
    }

    /// Aborts the job because of `error` and waits, within a bound, until it has ended.
    fn abort(&mut self, error: Error) -> Error {
        if self.ended {
            return error;
        }
        let domain = self.domain();
        if let Err(refused) = bounded("abort the job", CALL, move || domain.abort_job()) {
            log::warn!("{}: {refused}", self.domain.name());
        }
        let until = Instant::now() + ABORT;
        while !self.ended {
            match self.signals.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Signal::Event(Event::JobCompleted { .. }) | Signal::Over(_) | Signal::Gone) => self.ended = true,
                Ok(_) => {}
                Err(_) => break,
            }
        }
        match error.code {
            Code::Timeout if !self.ended => Error { code: Code::NasUnresponsive, ..error },
            _ => error,
        }
    }
}

/// A job that libvirt has begun; dropped, because nobody waits for it any more, it is aborted.
struct Begun(Option<Domain>);

impl Begun {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(domain) = &self.0
            && let Err(error) = domain.abort_job()
        {
            log::error!("{}: a job that began too late could not be aborted: {error}", domain.name());
        }
    }
}

/// Starts the thread that looks at the job's statistics: progress, and its end should the event be lost.
fn poll(domain: Domain, uri: String, signals: Sender<Signal>, stopped: Receiver<()>) -> Result<()> {
    let look = move || {
        let mut domain = domain;
        while stopped.recv_timeout(POLL) == Err(RecvTimeoutError::Timeout) {
            let signal = look_once(&mut domain, &uri);
            if signal.is_some_and(|signal| signals.send(signal).is_err()) {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("nasbackup-poll".to_owned()).spawn(look);
    thread.map(drop).map_err(|e| Error::new(Code::Internal, "start the poller", e))
}

/// One look at the job. After a lost connection the domain is found again on a new one.
fn look_once(domain: &mut Domain, uri: &str) -> Option<Signal> {
    let found = libvirt::connect(uri).and_then(|connection| domain.on(&connection));
    match found {
        Ok(Some(current)) => *domain = current,
        Ok(None) => return Some(Signal::Gone),
        Err(error) => {
            log::debug!("{}: {error}", domain.name());
            return None;
        }
    }
    let look = || -> Result<Signal> {
        let now = domain.job()?;
        if now.state == JobState::Running { Ok(Signal::Running(now)) } else { domain.ended_job().map(Signal::Over) }
    };
    look().map_err(|error| log::debug!("{}: {error}", domain.name())).ok()
}
