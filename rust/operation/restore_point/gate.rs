//! A thread passes the gate before each change that can't be undone. Once the gate is closed no change begins, however late a thread
//! comes back from a call that hung. Whoever has closed the gate learns from it whether a change is still under way, and which
//! storage that change waits for.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use crate::error::{Code, Error, Result};

#[derive(Debug, Default)]
pub(super) struct Gate {
    closed: AtomicBool,
    /// How many threads are in a call that the outputs' storage has to answer: changes, and some reads.
    inside: AtomicUsize,
    /// How many threads let the kernel move data from the NAS to a new file.
    moved: AtomicUsize,
}

/// A call that is under way until this is dropped.
#[derive(Debug)]
pub(super) struct Passage<'a>(&'a AtomicUsize);

impl Gate {
    /// Lets the caller make one change; `CANCELLED` once the gate is closed. The caller asks right before each change.
    pub(super) fn enter(&self, step: &'static str) -> Result<Passage<'_>> {
        // the count comes before the look: either whoever closes the gate sees this change, or the change is not made
        let inside = Passage::of(&self.inside);
        self.check(step).map(|()| inside)
    }

    /// Counts a call in which the kernel waits for the NAS or for the outputs' storage; nobody can tell for which.
    pub(super) fn move_data(&self) -> Passage<'_> {
        Passage::of(&self.moved)
    }

    /// True if the threads wait for the outputs' storage and not for the NAS. `nas_answers` is asked only where the counts don't tell.
    pub(super) fn waits_for_storage(&self, nas_answers: impl FnOnce() -> bool) -> bool {
        self.is_used() || self.moved.load(SeqCst) > 0 && nas_answers()
    }

    /// `CANCELLED` once the gate is closed.
    pub(super) fn check(&self, step: &'static str) -> Result<()> {
        if self.closed.load(SeqCst) {
            Err(Error::new(Code::Cancelled, step, "the restore was told to stop"))
        } else {
            Ok(())
        }
    }

    /// Closes the gate: no change begins any more.
    pub(super) fn close(&self) {
        self.closed.store(true, SeqCst);
    }

    /// True while a change is under way.
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
