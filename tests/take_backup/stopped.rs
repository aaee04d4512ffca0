//! Stopped guests: the disks come in the request, a bitmap is seeded before they are read.

use nasbackup::operation::take_backup::TakeBackupRequest;

use crate::support::{Disk, Guest, Image, MIB, Nas, Story, listing, take, take_and};

/// A stopped guest with data on both disks.
fn stopped() -> Story {
    let story = Story::new(Guest::ordinary(), Nas::folder());
    story.guest.stop();
    story
}

#[test]
fn a_stopped_full_seeds_the_running_incremental() {
    let mut story = stopped();
    story.take_stopped("full").assert_full(true);
    story.guest.start();
    story.guest.write(0, 0x51, 5 * MIB, MIB);
    let parent = story.bitmap();
    story.take("incremental").assert_recreated(&parent);
    story.guest.write(1, 0x52, 6 * MIB, MIB);
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

#[test]
fn a_stopped_full_ends_the_chain_of_the_running_guest() {
    let mut story = Story::with_full();
    story.guest.write(0, 0x51, 5 * MIB, MIB);
    story.guest.stop();
    story.take_stopped("full").assert_full(true);
    story.guest.start();
    story.guest.write(0, 0x52, 6 * MIB, MIB);
    let parent = story.bitmap();
    story.take("incremental").assert_recreated(&parent);
    story.assert_all_restore();
}

#[test]
fn a_crashed_guest_is_saved_and_seeded_anew() {
    let mut story = Story::with_full();
    story.guest.restart();
    story.guest.kill_qemu();
    story.take_stopped("full").assert_full(true);
    story.guest.start();
    story.guest.write(0, 0x52, 6 * MIB, MIB);
    let parent = story.bitmap();
    story.take("incremental").assert_recreated(&parent);
    story.assert_all_restore();
}

#[test]
fn a_stopped_incremental_is_a_full_that_says_so() {
    let mut story = Story::with_full();
    story.guest.write(0, 0x51, 5 * MIB, MIB);
    story.guest.stop();
    story.take_stopped("incremental").assert_fallback();
    story.guest.start();
    story.guest.write(0, 0x52, 6 * MIB, MIB);
    let parent = story.bitmap();
    story.take("incremental").assert_recreated(&parent);
    story.assert_all_restore();
}

#[test]
fn a_stopped_legacy_seeds_nothing() {
    let mut story = stopped();
    story.take_stopped("legacy").assert_full(false);
    assert!(story.guest.bitmaps(0).is_empty());
    story.assert_all_restore();
}

#[test]
fn disks_that_take_no_bitmap_are_saved_all_the_same() {
    let disks = [Disk::root(), Disk::new().image(Image::Raw), Disk::new().image(Image::Qcow2V2), Disk::block()];
    let mut story = Story::new(Guest::new(disks), Nas::folder());
    for disk in 0..4 {
        story.guest.write(disk, 0x51, 5 * MIB, MIB);
    }
    story.guest.stop();
    let point = story.take_stopped("full");
    point.assert_full(true);
    assert!(!point.taken.details.is_empty(), "it says which disks carry no bitmap");
    story.assert_all_restore();
}

#[test]
fn a_stopped_guest_of_raw_disks_says_that_nothing_was_seeded() {
    let mut story = Story::new(Guest::stopped([Disk::new().image(Image::Raw)]), Nas::folder());
    let point = story.take_stopped("full");
    point.assert_full(false);
    assert!(!point.taken.details.is_empty());
    story.assert_all_restore();
}

#[test]
fn odd_paths_are_taken_as_they_are() {
    let disks =
        [Disk::root().named("a 'b' \"c\" & <d> : * ü,=.qcow2"), Disk::new().image(Image::Raw).named("json:{x}")];
    let mut story = Story::new(Guest::stopped(disks), Nas::folder());
    story.take_stopped("full").assert_full(true);
    story.assert_all_restore();
}

#[test]
fn the_state_has_to_be_the_one_that_the_request_implies() {
    let mut story = Story::with_full();
    story.refuse(story.stopped_request("full"), "DOMAIN_STATE");
    story.guest.suspend();
    story.refuse(story.stopped_request("full"), "DOMAIN_STATE");
    story.guest.resume();
    story.guest.stop();
    story.refuse(story.request("full"), "DOMAIN_NOT_FOUND");
}

#[test]
fn a_disk_in_use_by_somebody_else_is_left_alone() {
    let story = Story::with_full();
    let before = listing(story.nas.root());
    let other = format!("{}-other", story.guest.name);
    let request = TakeBackupRequest {
        vm_name: Some(other.clone()),
        backup_path: Some(format!("{other}/2026.01.01.00.00.00")),
        ..story.stopped_request("full")
    };
    let error = take(request).expect_err("QEMU holds the lock");
    assert!(error.disk.is_some(), "it names the disk: {error}");
    let files = |listing: Vec<_>| listing.into_iter().filter(|(_, length)| *length > 0).collect::<Vec<_>>();
    assert_eq!(files(listing(story.nas.root())), files(before));
    story.assert_guest_untouched();
}

#[test]
fn a_disk_that_is_not_there_is_named() {
    let mut story = stopped();
    let mut request = story.stopped_request("full");
    let path = "/nowhere/at/all".to_owned();
    request.disks.as_mut().unwrap()[1].path = Some(path.clone());
    let error = story.refuse(request, "NOT_FOUND");
    assert!(error.to_string().contains(&path), "{error}");
    assert!(story.guest.bitmaps(0).is_empty(), "a seed without a backup");
}

#[test]
fn a_wrong_format_is_refused_and_not_guessed() {
    let mut story = Story::new(Guest::stopped([Disk::new().image(Image::Raw)]), Nas::folder());
    let mut request = story.stopped_request("full");
    request.disks.as_mut().unwrap()[0].format = Some("qcow2".into());
    story.refuse(request, "CORRUPT_IMAGE");
}

#[test]
fn an_encrypted_disk_is_refused() {
    let mut story = Story::new(Guest::stopped([Disk::root(), Disk::new().image(Image::Luks)]), Nas::folder());
    story.refuse(story.stopped_request("full"), "UNSUPPORTED_IMAGE");
    assert!(story.guest.bitmaps(0).is_empty(), "before any effect");
}

#[test]
fn a_guest_started_between_seed_and_reading_fails_the_backup_and_loses_no_write() {
    let mut story = Story::with_full();
    story.guest.stop();
    story.refuse_with(story.stopped_request("full"), "DOMAIN_STATE", |story, request| {
        // The bitmaps are seeded when the copy begins.
        take_and(request, |_| story.guest.start())
    });
    story.guest.write(0, 0x51, 9 * MIB, MIB);
    // The seed is nobody's parent, and is cleared away.
    let parent = story.bitmap();
    story.take("incremental").assert_recreated(&parent);
    story.assert_all_restore();
}
