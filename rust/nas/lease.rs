//! A claim that is renewed while its owner works. A host that slept may have lost its claim without noticing: the owner checks right
//! before each step that can't be undone.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use super::claim::{Claim, GIVE_BACK, RENEW};
use super::folder::Folder;
use super::purpose::Purpose;
use crate::apart::Apart;
use crate::error::{Code, Result};
use crate::limits;
use crate::work::background::{self, Background};
use crate::work::deadline;

/// A claim that is renewed. Its drop removes the claim.
#[derive(Debug)]
pub(super) struct Lease {
    claim: Arc<Claim>,
    /// Its drop stops the renewal.
    stop: Option<Sender<()>>,
    renewal: Background<()>,
}

impl Lease {
    /// Claims the folder. `BUSY` as soon as somebody renews a conflicting claim. Waits a lease's time for each conflicting
    /// claim that nobody renews, and `most` in all. Returns the names in the folder, too, where it was listed.
    pub(super) fn take(folder: &Folder, purpose: Purpose, most: Duration) -> Result<(Lease, Option<Vec<OsString>>)> {
        let until = Instant::now() + most;
        let claim = Arc::new(Claim::new(folder, purpose)?);
        let file = claim.make_in_time(until)?;
        let lease = Lease::start_renewal(claim, file)?;
        let names = lease.claim.wait_for_conflicting(purpose, until)?;
        Ok((lease, names))
    }

    /// Starts the thread that renews the claim through its open file: its name may name somebody else's file by then. In the end it
    /// removes the claim, also when its NAS answers only after everybody else has given up.
    fn start_renewal(claim: Arc<Claim>, file: Apart) -> Result<Lease> {
        let (stop, stopped) = mpsc::channel();
        let renewed = claim.clone();
        let renew = move || {
            let (mut counter, mut told) = (0_u64, None);
            while stopped.recv_timeout(renewed.renewal) == Err(RecvTimeoutError::Timeout) {
                counter += 1;
                let failed = renewed.renew(&file, counter).err().map(|error| error.code);
                if failed != told
                    && let Some(code) = failed
                {
                    log::warn!("unable to renew the claim '{}', trying again: {code}", renewed.path().display());
                }
                told = failed;
            }
            renewed.give_back(Some(file))
        };
        let renewal = background::start(RENEW, renew, || ());
        let renewal = renewal.inspect_err(|_| claim.give_back(None).unwrap_or_else(|error| log::warn!("{error}")))?;
        Ok(Lease { claim, stop: Some(stop), renewal })
    }

    /// `BUSY` if another host has taken the claim over.
    pub(super) fn check(&self) -> Result<()> {
        self.claim.check()
    }

    /// True if it was renewed so lately that no other host takes it over for a while.
    pub(super) fn is_fresh(&self) -> bool {
        self.claim.is_fresh()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop = None;
        let limit = limits::within(GIVE_BACK, limits::CLAIM_REMOVAL);
        let late = || Err(deadline::no_answer(Code::NasUnresponsive, GIVE_BACK, limit));
        if let Err(error) = self.renewal.wait(limit).unwrap_or_else(late) {
            log::warn!("{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::claim::tests::{EXPIRY, LONG, folder, plant, shorten_claims};
    use super::super::claim::{MOST_READERS, READER, WRITER};
    use super::super::claim_text::{counter, host_identity, process_identity};
    use super::Purpose::{Add, Change, Read};
    use super::*;
    use crate::work::owner::WorkFor;
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;
    use std::sync::RwLock;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    fn take(dir: &Path, purpose: Purpose) -> Result<Lease> {
        shorten_claims();
        Lease::take(&folder(dir), purpose, LONG).map(|(lease, _)| lease)
    }

    #[test]
    fn a_renewed_claim_is_busy_and_goes_when_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let lease = take(dir.path(), Change).unwrap();
        lease.check().unwrap();
        assert_eq!(take(dir.path(), Change).unwrap_err().code, Code::Busy);
        lease.check().unwrap();
        drop(lease);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        drop(take(dir.path(), Change).unwrap());
    }

    #[test]
    fn a_claim_goes_while_no_more_threads_may_start_for_its_nas() {
        let _on = WorkFor::repository("nfs 'full:/'");
        let dir = tempfile::tempdir().unwrap();
        let lease = take(dir.path(), Read).unwrap();
        let gate = Arc::new(RwLock::new(()));
        let closed = gate.write().unwrap();
        let hung = (0..16).map(|_| {
            let gate = gate.clone();
            background::start("hang", move || Ok(gate.read().is_ok()), || ()).unwrap()
        });
        hung.for_each(drop);
        assert!(background::start("work", || Ok(()), || ()).is_err());
        drop(lease);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        drop(closed);
    }

    #[test]
    fn without_time_to_take_a_claim_over_the_error_names_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        for (purpose, name) in [(Add, WRITER), (Change, WRITER), (Read, WRITER), (Change, ".nasbackup.reader-1")] {
            plant(dir.path(), name, "another boot", "77 1");
            let error = Lease::take(&folder(dir.path()), purpose, Duration::ZERO).unwrap_err();
            assert!(
                error.code == Code::Busy && error.cause.contains("(boot id another boot, process 77 1)"),
                "{error}"
            );
            // the claim is left to who has the time, and none of ours stays
            let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(left, [name]);
            fs::remove_file(dir.path().join(name)).unwrap();
        }
    }

    /// Also when the next look would come much later.
    #[test]
    fn a_wait_for_a_claim_ends_with_a_last_look_when_its_time_is_over() {
        let dir = tempfile::tempdir().unwrap();
        plant(dir.path(), WRITER, "another boot", "77 1");
        let error = Lease::take(&folder(dir.path()), Add, Duration::from_millis(50)).unwrap_err();
        assert!(error.code == Code::Busy && error.cause.contains("(boot id another boot"), "{error}");
    }

    #[test]
    fn a_reader_conflicts_with_a_change_and_not_with_readers_or_an_add() {
        for (first, second, together) in [
            (Read, Read, true),
            (Read, Add, true),
            (Add, Read, true),
            (Read, Change, false),
            (Change, Read, false),
            (Add, Change, false),
            (Change, Add, false),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let held = take(dir.path(), first).unwrap();
            let other = take(dir.path(), second);
            assert_eq!(other.is_ok(), together, "{first:?}, then {second:?}");
            assert!(other.as_ref().err().is_none_or(|error| error.code == Code::Busy), "{other:?}");
            held.check().unwrap();
            drop((held, other));
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn more_readers_claims_than_are_read_at_a_time_are_busy_until_all_are_removed() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        plant(dir.path(), "dead", &host_identity().unwrap(), "1 1");
        let reader = |n: u32| dir.path().join(format!("{READER}{n}"));
        (0..50_001).for_each(|n| fs::hard_link(dir.path().join("dead"), reader(n)).unwrap());
        for stay in [45_001, 40_001] {
            let error = take(dir.path(), Change).unwrap_err();
            assert!(error.code == Code::Busy && error.cause.contains("the next try"), "{error}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), stay + 1);
        }
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        left.iter().skip(MOST_READERS).for_each(|path| fs::remove_file(path).unwrap());
        drop(take(dir.path(), Change).unwrap());
    }

    #[test]
    fn names_that_no_reader_gives_its_claim_keep_nobody_out_however_many() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        fs::write(dir.path().join("planted"), "").unwrap();
        for n in 0..=MOST_READERS {
            let name = [READER.as_bytes(), b"\xff", n.to_string().as_bytes()].concat();
            fs::hard_link(dir.path().join("planted"), dir.path().join(OsStr::from_bytes(&name))).unwrap();
        }
        take(dir.path(), Change).unwrap();
    }

    #[test]
    fn claims_of_dead_readers_are_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let planted = |n: u32| format!("{READER}{n}");
        plant(dir.path(), &planted(1), "another host", "1 1");
        plant(dir.path(), &planted(2), &host_identity().unwrap(), "1 1");
        let begun = Instant::now();
        drop(take(dir.path(), Add).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "they are nothing to who adds");
        drop(take(dir.path(), Change).unwrap());
        assert!(begun.elapsed() >= EXPIRY);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        plant(dir.path(), WRITER, "another host", "1 1");
        let begun = Instant::now();
        drop(take(dir.path(), Read).unwrap());
        assert!(begun.elapsed() >= EXPIRY);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn another_host_s_claim_expires_by_our_clock_and_a_dead_process_s_at_once() {
        let dir = tempfile::tempdir().unwrap();
        // a process that started at another time, and an id that nobody has
        for process in ["1 1", "4194999 1"] {
            plant(dir.path(), WRITER, &host_identity().unwrap(), process);
            drop(Lease::take(&folder(dir.path()), Change, Duration::ZERO).unwrap());
        }
        plant(dir.path(), WRITER, "another host", "1 1");
        let begun = Instant::now();
        drop(take(dir.path(), Change).unwrap());
        assert!(begun.elapsed() >= EXPIRY);
        plant(dir.path(), WRITER, &host_identity().unwrap(), &process_identity(std::process::id()).unwrap());
        let begun = Instant::now();
        drop(take(dir.path(), Change).unwrap());
        assert!(begun.elapsed() >= EXPIRY, "it lives");
        // of a host that died before it had written anything
        fs::write(dir.path().join(WRITER), "").unwrap();
        drop(take(dir.path(), Change).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_lost_lease_is_reported_and_the_new_owner_s_claim_stays() {
        let dir = tempfile::tempdir().unwrap();
        // renewed lately until the end
        let (lease, _) = Lease::take(&folder(dir.path()), Change, LONG).unwrap();
        fs::remove_file(dir.path().join(WRITER)).unwrap();
        assert_eq!(lease.check().unwrap_err().code, Code::Busy);
        plant(dir.path(), WRITER, "another host", "1 1");
        assert_eq!(lease.check().unwrap_err().code, Code::Busy);
        // a rename sets the time as well: it would not be missed by its owner for a moment
        let found = |name| {
            let found = fs::metadata(dir.path().join(name)).unwrap();
            (found.ctime(), found.ctime_nsec())
        };
        let (theirs, since) = (fs::read(dir.path().join(WRITER)).unwrap(), found(WRITER));
        while {
            fs::write(dir.path().join("clock"), "").unwrap();
            found("clock") == since
        } {}
        drop(lease);
        assert_eq!((fs::read(dir.path().join(WRITER)).unwrap(), found(WRITER)), (theirs, since));
    }

    #[test]
    fn what_is_no_regular_file_is_renamed_out_of_the_way() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let name = dir.path().join(WRITER);
        let plants: [&dyn Fn(); 3] = [
            &|| fs::create_dir(&name).unwrap(),
            &|| std::os::unix::fs::symlink("/etc/passwd", &name).unwrap(),
            &|| {
                let mode = rustix::fs::Mode::RWXU;
                rustix::fs::mknodat(rustix::fs::CWD, &name, rustix::fs::FileType::Fifo, mode, 0).unwrap();
            },
        ];
        for plant in plants {
            plant();
            let lease = take(dir.path(), Change).unwrap();
            assert!(fs::symlink_metadata(&name).unwrap().is_file());
            drop(lease);
            assert!(!name.exists());
        }
    }

    #[test]
    fn somebody_who_makes_claims_all_the_time_is_named_in_the_error() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let claim = |number| format!("{}boot pid\n7 8\nid{number}\nforged\u{1b}[2J\n", counter(number));
        let renewed = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0.. {
                    // whole, as a rename makes it
                    fs::write(dir.path().join("new"), claim(number)).unwrap();
                    fs::rename(dir.path().join("new"), dir.path().join(WRITER)).unwrap();
                    if renewed.load(Relaxed) {
                        break;
                    }
                }
            });
            while !dir.path().join(WRITER).exists() {
                std::thread::yield_now();
            }
            let error = take(dir.path(), Change).unwrap_err();
            renewed.store(true, Relaxed);
            let told = error.to_string();
            assert_eq!(error.code, Code::Busy, "{told}");
            for part in ["host 'forged\\u{1b}[2J' (boot id boot pid, process 7 8)", "remove '", WRITER] {
                assert!(told.contains(part), "{part} is not in {told}");
            }
        });
    }
}
