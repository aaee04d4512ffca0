//! Stopped guests: the disks come in the request, a bitmap is seeded before they are read.

use std::fs::File;
use std::path::PathBuf;
use std::time::Instant;

use nasbackup::error::{Code, Result};
use nasbackup::operation::{
    self,
    take_backup::{self, BackingFile, TakeBackupRequest, TakenBackup},
};
use nasbackup::point::Kind::{Full, Incremental};
use nasbackup::work::phase::Phase;

use crate::support::{
    Disk, Guest, Image, MIB, Nas, PATIENCE, Point, Story, folder, forget_format, hurried, listing, run, take, take_and,
    take_and_when, take_too_late, until,
};

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

/// Stopped, running, restarted: an incremental each time, for the bitmap goes on in the disk.
#[test]
fn a_chain_goes_on_whether_the_guest_runs_or_not() {
    let mut story = Story::with_full();
    story.guest.write(0, 0x51, 5 * MIB, MIB);
    // over what the template and the parent have
    story.guest.write_zeroes(0, 512 << 10, 128 << 10);
    story.guest.discard(0, 4 * MIB, 2 * MIB);
    story.guest.write(1, 0x52, 40 * MIB + 512, 512);
    story.guest.stop();
    story.take_stopped("incremental").assert_incremental();
    let size = story.take_stopped("incremental").taken.size;
    assert!(size < MIB, "{size} bytes for nothing");
    story.guest.start();
    story.guest.write(0, 0x53, 6 * MIB, MIB);
    let parent = story.bitmap();
    story.take("incremental").assert_recreated(&parent);
    story.guest.write(1, 0x54, 7 * MIB, MIB);
    story.guest.restart();
    story.guest.write(0, 0x55, 33 * MIB, 64 << 10);
    story.guest.stop();
    story.take_stopped("incremental").assert_incremental();
    story.assert_all_restore();
}

#[test]
fn a_crashed_guest_is_saved_and_seeded_anew() {
    for mode in ["full", "incremental"] {
        let mut story = Story::with_full();
        story.guest.restart();
        story.guest.kill_qemu();
        let point = story.take_stopped(mode);
        if mode == "full" {
            point.assert_full(true)
        } else {
            point.assert_fallback()
        }
        story.guest.start();
        story.guest.write(0, 0x52, 6 * MIB, MIB);
        let parent = story.bitmap();
        story.take("incremental").assert_recreated(&parent);
        story.assert_all_restore();
    }
}

/// The guest is stopped, and `change` made: what the next incremental is, and that it and those after it are right.
fn incremental_after(change: impl FnOnce(&mut Story), check: impl FnOnce(&Point)) {
    let mut story = Story::with_full();
    story.guest.write(0, 0x51, 5 * MIB, MIB);
    story.guest.write(1, 0x52, 60 * MIB, MIB);
    story.take("incremental").assert_incremental();
    for disk in [0, 1] {
        story.guest.write(disk, 0x53, 2 * MIB, MIB);
    }
    story.guest.stop();
    change(&mut story);
    check(story.take_stopped("incremental"));
    story.take_stopped("incremental").assert_incremental();
    story.guest.start();
    story.guest.write(1, 0x54, 8 * MIB, MIB);
    let parent = story.bitmap();
    story.take("incremental").assert_recreated(&parent);
    story.assert_all_restore();
}

fn bitmap(story: &Story, disk: usize, action: &str) {
    run("qemu-img", ["bitmap", action, "-f", "qcow2", path(story, disk), &story.bitmap()]);
}

fn path(story: &Story, disk: usize) -> &str {
    story.guest.disks[disk].path.to_str().unwrap()
}

fn resize(story: &Story, disk: usize, size: u64) {
    run("qemu-img", ["resize", "-q", "--shrink", "-f", "qcow2", path(story, disk), &size.to_string()]);
}

#[test]
fn a_stale_bitmap_of_ours_that_a_disk_brought_along_goes() {
    let mut story = Story::with_full();
    let stale = story.bitmap();
    story.guest.write(0, 0x51, 5 * MIB, MIB);
    story.take("incremental").assert_incremental();
    story.guest.stop();
    for mode in ["incremental", "full"] {
        run("qemu-img", ["bitmap", "--add", "-f", "qcow2", path(&story, 1), &stale]);
        story.take_stopped(mode);
    }
    story.assert_all_restore();
}

#[test]
fn a_bitmap_that_is_lost_on_any_disk_makes_the_whole_point_full() {
    incremental_after(|story| bitmap(story, 1, "--remove"), Point::assert_fallback);
    incremental_after(|story| bitmap(story, 0, "--disable"), Point::assert_fallback);
}

#[test]
fn a_bitmap_that_goes_at_the_last_moment_makes_a_full_too() {
    let mut story = Story::with_full();
    story.guest.stop();
    let (disk, lost) = (path(&story, 1).to_owned(), story.bitmap());
    // The disks are not locked yet when the copy begins.
    let act =
        |request| take_and(request, |_| drop(run("qemu-img", ["bitmap", "--remove", "-f", "qcow2", &disk, &lost])));
    story.accept_with(story.stopped_request("incremental"), act).assert_fallback();
    story.take_stopped("incremental").assert_incremental();
    story.assert_all_restore();
}

#[test]
fn a_bitmap_below_an_overlay_is_lost() {
    incremental_after(
        |story| {
            let below = story.guest.disks[1].path.with_extension("below");
            std::fs::rename(path(story, 1), &below).unwrap();
            let below = below.to_str().unwrap();
            run("qemu-img", ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", below, path(story, 1)]);
        },
        Point::assert_fallback,
    );
}

#[test]
fn a_disk_that_the_parent_lacks_is_full_inside_the_same_point() {
    incremental_after(
        |story| story.guest.add(Disk::root()),
        |point| {
            point.assert_incremental();
            assert_eq!(point.kinds(), [Incremental, Incremental, Full]);
        },
    );
}

#[test]
fn a_disk_that_grew_keeps_its_chain_and_one_that_shrank_does_not() {
    incremental_after(|story| resize(story, 1, 80 * MIB + 512), Point::assert_incremental);
    incremental_after(|story| resize(story, 1, 32 * MIB), Point::assert_fallback);
    for disk in [0, 1] {
        let shrink_and_grow = |story: &mut Story| {
            resize(story, disk, 4 * MIB);
            resize(story, disk, 64 * MIB);
        };
        incremental_after(shrink_and_grow, Point::assert_fallback);
    }
}

#[test]
fn a_parent_that_is_damaged_makes_a_full() {
    let mut story = Story::with_full();
    story.guest.stop();
    let file = story.nas.at(&story.last().taken.disks[1].file);
    File::options().write(true).open(file).unwrap().set_len(MIB).unwrap();
    story.take_stopped("incremental").assert_fallback();
    story.points.remove(0);
    story.take_stopped("incremental").assert_incremental();
    story.assert_all_restore();
}

#[test]
fn disks_are_paired_by_volume_whatever_serials_they_have() {
    let disks = [Disk::root().serial("aaaaaaaaaaaaaaaaaaaa"), Disk::new().serial("bbbbbbbbbbbbbbbbbbbb"), Disk::new()];
    let mut story = Story::new(Guest::new(disks), Nas::folder());
    let mut parents = story.take("full").files();
    for disk in 0..3 {
        story.guest.write(disk, 0x41 + u8::try_from(disk).unwrap(), 5 * MIB, MIB);
    }
    story.guest.stop();
    for _ in 0..2 {
        story.guest.disks.rotate_left(1);
        parents.rotate_left(1);
        let point = story.take_stopped("incremental");
        point.assert_incremental();
        let stand_on: Vec<_> = point.taken.disks.iter().map(|disk| disk.parent.clone().unwrap()).collect();
        assert_eq!(stand_on, parents);
        parents = point.files();
    }
    story.guest.start();
    story.guest.write(1, 0x51, 6 * MIB, MIB);
    let parent = story.bitmap();
    story.take("incremental").assert_recreated(&parent);
    story.assert_all_restore();
}

/// A disk on top of a template of that format, with data in both.
fn on_template(format: &str) -> Disk {
    let folder = folder("disk");
    let (template, path) = (folder.join("template"), folder.join(format));
    let (template, text) = (template.to_str().unwrap(), path.to_str().unwrap());
    run("qemu-img", ["create", "-q", "-f", format, template, "64M"]);
    run("qemu-io", ["-f", format, "-c", "write -P 0x11 0 1M", "-c", "write -P 0x12 32M 192k", template]);
    run("qemu-img", ["create", "-q", "-f", "qcow2", "-F", format, "-b", template, text]);
    run("qemu-io", ["-f", "qcow2", "-c", "write -P 0x13 512k 1M", "-c", "write -z 32M 64k", text]);
    Disk::existing(path, Image::Qcow2)
}

#[test]
fn a_disk_on_a_template_is_incremental_and_one_that_only_qemu_reads_is_refused() {
    let mut story = Story::new(Guest::stopped([on_template("raw"), Disk::new()]), Nas::folder());
    story.take_stopped("full").assert_full(true);
    for disk in 0..2 {
        run("qemu-io", ["-f", "qcow2", "-c", "write -P 0x51 600k 1k", "-c", "write -z 0 64k", path(&story, disk)]);
    }
    story.take_stopped("incremental").assert_incremental();
    story.guest.add(on_template("vmdk"));
    let error = story.refuse(story.stopped_request("incremental"), "UNSUPPORTED_IMAGE");
    assert!(error.cause.contains("of format 'vmdk'"), "{error}");
    assert_eq!(error.disk.as_deref(), Some(path(&story, 2)));
    story.guest.disks.pop();
    story.assert_all_restore();
}

/// A chain of files as CloudStack makes it: the lowest first, each with a format and the one below as its header names it.
struct Chain {
    folder: PathBuf,
    files: Vec<(&'static str, &'static str)>,
}

impl Chain {
    fn new(lowest: &'static str, format: &'static str) -> Chain {
        let chain = Chain { folder: folder("pool"), files: Vec::new() };
        run("qemu-img", ["create", "-q", "-f", format, &chain.at(lowest), "8M"]);
        chain.with(lowest, format, "write -P 0x11 0 1M")
    }

    fn at(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    fn with(mut self, name: &'static str, format: &'static str, write: &str) -> Chain {
        run("qemu-io", ["-f", format, "-c", write, &self.at(name)]);
        self.files.push((name, format));
        self
    }

    /// Puts another on top.
    fn under(self, name: &'static str, backing: &str, write: &str) -> Chain {
        let format = self.files.last().unwrap().1;
        run("qemu-img", ["create", "-q", "-f", "qcow2", "-F", format, "-b", backing, &self.at(name)]);
        self.with(name, "qcow2", write)
    }

    /// The one below by its path, as CloudStack has it.
    fn under_by_path(self, name: &'static str, write: &str) -> Chain {
        let below = self.at(self.files.last().unwrap().0);
        self.under(name, &below, write)
    }

    fn disk(&self) -> Disk {
        let (top, format) = *self.files.last().unwrap();
        Disk::existing(self.folder.join(top), if format == "raw" { Image::Raw } else { Image::Qcow2 })
    }

    /// What the management server tells: all files but the top, and `more` that the disk does not stand on.
    fn told(&self, more: &[&str]) -> Vec<BackingFile> {
        let below = self.files[..self.files.len() - 1].iter().copied();
        let files = below.chain(more.iter().map(|name| (*name, "qcow2")));
        files.map(|(name, format)| BackingFile { path: Some(self.at(name)), format: Some(format.into()) }).collect()
    }
}

/// Of a copied volume the management server tells of the template, and of snapshots that are no longer there.
#[test]
fn each_chain_that_cloudstack_makes_is_read_with_what_it_tells_of_it() {
    const WRITE: &str = "write -P 0x22 512k 1M";
    let old = Chain::new("t4", "qcow2").under_by_path("header-without-format", WRITE);
    forget_format(&old.folder.join("header-without-format"));
    let chains = [
        (Chain::new("t1", "qcow2").under_by_path("linked-clone", WRITE), &[][..]),
        (Chain::new("t2", "raw").under_by_path("raw-template", WRITE), &[]),
        (Chain::new("t3", "qcow2").under("relative-name", "t3", WRITE), &[]),
        (old, &[]),
        (Chain::new("full-clone", "qcow2"), &["t5"]),
        (Chain::new("raw-volume", "raw"), &["t6"]),
        (
            Chain::new("t7", "qcow2")
                .under_by_path("v7", WRITE)
                .under_by_path("s7", "write -P 0x33 1M 1M")
                .under_by_path("snapshots-of-the-machine", "write -z 0 64k"),
            &["merged-already"],
        ),
        (Chain::new("v8", "qcow2").under_by_path("snapshot-of-a-data-disk", WRITE), &[]),
    ];
    let mut story = Story::new(Guest::stopped(chains.iter().map(|(chain, _)| chain.disk())), Nas::folder());
    for mode in ["full", "incremental"] {
        let mut request = story.stopped_request(mode);
        for (disk, (chain, more)) in request.disks.as_mut().unwrap().iter_mut().zip(&chains) {
            disk.backing = Some(chain.told(more));
        }
        story.accept(request);
    }
    story.assert_all_restore();
}

/// A stopped guest with 96 MiB to be copied to a repository that takes it slowly.
fn slow() -> Story {
    let story = Story::new(Guest::full_of_data(96), Nas::folder().slow(16));
    story.guest.stop();
    story
}

/// Acts once, when the first bytes have been written.
fn take_and_when_data_flows(request: TakeBackupRequest, act: impl FnOnce()) -> Result<TakenBackup> {
    take_and_when(
        request,
        |status| status.done_bytes > 0,
        |status| {
            assert!(status.total_bytes >= 96 * MIB && status.done_bytes <= status.total_bytes, "{status:?}");
            act();
        },
    )
}

/// The next full finds what a failed one left, and everything is right.
fn goes_on(mut story: Story) {
    until("the disks and the folder are free", || {
        let taken = take(story.stopped_request("full"));
        story.skip();
        match taken {
            Err(error) if [Code::Busy, Code::DomainState].contains(&error.code) => false,
            Err(error) => panic!("{error}"),
            Ok(_) => true,
        }
    });
    story.take_stopped("full").assert_full(true);
    story.assert_all_restore();
}

#[test]
fn cancel_ends_the_copy() {
    let mut story = slow();
    let job = format!("cancel-{}", story.guest.name);
    let request = TakeBackupRequest { job: Some(job.clone()), ..story.stopped_request("full") };
    let mut cancelled = Instant::now();
    story.refuse_with(request, "CANCELLED", |_, request| {
        take_and_when_data_flows(request, || {
            cancelled = Instant::now();
            assert!(operation::cancel(&job).found);
        })
    });
    let elapsed = cancelled.elapsed();
    assert!(elapsed < PATIENCE, "{elapsed:?}");
    assert!(story.guest.bitmaps(0).is_empty(), "a seed without a backup");
    goes_on(story);
}

#[test]
fn the_deadline_ends_the_copy() {
    let mut story = slow();
    let request = TakeBackupRequest { wait_seconds: Some(1), ..story.stopped_request("full") };
    story.refuse(request, "TIMEOUT");
    goes_on(story);
}

#[test]
fn a_nas_that_was_not_asked_for_want_of_time_is_not_blamed() {
    let mut story = stopped();
    story.refuse_with(story.stopped_request("full"), "TIMEOUT", |_, request| take_too_late(request));
    assert!(story.guest.bitmaps(0).is_empty(), "a seed without a backup");
    goes_on(story);
}

#[test]
fn a_nas_that_hangs_fails_the_call_at_its_deadline() {
    let story = slow();
    let request = TakeBackupRequest { wait_seconds: Some(3), ..story.stopped_request("full") };
    let mut hung = Instant::now();
    let hang = || {
        hung = Instant::now();
        story.nas.hang();
    };
    let error = hurried(|| take_and_when_data_flows(request, hang));
    let (error, elapsed) = (error.unwrap_err(), hung.elapsed());
    assert_eq!((error.code, error.leftovers), (Code::NasUnresponsive, true), "{error}");
    assert!(elapsed < PATIENCE, "{elapsed:?}");
    assert!(story.guest.bitmaps(0).is_empty(), "a seed without a backup");
    story.nas.go_on();
    goes_on(story);
}

/// The guest's own storage hangs, when the disks are about to be opened, or when they are being read.
#[test]
fn a_disk_that_hangs_fails_the_call_at_its_deadline() {
    for reading in [false, true] {
        let storage = Nas::folder().through_fuse();
        let mut disk = Disk::new().size(112 * MIB);
        disk.path = storage.at("volume");
        let story = Story::new(Guest::stopped([disk]), Nas::folder().slow(16));
        run("qemu-io", ["-f", "qcow2", "-c", "write -P 0x31 0 96M", path(&story, 0)]);
        let request = TakeBackupRequest { wait_seconds: Some(3), ..story.stopped_request("full") };
        let mut hung = Instant::now();
        let mut hang = || {
            hung = Instant::now();
            storage.hang();
        };
        let error = hurried(|| match reading {
            true => take_and_when_data_flows(request, hang),
            false => take_and(request, |_| hang()),
        });
        let (error, elapsed) = (error.unwrap_err(), hung.elapsed());
        assert_eq!((error.code, error.leftovers), (Code::Timeout, true), "{error}");
        assert!(error.cause.contains("own storage"), "{error}");
        assert!(elapsed < PATIENCE, "{elapsed:?}");
        storage.go_on();
        goes_on(story);
    }
}

/// It is what it waits for when its bitmaps are to be changed.
#[test]
fn a_disk_that_hangs_before_it_is_seeded_holds_nobody_up() {
    let storage = Nas::folder().through_fuse();
    let mut disk = Disk::new();
    disk.path = storage.at("volume");
    let story = Story::new(Guest::stopped([disk]), Nas::folder());
    let request = TakeBackupRequest { wait_seconds: Some(3), ..story.stopped_request("full") };
    let take = || {
        take_backup::run(request, &mut |status| {
            if status.phase == Phase::MakeTargets {
                storage.hang();
            }
            Ok(())
        })
    };
    let error = hurried(take).unwrap_err();
    assert_eq!((error.code, error.step, error.leftovers), (Code::Timeout, "seed the disks", true), "{error}");
    assert!(error.cause.contains("own storage"), "{error}");
    storage.go_on();
    until("the disk is let go", || {
        std::fs::read_dir("/proc/self/task").unwrap().all(|thread| {
            let name = std::fs::read_to_string(thread.unwrap().path().join("comm")).unwrap_or_default();
            name.trim() != "seed the disks"
        })
    });
    assert!(story.guest.bitmaps(0).is_empty(), "a seed without a backup");
    goes_on(story);
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
