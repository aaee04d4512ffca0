//! Freezing and thawing the guest's file systems. The library thaws a guest that it froze on every path, and also one whose
//! agent did not answer the freeze, because the agent may freeze later. The library does not thaw a guest whose agent refused:
//! somebody else may have frozen it.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::libvirt::{Domain, State};
use crate::limits;
use crate::work::deadline::ask;

const FREEZE: &str = "freeze the guest's file systems";
const THAW: &str = "thaw the guest's file systems";

/// The domains that a thread tries to thaw, by UUID.
static THAWING: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn thawing() -> MutexGuard<'static, BTreeSet<String>> {
    THAWING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Thaws a guest that an earlier backup may have left frozen, on a thread that tries until it succeeds. True if the guest is thawed
/// now; false, at once, if another thread is thawing it.
pub(super) fn thaw_left(domain: &Domain, config: &Config) -> bool {
    if thawing().contains(domain.uuid()) {
        return false;
    }
    if let Err(error) = domain.bound_agent(config.freeze_limit()) {
        log::warn!("{}: {error}", domain.name());
    }
    let thawed = keep_thawing(domain.clone()).recv_timeout(limits::THAW);
    match &thawed {
        Ok(Ok(_)) => {
            log::warn!("{}: thawed the guest, which an earlier backup may have left frozen", domain.name())
        }
        Ok(Err(error)) => log::error!("{}: {error}", domain.name()),
        Err(_) => log::error!("{}: the guest's agent does not answer a thaw", domain.name()),
    }
    matches!(thawed, Ok(Ok(_)))
}

/// `QUIESCE_FAILED` when the guest can't be asked to freeze: it has no agent, one that is still to thaw, or one that does
/// not answer, by `until` at the latest. Such an agent is asked nothing more: it would carry it out later.
pub(super) fn check(domain: &Domain, has_agent: bool, config: &Config, until: Instant) -> Result<()> {
    let refuse = |cause| Err(Error::new(Code::QuiesceFailed, FREEZE, cause));
    if !has_agent {
        return refuse("the domain has no channel to a guest agent");
    }
    if thawing().contains(domain.uuid()) {
        return refuse("the guest's agent has not answered an earlier thaw yet");
    }
    let (since, asked) = (Instant::now(), domain.clone());
    let left = until.saturating_duration_since(since);
    // libvirt takes no bound for one of zero
    let limit = config.freeze_limit().min(left).max(limits::AGENT_LEAST);
    let answers = ask(FREEZE, left.min(limits::LIBVIRT_CALL + 2 * limit), move || {
        asked.bound_agent(limit)?;
        asked.agent_answers()
    });
    // an agent that refuses may be frozen, or forbid this very question: its answer to the freeze decides
    answers.map(drop).map_err(|error| not_frozen(domain, since, error))
}

/// The error of a guest that is not frozen, which is logged.
fn not_frozen(domain: &Domain, since: Instant, error: Error) -> Error {
    log::warn!("{}: not frozen, after {} ms: {error}", domain.name(), since.elapsed().as_millis());
    Error { code: Code::QuiesceFailed, ..error }
}

/// A frozen guest. Its drop thaws the guest.
#[derive(Debug)]
pub(super) struct Frozen {
    domain: Domain,
    since: Instant,
    /// How long the freeze took.
    freeze: Duration,
    thawed: bool,
}

impl Frozen {
    /// Freezes the guest's file systems; `QUIESCE_FAILED` when that fails, or takes until `until`. The inner error says that
    /// nothing is frozen by us. After the outer one the agent may still do it, and a thread thaws.
    pub(super) fn freeze(domain: &Domain, config: &Config, until: Instant) -> Result<Result<Frozen>> {
        let (since, frozen) = (Instant::now(), domain.clone());
        let mount_points = config.freeze_mount_points.clone();
        let limit = until.saturating_duration_since(since).min(limits::LIBVIRT_CALL + 2 * config.freeze_limit());
        // logs nothing before the thaw, because a log may be slow; a freeze that comes too late is thawed by its drop
        let frozen = ask(FREEZE, limit, move || {
            let count = match frozen.freeze(&mount_points)? {
                Ok(count) => count,
                Err(refused) => {
                    let cause = format!("the guest's agent refuses, perhaps somebody else froze it: {}", refused.cause);
                    return Ok(Err(Error { cause, ..refused }));
                }
            };
            let frozen = Frozen { domain: frozen, since, freeze: since.elapsed(), thawed: false };
            if count == 0 && !mount_points.is_empty() {
                frozen.thaw()?;
                let cause = format!("the guest has no file system at {}", mount_points.join(", "));
                return Ok(Err(Error::new(Code::QuiesceFailed, FREEZE, cause)));
            }
            Ok(Ok(frozen))
        });
        let frozen = frozen.map_err(|error| {
            // the agent may freeze later; the library does not wait, because the agent does not answer
            drop(keep_thawing(domain.clone()));
            not_frozen(domain, since, error)
        })?;
        Ok(frozen.map_err(|refused| not_frozen(domain, since, refused)))
    }

    /// Thaws the guest. After an error the guest is still frozen, and a thread goes on trying.
    pub(super) fn thaw(mut self) -> Result<()> {
        self.thaw_once()
    }

    fn thaw_once(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.thawed, true) {
            return Ok(());
        }
        let begun = Instant::now();
        let first = keep_thawing(self.domain.clone()).recv_timeout(limits::THAW);
        let thaw = begun.elapsed().as_millis();
        let frozen_for = self.since.elapsed().as_millis();
        let failed = |cause: String| Err(Error::new(Code::QuiesceFailed, THAW, cause));
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

/// Thaws the guest on its own thread, until that succeeds, the guest is gone or `THAW_PATIENCE` ends; sends the first
/// outcome.
fn keep_thawing(domain: Domain) -> mpsc::Receiver<Result<u32>> {
    let (sender, first) = mpsc::channel();
    thawing().insert(domain.uuid().to_owned());
    let uuid = domain.uuid().to_owned();
    let thread = std::thread::Builder::new().name("nasbackup-thaw".to_owned()).spawn(move || {
        let (since, mut told) = (Instant::now(), None);
        loop {
            let (state, outcome) = try_to_thaw(&domain);
            if let Err(error) = &outcome
                && told.as_ref() != Some(error)
            {
                log::warn!("{}: {error}", domain.name());
                told = Some(error.clone());
            }
            let next = next_try(state, outcome.is_ok(), since.elapsed());
            if next.is_none() && outcome.is_err() && state != Some(State::Other) {
                log::error!("{}: giving up the thaw, the guest may stay frozen: no success in an hour", domain.name());
            }
            if next.is_none() {
                // before the outcome is sent: its receiver may freeze again at once
                thawing().remove(domain.uuid());
            }
            // fails when nobody waits any more: only the first outcome is read
            let _ = sender.send(outcome);
            match next {
                Some(pause) => std::thread::sleep(pause),
                None => return,
            }
        }
    });
    if let Err(error) = thread {
        thawing().remove(&uuid);
        log::error!("unable to start the thread that thaws the guest {uuid}: {error}");
    }
    first
}

/// Tries to thaw once; returns the guest's state, too, if it is known. Does not ask a guest that does not run: its agent can't
/// answer, and libvirt waits for one answer at a time, so nobody else could ask.
fn try_to_thaw(domain: &Domain) -> (Option<State>, Result<u32>) {
    // looked up anew each time: the daemon may have been restarted
    let found = domain.again().and_then(|now| match now {
        Some(now) => Ok((now.state()?, Some(now))),
        None => Ok((State::Other, None)),
    });
    match found {
        Ok((State::Running, Some(now))) => (Some(State::Running), now.thaw()),
        Ok((state, _)) => {
            let cause = format!("{}: its file systems may be frozen", state.idle().unwrap_or("the guest does not run"));
            (Some(state), Err(Error::new(Code::QuiesceFailed, THAW, cause)))
        }
        Err(error) => (None, Err(error)),
    }
}

/// How long after a try the next follows, if any. `since` is the time since the first try.
fn next_try(state: Option<State>, thawed: bool, since: Duration) -> Option<Duration> {
    match state {
        _ if thawed || since > limits::THAW_PATIENCE => None,
        Some(State::Other) => None,
        Some(state) if state.idle().is_some() => Some(limits::THAW_IDLE_PAUSE),
        _ => Some(limits::THAW_PAUSE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thaw_is_tried_until_it_succeeds_the_guest_is_gone_or_patience_ends() {
        let (soon, late) = (Duration::from_secs(1), limits::THAW_PATIENCE + Duration::from_secs(1));
        let paused = State::Paused { io_error: true };
        for (state, thawed, since, next) in [
            (Some(State::Running), true, soon, None),
            (Some(State::Running), false, soon, Some(limits::THAW_PAUSE)),
            (None, false, soon, Some(limits::THAW_PAUSE)),
            (Some(paused), false, soon, Some(limits::THAW_IDLE_PAUSE)),
            (Some(State::Sleeping), false, soon, Some(limits::THAW_IDLE_PAUSE)),
            (Some(State::Crashed), false, soon, Some(limits::THAW_IDLE_PAUSE)),
            (Some(State::Other), false, soon, None),
            (Some(paused), false, late, None),
            (Some(State::Running), false, late, None),
        ] {
            assert_eq!(next_try(state, thawed, since), next, "{state:?} {thawed} {since:?}");
        }
    }
}
