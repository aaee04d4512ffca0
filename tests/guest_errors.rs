//! Storage that fails while a backup keeps the guest's old blocks in it, and whether the guest notices. One test at a time: they
//! differ in the configuration, which is the process's.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nasbackup::config::Engine;
use nasbackup::config::{self, Config};
use nasbackup::error::{Code, Error, Result};
use nasbackup::operation::take_backup::{self, TakeBackupRequest, TakenBackup};
use nasbackup::work::phase::Phase;
use support::{Fs, MIB, Nas, Writer, backup_path, run, take};

/// What the rest of the test configures is the process's.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn use_scratch(folder: &Path) {
    config::set(Config { scratch_dir: Some(folder.to_owned()), ..Config::clone(&config::current()) });
}

/// A folder in a Btrfs that may hold `mib` MiB by a quota, which is not in what the file system says of its free room.
fn with_quota(scratch: &Nas, mib: u64) -> PathBuf {
    let (root, folder) = (scratch.root(), scratch.at("scratch"));
    run("btrfs", ["subvolume", "create", folder.to_str().unwrap()]);
    run("btrfs", ["quota", "enable", root.to_str().unwrap()]);
    run("btrfs", ["qgroup", "limit", &format!("{mib}M"), folder.to_str().unwrap()]);
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o711)).unwrap();
    folder
}

/// A full backup of the guest, the `n`th, that takes far longer than the guest to overwrite its disk.
fn request(writer: &Writer, nas: &Nas, engine: &str, n: usize) -> TakeBackupRequest {
    TakeBackupRequest {
        vm_name: Some(writer.guest.name.clone()),
        backup_path: Some(backup_path(&writer.guest, n)),
        repository: Some(nas.repository()),
        mode: Some("full".into()),
        bitmap_new: Some(format!("backup-{n}")),
        engine: Some(engine.into()),
        rate_limit: Some(if engine == "push" { 1 << 16 } else { MIB }),
        ..Default::default()
    }
}

/// Runs it, acts as soon as it copies, and has the guest overwrite its disk from then on. Also how many errors the guest met, if
/// it came to that. A backup that fails does so before its data are copied.
fn take_while_it_writes(
    writer: &Writer,
    request: TakeBackupRequest,
    act: impl FnOnce(),
) -> (Result<TakenBackup>, Option<usize>) {
    let (mut act, mut begun, mut left) = (Some(act), false, 0);
    let taken = take_backup::run(request, &mut |status| {
        if status.phase == Phase::Copy && status.total_bytes > 0 {
            left = status.total_bytes - status.done_bytes;
        }
        if status.phase == Phase::Copy
            && status.total_bytes > 0
            && let Some(act) = act.take()
        {
            act();
            writer.begin();
            begun = true;
        }
        Ok(())
    });
    assert!(taken.is_ok() || !begun || left > 0, "{taken:?} came when all was copied");
    (taken, begun.then(|| writer.errors()))
}

/// The guest has nothing to do with the backup any more that ended by `error`.
fn assert_goes_on(writer: &Writer, error: &Error) {
    assert_eq!(writer.guest.state(), "running", "{error}");
    writer.guest.assert_no_job();
    assert!(writer.guest.checkpoints().is_empty(), "{error}");
    writer.begin();
    assert_eq!(writer.errors(), 0, "after {error}");
}

#[test]
fn a_quota_of_the_scratch_is_met_by_the_backup_and_not_by_the_guest() {
    let _alone = alone();
    let writer = Writer::boot(48, 48);
    let nas = Nas::folder();
    for (n, mib) in [48, 80].into_iter().enumerate() {
        let scratch = Nas::image(Fs::Btrfs, 1024);
        let folder = with_quota(&scratch, mib);
        use_scratch(&folder);
        let (taken, errors) = take_while_it_writes(&writer, request(&writer, &nas, "pull", n), || {});
        let error = taken.expect_err("there is no room for what the guest overwrites");
        assert_eq!((error.code, error.disk.as_deref()), (Code::NoSpace, Some("vda")), "{error}");
        assert!(error.cause.contains("Disk quota exceeded"), "{error}");
        // with less than 64 MiB nothing begins; with more the guest may not have come to write
        assert!(errors.is_none_or(|errors| mib > 64 && errors == 0), "{errors:?}: {error}");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "{error}");
        assert_goes_on(&writer, &error);
        if mib < 64 {
            let unlimited = TakeBackupRequest { rate_limit: None, ..request(&writer, &nas, "auto", 10) };
            let taken = take(unlimited).unwrap();
            assert_eq!(taken.engine, Engine::Push);
            assert!(taken.details.starts_with("by push: NO_SPACE: keep the guest's old blocks"), "{}", taken.details);
            writer.guest.virsh(&["checkpoint-delete", "--checkpointname", "backup-10"]);
        }
    }
}

/// A scratch on the file system of an image whose own file system has no room for what is written to it. Without a journal,
/// for one that is lost would make it read-only, now earlier and now later than the old blocks are lost.
fn on_a_full_file_system() -> (Nas, Nas) {
    let below = Nas::image(Fs::Ext4, 128);
    let image = below.at("image");
    std::fs::File::create(&image).unwrap().set_len(512 * MIB).unwrap();
    run("mkfs.ext4", ["-q", "-F", "-O", "^has_journal", image.to_str().unwrap()]);
    let scratch = Nas::of(&image);
    (below, scratch)
}

/// Has the kernel write out, again and again, what it holds for the folder's file system.
struct Syncs(Child);

impl Syncs {
    fn of(folder: &Path) -> Syncs {
        let script = "while sleep 0.2; do sync -f \"$1\" 2>/dev/null; done";
        Syncs(Command::new("sh").args(["-c", script, "-", folder.to_str().unwrap()]).spawn().unwrap())
    }
}

impl Drop for Syncs {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).ok();
    }
}

#[test]
fn a_scratch_that_fails_ends_the_backup_at_once() {
    let _alone = alone();
    let writer = Writer::boot(24, 24);
    let nas = Nas::folder();
    let fails = |n: usize, scratch: &Nas, act: &dyn Fn(), code: Code, said: &str| {
        use_scratch(scratch.root());
        let (taken, errors) = take_while_it_writes(&writer, request(&writer, &nas, "pull", n), act);
        let error = taken.expect_err("the scratch has failed");
        assert!(error.code == code && error.cause.contains(said), "{error}");
        assert_goes_on(&writer, &error);
        (error, errors.unwrap())
    };
    let shut = Nas::image(Fs::Xfs, 320);
    let act = || drop(run("xfs_io", ["-x", "-c", "shutdown", shut.path()]));
    let (error, errors) = fails(0, &shut, &act, Code::JobFailed, "os error 5");
    // unless the reservation has met it first, and the backup has ended before the guest wrote again
    assert!(errors == 0 || error.cause.contains("the guest saw the error"), "{errors}: {error}");

    let read_only = Nas::image(Fs::Ext4, 256);
    run("mount", ["-o", "remount,errors=remount-ro", read_only.path()]);
    fails(1, &read_only, &|| read_only.break_ext4(), Code::JobFailed, "Read-only file system");

    // Old blocks are lost on their way to the disk.
    let (below, scratch) = on_a_full_file_system();
    let syncs = Syncs::of(scratch.root());
    let (_, errors) = fails(2, &scratch, &|| below.fill(), Code::NoSpace, "vda.qcow2': No space");
    drop(syncs);
    assert_eq!(errors, 0);
}

#[test]
fn a_guest_that_meets_an_error_of_the_nas_by_push_is_told_of() {
    let _alone = alone();
    // QEMU has up to 64 MiB under way, which are no old blocks any more
    let writer = Writer::boot(120, 8);
    let nas = Nas::image(Fs::Xfs, 320);
    let shut = nas.same();
    let nas = nas.slow(32);
    let (taken, errors) = take_while_it_writes(&writer, request(&writer, &nas, "push", 0), || {
        writer.guest.hold_job_still();
        run("xfs_io", ["-x", "-c", "shutdown", shut.path()]);
    });
    let error = taken.expect_err("the NAS has failed");
    assert_eq!(error.code, Code::JobFailed, "{error}");
    assert!(errors.unwrap() > 0 && error.cause.contains("the guest saw the error"), "{errors:?}: {error}");
    assert_goes_on(&writer, &error);
}
