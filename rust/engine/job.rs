//! A backup job of libvirt on a domain, by either engine. QEMU and libvirt may never return from storage that hangs, so each
//! libvirt call here has a time limit: begin and abort run on threads that may be given up, a poller reads the statistics.

use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use super::incident::{Incident, JobDisk};
use super::leftover;
use crate::config::Engine;
use crate::error::{Code, Error, Result};
use crate::libvirt::{self, Domain, Event, JobPicture, JobState, State, Subscription};
use crate::limits;
use crate::work::call_end::within_call;
use crate::work::deadline::{ask, bounded_for_guest};
use crate::work::job::Reporter;

/// The step that errors name while a job runs.
pub(super) const COPY: &str = "copy the disks";

/// What the thread that waits for the job hears.
#[derive(Debug)]
pub(super) enum Signal {
    Event(Event),
    Running(JobPicture),
    /// The poller saw that the job has ended.
    Over(JobPicture),
    /// libvirt has no such domain any more.
    Gone,
    /// libvirt has been out of reach for longer than `LIBVIRT_RECONNECT`, and the error says why.
    Lost(Error),
    /// A thread of the engine's own has ended.
    Ended,
}

/// What is made before a job begins, so that little is left to do while the guest is frozen.
#[derive(Debug)]
pub struct PreparedJob {
    domain: Domain,
    disks: Vec<JobDisk>,
    /// The folder of the job's files or socket, which tells this job from others.
    folder: PathBuf,
    sender: Sender<Signal>,
    signals: Receiver<Signal>,
    _subscription: Subscription,
    poller: Sender<()>,
}

impl PreparedJob {
    /// Subscribes to the domain's events and readies the poller, for a job that reads `disks` and has its files or socket in
    /// `folder`. `BUSY` when a job runs on the domain.
    pub fn new(domain: &Domain, disks: Vec<JobDisk>, folder: PathBuf) -> Result<PreparedJob> {
        let asked = domain.clone();
        let job = ask("look at the domain's job", limits::LIBVIRT_CALL, move || {
            asked.forget_ended_job().and_then(|()| asked.job())
        })?;
        if job.state == JobState::Running {
            return Err(Error::new(Code::Busy, "look at the domain's job", "another job runs on it by now"));
        }
        let (sender, signals) = mpsc::channel();
        let subscription = libvirt::subscribe(domain.uuid(), sender.clone(), Signal::Event);
        let (poller, started) = mpsc::channel();
        start_poller(domain.clone(), sender.clone(), started)?;
        Ok(PreparedJob { domain: domain.clone(), disks, folder, sender, signals, _subscription: subscription, poller })
    }

    /// Begins the job that `backup` describes, together with the checkpoint. The outer error says that libvirt did not answer
    /// in time; should the job begin later, its thread aborts it at once. Only a push may have waited for the NAS.
    pub fn begin(self, engine: Engine, backup: String, checkpoint: Option<String>) -> Result<Result<BackupJob>> {
        const STEP: &str = "begin the backup";
        // Signals that came while the guest was being frozen, which may take minutes, belong to no job of ours.
        while self.signals.try_recv().is_ok() {}
        let domain = self.domain.clone();
        let begin =
            move || Ok(domain.begin_backup(&backup, checkpoint.as_deref()).map(|()| UnclaimedJob(Some(domain))));
        let begun = if engine == Engine::Pull {
            ask(STEP, limits::LIBVIRT_CALL, begin)
        } else {
            bounded_for_guest(STEP, limits::LIBVIRT_CALL, begin)
        };
        Ok(begun?.map(|begun| {
            begun.keep();
            // Can't fail: the poller lives as long as the job.
            let _ = self.poller.send(());
            BackupJob { prepared: self, leaving: None, incident: None, ended: false }
        }))
    }
}

/// A job that was begun.
#[derive(Debug)]
pub struct BackupJob {
    prepared: PreparedJob,
    /// When the domain reported that it stops.
    leaving: Option<Instant>,
    /// The first storage error that the guest met.
    incident: Option<Incident>,
    pub(super) ended: bool,
}

impl BackupJob {
    /// True if the job is known to have ended. Only then may the caller touch the domain's checkpoints.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    pub(super) fn domain(&self) -> &Domain {
        &self.prepared.domain
    }

    /// A sender by which the engine's own threads wake up the thread that waits for the job.
    pub(super) fn sender(&self) -> Sender<Signal> {
        self.prepared.sender.clone()
    }

    /// Waits for the next signal, at most for `limit`, and keeps the first incident.
    pub(super) fn signal(&mut self, limit: Duration) -> Option<Signal> {
        let signal = self.prepared.signals.recv_timeout(limit).ok()?;
        if let Signal::Event(Event::IoError(error)) = &signal
            && self.incident.is_none()
            && let Some(incident) = Incident::of(error, &self.prepared.disks)
        {
            let disk = incident.disk.as_deref().map(|disk| format!(", disk '{disk}'")).unwrap_or_default();
            log::error!("{}{disk}: {incident}", self.prepared.domain.name());
            self.incident = Some(incident);
        }
        Some(signal)
    }

    /// The first error that the guest met, among the signals read so far.
    pub(super) fn incident(&self) -> Option<&Incident> {
        self.incident.as_ref()
    }

    /// The first error that the guest met, among all signals of the job, which has ended.
    pub fn incident_at_end(&mut self) -> Option<&Incident> {
        while self.signal(Duration::ZERO).is_some() {}
        self.incident()
    }

    /// The next signal, if one comes within a `CALLER_LOOK`. Fails when the guest stopped, libvirt is out of reach, the caller
    /// cancelled, or the deadline passed.
    pub(super) fn next(&mut self, job: &Reporter<'_>, deadline: Instant) -> Result<Option<Signal>> {
        if self.leaving.is_some_and(|since| since.elapsed() >= limits::RESTART) {
            if self.state()? == State::Other {
                // QEMU's process may take half a minute to exit, and the job ends with it: the caller need not wait.
                self.ended = true;
                return Err(Error::new(Code::JobFailed, COPY, "the guest stopped during the backup"));
            }
            self.leaving = None;
        }
        job.check_cancelled()?;
        if Instant::now() >= deadline {
            return Err(Error::new(Code::Timeout, COPY, "not done within waitSeconds"));
        }
        let signal = self.signal(limits::CALLER_LOOK);
        if let Some(Signal::Lost(error)) = signal {
            let cause = format!("libvirt could not be reached for {} s: {}", reconnect().as_secs(), error.cause);
            return Err(Error::new(Code::Libvirt, COPY, cause));
        }
        if let Some(Signal::Event(Event::Gone) | Signal::Gone) = signal {
            self.leaving.get_or_insert_with(Instant::now);
        }
        Ok(signal)
    }

    /// The domain's state, asked on the current connection.
    pub(super) fn state(&self) -> Result<State> {
        let domain = self.prepared.domain.clone();
        ask("ask the domain's state", limits::LIBVIRT_STATE, move || match domain.again()? {
            Some(domain) => domain.state(),
            None => Ok(State::Other),
        })
    }

    /// Aborts the job, unless it has ended, and waits for its end as long as storage that answers may take.
    pub(super) fn end(&mut self) {
        self.end_within(limits::LIBVIRT_CALL, limits::within("wait for the aborted job", limits::JOB_ABORT));
    }

    /// Aborts a job that nothing keeps from ending, and waits for its end as long as libvirt may take to report it.
    pub(super) fn end_completed(&mut self) {
        self.end_within(limits::LIBVIRT_CALL, limits::JOB_END);
    }

    /// Aborts a job that can't end before the NAS answers, and does not wait for libvirt, which may hang in the abort, too.
    pub(super) fn abort_without_wait(&mut self) {
        self.end_within(limits::HUNG, Duration::ZERO);
    }

    fn end_within(&mut self, call: Duration, limit: Duration) {
        if self.ended {
            return;
        }
        let (domain, folder) = (self.prepared.domain.clone(), self.prepared.folder.clone());
        // our job may have ended unnoticed, and the job that runs when libvirt answers may be somebody else's
        let abort = move || domain.again()?.map_or(Ok(Some(false)), |domain| leftover::abort_in(&domain, &folder));
        match ask("abort the job", call, abort) {
            Ok(runs) => self.ended = runs == Some(false),
            Err(refused) => log::warn!("{}: {refused}", self.prepared.domain.name()),
        }
        let until = Instant::now() + within_call(limit);
        while !self.ended {
            match self.signal(until.saturating_duration_since(Instant::now())) {
                Some(Signal::Event(Event::JobCompleted { .. }) | Signal::Over(_) | Signal::Gone) => self.ended = true,
                Some(_) => {}
                None => break,
            }
        }
    }

    /// Ends the job because of `error`. If the job does not end although libvirt answers, it waits for the NAS: a `TIMEOUT`
    /// becomes `NAS_UNRESPONSIVE`.
    pub fn abort(&mut self, error: Error) -> Error {
        self.end();
        match error.code {
            Code::Timeout if !self.ended && self.state().is_ok() => Error { code: Code::NasUnresponsive, ..error },
            _ => error,
        }
    }
}

/// A job that libvirt has just begun for us, whatever its folder. Its drop aborts it: the caller gave up waiting for the begin.
struct UnclaimedJob(Option<Domain>);

impl UnclaimedJob {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for UnclaimedJob {
    fn drop(&mut self) {
        if let Some(domain) = &self.0
            && let Err(error) = domain.abort_job()
        {
            log::error!("{}: unable to abort the backup job that began too late: {error}", domain.name());
        }
    }
}

/// How long libvirt may be out of reach while a job runs.
fn reconnect() -> Duration {
    limits::within("reach libvirt again", limits::LIBVIRT_RECONNECT)
}

/// Starts the thread that reads the job's statistics, for its progress, and for its end in case the event is lost. The thread
/// polls from the first message of `started` until the sender is dropped.
fn start_poller(domain: Domain, signals: Sender<Signal>, started: Receiver<()>) -> Result<()> {
    let reconnect = reconnect();
    let look = move || {
        if started.recv().is_err() {
            return;
        }
        let mut out_of_reach = None;
        while started.recv_timeout(limits::JOB_LOOK) == Err(RecvTimeoutError::Timeout) {
            let told = poll_once(&domain, &mut out_of_reach, reconnect).map(|signal| signals.send(signal));
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

/// Looks at the job once, on the current connection. `out_of_reach` keeps since when there is no connection.
fn poll_once(domain: &Domain, out_of_reach: &mut Option<Instant>, reconnect: Duration) -> Result<Signal> {
    let found = match domain.again() {
        Err(error) if out_of_reach.get_or_insert_with(Instant::now).elapsed() >= reconnect => {
            return Ok(Signal::Lost(error));
        }
        found => found?,
    };
    *out_of_reach = None;
    let Some(domain) = found else { return Ok(Signal::Gone) };
    let now = domain.job()?;
    // Somebody else's job can only run when ours is over.
    if now.state == JobState::Running && now.backup {
        Ok(Signal::Running(now))
    } else {
        domain.ended_job().map(Signal::Over)
    }
}
