//! Looks at a guest that boots, until it shows what is waited for, or that this won't come.

use std::time::{Duration, Instant};

use regex_lite::Regex;

use super::console::Console;
use super::machine::Machine;
use super::room::Guard;
use crate::error::{Code, Result};
use crate::libvirt::{Domain, State};
use crate::limits;
use crate::operation::reading::Reading;
use crate::operation::verify_chain::Verdict;
use crate::work::job::Reporter;

const STEP: &str = "look at the guest";

/// What is waited for.
#[derive(Debug, Clone)]
pub(super) enum Awaited {
    /// The guest's agent answers.
    Agent,
    /// The guest's console shows this.
    Console(Regex),
    /// The guest has run so long.
    Time(Duration),
}

impl Awaited {
    fn limit(&self) -> Duration {
        limits::within("boot the guest", if let Awaited::Time(time) = self { *time } else { limits::BOOT })
    }
}

/// What was seen: the verdict, and why it is not good.
pub(super) type Seen = (Verdict, Option<String>);

/// All that a guest needs which boots.
pub(super) struct Watch<'a> {
    pub(super) machine: &'a Machine,
    pub(super) guard: &'a Guard,
    pub(super) reading: &'a Reading,
}

impl Watch<'_> {
    /// Waits. An error means that nothing can be said of the point: the call was cancelled, or another host has taken this one for dead.
    pub(super) fn wait(&self, awaited: &Awaited, console: &mut Console, job: &mut Reporter<'_>) -> Result<Seen> {
        let (began, limit) = (Instant::now(), awaited.limit());
        let (mut next_look, mut next_question) = (began, began);
        loop {
            job.tell()?;
            console.read(limits::CALLER_LOOK)?;
            let is_over = began.elapsed() >= limit;
            if matches!(awaited, Awaited::Console(expression) if console.shows(expression)) {
                return Ok((Verdict::Good, None));
            }
            if Instant::now() >= next_look || is_over {
                next_look = Instant::now() + limits::JOB_LOOK;
                if let Some(seen) = self.look()? {
                    // a guest may have written, and ended, while libvirt was asked
                    console.drain()?;
                    return Ok(seen);
                }
            }
            if matches!(awaited, Awaited::Agent) && Instant::now() >= next_question {
                next_question = Instant::now() + limits::LONG_LOOK;
                // an error says that it does not answer yet; a refusal is an answer
                if self.machine.ask("ask the guest's agent", Domain::agent_answers).is_ok() {
                    return Ok((Verdict::Good, None));
                }
            }
            if is_over {
                return Ok(match awaited {
                    Awaited::Time(_) => (Verdict::Good, None),
                    Awaited::Agent => (Verdict::Bad, late("its agent has not answered", limit)),
                    Awaited::Console(_) => (Verdict::Bad, late("its console has not shown what is waited for", limit)),
                });
            }
        }
    }

    /// What ends the wait, if something does.
    fn look(&self) -> Result<Option<Seen>> {
        if let Err(error) = self.machine.folder.check() {
            return Ok(Some((Verdict::Aborted, Some(error.to_string()))));
        }
        match self.reading.check() {
            Err(error) if error.code == Code::Busy => return Err(error),
            // the guest waits for the NAS, too
            checked => checked.unwrap_or_else(|error| self.reading.note(&error)),
        }
        let state = self.machine.ask(STEP, Domain::state);
        // asked after the state: it may be the guard that has ended the guest
        if let Some(lack) = self.guard.lack() {
            return Ok(Some((Verdict::Aborted, Some(lack.to_owned()))));
        }
        match state {
            Err(error) => Ok(Some((Verdict::Aborted, Some(error.to_string())))),
            Ok(state) => Ok(judge(state, || self.reading.answers())),
        }
    }
}

fn late(what: &str, limit: Duration) -> Option<String> {
    Some(format!("{what} within {} s", limit.as_secs()))
}

/// What the guest's state tells. Why storage has failed shows in whether the NAS `answers`.
fn judge(state: State, answers: impl FnOnce() -> bool) -> Option<Seen> {
    match state {
        State::Running | State::Paused { io_error: false } => None,
        State::Paused { io_error: true } if answers() => {
            Some((Verdict::Bad, Some("a disk of the point can't be read".to_owned())))
        }
        State::Paused { io_error: true } => Some((Verdict::Aborted, Some("the NAS does not answer".to_owned()))),
        State::Sleeping | State::Crashed | State::Other => Some((Verdict::Bad, state.idle().map(str::to_owned))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_ends_is_bad_and_a_nas_that_does_is_nobody_s_fault() {
        let failed = State::Paused { io_error: true };
        for (state, answers, expected) in [
            (State::Running, true, None),
            (State::Paused { io_error: false }, true, None),
            (failed, true, Some(Verdict::Bad)),
            (failed, false, Some(Verdict::Aborted)),
            (State::Sleeping, true, Some(Verdict::Bad)),
            (State::Crashed, false, Some(Verdict::Bad)),
            (State::Other, true, Some(Verdict::Bad)),
        ] {
            let seen = judge(state, || answers);
            assert!(seen.as_ref().is_none_or(|(_, why)| why.is_some()));
            assert_eq!(seen.map(|(verdict, _)| verdict), expected, "{state:?}");
        }
    }
}
