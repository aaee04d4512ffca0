//! The tests' own tools do what the other tests trust them to do.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use support::{Bus, Disk, Fs, Guest, Image, MIB, Nas, RealGuest, Restored, assert_holds, folder, run, succeeds};

fn fails(check: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(check)).is_err()
}

#[test]
fn writes_reach_disks_of_every_kind() {
    let mut guest = Guest::new([
        Disk::root(),
        Disk::new().image(Image::Qcow2V2),
        Disk::new().image(Image::Raw),
        Disk::block(),
        Disk::new().bus(Bus::Scsi),
        Disk::new().bus(Bus::Scsi).named("a b'c\"d & ü.qcow2"),
        Disk::new().bus(Bus::Sata),
        Disk::new().image(Image::Luks),
    ]);
    for disk in 0..guest.disks.len() - 1 {
        let before = guest.copy(disk);
        guest.write(disk, 0x42, 5 * MIB, MIB);
        let after = guest.copy(disk);
        assert!(!succeeds("cmp", ["-s".as_ref(), before.as_os_str(), after.as_os_str()]), "disk {disk}");
        guest.write_zeroes(disk, 5 * MIB, MIB);
        guest.copy(disk);
    }
}

#[test]
fn a_copy_notices_a_write_that_did_not_arrive() {
    let mut guest = Guest::ordinary();
    guest.copy(0);
    guest.stop();
    let overwrite = ["-f", "qcow2", "-c", "write -P 1 4M 3M", guest.disks[0].path.to_str().unwrap()];
    run("qemu-io", overwrite);
    assert!(fails(|| drop(guest.copy(0))));
    guest.start();
    guest.write(0, 0x21, 0, MIB);
    guest.copy(0);
}

#[test]
fn an_image_that_differs_in_one_byte_does_not_hold() {
    let guest = Guest::stopped([Disk::root()]);
    let raw = guest.copy(0);
    let image = &guest.disks[0].path;
    assert_holds(image, &raw);
    run("qemu-io", ["-f", "qcow2", "-c", "write -P 1 1000001 1", image.to_str().unwrap()]);
    assert!(fails(|| assert_holds(image, &raw)));
}

#[test]
fn bitmaps_live_and_die_as_in_the_field() {
    let guest = Guest::ordinary();
    guest.virsh(&["checkpoint-create-as", "--name", "one"]);
    assert_eq!((guest.checkpoints(), guest.bitmaps(1)), (vec!["one".into()], vec!["one".into()]));
    guest.restart();
    assert_eq!(
        (guest.checkpoints(), guest.bitmaps(1)),
        (vec![], vec!["one".into()]),
        "libvirt forgets, the disk does not"
    );
    guest.save_restore();
    assert_eq!((guest.checkpoints(), guest.bitmaps(1)), (vec![], vec!["one".into()]));
    guest.virsh(&["checkpoint-create-as", "--name", "two"]);
    guest.kill_qemu();
    assert_eq!(guest.state(), "gone");
    assert_eq!(guest.bitmaps(0), ["one"], "the newer one was never stored");
    guest.start();
    guest.suspend();
    assert_eq!(guest.state(), "paused");
    guest.resume();
    guest.assert_no_job();
}

#[test]
fn a_repository_hangs_and_goes_on() {
    let nas = Nas::folder().through_fuse();
    std::fs::write(nas.at("file"), "x").unwrap();
    let stat = ["5", "stat", "--cached=never", nas.at("file").to_str().unwrap()].map(str::to_owned);
    assert!(succeeds("timeout", &stat));
    nas.hang();
    let quick = ["1".to_owned()].into_iter().chain(stat[1..].iter().cloned());
    assert!(!succeeds("timeout", quick));
    nas.go_on();
    assert!(succeeds("timeout", &stat));
}

#[test]
fn a_repository_is_slow_full_or_read_only() {
    let nas = Nas::image(Fs::Ext4, 32).slow(4);
    let start = Instant::now();
    std::fs::write(nas.at("file"), vec![1; 8 * usize::try_from(MIB).unwrap()]).unwrap();
    assert!(start.elapsed() > Duration::from_secs(1), "{:?}", start.elapsed());
    nas.fill();
    let error = std::fs::write(nas.at("more"), vec![1; 65536]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    for fs in [Fs::Xfs, Fs::Btrfs] {
        let nas = Nas::image(fs, 320);
        nas.read_only(true);
        let error = std::fs::write(nas.at("file"), "x").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    }
}

#[test]
fn a_linux_guest_boots_writes_and_answers() {
    let linux = RealGuest::boot(2, "w=64");
    linux.wait_for_files(2);
    assert_eq!(linux.run("cd /mnt && sha256sum -c ballast.sum"), "ballast: OK");
    linux.stop_agent();
    let ask = ["qemu-agent-command", "--timeout", "2", "--cmd", "{\"execute\":\"guest-ping\"}"];
    assert!(fails(|| drop(linux.guest.virsh(&ask))));
    linux.wake_agent();
    linux.guest.virsh(&ask);
    linux.assert_writes();

    linux.guest.virsh(&["domfsfreeze"]);
    let copy = |name| {
        let copy = folder(name).join("disk");
        std::fs::copy(&linux.guest.disks[0].path, &copy).unwrap();
        copy
    };
    // QEMU has no metadata of its own to write while nothing is written to the disk.
    linux.guest.qmp(serde_json::json!({"execute": "human-monitor-command", "arguments": {"command-line":
        "qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend flush"}}));
    let frozen = Restored::from(&copy("frozen"));
    linux.guest.virsh(&["domfsthaw"]);
    linux.assert_writes();
    assert!(frozen.was_frozen());
    assert!(frozen.verified_files(false) > 2);
    linux.guest.suspend();
    linux.guest.qmp(serde_json::json!({"execute": "human-monitor-command", "arguments": {"command-line":
        "qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend flush"}}));
    let torn = Restored::from(&copy("torn"));
    linux.guest.resume();
    assert!(!torn.was_frozen());
    assert!(torn.verified_files(true) > 2);
    linux.reboot();
    support::until("the guest goes down", || linux.guest.live_xml().contains("guest_agent.0' state='disconnected'"));
    linux.wait_for_agent();
    linux.power_off();
    support::until("the guest is off", || linux.guest.state() == "gone");
}
