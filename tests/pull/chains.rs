//! Chains of both engines, and of zeroes and discards in every order.

use std::os::unix::fs::PermissionsExt;

use nasbackup::config::Engine;
use nasbackup::error::Code;
use nasbackup::operation::take_backup::{self, TakeBackupRequest};
use nasbackup::work::phase::Phase;

use crate::support::{Disk, Guest, Image, MIB, Nas, Point, Story, hmp, take};

const CLUSTER: u64 = 64 << 10;

pub(crate) fn take_by<'a>(story: &'a mut Story, engine: &str, mode: &str) -> &'a Point {
    let request = TakeBackupRequest { engine: Some(engine.into()), ..story.request(mode) };
    story.accept(request)
}

#[test]
fn a_chain_may_change_its_engine() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    for (i, engine) in (0..).zip(["push", "pull", "pull", "push", "pull"]) {
        let point = take_by(&mut story, engine, if i == 0 { "full" } else { "incremental" });
        assert_eq!(point.taken.engine, if engine == "push" { Engine::Push } else { Engine::Pull });
        if i > 0 {
            point.assert_incremental();
        }
        story.guest.write(0, 0x51 + i, u64::from(i) * 5 * MIB, MIB);
        story.guest.write_zeroes(1, u64::from(i) * MIB / 2, MIB);
        story.guest.write(1, 0x61 + i, 30 * MIB + 4096 * u64::from(i), 4096);
    }
    take_by(&mut story, "push", "incremental").assert_incremental();
    story.assert_all_restore();
}

#[test]
fn what_is_left_open_is_pull() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    let taken = &take_by(&mut story, "auto", "full").taken;
    assert_eq!((taken.engine, taken.details.as_str()), (Engine::Pull, ""));
}

/// As all are of a libvirt that confines none by default: their XML does not say who QEMU is.
#[test]
fn a_guest_without_a_label_of_its_user_is_pulled() {
    let mut guest = Guest::stopped([Disk::new()]);
    guest.elements = "<seclabel type='none' model='dac'/>";
    // which libvirt gives to nobody then
    std::fs::set_permissions(&guest.disks[0].path, std::fs::Permissions::from_mode(0o666)).unwrap();
    guest.start();
    let mut story = Story::new(guest, Nas::folder());
    story.guest.write(0, 0x51, MIB, MIB);
    story.take("full").assert_full(true);
    story.guest.write(0, 0x52, 2 * MIB, MIB);
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

/// Written, zeroed, discarded, by whole clusters and parts of them: every pair of things that can happen to a place
/// before and after a point, and a third after the next.
#[test]
fn zeroes_and_discards_in_every_order() {
    type Act = fn(&mut Story, u64, u8);
    let acts: [Act; 7] = [
        |_, _, _| {},
        |story, at, key| story.guest.write(0, key, at, 2 * CLUSTER),
        |story, at, key| story.guest.write(0, key, at + 4096, 8192),
        |story, at, _| story.guest.write(0, 0, at, 2 * CLUSTER),
        |story, at, _| story.guest.write_zeroes(0, at, 2 * CLUSTER),
        |story, at, _| story.guest.write_zeroes(0, at + 4096, CLUSTER),
        |story, at, _| story.guest.discard(0, at, 2 * CLUSTER),
    ];
    let mut story = Story::new(Guest::new([Disk::root()]), Nas::folder());
    let places = acts.len().pow(2) as u64;
    for round in 0..3 {
        for place in 0..places {
            let act = match round {
                0 => place % 7,
                1 => place / 7,
                _ => (place + place / 7) % 7,
            };
            acts[act as usize](&mut story, place * 4 * CLUSTER, 0x41 + round);
        }
        let mode = if round == 0 { "full" } else { "incremental" };
        story.take(mode);
    }
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

#[test]
fn zeroes_take_no_room() {
    let mut story = Story::new(Guest::new([Disk::new()]), Nas::folder());
    story.guest.write(0, 0, 0, 32 * MIB);
    let size = story.take("full").taken.size;
    assert!(size < MIB, "{size} bytes for zeroes");
    story.guest.write(0, 0x41, 0, 8 * MIB);
    story.take("incremental").assert_incremental();
    story.guest.write(0, 0, 0, 8 * MIB);
    let size = story.take("incremental").taken.size;
    assert!(size < MIB, "{size} bytes for zeroes");
    story.assert_all_restore();
}

/// The last cluster of such a disk is not whole.
#[test]
fn disks_of_odd_sizes() {
    let odd = 33 * MIB + 512 * 3;
    let mut story =
        Story::new(Guest::new([Disk::new().size(odd), Disk::new().image(Image::Raw).size(odd)]), Nas::folder());
    for disk in 0..2 {
        story.guest.write(disk, 0x41, odd - 1024, 1024);
    }
    story.take("full").assert_full(true);
    for disk in 0..2 {
        story.guest.write(disk, 0x42, odd - 512, 512);
    }
    story.take("incremental").assert_incremental();
    story.guest.write_zeroes(0, odd - 4096 - 512, 4096 + 512);
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

/// What the guest writes while the copy runs belongs to the next point.
#[test]
fn the_guest_writes_on_during_the_copy() {
    let mut story = Story::new(Guest::full_of_data(48), Nas::folder().slow(16));
    for (key, mode) in [(0x51, "full"), (0x52, "incremental"), (0x53, "incremental")] {
        let name = story.guest.name.clone();
        let mut wrote = false;
        let write = |at: u64| {
            let line = format!("qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend \"write -P {key} {at} 1M\"");
            hmp(&name, &line);
        };
        story.accept_with(story.request(mode), |request| {
            take_backup::run(request, &mut |status| {
                if status.phase == Phase::Copy && status.total_bytes > 0 && !std::mem::replace(&mut wrote, true) {
                    [0, 20 * MIB + 4096, 47 * MIB, 50 * MIB].into_iter().for_each(write);
                }
                Ok(())
            })
        });
        assert!(wrote, "the copy was too quick");
        story.guest.write(0, key, 0, 30 * MIB);
    }
    story.take("incremental").assert_incremental();
    story.assert_all_restore();
}

#[test]
fn a_resized_disk_is_noticed() {
    // the disk has the size of now, target and scratch that of before
    let story = Story::new(Guest::new([Disk::new()]), Nas::folder());
    let mut request = story.request("full");
    request.engine = Some("pull".into());
    let resized = std::cell::Cell::new(false);
    let result = take_backup::run(request, &mut |status| {
        if status.phase == Phase::Begin && !resized.replace(true) {
            story.guest.resize(0, 80 * MIB);
        }
        Ok(())
    });
    let error = result.unwrap_err();
    assert!(error.code == Code::Libvirt && error.cause.contains("different sizes"), "{error}");
    story.assert_guest_untouched();
    take(story.request("legacy")).unwrap();
}
