//! Two hosts on one repository whose file system keeps flock to one host, as a view through FUSE does.

use std::fs;
use std::sync::Mutex;
use std::time::Duration;

use nasbackup::error::Result;
use nasbackup::operation;
use nasbackup::operation::take_backup::{self, TakeBackupRequest};
use nasbackup::point::Kind;
use nasbackup::shorten;
use nasbackup::work::job::{JobStatus, Listener};
use nasbackup::work::phase::Phase;
use serde_json::json;

use crate::support::{
    Agent, Ended, Guest, MIB, Nas, Story, folder, host, own_host, repository_json, slow_story_on, take_and, take_json,
};
use crate::tally::{Tally, is_soak};

#[test]
fn a_delete_by_another_host_waits_for_the_backup_of_the_first() {
    let under = Nas::folder();
    let other = under.same();
    let mut story = slow_story_on(under);
    story.take("full");
    story.guest.write(0, 0x52, 2 * MIB, 48 * MIB);
    let delete = json!({"repository": repository_json(&other.repository()), "backupPath": story.points[0].path});
    let there = host(&folder("state"), &folder("mounts"));
    let request = story.request("incremental");
    story.accept_with(request, |request| {
        take_and(request, |_| {
            let mine = operation::call("deleteBackup", &delete.to_string(), &mut |_| Ok(())).unwrap_err();
            assert_eq!(mine.code.as_str(), "BUSY", "{mine}");
            Agent::new(&there, &[("deleteBackup", delete.clone())]).fail_with("BUSY");
        })
    });
    story.assert_all_restore();
    // and once it is over
    Agent::new(&there, &[("deleteBackup", delete)]).succeed();
    story.points.remove(0);
    story.assert_all_restore();
}

#[test]
fn a_delete_by_another_host_waits_for_a_reader_and_who_is_taken_for_dead_finds_out() {
    let under = Nas::folder();
    let (other, lease) = (under.same(), under.same());
    let mut story = Story::new(Guest::ordinary(), under.through_fuse());
    story.take("full");
    let path = &story.points[0].path;
    let verify = json!({"repository": repository_json(&story.nas.repository()), "backupPath": path});
    let delete = json!({"repository": repository_json(&other.repository()), "backupPath": path});
    let there = host(&folder("state"), &folder("mounts"));
    let while_verified = |act: &dyn Fn()| {
        let mut acted = false;
        operation::call("verifyChain", &verify.to_string(), &mut |status| {
            if status.phase == Phase::CheckImages && !std::mem::replace(&mut acted, true) {
                act();
            }
            Ok(())
        })
    };
    let verified = while_verified(&|| {
        Agent::new(&there, &[("deleteBackup", delete.clone())]).fail_with("BUSY");
    });
    assert_eq!(verified.unwrap()["verdict"], "good");
    let instance = lease.at(&story.guest.name);
    let ours = || {
        let mut names = fs::read_dir(&instance).unwrap().map(|entry| entry.unwrap().file_name());
        names.find(|name| name.as_encoded_bytes().starts_with(b".nasbackup.reader-"))
    };
    let lost = while_verified(&|| fs::remove_file(instance.join(ours().unwrap())).unwrap());
    assert_eq!(lost.unwrap_err().code.as_str(), "BUSY");
    assert_eq!(ours(), None);
    story.assert_all_restore();
    Agent::new(&there, &[("deleteBackup", delete)]).succeed();
}

#[test]
fn who_has_no_time_to_outlive_a_dead_host_s_claim_is_told_of_it_and_no_nas_is_blamed() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    story.take("full");
    let claim = story.nas.at(&format!("{}/.nasbackup.lease", story.guest.name));
    let request = TakeBackupRequest { wait_seconds: Some(8), ..story.request("incremental") };
    fs::write(&claim, "00000000000000000007\nanother boot\n77 1\nid\nnode7\nadds\n").unwrap();
    let error = story.refuse(request, "BUSY");
    assert!(error.cause.contains("host 'node7'") && error.cause.contains(claim.to_str().unwrap()), "{error}");
    fs::remove_file(&claim).unwrap();
    // it is no NAS that hangs
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

/// Takes the lock's claim away at the first moment of `phase`, as another host does that takes this one for dead.
fn outlived_at(story: &Story, phase: Phase) -> impl FnMut(&JobStatus) -> Result<()> + use<> {
    let claim = story.nas.at(&format!("{}/.nasbackup.lease", story.guest.name));
    let mut outlived = false;
    move |status| {
        if status.phase == phase && !std::mem::replace(&mut outlived, true) {
            fs::remove_file(&claim).unwrap();
        }
        Ok(())
    }
}

/// A chain of these engines.
fn chain(engines: [&str; 2]) -> Story {
    let mut story = Story::new(Guest::full_of_data(16), Nas::folder());
    for (engine, mode) in engines.into_iter().zip(["full", "incremental"]) {
        story.accept(TakeBackupRequest { engine: Some(engine.into()), ..story.request(mode) });
        story.guest.write(0, 0x51, 3 * MIB, MIB);
    }
    story
}

#[test]
fn a_backup_that_is_taken_for_dead_leaves_its_parent_as_it_is() {
    let mut story = chain(["pull", "push"]);
    // its bitmap is lost, and the parent has no fingerprints to compare with
    story.guest.kill_qemu();
    story.guest.start();
    let request = TakeBackupRequest { engine: Some("pull".into()), ..story.request("incremental") };
    let manifest = story.manifest(&story.last().path);
    let error = take_backup::run(request, &mut outlived_at(&story, Phase::ReadParentPoint)).unwrap_err();
    story.skip();
    assert_eq!(error.code.as_str(), "BUSY", "{error}");
    assert_eq!(story.manifest(&story.last().path), manifest);
    // what is unfinished is the other's to remove by now
    assert!(error.leftovers && !story.half_made().is_empty(), "{error}");
    let parent = story.bitmap();
    story
        .accept(TakeBackupRequest { engine: Some("pull".into()), ..story.request("incremental") })
        .assert_recreated(&parent);
    story.assert_all_restore();
}

#[test]
fn a_rebase_that_is_taken_for_dead_leaves_the_manifest_as_it_is() {
    let mut story = chain(["pull", "pull"]);
    story.accept(TakeBackupRequest { engine: Some("pull".into()), ..story.request("incremental") });
    let path = story.points[2].path.clone();
    let manifest = story.manifest(&path);
    let request = json!({"repository": repository_json(&story.nas.repository()), "backupPath": path,
                         "newParent": story.points[0].path});
    // the claim does not expire as late as it does elsewhere
    shorten(&["look at the instance's lock again"], Duration::ZERO);
    let rebase = |listener: Listener<'_>| operation::call("rebasePoint", &request.to_string(), listener);
    let error = rebase(&mut outlived_at(&story, Phase::WriteManifest)).unwrap_err();
    assert_eq!(error.code.as_str(), "BUSY", "{error}");
    assert_eq!(story.manifest(&path), manifest);
    rebase(&mut |_| Ok(())).unwrap();
    story.assert_all_restore();
}

/// One guest's rounds: backups by this process and by agents, some cancelled, some killed.
fn rounds(story: &mut Story, seed: usize, rounds: usize, tally: &Mutex<Tally>) {
    let steps = ["copy:1", "record:1", "rename the restore point:1", "remove the older bitmaps:1", "publish:1"];
    for round in 0..rounds {
        story.guest.write(0, 0x40 + u8::try_from(round).unwrap(), (5 + round as u64 % 40) * MIB, MIB);
        let engine = if (seed + round).is_multiple_of(2) { "push" } else { "pull" };
        let request = TakeBackupRequest { engine: Some(engine.into()), ..story.request("incremental") };
        let (path, content) = (request.backup_path.clone().unwrap(), story.content());
        let step = steps[(seed + round) % steps.len()];
        match (seed + round) % 4 {
            0 => drop(story.accept(request)),
            1 => {
                Agent::new(&own_host(), &[("takeBackup", take_json(&request))]).succeed();
                story.adopt(path, content);
            }
            2 => {
                let id = format!("{}-{round}", story.guest.name);
                let request = TakeBackupRequest { job: Some(id.clone()), ..request };
                let cancelled = take_backup::run(request, &mut |status| {
                    if status.phase == Phase::Copy {
                        operation::cancel(&id);
                    }
                    Ok(())
                });
                if cancelled.is_ok() { story.adopt(path, content) } else { story.skip() }
            }
            _ => {
                let agent = Agent::new(&own_host(), &[("takeBackup", take_json(&request))]).killed_at(step);
                assert_eq!(agent.run(), Ended::Killed, "{step}");
                Agent::new(&own_host(), &[]).succeed();
                crate::kills::await_undone(&story.guest);
                if story.nas.at(&path).exists() { story.adopt(path, content) } else { story.skip() }
            }
        }
        let taken = story.take("incremental").taken.kind;
        let name = format!("guest {seed}, round {round}");
        tally.lock().unwrap().fault(
            &name,
            || {
                assert_eq!(taken, Kind::Incremental);
                story.assert_guest_untouched();
            },
            || story.assert_all_restore(),
        );
    }
}

#[test]
fn guests_at_once_with_cancels_and_kills_on_one_repository() {
    let (guests, each) = if is_soak() { (8, 8) } else { (3, 2) };
    let nas = Nas::folder();
    let tally = Mutex::new(Tally::new("guests at once, cancelled and killed"));
    std::thread::scope(|scope| {
        for seed in 0..guests {
            let (nas, tally) = (nas.same(), &tally);
            scope.spawn(move || {
                let mut story = Story::new(Guest::ordinary(), nas);
                story.take("full").assert_full(true);
                rounds(&mut story, seed, each, tally);
            });
        }
    });
    tally.into_inner().unwrap().end(guests * each);
}
