//! What goes wrong while a pull runs: the guest goes on as if nothing were, and the next backup is incremental.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nasbackup::error::{Code, Error};
use nasbackup::nas::repository::Repository;
use nasbackup::operation;
use nasbackup::operation::take_backup::{TakeBackupRequest, TakenBackup};
#[cfg(feature = "test-hooks")]
use nasbackup::shorten;
use nasbackup::work::phase::Phase;
use nasbackup::work::stuck;
use rustix::fs::{FlockOperation, flock};
use serde_json::json;

use crate::support::{
    Disk, Fs, Guest, MIB, Nas, PATIENCE, Story, fails_after, fails_as_begin_hangs, slow_story_on, take, take_and, until,
};

/// The next backup is incremental, and everything reads back.
fn goes_on(mut story: Story) {
    story.assert_guest_untouched();
    assert_eq!(story.guest.state(), "running");
    story.guest.write(0, 0x52, 60 * MIB, MIB);
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

#[test]
fn qemu_is_killed() {
    let mut story = slow_story_on(Nas::folder());
    let elapsed = fails_after(&mut story, "JOB_FAILED", |guest, _| guest.kill_qemu());
    assert!(elapsed < PATIENCE, "{elapsed:?}");
    story.guest.start();
    let parent = story.bitmap();
    story.take("incremental").assert_without_bitmap(&parent);
    story.assert_all_restore();
}

#[test]
fn the_guest_is_destroyed() {
    let mut story = slow_story_on(Nas::folder());
    let mut error = None;
    let mut acted = Instant::now();
    story.refuse_with(story.request("incremental"), "JOB_FAILED", |story, request| {
        let result = take_and(request, |_| {
            story.guest.stop();
            acted = Instant::now();
        });
        error = result.as_ref().err().cloned();
        result
    });
    assert!(acted.elapsed() < PATIENCE, "{:?}", acted.elapsed());
    let cause = error.unwrap().cause;
    assert!(cause.contains("guest stopped"), "{cause}");
    story.guest.start();
    story.guest.write(0, 0x52, 60 * MIB, MIB);
    // Full or incremental: its bitmap may have been stored, or not.
    story.take("incremental");
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

#[test]
fn cancel_ends_it_and_leaves_the_guest_as_it_was() {
    let mut story = slow_story_on(Nas::folder());
    let job = format!("cancel-{}", story.guest.name);
    let request = TakeBackupRequest { job: Some(job.clone()), ..story.request("incremental") };
    let mut cancelled = Instant::now();
    story.refuse_with(request, "CANCELLED", |_, request| {
        take_and(request, |_| {
            cancelled = Instant::now();
            assert!(operation::cancel(&job).found);
        })
    });
    let elapsed = cancelled.elapsed();
    // well before an abort is given up
    assert!(elapsed < PATIENCE, "{elapsed:?}");
    goes_on(story);
}

#[test]
fn the_deadline_passes() {
    let mut story = slow_story_on(Nas::folder());
    let request = TakeBackupRequest { wait_seconds: Some(1), ..story.request("incremental") };
    story.refuse(request, "TIMEOUT");
    goes_on(story);
}

#[test]
fn somebody_aborts_the_job() {
    let mut story = slow_story_on(Nas::folder());
    fails_after(&mut story, "JOB_FAILED", |guest, _| drop(guest.virsh(&["domjobabort"])));
    goes_on(story);
}

#[test]
fn progress_goes_up_to_what_there_is_to_do() {
    let mut story = slow_story_on(Nas::folder());
    let (mut seen, mut foreseen) = (Vec::new(), false);
    story.accept_with(story.request("incremental"), |request| {
        operation::take_backup::run(request, &mut |status| {
            if status.phase == Phase::Copy {
                seen.push((status.done_bytes, status.total_bytes));
                foreseen |= status.bytes_per_second > Some(0) && status.remaining_millis > Some(0);
            }
            Ok(())
        })
    });
    assert!(seen.iter().any(|(done, total)| 0 < *done && done < total), "{seen:?}");
    assert!(seen.is_sorted_by_key(|(done, _)| *done), "{seen:?}");
    assert_eq!(seen.last().unwrap().1, 48 * MIB, "{seen:?}");
    assert!(foreseen, "its end was in sight");
}

#[test]
fn a_repository_that_fills_up() {
    let mut story = slow_story_on(Nas::image(Fs::Ext4, 160));
    fails_after(&mut story, "NO_SPACE", |_, nas| nas.fill());
    story.nas.empty();
    goes_on(story);
}

#[test]
fn a_repository_too_small_from_the_start() {
    let mut story = Story::new(Guest::full_of_data(48), Nas::image(Fs::Ext4, 24));
    let error = story.refuse(story.request("full"), "NO_SPACE");
    assert_eq!(error.step, "look at the free space", "{error}");
    story.assert_guest_untouched();
}

/// The guest's job is over, its writes go on, and only the call's deadline ends the wait for the repository.
fn hangs_in_the_middle(
    act: impl FnOnce(&Story),
    ask: impl FnOnce(TakeBackupRequest) -> TakeBackupRequest,
) -> (Story, Error) {
    let mut story = slow_story_on(Nas::folder());
    let request = ask(story.request("incremental"));
    let error = take_and(request, |_| act(&story)).unwrap_err();
    assert!(error.leftovers, "the write that hangs: {error}");
    let nas = Repository::check(Some(story.nas.repository())).unwrap();
    assert!(stuck::stuck(nas) > 0);
    // Nothing of libvirt or QEMU waits for the repository.
    story.guest.assert_no_job();
    story.assert_guest_untouched();
    let start = Instant::now();
    story.guest.write(0, 0x61, 70 * MIB, MIB);
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    story.nas.go_on();
    story.skip();
    until("what it left goes", || story.half_made().is_empty());
    (story, error)
}

#[test]
fn a_repository_that_hangs_fails_at_the_deadline_and_the_guest_writes_on() {
    let mut asked = Instant::now();
    let act = |story: &Story| {
        story.nas.hang();
        asked = Instant::now();
    };
    let ask = |request| TakeBackupRequest { wait_seconds: Some(5), ..request };
    let (story, error) = hangs_in_the_middle(act, ask);
    assert_eq!(error.code, Code::NasUnresponsive, "{error}");
    goes_on(story);
}

#[test]
fn a_repository_that_hangs_can_be_cancelled() {
    let job = format!("hang-{}", std::process::id());
    let mut cancelled = Instant::now();
    let act = |story: &Story| {
        story.nas.hang();
        cancelled = Instant::now();
        operation::cancel(&job);
    };
    let ask = |request| TakeBackupRequest { job: Some(job.clone()), ..request };
    let (story, error) = hangs_in_the_middle(act, ask);
    assert_eq!(error.code, Code::Cancelled, "{error}");
    goes_on(story);
}

#[test]
fn a_repository_that_hangs_before_the_beginning() {
    let mut story = Story::new(Guest::full_of_data(1), Nas::folder().through_fuse());
    story.guest.resize(0, 80 * MIB);
    story.take("full").assert_full(true);
    let request = story.request("incremental");
    story.nas.hang();
    let error = take(request).unwrap_err();
    assert_eq!(error.code, Code::NasUnresponsive, "{error}");
    story.assert_guest_untouched();
    story.nas.go_on();
    story.skip();
    until("the hung call's partial folder goes", || story.half_made().is_empty());
    goes_on(story);
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
    let mut story = slow_story_on(Nas::folder());
    let stats = fails_as_begin_hangs(&mut story, hung, |story| {
        let repository = json!({"repository": {"type": "dir", "address": story.nas.root()}});
        operation::call("backupStats", &repository.to_string(), &mut |_| Ok(()))
    });
    stats.unwrap();
    goes_on(story);
}

#[test]
fn a_paused_guest_stays_paused_after_a_failure() {
    let mut story = slow_story_on(Nas::image(Fs::Ext4, 160));
    fails_after(&mut story, "NO_SPACE", |guest, nas| {
        guest.suspend();
        nas.fill();
    });
    assert_eq!(story.guest.state(), "paused", "somebody wanted it so");
    story.guest.resume();
    story.nas.empty();
    goes_on(story);
}

/// What is there after the agent was killed: a job of ours that nobody reads, and its folder.
#[test]
fn a_job_that_was_left_behind_is_ended() {
    let mut story = Story::new(Guest::new([Disk::new()]), Nas::folder());
    story.guest.write(0, 0x41, 0, MIB);
    story.take("full").assert_full(true);
    let folder =
        nasbackup::config::current().state_dir.join("scratch").join(format!("{}-987654321", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let lock = std::fs::File::open(&folder).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    std::fs::write(folder.join("domain"), &story.guest.name).unwrap();
    let xml = folder.join("backup.xml");
    let text = format!(
        "<domainbackup mode='pull'><server transport='unix' socket='{0}/nbd'/><disks>\
         <disk name='vda' type='file'><scratch file='{0}/vda.qcow2'/></disk></disks></domainbackup>",
        folder.to_str().unwrap()
    );
    std::fs::write(&xml, text).unwrap();
    story.guest.virsh(&["backup-begin", "--backupxml", xml.to_str().unwrap()]);
    story.guest.write(0, 0x42, 0, MIB);
    story.refuse(story.request("incremental"), "BUSY");
    drop(lock);
    // Another test's backup may just be about to end it: whoever comes first does.
    let is_busy = |taken: &Result<TakenBackup, Error>| taken.as_ref().is_err_and(|error| error.code == Code::Busy);
    let taken = |request: TakeBackupRequest| {
        let mut taken = take(request.clone());
        until("the job that was left behind ends", || {
            if is_busy(&taken) {
                taken = take(request.clone());
            }
            !is_busy(&taken)
        });
        taken
    };
    story.accept_with(story.request("incremental"), taken).assert_incremental();
    assert!(!folder.exists());
    story.assert_all_restore();
}
