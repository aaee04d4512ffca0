//! Guests whose disks take other ways through QEMU: each shape gets a full, an incremental, a cancelled backup and an
//! incremental after it, and runs on.

use nasbackup::config::Engine;
use nasbackup::operation;
use nasbackup::operation::take_backup::TakeBackupRequest;

use crate::support::{Bus, Disk, Guest, Image, MIB, Nas, Story, engine, folder, run, take_and};

/// A disk whose image is made with these options.
fn made_with(name: &str, options: &str) -> Disk {
    let path = folder("disk").join(name);
    run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", options, path.to_str().unwrap(), "64M"]);
    Disk::existing(path, Image::Qcow2)
}

/// Writes into each disk that the guest may write to.
fn write(story: &mut Story, pattern: u8, offset: u64, length: u64) {
    for disk in 0..story.guest.disks.len() {
        if story.guest.disks[disk].is_writable() {
            story.guest.write(disk, pattern, offset, length);
        }
    }
}

/// What each guest goes through, by the engine of these tests; or by push, where that would be pull, because of this.
fn goes_through_backups(mut story: Story, by_push: Option<&str>) {
    let request =
        |story: &Story, mode| TakeBackupRequest { engine: by_push.map(|_| "auto".to_owned()), ..story.request(mode) };
    let check = |story: &Story| {
        let taken = &story.points.last().unwrap().taken;
        let expected = if by_push.is_some() { Engine::Push } else { engine() };
        assert_eq!(taken.engine, expected, "{taken:?}");
        assert!(by_push.is_none_or(|reason| taken.details.contains(reason)), "{taken:?}");
        assert_eq!(story.guest.state(), "running");
    };
    write(&mut story, 0x51, 5 * MIB, 2 * MIB);
    story.accept(request(&story, "full")).assert_full(true);
    check(&story);
    write(&mut story, 0x52, 6 * MIB + 4096, MIB);
    story.accept(request(&story, "incremental")).assert_incremental();
    check(&story);
    write(&mut story, 0x53, 20 * MIB, 4 * MIB);
    let job = format!("cancel-{}", story.guest.name);
    let slow =
        TakeBackupRequest { job: Some(job.clone()), rate_limit: Some(1 << 20), ..request(&story, "incremental") };
    story.refuse_with(slow, "CANCELLED", |_, request| take_and(request, |_| assert!(operation::cancel(&job).found)));
    assert_eq!(story.guest.state(), "running");
    story.assert_guest_untouched();
    write(&mut story, 0x54, 21 * MIB, MIB);
    story.accept(request(&story, "incremental")).assert_incremental();
    check(&story);
    story.assert_all_restore();
}

/// A story of the guest, which is started. Its repository is slow enough for a backup to be cancelled.
fn story_of(guest: Guest) -> Story {
    guest.start();
    Story::new(guest, Nas::folder().slow(16))
}

/// The version of this host's QEMU, such as `7.2.22`.
fn qemu() -> String {
    let printed = run("qemu-system-x86_64", ["--version"]);
    let version = printed.split_whitespace().nth(3).unwrap();
    version.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect()
}

/// Does QEMU go on when a client of its NBD server leaves a disk that an iothread serves?
fn has_the_fix(qemu: &str) -> bool {
    qemu.split('.').next().unwrap().parse::<u32>().unwrap() >= 9
}

#[test]
fn a_guest_with_iothreads_is_backed_up_by_pull_only_where_qemu_outlives_it() {
    let mut guest = Guest::stopped([
        Disk::root().driver("cache='none' iothread='1'"),
        Disk::new().driver("cache='none' io='native' iothread='2' queues='4'"),
        Disk::new(),
        Disk::new().bus(Bus::Scsi),
        Disk::new().bus(Bus::Scsi).driver("cache='none' discard='unmap' detect_zeroes='unmap'"),
    ]);
    guest.elements = "<iothreads>3</iothreads>";
    guest.scsi = "<driver iothread='3' queues='2'/>";
    let mut story = story_of(guest);
    if engine() == Engine::Push {
        return goes_through_backups(story, None);
    }
    let qemu = qemu();
    if has_the_fix(&qemu) {
        return goes_through_backups(story, None);
    }
    let error = story.refuse(story.request("full"), "DOMAIN_STATE");
    assert!(error.cause.contains(&format!("disk vda has an iothread and QEMU is {qemu}")), "{error}");
    goes_through_backups(story, Some("by push: disk vda has an iothread"));
}

#[test]
fn a_guest_of_i440fx_with_each_cache_and_way_of_input_and_output() {
    let mut guest = Guest::stopped([
        Disk::root().driver("cache='writeback' queues='4'"),
        Disk::new().driver("cache='writethrough' io='threads'"),
        Disk::new().driver("cache='directsync' io='native'"),
        Disk::new().driver("cache='unsafe'"),
        Disk::new().driver("cache='none' io='io_uring' discard='ignore'"),
        Disk::new().bus(Bus::Scsi).driver("cache='writeback' io='io_uring' detect_zeroes='on'"),
    ]);
    guest.machine = "pc";
    guest.scsi = "<driver queues='4'/>";
    goes_through_backups(story_of(guest), None);
}

#[test]
fn a_guest_with_uefi_and_odd_sectors_clusters_and_rights() {
    let mut guest = Guest::stopped([
        Disk::root().bus(Bus::Sata),
        Disk::new().bus(Bus::Sata).driver("cache='none' discard='unmap' detect_zeroes='unmap'"),
        Disk::new().extra("<blockio logical_block_size='4096' physical_block_size='4096'/>"),
        made_with("extended", "extended_l2=on,cluster_size=128k"),
        made_with("small", "cluster_size=4k"),
        Disk::new().extra("<readonly/>"),
        Disk::new().image(Image::Raw).extra("<shareable/>"),
    ]);
    guest.os = " firmware='efi'";
    goes_through_backups(story_of(guest), None);
}
