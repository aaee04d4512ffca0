//! The push engine: QEMU writes the targets itself. It may not return from a NAS that hangs, so nothing here waits for a
//! libvirt call without a bound: begin and abort run on threads that may be given up, statistics come from a poller.

use std::collections::BTreeSet;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use crate::error::{Code, Error, Result};
use crate::job::Reporter;
use crate::libvirt::{self, Domain, Event, JobPicture, JobState, State, Subscription};
use crate::nas::deadline::{ask, bounded};

/// How long libvirt may take to begin or to abort.
const CALL: Duration = Duration::from_secs(60);
/// How long libvirt may take to say what state a domain is in.
const STATE: Duration = Duration::from_secs(10);
/// How long an aborted job may take to end on a NAS that answers.
const ABORT: Duration = Duration::from_secs(20);
/// How long QEMU may take to close its targets before we ask by another way.
const CLOSE: Duration = Duration::from_secs(5);
/// Between two looks at the statistics.
const POLL: Duration = Duration::from_millis(250);
/// Between two looks at cancel and deadline.
const TICK: Duration = Duration::from_millis(100);
/// How long a domain that begins to shut down may take to show that it only restarts.
const RESTART: Duration = Duration::from_millis(500);
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

/// Everything that a push job needs but the job: so that little is left to do while the guest is frozen.
#[derive(Debug)]
pub struct Prepared {
    domain: Domain,
    targets: BTreeSet<String>,
    signals: Receiver<Signal>,
    _subscription: Subscription,
    poller: Sender<()>,
}

impl Prepared {
    /// Subscribes to the domain's events and readies the poller. `BUSY` when a job runs on the domain.
    pub fn new(domain: &Domain, targets: BTreeSet<String>) -> Result<Prepared> {
        let asked = domain.clone();
        let job = ask("look at the domain's job", CALL, move || asked.forget_ended_job().and_then(|()| asked.job()))?;
        if job.state == JobState::Running {
            return Err(Error::new(Code::Busy, "look at the domain's job", "another job runs on it by now"));
        }
        let (sender, signals) = mpsc::channel();
        let subscription = libvirt::subscribe(domain.uuid(), sender.clone(), Signal::Event);
        let (poller, started) = mpsc::channel();
        poll(domain.clone(), sender, started)?;
        Ok(Prepared { domain: domain.clone(), targets, signals, _subscription: subscription, poller })
    }

    /// Begins the job that `backup` describes, together with the checkpoint. On failure nothing of ours runs, or, when
    /// libvirt did not answer in time (`NAS_UNRESPONSIVE`), the job that comes up late is aborted at once.
    pub fn begin(self, backup: String, checkpoint: Option<String>) -> Result<PushJob> {
        let domain = self.domain.clone();
        let begun = bounded("begin the backup", CALL, move || {
            domain.begin_backup(&backup, checkpoint.as_deref())?;
            Ok(Begun(Some(domain)))
        })?;
        begun.keep();
        // The poller lives as long as the job does: it can't have gone.
        let _ = self.poller.send(());
        Ok(PushJob { prepared: self, closed: BTreeSet::new(), failed_disk: None, ended: false })
    }
}

/// A push job that was begun.
#[derive(Debug)]
pub struct PushJob {
    prepared: Prepared,
    /// Targets whose block job ended, and so are closed.
    closed: BTreeSet<String>,
    /// The first disk whose block job failed.
    failed_disk: Option<String>,
    ended: bool,
}

impl PushJob {
    /// Waits until QEMU has written and closed every target. On an error the job is aborted, unless it has ended.
    pub fn wait(&mut self, job: &mut Reporter<'_>, deadline: Instant) -> Result<()> {
        let outcome = self.wait_completed(job, deadline).and_then(|()| self.wait_closed(deadline));
        outcome.map_err(|error| self.abort(error))
    }

    /// Has the job really ended? Only then may the domain's checkpoints be touched.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// What the domain does, asked on the connection of now.
    fn state(&self) -> Result<State> {
        let domain = self.prepared.domain.clone();
        ask("ask the domain's state", STATE, move || match domain.again()? {
            Some(domain) => domain.state(),
            None => Ok(State::Other),
        })
    }

    fn wait_completed(&mut self, job: &mut Reporter<'_>, deadline: Instant) -> Result<()> {
        const STEP: &str = "copy the disks";
        let mut leaving = None;
        loop {
            match self.prepared.signals.recv_timeout(TICK) {
                Ok(Signal::Event(Event::JobCompleted { success: true, .. })) => break,
                Ok(Signal::Event(Event::JobCompleted { error, .. })) => return Err(self.failed(error)),
                Ok(Signal::Over(JobPicture { state: JobState::Completed, backup: true, .. })) => break,
                Ok(Signal::Over(picture)) => return Err(self.failed(picture.error)),
                Ok(Signal::Event(Event::DiskClosed { disk, completed })) => self.disk_closed(disk, completed),
                Ok(Signal::Event(Event::Gone) | Signal::Gone) => drop(leaving.get_or_insert_with(Instant::now)),
                Ok(Signal::Running(picture)) => {
                    job.progress(picture.done, picture.total);
                    job.tell()?;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::new(Code::Internal, STEP, "nobody tells of the job"));
                }
            }
            if leaving.is_some_and(|since| since.elapsed() >= RESTART) {
                if self.state()? == State::Other {
                    // Its process may take half a minute to go, and the job with it: nobody waits for that.
                    self.ended = true;
                    return Err(Error::new(Code::JobFailed, STEP, "the guest stopped during the backup"));
                }
                leaving = None;
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
            && let Ok(signal) = self.prepared.signals.recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            if let Signal::Event(Event::DiskClosed { disk, completed }) = signal {
                self.disk_closed(disk, completed);
            }
        }
        let cause = text.unwrap_or_else(|| match self.state() {
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
    fn wait_closed(&mut self, deadline: Instant) -> Result<()> {
        const STEP: &str = "close the target";
        let until = Instant::now() + CLOSE;
        while !self.prepared.targets.is_subset(&self.closed) {
            match self.prepared.signals.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Signal::Event(Event::DiskClosed { disk, completed })) => self.disk_closed(disk, completed),
                Ok(Signal::Event(Event::Gone) | Signal::Gone) if self.state()? == State::Other => {
                    return Err(Error::new(Code::JobFailed, STEP, "the guest stopped before its targets were closed"));
                }
                Ok(_) => {}
                Err(_) => {
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
        let domain = self.prepared.domain.clone();
        let limit = deadline.saturating_duration_since(Instant::now()).max(CALL);
        let settled = bounded("wait for the targets' close", limit, move || match domain.again()? {
            Some(domain) if domain.state()? != State::Other => domain.settle(),
            _ => {
                Err(Error::new(Code::JobFailed, "close the target", "the guest stopped before its targets were closed"))
            }
        });
        // A QEMU that hangs in the close must not be asked anything more, as if its job still ran.
        self.ended = !settled.as_ref().is_err_and(|error| error.code == Code::NasUnresponsive);
        settled
    }

    /// Aborts the job because of `error`, unless it has ended, and waits, within a bound, until it has.
    pub fn abort(&mut self, error: Error) -> Error {
        if self.ended {
            return error;
        }
        let domain = self.prepared.domain.clone();
        let abort = move || domain.again()?.map_or(Ok(()), |domain| domain.abort_job());
        if let Err(refused) = ask("abort the job", CALL, abort) {
            log::warn!("{}: {refused}", self.prepared.domain.name());
        }
        let until = Instant::now() + ABORT;
        while !self.ended {
            match self.prepared.signals.recv_timeout(until.saturating_duration_since(Instant::now())) {
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

/// Readies the thread that looks at the job's statistics: progress, and its end should the event be lost. It looks from
/// the first message of `started` on, until the other side is gone.
fn poll(domain: Domain, signals: Sender<Signal>, started: Receiver<()>) -> Result<()> {
    let look = move || {
        if started.recv().is_err() {
            return;
        }
        while started.recv_timeout(POLL) == Err(RecvTimeoutError::Timeout) {
            let told = look_once(&domain).map(|signal| signals.send(signal));
            match told {
                Ok(Err(_)) => return,
                Ok(Ok(())) => {}
                Err(error) => log::debug!("{}: {error}", domain.name()),
            }
        }
    };
    let thread = std::thread::Builder::new().name("nasbackup-poll".to_owned()).spawn(look);
    thread.map(drop).map_err(|e| Error::new(Code::Internal, "start the poller", e))
}

/// One look at the job, on the connection of now.
fn look_once(domain: &Domain) -> Result<Signal> {
    let Some(domain) = domain.again()? else { return Ok(Signal::Gone) };
    let now = domain.job()?;
    // Somebody else's job can only run when ours is over.
    if now.state == JobState::Running && now.backup {
        Ok(Signal::Running(now))
    } else {
        domain.ended_job().map(Signal::Over)
    }
}
