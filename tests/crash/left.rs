//! What a killed agent leaves running, and whom the clearing up must not touch.

use std::path::{Path, PathBuf};

use nasbackup::error::Code;
use nasbackup::operation::take_backup::TakeBackupRequest;

use crate::kills::{await_undone, scratch_folders};
use crate::support::{
    AFTER_DEADLINE, Agent, Disk, Ended, Fs, Guest, MIB, Nas, RealGuest, Story, folder, host, own_host, slow_story_of,
    slow_story_on, succeeds, take, take_json, until,
};

fn push(story: &Story) -> TakeBackupRequest {
    TakeBackupRequest { engine: Some("push".into()), ..story.request("incremental") }
}

/// A story whose agent was killed while QEMU writes to a slow repository, which a guest with an iothread lives through.
fn killed_in_the_middle(request: impl Fn(&Story) -> TakeBackupRequest) -> Story {
    killed_in_the_middle_of(slow_story_of(Guest::on_iothread(1), Nas::folder()), request)
}

fn killed_in_the_middle_of(mut story: Story, request: impl Fn(&Story) -> TakeBackupRequest) -> Story {
    let request = request(&story);
    let call = ("takeBackup", take_json(&request));
    assert_eq!(Agent::new(&own_host(), &[call]).killed_at("copy:1").run(), Ended::Killed);
    // a pull is ended by whoever looks for old scratch folders, which another test may have done by now
    if request.engine.as_deref() == Some("push") {
        assert!(!story.guest.virsh(&["domjobinfo"]).contains("None"), "QEMU goes on");
    }
    story.skip();
    story
}

fn goes_on(mut story: Story) {
    await_undone(&story.guest);
    story.assert_nothing_half_made();
    story.assert_guest_untouched();
    story.guest.assert_no_job();
    story.guest.write(0, 0x52, 60 * MIB, MIB);
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

#[test]
fn a_push_that_still_runs_is_ended_at_the_next_start() {
    let story = killed_in_the_middle(push);
    let xml = story.guest.virsh(&["backup-dumpxml"]);
    let file = PathBuf::from(xml.split("<target file='").nth(1).unwrap().split('\'').next().unwrap());
    assert!(file.starts_with(&nasbackup::config::current().mount_dir) && file.exists(), "{xml}");
    Agent::new(&own_host(), &[]).succeed();
    goes_on(story);
    let seen_by_qemu = file.ancestors().nth(2).unwrap();
    assert!(seen_by_qemu.file_name().unwrap().to_str().unwrap().starts_with("nas-") && !seen_by_qemu.exists());
}

/// The guest has fallen asleep meanwhile, and is left asleep.
#[test]
fn a_push_that_still_runs_is_ended_by_the_guest_s_next_backup() {
    let mut story = killed_in_the_middle(push);
    story.guest.fall_asleep();
    story.take("incremental").assert_incremental();
    assert_eq!(story.guest.state(), "pmsuspended");
    goes_on(story);
}

/// The repository that hangs keeps the start of an agent busy with what an earlier one has left.
#[test]
fn a_backup_waits_until_what_is_left_of_its_guest_is_undone() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder().through_fuse());
    story.take("full");
    // Of its own: another test's start would undo it, too.
    let host = host(&folder("state"), &folder("mounts"));
    let take = |story: &Story| Agent::new(&host, &[("takeBackup", take_json(&push(story)))]);
    let text = |output: &Path| std::fs::read_to_string(output).unwrap();
    assert_eq!(take(&story).killed_at("copy:1").run(), Ended::Killed);
    story.skip();
    let (content, path) = (story.content(), story.request("incremental").backup_path.unwrap());
    story.nas.hang();
    let starts = Agent::new(&host, &[]);
    let output = starts.output().to_owned();
    let mut starts = starts.spawn();
    until("the earlier backup is being undone", || text(&output).contains("undoing the backup"));
    take(&story).waiting("wait until the machine is free=500").fail_with("BUSY");
    let waits = take(&story);
    let output = waits.output().to_owned();
    let mut waits = waits.spawn();
    until("the next one waits, or fails", || {
        text(&output).contains("waits until") || waits.try_wait().unwrap().is_some()
    });
    story.nas.go_on();
    assert!(waits.wait().unwrap().success(), "{}", text(&output));
    assert!(starts.wait().unwrap().success());
    story.adopt(path, content);
    goes_on(story);
}

#[test]
fn a_pull_that_still_runs_is_ended_at_the_next_start() {
    let story = killed_in_the_middle_of(slow_story_on(Nas::folder()), |story| TakeBackupRequest {
        engine: Some("pull".into()),
        ..story.request("incremental")
    });
    Agent::new(&own_host(), &[]).succeed();
    goes_on(story);
}

/// QEMU hangs, in the guest's own storage for one: nobody can end the job, and its agent goes.
#[test]
fn a_pull_whose_end_nobody_has_seen_is_known_at_the_next_start() {
    let mut story = slow_story_on(Nas::folder());
    let request =
        TakeBackupRequest { engine: Some("pull".into()), wait_seconds: Some(5), ..story.request("incremental") };
    let agent = Agent::new(&own_host(), &[("takeBackup", take_json(&request))]);
    let mut agent = agent.waiting(&format!("{AFTER_DEADLINE}=1000")).spawn();
    until("the job runs", || !story.guest.virsh(&["domjobinfo"]).contains("None"));
    story.guest.signal_qemu("-STOP");
    assert!(!agent.wait().unwrap().success(), "it fails, and does not wait for the job");
    assert_eq!(scratch_folders(&story), 1);
    story.guest.signal_qemu("-CONT");
    Agent::new(&own_host(), &[]).succeed();
    story.skip();
    await_undone(&story.guest);
    assert_eq!(scratch_folders(&story), 0);
    goes_on(story);
}

/// Its own storage is full, and nobody has asked us to let it go on.
#[test]
fn a_guest_that_waited_before_its_backup_waits_after_it() {
    let own = Nas::image(Fs::Ext4, 64);
    let mut data = Disk::new();
    data.path = own.at("data");
    let linux = RealGuest::boot_beside(32, "", [data]);
    own.fill();
    linux.launch("dd if=/dev/urandom of=/dev/vdb bs=1M count=8");
    until("the guest waits for its disk", || linux.guest.state() == "paused");
    let nas = Nas::folder().slow(8);
    let killed = |n, engine: &str| {
        let request = TakeBackupRequest {
            mode: Some("legacy".into()),
            bitmap_new: None,
            engine: Some(engine.into()),
            ..linux.request(&nas, n)
        };
        let call = ("takeBackup", take_json(&request));
        assert_eq!(Agent::new(&own_host(), &[call]).killed_at("copy:1").run(), Ended::Killed);
    };
    let start_again = || {
        Agent::new(&own_host(), &[]).succeed();
        await_undone(&linux.guest);
        linux.guest.assert_no_job();
    };
    for (n, engine) in ["push", "pull"].into_iter().enumerate() {
        killed(n, engine);
        if n == 0 {
            own.empty();
        }
        start_again();
        assert_eq!(linux.guest.state(), "paused", "{engine}");
    }
    linux.guest.resume();
    linux.run("while pidof dd >/dev/null; do usleep 20000; done");

    // Somebody had paused it, and has let it go on since: it did not wait for its storage.
    own.fill();
    linux.guest.suspend();
    killed(2, "push");
    linux.guest.resume();
    linux.launch("dd if=/dev/urandom of=/dev/vdb bs=1M count=8 seek=16");
    until("the guest waits for its disk", || linux.guest.state() == "paused");
    own.empty();
    start_again();
    assert_eq!(linux.guest.state(), "running");
}

#[test]
fn two_starts_at_once_undo_it_once() {
    let story = killed_in_the_middle(push);
    let both = [(); 2].map(|()| Agent::new(&own_host(), &[]).spawn());
    for mut agent in both {
        assert!(agent.wait().unwrap().success());
    }
    goes_on(story);
}

#[test]
fn a_start_leaves_the_backup_of_a_living_agent_alone() {
    let mut story = slow_story_on(Nas::folder());
    let request = push(&story);
    let (content, path) = (story.content(), request.backup_path.clone().unwrap());
    let mut agent = Agent::new(&own_host(), &[("takeBackup", take_json(&request))]).spawn();
    until("the job runs", || !story.guest.virsh(&["domjobinfo"]).contains("None"));
    Agent::new(&own_host(), &[]).succeed();
    assert_eq!(take(push(&story)).unwrap_err().code, Code::Busy);
    assert!(agent.wait().unwrap().success());
    story.adopt(path, content);
    goes_on(story);
}

#[test]
fn what_is_left_on_a_repository_without_room_goes() {
    for fs in [Fs::Ext4, Fs::Xfs] {
        let mut story = Story::new(Guest::ordinary(), Nas::image(fs, 320));
        story.take("full");
        story.guest.write(0, 0x52, 2 * MIB, MIB);
        let call = ("takeBackup", take_json(&push(&story)));
        assert_eq!(Agent::new(&own_host(), &[call]).killed_at("publish:1").run(), Ended::Killed);
        story.skip();
        // the claim that another host took for expired gives no room back
        std::fs::remove_file(story.nas.at(&format!("{}/.nasbackup.lease", story.guest.name))).unwrap();
        story.nas.fill();
        Agent::new(&own_host(), &[]).succeed();
        await_undone(&story.guest);
        story.assert_nothing_half_made();
        story.nas.empty();
        story.take("incremental").assert_incremental();
        story.assert_all_restore();
    }
}

#[test]
fn somebody_else_s_job_after_the_kill_is_left_alone() {
    let mut story = Story::with_full();
    let call = ("takeBackup", take_json(&push(&story)));
    assert_eq!(Agent::new(&own_host(), &[call]).killed_at("publish:1").run(), Ended::Killed);
    story.skip();
    // to libvirt a job on the whole domain, as a save or a migration
    let slow = Nas::folder().slow(8);
    let file = slow.at("memory");
    let mut dump = std::process::Command::new("virsh")
        .args(["dump", "--live", "--memory-only", &story.guest.name, file.to_str().unwrap()])
        .spawn()
        .unwrap();
    until("memory is written", || file.metadata().is_ok_and(|file| file.len() > MIB));
    Agent::new(&own_host(), &[]).succeed();
    assert!(dump.wait().unwrap().success(), "their job goes on to its end");
    Agent::new(&own_host(), &[]).succeed();
    goes_on(story);
}

#[test]
fn a_guest_that_is_frozen_when_its_agent_is_killed_is_thawed_at_the_next_start() {
    let linux = RealGuest::boot(4, "w=64");
    let nas = Nas::folder();
    for (n, step) in ["begin the backup:1", "begin the backup, done:1"].into_iter().enumerate() {
        let request = TakeBackupRequest { quiesce: Some(true), ..linux.request(&nas, n) };
        let call = ("takeBackup", take_json(&request));
        assert_eq!(Agent::new(&own_host(), &[call]).killed_at(step).run(), Ended::Killed);
        assert!(linux.is_frozen(), "{step}");
        Agent::new(&own_host(), &[]).succeed();
        await_undone(&linux.guest);
        linux.assert_writes();
        linux.guest.assert_no_job();
        assert_eq!(linux.guest.checkpoints(), [] as [&str; 0]);
    }
}

/// libvirt has given the freeze up, and the agent has not.
#[test]
fn a_guest_that_freezes_after_its_backup_has_failed_is_thawed_at_the_next_start() {
    let linux = RealGuest::boot(1, "");
    let nas = Nas::folder();
    // Of its own: another test's start would thaw the guest, too.
    let (state, mounts) = (folder("state"), folder("mounts"));
    let host = host(&state, &mounts);
    let quiesced = |n| ("takeBackup", take_json(&TakeBackupRequest { quiesce: Some(true), ..linux.request(&nas, n) }));
    // The agent has worked before: libvirt trusts it, and waits for it.
    Agent::new(&host, &[quiesced(0)]).succeed();
    linux.hold_freeze();
    let mut impatient = host.clone();
    impatient["freezeSeconds"] = 5.into();
    Agent::new(&impatient, &[quiesced(1)]).fail_with("QUIESCE_FAILED");
    // It has its turn after all that libvirtd still asks the agent for the process that is gone.
    let ask = ["qemu-agent-command", "--timeout", "1", "--domain", &linux.guest.name, r#"{"execute": "guest-ping"}"#];
    assert!(!succeeds("virsh", ask), "the agent hangs");
    linux.release_freeze();
    until("the guest freezes", || linux.is_frozen());
    Agent::new(&host, &[]).succeed();
    linux.assert_writes();
    Agent::new(&host, &[quiesced(2)]).succeed();
    linux.assert_writes();
    let record = state.join(format!("{}.json", linux.guest.name));
    assert!(!std::fs::read_to_string(record).unwrap().contains(r#""frozen":"i-"#));
}
