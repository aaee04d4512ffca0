//! Room in the scratch that the library takes before QEMU needs it. The file system's free bytes don't show a quota of the
//! folder or of QEMU's user, and a guest whose old block finds no room sees its write fail. So the library allocates blocks
//! beyond the end of each scratch file, where QEMU writes next: the backup meets the quota, and not the guest.

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
use crate::limits;
use crate::sys;
use crate::user::as_user;

/// The step that errors name.
pub(super) const STEP: &str = "keep the guest's old blocks";
/// The scratch needs room for what the guest overwrites in this time at its highest speed so far: until the next look and
/// through an abort, at three times that speed.
pub(super) const AHEAD: Duration = limits::JOB_LOOK.saturating_add(limits::SCRATCH_ABORT).saturating_mul(3);
/// Bytes that stay free when room is taken, because the file system needs some for its own records of the files.
const SPARE: u64 = 4 << 20;
/// The bytes of one write to the spare file.
const PIECE: u64 = 128 << 10;
/// The least and the most room that is taken for all disks together: others need the host's disk, too.
const LEAST: u64 = LEAST_SCRATCH - SPARE;
const MOST: u64 = 1 << 30;

/// The scratch files of one backup.
#[derive(Debug)]
pub(super) struct Reserve {
    /// QEMU's user and group; `None`: ours.
    owner: Option<(u32, u32)>,
    /// A file of QEMU's user that is empty except while room is taken.
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
    /// Why the file has lost what was written to it. The kernel reports that only once.
    lost: Option<Error>,
}

impl ScratchFile {
    fn failed(&self, error: io::Error) -> Error {
        failed(&self.path, error).on_disk(&self.disk)
    }
}

/// The highest speed at which something has grown.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct GrowthSpeed {
    /// When the last look was, and how many bytes it saw.
    seen: Option<(Instant, u64)>,
    /// The highest speed, in bytes a second.
    most: f64,
}

impl GrowthSpeed {
    /// Records how many bytes there are. Measures over at least a `JOB_LOOK`, because a single write would look fast.
    pub(super) fn observe(&mut self, now: Instant, bytes: u64) {
        let Some((before, had)) = self.seen else { return self.seen = Some((now, bytes)) };
        let time = now.duration_since(before);
        if time >= limits::JOB_LOOK {
            self.most = self.most.max(bytes.saturating_sub(had) as f64 / time.as_secs_f64());
            self.seen = Some((now, bytes));
        }
    }

    /// The highest speed, in bytes a second.
    pub(super) fn most(&self) -> u64 {
        self.most as u64
    }

    /// The bytes for which there has to be room.
    pub(super) fn ahead(&self) -> u64 {
        (self.most * AHEAD.as_secs_f64()) as u64
    }
}

/// How the scratch files grow, each and together.
#[derive(Debug, Default)]
struct Growth {
    parts: Vec<FileGrowth>,
    all: GrowthSpeed,
}

/// How one scratch file grows.
#[derive(Debug, Default, Clone, Copy)]
struct FileGrowth {
    /// The file's first length, and its current one.
    first: Option<u64>,
    length: u64,
    /// The offset up to which the file has blocks.
    end: u64,
    speed: GrowthSpeed,
}

impl FileGrowth {
    /// The bytes of room beyond the file's end.
    fn held(&self) -> u64 {
        self.end.saturating_sub(self.length)
    }
}

impl Growth {
    /// Records the files' lengths.
    fn observe(&mut self, now: Instant, lengths: &[u64]) {
        self.parts.resize_with(lengths.len(), FileGrowth::default);
        for (part, length) in self.parts.iter_mut().zip(lengths) {
            part.first.get_or_insert(*length);
            part.length = *length;
            part.speed.observe(now, *length);
        }
        self.all.observe(now, lengths.iter().sum());
    }

    /// The room that all files together should have beyond their ends: no more than `most`.
    fn wanted(&self, most: u64) -> u64 {
        self.all.ahead().max(LEAST).min(most)
    }

    /// The files that need room now, because a quarter of theirs is used up, and the offset up to which. One half of all room
    /// is divided evenly; of the other half each file that grows takes what its own speed asks for.
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

    /// The bytes that are missing to the least room after `due` is taken. Idle files hold little, because it is not known which
    /// file will grow.
    fn unshared(&self, due: &[(usize, u64)], most: u64) -> u64 {
        let held: u64 = self.parts.iter().map(FileGrowth::held).sum();
        let taken: u64 = due.iter().map(|(i, end)| end - self.parts[*i].end.max(self.parts[*i].length)).sum();
        LEAST.min(most).saturating_sub(held + taken)
    }
}

impl Reserve {
    /// A reserve without scratch files. `spare` is empty and belongs to QEMU's user.
    pub(super) fn new(owner: Option<(u32, u32)>, spare: File, spare_path: PathBuf) -> Reserve {
        Reserve { owner, spare, spare_path, files: Mutex::default() }
    }

    /// Adds a disk's scratch file.
    pub(super) fn add(&self, disk: &str, path: PathBuf, file: File) {
        self.files().files.push(ScratchFile { disk: disk.to_owned(), path, file, lost: None });
    }

    /// Takes the room that is due, of `allowed` bytes for all files together. `NO_SPACE` when there is not enough; QEMU still
    /// has room then for the time that an abort takes.
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
            self.fill_spare(growth.unshared(&due, most)).map_err(|e| e.on_disk(first))?;
            let taken = due.iter().try_for_each(|(i, end)| {
                let (growing, part) = (&files[*i], &mut growth.parts[*i]);
                // a file system that can't allocate ahead goes without
                allocate(&growing.file, part.end, *end).map_err(|e| growing.failed(e.into()))?;
                part.end = *end;
                Ok(())
            });
            let released = self.spare.set_len(0).map_err(|e| failed(&self.spare_path, e));
            taken.and(released)
        })
    }

    /// Fails unless the scratch has kept what QEMU wrote, and QEMU can write more, which is tried.
    pub(super) fn check(&self) -> Result<()> {
        self.check_kept()?;
        self.as_owner(|| {
            self.fill_spare(0)?;
            self.spare.set_len(0).map_err(|e| failed(&self.spare_path, e))
        })
    }

    /// Fails if the file system has lost anything that QEMU wrote: a write that fails on its way from the cache to the disk is
    /// reported to nobody else.
    pub(super) fn check_kept(&self) -> Result<()> {
        self.files().files.iter_mut().try_for_each(|growing| {
            let failed = sys::check_writeback(&growing.file).map_err(|e| growing.failed(e)).err();
            growing.lost = growing.lost.take().or(failed);
            growing.lost.clone().map_or(Ok(()), Err)
        })
    }

    /// Takes room ahead of QEMU until the sender of `ended` is dropped.
    pub(super) fn keep_ahead(&self, ended: &Receiver<()>, allowed: impl Fn() -> u64) -> Result<()> {
        while ended.recv_timeout(limits::COPY_LOOK) == Err(RecvTimeoutError::Timeout) {
            self.take_due_room(Instant::now(), &allowed)?;
            self.check_kept()?;
        }
        Ok(())
    }

    /// Fills the spare file while room is taken, so that its bytes are free afterwards: `SPARE`, and `more` that a scratch file may
    /// need. `SPARE` is written, and truncated before it reaches the disk, so it is free again at once. The others are allocated, which
    /// takes no time; a file system that needs them writes its tables first.
    fn fill_spare(&self, more: u64) -> Result<()> {
        let held = self.write_spare(0, SPARE).and_then(|()| {
            let allocated = more == 0 || allocate(&self.spare, SPARE, SPARE + more)?;
            if allocated { Ok(()) } else { self.write_spare(SPARE, SPARE + more) }
        });
        held.map_err(|error| {
            self.spare.set_len(0).ok();
            failed(&self.spare_path, error)
        })
    }

    fn write_spare(&self, from: u64, end: u64) -> io::Result<()> {
        let piece = [0; PIECE as usize];
        let mut pieces = (from..end).step_by(piece.len());
        pieces.try_for_each(|at| self.spare.write_all_at(&piece[..(end - at).min(PIECE) as usize], at))
    }

    /// Runs `work` with the rights of QEMU's user: root may get room that QEMU does not.
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

/// Allocates blocks of the file up to `end` and keeps its length. False on a file system that can't allocate ahead.
fn allocate(file: &File, from: u64, end: u64) -> Result<bool, Errno> {
    loop {
        match fallocate(file, FallocateFlags::KEEP_SIZE, from, end - from) {
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(false),
            allocated => return allocated.map(|()| true),
        }
    }
}

/// The error of a scratch file that can't take what the guest overwrites.
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

    /// Lets the files grow to `lengths` in MiB at a quarter of a second; returns the MiB that each then holds beyond its end.
    fn grow(growth: &mut Growth, start: Instant, quarters: u32, lengths: &[u64], most: u64) -> Vec<u64> {
        let lengths: Vec<_> = lengths.iter().map(|length| length * MIB).collect();
        growth.observe(start + quarters * limits::JOB_LOOK, &lengths);
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
            // a guest that rests may go on at that speed
            (16, 68, 660),
            (17, 109, 619),
            // no more than MOST
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

    /// An ext4 of so many MiB, half of which is reserved for root; its drop unmounts it.
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
        let spare = enough.0.path().join("spare").metadata().unwrap();
        assert_eq!((spare.len(), spare.blocks()), (0, 0));
        reserve.check_kept().unwrap();

        // no room is taken as another user
        let other = Ext4::new(256);
        let reserve = other.reserve(NOBODY, &["vda"]);
        let error = unable_to_act(|| reserve.take_due_room(Instant::now(), || u64::MAX)).unwrap_err();
        assert!(error.code == Code::PermissionDenied && error.cause.starts_with("unable to act as"), "{error}");
        assert_eq!(other.0.path().join("vda").metadata().unwrap().blocks(), 0);

        // here only root would get enough, for one file or for what either of two may need
        for disks in [&["vda"][..], &["vda", "vdb"]] {
            let small = Ext4::new(96);
            let error = small.reserve(NOBODY, disks).take_due_room(Instant::now(), || u64::MAX).unwrap_err();
            assert_eq!((error.code, error.disk.as_deref()), (Code::NoSpace, Some("vda")), "{error}");
            assert!(error.cause.starts_with("the scratch folder is too small"), "{error}");
            assert_eq!(small.0.path().join("spare").metadata().unwrap().blocks(), 0);
        }

        // here not even the spare bytes are free
        let full = Ext4::new(7);
        let error = full.reserve(NOBODY, &["vda"]).take_due_room(Instant::now(), || u64::MAX).unwrap_err();
        assert_eq!((error.code, error.disk.as_deref()), (Code::NoSpace, Some("vda")), "{error}");
        assert!(error.cause.contains("/spare'"), "{error}");
    }

    #[test]
    fn a_failing_scratch_file_fails_the_job_and_a_full_one_is_no_space() {
        for (errno, code) in
            [(Errno::DQUOT, Code::NoSpace), (Errno::IO, Code::JobFailed), (Errno::ROFS, Code::JobFailed)]
        {
            let error = failed(Path::new("/s/vda.qcow2"), errno.into());
            assert!(error.code == code && error.cause.contains("'/s/vda.qcow2'"), "{error}");
        }
    }
}
