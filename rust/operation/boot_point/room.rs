//! The room for what a boot test's guest writes. It is looked at beside all else: while the NAS, libvirt or the guest's agent is waited
//! for, the guest writes on.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::thread;

use super::choice;
use crate::config::Config;
use crate::engine::scratch::Bounds;
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::work::deadline::bounded_for_host;
use crate::work::owner::keep_owner;

const STEP: &str = "look at the machine's files";

/// The room.
#[derive(Debug, Clone)]
pub(super) struct Room {
    folder: PathBuf,
    bounds: Bounds,
}

impl Room {
    /// That of the test whose files lie in this folder.
    pub(super) fn of(folder: &Path, config: &Config) -> Room {
        Room { folder: folder.to_owned(), bounds: Bounds::of(folder, config) }
    }

    /// Why the guest can write no more, if that is so.
    pub(super) fn lack(&self) -> Result<Option<String>> {
        let room = self.clone();
        bounded_for_host(STEP, limits::STORAGE_STEP, move || {
            let found = rustix::fs::statvfs(&room.folder).map_err(|e| Error::io(STEP, &room.folder, e))?;
            Ok(choice::lack(found.f_bavail.saturating_mul(found.f_frsize), room.bounds.allowed()))
        })
    }
}

/// Looks on a thread of its own, until its drop, and ends the guest once room is lacking.
#[derive(Debug)]
pub(super) struct Guard {
    lack: Arc<OnceLock<String>>,
    _stop: Sender<()>,
}

impl Guard {
    /// Begins to `look`.
    pub(super) fn begin(
        look: impl Fn() -> Result<Option<String>> + Send + 'static,
        end: impl FnOnce() + Send + 'static,
    ) -> Result<Guard> {
        let (stop, stopped) = mpsc::channel::<()>();
        let lack = Arc::new(OnceLock::new());
        let told = lack.clone();
        let watch = keep_owner(move || {
            while stopped.recv_timeout(limits::JOB_LOOK) == Err(RecvTimeoutError::Timeout) {
                if let Some(lack) = look().unwrap_or_else(|error| Some(error.to_string())) {
                    // before the guest ends, so that nobody takes that for its own doing
                    _ = told.set(lack);
                    return end();
                }
            }
        });
        let thread = thread::Builder::new().name("nasbackup-room".to_owned()).spawn(watch);
        thread.map_err(|e| Error::new(Code::Internal, STEP, e))?;
        Ok(Guard { lack, _stop: stop })
    }

    /// Why the guest was ended, if it was.
    pub(super) fn lack(&self) -> Option<&str> {
        self.lack.get().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_guest_is_ended_for_a_lack_of_room_whoever_waits_for_what_and_the_cause_is_told_before() {
        for (last, expected) in [
            (Ok(Some("it is full".to_owned())), "it is full"),
            (Err(Error::new(Code::Io, "look", "no answer")), "no answer"),
        ] {
            let (ended, end) = mpsc::channel();
            let looks = Mutex::new(vec![last, Ok(None), Ok(None)]);
            let guard = Arc::new(OnceLock::<Guard>::new());
            let seen = guard.clone();
            let begun = Guard::begin(
                move || looks.lock().unwrap().pop().unwrap(),
                move || ended.send(seen.wait().lack().unwrap().to_owned()).unwrap(),
            );
            guard.set(begun.unwrap()).unwrap();
            // nobody asks meanwhile
            let told = end.recv_timeout(LONG).unwrap();
            assert!(told.contains(expected), "{told}");
        }
    }

    #[test]
    fn whoever_drops_it_ends_its_looks() {
        let (looked, look) = mpsc::channel();
        let guard = Guard::begin(move || Ok(looked.send(()).err().map(|_| String::new())), || unreachable!());
        look.recv_timeout(LONG).unwrap();
        drop(guard);
        while look.recv_timeout(LONG).is_ok() {}
        assert!(look.recv().is_err(), "it looks on");
    }
}
