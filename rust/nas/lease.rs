//! A claim on an instance's folder that other hosts can see where `flock` ends at the host (SMB, sshfs, an NFS with
//! `local_lock`). Its file names the owner and holds a counter, which a thread of the owner's moves on. Clocks of two hosts
//! agree on nothing: a claim has expired when its counter stood still for a lease's time of *our* monotonic clock, or when
//! its owner was a process of this host that lives no more.
//!
//! A host that slept may lose its claim and not know: so the owner looks again right before each step that can't be undone.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::deadline::{self, Background};
use super::folder::{FILE_MODE, Folder};
use crate::error::{Code, Error, Result};

const NAME: &str = ".nasbackup.lease";
/// What the name of an expired one begins with while it is removed.
const EXPIRED: &str = ".nasbackup.lease-";
const STEP: &str = "claim the instance";
/// Longer than any claim; what is longer is none of ours.
const LONGEST: u64 = 512;
/// How long its thread may take to end.
const END: Duration = Duration::from_secs(1);
/// How long giving it back may take before it is left to itself.
const GIVE_BACK: Duration = Duration::from_secs(5);

/// How often a claim is renewed, and for how long it holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    renew: Duration,
    /// How long a counter has to stand still.
    pub(super) lease: Duration,
}

/// What all hosts keep to.
pub(super) const PACE: Pace = Pace { renew: Duration::from_secs(5), lease: Duration::from_secs(30) };

/// A claim; dropped, it is given back.
#[derive(Debug)]
pub(super) struct Lease {
    claim: Arc<Claim>,
    /// Its end stops the renewal.
    stop: Option<Sender<()>>,
    renewal: Background<()>,
}

/// What makes a claim this one and no other.
#[derive(Debug)]
struct Claim {
    folder: Folder,
    owner: String,
}

/// What was found in place of a claim of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Other {
    Gone,
    There(Vec<u8>),
}

impl Lease {
    /// Claims the folder. `BUSY` as soon as another's claim is seen to be renewed; one that is not makes this take as long
    /// as a lease holds.
    pub(super) fn take(folder: &Folder, pace: Pace) -> Result<Lease> {
        let fd = folder.fd.try_clone().map_err(|e| Error::io(STEP, &folder.path, e))?;
        let folder = Folder { fd, path: folder.path.clone() };
        let owner =
            format!("{}\n{}\n{}\n", host()?, process(std::process::id())?, crate::point::Manifest::new_point_id()?);
        let claim = Arc::new(Claim { folder, owner });
        while !claim.make()? {
            claim.outlive(pace)?;
        }
        let (stop, stopped) = mpsc::channel();
        let renewed = claim.clone();
        let renew = move || {
            let mut counter = 0_u64;
            while stopped.recv_timeout(pace.renew) == Err(RecvTimeoutError::Timeout) {
                counter += 1;
                if let Err(error) = renewed.renew(counter) {
                    log::warn!("{error}");
                }
            }
            // its folder is closed before the end is told: it would keep a mount busy
            drop(renewed);
            Ok(())
        };
        let renewal = deadline::start("renew the claim", renew, || ());
        let renewal = renewal.inspect_err(|_| claim.give_back().unwrap_or_else(|error| log::warn!("{error}")))?;
        Ok(Lease { claim, stop: Some(stop), renewal })
    }

    /// Is it ours still? `BUSY` when another host has taken it for expired.
    pub(super) fn check(&self) -> Result<()> {
        self.claim.check()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop = None;
        // one that hangs in the NAS ends when that answers
        let _ended = self.renewal.wait(END);
        let claim = self.claim.clone();
        if let Err(error) = deadline::bounded("give back the claim", GIVE_BACK, move || claim.give_back()) {
            log::warn!("{error}");
        }
    }
}

impl Claim {
    /// Makes the file; false when there is one.
    fn make(&self) -> Result<bool> {
        match self.folder.create_file(NAME, FILE_MODE) {
            Err(error) if error.code == Code::AlreadyExists => Ok(false),
            made => {
                let mut file = made?;
                // closed at once: that is when NFS shows it to others
                let written = file.write_all(&[counter(0).as_bytes(), self.owner.as_bytes()].concat());
                written.map(|()| true).map_err(|e| Error::io(STEP, self.folder.path.join(NAME), e))
            }
        }
    }

    fn renew(&self, to: u64) -> Result<()> {
        self.check()?;
        let io = |e: std::io::Error| Error::io("renew the claim", self.folder.path.join(NAME), e);
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.folder.fd, NAME, flags, Mode::empty()).map_err(|e| io(e.into()))?;
        std::fs::File::from(file).write_all(counter(to).as_bytes()).map_err(io)
    }

    fn check(&self) -> Result<()> {
        match self.look()? {
            Other::There(text) if text.get(counter(0).len()..) == Some(self.owner.as_bytes()) => Ok(()),
            _ => Err(Error::new(
                Code::Busy,
                "check the claim",
                format!("another host has taken over '{}'", self.folder.path.display()),
            )),
        }
    }

    fn give_back(&self) -> Result<()> {
        self.check()?;
        rustix::fs::unlinkat(&self.folder.fd, NAME, AtFlags::empty())
            .map_err(|e| Error::io("give back the claim", self.folder.path.join(NAME), e))
    }

    fn look(&self) -> Result<Other> {
        self.read(NAME)
    }

    fn read(&self, name: &str) -> Result<Other> {
        let mut text = Vec::new();
        match self.folder.open_file_in(name) {
            Err(error) if error.code == Code::NotFound => Ok(Other::Gone),
            file => {
                let read = file?.take(LONGEST).read_to_end(&mut text);
                read.map_err(|e| Error::io(STEP, self.folder.path.join(name), e))?;
                Ok(Other::There(text))
            }
        }
    }

    /// Waits until the other's claim is gone or has expired, and removes it then. `BUSY` when it is renewed.
    fn outlive(&self, pace: Pace) -> Result<()> {
        let Other::There(seen) = self.look()? else { return Ok(()) };
        let since = Instant::now();
        while !is_of_the_dead(&seen) && since.elapsed() < pace.lease {
            std::thread::sleep(pace.renew / 5);
            match self.look()? {
                Other::Gone => return Ok(()),
                Other::There(now) if now != seen => return Err(self.busy()),
                Other::There(_) => {}
            }
        }
        log::warn!("'{}' has expired and is removed", self.folder.path.join(NAME).display());
        self.remove(&seen)
    }

    /// Removes the claim that was `seen`. Of several hosts one alone can rename it; should that be a newer one by then, it
    /// gets its name back.
    fn remove(&self, seen: &[u8]) -> Result<()> {
        let aside = format!("{EXPIRED}{}", crate::point::Manifest::new_point_id()?);
        match self.folder.rename(NAME, &aside) {
            Err(error) if error.code == Code::NotFound => return Ok(()),
            renamed => renamed?,
        }
        if self.read(&aside)? != Other::There(seen.to_owned()) {
            self.folder.rename(&aside, NAME)?;
            return Err(self.busy());
        }
        match rustix::fs::unlinkat(&self.folder.fd, aside.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(Error::io(STEP, self.folder.path.join(aside), error)),
        }
    }

    fn busy(&self) -> Error {
        Error::new(Code::Busy, STEP, format!("another host works on '{}'", self.folder.path.display()))
    }
}

/// The counter as it stands at the begin of a claim: of one length, so that it can be overwritten.
fn counter(value: u64) -> String {
    format!("{value:020}\n")
}

/// This host since its start, and this name space of process ids in it.
fn host() -> Result<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(|e| Error::io(STEP, "/proc", e))?;
    let ids = std::fs::read_link("/proc/self/ns/pid").map_err(|e| Error::io(STEP, "/proc", e))?;
    Ok(format!("{} {}", boot.trim(), ids.display()))
}

/// A process of this host: its id, and when it started, in ticks (proc(5), `/proc/pid/stat`, field 22).
fn process(id: u32) -> Result<String> {
    let io = |e| Error::io(STEP, "/proc", e);
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).map_err(io)?;
    // the name before it is in brackets, and may hold anything
    let started = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19));
    let started = started.ok_or_else(|| io(std::io::ErrorKind::InvalidData.into()))?;
    Ok(format!("{id} {started}"))
}

/// Is it the claim of a process of this host that lives no more?
fn is_of_the_dead(claim: &[u8]) -> bool {
    let text = String::from_utf8_lossy(claim);
    let mut lines = text.lines().skip(1);
    let (Some(host_then), Some(process_then)) = (lines.next(), lines.next()) else { return false };
    let id = process_then.split(' ').next().and_then(|id| id.parse().ok());
    let here = host().is_ok_and(|host| host == host_then);
    here && id.is_some_and(|id| match process(id) {
        Ok(now) => now != process_then,
        Err(error) => error.code == Code::NotFound,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    const FAST: Pace = Pace { renew: Duration::from_millis(50), lease: Duration::from_millis(500) };

    fn folder(dir: &Path) -> Folder {
        Folder::open_root(dir).unwrap()
    }

    fn plant(dir: &Path, host: &str, process: &str) {
        fs::write(dir.join(NAME), format!("{}{host}\n{process}\nclaim\n", counter(7))).unwrap();
    }

    #[test]
    fn a_renewed_claim_is_busy_and_goes_when_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let lease = Lease::take(&folder(dir.path()), FAST).unwrap();
        lease.check().unwrap();
        assert_eq!(Lease::take(&folder(dir.path()), FAST).unwrap_err().code, Code::Busy);
        lease.check().unwrap();
        drop(lease);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        drop(Lease::take(&folder(dir.path()), FAST).unwrap());
    }

    #[test]
    fn another_host_s_is_outlived_by_our_clock_and_one_of_our_dead_at_once() {
        let dir = tempfile::tempdir().unwrap();
        plant(dir.path(), "another host", "1 1");
        let begun = Instant::now();
        drop(Lease::take(&folder(dir.path()), FAST).unwrap());
        assert!(begun.elapsed() >= FAST.lease);

        // a process that started at another time, and an id that nobody has
        for process in ["1 1", "4194999 1"] {
            plant(dir.path(), &host().unwrap(), process);
            drop(Lease::take(&folder(dir.path()), PACE).unwrap());
        }
        plant(dir.path(), &host().unwrap(), &process(std::process::id()).unwrap());
        let begun = Instant::now();
        drop(Lease::take(&folder(dir.path()), FAST).unwrap());
        assert!(begun.elapsed() >= FAST.lease, "it lives");
        // of a host that died before it had written anything
        fs::write(dir.path().join(NAME), "").unwrap();
        drop(Lease::take(&folder(dir.path()), FAST).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn who_was_outlived_finds_out_and_takes_nothing_away() {
        let dir = tempfile::tempdir().unwrap();
        let lease = Lease::take(&folder(dir.path()), FAST).unwrap();
        fs::remove_file(dir.path().join(NAME)).unwrap();
        assert_eq!(lease.check().unwrap_err().code, Code::Busy);
        plant(dir.path(), "another host", "1 1");
        assert_eq!(lease.check().unwrap_err().code, Code::Busy);
        let theirs = fs::read(dir.path().join(NAME)).unwrap();
        drop(lease);
        assert_eq!(fs::read(dir.path().join(NAME)).unwrap(), theirs);
    }

    #[test]
    fn a_claim_that_is_newer_than_the_one_seen_gets_its_name_back() {
        let dir = tempfile::tempdir().unwrap();
        let claim = Claim { folder: folder(dir.path()), owner: "ours".into() };
        plant(dir.path(), "another host", "1 1");
        assert_eq!(claim.remove(b"an older one").unwrap_err().code, Code::Busy);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let Other::There(seen) = claim.look().unwrap() else { panic!("it is there") };
        claim.remove(&seen).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
