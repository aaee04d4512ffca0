//! What goes wrong while a backup runs: the guest goes on, nothing half-made is visible, the next backup is right.

use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nasbackup::error::{Code, Error};
use nasbackup::operation::{
    self,
    take_backup::{self, TakeBackupRequest},
};
use nasbackup::point::Kind;
#[cfg(feature = "test-hooks")]
use nasbackup::shorten;
use nasbackup::work::phase::Phase;
use serde_json::json;

use crate::support::{
    Disk, Fs, Guest, MIB, Nas, PATIENCE, Story, begin_foreign_backup, details, fails_after, fails_as_begin_hangs,
    hurried, slow_story_of, succeeds, take, take_and, take_too_late, until,
};

/// A guest with a full point whose next incremental has much to write, to a repository that takes it slowly. Its disk has an
/// iothread: it lives through each of these failures, too.
fn slow_story() -> Story {
    slow_story_of(Guest::on_iothread(1), Nas::folder())
}

#[test]
fn qemu_is_killed() {
    let mut story = slow_story();
    let elapsed = fails_after(&mut story, "JOB_FAILED", |guest, _| guest.kill_qemu());
    assert!(elapsed < PATIENCE, "{elapsed:?}");
    story.guest.start();
    story.take("incremental").assert_fallback();
    story.assert_all_restore();
}

#[test]
fn the_guest_is_destroyed() {
    let mut story = slow_story();
    let elapsed = fails_after(&mut story, "JOB_FAILED", |guest, _| guest.stop());
    assert!(elapsed < PATIENCE, "{elapsed:?}");
    story.guest.start();
    story.guest.write(0, 0x52, 60 * MIB, MIB);
    // Full or incremental: its bitmap may have been stored, or not.
    story.take("incremental");
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

#[test]
fn cancel_ends_it_and_leaves_the_guest_as_it_was() {
    // QEMU has up to 64 MiB under way, which no cancel calls back: the repository would be to blame.
    let mut story = Story::new(Guest::full_of_data(1), Nas::folder().slow(32));
    story.guest.resize(0, 160 * MIB);
    story.take("full").assert_full(true);
    story.guest.write(0, 0x51, 2 * MIB, 140 * MIB);
    let job = format!("cancel-{}", story.guest.name);
    let request = TakeBackupRequest { job: Some(job.clone()), ..story.request("incremental") };
    let mut cancelled = Instant::now();
    let error = story.refuse_with(request, "CANCELLED", |story, request| {
        take_and(request, |status| {
            story.guest.hold_job_still();
            assert_eq!(status.job, job);
            assert!(operation::jobs().iter().any(|listed| listed.job == job));
            cancelled = Instant::now();
            assert!(operation::cancel(&job).found);
        })
    });
    // well before an abort is given up
    let elapsed = cancelled.elapsed();
    assert!(elapsed < PATIENCE, "{elapsed:?}: {error}");
    assert!(!operation::cancel(&job).found, "it is not listed any more");
    story.assert_guest_untouched();
    assert_eq!(story.guest.state(), "running");
    story.guest.write(0, 0x52, 60 * MIB, MIB);
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

#[test]
fn an_error_of_the_listener_ends_it_and_is_the_result() {
    let mut story = slow_story();
    let own = Error::new(Code::Internal, "listen", "the listener's own");
    let given = own.clone();
    let error = story.refuse_with(story.request("incremental"), "INTERNAL", |_, request| {
        take_backup::run(request, &mut |status| if status.phase == Phase::Copy { Err(given.clone()) } else { Ok(()) })
    });
    assert_eq!(error, own);
    story.assert_guest_untouched();
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

#[test]
fn a_guest_that_falls_asleep_in_the_middle_is_not_gone() {
    let mut story = Story::new(Guest::new([Disk::new().size(80 * MIB)]), Nas::folder().slow(16));
    story.take("full").assert_full(true);
    let wake = |guest: &Guest| {
        guest.virsh(&["dompmwakeup"]);
        until("the guest is awake", || guest.state() == "running");
    };
    for (pattern, act, engine) in [
        (0x51, Guest::fall_asleep as fn(&Guest), "push"),
        (0x52, wake, "pull"),
        (0x53, Guest::fall_asleep, "pull"),
        (0x54, wake, "push"),
    ] {
        story.guest.write(0, pattern, 2 * MIB, 24 * MIB);
        let (state, content) = (story.guest.state(), story.content());
        let request = TakeBackupRequest { engine: Some(engine.into()), ..story.request("incremental") };
        let path = request.backup_path.clone().unwrap();
        let taken = take_and(request, |_| act(&story.guest));
        let taken = taken.unwrap_or_else(|error| panic!("{state}, by {engine}: {error}"));
        assert_eq!((taken.kind, details(&taken).as_str()), (Kind::Incremental, ""));
        assert_ne!(story.guest.state(), state, "it is not woken up, and not put to sleep again");
        story.guest.assert_no_job();
        story.adopt(path, content);
    }
    story.guest.fall_asleep();
    // Undone like that of a guest that runs.
    story.guest.write(0, 0x61, 2 * MIB, 24 * MIB);
    for engine in ["push", "pull"] {
        let request =
            TakeBackupRequest { engine: Some(engine.into()), wait_seconds: Some(1), ..story.request("incremental") };
        story.refuse(request, "TIMEOUT");
        story.assert_guest_untouched();
    }
    assert_eq!(story.guest.state(), "pmsuspended");
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

#[test]
fn the_deadline_passes() {
    let mut story = slow_story();
    let request = TakeBackupRequest { wait_seconds: Some(1), ..story.request("incremental") };
    story.refuse(request, "TIMEOUT");
    story.assert_guest_untouched();
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

#[test]
fn a_nas_that_was_not_asked_for_want_of_time_is_not_blamed() {
    let mut story = Story::with_full();
    story.guest.write(0, 0x51, 5 * MIB, MIB);
    story.refuse_with(story.request("incremental"), "TIMEOUT", |_, request| take_too_late(request));
    story.assert_guest_untouched();
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

/// It neither copies nor ends, and its repository answers.
#[test]
fn a_qemu_that_does_not_end_its_job_is_no_nas_that_hangs() {
    let mut story = slow_story();
    let request = TakeBackupRequest { wait_seconds: Some(5), ..story.request("incremental") };
    let guest = &story.guest;
    let take = || {
        take_and(request, |_| {
            guest.signal_qemu("-STOP");
            #[cfg(feature = "test-hooks")]
            shorten(&["abort the job", "wait for the aborted job"], Duration::from_secs(1));
        })
    };
    let error = hurried(take);
    story.guest.signal_qemu("-CONT");
    let error = error.unwrap_err();
    assert_eq!((error.code, error.leftovers), (Code::Timeout, true), "{error}");
    story.assert_goes_on();
}

#[test]
fn progress_goes_up_to_what_there_is_to_do() {
    let mut story = slow_story();
    let mut seen = Vec::new();
    let request = story.request("incremental");
    story.accept_with(request, |request| {
        take_backup::run(request, &mut |status| {
            if status.phase == Phase::Copy {
                seen.push((status.done_bytes, status.total_bytes));
            }
            Ok(())
        })
    });
    assert!(seen.iter().any(|(done, total)| 0 < *done && done < total), "{seen:?}");
    assert!(seen.is_sorted_by_key(|(done, _)| *done), "{seen:?}");
    assert!(seen.iter().all(|(done, total)| done <= total), "{seen:?}");
}

#[test]
fn a_repository_too_small_from_the_start() {
    let mut story = Story::new(Guest::full_of_data(48), Nas::image(Fs::Ext4, 24));
    story.refuse(story.request("full"), "NO_SPACE");
    story.assert_guest_untouched();
    assert_eq!(story.guest.state(), "running");
}

#[test]
fn a_repository_that_fills_up() {
    let mut story = slow_story_of(Guest::on_iothread(1), Nas::image(Fs::Ext4, 160));
    fails_after(&mut story, "NO_SPACE", |_, nas| nas.fill());
    assert_eq!(story.guest.state(), "running", "a full NAS is not the guest's business");
    story.nas.empty();
    story.assert_guest_untouched();
    story.guest.write(0, 0x52, 60 * MIB, MIB);
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

/// It has room, and what may be written there is used up: statvfs does not tell, and QEMU only by a text.
#[test]
fn a_repository_whose_quota_is_used_up() {
    let mut story = Story::new(Guest::full_of_data(1), Nas::with_quota(24));
    story.guest.resize(0, 80 * MIB);
    story.take("full").assert_full(true);
    story.guest.write(0, 0x51, 2 * MIB, 48 * MIB);
    for engine in ["push", "pull"] {
        let request = TakeBackupRequest { engine: Some(engine.into()), ..story.request("incremental") };
        let error = story.refuse(request, "NO_SPACE");
        assert!(error.cause.contains("(os error 122)"), "{engine}: {error}");
        assert_eq!(story.guest.state(), "running", "{engine}");
        story.assert_guest_untouched();
    }
    story.guest.stop();
    let error = story.refuse(story.stopped_request("incremental"), "NO_SPACE");
    assert!(error.cause.contains("(os error 122)"), "{error}");
    story.guest.start();
    story.nas.set_quota("none");
    let parent = story.bitmap();
    story.take("incremental").assert_recreated(&parent);
    story.assert_all_restore();
}

/// Its bitmap is stored in the disks when QEMU ends, and libvirt knows nothing of it any more.
#[test]
fn a_guest_that_is_restarted_before_its_backup_fails_keeps_no_bitmap_of_it() {
    let mut story = Story::new(Guest::ordinary(), Nas::image(Fs::Ext4, 160));
    story.take("full").assert_full(true);
    let parent = story.bitmap();
    story.refuse_with(story.request("incremental"), "NO_SPACE", |story, request| {
        take_backup::run(request, &mut |status| {
            if status.phase == Phase::Publish {
                story.guest.restart();
                story.nas.fill();
            }
            Ok(())
        })
    });
    story.nas.empty();
    for disk in 0..story.guest.disks.len() {
        assert_eq!(story.guest.bitmaps(disk), [parent.as_str()], "disk {disk}");
    }
    story.take("incremental").assert_recreated(&parent);
    story.assert_all_restore();
}

#[test]
fn a_second_backup_at_once_is_refused_and_the_first_unharmed() {
    let mut story = slow_story();
    let request = story.request("incremental");
    let other = TakeBackupRequest {
        backup_path: Some(format!("{}/2027.01.01.00.00.00", story.guest.name)),
        bitmap_new: Some("second".into()),
        ..request.clone()
    };
    let same = request.clone();
    let point = story.accept_with(request, |request| {
        take_and(request, |_| {
            // The same path and another one.
            for second in [same, other] {
                let start = Instant::now();
                let error = take(second).unwrap_err();
                assert_eq!(error.code, Code::Busy, "{error}");
                assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
            }
        })
    });
    point.assert_incremental();
    story.assert_all_restore();
}

#[test]
fn somebody_else_s_job_is_left_alone() {
    let mut story = Story::with_full();
    begin_foreign_backup(&story.guest);
    let start = Instant::now();
    story.refuse(story.request("incremental"), "BUSY");
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    story.guest.virsh(&["backup-dumpxml"]);
    story.guest.virsh(&["domjobabort"]);
    until("their job ends", || story.guest.virsh(&["domjobinfo"]).contains("None"));
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

/// A dump is to libvirt what a save and a migration are: a job on the whole domain.
#[test]
fn a_dump_of_somebody_else_is_left_alone() {
    let mut story = Story::with_full();
    let slow = Nas::folder().slow(8);
    let file = slow.at("memory");
    let mut dump = Command::new("virsh")
        .args(["dump", "--live", "--memory-only", &story.guest.name, file.to_str().unwrap()])
        .spawn()
        .unwrap();
    until("memory is written", || file.metadata().is_ok_and(|file| file.len() > MIB));
    story.refuse(story.request("incremental"), "BUSY");
    assert!(dump.wait().unwrap().success(), "their job goes on to its end");
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

/// QEMU hangs, in the guest's own storage for one, which says nothing of the repository.
#[cfg(feature = "test-hooks")]
#[test]
fn a_begin_that_hangs_is_not_the_repository_s_fault() {
    begin_hangs(|| {
        shorten(&["begin the backup", "abort the job"], Duration::from_secs(2));
        // its files are open as long as it hangs: each try is in vain
        shorten(&["remove a folder"], Duration::from_millis(25));
    });
}

#[test]
#[ignore = "make soak: minutes"]
fn a_begin_that_hangs_is_given_up_after_a_minute() {
    begin_hangs(|| ());
}

fn begin_hangs(hung: impl Fn() + Sync) {
    let mut story = slow_story();
    fails_as_begin_hangs(&mut story, hung, |_| ());
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

#[test]
fn a_repository_that_hangs_before_the_beginning() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder().through_fuse());
    story.take("full").assert_full(true);
    let request = TakeBackupRequest { wait_seconds: Some(5), ..story.request("incremental") };
    story.nas.hang();
    let start = Instant::now();
    let error = take(request).unwrap_err();
    let elapsed = start.elapsed();
    assert_eq!(error.code, Code::NasUnresponsive, "{error}");
    assert!(elapsed < PATIENCE, "{elapsed:?}");
    let start = Instant::now();
    assert!(succeeds("virsh", ["list", "--all"]));
    assert!(start.elapsed() < PATIENCE, "the host's other guests wait: {:?}", start.elapsed());
    story.assert_guest_untouched();
    story.nas.go_on();
    story.skip();
    until("the hung call's partial folder goes", || story.half_made().is_empty());
    story.guest.write(0, 0x52, 20 * MIB, MIB);
    story.take_until_free();
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

#[test]
fn a_repository_that_hangs_in_the_middle() {
    let mut story = slow_story();
    let request = TakeBackupRequest { wait_seconds: Some(5), ..story.request("incremental") };
    let start = Instant::now();
    let error = hurried(|| take_and(request, |_| story.nas.hang())).unwrap_err();
    let elapsed = start.elapsed();
    assert_eq!(error.code, Code::NasUnresponsive, "{error}");
    assert!(elapsed < PATIENCE, "{elapsed:?}");
    let busy = take(story.request("incremental")).unwrap_err();
    assert!(matches!(busy.code, Code::Busy | Code::NasUnresponsive), "{busy}");
    story.nas.go_on();
    until("QEMU's job ends", || story.guest.qmp(json!({"execute": "query-jobs"})) == json!([]));
    assert_eq!(story.guest.state(), "running");
    story.skip();
    story.take_until_free();
    story.guest.write(0, 0x52, 60 * MIB, MIB);
    story.take("incremental");
    story.take("incremental").assert_incremental();
    story.assert_nothing_half_made();
    story.assert_all_restore();
}

/// Nothing of it is waited for, not even the close of a file with data that the repository has not.
#[test]
fn a_push_to_a_repository_that_hangs_can_be_cancelled() {
    let mut story = slow_story();
    let job = format!("hang-{}", story.guest.name);
    let request = TakeBackupRequest { job: Some(job.clone()), ..story.request("incremental") };
    let (tell, told) = mpsc::channel();
    let error = std::thread::scope(|scope| {
        let nas = &story.nas;
        scope.spawn(move || {
            let taken = take_and(request, |_| {
                nas.hang();
                assert!(operation::cancel(&job).found);
            });
            tell.send(taken.unwrap_err()).unwrap();
        });
        let error = told.recv_timeout(PATIENCE);
        nas.go_on();
        error.expect("an answer while it hangs")
    });
    assert!(error.code == Code::Cancelled && error.leftovers, "{error}");
    until("QEMU's job ends", || story.guest.qmp(json!({"execute": "query-jobs"})) == json!([]));
    story.skip();
    story.take_until_free();
    story.assert_nothing_half_made();
    story.guest.write(0, 0x52, 60 * MIB, MIB);
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

/// Who asked waits somewhat longer than the job may take, and no ten minutes.
#[test]
fn a_repository_that_hangs_at_the_end() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder().through_fuse());
    story.take("full").assert_full(true);
    story.guest.write(0, 0x51, 5 * MIB, MIB);
    for stopped in [false, true] {
        if stopped {
            story.guest.stop();
        }
        let request = if stopped { story.stopped_request("incremental") } else { story.request("incremental") };
        let request = TakeBackupRequest { wait_seconds: Some(10), ..request };
        let start = Instant::now();
        let take = || {
            take_backup::run(request, &mut |status| {
                if status.phase == Phase::Publish {
                    story.nas.hang();
                }
                Ok(())
            })
        };
        let error = hurried(take);
        let (error, elapsed) = (error.unwrap_err(), start.elapsed());
        assert!(error.code == Code::NasUnresponsive && error.leftovers, "{error}");
        assert!(elapsed < PATIENCE, "{elapsed:?}");
        story.nas.go_on();
        story.skip();
        until("what it left goes", || story.half_made().is_empty());
    }
    story.guest.start();
    story.take_until_free();
    let parent = story.bitmap();
    story.take("incremental").assert_recreated(&parent);
    story.assert_all_restore();
}

/// NFS and FUSE keep a removed file that somebody has open under another name, in the same folder.
#[test]
fn a_file_that_a_writer_left_open_does_not_keep_its_point() {
    let nas = Nas::folder().through_fuse();
    std::fs::create_dir(nas.at("point")).unwrap();
    let open = std::fs::File::create(nas.at("point/file")).unwrap();
    let root = nasbackup::nas::folder::Folder::open_root(nas.root()).unwrap();
    let removal = std::thread::spawn(move || root.remove_tree("point"));
    until("it goes under its name", || !nas.at("point/file").exists());
    drop(open);
    removal.join().unwrap().unwrap();
    assert!(!nas.at("point").exists());
}

#[test]
fn a_repository_that_hangs_under_a_stopped_guest() {
    let mut story = Story::new(Guest::full_of_data(1), Nas::folder().slow(16));
    story.guest.stop();
    let request = TakeBackupRequest { wait_seconds: Some(5), ..story.stopped_request("full") };
    let start = Instant::now();
    let error = hurried(|| take_and(request, |_| story.nas.hang())).unwrap_err();
    assert_eq!(error.code, Code::NasUnresponsive, "{error}");
    assert!(error.leftovers, "{error}");
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    story.nas.go_on();
    story.skip();
    until("what it left goes", || story.half_made().is_empty());
    story.take_stopped("full");
    story.guest.start();
    story.assert_all_restore();
}

/// Ours has ended, and we have not heard of it yet.
#[test]
fn a_backup_that_somebody_else_has_begun_in_the_meantime_is_not_ended_with_ours() {
    let mut story = slow_story();
    let job = format!("overtaken-{}", story.guest.name);
    let request = TakeBackupRequest { job: Some(job.clone()), ..story.request("incremental") };
    let error = take_and(request, |_| {
        story.guest.virsh(&["domjobabort"]);
        begin_foreign_backup(&story.guest);
        assert!(operation::cancel(&job).found);
    });
    assert_eq!(error.unwrap_err().code, Code::Cancelled);
    story.guest.virsh(&["backup-dumpxml"]);
    story.skip();
    until("what was left of ours has been cleared", || {
        take(story.request("incremental")).is_err_and(|error| error.cause.contains("another job"))
    });
    story.guest.virsh(&["backup-dumpxml"]);
    story.guest.virsh(&["domjobabort"]);
    story.take("incremental").assert_incremental();
    story.assert_nothing_half_made();
    story.assert_all_restore();
}

#[test]
fn a_pause_that_is_not_the_backup_s_stays() {
    let mut story = slow_story_of(Guest::on_iothread(1), Nas::image(Fs::Ext4, 160));
    fails_after(&mut story, "NO_SPACE", |guest, nas| {
        guest.suspend();
        nas.fill();
    });
    assert_eq!(story.guest.state(), "paused", "somebody wanted it so");
    story.guest.resume();
    story.assert_guest_untouched();
}

#[test]
fn a_block_job_of_somebody_else_is_left_alone() {
    let mut story = Story::with_full();
    let copy = story.nas.root().parent().unwrap().join(format!("{}-copy", story.guest.name));
    let target = story.guest.target(1);
    story.guest.virsh(&["blockcopy", &target, copy.to_str().unwrap(), "--transient-job"]);
    story.refuse(story.request("incremental"), "BUSY");
    assert!(story.guest.virsh(&["dumpxml"]).contains("<mirror"), "their job goes on");
    story.guest.virsh(&["blockjob", &target, "--abort"]);
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
    std::fs::remove_file(copy).unwrap();
}
