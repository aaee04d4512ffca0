//! Freezing and thawing the guest's file systems. A guest that we froze is thawed on every path, and also one whose agent
//! did not answer the freeze: it may carry the command out later. A guest whose agent refuses is as somebody else left it,
//! and perhaps frozen by them: it is not thawed.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::CALL;
use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::libvirt::{Domain, State};
use crate::nas::deadline::ask;

const FREEZE: &str = "freeze the guest's file systems";
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
pub(super) fn thaw_left(domain: &Domain, config: &Config) -> bool {
    if thawing().contains(domain.uuid()) {
        return false;
    }
    if let Err(error) = domain.bound_agent(config.freeze_limit()) {
        log::warn!("{}: {error}", domain.name());
    }
    let thawed = keep_thawing(domain.clone()).recv_timeout(2 * config.freeze_limit());
    match &thawed {
        Ok(Ok(_)) => {
            log::warn!("{}: the guest, which an earlier backup may have left frozen, is thawed", domain.name())
        }
        Ok(Err(error)) => log::error!("{}: {error}", domain.name()),
        Err(_) => log::error!("{}: the guest's agent does not answer a thaw", domain.name()),
    }
    matches!(thawed, Ok(Ok(_)))
}

/// `QUIESCE_FAILED` when the guest can't be asked to freeze: it has no agent, one that is still to thaw, or one that does
/// not answer. Of such a one nothing may be asked that it would do later.
pub(super) fn check(domain: &Domain, has_agent: bool, config: &Config) -> Result<()> {
    let refuse = |cause| Err(Error::new(Code::QuiesceFailed, FREEZE, cause));
    if !has_agent {
        return refuse("the domain has no channel to a guest agent");
    }
    if thawing().contains(domain.uuid()) {
        return refuse("the guest's agent has not answered an earlier thaw yet");
    }
    let (since, asked, limit) = (Instant::now(), domain.clone(), config.freeze_limit());
    let answers = ask(FREEZE, CALL + 2 * limit, move || {
        asked.bound_agent(limit)?;
        asked.agent_answers()
    });
    // One that refuses may be frozen, or forbid this very question: its answer to the freeze decides.
    answers.map(drop).map_err(|error| not_frozen(domain, since, error))
}

/// The error of a guest that is not frozen, which is logged.
fn not_frozen(domain: &Domain, since: Instant, error: Error) -> Error {
    log::warn!("{}: not frozen, after {} ms: {error}", domain.name(), since.elapsed().as_millis());
    Error { code: Code::QuiesceFailed, ..error }
}

/// A frozen guest; dropped, it is thawed.
#[derive(Debug)]
pub(super) struct Frozen {
    domain: Domain,
    since: Instant,
    /// How long the freeze took.
    freeze: Duration,
    /// How long the agent may take for one answer.
    limit: Duration,
    thawed: bool,
}

impl Frozen {
    /// Freezes the guest's file systems; `QUIESCE_FAILED` when that fails. The inner error says that nothing is frozen by
    /// us. After the outer one the agent may still do it, and a thread thaws.
    pub(super) fn freeze(domain: &Domain, config: &Config) -> Result<Result<Frozen>> {
        let (since, frozen) = (Instant::now(), domain.clone());
        let (limit, mount_points) = (config.freeze_limit(), config.freeze_mount_points.clone());
        // No line is logged before the thaw: a log may be slow. One that comes too late is thawed where it is dropped.
        let frozen = ask(FREEZE, CALL + 2 * limit, move || {
            let count = match frozen.freeze(&mount_points)? {
                Ok(count) => count,
                Err(refused) => {
                    let cause = format!("the guest's agent refuses, perhaps somebody else froze it: {}", refused.cause);
                    return Ok(Err(Error { cause, ..refused }));
                }
            };
            let frozen = Frozen { domain: frozen, since, freeze: since.elapsed(), limit, thawed: false };
            if count == 0 && !mount_points.is_empty() {
                frozen.thaw()?;
                let cause = format!("the guest has no file system at {}", mount_points.join(", "));
                return Ok(Err(Error::new(Code::QuiesceFailed, FREEZE, cause)));
            }
            Ok(Ok(frozen))
        });
        let frozen = frozen.map_err(|error| {
            // Due whatever the agent says, and not waited for: it has just shown that it does not answer.
            drop(keep_thawing(domain.clone()));
            not_frozen(domain, since, error)
        })?;
        Ok(frozen.map_err(|refused| not_frozen(domain, since, refused)))
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
        let first = keep_thawing(self.domain.clone()).recv_timeout(2 * self.limit);
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
        let (mut tried_since, mut told) = (Instant::now(), None);
        loop {
            // Asked anew each time: the daemon may have been restarted.
            let current = domain.again();
            let state = domain.state();
            let gone = matches!(&current, Ok(None)) || state == Ok(State::Other);
            let outcome = current.and_then(|current| current.unwrap_or_else(|| domain.clone()).thaw());
            if let Err(error) = &outcome
                && told.as_ref() != Some(error)
            {
                log::warn!("{}: {error}", domain.name());
                told = Some(error.clone());
            }
            if state.is_ok_and(|state| state.idle().is_some()) {
                // Its agent can't answer before it wakes up.
                tried_since = Instant::now();
            }
            let done = outcome.is_ok() || gone || tried_since.elapsed() > PATIENCE;
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
