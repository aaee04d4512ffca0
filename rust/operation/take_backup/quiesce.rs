//! Freezing and thawing the guest's file systems. A frozen guest is thawed on every path, and also a guest whose freeze
//! failed: its agent may carry the command out later, when it wakes up.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Code, Error, Result};
use crate::libvirt::{Domain, State};

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

/// A frozen guest; dropped, it is thawed.
#[derive(Debug)]
pub(super) struct Frozen {
    domain: Domain,
    since: Instant,
    thawed: bool,
}

impl Frozen {
    /// Freezes the guest's file systems. `QUIESCE_FAILED` when its agent does not do it in time.
    pub(super) fn freeze(domain: &Domain) -> Result<Frozen> {
        if thawing().contains(domain.uuid()) {
            let cause = "the guest's agent has not answered an earlier thaw yet";
            return Err(Error::new(Code::QuiesceFailed, "freeze the guest's file systems", cause));
        }
        domain.bound_agent(AGENT)?;
        let since = Instant::now();
        // From here on a thaw is due, whatever the agent says.
        let mut frozen = Frozen { domain: domain.clone(), since, thawed: false };
        let count = match domain.freeze() {
            Ok(count) => count,
            Err(error) => {
                // Not waited for: the agent has just shown that it does not answer.
                frozen.thawed = true;
                drop(keep_thawing(domain.clone()));
                return Err(error);
            }
        };
        log::info!("{}: {count} file systems frozen in {} ms", domain.name(), since.elapsed().as_millis());
        Ok(frozen)
    }

    /// Thaws. The error says that the guest is still frozen; a thread goes on trying.
    pub(super) fn thaw(mut self) -> Result<()> {
        self.thaw_once()
    }

    fn thaw_once(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.thawed, true) {
            return Ok(());
        }
        let first = keep_thawing(self.domain.clone()).recv_timeout(2 * AGENT);
        let frozen_for = self.since.elapsed().as_millis();
        let failed = |cause: String| Err(Error::new(Code::QuiesceFailed, "thaw the guest's file systems", cause));
        match first {
            Ok(Ok(count)) => {
                log::info!("{}: {count} file systems thawed after {frozen_for} ms", self.domain.name());
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
            let outcome = domain.thaw();
            if let Err(error) = &outcome {
                log::warn!("{}: {error}", domain.name());
            }
            let done = outcome.is_ok() || begun.elapsed() > PATIENCE || domain.state() == Ok(State::Other);
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
