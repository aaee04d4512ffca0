//! What an operation says of itself while it runs, for whoever counts operations by how they ended.

use std::cell::RefCell;
use std::collections::BTreeSet;

thread_local! {
    static WATCHED: RefCell<Option<Watched>> = const { RefCell::new(None) };
}

/// An operation of this thread.
#[derive(Debug, Default)]
pub struct Watched {
    /// Its name; empty before it has begun.
    pub operation: &'static str,
    /// The machine, if it is of one.
    pub machine: Option<String>,
    /// What it has found that is bad news.
    pub found: Option<&'static str>,
    /// What it did in place of what it was to do.
    pub fallbacks: BTreeSet<&'static str>,
}

/// From now on this thread's operation is watched.
pub fn watch() {
    WATCHED.set(Some(Watched::default()));
}

/// What the operation was that this thread has watched; none if none has begun.
pub fn watched() -> Option<Watched> {
    WATCHED.take().filter(|watched| !watched.operation.is_empty())
}

fn note(note: impl FnOnce(&mut Watched)) {
    WATCHED.with_borrow_mut(|watched| {
        if let Some(watched) = watched {
            note(watched);
        }
    });
}

/// The operation begins.
pub fn has_begun(operation: &'static str, machine: Option<&str>) {
    note(|watched| (watched.operation, watched.machine) = (operation, machine.map(str::to_owned)));
}

/// The operation did `to` in place of what was asked.
pub fn has_fallen_back(to: &'static str) {
    note(|watched| _ = watched.fallbacks.insert(to));
}

/// The operation has ended well, but what it found is bad news.
pub fn has_found(what: &'static str) {
    note(|watched| watched.found = Some(what));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_watched_on_its_own_thread_alone() {
        has_begun("flatten", None);
        assert!(watched().is_none(), "nobody watches");
        watch();
        assert!(watched().is_none(), "none has begun");
        watch();
        has_begun("flatten", Some("a"));
        has_found("bad");
        std::thread::scope(|scope| _ = scope.spawn(|| has_fallen_back("push")).join());
        let watched = watched().unwrap();
        assert_eq!((watched.operation, watched.found, watched.fallbacks.len()), ("flatten", Some("bad"), 0));
    }
}
