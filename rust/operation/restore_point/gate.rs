//! What is changed for good passes a gate. Once it is closed nothing more begins, however late a thread comes back from where it
//! hung, and whoever has closed it knows whether something is still under way.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use crate::error::{Code, Error, Result};

#[derive(Debug, Default)]
pub(super) struct Gate {
    closed: AtomicBool,
    inside: AtomicUsize,
}

/// A change is under way until it is dropped.
#[derive(Debug)]
pub(super) struct Inside<'a>(&'a Gate);

impl Gate {
    /// `CANCELLED` once it is closed: to be asked right before each change.
    pub(super) fn enter(&self, step: &'static str) -> Result<Inside<'_>> {
        // counted before the look: either whoever closes the gate sees this change, or it is not made
        self.inside.fetch_add(1, SeqCst);
        let inside = Inside(self);
        self.check(step).map(|()| inside)
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

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, SeqCst);
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
}
