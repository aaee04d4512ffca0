//! Freezing and thawing the guest's file systems. A frozen guest is thawed on every path, and also a guest whose freeze
//! failed: its agent may carry the command out later, when it wakes up.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ask;
use crate::error::{Code, Error, Result};
use crate::libvirt::{Domain, State};

const FREEZE: &str = "freeze the guest's file systems";
/// How long the guest's agent may take for one answer.
const AGENT: Duration = Duration::from_secs(20);
/// Between two tries to thaw.
const PAUSE: Duration = Duration::from_secs(2);
/// How long to go on trying.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The domains that a thread tries to thaw, by UUID.
static THAWING: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn thawing() -> MutexGuard<'static, BTreeSet<String>> {
    THAWING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Thaws a guest that an earlier backup may have left frozen, and goes on trying until it succeeds; says whether it has
/// by now. One that is being thawed already is not waited for.
pub(super) fn thaw_left(domain: &Domain) -> bool {
    if thawing().contains(domain.uuid()) {
        return false;
    }
    if let Err(error) = domain.bound_agent(AGENT) {
        log::warn!("{}: {error}", domain.name());
    }
    let thawed = keep_thawing(domain.clone()).recv_timeout(2 * AGENT);
    match &thawed {
        Ok(Ok(_)) => {
            log::warn!("{}: the guest, which an earlier backup may have left frozen, is thawed", domain.name())
        }
        Ok(Err(error)) => log::error!("{}: {error}", domain.name()),
        Err(_) => log::error!("{}: the guest's agent does not answer a thaw", domain.name()),
    }
    matches!(thawed, Ok(Ok(_)))
}

/// `QUIESCE_FAILED` when the guest can't be asked to freeze: it has no agent, or one that is still to thaw.
pub(super) fn check(domain: &Domain, has_agent: bool) -> Result<()> {
    let refuse = |cause| Err(Error::new(Code::QuiesceFailed, FREEZE, cause));
    if !has_agent {
        return refuse("the domain has no channel to a guest agent");
    }
    if thawing().contains(domain.uuid()) {
        return refuse("the guest's agent has not answered an earlier thaw yet");
    }
    Ok(())
}

/// A frozen guest; dropped, it is thawed.
#[derive(Debug)]
pub(super) struct Frozen {
    domain: Domain,
    since: Instant,
    /// How long the freeze took.
    freeze: Duration,
    thawed: bool,
}

impl Frozen {
    /// Freezes the guest's file systems. `QUIESCE_FAILED` when the agent does not do it in time: it may do so later.
    pub(super) fn freeze(domain: &Domain) -> Result<Frozen> {
        let since = Instant::now();
        let frozen = domain.clone();
        // No line is logged before the thaw: a log may be slow. One that comes too late is thawed where it is dropped.
        let frozen = ask(FREEZE, move || {
            frozen.bound_agent(AGENT)?;
            frozen.freeze()?;
            Ok(Frozen { domain: frozen, since, freeze: since.elapsed(), thawed: false })
        });
        frozen.map_err(|error| {
            // Due whatever the agent says, and not waited for: it has just shown that it does not answer.
            drop(keep_thawing(domain.clone()));
            log::warn!("{}: not frozen, after {} ms: {error}", domain.name(), since.elapsed().as_millis());
            Error { code: Code::QuiesceFailed, ..error }
        })
    }

    /// Thaws. The error says that the guest is still frozen; a thread goes on trying.
    pub(super) fn thaw(mut self) -> Result<()> {
        self.thaw_once()
    }

    fn thaw_once(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.thawed, true) {
            return Ok(());
        }
        let begun = Instant::now();
        let first = keep_thawing(self.domain.clone()).recv_timeout(2 * AGENT);
        let thaw = begun.elapsed().as_millis();
        let frozen_for = self.since.elapsed().as_millis();
        let failed = |cause: String| Err(Error::new(Code::QuiesceFailed, "thaw the guest's file systems", cause));
        match first {
            Ok(Ok(count)) => {
                log::info!(
                    "{}: {count} file systems thawed after {frozen_for} ms: frozen within {} ms, thawed within {thaw} ms",
                    self.domain.name(),
                    self.freeze.as_millis()
                );
                Ok(())
            }
            Ok(Err(error)) => {
                failed(format!("{}, frozen for {frozen_for} ms and tried again until it succeeds", error.cause))
            }
            Err(_) => failed(format!("no answer, frozen for {frozen_for} ms and tried again until it succeeds")),
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = self.thaw_once() {
            log::error!("{}: {error}", self.domain.name());
        }
    }
}

/// Thaws on a thread of its own until it succeeds, the guest is gone or patience ends; the first outcome is sent.
fn keep_thawing(domain: Domain) -> mpsc::Receiver<Result<u32>> {
    let (sender, first) = mpsc::channel();
    thawing().insert(domain.uuid().to_owned());
    let uuid = domain.uuid().to_owned();
    let thread = std::thread::Builder::new().name("nasbackup-thaw".to_owned()).spawn(move || {
        let begun = Instant::now();
        loop {
            // Asked anew each time: the daemon may have been restarted.
            let current = domain.again();
            let gone = matches!(&current, Ok(None)) || domain.state() == Ok(State::Other);
            let outcome = current.and_then(|current| current.unwrap_or_else(|| domain.clone()).thaw());
            if let Err(error) = &outcome {
                log::warn!("{}: {error}", domain.name());
            }
            let done = outcome.is_ok() || gone || begun.elapsed() > PATIENCE;
            if done && outcome.is_err() && !gone {
                log::error!("{}: the guest may be frozen, and nobody tries to thaw it any more", domain.name());
            }
            if done {
                // Before the outcome is known: whoever learns of it may freeze again at once.
                thawing().remove(domain.uuid());
            }
            // Only the first outcome has a reader, and it may have given up.
            let _ = sender.send(outcome);
            if done {
                return;
            }
            std::thread::sleep(PAUSE);
        }
    });
    if let Err(error) = thread {
        thawing().remove(&uuid);
        log::error!("the thread that thaws could not be started: {error}");
    }
    first
}
