//! What can't work is refused before the guest is touched, with what helps.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;

use crate::support::{Fs, Guest, MIB, Nas, Story};

#[test]
fn a_repository_without_room_is_refused_with_both_numbers() {
    let mut story = Story::new(Guest::full_of_data(48), Nas::image(Fs::Ext4, 24));
    let numbers = |text: &str| {
        let numbers = text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse::<u64>().ok());
        numbers.filter(|number| *number > MIB).collect::<Vec<_>>()
    };
    let error = story.refuse(story.request("full"), "NO_SPACE");
    let found = numbers(&error.cause);
    assert!(matches!(found[..], [needed, free] if needed >= 48 * MIB && free < 24 * MIB), "{error}");
    assert_eq!(error.step, "look at the free space");
    story.assert_guest_untouched();
}

#[test]
fn changes_without_room_are_refused_too() {
    let mut story = Story::new(Guest::full_of_data(1), Nas::image(Fs::Ext4, 24));
    story.guest.resize(0, 80 * MIB);
    story.take("full").assert_full(true);
    story.guest.write(0, 0x51, 2 * MIB, 48 * MIB);
    let error = story.refuse(story.request("incremental"), "NO_SPACE");
    assert_eq!(error.step, "look at the free space", "{error}");
    story.assert_guest_untouched();
    // what was discarded takes no room
    story.guest.discard(0, 2 * MIB, 48 * MIB);
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

#[test]
fn a_stopped_guest_s_data_and_changes_without_room_are_refused_too() {
    let mut story = Story::new(Guest::full_of_data(1), Nas::image(Fs::Ext4, 24));
    story.guest.resize(0, 80 * MIB);
    story.take("full").assert_full(true);
    story.guest.write(0, 0x51, 2 * MIB, 48 * MIB);
    story.guest.stop();
    for mode in ["incremental", "full"] {
        let bitmaps = story.guest.bitmaps(0);
        let error = story.refuse(story.stopped_request(mode), "NO_SPACE");
        assert_eq!(error.step, "look at the free space", "{mode}: {error}");
        assert_eq!(story.guest.bitmaps(0), bitmaps, "{mode}");
    }
    story.assert_all_restore();
}

/// QEMU sees the folder of its targets, and none of those above it.
#[test]
fn a_repository_that_root_alone_can_enter_takes_a_push() {
    let mut story = Story::new(Guest::ordinary(), Nas::image(Fs::Ext4, 64));
    set_permissions(story.nas.root(), Permissions::from_mode(0o700)).unwrap();
    story.take("full").assert_full(true);
    story.assert_all_restore();
}

#[test]
fn a_read_only_repository_says_so() {
    let mut story = Story::new(Guest::ordinary(), Nas::image(Fs::Ext4, 64));
    story.nas.read_only(true);
    let error = story.refuse(story.request("full"), "PERMISSION_DENIED");
    assert!(error.cause.contains("mount it read-write") && error.cause.contains("user 0"), "{error}");
    story.assert_guest_untouched();
    story.nas.read_only(false);
    story.take("full").assert_full(true);
}

/// A NAS that lets root write and give nothing away, as one that squashes root.
#[test]
fn a_file_that_can_not_be_given_to_qemu_says_so() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder().without_chown());
    let error = story.refuse(story.request("full"), "PERMISSION_DENIED");
    assert!(error.cause.contains("no_root_squash") && error.cause.contains("as which QEMU runs"), "{error}");
    story.assert_guest_untouched();
}
