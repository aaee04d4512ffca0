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

use super::job::POLL;
use crate::config::LEAST_SCRATCH;
use crate::error::{Code, Error, Result};
use crate::sys;
use crate::user::as_user;

/// What is being done.
pub(super) const STEP: &str = "keep the guest's old blocks";
/// Between two looks at the files.
const TICK: Duration = Duration::from_millis(50);
/// How long an abort takes until nothing more comes into the scratch.
const ABORT: Duration = Duration::from_secs(1);
/// There has to be room for what the guest overwrites in this time at its highest speed so far: until the next look and through
/// an abort, at three times that speed.
pub(super) const AHEAD: Duration = POLL.saturating_add(ABORT).saturating_mul(3);
/// Bytes that are left alone when room is taken: a file system writes about its files, too, and counts that.
const SPARE: u64 = 4 << 20;
/// Bytes written at once into the spare file.
const PIECE: u64 = 128 << 10;
/// Room is taken for so much at least, and at most, of all disks together: others need the disk, too.
const LEAST: u64 = LEAST_SCRATCH - SPARE;
const MOST: u64 = 1 << 30;

/// The scratch files of one backup.
#[derive(Debug)]
pub(super) struct Reserve {
    /// QEMU's user and group; `None`: ours.
    owner: Option<(u32, u32)>,
    /// A file of theirs that is empty unless room is being taken.
    spare: File,
    spare_path: PathBuf,
    files: Mutex<Files>,
}

/// The scratch files, and how they grow.
#[derive(Debug, Default)]
struct Files {
    files: Vec<ScratchFile>,
    growth: Growth,
}

/// A scratch file.
#[derive(Debug)]
struct ScratchFile {
    disk: String,
    path: PathBuf,
    file: File,
    /// Why it has lost what was written to it. The kernel says that once.
    lost: Option<Error>,
}

impl ScratchFile {
    fn failed(&self, error: io::Error) -> Error {
        failed(&self.path, error).on_disk(&self.disk)
    }
}

/// The highest speed at which something has grown.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Speed {
    /// When it was looked at, and how much it was.
    seen: Option<(Instant, u64)>,
    /// Bytes a second.
    most: f64,
}

impl Speed {
    /// Takes note of how much it is. A speed is taken over some time: else one write is a high one.
    pub(super) fn observe(&mut self, now: Instant, bytes: u64) {
        let Some((before, had)) = self.seen else { return self.seen = Some((now, bytes)) };
        let time = now.duration_since(before);
        if time >= POLL {
            self.most = self.most.max(bytes.saturating_sub(had) as f64 / time.as_secs_f64());
            self.seen = Some((now, bytes));
        }
    }

    /// Bytes a second.
    pub(super) fn most(&self) -> u64 {
        self.most as u64
    }

    /// Bytes for which there has to be room.
    pub(super) fn ahead(&self) -> u64 {
        (self.most * AHEAD.as_secs_f64()) as u64
    }
}

/// How the scratch files grow, one by one and together.
#[derive(Debug, Default)]
struct Growth {
    parts: Vec<FileGrowth>,
    all: Speed,
}

/// How one of them grows.
#[derive(Debug, Default, Clone, Copy)]
struct FileGrowth {
    /// How long it was at first, and is.
    first: Option<u64>,
    length: u64,
    /// Bytes up to which it has room.
    end: u64,
    speed: Speed,
}

impl FileGrowth {
    /// Bytes of room beyond its end.
    fn held(&self) -> u64 {
        self.end.saturating_sub(self.length)
    }
}

impl Growth {
    /// Takes note of the files' lengths.
    fn observe(&mut self, now: Instant, lengths: &[u64]) {
        self.parts.resize_with(lengths.len(), FileGrowth::default);
        for (part, length) in self.parts.iter_mut().zip(lengths) {
            part.first.get_or_insert(*length);
            part.length = *length;
            part.speed.observe(now, *length);
        }
        self.all.observe(now, lengths.iter().sum());
    }

    /// Room that there is to be beyond the ends of all files together: no more than `most`.
    fn wanted(&self, most: u64) -> u64 {
        self.all.ahead().max(LEAST).min(most)
    }

    /// The files that are to be given room now, because a good part of it is used up, and up to where. Half of what all may hold
    /// is shared out evenly; of the other half each that grows takes what its own speed asks for.
    fn due(&self, most: u64) -> Vec<(usize, u64)> {
        let wanted = self.wanted(most);
        let shares = |bytes: u64| if self.parts.len() < 2 { bytes } else { bytes / 2 / self.parts.len() as u64 };
        let (share, idle) = (shares(wanted), shares(wanted.min(LEAST)));
        let mut held: u64 = self.parts.iter().map(|part| part.held().max(share)).sum();
        let mut due = Vec::new();
        for (i, part) in self.parts.iter().enumerate() {
            let others = held - part.held().max(share);
            let grows = part.first != Some(part.length);
            let asked = if grows { part.speed.ahead().max(LEAST) } else { idle };
            let ahead = asked.min(wanted.saturating_sub(others).max(share));
            if part.end < part.length + ahead / 4 * 3 {
                held = others + ahead.max(share);
                due.push((i, part.length + ahead));
            }
        }
        due
    }

    /// What is held of the least room is less by so much, while it is not known which of several files will grow.
    fn unshared(&self, due: &[(usize, u64)], most: u64) -> u64 {
        let held: u64 = self.parts.iter().map(FileGrowth::held).sum();
        let taken: u64 = due.iter().map(|(i, end)| end - self.parts[*i].end.max(self.parts[*i].length)).sum();
        LEAST.min(most).saturating_sub(held + taken)
    }
}

impl Reserve {
    /// With no file yet; `spare` is empty and QEMU's.
    pub(super) fn new(owner: Option<(u32, u32)>, spare: File, spare_path: PathBuf) -> Reserve {
        Reserve { owner, spare, spare_path, files: Mutex::default() }
    }

    /// Adds a disk's scratch file.
    pub(super) fn add(&self, disk: &str, path: PathBuf, file: File) {
        self.files().files.push(ScratchFile { disk: disk.to_owned(), path, file, lost: None });
    }

    /// Takes the room that is due, of `allowed` bytes for all files together. `NO_SPACE` when it is not to be had: QEMU has some
    /// left then, for the time that an abort takes.
    pub(super) fn take_due_room(&self, now: Instant, allowed: impl Fn() -> u64) -> Result<()> {
        let mut locked = self.files();
        let Files { files, growth } = &mut *locked;
        let length =
            |growing: &ScratchFile| growing.file.metadata().map_err(|e| growing.failed(e)).map(|found| found.len());
        growth.observe(now, &files.iter().map(length).collect::<Result<Vec<_>>>()?);
        if growth.due(MOST).is_empty() {
            return Ok(());
        }
        let most = MOST.min(allowed());
        let due = growth.due(most);
        if due.is_empty() {
            return Ok(());
        }
        let first = &files[due[0].0].disk;
        self.as_owner(|| {
            self.fill_spare(SPARE + growth.unshared(&due, most)).map_err(|e| e.on_disk(first))?;
            let taken = due.iter().try_for_each(|(i, end)| {
                let (growing, part) = (&files[*i], &mut growth.parts[*i]);
                take(&growing.file, part.end, *end).map_err(|e| growing.failed(e.into()))?;
                part.end = *end;
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
            self.fill_spare(SPARE)?;
            self.spare.set_len(0).map_err(|e| failed(&self.spare_path, e))
        })
    }

    /// Has the file system kept all that QEMU gave to it, as far as it has tried? A write that fails when it goes to the disk
    /// is told to nobody else.
    pub(super) fn check_kept(&self) -> Result<()> {
        self.files().files.iter_mut().try_for_each(|growing| {
            let failed = sys::check_writeback(&growing.file).map_err(|e| growing.failed(e)).err();
            growing.lost = growing.lost.take().or(failed);
            growing.lost.clone().map_or(Ok(()), Err)
        })
    }

    /// Keeps ahead of QEMU until the other side of `ended` is gone.
    pub(super) fn keep_ahead(&self, ended: &Receiver<()>, allowed: impl Fn() -> u64) -> Result<()> {
        while ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
            self.take_due_room(Instant::now(), &allowed)?;
            self.check_kept()?;
        }
        Ok(())
    }

    /// Has the file system count some bytes more while room is taken, so that they are there afterwards: bytes that were
    /// written and not yet sent to the disk are free again at once.
    fn fill_spare(&self, bytes: u64) -> Result<()> {
        let piece = [0; PIECE as usize];
        let mut pieces = (0..bytes).step_by(piece.len());
        let held = pieces.try_for_each(|at| self.spare.write_all_at(&piece[..(bytes - at).min(PIECE) as usize], at));
        held.map_err(|error| {
            self.spare.set_len(0).ok();
            failed(&self.spare_path, error)
        })
    }

    /// Does it with the rights of QEMU's user: room that root gets is none that the guest has.
    fn as_owner(&self, work: impl FnOnce() -> Result<()> + Send) -> Result<()> {
        match self.owner {
            Some(owner) => as_user(owner, STEP, work)?,
            None => work(),
        }
    }

    fn files(&self) -> MutexGuard<'_, Files> {
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

    use crate::user::unable_to_act;

    const MIB: u64 = 1 << 20;
    const NOBODY: (u32, u32) = (65534, 65534);

    /// Has the files grow by so many MiB each at these quarters of a second; the MiB that each holds beyond its end then.
    fn grow(growth: &mut Growth, start: Instant, quarters: u32, lengths: &[u64], most: u64) -> Vec<u64> {
        let lengths: Vec<_> = lengths.iter().map(|length| length * MIB).collect();
        growth.observe(start + quarters * POLL, &lengths);
        for (i, end) in growth.due(most) {
            growth.parts[i].end = end;
        }
        growth.parts.iter().map(|part| part.held() / MIB).collect()
    }

    #[test]
    fn room_is_taken_ahead_of_the_guest_s_speed() {
        let start = Instant::now();
        let mut growth = Growth::default();
        // quarters of a second, MiB of the file, MiB of room beyond its end then
        for (quarters, length, held) in [
            (0, 0, 60),
            // 48 MiB a second for 3.75 s
            (1, 12, 180),
            (2, 24, 168),
            // 176 MiB a second
            (3, 68, 660),
            // it rests, and may go on at that speed
            (16, 68, 660),
            (17, 109, 619),
            // no more than is to be had
            (18, 1109, 1024),
        ] {
            assert_eq!(grow(&mut growth, start, quarters, &[length], MOST), [held], "at {quarters}");
        }
        assert_eq!(growth.wanted(20 * MIB), 20 * MIB, "no more than is allowed");
    }

    #[test]
    fn what_is_held_for_several_disks_is_bounded_by_the_speed_of_all_together() {
        // how many MiB each of the disks grows by in each quarter of a second, MiB that each holds at the end
        let burst = |disk: usize| {
            let mut by = vec![0; 8];
            by[disk] = 50;
            by
        };
        let cases = [
            ("nothing grows", vec![vec![0; 30]; 3], vec![1; 30]),
            ("one begins", vec![[vec![1], vec![0; 29]].concat()], [vec![31], vec![1; 29]].concat()),
            ("all at one speed", vec![vec![0; 4], vec![13; 4], vec![13; 4], vec![13; 4]], vec![169; 4]),
            ("one after the other", (0..8).map(burst).collect(), vec![421, 46, 46, 46, 46, 46, 46, 46]),
        ];
        for (case, steps, expected) in cases {
            let (start, mut growth) = (Instant::now(), Growth::default());
            let mut lengths = vec![0; expected.len()];
            grow(&mut growth, start, 0, &lengths, MOST);
            let mut held = Vec::new();
            for (quarters, by) in (1..).zip(steps) {
                lengths.iter_mut().zip(by).for_each(|(length, by)| *length += by);
                held = grow(&mut growth, start, quarters, &lengths, MOST);
                assert!(held.iter().sum::<u64>() <= growth.wanted(MOST) / MIB, "{case}: {held:?}");
            }
            assert_eq!(held, expected, "{case}");
        }
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
    #[ignore = "needs a lab: root, QEMU"]
    fn room_is_taken_as_qemu_s_user_beyond_the_end_and_no_more_than_is_allowed() {
        let enough = Ext4::new(256);
        let reserve = enough.reserve(NOBODY, &["vda", "vdb"]);
        reserve.take_due_room(Instant::now(), || 20 * MIB).unwrap();
        for disk in ["vda", "vdb"] {
            let found = enough.0.path().join(disk).metadata().unwrap();
            assert_eq!((found.len(), found.blocks() * 512 / MIB), (0, 5), "{disk}");
        }
        reserve.take_due_room(Instant::now(), || u64::MAX).unwrap();
        assert_eq!(enough.0.path().join("vda").metadata().unwrap().blocks() * 512 / MIB, 15);
        assert_eq!(enough.0.path().join("spare").metadata().unwrap().len(), 0);
        reserve.check_kept().unwrap();

        // nor as anybody else
        let other = Ext4::new(256);
        let reserve = other.reserve(NOBODY, &["vda"]);
        let error = unable_to_act(|| reserve.take_due_room(Instant::now(), || u64::MAX)).unwrap_err();
        assert!(error.code == Code::PermissionDenied && error.cause.starts_with("unable to act as"), "{error}");
        assert_eq!(other.0.path().join("vda").metadata().unwrap().blocks(), 0);

        // there is enough for root
        let small = Ext4::new(96);
        let error = small.reserve(NOBODY, &["vda"]).take_due_room(Instant::now(), || u64::MAX).unwrap_err();
        assert_eq!((error.code, error.disk.as_deref()), (Code::NoSpace, Some("vda")), "{error}");
        assert!(error.cause.starts_with("the scratch folder is too small"), "{error}");

        // there is not even what is left alone
        let full = Ext4::new(7);
        let error = full.reserve(NOBODY, &["vda"]).take_due_room(Instant::now(), || u64::MAX).unwrap_err();
        assert_eq!((error.code, error.disk.as_deref()), (Code::NoSpace, Some("vda")), "{error}");
        assert!(error.cause.contains("/spare'"), "{error}");
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
