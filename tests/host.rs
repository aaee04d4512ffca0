//! What the backups of one host share: bandwidth, places, scratch; and the engine that the host allows. One test at a
//! time: the configuration is the process's.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use nasbackup::config::{self, Config};
use nasbackup::engine::Engine;
use nasbackup::error::{Code, Result};
use nasbackup::operation::take_backup::{self, TakeBackupRequest};
use support::{Disk, Fs, Guest, MIB, Nas, Story, details, folder, init, take, take_and};

/// Puts a changed configuration into force until it is dropped.
struct Configured {
    before: Config,
    _alone: MutexGuard<'static, ()>,
}

fn configured(change: impl FnOnce(&mut Config)) -> Configured {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    init();
    let before = Config::clone(&config::current());
    let mut changed = before.clone();
    change(&mut changed);
    config::set(changed.check().unwrap());
    Configured { before, _alone: alone }
}

impl Drop for Configured {
    fn drop(&mut self) {
        config::set(self.before.clone());
    }
}

fn by(engine: &str, request: TakeBackupRequest) -> TakeBackupRequest {
    TakeBackupRequest { engine: Some(engine.into()), ..request }
}

/// Bytes done at each moment of a copy.
type Course = Vec<(Instant, u64)>;

fn watched(request: TakeBackupRequest) -> (Result<take_backup::TakenBackup>, Course) {
    let mut course = Vec::new();
    let taken = take_backup::run(request, &mut |status| {
        if status.phase == "copy" && 0 < status.done_bytes && status.done_bytes < status.total_bytes {
            course.push((Instant::now(), status.done_bytes));
        }
        Ok(())
    });
    (taken, course)
}

/// The course of a backup that has to succeed.
fn followed(story: &mut Story, request: TakeBackupRequest) -> Course {
    let mut seen = Course::new();
    story.accept_with(request, |request| {
        let (taken, course) = watched(request);
        seen = course;
        taken
    });
    seen
}

/// Bytes a second from the first to the last moment of them all.
fn speed(courses: &[Course]) -> f64 {
    let first = courses.iter().map(|course| course.first().unwrap().0).max().unwrap();
    let last = courses.iter().map(|course| course.last().unwrap().0).min().unwrap();
    let at = |course: &Course, when: Instant| course.iter().rfind(|(at, _)| *at <= when).unwrap().1;
    let done: u64 = courses.iter().map(|course| at(course, last) - at(course, first)).sum();
    done as f64 / (last - first).as_secs_f64()
}

fn assert_near(speed: f64, limit: u64) {
    let ratio = speed / limit as f64;
    assert!((0.9..1.1).contains(&ratio), "{speed} bytes a second, the limit is {limit}");
}

#[test]
fn a_backup_keeps_its_limit() {
    let _configured = configured(|_| {});
    let mut story = Story::new(Guest::full_of_data(32), Nas::folder());
    let request = TakeBackupRequest { rate_limit: Some(4 * MIB), ..by("pull", story.request("full")) };
    let course = followed(&mut story, request);
    assert_near(speed(&[course]), 4 * MIB);
    story.assert_all_restore();
}

#[test]
fn a_stopped_guest_s_backup_keeps_its_limit() {
    let _configured = configured(|config| config.rate_limit = Some(4 * MIB));
    let mut story = Story::new(Guest::full_of_data(32), Nas::folder());
    story.guest.stop();
    let request = story.stopped_request("legacy");
    let course = followed(&mut story, request);
    assert_near(speed(&[course]), 4 * MIB);
    story.assert_all_restore();
}

#[test]
fn a_push_keeps_its_limit() {
    let _configured = configured(|config| config.rate_limit = Some(8 * MIB));
    // What QEMU had begun before it was told comes without a limit: 64 requests of 1 MiB, and whatever a busy machine
    // takes to tell it, in which a fast disk could get everything.
    let mut story = Story::new(Guest::full_of_data(224), Nas::folder().slow(64));
    let request = by("push", story.request("full"));
    let mut course = followed(&mut story, request);
    course.retain(|(_, done)| (160 * MIB..224 * MIB).contains(done));
    assert_near(speed(&[course]), 8 * MIB);
    assert_eq!(details(&story.last().taken), "");
    story.assert_all_restore();
}

#[test]
fn all_backups_of_the_host_share_its_limit() {
    let _configured = configured(|config| config.host_rate_limit = Some(4 * MIB));
    let stories = [0, 1].map(|_| Story::new(Guest::full_of_data(20), Nas::folder()));
    let courses: Vec<Course> = thread::scope(|scope| {
        let run = |story: &Story| {
            let request = by("pull", story.request("legacy"));
            scope.spawn(move || {
                let (taken, course) = watched(request);
                taken.unwrap();
                course
            })
        };
        let running: Vec<_> = stories.iter().map(run).collect();
        running.into_iter().map(|run| run.join().unwrap()).collect()
    });
    assert_near(speed(&courses), 4 * MIB);
}

#[test]
fn a_backup_without_a_place_is_refused_at_once_and_nothing_is_touched() {
    let _configured = configured(|config| config.parallel_backups = Some(1));
    let long = Story::new(Guest::full_of_data(24), Nas::folder().slow(16));
    let mut other = Story::new(Guest::new([Disk::new()]), Nas::folder());
    take_and(long.request("full"), |_| {
        let refused = take(other.request("full")).unwrap_err();
        assert_eq!((refused.code, refused.step, refused.leftovers), (Code::Busy, "take a place", false));
        assert!(other.published().is_empty());
        assert_eq!(other.guest.checkpoints(), [] as [&str; 0]);
    })
    .unwrap();
    other.take("full").assert_full(true);
    other.assert_all_restore();
}

#[test]
fn a_backup_that_is_refused_or_fails_keeps_no_place() {
    let _configured = configured(|config| config.parallel_backups = Some(1));
    let mut story = Story::new(Guest::new([Disk::new()]), Nas::folder());
    let absent = TakeBackupRequest {
        vm_name: Some("i-0-0-VM".to_owned()),
        backup_path: Some("i-0-0-VM/1".to_owned()),
        ..story.request("full")
    };
    assert_eq!(take(absent).unwrap_err().code, Code::DomainNotFound);
    story.take("full").assert_full(true);
}

#[test]
fn one_long_backup_does_not_hold_up_another() {
    let _configured = configured(|config| config.parallel_backups = Some(2));
    let long = Story::new(Guest::full_of_data(24), Nas::folder().slow(16));
    let mut short = Story::new(Guest::ordinary(), Nas::folder());
    take_and(long.request("full"), |_| {
        short.take("full").assert_full(true);
    })
    .unwrap();
    short.assert_all_restore();
}

/// Overwrites so much of the guest's first disk while a pull copies it to a slow repository.
fn overwrite_during_a_pull(mib: u64) -> Code {
    let mut story = Story::new(Guest::full_of_data(120), Nas::folder().slow(8));
    let error = story.refuse_with(by("pull", story.request("full")), "NO_SPACE", |story, request| {
        take_and(request, |_| {
            for at in 0..mib {
                story.guest.write_on(0, 0x51, (119 - at) * MIB, MIB);
            }
        })
    });
    assert_eq!(story.guest.state(), "running");
    story.assert_guest_untouched();
    error.code
}

#[test]
fn a_pull_ends_before_it_keeps_more_than_its_machine_may() {
    let _configured = configured(|config| config.scratch_per_vm = Some(64 * MIB));
    assert_eq!(overwrite_during_a_pull(48), Code::NoSpace);
}

#[test]
fn a_pull_ends_before_all_keep_more_than_the_host_may() {
    let scratch = folder("scratch");
    let configured = configured(|config| {
        config.scratch_dir = Some(scratch.clone());
        config.scratch_per_host = Some(100 * MIB);
    });
    let other = scratch.join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("vda.qcow2"), vec![1; 30 << 20]).unwrap();
    assert_eq!(overwrite_during_a_pull(48), Code::NoSpace);
    std::fs::write(other.join("vda.qcow2"), vec![1; 60 << 20]).unwrap();
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    story.refuse(by("pull", story.request("full")), "NO_SPACE");
    assert_pushed(&mut story, "scratch folder is too small");
    drop(configured);
}

/// Left open, it is push, for a reason that holds `why`.
fn assert_pushed(story: &mut Story, why: &str) {
    let taken = &story.accept(by("auto", story.request("full"))).taken;
    assert_eq!(taken.engine, Engine::Push);
    assert!(taken.details.starts_with("by push: ") && taken.details.contains(why), "{}", taken.details);
    assert_eq!(details(taken).lines().count(), 1, "{}", taken.details);
    story.assert_all_restore();
}

#[test]
fn left_open_the_engine_is_pull_where_the_host_allows_it() {
    let scratch = Nas::image(Fs::Ext4, 32);
    let _configured = configured(|config| config.scratch_dir = Some(scratch.root().to_owned()));
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    assert_pushed(&mut story, "scratch folder is too small");

    // QEMU can't reach it, which shows when the job begins
    let closed = folder("closed");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    config::set(Config { scratch_dir: Some(closed.join("scratch")), ..Config::clone(&config::current()) });
    assert_pushed(&mut story, "begin the backup");
    story.guest.write(0, 0x51, 9 * MIB, MIB);

    config::set(Config { scratch_dir: None, ..Config::clone(&config::current()) });
    let taken = &story.accept(by("auto", story.request("incremental"))).taken;
    assert_eq!((taken.engine, taken.details.as_str()), (Engine::Pull, ""));
    story.last().assert_incremental();
    story.assert_all_restore();
}
