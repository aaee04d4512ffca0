//! What is changed for good passes a gate. Once it is closed nothing more begins, however late a thread comes back from where it
//! hung, and whoever has closed it knows whether something is still under way, and what is waited for.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use crate::error::{Code, Error, Result};

#[derive(Debug, Default)]
pub(super) struct Gate {
    closed: AtomicBool,
    /// Changes that are under way, and what else the outputs' storage is asked for.
    inside: AtomicUsize,
    /// What the kernel moves by itself from the NAS to a new file.
    moved: AtomicUsize,
}

/// It is under way until it is dropped.
#[derive(Debug)]
pub(super) struct Passage<'a>(&'a AtomicUsize);

impl Gate {
    /// `CANCELLED` once it is closed: to be asked right before each change.
    pub(super) fn enter(&self, step: &'static str) -> Result<Passage<'_>> {
        // counted before the look: either whoever closes the gate sees this change, or it is not made
        let inside = Passage::of(&self.inside);
        self.check(step).map(|()| inside)
    }

    /// Until it is dropped the NAS or the outputs' storage has to answer: nobody knows which of them the kernel waits for.
    pub(super) fn move_data(&self) -> Passage<'_> {
        Passage::of(&self.moved)
    }

    /// Is it the outputs' storage that is waited for, and not the NAS? `nas_answers` is asked where nothing else tells.
    pub(super) fn waits_for_storage(&self, nas_answers: impl FnOnce() -> bool) -> bool {
        self.is_used() || self.moved.load(SeqCst) > 0 && nas_answers()
    }

    /// `CANCELLED` once it is closed.
    pub(super) fn check(&self, step: &'static str) -> Result<()> {
        if self.closed.load(SeqCst) { Err(Error::new(Code::Cancelled, step, "it was told to stop")) } else { Ok(()) }
    }

    /// Nothing begins any more.
    pub(super) fn close(&self) {
        self.closed.store(true, SeqCst);
    }

    /// Is a change under way?
    pub(super) fn is_used(&self) -> bool {
        self.inside.load(SeqCst) > 0
    }
}

impl Passage<'_> {
    fn of(count: &AtomicUsize) -> Passage<'_> {
        count.fetch_add(1, SeqCst);
        Passage(count)
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_begins_once_it_is_closed_and_what_has_begun_is_known() {
        let gate = Gate::default();
        let inside = gate.enter("copy").unwrap();
        assert!(gate.is_used());
        gate.close();
        assert_eq!(gate.enter("copy").unwrap_err().code, Code::Cancelled);
        assert!(gate.is_used());
        drop(inside);
        assert!(!gate.is_used() && gate.enter("copy").is_err() && !gate.is_used());
    }

    #[test]
    fn the_nas_is_what_does_not_answer_unless_it_is_the_outputs_storage() {
        let (gate, well, hung) = (Gate::default(), || true, || false);
        assert!(!gate.waits_for_storage(well));
        let moved = gate.move_data();
        assert!(gate.waits_for_storage(well) && !gate.waits_for_storage(hung) && !gate.is_used());
        let inside = gate.enter("copy").unwrap();
        assert!(gate.waits_for_storage(hung));
        drop((moved, inside));
        assert!(!gate.waits_for_storage(well));
    }
}
