//! The daemon is restarted, and hangs, under a backup. One test at a time: the daemon is everybody's.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};

use nasbackup::operation::take_backup::TakeBackupRequest;
use support::{Guest, Leaks, MIB, Nas, Story, restart_libvirtd, signal_libvirtd, take_and};

fn alone() -> MutexGuard<'static, ()> {
    static DAEMON: Mutex<()> = Mutex::new(());
    DAEMON.lock().unwrap_or_else(PoisonError::into_inner)
}

fn restarted_under_a_backup_by(engine: &str) {
    let _alone = alone();
    let mut story = Story::new(Guest::full_of_data(1), Nas::folder().slow(16));
    story.guest.resize(0, 80 * MIB);
    story.take("full").assert_full(true);
    story.guest.write(0, 0x51, 2 * MIB, 48 * MIB);
    let request = TakeBackupRequest { engine: Some(engine.into()), ..story.request("incremental") };
    let taken = story.accept_with(request, |request| take_and(request, |_| restart_libvirtd()));
    taken.assert_incremental();
    // The next one uses what the new daemon knows.
    story.guest.write(0, 0x52, 9 * MIB, MIB);
    story.take("incremental");
    story.assert_all_restore();
}

#[test]
fn a_restarted_libvirtd_does_not_end_the_wait_for_a_push() {
    restarted_under_a_backup_by("push");
}

#[test]
fn a_restarted_libvirtd_does_not_end_the_wait_for_a_pull() {
    restarted_under_a_backup_by("pull");
}

#[test]
fn a_connection_that_was_lost_leaves_no_descriptor_behind() {
    let _alone = alone();
    let mut story = Story::with_full();
    restart_libvirtd();
    story.take("incremental");
    let before = Leaks::now();
    for _ in 0..3 {
        restart_libvirtd();
        story.guest.write(0, 0x51, 5 * MIB, MIB);
        story.take("incremental");
    }
    before.assert_none();
    story.assert_all_restore();
}

#[test]
fn a_libvirtd_that_hangs_fails_the_backup_and_the_next_one_is_right() {
    let _alone = alone();
    let mut story = Story::with_full();
    story.guest.write(0, 0x51, 5 * MIB, MIB);
    let hangs = |_: &Story, request| {
        signal_libvirtd("-STOP");
        let taken = support::take(request);
        signal_libvirtd("-CONT");
        taken
    };
    story.refuse_with(story.request("incremental"), "LIBVIRT", hangs);
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}
