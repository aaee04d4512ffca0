//! A claim on an instance's folder: a file that other hosts see where `flock` ends at the host (SMB, sshfs, an NFS with
//! `local_lock`). It names the owner and holds a counter, which a thread of the owner increments. The clocks of two hosts may
//! differ: a claim has expired when its counter did not change for a lease's time of *our* monotonic clock, or when its owner was
//! a process of this host that is dead.
//!
//! Whoever makes, changes or removes points has the writer's claim; each reader has a claim of its own. A writer that changes
//! points and a reader both make their claim before they look for the other's, so that at least one of them sees the other.
//!
//! Whoever may write on the NAS can claim a folder for good, as they can remove what is in it: then `BUSY` names the file and
//! its owner. A file that does not look like a claim delays nobody for longer than a lease.

use std::cell::RefCell;
use std::ffi::{CString, OsStr, OsString};
use std::io::Read;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, StatxFlags};
use rustix::io::Errno;

use super::claim_text::{self, LONGEST, STEP, counter, is_claim, is_of_dead_process, only_adds};
use super::folder::{Folder, MOST_NAMES};
use super::purpose::Purpose;
use crate::apart::{Apart, Descriptor};
use crate::config::FILE_MODE;
use crate::descriptor::Attributes;
use crate::error::{Code, Error, Result, called};
use crate::fs_kind::FsKind;
use crate::limits;
use crate::qcow2::Storage;
use crate::work::side_by_side::side_by_side;
use crate::{random, sys};

/// The claim of whoever makes, changes or removes points.
pub(super) const WRITER: &str = ".nasbackup.lease";
/// What the name of a reader's claim begins with.
pub(super) const READER: &str = ".nasbackup.reader-";
/// What the name of an expired claim begins with while it is removed.
const EXPIRED: &str = ".nasbackup.lease-";
pub(super) const RENEW: &str = "renew the claim";
pub(super) const GIVE_BACK: &str = "give back the claim";
pub(super) const TAKE_OVER: &str = "take over a claim";
/// How many claims the library takes over before it gives up, because somebody makes new ones all the time.
const MOST_TAKEN_OVER: usize = 2;
/// How many claims of readers the library reads at a time: more than there are hosts.
pub(super) const MOST_READERS: usize = 5_000;

/// A claim of this process.
#[derive(Debug)]
pub(super) struct Claim {
    folder: Folder,
    /// Other hosts see the folder, and nothing of it is on a device of this machine.
    is_remote: bool,
    name: String,
    owner: String,
    /// By what NFS knows its file, once that is made, and its attributes: a server gives a file's number to another one once it is removed.
    made: OnceLock<(Vec<u8>, Attributes)>,
    /// When it was renewed, by a clock that goes on while the host sleeps, unless it was found to be another's since.
    renewed: Mutex<Option<Duration>>,
    /// How often it is renewed.
    pub renewal: Duration,
    /// A claim whose counter does not change for so long has expired.
    expiry: Duration,
}

/// What was found under a claim's name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum FoundClaim {
    Gone,
    There(Vec<u8>),
}

impl Claim {
    pub(super) fn new(folder: &Folder, purpose: Purpose) -> Result<Claim> {
        let folder = folder.open_again()?;
        let found = Attributes::of(&folder, StatxFlags::empty());
        let device = found.map_err(|e| Error::io(STEP, &folder.path, e))?.device;
        let is_remote = rustix::fs::major(device) == 0;
        let id = random::hex("make a claim")?;
        let name = if purpose == Purpose::Read { format!("{READER}{id}") } else { WRITER.to_owned() };
        let owner = claim_text::owner_text(&id, purpose)?;
        let renewal = limits::within(RENEW, limits::CLAIM_RENEWAL);
        let expiry = limits::within(TAKE_OVER, limits::CLAIM);
        Ok(Claim { folder, is_remote, name, owner, made: OnceLock::new(), renewed: Mutex::default(), renewal, expiry })
    }

    /// Waits until no conflicting claim is there. Returns the other names in the folder, if it was listed for that, at once, and holds no more
    /// than are listed: nobody else makes or removes any from then on.
    pub(super) fn wait_for_conflicting(&self, purpose: Purpose, until: Instant) -> Result<Option<Vec<OsString>>> {
        match purpose {
            Purpose::Add => Ok(None),
            Purpose::Change => {
                let others = RefCell::new(Vec::new());
                let is_reader = |name: &OsStr| {
                    let is_reader = name.to_str().is_some_and(|name| name.starts_with(READER));
                    if !is_reader && others.borrow().len() <= MOST_NAMES {
                        others.borrow_mut().push(name.to_owned());
                    }
                    is_reader
                };
                let (readers, more) = self.folder.first_names_after_making(MOST_READERS, is_reader)?;
                self.take_over_stale(&readers.iter().filter_map(|name| name.to_str()).collect::<Vec<_>>(), until)?;
                // one of the others may be renewed
                if more {
                    let path = self.folder.path.join(READER);
                    let cause = format!(
                        "there were more than {MOST_READERS} '{}*'; so many had expired and are removed, the next try goes on",
                        path.display()
                    );
                    return Err(Error::new(Code::Busy, STEP, cause));
                }
                let others = others.into_inner();
                // what the readers have made meanwhile is not among them
                Ok((readers.is_empty() && others.len() <= MOST_NAMES).then_some(others))
            }
            Purpose::Read => self.take_over_stale(&[WRITER], until).map(|()| None),
        }
    }

    /// Makes the claim's file, once the one that is there is given back or has expired.
    pub(super) fn make_in_time(&self, until: Instant) -> Result<Apart> {
        for _ in 0..MOST_TAKEN_OVER {
            if let Some(file) = self.make()? {
                return Ok(file);
            }
            self.take_over_stale(&[&self.name], until)?;
        }
        self.make()?.ok_or_else(|| self.busy(&self.name, &[]))
    }

    /// Makes the claim's file; `None` if there is one.
    fn make(&self) -> Result<Option<Apart>> {
        match self.folder.create_file_for_writing_alone(&self.name, FILE_MODE) {
            Err(error) if error.code == Code::AlreadyExists => Ok(None),
            made => {
                let file = made?;
                if FsKind::in_table(&self.folder) == FsKind::Nfs
                    && let Ok(attributes) = file.with(|file| Attributes::of(file, StatxFlags::NLINK))
                    // or the server counts no names, and one that is gone could not be told
                    && attributes.links > 0
                    && let Ok(handle) = file.with(|file| sys::handle_of(file.as_fd(), c""))
                {
                    // can't fail: it is made once
                    let _ = self.made.set((handle, attributes));
                }
                let written = self.write(STEP, &file, &[counter(0).as_bytes(), self.owner.as_bytes()].concat());
                written.inspect_err(|_| self.unlink().unwrap_or_else(|error| log::warn!("{error}")))?;
                Ok(Some(file))
            }
        }
    }

    /// Counts on, unless another host has taken the claim over: `BUSY`.
    pub(super) fn renew(&self, file: &Apart, to: u64) -> Result<()> {
        self.check()?;
        self.write(RENEW, file, counter(to).as_bytes())
    }

    /// Writes to the begin of the file, and on a NAS syncs it, so that other hosts see the text, and a full NAS says so.
    fn write(&self, step: &'static str, file: &Apart, text: &[u8]) -> Result<()> {
        let now = boot_time();
        let written = file.write_at(text, 0);
        let written = written.and_then(|()| if self.is_remote { file.sync() } else { Ok(()) });
        written.map_err(|e| Error::io(step, self.path(), e))?;
        self.note_renewal(Some(now));
        Ok(())
    }

    /// `BUSY` if another host has taken the claim over.
    pub(super) fn check(&self) -> Result<()> {
        if self.is_at(&self.name)? {
            return Ok(());
        }
        self.note_renewal(None);
        Err(self.taken_over())
    }

    fn note_renewal(&self, at: Option<Duration>) {
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    fn taken_over(&self) -> Error {
        let cause = format!("another host has taken over '{}'", self.folder.path.display());
        Error::new(Code::Busy, "check the claim", cause)
    }

    /// True if our claim has this name. Whoever takes a claim over removes its file and makes another, so that on NFS the handle of what has
    /// the name tells, by one question. Elsewhere, and when in doubt, the text tells.
    fn is_at(&self, name: &str) -> Result<bool> {
        if let Some((handle, _)) = self.made.get() {
            let known_as = CString::new(name).map_err(|e| Error::io(STEP, name, e))?;
            match self.folder.handle_now(&known_as)? {
                None => return Ok(false),
                Some(now) if now == *handle => return Ok(true),
                Some(_) => {}
            }
        }
        Ok(self.is_own(&read(&self.folder, name)?))
    }

    fn is_own(&self, found: &FoundClaim) -> bool {
        matches!(found, FoundClaim::There(text) if text.get(counter(0).len()..) == Some(self.owner.as_bytes()))
    }

    /// True if it was renewed so lately that no other host takes it over for a while.
    pub(super) fn is_fresh(&self) -> bool {
        let renewed = *self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        renewed.is_some_and(|renewed| boot_time().saturating_sub(renewed) < self.expiry / 2)
    }

    /// Where its file is.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.path.join(&self.name)
    }

    /// Removes the claim, unless another host has taken it over. Its file is closed before, as NFS removes no open one.
    pub(super) fn give_back(&self, file: Option<Apart>) -> Result<()> {
        // nobody takes over one that was renewed lately; it is looked at once it has its other name in any case
        let is_fresh = self.is_fresh();
        if !is_fresh {
            self.check()?;
        }
        let known = self.made.get().filter(|_| is_fresh).map(|(_, attributes)| attributes);
        type Work<'a> = Box<dyn FnOnce() -> Option<Result<Option<String>>> + Send + 'a>;
        let close: Work<'_> = Box::new(move || {
            drop(file);
            None
        });
        let is_seen = |aside: &str| Ok((self.is_at(aside)?, Vec::new()));
        let set_aside: Work<'_> = Box::new(move || Some(self.set_aside(&self.name, known, is_seen)));
        // elsewhere a server may rename no open file
        let at_once = if self.made.get().is_some() { 2 } else { 1 };
        let done = side_by_side(GIVE_BACK, at_once, [close, set_aside], |work| work());
        match done.into_iter().flatten().next().unwrap_or(Ok(None)) {
            Err(error) if error.code == Code::Busy => Err(self.taken_over()),
            // a claim that can't be renamed may still be removed
            Err(error) => self.check().and_then(|()| self.unlink()).map_err(|_| error),
            aside => aside.map(|aside| self.remove_aside(aside)),
        }
    }

    fn unlink(&self) -> Result<()> {
        rustix::fs::unlinkat(&self.folder.fd, self.name.as_str(), AtFlags::empty())
            .map_err(|e| Error::io(GIVE_BACK, self.path(), e))
    }

    /// Reads another host's claim. Something that is not a regular file reads as empty.
    fn read_other(&self, name: &str) -> Result<FoundClaim> {
        read(&self.folder, name).or_else(|error| match self.folder.kind(name)? {
            Some(kind) if kind != FileType::RegularFile => Ok(FoundClaim::There(Vec::new())),
            _ => Err(error),
        })
    }

    /// Waits until each of these claims is gone or has expired, and removes the expired. `BUSY` when one is renewed, or is
    /// neither gone nor expired by `until`.
    fn take_over_stale(&self, names: &[&str], until: Instant) -> Result<()> {
        let since = Instant::now();
        let seen = names.iter().map(|name| Ok((*name, self.read_other(name)?))).collect::<Result<Vec<_>>>()?;
        for (name, seen) in seen {
            loop {
                let now = self.read_other(name)?;
                let Some(claim) = self.conflicting_text(&now) else { break };
                if now != seen && is_claim(claim) {
                    return Err(self.busy(name, claim));
                }
                if is_of_dead_process(claim) || since.elapsed() >= self.expiry {
                    log::warn!("removing the expired claim '{}'", self.folder.path.join(name).display());
                    let is_held = |found: &FoundClaim| matches!(found, FoundClaim::There(text) if *found != now && is_claim(text));
                    self.remove(name, |found| !is_held(found))?;
                    break;
                }
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(self.busy(name, claim));
                }
                // not beyond `until`: the caller would have given up by then, and blamed the NAS
                std::thread::sleep(left.min(self.renewal / 5));
            }
        }
        Ok(())
    }

    /// The text of a claim that conflicts with ours. A writer that only adds a point does not conflict with a reader.
    fn conflicting_text<'a>(&self, other: &'a FoundClaim) -> Option<&'a [u8]> {
        match other {
            FoundClaim::There(text) if !(self.name.starts_with(READER) && only_adds(text)) => Some(text),
            _ => None,
        }
    }

    /// Removes the claim that was seen. Renames it first, which only one of several hosts can do; gives the name back if it
    /// names another claim by now.
    fn remove(&self, name: &str, is_seen: impl FnOnce(&FoundClaim) -> bool) -> Result<()> {
        let aside = self.set_aside(name, None, |aside| {
            let found = self.read_other(aside)?;
            let seen = is_seen(&found);
            Ok((seen, if let FoundClaim::There(text) = found { text } else { Vec::new() }))
        })?;
        self.remove_aside(aside);
        Ok(())
    }

    /// Does of `remove` the renaming, and returns the name that is left to be removed, if there is one. `is_seen` tells of a name whether it is
    /// that claim, and the text of another.
    fn set_aside(
        &self,
        name: &str,
        known: Option<&Attributes>,
        is_seen: impl FnOnce(&str) -> Result<(bool, Vec<u8>)>,
    ) -> Result<Option<String>> {
        let aside = new_expired_name()?;
        match self.folder.rename_to_free(name.as_ref(), aside.as_ref(), known) {
            Err(error) if error.code == Code::NotFound => return Ok(None),
            renamed => renamed?,
        }
        let (seen, text) = is_seen(&aside).unwrap_or_default();
        if !seen {
            self.folder.rename(&aside, name)?;
            return Err(self.busy(name, &text));
        }
        Ok(Some(aside))
    }

    fn remove_aside(&self, aside: Option<String>) {
        let Some(aside) = aside else { return };
        match rustix::fs::unlinkat(&self.folder.fd, aside.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            // under its new name the claim conflicts with nobody
            Err(error) => {
                log::warn!("unable to remove '{}', leaving it: {error}", self.folder.path.join(aside).display())
            }
        }
    }

    /// The error that names the owner of a claim, and says what to do if the owner is gone.
    fn busy(&self, name: &str, claim: &[u8]) -> Error {
        let does = if only_adds(claim) { "adds a restore point" } else { "reads, changes or removes restore points" };
        let who = format!("{} {does}", claim_text::owner(claim));
        let path = self.folder.path.join(name);
        let otherwise = format!("if no such process is there, remove '{}'", path.display());
        let folder = self.folder.path.display();
        Error::new(Code::Busy, STEP, format!("another host works on '{folder}': by its claim {who}; {otherwise}"))
    }
}

/// Whose claim is on the folder, if there is one that can be read: for who is kept out by a lock that tells no owner.
pub(super) fn claimed_by(folder: &Folder) -> Option<String> {
    let is_claims = |name: &OsStr| name == WRITER || name.as_encoded_bytes().starts_with(READER.as_bytes());
    let (names, _) = folder.first_names(MOST_READERS, is_claims).ok()?;
    names.iter().find_map(|name| match read(folder, name) {
        Ok(FoundClaim::There(text)) if is_claim(&text) => Some(claim_text::owner(&text)),
        _ => None,
    })
}

/// Reads the file of a claim.
fn read(folder: &Folder, name: impl AsRef<OsStr>) -> Result<FoundClaim> {
    let (name, mut text) = (name.as_ref(), Vec::new());
    match folder.open_file_in(name) {
        Err(error) if error.code == Code::NotFound => Ok(FoundClaim::Gone),
        file => {
            let read = file?.take(LONGEST).read_to_end(&mut text);
            read.map_err(|e| Error::io(STEP, folder.path.join(name), called("read")(e)))?;
            Ok(FoundClaim::There(text))
        }
    }
}

/// The time since this host was started, that of its sleep included.
pub(super) fn boot_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(time).unwrap_or_default()
}

/// A new name for an expired claim.
fn new_expired_name() -> Result<String> {
    Ok(format!("{EXPIRED}{}", random::hex("make a claim")?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::Purpose::Change;
    use super::*;
    use crate::mutation::Random;
    use rustix::fs::OFlags;
    use std::fs;
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    pub(in super::super) const EXPIRY: Duration = Duration::from_millis(500);

    /// Longer than any lease.
    pub(in super::super) const LONG: Duration = Duration::from_secs(600);

    pub(in super::super) fn folder(dir: &Path) -> Folder {
        Folder::open_root(dir).unwrap()
    }

    /// From now on this test's claims hold no longer than `EXPIRY`.
    pub(in super::super) fn shorten_claims() {
        limits::shorten(&[RENEW], EXPIRY / 10);
        limits::shorten(&[TAKE_OVER], EXPIRY);
    }

    pub(in super::super) fn plant(dir: &Path, name: &str, host: &str, process: &str) {
        fs::write(dir.join(name), format!("{}{host}\n{process}\nclaim\n", counter(7))).unwrap();
    }

    /// A file that is no claim delays others no longer than a dead owner's claim, however often it is written.
    #[test]
    fn a_file_that_is_no_claim_is_removed_after_a_lease() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let name = dir.path().join(WRITER);
        let long = [counter(1).as_bytes(), &b"host\n1 1\nclaim\n".repeat(1 << 16)].concat();
        for text in [&b"\xff\0garbage"[..], b"00000000000000000001\n", b"1\nhost\n1 1\nid\n", &long] {
            let done = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let write = || {
                    let mut more = text.to_vec();
                    while !done.load(Relaxed) {
                        // in the way, and no claim, however it is changed
                        more.rotate_left(1);
                        fs::write(&name, [&b"x"[..], &more].concat()).unwrap();
                    }
                };
                scope.spawn(write);
                while !name.exists() {
                    std::thread::yield_now();
                }
                shorten_claims();
                let claim = Claim::new(&folder(dir.path()), Change).unwrap();
                let taken_over = claim.take_over_stale(&[WRITER], Instant::now() + LONG);
                done.store(true, Relaxed);
                taken_over.unwrap();
            });
            fs::remove_file(&name).ok();
        }
        assert!(fs::read_dir(dir.path()).unwrap().count() == 0);
    }

    /// A target of `make fuzz`: whatever is written there, it is looked at within bounds, and what is said of it is plain.
    #[test]
    fn no_claim_makes_its_reader_panic_or_hang() {
        let seconds = std::env::var("NASBACKUP_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let claim = Claim::new(&folder(dir.path()), Change).unwrap();
        let own = [counter(3).as_bytes(), claim.owner.as_bytes()].concat();
        let (begun, mut random, mut ones) = (Instant::now(), Random(7), 0);
        for round in 0_u64.. {
            if seconds.map_or(round == 3000, |seconds| begun.elapsed() >= Duration::from_secs(seconds)) {
                break;
            }
            let mut text = own.clone();
            random
                .garble(&mut text, &["\n", "\0", "adds\n", "\u{1b}[2J", "\u{202e}", "99999999999999999999", " ", ")"]);
            fs::write(dir.path().join(WRITER), &text).unwrap();
            let FoundClaim::There(seen) = read(&claim.folder, WRITER).unwrap() else { panic!("it is there") };
            assert!(seen.len() as u64 <= LONGEST);
            ones += u32::from(is_claim(&seen));
            is_of_dead_process(&seen);
            assert_eq!(claim.check().is_ok(), text.get(21..) == Some(claim.owner.as_bytes()));
            let told = claim.busy(WRITER, &seen).to_string();
            assert!(!told.contains(char::is_control) && told.len() < 4096, "{told:?}");
        }
        assert!(ones > 100, "{ones} claims: the damage is not well chosen");
    }

    /// Somebody who may write on the NAS exchanges the claim's name with somebody else's file all the time.
    #[test]
    fn a_claim_is_renewed_in_its_own_file_however_its_name_is_exchanged() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (victim, text) = (outside.path().join("victim"), b"somebody else's".repeat(10));
        fs::write(&victim, &text).unwrap();
        let claim = Claim::new(&folder(dir.path()), Change).unwrap();
        let file = claim.make().unwrap().unwrap();
        let [own, linked] = ["own", "linked"].map(|name| dir.path().join(name));
        let name = dir.path().join(WRITER);
        let exchange = || {
            fs::hard_link(&victim, &linked).unwrap();
            fs::rename(&name, &own).unwrap();
            fs::rename(&linked, &name).unwrap();
            fs::remove_file(&name).unwrap();
            fs::rename(&own, &name).unwrap();
        };
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    exchange()
                }
            });
            // while another file has its name it counts as taken over
            (0..20_000).for_each(|count| claim.renew(&file, count).unwrap_or_default());
            done.store(true, Relaxed);
        });
        assert_eq!(fs::read(&victim).unwrap(), text);
        claim.give_back(None).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    /// Through FUSE with its write-back cache a kernel reads by it the rest of a page that it has dropped.
    #[test]
    fn elsewhere_than_on_nfs_a_claim_is_renewed_by_what_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = Claim::new(&folder(dir.path()), Change).unwrap().make().unwrap().unwrap();
        assert_eq!(file.with(|file| rustix::fs::fcntl_getfl(file)).unwrap() & OFlags::ACCMODE, OFlags::RDWR);
    }

    #[test]
    fn giving_a_claim_back_removes_no_other_file_that_has_its_name_by_now() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join(WRITER);
        for _ in 0..2_000 {
            let claim = Claim::new(&folder(dir.path()), Change).unwrap();
            claim.make().unwrap().unwrap();
            let take_over = || {
                let taken = fs::rename(&name, dir.path().join("aside")).is_ok();
                taken && fs::File::create_new(&name).is_ok()
            };
            let theirs = std::thread::scope(|scope| {
                let other = scope.spawn(take_over);
                _ = claim.give_back(None);
                other.join().unwrap()
            });
            assert_eq!(name.exists(), theirs);
            fs::remove_file(&name).ok();
        }
    }

    #[test]
    fn a_claim_newer_than_the_one_seen_gets_its_name_back() {
        let dir = tempfile::tempdir().unwrap();
        let claim = Claim::new(&folder(dir.path()), Change).unwrap();
        plant(dir.path(), WRITER, "another host", "1 1");
        let older = FoundClaim::There(b"an older one".to_vec());
        assert_eq!(claim.remove(WRITER, |found| *found == older).unwrap_err().code, Code::Busy);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let seen = read(&claim.folder, WRITER).unwrap();
        claim.remove(WRITER, |found| *found == seen).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
