//! Which repositories do not answer. Calls on such a repository fail at once, until it answers a question that waits in the
//! background.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::mounts;
use super::repository::Export;
use crate::config::{self, Config};
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::logging::ANSWERED;
use crate::panics::caught;
use crate::work::stuck;

const STEP: &str = "open the repository";

/// A repository that did not answer.
#[derive(Debug)]
struct Mark {
    since: Instant,
    /// When the repository was last asked.
    asked: Instant,
    /// True while a question is open. There is never a second one, so that at most one thread waits.
    open: bool,
}

static MARKS: LazyLock<Mutex<HashMap<Export, Mark>>> = LazyLock::new(Mutex::default);
static CHANGED: Condvar = Condvar::new();

fn marks() -> MutexGuard<'static, HashMap<Export, Mark>> {
    MARKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Marks the repository of an operation that failed because there was no answer.
pub fn note_failure(export: &Export, error: &Error) {
    if error.code == Code::NasUnresponsive {
        mark(export);
    }
}

/// Marks a repository that did not answer, and asks it in the background.
pub fn mark(export: &Export) {
    let now = Instant::now();
    let mut marks = marks();
    if !marks.contains_key(export) {
        log::warn!(target: ANSWERED, "{export} does not answer: calls are refused until it does");
        marks.insert(export.clone(), Mark { since: now, asked: now, open: false });
        ask(&mut marks, export);
    }
}

/// `NAS_UNRESPONSIVE` for a repository that is marked and does not answer within `NAS_RECOVERED`.
pub fn check_responsive(export: &Export) -> Result<()> {
    let mut marks = marks();
    match marks.get(export) {
        None => return Ok(()),
        Some(mark) if !mark.open => ask(&mut marks, export),
        Some(_) => {}
    }
    let grace = marks
        .get(export)
        .map_or(limits::NAS_RECOVERED, |mark| limits::NAS_RECOVERED.saturating_sub(mark.asked.elapsed()));
    let is_asked = |marks: &mut HashMap<Export, Mark>| marks.get(export).is_some_and(|mark| mark.open);
    let (marks, _) = CHANGED.wait_timeout_while(marks, grace, is_asked).unwrap_or_else(PoisonError::into_inner);
    marks.get(export).map_or(Ok(()), |mark| Err(refusal(export, mark.since.elapsed(), stuck::stuck(export))))
}

fn refusal(export: &Export, since: Duration, stuck: usize) -> Error {
    let cause = format!("{export} has not answered for {} s; {stuck} earlier calls still wait", since.as_secs());
    Error::new(Code::NasUnresponsive, STEP, cause)
}

/// Asks a marked repository in the background; an answer removes the mark.
fn ask(marks: &mut HashMap<Export, Mark>, export: &Export) {
    let Some(mark) = marks.get_mut(export) else { return };
    (mark.asked, mark.open) = (Instant::now(), true);
    let (export, config) = (export.clone(), config::current());
    let begun = thread::Builder::new().name("ask the repository".to_owned()).spawn({
        let export = export.clone();
        move || await_answer(&export, &config)
    });
    if let Err(error) = begun {
        log::error!("unable to ask {export} - {error}");
        mark.open = false;
    }
}

fn await_answer(export: &Export, config: &Arc<Config>) {
    let answered = caught(|| mounts::probe(export, config));
    let mut marks = marks();
    match answered {
        Ok(()) => {
            log::info!("{export} answers again");
            marks.remove(export);
        }
        Err(error) => {
            log::warn!("{export} still does not answer: {error}");
            if let Some(mark) = marks.get_mut(export) {
                mark.open = false;
            }
        }
    }
    CHANGED.notify_all();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nas::repository::Repository;

    fn export(address: &std::path::Path) -> Export {
        let address = Some(address.to_str().unwrap().to_owned());
        Repository::check(Some(Repository { kind: Some("dir".into()), address, options: None })).unwrap()
    }

    #[test]
    fn a_repository_that_answers_is_admitted_again_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let export = export(dir.path());
        check_responsive(&export).unwrap();
        note_failure(&export, &Error::new(Code::Io, "read", "another error"));
        assert!(!marks().contains_key(&export));
        note_failure(&export, &Error::new(Code::NasUnresponsive, "read", "no answer"));
        check_responsive(&export).unwrap();
        assert!(!marks().contains_key(&export));
    }

    #[test]
    fn a_marked_repository_is_asked_again_by_each_call_and_refused_until_it_answers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("later");
        let export = export(&path);
        mark(&export);
        for _ in 0..2 {
            let error = check_responsive(&export).unwrap_err();
            assert_eq!(error.code, Code::NasUnresponsive);
            assert!(error.cause.contains("has not answered for") && error.cause.contains("later"), "{error}");
        }
        std::fs::create_dir(&path).unwrap();
        check_responsive(&export).unwrap();
    }
}
