//! Guests whose disks are images in Ceph: they carry no bitmap, and only fingerprints tell what changed.

use nasbackup::point::Kind::Incremental;

use crate::support::{Disk, Guest, MIB, Nas, Story};

/// A running guest with a disk in Ceph.
fn on_rbd() -> Story {
    let mut story = Story::new(Guest::new([Disk::rbd()]), Nas::folder());
    story.guest.write(0, 0x41, 0, 16 * MIB);
    story
}

#[test]
fn a_running_guest_is_compared() {
    let mut story = on_rbd();
    story.take("full").assert_full(false);
    story.guest.write(0, 0x51, 3 * MIB, MIB);
    story.guest.write_zeroes(0, 8 * MIB, MIB);
    story.guest.discard(0, 12 * MIB, 4 * MIB);
    let point = story.take("incremental");
    assert_eq!(point.kinds(), [Incremental]);
    assert!(point.taken.size < 2 * MIB, "{:?}", point.taken);
    story.assert_all_restore();
}
