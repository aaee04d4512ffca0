//! Limits of bandwidth, as measured: these tests need a machine that does nothing else (tests/run).

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod support;

use std::thread;
use std::time::Instant;

use nasbackup::error::{Code, Result};
use nasbackup::operation::take_backup::{self, TakeBackupRequest};
use nasbackup::operation::verify_chain::{self, Verdict, VerifyChainRequest};
use nasbackup::operation::verify_data;
use nasbackup::work::phase::Phase;
use support::{Guest, MIB, Nas, Story, by, configured, details};

/// Bytes done at each moment of a copy.
type Course = Vec<(Instant, u64)>;

fn watched(request: TakeBackupRequest) -> (Result<take_backup::TakenBackup>, Course) {
    let mut course = Vec::new();
    let taken = take_backup::run(request, &mut |status| {
        if status.phase == Phase::Copy && 0 < status.done_bytes && status.done_bytes < status.total_bytes {
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
fn a_verification_keeps_its_limit() {
    let _configured = configured(|_| {});
    let mut story = Story::new(Guest::full_of_data(16), Nas::folder());
    story.accept(by("pull", story.request("full")));
    let request = VerifyChainRequest {
        repository: story.request("full").repository,
        backup_path: Some(story.last().path.clone()),
        rate_limit: Some(4 * MIB),
        ..VerifyChainRequest::default()
    };
    let begun = Instant::now();
    let verified = verify_data::run(request.clone(), &mut |_| Ok(())).unwrap();
    assert_eq!(verified.verdict, Verdict::Good);
    // what the first request reads is not waited for
    assert!(begun.elapsed().as_secs() >= 3, "16 MiB in {:?}", begun.elapsed());
    let refused = verify_chain::run(request, &mut |_| Ok(())).unwrap_err();
    assert_eq!(refused.code, Code::InvalidArgument, "it reads no data");
}
