//! The pull engine with a guest that runs Linux and writes all the time: whatever happens to the repository or to the
//! scratch, the guest goes on. One test at a time: they differ in the configuration, which is the process's.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nasbackup::config::{self, Config};
use nasbackup::error::{Code, Error, Result};
use nasbackup::operation::take_backup::{self, TakeBackupRequest, TakenBackup};
use nasbackup::point::Kind;
use nasbackup::work::phase::Phase;
use support::{Fs, Nas, PATIENCE, RealGuest, Restored, listing, restart_libvirtd, until};

/// What the rest of the test configures is the process's.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn request(linux: &RealGuest, nas: &Nas, n: usize, parent: Option<&TakenBackup>) -> TakeBackupRequest {
    TakeBackupRequest {
        mode: Some(if parent.is_some() { "incremental" } else { "full" }.into()),
        bitmap_parent: parent.and_then(|parent| parent.bitmap_created.clone()),
        parent_paths: parent.map(|parent| parent.volumes.values().cloned().collect()),
        engine: Some("pull".into()),
        ..linux.request(nas, n)
    }
}

/// Runs it and acts once, on this thread, when it knows what it has to copy.
fn take_and(request: TakeBackupRequest, act: impl FnOnce()) -> Result<TakenBackup> {
    let mut act = Some(act);
    take_backup::run(request, &mut |status| {
        if status.phase == Phase::Copy
            && status.total_bytes > 0
            && let Some(act) = act.take()
        {
            act();
        }
        Ok(())
    })
}

/// What clears up after a NAS that was hung has the machine's folder locked until its last answer.
fn take_when_free(request: TakeBackupRequest) -> TakenBackup {
    let mut taken = None;
    until("the machine's folder is free", || {
        let next = take_backup::run(request.clone(), &mut |_| Ok(()));
        let busy = next.as_ref().is_err_and(|error| error.code == Code::Busy);
        taken = Some(next);
        !busy
    });
    taken.unwrap().unwrap()
}

fn assert_files(nas: &Nas, taken: &TakenBackup) {
    assert!(Restored::from(&nas.at(&taken.disks[0].file)).verified_files(true) >= 1);
}

/// A backup to a repository that becomes `ill` as soon as it copies: it fails, the guest writes on meanwhile, and once the
/// repository is `well` again the next one is incremental.
fn assert_the_guest_does_not_notice(nas: &Nas, ill: impl Fn(&Nas), well: impl Fn(&Nas)) -> Error {
    let linux = RealGuest::boot(64, "w=256");
    linux.wait_for_files(2);
    let full = take_backup::run(request(&linux, nas, 0, None), &mut |_| Ok(())).unwrap();
    linux.wait_for_files(6);
    let failing = TakeBackupRequest { wait_seconds: Some(15), ..request(&linux, nas, 1, None) };
    let mut began = Instant::now();
    let error = std::thread::scope(|scope| {
        take_and(failing, || {
            ill(nas);
            began = Instant::now();
            scope.spawn(|| (0..3).for_each(|_| linux.assert_writes()));
        })
        .unwrap_err()
    });
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert_eq!(linux.guest.state(), "running");
    linux.guest.assert_no_job();
    linux.run("dmesg | grep -i 'i/o error' && exit 1; true");
    assert_eq!(linux.guest.checkpoints(), ["backup-0"]);
    well(nas);
    until("what it left goes", || {
        !listing(nas.root()).iter().any(|(path, _)| path.to_string_lossy().contains(".partial-"))
    });
    let next = take_when_free(request(&linux, nas, 2, Some(&full)));
    assert_eq!(next.kind, Kind::Incremental);
    assert_files(nas, &full);
    assert_files(nas, &next);
    error
}

#[test]
fn a_guest_does_not_notice_a_repository_that_hangs() {
    let _alone = alone();
    let error = assert_the_guest_does_not_notice(&Nas::folder().slow(32), Nas::hang, Nas::go_on);
    assert_eq!(error.code, Code::NasUnresponsive, "{error}");
}

#[test]
fn a_guest_does_not_notice_a_repository_that_is_full() {
    let _alone = alone();
    let nas = Nas::image(Fs::Ext4, 512).slow(32);
    let error = assert_the_guest_does_not_notice(&nas, Nas::fill, Nas::empty);
    assert_eq!(error.code, Code::NoSpace, "{error}");
}

/// A backup to a repository that hangs, with a scratch of 110 MiB of which the guest needs more, or which `fill` leaves
/// nothing of.
fn scratch_ends(fill: impl FnOnce(&Nas, &RealGuest, &dyn Fn())) -> Error {
    let linux = RealGuest::boot(4, "");
    let scratch = Nas::image(Fs::Ext4, 128);
    let nas = Nas::folder().slow(32);
    linux.run("dd if=/dev/urandom of=/mnt/big bs=1M count=64 conv=fsync 2>/dev/null");
    let full = take_backup::run(request(&linux, &nas, 0, None), &mut |_| Ok(())).unwrap();
    config::set(Config { scratch_dir: Some(scratch.root().to_owned()), ..Config::clone(&config::current()) });
    let overwrite =
        "while dd if=/dev/zero of=/mnt/big bs=1M count=64 conv=notrunc,fsync 2>/dev/null; do echo x >>/tmp/turns; done";
    let error = take_and(request(&linux, &nas, 1, None), || {
        nas.hang();
        fill(&scratch, &linux, &|| linux.launch(overwrite));
    })
    .unwrap_err();
    let ended = Instant::now();
    until("the guest runs", || linux.guest.state() == "running");
    linux.assert_writes();
    log_turns(&linux, ended);
    linux.guest.assert_no_job();
    assert_eq!(linux.guest.checkpoints(), ["backup-0"]);
    linux.run("dmesg | grep -i 'i/o error' && exit 1; true");
    std::fs::remove_file(scratch.root().join("filler")).ok();
    assert_eq!(std::fs::read_dir(scratch.root()).unwrap().count(), 1, "only lost+found");
    // the guest may still have more to write than such a scratch holds
    config::set(Config { scratch_dir: None, ..Config::clone(&config::current()) });
    nas.go_on();
    linux.run("killall dd; true");
    until("the unfinished point goes", || {
        !listing(nas.root()).iter().any(|(path, _)| path.to_string_lossy().contains(".partial-"))
    });
    let next = take_when_free(request(&linux, &nas, 2, Some(&full)));
    assert_eq!(next.kind, Kind::Incremental);
    assert_files(&nas, &next);
    error
}

/// The guest's overwriting did not fail: it goes round after round.
fn log_turns(linux: &RealGuest, since: Instant) {
    let turns = || linux.run("cat /tmp/turns 2>/dev/null | wc -l").parse::<u64>().unwrap();
    let before = turns();
    until("the guest's writes go on", || turns() > before);
    assert!(since.elapsed() < PATIENCE);
}

/// While the listener is busy with it nobody looks at the scratch. It is full before the guest begins, or that could be done sooner.
fn fill_until_the_guest_waits(scratch: &Nas, linux: &RealGuest, overwrite: &dyn Fn()) {
    scratch.fill();
    overwrite();
    until("the guest waits", || linux.guest.state() == "paused");
}

#[test]
fn a_scratch_too_small_ends_the_backup_before_it_is_full() {
    let _alone = alone();
    let error = scratch_ends(|_, _, overwrite| overwrite());
    assert_eq!(error.code, Code::NoSpace, "{error}");
}

#[test]
fn a_guest_that_waits_for_scratch_goes_on_within_two_seconds() {
    let _alone = alone();
    let error = scratch_ends(fill_until_the_guest_waits);
    assert_eq!(error.code, Code::NoSpace, "{error}");
}

#[test]
fn a_guest_that_waits_for_scratch_goes_on_although_libvirtd_was_restarted_meanwhile() {
    let _alone = alone();
    let error = scratch_ends(|scratch, linux, overwrite| {
        fill_until_the_guest_waits(scratch, linux, overwrite);
        restart_libvirtd();
    });
    assert_eq!(error.code, Code::NoSpace, "{error}");
}
