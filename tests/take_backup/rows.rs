//! Which backup results, for running guests: a test for each row of the table, and the guests and disks it has to hold for.

use std::fs::Permissions;
use std::os::unix::fs::{FileExt, PermissionsExt};

use nasbackup::config::Engine;
use nasbackup::nas::repository::Repository;
use nasbackup::operation::take_backup::{self, TakeBackupRequest};
use nasbackup::point::Kind::{Full, Incremental};
use nasbackup::work::phase::Phase;

use crate::mutation::Random;
use crate::support::{
    Bus, Disk, Fs, Guest, Image, MIB, Nas, Story, assert_holds, details, folder, run, take, unmounted_image, until,
};

#[test]
fn legacy_is_full_without_a_bitmap() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    story.take("legacy").assert_full(false);
    assert!(story.guest.checkpoints().is_empty());
    // Absent means legacy too.
    let request = TakeBackupRequest { mode: None, ..story.request("legacy") };
    story.accept(request).assert_full(false);
    story.assert_all_restore();
}

#[test]
fn incrementals_stand_on_a_known_checkpoint() {
    let mut story = Story::with_full();
    story.guest.write(0, 0x51, 5 * MIB, MIB);
    story.guest.write(1, 0x52, 40 * MIB, 64 << 10);
    story.take("incremental").assert_incremental();
    story.guest.write_zeroes(0, 4 * MIB, 2 * MIB);
    story.guest.discard(1, 0, MIB);
    story.guest.write(1, 0x53, 40 * MIB + 512, 512);
    story.take("incremental").assert_incremental();
    // Nothing was written since.
    let size = story.take("incremental").taken.size;
    assert!(size < 2 * MIB, "{size} bytes for nothing");
    story.assert_all_restore();
}

#[test]
fn a_full_begins_a_new_chain() {
    let mut story = Story::with_full();
    story.guest.write(0, 0x51, 5 * MIB, MIB);
    story.take("incremental").assert_incremental();
    story.take("full").assert_full(true);
    story.guest.write(0, 0x52, 6 * MIB, MIB);
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

#[test]
fn a_legacy_run_between_leaves_the_chain_alone() {
    let mut story = Story::with_full();
    story.guest.write(0, 0x51, 5 * MIB, MIB);
    story.take("legacy").assert_full(false);
    story.guest.write(0, 0x52, 7 * MIB, MIB);
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

#[test]
fn after_a_restart_the_checkpoint_is_made_again() {
    let mut story = Story::with_full();
    story.guest.write(0, 0x51, 5 * MIB, MIB);
    story.guest.restart();
    story.guest.write(1, 0x52, 9 * MIB, MIB);
    let parent = story.bitmap();
    story.take("incremental").assert_recreated(&parent);
    story.guest.write(1, 0x53, 10 * MIB, MIB);
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

#[test]
fn after_save_and_restore_the_checkpoint_is_made_again() {
    let mut story = Story::with_full();
    story.guest.write(0, 0x51, 5 * MIB, MIB);
    story.guest.save_restore();
    story.guest.write(1, 0x52, 9 * MIB, MIB);
    let parent = story.bitmap();
    story.take("incremental").assert_recreated(&parent);
    story.assert_all_restore();
}

#[test]
fn ten_restarts_stay_incremental_and_right() {
    let mut story = Story::with_full();
    for round in 0..10 {
        story.guest.write(0, 0x60 + round, u64::from(round) * 3 * MIB, MIB);
        story.guest.restart();
        story.guest.write(1, 0x70 + round, u64::from(round) * 2 * MIB, MIB);
        let parent = story.bitmap();
        story.take("incremental").assert_recreated(&parent);
    }
    story.assert_all_restore();
}

/// After `lose` has taken the bitmap of the stopped or running guest away: a full, or what differs from the fingerprints that
/// the pull engine has made, and then incrementals again.
fn falls_back_after(lose: impl FnOnce(&mut Story)) {
    let mut story = Story::with_full();
    story.guest.write(0, 0x51, 5 * MIB, MIB);
    lose(&mut story);
    story.guest.write(1, 0x52, 9 * MIB, MIB);
    let parent = story.bitmap();
    story.take("incremental").assert_without_bitmap(&parent);
    story.guest.write(1, 0x53, 10 * MIB, MIB);
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

fn bitmap(story: &Story, disk: usize, action: &str) {
    let path = story.guest.disks[disk].path.to_str().unwrap();
    run("qemu-img", ["bitmap", action, "-f", "qcow2", path, &story.bitmap()]);
}

#[test]
fn a_bitmap_that_was_never_stored_is_lost() {
    falls_back_after(|story| {
        story.guest.kill_qemu();
        assert!(story.guest.bitmaps(0).is_empty());
        story.guest.start();
    });
}

#[test]
fn a_bitmap_that_qemu_left_in_use_is_lost() {
    falls_back_after(|story| {
        story.guest.restart();
        story.guest.kill_qemu();
        assert_eq!(story.guest.bitmaps(0), [story.bitmap()]);
        story.guest.start();
    });
}

#[test]
fn a_bitmap_that_was_removed_is_lost() {
    falls_back_after(|story| {
        story.guest.stop();
        bitmap(story, 0, "--remove");
        bitmap(story, 1, "--remove");
        story.guest.start();
    });
}

#[test]
fn a_bitmap_that_was_disabled_is_lost() {
    falls_back_after(|story| {
        story.guest.stop();
        bitmap(story, 0, "--disable");
        bitmap(story, 1, "--disable");
        story.guest.start();
    });
}

#[test]
fn one_lost_bitmap_of_two_makes_the_whole_point_full() {
    falls_back_after(|story| {
        story.guest.stop();
        bitmap(story, 1, "--remove");
        story.guest.start();
    });
}

/// Takes the bitmap away from the first disk, while libvirt knows its checkpoint.
fn clear_bitmap(story: &mut Story) {
    let device = story.guest.qmp(serde_json::json!({"execute": "query-block"}));
    let node = device[0]["inserted"]["node-name"].clone();
    let arguments = serde_json::json!({"node": node, "name": story.bitmap()});
    story.guest.qmp(serde_json::json!({"execute": "block-dirty-bitmap-remove", "arguments": arguments}));
}

#[test]
fn one_cleared_bitmap_beneath_a_known_checkpoint_makes_the_whole_point_full() {
    falls_back_after(clear_bitmap);
}

#[test]
fn beside_a_disk_that_is_compared_anyway_it_is_compared_too() {
    let guest = Guest::new([Disk::root(), Disk::new().image(Image::Raw)]);
    let mut story = Story::new(guest, Nas::folder());
    story.take("full");
    clear_bitmap(&mut story);
    story.guest.write(0, 0x51, 5 * MIB, MIB);
    story.guest.write(1, 0x52, 9 * MIB, MIB);
    let parent = story.bitmap();
    story.take("incremental").assert_without_bitmap(&parent);
    story.assert_all_restore();
}

#[test]
fn an_overlay_beneath_a_checkpoint_that_libvirt_kept_hides_the_bitmap() {
    falls_back_after(|story| {
        // only a persistent domain's checkpoints outlive a stop
        let xml = folder("define").join("xml");
        std::fs::write(&xml, story.guest.xml()).unwrap();
        story.guest.stop();
        run("virsh", ["define", xml.to_str().unwrap()]);
        story.guest.virsh(&["start"]);
        story.take("full");
        story.guest.stop();
        overlay(story, 1);
        story.guest.virsh(&["start"]);
        assert_eq!(story.guest.checkpoints(), [story.bitmap()]);
    });
}

/// Puts an empty image over the disk's.
fn overlay(story: &Story, disk: usize) {
    let below = story.guest.disks[disk].path.clone();
    let moved = below.with_extension("below");
    std::fs::rename(&below, &moved).unwrap();
    let (moved, path) = (moved.to_str().unwrap(), below.to_str().unwrap());
    run("qemu-img", ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", moved, path]);
}

#[test]
fn an_overlay_made_since_hides_the_bitmap() {
    falls_back_after(|story| {
        story.guest.stop();
        overlay(story, 1);
        story.guest.start();
    });
}

#[test]
fn a_disk_that_the_parent_lacks_is_full_inside_the_same_point() {
    let mut story = Story::with_full();
    story.guest.stop();
    story.guest.add(Disk::new());
    story.guest.start();
    story.guest.write(2, 0x51, 5 * MIB, MIB);
    story.guest.write(0, 0x52, 9 * MIB, MIB);
    let parent = story.bitmap();
    let point = story.take("incremental");
    point.assert_recreated(&parent);
    assert_eq!(point.kinds(), [Incremental, Incremental, Full]);
    story.guest.write(2, 0x53, 6 * MIB, MIB);
    assert_eq!(story.take("incremental").kinds(), [Incremental; 3]);
    story.assert_all_restore();
}

#[test]
fn a_disk_that_went_leaves_the_others_incremental() {
    let mut story = Story::with_full();
    story.guest.stop();
    story.guest.disks.remove(1);
    story.guest.start();
    story.guest.write(0, 0x52, 9 * MIB, MIB);
    let parent = story.bitmap();
    story.take("incremental").assert_recreated(&parent);
    story.assert_all_restore();
}

#[test]
fn disks_are_paired_by_serial_or_volume_and_never_by_position() {
    let serials = ["aaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbb", "bbbbbbbbbbbbbbbbbbbb"];
    let mut disks: Vec<_> = serials.map(|serial| Disk::new().serial(serial)).into();
    disks.push(Disk::new());
    let mut story = Story::new(Guest::new(disks), Nas::folder());
    for disk in 0..4 {
        story.guest.write(disk, 0x41 + u8::try_from(disk).unwrap(), 5 * MIB, MIB);
    }
    let mut parents = story.take("full").files();
    story.guest.stop();
    story.guest.disks.rotate_left(1);
    parents.rotate_left(1);
    story.guest.start();
    story.guest.write(0, 0x51, 6 * MIB, MIB);
    let parent = story.bitmap();
    let point = story.take("incremental");
    point.assert_recreated(&parent);
    let stand_on: Vec<_> = point.taken.disks.iter().map(|disk| disk.parent.clone().unwrap()).collect();
    assert_eq!(stand_on, parents);
    assert_eq!(details(&point.taken), "");
    // moved to another pool, with the bitmap in it
    story.guest.stop();
    let moved = folder("pool").join("moved");
    std::fs::rename(&story.guest.disks[3].path, &moved).unwrap();
    story.guest.disks[3].path = moved;
    story.guest.start();
    story.guest.write(3, 0x52, 7 * MIB, MIB);
    let parent = story.bitmap();
    let point = story.take("incremental");
    let details = &point.taken.details;
    assert!(details.contains("disk vdd: ") && details.contains("it is volume 'moved' now and was '"), "{details}");
    if point.taken.engine == Engine::Push {
        point.assert_fallback()
    } else {
        point.assert_recreated(&parent)
    }
    story.assert_all_restore();
}

#[test]
fn disks_that_take_no_bitmap_are_compared_by_the_pull_engine_and_full_by_push() {
    let disks = [Disk::root(), Disk::new().image(Image::Raw), Disk::new().image(Image::Qcow2V2), Disk::block()];
    let mut story = Story::new(Guest::new(disks), Nas::folder());
    let full = story.take("full");
    full.assert_full(true);
    let kind = if full.taken.engine == Engine::Pull { Incremental } else { Full };
    for disk in 0..4 {
        story.guest.write(disk, 0x51, 5 * MIB, MIB);
    }
    let point = story.take("incremental");
    point.assert_incremental();
    assert_eq!(point.kinds(), [Incremental, kind, kind, kind]);
    assert!(!point.taken.details.is_empty(), "it says that these have no bitmap");
    story.guest.restart();
    let parent = story.bitmap();
    let point = story.take("incremental");
    point.assert_recreated(&parent);
    assert_eq!(point.kinds(), [Incremental, kind, kind, kind]);
    story.assert_all_restore();
}

#[test]
fn a_guest_without_any_bitmap_is_full_and_says_so() {
    let mut story = Story::new(Guest::new([Disk::new().image(Image::Raw)]), Nas::folder());
    story.guest.write(0, 0x51, 5 * MIB, MIB);
    let point = story.take("full");
    point.assert_full(false);
    assert!(!point.taken.details.is_empty());
    story.assert_all_restore();
}

#[test]
fn a_grown_disk_keeps_its_chain() {
    let mut story = Story::with_full();
    story.guest.resize(1, 80 * MIB);
    story.guest.write(1, 0x51, 70 * MIB, MIB);
    let point = story.take("incremental");
    point.assert_incremental();
    assert_eq!(point.taken.disks[1].virtual_size, 80 * MIB);
    story.assert_all_restore();
}

#[test]
fn a_disk_that_shrank_begins_a_new_chain_and_grows_in_it() {
    let mut story = Story::with_full();
    story.guest.write(1, 0x51, 60 * MIB, MIB);
    story.take("incremental").assert_incremental();
    let path = story.guest.disks[1].path.to_str().unwrap().to_owned();
    let resize = |story: &mut Story, arguments: &[&str]| {
        story.guest.stop();
        run("qemu-img", [&["resize", "-q", "-f", "qcow2"], arguments].concat());
        story.guest.start();
        story.guest.write(1, 0x52, 9 * MIB, MIB);
    };
    resize(&mut story, &["--shrink", &path, "32M"]);
    story.take("incremental").assert_fallback();
    let parent = story.bitmap();
    resize(&mut story, &[&path, "64M"]);
    story.take("incremental").assert_recreated(&parent);
    story.assert_all_restore();
}

/// QEMU's bitmap is clean where a disk was cut off and put back: the parent's data would show through.
#[test]
fn a_disk_shrunk_and_grown_again_shows_nothing_old() {
    // through the last cluster that has data; QEMU brings its rest back as it was, but for a disk on top of a template
    let through = 60 * MIB - (60 << 10);
    let (root, data) = (0, 1);
    for (live, disk, cut, size, fallback) in [
        (false, data, 32 * MIB, 64 * MIB, true),
        (false, data, 32 * MIB, 80 * MIB, true),
        (true, data, 32 * MIB, 64 * MIB, true),
        (true, root, 32 * MIB, 64 * MIB, true),
        (true, data, through, 64 * MIB, false),
        (true, root, through, 64 * MIB, true),
    ] {
        let mut story = Story::with_full();
        story.guest.write(disk, 0x51, 59 * MIB, MIB);
        story.take("incremental").assert_incremental();
        if live {
            story.guest.resize(disk, cut);
            story.guest.resize(disk, size);
        } else {
            story.guest.stop();
            let path = story.guest.disks[disk].path.to_str().unwrap().to_owned();
            for size in [cut, size] {
                run("qemu-img", ["resize", "-q", "-f", "qcow2", "--shrink", &path, &size.to_string()]);
            }
            story.guest.start();
        }
        // as the copy of a partition table, which has its place at the end
        story.guest.write(disk, 0x52, 63 * MIB, MIB);
        let parent = story.bitmap();
        let point = story.take("incremental");
        if fallback {
            point.assert_without_bitmap(&parent)
        } else {
            point.assert_incremental()
        }
        story.guest.write(disk, 0x53, 40 * MIB, MIB);
        story.take("incremental").assert_incremental();
        story.assert_all_restore();
    }
}

/// Damage that shows before the copy, and damage that shows after it.
#[test]
fn nothing_stands_on_a_parent_that_can_not_be_read() {
    let mut story = Story::new(Guest::full_of_data(1), Nas::folder());
    story.take("full").assert_full(true);
    let (beyond, no_entry) = ((1_u64 << 40).to_be_bytes(), [0xff; 8]);
    for stopped in [false, true] {
        for (reason, place, bytes) in [("L1 table", "header", beyond), ("L2 entry", "L2 table", no_entry)] {
            let image = story.nas.at(&story.last().files()[0]);
            let file = std::fs::File::options().read(true).write(true).open(image).unwrap();
            let at = |offset| {
                let mut field = [0; 8];
                file.read_exact_at(&mut field, offset).unwrap();
                u64::from_be_bytes(field) & (u64::MAX >> 8)
            };
            let offset = if place == "header" { 40 } else { at(at(40)) };
            file.write_all_at(&bytes, offset).unwrap();
            drop(file);
            let point = if stopped {
                story.guest.stop();
                story.take_stopped("incremental")
            } else {
                story.guest.write(0, 0x51, 5 * MIB, MIB);
                story.take("incremental")
            };
            point.assert_fallback();
            assert!(point.taken.details.contains(reason), "{place}, stopped: {stopped}: {:?}", point.taken);
            if stopped {
                story.guest.start();
            }
        }
    }
    story.guest.write(0, 0x52, 5 * MIB, MIB);
    let parent = story.bitmap();
    story.take("incremental").assert_recreated(&parent);
    story.points.drain(..4);
    story.assert_all_restore();
}

/// One disk for each shape that an image may have: what QEMU copies as zeroes and what it copies as data follows from it.
#[test]
fn whatever_shape_the_disks_have_zeroes_and_discards_stay_incremental() {
    const SIZE: u64 = 12 * MIB;
    let shape = |options: &str| {
        let path = folder("disk").join(format!("disk-{}", options.replace(['=', ','], "-")));
        let data = path.with_extension("data");
        let options = options.replace("data_file", &format!("data_file={},data_file_raw", data.display()));
        run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", &options, path.to_str().unwrap(), &SIZE.to_string()]);
        if data.exists() {
            // libvirt does not know of it, and leaves it to its owner
            std::fs::set_permissions(data, Permissions::from_mode(0o666)).unwrap();
        }
        Disk::existing(path, Image::Qcow2)
    };
    let shapes = [
        "cluster_size=4k",
        "cluster_size=16k",
        "cluster_size=64k",
        "cluster_size=2M",
        "extended_l2=on,cluster_size=16k",
        "extended_l2=on,cluster_size=64k",
        "cluster_size=64k,data_file=off",
        "cluster_size=4k,data_file=on",
    ];
    let disks = shapes.map(shape).into_iter().chain([Disk::root()]);
    let mut story = Story::new(Guest::new(disks), Nas::folder());
    let mut random = Random(7);
    for round in 0..3 {
        for disk in 0..story.guest.disks.len() {
            for _ in 0..5 {
                let (length, at) = (512 * (1 + random.below(400)), 512 * random.below(8 * MIB / 512));
                match random.below(4) {
                    0 => story.guest.write(disk, 0x51 + round, at, length),
                    1 => story.guest.write(disk, 0, at, length),
                    2 => story.guest.write_zeroes(disk, at, length),
                    _ => story.guest.discard(disk, at, length),
                }
            }
        }
        let point = story.take(if round == 0 { "full" } else { "incremental" });
        let all = if round == 0 { Full } else { Incremental };
        assert!(point.kinds().iter().all(|kind| *kind == all), "{:?}", point.taken);
        assert_eq!(details(&point.taken), "");
    }
    story.assert_all_restore();
}

/// Whether it was cut off could not be seen after the copy: that is known before.
#[test]
fn a_disk_on_a_template_that_only_qemu_reads_is_copied_once() {
    let (template, path) = (folder("template").join("t.vmdk"), folder("disk").join("overlay"));
    let (below, above) = (template.to_str().unwrap(), path.to_str().unwrap());
    run("qemu-img", ["create", "-q", "-f", "vmdk", below, "64M"]);
    run("qemu-io", ["-f", "vmdk", "-c", "write -P 0x11 0 1M", below]);
    run("qemu-img", ["create", "-q", "-f", "qcow2", "-F", "vmdk", "-b", below, above]);
    let mut story = Story::new(Guest::new([Disk::existing(path, Image::Qcow2), Disk::new()]), Nas::folder());
    story.take("full").assert_full(true);
    story.guest.write(0, 0x51, 5 * MIB, MIB);
    let mut attempts = 0;
    let point = story.accept_with(story.request("incremental"), |request| {
        take_backup::run(request, &mut |status| {
            attempts += u32::from(status.phase == Phase::MakeTargets);
            Ok(())
        })
    });
    assert_eq!(attempts, 1);
    let whole = if point.taken.engine == Engine::Pull { Incremental } else { Full };
    assert_eq!(point.kinds(), [whole, Incremental]);
    assert!(point.taken.details.contains("of format vmdk"), "{:?}", point.taken);
    story.assert_all_restore();
}

#[test]
fn a_disk_that_only_gave_its_end_back_stays_incremental() {
    let mut story = Story::with_full();
    story.guest.write(1, 0x51, 60 * MIB, 4 * MIB);
    story.take("incremental").assert_incremental();
    story.guest.discard(1, 60 * MIB, 4 * MIB);
    story.guest.write_zeroes(1, 50 * MIB, MIB);
    story.take("incremental").assert_incremental();
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

#[test]
fn foreign_checkpoints_are_kept() {
    let foreign = "backup-1600000000".to_owned();
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    story.foreign.push(foreign.clone());
    story.guest.virsh(&["checkpoint-create-as", "--name", &foreign]);
    story.take("full").assert_full(true);
    story.guest.write(0, 0x51, 5 * MIB, MIB);
    story.take("incremental").assert_incremental();
    assert!(story.guest.checkpoints().contains(&foreign));
    story.guest.restart();
    story.guest.write(0, 0x52, 6 * MIB, MIB);
    let parent = story.bitmap();
    story.take("incremental").assert_recreated(&parent);
    story.assert_all_restore();
}

#[test]
fn a_foreign_checkpoint_that_came_in_between_is_kept() {
    let mut story = Story::with_full();
    story.guest.write(0, 0x51, 5 * MIB, MIB);
    story.foreign.push("theirs".to_owned());
    story.guest.virsh(&["checkpoint-create-as", "--name", "theirs"]);
    story.guest.write(0, 0x52, 6 * MIB, MIB);
    story.take("incremental").assert_incremental();
    assert!(story.guest.checkpoints().contains(&"theirs".to_owned()));
    story.assert_all_restore();
}

/// As a volume has it that was cloned, or made of a template, from a disk that was backed up.
#[test]
fn a_stale_bitmap_of_ours_that_a_disk_brought_along_goes() {
    let mut story = Story::with_full();
    let stale = story.bitmap();
    story.guest.write(0, 0x51, 5 * MIB, MIB);
    story.take("incremental").assert_incremental();
    for disk in 0..2 {
        story.guest.stop();
        run("qemu-img", ["bitmap", "--add", "-f", "qcow2", story.guest.disks[disk].path.to_str().unwrap(), &stale]);
        story.guest.start();
        story.guest.write(disk, 0x52, 6 * MIB, MIB);
        let parent = story.bitmap();
        story.take("incremental").assert_recreated(&parent);
    }
    story.assert_all_restore();
}

#[test]
fn disks_on_every_bus_are_saved_and_what_is_no_disk_of_its_own_is_not() {
    // In the order in which libvirt lists them: bus by bus.
    let mut guest = Guest::stopped([
        Disk::root().bus(Bus::Scsi),
        Disk::new().bus(Bus::Scsi).serial("0123456789abcdef0123"),
        Disk::new(),
        Disk::new().image(Image::Raw).extra("<shareable/>"),
        Disk::new().extra("<transient/>"),
        Disk::new().bus(Bus::Sata),
    ]);
    let media = folder("media").join("cd.iso");
    std::fs::write(&media, [0x77; 4096]).unwrap();
    guest.devices = format!(
        "<disk type='file' device='cdrom'><source file='{}'/><target dev='hdd' bus='sata'/><readonly/></disk>\
         <disk type='file' device='cdrom'><target dev='hde' bus='sata'/><readonly/></disk>",
        media.to_str().unwrap()
    );
    guest.start();
    let mut story = Story::new(guest, Nas::folder());
    for disk in [0, 1, 2, 5] {
        story.guest.write(disk, 0x51, 5 * MIB, MIB);
    }
    story.take("full").assert_full(true);
    for disk in [0, 1, 2, 5] {
        story.guest.write(disk, 0x52, 6 * MIB, MIB);
    }
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

#[test]
fn odd_characters_in_paths_and_names_are_taken_as_they_are() {
    let volume = "vol 1 'a' \"b\" & <c> * $(d) : ü,.qcow2";
    for name in ["i-2-VM with space", "q'u\"o&t<e>d", "stern*chen-ü;$(x)"] {
        let guest = Guest::named(name, [Disk::root().named(volume), Disk::new().named("%41 \\n #.img")]);
        guest.start();
        let mut story = Story::new(guest, Nas::folder());
        story.take("full").assert_full(true);
        story.guest.write(0, 0x51, 5 * MIB, MIB);
        story.guest.restart();
        let parent = story.bitmap();
        story.take("incremental").assert_recreated(&parent);
        story.assert_all_restore();
    }
}

/// One that sleeps, and one that crashed and is preserved, do not run, and are not stopped either.
#[test]
fn a_guest_that_does_not_run_is_saved_and_left_as_it_is() {
    for (fall, state, told) in [
        (Guest::fall_asleep as fn(&Guest), "pmsuspended", "the guest sleeps: not frozen"),
        (Guest::crash, "crashed", "the guest has crashed: not frozen"),
    ] {
        let mut guest = Guest::stopped([Disk::root(), Disk::new()]);
        guest.devices = "<panic model='isa'/>".to_owned();
        guest.start();
        let mut story = Story::new(guest, Nas::folder());
        fall(&story.guest);
        until("libvirt knows", || story.guest.state() == state);
        for (mode, engine) in [("full", "push"), ("incremental", "pull"), ("incremental", "push"), ("full", "pull")] {
            story.guest.write(0, 0x51, 5 * MIB, MIB);
            let engine = Some(engine.to_owned());
            let request = TakeBackupRequest { quiesce: Some(true), engine, ..story.request(mode) };
            let taken = story.accept(request);
            if mode == "full" {
                taken.assert_full(true)
            } else {
                taken.assert_incremental()
            }
            assert_eq!(details(&taken.taken), told);
        }
        assert_eq!(story.guest.state(), state);
        story.refuse(story.stopped_request("full"), "DOMAIN_STATE");
        story.assert_all_restore();
    }
}

#[test]
fn a_paused_guest_is_saved_and_stays_paused() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    story.guest.suspend();
    // There is nothing to freeze, and nobody to ask.
    let request = TakeBackupRequest { quiesce: Some(true), ..story.request("full") };
    story.accept(request).assert_full(true);
    story.take("incremental").assert_incremental();
    assert_eq!(story.guest.state(), "paused");
    story.assert_all_restore();
}

#[test]
fn a_guest_that_is_gone_at_the_end_is_told_and_its_point_stands() {
    let mut story = Story::with_full();
    story.guest.write(0, 0x51, 5 * MIB, MIB);
    let (request, content) = (story.request("incremental"), story.content());
    let path = request.backup_path.clone().unwrap();
    let taken = take_backup::run(request, &mut |status| {
        if status.phase == Phase::Publish && story.guest.state() != "gone" {
            story.guest.kill_qemu();
        }
        Ok(())
    });
    let taken = taken.unwrap();
    let first = taken.details.lines().next().unwrap();
    assert!(first.starts_with("the guest is gone"), "{taken:?}");
    assert!(!taken.details.contains("the older bitmaps"), "{taken:?}");
    story.adopt(path, content);
    story.guest.start();
    let parent = story.bitmap();
    story.take("incremental").assert_without_bitmap(&parent);
    story.assert_all_restore();
}

#[test]
fn every_file_system_serves_as_a_repository() {
    for fs in [Fs::Ext4, Fs::Xfs, Fs::Btrfs] {
        let mut story = Story::new(Guest::ordinary(), Nas::image(fs, 320));
        story.take("full").assert_full(true);
        story.guest.write(0, 0x51, 5 * MIB, MIB);
        story.take("incremental").assert_incremental();
        story.assert_all_restore();
    }
}

#[test]
fn a_repository_that_has_to_be_mounted_is_mounted_for_the_call_only() {
    let story = Story::new(Guest::ordinary(), Nas::folder());
    let image = unmounted_image(Fs::Ext4, 128);
    let repository = Repository {
        kind: Some("ext4".into()),
        address: Some(image.to_str().unwrap().into()),
        options: Some("loop,noatime".into()),
    };
    let contents = story.guest.copies();
    let request = TakeBackupRequest { repository: Some(repository), ..story.request("full") };
    let taken = take(request).unwrap();
    let loops = run("losetup", ["--associated", image.to_str().unwrap()]);
    assert_eq!(loops, "", "still mounted");
    let point = folder("mounted");
    run("mount", ["-o", "loop", image.to_str().unwrap(), point.to_str().unwrap()]);
    for (disk, content) in taken.disks.iter().zip(&contents) {
        assert_holds(&point.join(&disk.file), content);
    }
    run("umount", [point]);
}

#[test]
fn empty_mount_options_are_as_good_as_none() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    for options in [Some(String::new()), None] {
        let repository = Repository { options, ..story.nas.repository() };
        let request = TakeBackupRequest { repository: Some(repository), ..story.request("legacy") };
        story.accept(request).assert_full(false);
    }
}
