//! A repository that hangs is marked: refused at once, and nobody else's business.

use std::time::Instant;

use nasbackup::error::Code;
use nasbackup::host::{Begun, HostState};
use nasbackup::nas::folder::Folder;
use nasbackup::nas::lock::InstanceLock;
use nasbackup::nas::purpose::Purpose;
use nasbackup::nas::repository::Repository;
use nasbackup::operation::take_backup::TakeBackupRequest;
use serde_json::json;

use crate::run;
use crate::support::{Guest, HANG, Nas, PATIENCE, Refusal, Story, refusing, take, until};

#[test]
fn one_that_hangs_is_refused_at_once_until_it_answers() {
    let (nas, other) = (Nas::folder().through_fuse(), Nas::folder());
    let verify = |nas: &Nas| run(nas, "verifyChain", json!({"backupPath": "i-1/T1"})).unwrap_err();
    assert_eq!(verify(&nas).code, Code::NotFound);
    nas.hang();
    assert_eq!(run(&nas, "backupStats", json!({})).unwrap_err().code, Code::NasUnresponsive);
    // one after the other, and none of them leaves a thread behind
    let export = Repository::check(Some(nas.repository())).unwrap();
    let stuck = nasbackup::work::deadline::stuck(&export);
    let begun = Instant::now();
    for operation in ["backupStats", "deleteBackup", "verifyChain", "rebasePoint"].repeat(3) {
        let request = if operation == "backupStats" { json!({}) } else { json!({"backupPath": "i-1/T1"}) };
        let error = run(&nas, operation, request).unwrap_err();
        assert_eq!(error.code, Code::NasUnresponsive, "{operation}: {error}");
        assert!(error.cause.contains("has not answered for") && error.cause.contains("calls still wait"), "{error}");
    }
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    assert_eq!(nasbackup::work::deadline::stuck(&export), stuck);
    // whoever uses another one does not notice
    run(&other, "backupStats", json!({})).unwrap();
    assert_eq!(verify(&other).code, Code::NotFound);
    nas.go_on();
    until("it is used again", || run(&nas, "backupStats", json!({})).is_ok());
    assert_eq!(verify(&nas).code, Code::NotFound);
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
