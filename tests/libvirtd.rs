//! The daemon is restarted, and hangs, under a backup. One test at a time: the daemon is everybody's.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod support;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use nasbackup::config;
use nasbackup::error::{Code, Error};
use nasbackup::operation::{self, take_backup::TakeBackupRequest};
#[cfg(feature = "test-hooks")]
use nasbackup::shorten;
use nasbackup::work::phase::Phase;
use serde_json::{Value, json};
use support::{
    Disk, Guest, Leaks, MIB, Nas, Stopped, Story, Then, bootable_guest, details, hurried, kill_libvirtd,
    restart_libvirtd, run, signal_libvirtd, slow_story_on, start_libvirtd, succeeds, take_and,
};

fn alone() -> MutexGuard<'static, ()> {
    static DAEMON: Mutex<()> = Mutex::new(());
    DAEMON.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The answer of a boot test, in whose middle `then` is done, and its domain.
fn booted_and(story: &Story, then: impl Fn()) -> (Value, String) {
    let request = json!({"repository": {"type": "dir", "address": story.nas.root()}, "backupPath": story.last().path,
        "wait": {"console": "^never$"}});
    let mut domain = None;
    let booted = operation::call("bootPoint", &request.to_string(), &mut |status| {
        if status.phase == Phase::BootGuest && domain.is_none() {
            domain = run("virsh", ["list", "--name"])
                .lines()
                .find(|name| name.starts_with("nasbackup-boot-"))
                .map(str::to_owned);
            then();
        }
        Ok(())
    });
    (booted.unwrap(), domain.unwrap())
}

fn folder_of(domain: &str) -> PathBuf {
    config::current().state_dir.join("scratch").join(domain.strip_prefix("nasbackup-").unwrap())
}

#[test]
fn a_restarted_libvirtd_does_not_lose_the_domain_of_a_boot_test() {
    let _alone = alone();
    let mut story = Story::new(bootable_guest(Then::Rest), Nas::folder());
    story.take("full");
    let (booted, domain) = booted_and(&story, restart_libvirtd);
    assert_eq!(booted["verdict"], "aborted", "{booted}");
    assert!(!succeeds("virsh", ["domstate", &domain]));
    assert!(!folder_of(&domain).exists());

    // where libvirt stays away the folder does, too, and leads the next test to its domain
    let (booted, domain) = booted_and(&story, kill_libvirtd);
    start_libvirtd();
    assert_eq!(booted["verdict"], "aborted", "{booted}");
    assert!(succeeds("virsh", ["domstate", &domain]), "libvirt itself has ended it");
    assert!(folder_of(&domain).exists());
    let (_, next) = booted_and(&story, || run_out(&domain));
    for domain in [domain, next] {
        assert!(!succeeds("virsh", ["domstate", &domain]));
        assert!(!folder_of(&domain).exists());
    }
}

/// The domain is gone, and the test that has ended it ends.
fn run_out(domain: &str) {
    assert!(!succeeds("virsh", ["domstate", domain]));
    restart_libvirtd();
}

fn restarted_under_a_backup_by(engine: &str) {
    let _alone = alone();
    let mut story = Story::new(Guest::full_of_data(1), Nas::folder().slow(16));
    story.guest.resize(0, 80 * MIB);
    story.take("full").assert_full(true);
    story.guest.write(0, 0x51, 2 * MIB, 48 * MIB);
    let request = TakeBackupRequest { engine: Some(engine.into()), ..story.request("incremental") };
    let taken = story.accept_with(request, |request| take_and(request, |_| restart_libvirtd()));
    taken.assert_incremental();
    // The next one uses what the new daemon knows.
    story.guest.write(0, 0x52, 9 * MIB, MIB);
    story.take("incremental");
    story.assert_all_restore();
}

#[test]
fn a_restarted_libvirtd_does_not_end_the_wait_for_a_push() {
    restarted_under_a_backup_by("push");
}

#[test]
fn a_restarted_libvirtd_does_not_end_the_wait_for_a_pull() {
    restarted_under_a_backup_by("pull");
}

/// Kills libvirtd under a push that may take `seconds`, and starts it again when the call has returned with `code`. The
/// repository is not to blame, what was left is cleared, and the next backup is right.
fn killed_under_a_push(seconds: u64, code: Code) -> Error {
    let _alone = alone();
    let mut story = slow_story_on(Nas::folder());
    let request = TakeBackupRequest { wait_seconds: Some(seconds), ..story.request("incremental") };
    let error = take_and(request, |_| kill_libvirtd()).unwrap_err();
    let repository = json!({"repository": {"type": "dir", "address": story.nas.root()}});
    let stats = operation::call("backupStats", &repository.to_string(), &mut |_| Ok(()));
    start_libvirtd();
    assert_eq!(error.code, code, "{error}");
    stats.unwrap();
    story.assert_goes_on();
    error
}

fn stays_away(seconds: u64) {
    let error = killed_under_a_push(600, Code::Libvirt);
    assert!(error.cause.contains(&format!("could not be reached for {seconds} s")), "{error}");
}

#[cfg(feature = "test-hooks")]
#[test]
fn a_libvirtd_that_stays_away_ends_the_wait() {
    shorten(&["reach libvirt again"], Duration::from_secs(5));
    leave_what_does_not_end();
    stays_away(5);
}

#[test]
#[ignore = "make soak: minutes"]
fn a_libvirtd_that_stays_away_ends_the_wait_after_two_minutes() {
    stays_away(120);
}

#[cfg(feature = "test-hooks")]
#[test]
fn the_repository_is_not_to_blame_for_a_libvirtd_that_is_gone_at_the_deadline() {
    leave_what_does_not_end();
    killed_under_a_push(5, Code::Timeout);
}

/// For a test in which the job can't end while it is waited for.
#[cfg(feature = "test-hooks")]
fn leave_what_does_not_end() {
    shorten(&["abort the job", "wait for the aborted job", support::AFTER_DEADLINE], Duration::from_secs(1));
}

/// As on NFS, where libvirt gives the targets back to root before it hears of anything else.
#[test]
fn a_repository_that_hangs_is_told_of_though_libvirt_hangs_with_it() {
    let _alone = alone();
    let mut story = slow_story_on(Nas::folder());
    let request = TakeBackupRequest { wait_seconds: Some(5), ..story.request("incremental") };
    let mut stopped = None;
    let error = hurried(|| {
        take_and(request, |_| {
            stopped = Some(Stopped::libvirtd());
            story.nas.hang();
        })
    });
    drop(stopped);
    story.nas.go_on();
    let error = error.unwrap_err();
    assert_eq!(error.code, Code::NasUnresponsive, "{error}");
    story.skip();
    story.take_until_free();
    story.assert_nothing_half_made();
    story.guest.write(0, 0x52, 60 * MIB, MIB);
    story.take("incremental");
    story.assert_all_restore();
}

/// It is stopped, as by a NAS in which it waits itself.
#[test]
fn a_pull_ends_in_its_time_though_libvirt_answers_nothing() {
    let _alone = alone();
    let mut story = slow_story_on(Nas::folder());
    let request =
        TakeBackupRequest { engine: Some("pull".into()), wait_seconds: Some(5), ..story.request("incremental") };
    let (tell, told) = mpsc::channel();
    let (error, stopped) = std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut stopped = None;
            let error = take_and(request, |_| {
                stopped = Some(Stopped::libvirtd());
                #[cfg(feature = "test-hooks")]
                leave_what_does_not_end();
            });
            tell.send((error.unwrap_err(), stopped)).unwrap();
        });
        told.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_| {
            signal_libvirtd("-CONT");
            panic!("no answer");
        })
    });
    drop(stopped);
    // it may have read all by then
    assert!(matches!(error.code, Code::Timeout | Code::JobFailed) && error.leftovers, "{error}");
    story.skip();
    story.take_until_free();
    story.assert_nothing_half_made();
    story.take("incremental");
    story.assert_all_restore();
}

#[test]
fn a_connection_that_was_lost_leaves_no_descriptor_behind() {
    let _alone = alone();
    let mut story = Story::with_full();
    restart_libvirtd();
    story.take("incremental");
    let before = Leaks::now();
    for _ in 0..3 {
        restart_libvirtd();
        story.guest.write(0, 0x51, 5 * MIB, MIB);
        story.take("incremental");
    }
    before.assert_none();
    story.assert_all_restore();
}

/// libvirt 9.0 hears of the end of no job on the host for 30 s then, and never does what `on_crash` says.
#[test]
fn a_guest_that_crashes_in_the_middle_fails_neither_its_backup_nor_another_guest_s() {
    let _alone = alone();
    let mut guest = Guest::stopped([Disk::new().size(80 * MIB)]);
    guest.devices = "<panic model='isa'/>".to_owned();
    guest.start();
    let mut story = Story::new(guest, Nas::folder().slow(16));
    story.take("full").assert_full(true);
    story.guest.write(0, 0x51, 2 * MIB, 24 * MIB);
    let mut other = Story::with_full();
    other.guest.write(0, 0x52, 5 * MIB, MIB);

    let (request, content) = (story.request("incremental"), story.content());
    let path = request.backup_path.clone().unwrap();
    std::thread::scope(|scope| {
        let taken = take_and(request, |_| {
            story.guest.crash();
            scope.spawn(|| {
                let request = TakeBackupRequest { engine: Some("pull".into()), ..other.request("incremental") };
                other.accept(request).assert_incremental();
            });
        });
        assert_eq!(details(&taken.unwrap()), "");
    });
    assert_eq!(story.guest.state(), "paused", "left as it was");
    story.adopt(path, content);
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
    other.assert_all_restore();
}

#[test]
fn a_libvirtd_that_hangs_fails_the_backup_and_the_next_one_is_right() {
    let _alone = alone();
    let mut story = Story::with_full();
    story.guest.write(0, 0x51, 5 * MIB, MIB);
    let hangs = |_: &Story, request| {
        signal_libvirtd("-STOP");
        let taken = support::take(request);
        signal_libvirtd("-CONT");
        taken
    };
    story.refuse_with(story.request("incremental"), "LIBVIRT", hangs);
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}
