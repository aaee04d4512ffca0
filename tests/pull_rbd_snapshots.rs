//! Guests whose disks are images in Ceph: a snapshot stays in each image, so that the next backup reads what Ceph says has changed.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod support;

use std::os::unix::fs::PermissionsExt;

use nasbackup::error::{Code, Error};
use nasbackup::operation::take_backup::{self, TakeBackupRequest};
use nasbackup::point::Kind::{Full, Incremental};
use nasbackup::work::job::JobStatus;
use nasbackup::work::phase::Phase;

use serde_json::json;
use support::{
    Agent, Ceph, Disk, Ended, Guest, Image, MIB, Nas, Story, by, ceph, hurried, own_host, repository_json,
    run_as_agent, take_and_when, take_json, until,
};

/// Of the disk.
const SIZE: u64 = 64 * MIB;
const CLUSTER: u64 = 64 << 10;
/// How much it begins with where that does not matter: the cluster has all of it in memory.
const SOME: u64 = 16 * MIB;

/// Not a test: what another process of this binary runs.
#[test]
fn agent() {
    run_as_agent();
}

/// A guest with a disk in Ceph that begins with so many bytes of data.
fn on_rbd(bytes: u64) -> Story {
    let mut story = Story::new(Guest::new([Disk::rbd()]), Nas::folder());
    story.guest.write(0, 0x41, 0, bytes);
    story
}

/// The same, stopped, and a full point of it.
fn with_full(bytes: u64) -> Story {
    let mut story = on_rbd(bytes);
    story.guest.stop();
    assert_eq!(take(&mut story, "full"), bytes);
    story
}

fn image(story: &Story) -> &str {
    story.guest.disks[0].volume()
}

/// Has the guest, which is stopped, run for a moment.
fn while_it_runs(story: &mut Story, act: impl FnOnce(&mut Guest)) {
    story.guest.start();
    act(&mut story.guest);
    story.guest.stop();
}

/// Backs up the guest as it is, and checks the snapshots. Returns how many bytes of its disks were read.
fn take(story: &mut Story, mode: &str) -> u64 {
    let request = if story.guest.state() == "gone" { story.stopped_request(mode) } else { story.request(mode) };
    let mut read = 0;
    story.accept_with(request, |request| {
        let mut taken = None;
        // another test's agent that is just starting may be undoing what one that was killed has left
        until("nobody is at the guest's job", || {
            let answer = take_backup::run(request.clone(), &mut |status| {
                read = read.max(status.total_bytes);
                Ok(())
            });
            taken = Some(answer).filter(|answer| !matches!(answer, Err(error) if error.code == Code::Busy));
            taken.is_some()
        });
        taken.unwrap()
    });
    assert_snapshots(story, &[]);
    read
}

/// Of ours there is the newest point's alone, and these of others.
fn assert_snapshots(story: &Story, others: &[&str]) {
    let mut there = ceph().snapshots(image(story));
    there.retain(|name| !others.contains(&name.as_str()) && !FOREIGN.contains(&name.as_str()));
    assert_eq!(there, [format!("nasbackup-{}", story.last().taken.point_id)]);
    let manifest = story.manifest(&story.last().path);
    assert_eq!(manifest["disks"][0]["snapshot"]["name"], there[0]);
}

/// Names that others give.
const FOREIGN: [&str; 2] = ["nasbackup-daily", "somebody's"];

/// The incremental that was taken last is one, and says that it has read no more than what has changed.
fn assert_by_snapshot(story: &Story) {
    let taken = &story.last().taken;
    assert_eq!(taken.kind, Incremental, "{taken:?}");
    assert!(
        taken.details.contains("bytes were read, which Ceph says") && !taken.details.contains("read whole"),
        "{taken:?}"
    );
}

/// The same of one that has read all, for this reason.
fn assert_read_whole(story: &Story, reason: &str) {
    let taken = &story.last().taken;
    assert_eq!(taken.kind, Incremental, "{taken:?}");
    assert!(taken.details.contains(&format!("read whole: {reason}")), "{reason}: {taken:?}");
}

/// Of 1 % that is changed here and there.
fn change_a_hundredth(guest: &mut Guest, pattern: u8) {
    for at in 0..SIZE / CLUSTER / 100 {
        guest.write(0, pattern, at * 6 * MIB + 4096, 4096);
    }
}

#[test]
fn of_a_stopped_guest_no_more_is_read_than_what_has_changed() {
    let mut story = with_full(SIZE);
    while_it_runs(&mut story, |guest| change_a_hundredth(guest, 0x51));
    let read = take(&mut story, "incremental");
    assert!(read > 0 && 10 * read <= SIZE, "{read}");
    assert_by_snapshot(&story);
    assert_eq!(take(&mut story, "incremental"), 0, "nothing has changed");
    assert_by_snapshot(&story);
    story.assert_all_restore();
}

/// Whatever it was that changed the image.
#[test]
fn what_has_changed_is_found_in_every_image() {
    type Change = fn(&mut Story);
    let changes: [(&str, Change); 11] = [
        ("discarded in part, and whole objects", |story| {
            while_it_runs(story, |guest| {
                guest.discard(0, 12 * MIB, 9 * MIB);
                guest.discard(0, 29 * MIB, MIB);
            });
        }),
        ("discarded to an object's end", |story| while_it_runs(story, |guest| guest.discard(0, 33 * MIB, 3 * MIB))),
        ("zeroed", |story| while_it_runs(story, |guest| guest.write_zeroes(0, 40 * MIB, 5 * MIB))),
        ("written where it was discarded", |story| while_it_runs(story, |guest| guest.write(0, 0x61, 13 * MIB, MIB))),
        ("grown", |story| {
            ceph().resize(image(story), 72 * MIB + 512);
            while_it_runs(story, |guest| guest.write_on(0, 0x53, 63 * MIB, 9 * MIB + 512));
        }),
        ("shrunk and grown again", |story| {
            ceph().resize(image(story), 69 * MIB);
            ceph().resize(image(story), 72 * MIB + 512);
        }),
        ("cut off within what a clone has of its parent and grown again", |story| {
            ceph().resize(image(story), 26 * MIB);
            ceph().resize(image(story), 72 * MIB + 512);
        }),
        ("rolled back", |story| {
            ceph().snapshot(image(story), FOREIGN[1]);
            while_it_runs(story, |guest| guest.write_on(0, 0x54, MIB, 2 * MIB));
            ceph().roll_back(image(story), FOREIGN[1]);
        }),
        ("rolled back to before the point", |story| {
            while_it_runs(story, |guest| guest.write_on(0, 0x55, 2 * MIB, 3 * MIB));
            take(story, "incremental");
            ceph().roll_back(image(story), FOREIGN[1]);
        }),
        ("without fast-diff", |story| {
            ceph().disable(image(story), &["fast-diff", "object-map"]);
            while_it_runs(story, |guest| guest.write(0, 0x56, 3 * MIB, MIB));
        }),
        ("with a map of its objects that nobody has made anew", |story| {
            ceph().enable(image(story), &["object-map", "fast-diff"]);
            while_it_runs(story, |guest| guest.write(0, 0x57, 3 * MIB, MIB));
        }),
    ];
    for cloned in [false, true] {
        let mut story = Story::new(Guest::stopped([Disk::rbd()]), Nas::folder());
        if cloned {
            // its end is the parent's no more, and there is a hole in it
            let mut content = vec![7; 50 * MIB as usize];
            content[21 * MIB as usize..30 * MIB as usize].fill(0);
            ceph().replace_by_clone(image(&story), &content);
            ceph().resize(image(&story), SIZE);
        } else {
            while_it_runs(&mut story, |guest| guest.write(0, 0x41, 0, SIZE));
        }
        take(&mut story, "full");
        ceph().snapshot(image(&story), FOREIGN[0]);
        for (change, act) in changes {
            act(&mut story);
            let read = take(&mut story, "incremental");
            println!("cloned: {cloned}, {change}: {read} bytes were read");
            assert_by_snapshot(&story);
            assert!(read < SIZE / 2, "{change}: {read}");
        }
        story.assert_all_restore();
        let there = ceph().snapshots(image(&story));
        assert!(FOREIGN.iter().all(|name| there.contains(&(*name).to_owned())), "{there:?}");
    }
}

#[test]
fn an_image_is_read_whole_where_ceph_can_not_tell_what_has_changed_and_the_next_is_not() {
    let mut story = with_full(SOME);
    let next = |story: &mut Story, pattern| {
        while_it_runs(story, |guest| {
            guest.discard(0, 60 * MIB, 4096);
            guest.write_on(0, pattern, 3 * MIB, MIB);
        });
        assert!(take(story, "incremental") <= MIB);
        assert_by_snapshot(story);
    };
    ceph().remove_snapshot(image(&story), &ceph().snapshots(image(&story))[0]);
    assert_eq!(take(&mut story, "incremental"), SOME);
    assert_read_whole(&story, "its snapshot");
    next(&mut story, 0x51);
    // one of the same name
    let name = ceph().snapshots(image(&story)).remove(0);
    ceph().remove_snapshot(image(&story), &name);
    while_it_runs(&mut story, |guest| guest.write_on(0, 0x52, 5 * MIB, MIB));
    ceph().snapshot(image(&story), &name);
    assert_eq!(take(&mut story, "incremental"), SOME);
    assert_read_whole(&story, "its snapshot");
    next(&mut story, 0x53);
    // another image of the same name, with a snapshot of that name
    let name = ceph().snapshots(image(&story)).remove(0);
    ceph().remove_snapshot(image(&story), &name);
    ceph().remove(image(&story));
    ceph().import(image(&story), &vec![9; SOME as usize]);
    ceph().resize(image(&story), SIZE);
    ceph().snapshot(image(&story), &name);
    assert_eq!(take(&mut story, "incremental"), SOME);
    assert_read_whole(&story, "it is another image of that name");
    next(&mut story, 0x54);
    story.assert_all_restore();
}

/// The newest point may be another than that of which the image has the snapshot.
#[test]
fn what_was_restored_deleted_or_taken_by_push_meanwhile_costs_no_change() {
    let mut story = with_full(SOME);
    while_it_runs(&mut story, |guest| {
        guest.discard(0, 60 * MIB, 4096);
        guest.write_on(0, 0x51, 3 * MIB, MIB);
    });
    take(&mut story, "incremental");
    let call = |operation: &str, request: serde_json::Value| {
        nasbackup::operation::call(operation, &request.to_string(), &mut |_| Ok(())).unwrap();
    };
    // what of the first differs from the second is written over what is there, and the third takes it
    call(
        "restorePoint",
        json!({
            "repository": repository_json(&story.nas.repository()),
            "backupPath": story.points[0].path,
            "volumes": [{
                "volume": image(&story),
                "output": {"path": ceph().source(image(&story)), "format": "raw"},
            }],
        }),
    );
    assert!(take(&mut story, "incremental") <= MIB);
    assert_by_snapshot(&story);
    // and the next stands on the second again
    let path = story.last().path.clone();
    call("deleteBackup", json!({"repository": repository_json(&story.nas.repository()), "backupPath": path}));
    drop(story.points.pop().unwrap());
    assert_eq!(take(&mut story, "incremental"), SOME);
    assert_read_whole(&story, "its snapshot");
    // one that push has taken is nobody's parent
    story.guest.start();
    story.guest.write(0, 0x52, 5 * MIB, MIB);
    let by_push = by("push", story.request("full"));
    story.accept(by_push);
    story.guest.write(0, 0x53, 7 * MIB, MIB);
    assert!(take(&mut story, "incremental") <= 2 * MIB);
    assert_by_snapshot(&story);
    story.assert_all_restore();
}

/// As on a host that can't ask for a snapshot: the image itself is read, and the guest has to rest.
#[cfg(feature = "test-hooks")]
#[test]
fn where_no_snapshot_can_be_taken_the_image_is_read_as_it_is() {
    let mut story = with_full(SOME);
    while_it_runs(&mut story, |guest| guest.write(0, 0x51, 3 * MIB, MIB));
    let tools = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/usr/bin/qemu-nbd", tools.path().join("qemu-nbd")).unwrap();
    let request = story.stopped_request("incremental");
    let (path, content) = (request.backup_path.clone().unwrap(), story.content());
    let agent = Agent::new(&own_host(), &[("takeBackup", take_json(&request))]);
    agent.with_tools(tools.path()).succeed();
    story.adopt(path, content);
    assert!(story.manifest(&story.last().path)["disks"][0]["snapshot"].is_null());
    while_it_runs(&mut story, |guest| guest.write(0, 0x52, 5 * MIB, MIB));
    assert_eq!(take(&mut story, "incremental"), SOME);
    assert_read_whole(&story, "the parent point names no snapshot");
    story.assert_all_restore();
}

#[test]
fn of_a_running_guest_no_more_is_read_than_what_has_changed() {
    let mut story = on_rbd(SIZE);
    assert_eq!(take(&mut story, "full"), SIZE);
    change_a_hundredth(&mut story.guest, 0x51);
    let read = take(&mut story, "incremental");
    assert!(read > 0 && 10 * read <= SIZE, "{read}");
    assert_by_snapshot(&story);
    story.guest.discard(0, 12 * MIB, 9 * MIB);
    story.guest.write_zeroes(0, 40 * MIB, 5 * MIB);
    story.guest.restart();
    story.guest.write(0, 0x52, 13 * MIB, MIB);
    assert!(take(&mut story, "incremental") <= 6 * MIB);
    assert_by_snapshot(&story);
    // whether it runs or not
    story.guest.stop();
    assert_eq!(take(&mut story, "incremental"), 0);
    assert_by_snapshot(&story);
    story.guest.start();
    story.guest.write(0, 0x53, 3 * MIB, MIB);
    assert!(take(&mut story, "incremental") <= MIB);
    assert_by_snapshot(&story);
    story.guest.resize(0, 72 * MIB);
    story.guest.write(0, 0x54, 63 * MIB, 9 * MIB);
    assert!(take(&mut story, "incremental") <= 9 * MIB);
    assert_by_snapshot(&story);
    story.assert_all_restore();
}

/// The snapshot comes before the job, and the one that tells what has changed after it.
#[test]
fn what_a_guest_writes_around_the_begin_of_its_backup_is_not_lost() {
    let mut story = on_rbd(SOME);
    take(&mut story, "full");
    for pattern in 0x51..0x54 {
        story.guest.write(0, pattern, 3 * MIB, MIB);
        let request = story.request("incremental");
        let path = request.backup_path.clone().unwrap();
        let (mut content, mut is_written) = (None, false);
        take_backup::run(request, &mut |status| {
            let there = if status.phase == Phase::Begin { ceph().snapshots(image(&story)).len() } else { 0 };
            if there == 2 && content.is_none() {
                story.guest.write_on(0, pattern + 0x10, 6 * MIB, MIB);
                content = Some(story.content());
            }
            if status.phase == Phase::Copy && !is_written {
                is_written = true;
                story.guest.write_on(0, pattern + 0x20, 9 * MIB, MIB);
                story.guest.write_on(0, pattern + 0x30, 3 * MIB + 4096, 4096);
            }
            Ok(())
        })
        .unwrap();
        story.adopt(path, content.expect("there was a moment between the two"));
        assert!(is_written);
        assert_snapshots(&story, &[]);
        story.guest.discard(0, 62 * MIB, MIB);
    }
    assert!(take(&mut story, "incremental") <= 4 * MIB);
    assert_by_snapshot(&story);
    story.assert_all_restore();
}

/// A snapshot that QEMU does not take itself may hold what was written after it.
#[test]
fn a_running_guest_without_exclusive_lock_is_read_whole() {
    let mut story = Story::new(Guest::stopped([Disk::rbd()]), Nas::folder());
    ceph().disable(image(&story), &["fast-diff", "object-map", "exclusive-lock"]);
    story.guest.start();
    story.guest.write(0, 0x41, 0, SOME);
    for mode in ["full", "incremental"] {
        let taken = &story.take(mode).taken;
        assert!(taken.details.contains("no snapshot was taken, all of it was read: it is without"), "{taken:?}");
    }
    assert_eq!(ceph().snapshots(image(&story)), [] as [&str; 0]);
    // nobody else writes to that of a stopped one
    story.guest.stop();
    take(&mut story, "incremental");
    while_it_runs(&mut story, |guest| guest.write(0, 0x52, 3 * MIB, MIB));
    assert!(take(&mut story, "incremental") <= MIB);
    assert_by_snapshot(&story);
    story.assert_all_restore();
}

#[test]
fn without_its_key_a_running_guest_is_read_whole() {
    let ceph = Box::leak(Box::new(Ceph::start()));
    let mut story = Story::new(Guest::new([Disk::in_ceph(ceph)]), Nas::folder());
    story.guest.write(0, 0x41, 0, SOME);
    story.take("full");
    assert_eq!(ceph.snapshots(image(&story)).len(), 1);
    ceph.forget_key();
    story.guest.write(0, 0x51, 3 * MIB, MIB);
    let taken = &story.take("incremental").taken;
    assert_eq!(taken.kind, Incremental);
    assert!(taken.details.contains("no snapshot was taken, all of it was read: "), "{taken:?}");
    assert!(!taken.details.contains(&ceph.key));
    story.assert_all_restore();
}

#[test]
fn a_running_guest_s_key_is_seen_nowhere() {
    let mut story = on_rbd(SOME);
    take(&mut story, "full");
    let mut seen = Vec::new();
    take_backup::run(story.request("incremental"), &mut |_| {
        let lines = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
            // a process may end meanwhile
            let line = std::fs::read(entry.unwrap().path().join("cmdline")).ok()?;
            Some(String::from_utf8_lossy(&line).into_owned())
        });
        seen.extend(lines.filter(|line| line.starts_with("/usr/bin/rbd\0") && line.contains(image(&story))));
        Ok(())
    })
    .unwrap();
    assert!(!seen.is_empty(), "it was never seen at work");
    assert!(!seen.iter().any(|line| line.contains(&ceph().key)));
    let mut host = own_host();
    host["logLevel"] = "trace".into();
    story.skip();
    let agent = Agent::new(&host, &[("takeBackup", take_json(&story.request("full")))]);
    let log = agent.text_of_success();
    assert!(log.contains(&story.guest.name) && !log.contains(&ceph().key), "{log}");
}

#[test]
fn a_cancelled_backup_of_a_running_guest_leaves_the_snapshots_as_they_were() {
    let mut story = on_rbd(SOME);
    take(&mut story, "full");
    story.guest.write(0, 0x51, 3 * MIB, MIB);
    let before = ceph().snapshots(image(&story));
    let ends: [fn(&JobStatus) -> bool; 2] =
        [|status| status.phase == Phase::Copy, |status| status.phase == Phase::Begin];
    for ends in ends {
        let error = take_backup::run(story.request("incremental"), &mut |status| match ends(status) {
            true if ceph().snapshots(image(&story)) != before => Err(Error::new(Code::Cancelled, "test", "cancelled")),
            _ => Ok(()),
        })
        .unwrap_err();
        assert_eq!((error.code, error.leftovers), (Code::Cancelled, false), "{error}");
        assert_eq!(ceph().snapshots(image(&story)), before);
        story.skip();
    }
    assert!(take(&mut story, "incremental") <= MIB);
    assert_by_snapshot(&story);
    story.assert_all_restore();
}

/// True once it is read.
fn reads(status: &JobStatus) -> bool {
    status.phase == Phase::Copy && status.total_bytes > 0
}

/// It is backed up as it was when it was stopped.
#[test]
fn a_guest_that_is_started_while_it_is_read_does_not_matter() {
    let mut story = with_full(SOME);
    while_it_runs(&mut story, |guest| guest.write(0, 0x51, 3 * MIB, MIB));
    for mode in ["incremental", "full"] {
        let (request, content) = (story.stopped_request(mode), story.content());
        let path = request.backup_path.clone().unwrap();
        let guest = &story.guest;
        take_and_when(request, reads, |_| {
            guest.start();
            guest.write_on(0, 0x52, 10 * MIB, 2 * MIB);
        })
        .unwrap();
        story.guest.stop();
        story.adopt(path, content);
        assert_snapshots(&story, &[]);
    }
    assert!(take(&mut story, "incremental") <= 2 * MIB);
    assert_by_snapshot(&story);
    story.assert_all_restore();
}

/// What is read of a snapshot that is gone would be zeroes.
#[test]
fn a_snapshot_that_somebody_removes_while_it_is_read_fails_the_backup() {
    let mut story = with_full(SOME);
    while_it_runs(&mut story, |guest| guest.write(0, 0x51, 3 * MIB, MIB));
    let before = ceph().snapshots(image(&story));
    let request = story.stopped_request("incremental");
    let error = take_and_when(request, reads, |_| {
        let new = ceph().snapshots(image(&story)).pop().unwrap();
        assert!(!before.contains(&new));
        ceph().remove_snapshot(image(&story), &new);
    })
    .unwrap_err();
    assert_eq!(error.code, Code::JobFailed, "{error}");
    assert!(error.cause.contains("somebody has removed the snapshot"), "{error}");
    story.assert_nothing_half_made();
    assert_eq!(ceph().snapshots(image(&story)), before);
    assert!(take(&mut story, "incremental") <= MIB);
    assert_by_snapshot(&story);
    story.assert_all_restore();
}

#[test]
fn a_cancelled_backup_leaves_the_snapshots_as_they_were() {
    let mut story = with_full(SOME);
    while_it_runs(&mut story, |guest| guest.write(0, 0x51, 3 * MIB, MIB));
    let before = ceph().snapshots(image(&story));
    let error = take_backup::run(story.stopped_request("incremental"), &mut |status| match reads(status) {
        true => Err(Error::new(Code::Cancelled, "test", "cancelled")),
        false => Ok(()),
    })
    .unwrap_err();
    assert_eq!((error.code, error.leftovers), (Code::Cancelled, false), "{error}");
    assert_eq!(ceph().snapshots(image(&story)), before);
    assert!(ceph().is_closed(image(&story)));
    assert!(take(&mut story, "incremental") <= MIB);
    assert_by_snapshot(&story);
    story.assert_all_restore();
}

/// Whatever it has left, the next backup finds what it needs, and removes the rest.
fn survives_kills(mut story: Story, runs: bool, steps: &[&str]) {
    let change = |story: &mut Story, pattern, at| {
        if runs {
            story.guest.write(0, pattern, at, MIB);
        } else {
            while_it_runs(story, |guest| guest.write(0, pattern, at, MIB));
        }
    };
    for (i, step) in (0..).zip(steps) {
        change(&mut story, 0x60 + i, 3 * MIB);
        let request = if runs { story.request("incremental") } else { story.stopped_request("incremental") };
        let (path, content) = (request.backup_path.clone().unwrap(), story.content());
        let agent = Agent::new(&own_host(), &[("takeBackup", take_json(&request))]);
        assert_eq!(agent.killed_at(step).run(), Ended::Killed, "{step}");
        if story.nas.at(&path).exists() {
            story.adopt(path, content);
        } else {
            story.skip();
        }
        change(&mut story, 0x70 + i, 5 * MIB);
        assert!(take(&mut story, "incremental") <= 2 * MIB, "{step}");
        assert_by_snapshot(&story);
    }
    story.assert_all_restore();
}

#[cfg(feature = "test-hooks")]
#[test]
fn an_agent_may_be_killed_at_each_step_of_a_stopped_guest_s_snapshots() {
    // it is taken, and the older one removed
    let steps = ["snapshot:1", "snapshot, done:1", "publish:1", "clear up:1", "snapshot:2", "snapshot, done:2"];
    survives_kills(with_full(SOME), false, &steps);
}

#[cfg(feature = "test-hooks")]
#[test]
fn an_agent_may_be_killed_at_each_step_of_a_running_guest_s_snapshots() {
    let mut story = on_rbd(SOME);
    take(&mut story, "full");
    // before the second and the third there is the one that is taken for a moment
    let steps = ["snapshot, done:1", "snapshot:2", "snapshot, done:2", "snapshot, done:3", "publish:1", "snapshot:4"];
    survives_kills(story, true, &steps);
}

/// The root disk goes by its bitmap, the others by their snapshots.
#[test]
fn a_guest_may_have_several_disks_of_both_kinds() {
    let mut story = Story::new(Guest::new([Disk::root(), Disk::rbd(), Disk::rbd()]), Nas::folder());
    for disk in 1..3 {
        story.guest.write(disk, 0x42, 0, SOME);
    }
    story.take("full").assert_full(true);
    for (pattern, runs) in [(0x51, true), (0x52, false), (0x53, true)] {
        (0..3).for_each(|disk| story.guest.write(disk, pattern, u64::from(pattern % 16) * MIB, MIB));
        let request = if runs {
            story.request("incremental")
        } else {
            story.guest.stop();
            story.stopped_request("incremental")
        };
        let mut read = 0;
        story.accept_with(request, |request| {
            take_backup::run(request, &mut |status| {
                read = read.max(status.total_bytes);
                Ok(())
            })
        });
        assert_eq!(story.last().kinds(), [Incremental; 3]);
        assert!(read > 0 && read <= 4 * MIB, "{read}");
        let told = story.last().taken.details.matches("1048576 bytes were read, which Ceph says").count();
        assert_eq!(told, 2, "{:?}", story.last().taken);
        for disk in 1..3 {
            assert_eq!(ceph().snapshots(story.guest.disks[disk].volume()).len(), 1);
        }
        if !runs {
            story.guest.start();
        }
    }
    story.assert_all_restore();
}

/// A full that leaves no bitmap leaves no snapshot.
#[test]
fn a_legacy_backup_takes_no_snapshot_and_keeps_those_that_are_there() {
    let mut story = with_full(SOME);
    let before = ceph().snapshots(image(&story));
    let request = TakeBackupRequest { mode: None, ..story.stopped_request("legacy") };
    assert_eq!(story.accept(request).kinds(), [Full]);
    assert_eq!(ceph().snapshots(image(&story)), before);
    story.assert_all_restore();
}

/// What Ceph says has changed has nothing to do with where it is in the disk.
#[test]
fn a_running_guest_s_image_that_is_no_raw_one_is_read_whole() {
    let mut story = Story::new(Guest::stopped([Disk::rbd().image(Image::Qcow2)]), Nas::folder());
    let inner = support::folder("inner").join("qcow2");
    Image::Qcow2.create(&inner, 48 * MIB);
    ceph().remove(image(&story));
    ceph().import(image(&story), &std::fs::read(inner).unwrap());
    ceph().resize(image(&story), SIZE);
    story.guest.start();
    story.guest.write(0, 0x41, 0, SOME);
    story.take("full");
    story.guest.write(0, 0x51, 40 * MIB, MIB);
    assert_eq!(story.take("incremental").kinds(), [Incremental]);
    story.assert_all_restore();
    assert_eq!(ceph().snapshots(image(&story)), [] as [&str; 0]);
}

/// What such an image's snapshots hold changes, and not all is told that has changed since.
#[test]
fn an_image_that_is_being_migrated_is_read_whole() {
    let mut story = with_full(SOME);
    ceph().begin_migration(image(&story));
    for (pattern, runs) in [(0x51, false), (0x52, true)] {
        story.guest.start();
        story.guest.write(0, pattern, 3 * MIB, MIB);
        if !runs {
            story.guest.stop();
        }
        let request = if runs { story.request("incremental") } else { story.stopped_request("incremental") };
        let taken = &story.accept(request).taken;
        assert_eq!(taken.kind, Incremental);
        assert!(taken.details.contains("no snapshot was taken, all of it was read: 'rbd migration'"), "{taken:?}");
    }
    story.guest.stop();
    ceph().end_migration(image(&story));
    assert_eq!(take(&mut story, "incremental"), SOME);
    assert_read_whole(&story, "the parent point names no snapshot");
    while_it_runs(&mut story, |guest| guest.write(0, 0x53, 3 * MIB, MIB));
    assert!(take(&mut story, "incremental") <= MIB);
    assert_by_snapshot(&story);
    story.assert_all_restore();
}

/// As where the cluster that the monitors' names lead to is another one by now.
#[test]
fn a_running_guest_s_image_is_not_another_of_its_name() {
    let mut story = on_rbd(SOME);
    take(&mut story, "full");
    let name = image(&story).to_owned();
    let own = format!("{name}-own");
    ceph().rename(&name, &own);
    ceph().create(&name, SIZE);
    for pattern in [0x51, 0x52] {
        story.guest.write_on(0, pattern, 3 * MIB, MIB);
        let request = story.request("incremental");
        let path = request.backup_path.clone().unwrap();
        let held = support::folder("held").join("copy");
        std::fs::write(&held, ceph().content(&own)).unwrap();
        let taken = take_backup::run(request, &mut |_| Ok(())).unwrap();
        assert!(
            taken.details.contains("no snapshot was taken, all of it was read: nobody has it open for writing"),
            "{taken:?}"
        );
        story.adopt(path, [(name.clone(), held)].into());
    }
    assert_eq!(ceph().snapshots(&name), [] as [&str; 0]);
    story.assert_all_restore();
}

/// As where a guest runs on another host.
#[test]
fn a_stopped_guest_s_image_without_exclusive_lock_is_not_that_of_somebody_who_writes() {
    let mut story = with_full(SOME);
    ceph().disable(image(&story), &["fast-diff", "object-map", "exclusive-lock"]);
    let before = ceph().snapshots(image(&story));
    let mut writer = ceph().open(image(&story));
    until("it is open", || !ceph().is_closed(image(&story)));
    let taken = &story.take_stopped("incremental").taken;
    assert!(taken.details.contains("no snapshot was taken, all of it was read: somebody has it open"), "{taken:?}");
    assert_eq!(ceph().snapshots(image(&story)), before);
    drop(writer.stdin.take());
    assert!(writer.wait().unwrap().success());
    take(&mut story, "incremental");
    story.assert_all_restore();
}

/// A clone of it, for example.
#[test]
fn a_snapshot_that_can_not_be_removed_keeps_no_other() {
    let mut story = with_full(SOME);
    let kept = ceph().snapshots(image(&story)).remove(0);
    ceph().protect(image(&story), &kept, true);
    for _ in 0..3 {
        let details = &story.take_stopped("incremental").taken.details;
        assert!(details.contains("older snapshots stay") && details.contains(&kept), "{details}");
        let newest = format!("nasbackup-{}", story.last().taken.point_id);
        assert_eq!(ceph().snapshots(image(&story)), [kept.clone(), newest]);
    }
    ceph().protect(image(&story), &kept, false);
    take(&mut story, "incremental");
    story.assert_all_restore();
}

/// As of a cluster that is full: who writes waits, for a snapshot too, and who reads does not.
#[cfg(feature = "test-hooks")]
#[test]
fn an_image_of_which_no_snapshot_comes_in_time_is_read_whole() {
    let mut story = on_rbd(SOME);
    let tools = support::folder("tools");
    std::os::unix::fs::symlink("/usr/bin/qemu-nbd", tools.join("qemu-nbd")).unwrap();
    let waits = "#!/bin/sh\ncase $* in *'snap create'*) exec sleep 1000;; *) exec /usr/bin/rbd \"$@\";; esac\n";
    std::fs::write(tools.join("rbd"), waits).unwrap();
    std::fs::set_permissions(tools.join("rbd"), std::fs::Permissions::from_mode(0o755)).unwrap();
    for runs in [true, false] {
        if !runs {
            story.guest.stop();
        }
        let request = if runs { story.request("full") } else { story.stopped_request("full") };
        let (path, content) = (request.backup_path.clone().unwrap(), story.content());
        let agent = Agent::new(&own_host(), &[("takeBackup", take_json(&request))]);
        agent.with_tools(&tools).waiting("take a snapshot of the image in Ceph=2000").succeed();
        story.adopt(path, content);
        assert!(story.manifest(&story.last().path)["disks"][0]["snapshot"].is_null());
    }
    story.assert_all_restore();
}

/// The call comes back, and when Ceph answers again the next backup finds what it needs.
#[test]
fn a_ceph_that_hangs_under_a_running_guest_holds_the_call_up_no_longer_than_it_may_take() {
    let ceph = Box::leak(Box::new(Ceph::start()));
    let mut story = Story::new(Guest::new([Disk::in_ceph(ceph)]), Nas::folder());
    story.guest.write(0, 0x41, 0, SOME);
    story.take("full");
    for phase in [Phase::Begin, Phase::Copy] {
        story.guest.write(0, 0x51, 3 * MIB, MIB);
        let request = TakeBackupRequest { wait_seconds: Some(5), ..story.request("incremental") };
        let take = || take_and_when(request, |status| status.phase == phase, |_| ceph.hang());
        let error = hurried(take).unwrap_err();
        ceph.go_on();
        // QEMU hangs too, if it is asked then
        assert!(matches!(error.code, Code::Timeout | Code::Libvirt), "{error}");
        story.skip();
        story.take_until_free();
        story.assert_nothing_half_made();
        story.take("incremental");
        assert_by_snapshot(&story);
        assert_eq!(ceph.snapshots(image(&story)), [format!("nasbackup-{}", story.last().taken.point_id)]);
    }
    story.assert_all_restore();
}
