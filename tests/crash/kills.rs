//! An agent is killed at a step; the next one clears up at its start. Nothing is left, every point reads back, and the
//! next incremental is one.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nasbackup::nas::repository::Repository;
use nasbackup::operation::take_backup::TakeBackupRequest;
use nasbackup::point::Kind;
use serde_json::{Value, json};

use crate::support::{
    Agent, Ended, Fs, Guest, MIB, Nas, Story, folder, own_host, repository_json, take_json, unmounted_image, until,
};
use crate::tally::{Tally, is_soak};

/// Chains are begun anew after so many kills: each kill reads all points back.
const LONGEST: usize = 6;
/// So many of an operation's steps are killed at in an ordinary run, all of them in a soak.
const SAMPLE: usize = 3;

/// Of an agent that died before its backup was on record: it is taken over at once by whoever comes next.
const LEASE: &str = ".nasbackup.lease";

fn step_log() -> PathBuf {
    folder("steps").join("log")
}

/// The steps in the log, as `NAME:N`.
fn steps(log: &PathBuf) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let steps = fs::read_to_string(log).unwrap();
    let steps: Vec<_> = steps.lines().filter(|step| seen.insert(step.to_string())).map(str::to_owned).collect();
    assert!(steps.len() > 5, "{steps:?}");
    steps
}

/// Some of them, the same ones each time; in a soak all.
fn chosen(steps: &[String], seed: usize) -> Vec<String> {
    if is_soak() {
        return steps.to_vec();
    }
    (0..SAMPLE).map(|n| steps[(seed * 7 + n * steps.len() / SAMPLE) % steps.len()].clone()).collect()
}

/// The agent's next start.
fn recover() {
    Agent::new(&own_host(), &[]).succeed();
}

/// The agents of other tests are of this host too, and may be what undoes it.
pub(crate) fn await_undone(guest: &Guest) {
    let record = nasbackup::config::current().state_dir.join(format!("{}.json", guest.name));
    until("the record names no backup", || {
        let record: Value = fs::read(&record).map_or(json!({}), |text| serde_json::from_slice(&text).unwrap());
        record["begun"].is_null()
    });
}

/// How many scratch folders the guest has.
pub(crate) fn scratch_folders(story: &Story) -> usize {
    let folders = fs::read_dir(nasbackup::config::current().state_dir.join("scratch")).into_iter().flatten();
    let domains = folders.map(|folder| fs::read_to_string(folder.unwrap().path().join("domain")));
    domains.filter(|domain| domain.as_ref().is_ok_and(|domain| *domain == story.guest.name)).count()
}

/// Nothing of a killed agent is left on this host or in the repository.
fn assert_clean(story: &Story) {
    await_undone(&story.guest);
    story.assert_nothing_half_made();
    if story.guest.state() != "gone" {
        story.assert_guest_untouched();
        story.guest.assert_no_job();
        assert_eq!(story.guest.state(), "running");
    }
    // cleared by whoever undoes it, and perhaps after the record
    until("no scratch folder is left", || scratch_folders(story) == 0);
    let names = |path| fs::read_dir(path).into_iter().flatten().map(|entry| entry.unwrap().file_name());
    let instance = names(story.nas.at(&story.guest.name)).map(|name| name.into_string().unwrap());
    // locks' files stay
    let kept = [".nasbackup.lock", ".nasbackup.chains.lock", LEASE];
    let hidden: Vec<_> = instance.filter(|name| name.starts_with('.') && !kept.contains(&name.as_str())).collect();
    assert_eq!(hidden, [] as [String; 0]);
}

/// Kills a backup at the steps that it has. `request` makes one, `next` takes the one after it.
fn kill_takes(
    what: &'static str,
    seed: usize,
    begin: impl Fn() -> Story,
    request: impl Fn(&Story) -> TakeBackupRequest,
    next: impl Fn(&mut Story),
) {
    let mut tally = Tally::new(what);
    let mut story = begin();
    let log = step_log();
    let first = request(&story);
    let content = story.content();
    Agent::new(&own_host(), &[("takeBackup", take_json(&first))]).logging(&log).succeed();
    story.adopt(first.backup_path.unwrap(), content);
    next(&mut story);
    let mut kills = 0;
    for step in chosen(&steps(&log), seed) {
        if kills == LONGEST {
            (story, kills) = (begin(), 0);
        }
        let running = story.guest.state() != "gone";
        if running {
            story.guest.write(0, 0x60 + u8::try_from(kills).unwrap(), (8 + kills as u64) * MIB, MIB);
        }
        let request = request(&story);
        let content = story.content();
        let path = request.backup_path.clone().unwrap();
        match Agent::new(&own_host(), &[("takeBackup", take_json(&request))]).killed_at(&step).run() {
            Ended::Killed => {}
            // an order of threads that did not come again
            Ended::Done => {
                story.adopt(path, content);
                continue;
            }
            Ended::Failed => panic!("{step}: failed"),
        }
        kills += 1;
        recover();
        if story.nas.at(&path).exists() {
            story.adopt(path, content)
        } else {
            story.skip()
        }
        let story = std::cell::RefCell::new(&mut story);
        tally.fault(
            &step,
            || assert_clean(&story.borrow()),
            || {
                story.borrow().assert_all_restore();
                next(&mut story.borrow_mut());
                assert!(!story.borrow().nas.at(&story.borrow().guest.name).join(LEASE).exists());
                story.borrow().assert_all_restore();
            },
        );
    }
    tally.end(SAMPLE - 1);
}

fn next_incremental(story: &mut Story) {
    story.guest.write(0, 0x51, 30 * MIB, MIB);
    assert_eq!(story.take("incremental").taken.kind, Kind::Incremental);
}

fn by(engine: &str, mode: &str) -> impl Fn(&Story) -> TakeBackupRequest {
    let (engine, mode) = (engine.to_owned(), mode.to_owned());
    move |story| TakeBackupRequest { engine: Some(engine.clone()), ..story.request(&mode) }
}

#[test]
fn a_push_incremental() {
    kill_takes("killed: push, incremental", 1, Story::with_full, by("push", "incremental"), next_incremental);
}

#[test]
fn a_push_full() {
    kill_takes("killed: push, full", 2, Story::with_full, by("push", "full"), next_incremental);
}

#[test]
fn a_pull_incremental() {
    kill_takes("killed: pull, incremental", 3, Story::with_full, by("pull", "incremental"), next_incremental);
}

#[test]
fn a_pull_full() {
    kill_takes("killed: pull, full", 4, Story::with_full, by("pull", "full"), next_incremental);
}

/// The test sees the file system in an image of its own; the agents mount it by themselves.
#[test]
fn an_incremental_to_a_repository_that_the_agent_mounts() {
    let image = unmounted_image(Fs::Xfs, 700);
    let begin = || {
        let mut story = Story::new(Guest::ordinary(), Nas::of(&image));
        story.take("full");
        story
    };
    let mounting = |story: &Story| {
        let address = Some(image.to_str().unwrap().to_owned());
        let repository = Repository { kind: Some("xfs".into()), address, options: Some("loop".into()) };
        TakeBackupRequest { repository: Some(repository), ..by("auto", "incremental")(story) }
    };
    let next = |story: &mut Story| {
        let device = fs::metadata(story.nas.root()).unwrap().dev();
        let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let of_image = mounts.lines().filter(|line| line.split(' ').nth(2) == Some(device.as_str()));
        assert_eq!(of_image.count(), 1, "the test's own alone: {mounts}");
        next_incremental(story);
    };
    kill_takes("killed: a repository that is mounted", 8, begin, mounting, next);
}

#[test]
fn a_stopped_guest() {
    let begin = || {
        let story = Story::with_full();
        story.guest.stop();
        story
    };
    let next = |story: &mut Story| {
        story.guest.start();
        next_incremental(story);
        story.guest.stop();
    };
    kill_takes("killed: stopped guest", 5, begin, |story| story.stopped_request("full"), next);
}

/// A chain of three on a guest of its own.
fn chain() -> Story {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    story.take("full");
    for _ in 0..2 {
        next_incremental(&mut story);
    }
    story
}

fn point_request(story: &Story, path: &str) -> Value {
    json!({"repository": repository_json(&story.nas.repository()), "backupPath": path})
}

fn delete(story: &Story, path: &str) -> (&'static str, Value) {
    ("deleteBackup", point_request(story, path))
}

/// The last point onto the first, and the one in between away: the repair of a chain.
fn repair(story: &Story) -> Vec<(&'static str, Value)> {
    let [.., first, middle, last] = &story.points[..] else { panic!("a chain of three") };
    let mut rebase = point_request(story, &last.path);
    rebase["newParent"] = json!(first.path);
    vec![("rebasePoint", rebase), delete(story, &middle.path)]
}

/// The first point goes, and the image of its child takes the place of its own: where blocks are not shared, the other way round.
fn merge(story: &Story) -> Vec<(&'static str, Value)> {
    let [first, next, ..] = &story.points[..] else { panic!("a chain of three") };
    let mut rebase = point_request(story, &next.path);
    rebase["goingPoint"] = json!(first.path);
    vec![("rebasePoint", rebase), delete(story, &first.path)]
}

/// Kills the calls at their steps, and makes the same calls again.
fn kill_calls(
    what: &'static str,
    seed: usize,
    begin: impl Fn() -> Story,
    calls: impl Fn(&Story) -> Vec<(&'static str, Value)>,
    gone: usize,
) {
    let mut tally = Tally::new(what);
    let log = step_log();
    let story = begin();
    Agent::new(&own_host(), &calls(&story)).logging(&log).succeed();
    for step in chosen(&steps(&log), seed) {
        let mut story = begin();
        let calls = calls(&story);
        match Agent::new(&own_host(), &calls).killed_at(&step).run() {
            Ended::Killed => {}
            Ended::Done => continue,
            Ended::Failed => panic!("{step}: failed"),
        }
        recover();
        // what is being deleted may be gone, the others read as before at each moment
        let removed = story.points.remove(gone);
        let story = std::cell::RefCell::new(&mut story);
        tally.fault(
            &step,
            || {
                story.borrow().assert_all_restore();
                Agent::new(&own_host(), &calls).succeed();
                assert!(!story.borrow().nas.at(&removed.path).exists());
                assert_clean(&story.borrow());
            },
            || {
                story.borrow().assert_all_restore();
                next_incremental(&mut story.borrow_mut());
                story.borrow().assert_all_restore();
            },
        );
    }
    tally.end(SAMPLE - 1);
}

#[test]
fn a_delete() {
    let begin = || {
        let mut story = Story::with_full();
        story.take("full");
        story
    };
    kill_calls("killed: delete", 6, begin, |story| vec![delete(story, &story.points[0].path)], 0);
}

#[test]
fn a_repair() {
    kill_calls("killed: rebase and delete", 7, chain, repair, 1);
}

#[test]
fn a_merge_by_commit() {
    let begin = || {
        let mut story = Story::new(Guest::ordinary(), Nas::image(Fs::Ext4, 700));
        story.take("full");
        for _ in 0..2 {
            next_incremental(&mut story);
        }
        story
    };
    let committed = |story: &Story| {
        let image = |point: usize| fs::metadata(story.nas.at(&story.points[point].files()[0])).unwrap().ino();
        let below = image(0);
        Agent::new(&own_host(), &merge(story)).succeed();
        assert_eq!(image(1), below);
    };
    committed(&begin());
    kill_calls("killed: commit and delete", 9, begin, merge, 0);
}
