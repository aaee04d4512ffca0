//! Incrementals without a bitmap: contents are compared with the fingerprints of the parent point.

use nasbackup::point::Kind::Incremental;

use crate::chains::take_by;
use crate::support::{Disk, Guest, Image, MIB, Nas, Point, Story, run};

/// A chain of a full and an incremental by these engines, whose guest is then killed: its bitmap was never stored.
fn killed(engines: [&str; 2]) -> Story {
    let mut story = Story::new(Guest::full_of_data(16), Nas::folder());
    for (i, engine) in (0..).zip(engines) {
        let mode = if i == 0 { "full" } else { "incremental" };
        take_by(&mut story, engine, mode);
        story.guest.write(0, 0x51 + i, 3 * MIB + u64::from(i) * MIB, MIB);
    }
    story.guest.kill_qemu();
    story.guest.start();
    story
}

/// The next incremental, by the pull engine; with the parent's bitmap, which is lost.
fn take(story: &mut Story) -> (String, &Point) {
    let parent = story.bitmap();
    (parent, take_by(story, "pull", "incremental"))
}

#[test]
fn only_what_differs_is_written() {
    let mut story = killed(["pull", "pull"]);
    story.guest.write(0, 0x61, 20 * MIB, 64 << 10);
    // as it was: no difference
    story.guest.write(0, 0x51, 3 * MIB, MIB);
    story.guest.write_zeroes(0, 8 * MIB, MIB);
    story.guest.discard(0, 10 * MIB, MIB);
    let (parent, point) = take(&mut story);
    point.assert_recreated(&parent);
    // 1 MiB of 0x52 since the last point, one cluster of 0x61, tables
    assert!(point.taken.size < 2 * MIB, "{:?}", point.taken);
    let (_, point) = take(&mut story);
    point.assert_incremental();
    story.assert_all_restore();
}

#[test]
fn an_unchanged_disk_costs_nothing() {
    let mut story = killed(["pull", "pull"]);
    take(&mut story);
    story.guest.kill_qemu();
    story.guest.start();
    let (parent, point) = take(&mut story);
    point.assert_recreated(&parent);
    assert!(point.taken.size <= 6 * (64 << 10), "{:?}", point.taken);
    story.assert_all_restore();
}

#[test]
fn an_image_without_fingerprints_is_read_once() {
    let mut story = killed(["pull", "push"]);
    let image = story.last().files()[0].clone();
    let (parent, point) = take(&mut story);
    point.assert_recreated(&parent);
    assert!(point.taken.details.contains(&format!("'{image}' had no fingerprints")), "{:?}", point.taken);
    story.guest.kill_qemu();
    story.guest.start();
    let (parent, point) = take(&mut story);
    point.assert_recreated(&parent);
    assert!(!point.taken.details.contains("had no fingerprints"), "{:?}", point.taken);
    story.assert_all_restore();
}

#[test]
fn a_full_without_fingerprints_is_not_read() {
    let mut story = killed(["push", "pull"]);
    let (_, point) = take(&mut story);
    point.assert_fallback();
    assert!(point.taken.details.contains("have no fingerprints"), "{:?}", point.taken);
    story.assert_all_restore();
}

#[test]
fn damaged_fingerprints_make_a_full() {
    for damage in ["flip", "cut", "remove"] {
        let mut story = killed(["pull", "pull"]);
        let image = story.points[0].files()[0].clone();
        let index = story.nas.at(&image).with_extension("fingerprints");
        let mut bytes = std::fs::read(&index).unwrap();
        let middle = bytes.len() / 2;
        match damage {
            "flip" => bytes[middle] ^= 1,
            "cut" => bytes.truncate(middle),
            _ => bytes.clear(),
        }
        if bytes.is_empty() {
            std::fs::remove_file(&index).unwrap();
        } else {
            std::fs::write(&index, bytes).unwrap();
        }
        let (_, point) = take(&mut story);
        point.assert_fallback();
        story.assert_all_restore();
    }
}

#[test]
fn a_grown_disk_is_compared_as_far_as_it_went() {
    let mut story = killed(["pull", "pull"]);
    story.guest.resize(0, 64 * MIB + 512 * 3);
    story.guest.write(0, 0x61, 64 * MIB - 512, 1024);
    let (parent, point) = take(&mut story);
    point.assert_recreated(&parent);
    story.guest.resize(0, 80 * MIB);
    story.guest.kill_qemu();
    story.guest.start();
    story.guest.write(0, 0x62, 70 * MIB, MIB);
    let (parent, point) = take(&mut story);
    point.assert_recreated(&parent);
    story.assert_all_restore();
}

#[test]
fn a_stopped_guest_is_compared_too() {
    let disks = [Disk::root(), Disk::new().image(Image::Raw)];
    let mut story = Story::new(Guest::new(disks), Nas::folder());
    story.guest.write(1, 0x41, 0, 16 * MIB);
    story.take("full").assert_full(true);
    story.guest.write(1, 0x51, 3 * MIB, MIB);
    story.guest.stop();
    let point = story.take_stopped("incremental");
    point.assert_incremental();
    assert_eq!(point.kinds(), [Incremental; 2]);
    assert!(point.taken.disks[1].size < 2 * MIB, "{:?}", point.taken);
    let parent = story.bitmap();
    let root = story.guest.disks[0].path.to_str().unwrap();
    run("qemu-img", ["bitmap", "--remove", "-f", "qcow2", root, &parent]);
    let point = story.take_stopped("incremental");
    point.assert_recreated(&parent);
    assert_eq!(point.kinds(), [Incremental; 2]);
    assert!(point.taken.size < MIB, "{:?}", point.taken);
    story.guest.start();
    story.guest.write(0, 0x61, 3 * MIB, MIB);
    let parent = story.bitmap();
    story.take("incremental").assert_recreated(&parent);
    story.assert_all_restore();
}

/// Nothing but fingerprints tells what changed, and the point's name is all that a request has of it.
#[test]
fn a_guest_without_any_bitmap_is_incremental() {
    let mut story = Story::new(Guest::new([Disk::new().image(Image::Raw), Disk::block()]), Nas::folder());
    story.guest.write(0, 0x41, 0, 16 * MIB);
    story.take("full").assert_full(false);
    for key in [0x51, 0x52] {
        story.guest.write(0, key, 3 * MIB, MIB);
        story.guest.write(1, key, 5 * MIB, 64 << 10);
        let point = story.take("incremental");
        assert_eq!(point.kinds(), [Incremental; 2]);
        assert_eq!((&point.taken.bitmap_created, &point.taken.bitmap_recreated), (&None, &None));
        assert!(point.taken.size < 3 * MIB, "{:?}", point.taken);
    }
    story.assert_all_restore();
}
