//! Nothing is left in this process. One test only: it counts the process's own descriptors and threads.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod support;

use nasbackup::error::{Code, Error};
use nasbackup::nas::repository::Repository;
use nasbackup::operation::take_backup::{self, TakeBackupRequest};
use nasbackup::work::phase::Phase;
use support::{Fs, Leaks, MIB, Story, take, unmounted_image};

/// Successes and failures of every sort, on a folder and on a repository that is mounted for the call.
fn one_round(story: &mut Story, mounted: &Repository) {
    story.guest.write(0, 0x51, 5 * MIB, MIB);
    story.take("incremental");
    story.take("legacy");
    let by_pull = |mode, story: &Story| TakeBackupRequest { engine: Some("pull".into()), ..story.request(mode) };
    story.accept(by_pull("incremental", story));
    let cancelled = by_pull("full", story);
    story.refuse_with(cancelled, "INTERNAL", |_, request| {
        take_backup::run(request, &mut |status| match status.phase {
            Phase::Copy | Phase::Publish => Err(Error::new(Code::Internal, "listen", "enough")),
            _ => Ok(()),
        })
    });
    story.guest.restart();
    story.take("incremental");
    let legacy = story.request("legacy");
    take(TakeBackupRequest { repository: Some(mounted.clone()), ..legacy }).unwrap();
    story.skip();
    let bad_mount = Repository { address: Some("/nowhere".into()), ..mounted.clone() };
    story.refuse(TakeBackupRequest { repository: Some(bad_mount), ..story.request("full") }, "MOUNT_FAILED");
    story.refuse(TakeBackupRequest { quiesce: Some(true), ..story.request("full") }, "QUIESCE_FAILED");
    story.refuse(TakeBackupRequest { mode: Some("none".into()), ..story.request("full") }, "INVALID_ARGUMENT");
    story.refuse(story.stopped_request("full"), "DOMAIN_STATE");
    story.guest.stop();
    story.take_stopped("full");
    let legacy = story.stopped_request("legacy");
    take(TakeBackupRequest { repository: Some(mounted.clone()), ..legacy }).unwrap();
    story.skip();
    story.guest.start();
}

#[test]
fn runs_leave_no_mount_descriptor_or_thread() {
    let mut story = Story::with_full();
    let image = unmounted_image(Fs::Ext4, 512);
    let mounted = Repository {
        kind: Some("ext4".into()),
        address: Some(image.to_str().unwrap().into()),
        options: Some("loop".into()),
    };
    // What a process opens once and keeps, such as its connection to libvirt, is open after this.
    one_round(&mut story, &mounted);
    let before = Leaks::now();
    for _ in 0..3 {
        one_round(&mut story, &mounted);
    }
    before.assert_none();
    let scratch = nasbackup::config::current().state_dir.join("scratch");
    assert_eq!(std::fs::read_dir(scratch).unwrap().count(), 0, "scratch folders");
    story.assert_all_restore();
}
