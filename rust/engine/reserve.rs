//! Room in the scratch that is taken before QEMU needs it. Free bytes of the file system are not all: a quota, of the folder or of
//! QEMU's user, is in no figure, and a guest whose old block finds no room sees its write fail. So each scratch file is given
//! blocks beyond its end, where QEMU puts the next ones, and it is the backup that meets the quota.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::config::LEAST_SCRATCH;
use crate::error::{Code, Error, Result};
use crate::sys;
use crate::user::with_rights_of;

/// What is being done.
pub(super) const STEP: &str = "keep the guest's old blocks";
/// Between two looks at the files.
const TICK: Duration = Duration::from_millis(50);
/// The guest's speed is taken over so long at least.
const SPAN: Duration = Duration::from_millis(250);
/// Room is taken for what the guest overwrites in this time at its highest speed so far.
const AHEAD: Duration = Duration::from_millis(3750);
/// Bytes that are left alone when room is taken: a file system writes about its files, too, and counts that.
const SPARE: u64 = 4 << 20;
/// Room is taken for so much at least, and at most: others need the disk, too.
const LEAST: u64 = LEAST_SCRATCH - SPARE;
const MOST: u64 = 1 << 30;

/// The scratch files of one backup.
#[derive(Debug)]
pub(super) struct Reserve {
    /// QEMU's user and group; `None`: ours.
    owner: Option<(u32, u32)>,
    /// An empty file of theirs.
    spare: File,
    spare_path: PathBuf,
    files: Mutex<Vec<Growing>>,
}

/// A scratch file.
#[derive(Debug)]
struct Growing {
    disk: String,
    path: PathBuf,
    file: File,
    growth: Growth,
    /// Why it has lost what was written to it. The kernel says that once.
    lost: Option<Error>,
}

impl Growing {
    fn failed(&self, error: io::Error) -> Error {
        failed(&self.path, error).on_disk(&self.disk)
    }
}

/// How a scratch file grows.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Growth {
    /// Bytes up to which it has room.
    end: u64,
    /// When it was looked at, and how long it was.
    seen: Option<(Instant, u64)>,
    /// Bytes a second at most by which it grew.
    rate: f64,
}

impl Growth {
    /// Takes note of the file's length.
    fn look(&mut self, now: Instant, length: u64) {
        let Some((before, had)) = self.seen else { return self.seen = Some((now, length)) };
        let time = now.duration_since(before);
        if time >= SPAN {
            self.rate = self.rate.max(length.saturating_sub(had) as f64 / time.as_secs_f64());
            self.seen = Some((now, length));
        }
    }

    /// Bytes that there has to be room for beyond its end: at least `least`, no more than `most`.
    fn ahead(&self, least: u64, most: u64) -> u64 {
        least.max((self.rate * AHEAD.as_secs_f64()) as u64).min(most)
    }

    /// Up to where a file of this length is to be given room now, if a good part of what it needs `ahead` is used up.
    fn due(&self, length: u64, ahead: u64) -> Option<u64> {
        (self.end < length + ahead / 4 * 3).then_some(length + ahead)
    }
}

impl Reserve {
    /// With no file yet; `spare` is empty and QEMU's.
    pub(super) fn new(owner: Option<(u32, u32)>, spare: File, spare_path: PathBuf) -> Reserve {
        Reserve { owner, spare, spare_path, files: Mutex::default() }
    }

    /// Adds a disk's scratch file.
    pub(super) fn add(&self, disk: &str, path: PathBuf, file: File) {
        self.files().push(Growing { disk: disk.to_owned(), path, file, growth: Growth::default(), lost: None });
    }

    /// Takes the room that is due, of `allowed` bytes for all files together. `NO_SPACE` when it is not to be had: QEMU has some
    /// left then, for the time that an abort takes.
    pub(super) fn look(&self, now: Instant, allowed: impl Fn() -> u64) -> Result<()> {
        let mut files = self.files();
        let disks = (files.len() as u64).max(1);
        let mut due = Vec::new();
        for growing in files.iter_mut() {
            let length = growing.file.metadata().map_err(|e| growing.failed(e))?.len();
            growing.growth.look(now, length);
            let ahead = |most| growing.growth.ahead(LEAST / disks, most / disks);
            if growing.growth.due(length, ahead(MOST)).is_some()
                && let Some(end) = growing.growth.due(length, ahead(MOST.min(allowed())))
            {
                due.push((growing, end));
            }
        }
        if due.is_empty() {
            return Ok(());
        }
        self.as_owner(|| {
            self.hold_spare()?;
            let taken = due.iter_mut().try_for_each(|(growing, end)| {
                take(&growing.file, growing.growth.end, *end).map_err(|e| growing.failed(e.into()))?;
                growing.growth.end = *end;
                Ok(())
            });
            let released = self.spare.set_len(0).map_err(|e| failed(&self.spare_path, e));
            taken.and(released)
        })
    }

    /// Has it kept what QEMU wrote into it, and can QEMU write more? Tried.
    pub(super) fn check(&self) -> Result<()> {
        self.check_kept()?;
        self.as_owner(|| {
            self.hold_spare()?;
            self.spare.set_len(0).map_err(|e| failed(&self.spare_path, e))
        })
    }

    /// Has the file system kept all that QEMU gave to it, as far as it has tried? A write that fails when it goes to the disk
    /// is told to nobody else.
    pub(super) fn check_kept(&self) -> Result<()> {
        self.files().iter_mut().try_for_each(|growing| {
            let failed = sys::check_writeback(&growing.file).map_err(|e| growing.failed(e)).err();
            growing.lost = growing.lost.take().or(failed);
            growing.lost.clone().map_or(Ok(()), Err)
        })
    }

    /// Keeps ahead of QEMU until the other side of `ended` is gone.
    pub(super) fn keep(&self, ended: &Receiver<()>, allowed: impl Fn() -> u64) -> Result<()> {
        while ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
            self.look(Instant::now(), &allowed)?;
            self.check_kept()?;
        }
        Ok(())
    }

    /// Has the file system count some bytes more while room is taken, so that they are there afterwards: bytes that were
    /// written and not yet sent to the disk are free again at once.
    fn hold_spare(&self) -> Result<()> {
        let held = self.spare.write_all_at(&vec![0; SPARE as usize], 0);
        held.map_err(|error| {
            self.spare.set_len(0).ok();
            failed(&self.spare_path, error)
        })
    }

    /// Does it with the rights of QEMU's user, or with ours if those can't be taken on.
    fn as_owner(&self, mut work: impl FnMut() -> Result<()> + Send) -> Result<()> {
        let Some(owner) = self.owner else { return work() };
        with_rights_of(owner, STEP, &mut work)?.unwrap_or_else(|error| {
            log::warn!("{STEP}: unable to act as user {} - {error}", owner.0);
            work()
        })
    }

    fn files(&self) -> MutexGuard<'_, Vec<Growing>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives the file blocks up to `end`, and leaves its length as it is. A file system that can't goes without.
fn take(file: &File, from: u64, end: u64) -> Result<(), Errno> {
    loop {
        match fallocate(file, FallocateFlags::KEEP_SIZE, from, end - from) {
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
            taken => return taken,
        }
    }
}

/// The error of a scratch whose file does not take what the guest overwrites.
fn failed(path: &Path, error: io::Error) -> Error {
    let error = Error::io(STEP, path, error);
    match error.code {
        Code::NoSpace => Error { cause: format!("the scratch folder is too small: {}", error.cause), ..error },
        _ => Error { code: Code::JobFailed, ..error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, chown};
    use std::process::Command;

    const MIB: u64 = 1 << 20;
    const NOBODY: (u32, u32) = (65534, 65534);

    #[test]
    fn room_is_taken_ahead_of_the_guest_s_speed() {
        let start = Instant::now();
        let mut growth = Growth { end: 60 * MIB, ..Growth::default() };
        // milliseconds, MiB of the file, MiB that are taken for it then
        for (millis, length, taken) in [
            (0, 0, None),
            (50, 10, None),
            // 12 MiB in 250 ms: 48 MiB a second for 3.75 s
            (250, 12, Some(192)),
            (300, 20, None),
            // 44 MiB in as long
            (500, 56, Some(716)),
            (550, 58, None),
            // it rests, and may go on at that speed
            (4000, 58, None),
            (4050, 250, Some(910)),
        ] {
            growth.look(start + Duration::from_millis(millis), length * MIB);
            let end = growth.due(length * MIB, growth.ahead(60 * MIB, u64::MAX));
            assert_eq!(end.map(|end| end / MIB), taken, "after {millis} ms");
            growth.end = end.unwrap_or(growth.end);
        }
        assert_eq!(growth.ahead(60 * MIB, 20 * MIB), 20 * MIB, "no more than is allowed");
    }

    /// An ext4 of so many MiB, half of which is root's alone, gone on drop.
    struct Ext4(tempfile::TempDir);

    impl Ext4 {
        fn new(mib: u64) -> Ext4 {
            let folder = tempfile::tempdir().unwrap();
            let image = tempfile::NamedTempFile::new().unwrap();
            image.as_file().set_len(mib * MIB).unwrap();
            let run = |program: &str, arguments: &[&str]| {
                assert!(Command::new(program).args(arguments).status().unwrap().success(), "{program}");
            };
            let path = image.path().to_str().unwrap();
            run("mkfs.ext4", &["-q", "-F", "-m", "50", path]);
            run("mount", &["-o", "loop", path, folder.path().to_str().unwrap()]);
            Ext4(folder)
        }

        fn file(&self, name: &str, (user, group): (u32, u32)) -> (PathBuf, File) {
            let path = self.0.path().join(name);
            let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
            chown(&path, Some(user), Some(group)).unwrap();
            (path, file)
        }

        fn reserve(&self, owner: (u32, u32), disks: &[&str]) -> Reserve {
            let (spare_path, spare) = self.file("spare", owner);
            let reserve = Reserve::new(Some(owner), spare, spare_path);
            for disk in disks {
                let (path, file) = self.file(disk, owner);
                reserve.add(disk, path, file);
            }
            reserve
        }
    }

    impl Drop for Ext4 {
        fn drop(&mut self) {
            rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
        }
    }

    #[test]
    fn room_is_taken_as_qemu_s_user_beyond_the_end_and_no_more_than_is_allowed() {
        let enough = Ext4::new(256);
        let reserve = enough.reserve(NOBODY, &["vda", "vdb"]);
        reserve.look(Instant::now(), || 20 * MIB).unwrap();
        for disk in ["vda", "vdb"] {
            let found = enough.0.path().join(disk).metadata().unwrap();
            assert_eq!((found.len(), found.blocks() * 512 / MIB), (0, 10), "{disk}");
        }
        reserve.look(Instant::now(), || u64::MAX).unwrap();
        assert_eq!(enough.0.path().join("vda").metadata().unwrap().blocks() * 512 / MIB, 30);
        assert_eq!(enough.0.path().join("spare").metadata().unwrap().len(), 0);
        reserve.check_kept().unwrap();

        // there is enough for root
        let small = Ext4::new(96);
        let error = small.reserve(NOBODY, &["vda"]).look(Instant::now(), || u64::MAX).unwrap_err();
        assert_eq!((error.code, error.disk.as_deref()), (Code::NoSpace, Some("vda")), "{error}");
        assert!(error.cause.starts_with("the scratch folder is too small"), "{error}");
    }

    #[test]
    fn what_goes_wrong_is_the_job_s_error_unless_it_is_room() {
        for (errno, code) in
            [(Errno::DQUOT, Code::NoSpace), (Errno::IO, Code::JobFailed), (Errno::ROFS, Code::JobFailed)]
        {
            let error = failed(Path::new("/s/vda.qcow2"), errno.into());
            assert!(error.code == code && error.cause.contains("'/s/vda.qcow2'"), "{error}");
        }
    }
}
