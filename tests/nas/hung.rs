//! A repository that hangs is marked: refused at once, and nobody else's business.

use std::sync::mpsc;
use std::time::Instant;

use nasbackup::error::{Code, Error};
use nasbackup::host::{Begun, HostState};
use nasbackup::nas::folder::Folder;
use nasbackup::nas::lock::InstanceLock;
use nasbackup::nas::purpose::Purpose;
use nasbackup::nas::repository::Repository;
use nasbackup::operation;
use nasbackup::operation::mount_point::{self, MountPointRequest};
use nasbackup::operation::take_backup::TakeBackupRequest;
use nasbackup::work::job::JobStatus;
use nasbackup::work::phase::Phase;
use serde_json::{Value, json};

use crate::run;
use crate::support::{
    CLOSES_WAIT, GO_ON, Guest, HANG, Nas, PATIENCE, Refusal, Story, folder, hangs, refusing, take, until,
};

#[test]
fn one_that_hangs_is_refused_at_once_until_it_answers() {
    let (nas, other) = (Nas::folder().through_fuse(), Nas::folder());
    let verify = |nas: &Nas| run(nas, "verifyChain", json!({"backupPath": "i-1/T1"})).unwrap_err();
    assert_eq!(verify(&nas).code, Code::NotFound);
    nas.hang();
    assert_eq!(run(&nas, "backupStats", json!({})).unwrap_err().code, Code::NasUnresponsive);
    // one after the other, and none of them leaves a thread behind
    let export = Repository::check(Some(nas.repository())).unwrap();
    let stuck = nasbackup::work::stuck::stuck(&export);
    let begun = Instant::now();
    for operation in ["backupStats", "deleteBackup", "verifyChain", "rebasePoint"].repeat(3) {
        let request = if operation == "backupStats" { json!({}) } else { json!({"backupPath": "i-1/T1"}) };
        let error = run(&nas, operation, request).unwrap_err();
        assert_eq!(error.code, Code::NasUnresponsive, "{operation}: {error}");
        assert!(error.cause.contains("has not answered for") && error.cause.contains("calls still wait"), "{error}");
    }
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    assert_eq!(nasbackup::work::stuck::stuck(&export), stuck);
    // whoever uses another one does not notice
    run(&other, "backupStats", json!({})).unwrap();
    assert_eq!(verify(&other).code, Code::NotFound);
    nas.go_on();
    until("it is used again", || run(&nas, "backupStats", json!({})).is_ok());
    assert_eq!(verify(&nas).code, Code::NotFound);
}

/// Runs what must not wait for a NAS that hangs, on a thread of its own; what it came to.
fn ends<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, ended) = mpsc::channel();
    std::thread::spawn(move || tell.send(work()));
    ended.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{what}: it waits"))
}

#[test]
fn whoever_gives_a_lock_back_does_not_wait_for_one_that_hangs() {
    let nas = Nas::folder();
    let flock = [Refusal { call: "flock".into(), errnos: vec![GO_ON, HANG] }];
    refusing(nas.root(), &flock, || {
        let lock = InstanceLock::take(&Folder::open_root(nas.root()).unwrap(), Purpose::Read).unwrap();
        ends("the drop of a lock", || drop(lock));
        assert!(hangs(nas.root()), "it did not hang");
    });
    until("the lock is free", || InstanceLock::take(&Folder::open_root(nas.root()).unwrap(), Purpose::Change).is_ok());
}

#[test]
fn whoever_has_read_does_not_wait_for_the_close_of_files_on_one_that_hangs() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    story.take("full").assert_full(true);
    let (nas, point) = (story.nas.root(), story.last());
    let volume = &point.taken.disks[0].volume;
    let request = |more: Value| {
        let mut request = json!({"repository": {"type": "dir", "address": nas}, "backupPath": point.path});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        request.to_string()
    };
    let closes = [Refusal { call: "close".into(), errnos: vec![HANG] }];
    let mark = nas.join(CLOSES_WAIT);
    let asked = Repository::check(Some(story.nas.repository())).unwrap();
    let output = json!({"path": folder("out").join("disk"), "format": "raw"});
    for (operation, phase, request) in [
        ("mountPoint", Phase::OpenOutputs, String::new()),
        ("bootPoint", Phase::MakeMachine, request(json!({}))),
        ("restorePoint", Phase::Copy, request(json!({"volumes": [{"volume": volume, "output": output}]}))),
    ] {
        let (there, export, path) = (mark.clone(), story.nas.repository(), point.path.clone());
        let work = move || {
            let mut listener = |status: &JobStatus| {
                if status.phase == phase {
                    std::fs::create_dir(&there).unwrap();
                    return Err(Error::new(Code::Cancelled, "a test", "it is enough"));
                }
                Ok(())
            };
            if operation == "mountPoint" {
                let folder = folder("place");
                let (repository, backup_path) = (Some(export), Some(path));
                let request = MountPointRequest { repository, backup_path, folder, ..MountPointRequest::default() };
                mount_point::run(request, |_| Ok(()), &mut listener)
            } else {
                operation::call(operation, &request, &mut listener).map(drop)
            }
        };
        refusing(nas, &closes, || {
            assert_eq!(ends(operation, work).map_err(|error| error.code), Err(Code::Cancelled), "{operation}");
            assert!(hangs(nas), "{operation}: no close did hang");
        });
        std::fs::remove_dir(&mark).unwrap();
        until("the files are closed", || nasbackup::work::stuck::stuck(&asked) == 0);
    }
}

#[test]
fn a_reader_that_was_cancelled_gives_its_claim_back_once_it_answers() {
    let under = Nas::folder();
    let there = under.same();
    let mut story = Story::new(Guest::ordinary(), under.through_fuse());
    story.take("full").assert_full(true);
    let request = json!({"repository": {"type": "dir", "address": story.nas.root()}, "backupPath": story.last().path});
    let error = operation::call("verifyChain", &request.to_string(), &mut |status| {
        if status.phase == Phase::FollowChains {
            story.nas.hang();
            return Err(Error::new(Code::Cancelled, "a test", "it is enough"));
        }
        Ok(())
    });
    assert_eq!(error.unwrap_err().code, Code::Cancelled);
    let claims = || {
        let entries = std::fs::read_dir(there.at(&story.guest.name)).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().contains("reader")).count()
    };
    assert_eq!(claims(), 1);
    story.nas.go_on();
    until("its thread removes it", || claims() == 0);
}

/// What a host remembers of a backup of the guest that was killed.
fn left(story: &Story) -> Begun {
    let vm = story.guest.name.clone();
    Begun {
        job: "killed".into(),
        root: story.nas.root().to_owned(),
        point: format!("{vm}/left"),
        vm,
        bitmap: None,
        may_resume: false,
        disks: Vec::new(),
        view: None,
    }
}

/// A backup that was killed has left something there.
#[test]
fn what_was_left_there_is_not_looked_for_while_it_hangs() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder().through_fuse());
    story.take("full").assert_full(true);
    let (vm, left) = (story.guest.name.clone(), left(&story));
    let state_dir = nasbackup::config::current().state_dir.clone();
    let record = || HostState::lock(&state_dir, &vm).unwrap();
    record().begin(left).unwrap();
    story.nas.hang();
    let within = |seconds| TakeBackupRequest { wait_seconds: Some(seconds), ..story.request("incremental") };
    let begun = Instant::now();
    // nobody knows yet that it hangs, and then everybody
    for request in [within(8), within(3600)] {
        let error = take(request).unwrap_err();
        assert_eq!((error.code, error.leftovers), (Code::NasUnresponsive, false), "{error}");
    }
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    story.nas.go_on();
    until("it answers", || run(&story.nas, "backupStats", json!({})).is_ok());
    until("what looked for it has let go", || HostState::lock(&state_dir, &vm).is_ok());
    story.skip();
    story.take_until_free();
    story.take("incremental").assert_incremental();
    assert_eq!(record().begun(), None);
    story.assert_all_restore();
}

/// What a backup has left that was killed is removed under the lock that the guest's own next backup needs.
#[test]
fn a_removal_of_what_was_left_that_takes_long_is_no_other_backup() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    story.take("full").assert_full(true);
    let left = left(&story);
    let partial = story.nas.at(&format!("{}/.partial-left", story.guest.name));
    std::fs::create_dir(&partial).unwrap();
    std::fs::write(partial.join("file"), "").unwrap();
    let record = || HostState::lock(&nasbackup::config::current().state_dir, &story.guest.name).unwrap();
    record().begin(left).unwrap();
    let request = TakeBackupRequest { wait_seconds: Some(5), ..story.request("incremental") };
    let unlinks = [Refusal { call: "unlink".into(), errnos: vec![HANG] }];
    let instance = partial.parent().unwrap();
    let ((error, other), _) = refusing(story.nas.root(), &unlinks, || {
        let error = take(request).unwrap_err();
        (error, Folder::open_root(instance).and_then(|instance| InstanceLock::take(&instance, Purpose::Add)))
    });
    assert_eq!((error.code, error.step), (Code::NasUnresponsive, "remove what backups have left"), "{error}");
    // a backup of the same name would lose what it makes there
    assert_eq!(other.err().map(|error| error.code), Some(Code::Busy), "nobody else is there while it goes on");
    assert_eq!(record().begun(), None, "it is known that there is no such point");
    story.skip();
    story.take_until_free();
    assert!(!partial.exists());
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

#[test]
fn no_push_begins_on_one_that_is_marked() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder().through_fuse());
    story.take("full").assert_full(true);
    story.nas.hang();
    assert_eq!(run(&story.nas, "backupStats", json!({})).unwrap_err().code, Code::NasUnresponsive);
    let begun = Instant::now();
    let error = take(story.request("incremental")).unwrap_err();
    assert_eq!((error.code, error.leftovers), (Code::NasUnresponsive, false), "{error}");
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    story.assert_guest_untouched();
    story.nas.go_on();
    story.skip();
    until("it answers", || run(&story.nas, "backupStats", json!({})).is_ok());
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}
