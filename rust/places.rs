//! Places for the backups that run at the same time.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

/// The places of this host's backups.
pub(crate) static BACKUPS: Places = Places::new();

/// How many places are taken. Nobody waits for one here: that would take a thread of the caller's for hours.
#[derive(Debug)]
pub(crate) struct Places(AtomicUsize);

/// A place; dropped, it is free again.
#[derive(Debug)]
pub(crate) struct BackupPlace<'a>(&'a Places);

impl Places {
    const fn new() -> Places {
        Places(AtomicUsize::new(0))
    }

    /// One of `places`; `None` when all of them are taken.
    pub(crate) fn take(&self, places: usize) -> Option<BackupPlace<'_>> {
        let one_more = |taken| (taken < places).then_some(taken + 1);
        self.0.fetch_update(Relaxed, Relaxed, one_more).ok().map(|_| BackupPlace(self))
    }
}

impl Drop for BackupPlace<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_given_back_is_the_next_one_s() {
        let places = Places::new();
        let first = places.take(2).unwrap();
        let _second = places.take(2).unwrap();
        assert!(places.take(2).is_none());
        drop(first);
        let _third = places.take(2).unwrap();
        assert!(places.take(2).is_none());
    }

    #[test]
    fn more_places_let_more_in_and_fewer_end_nothing() {
        let places = Places::new();
        let _first = places.take(1).unwrap();
        let second = places.take(2).unwrap();
        assert!(places.take(1).is_none());
        drop(second);
        assert!(places.take(1).is_none());
    }
}
