//! What the backups of one host share: places, scratch; and the engine that the host allows.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod support;

use std::os::unix::fs::PermissionsExt;

use nasbackup::config::Engine;
use nasbackup::config::{self, Config};
use nasbackup::error::Code;
use nasbackup::operation::take_backup::TakeBackupRequest;
use support::{Disk, Fs, Guest, MIB, Nas, Story, by, configured, details, folder, take, take_and};

#[test]
fn a_backup_without_a_place_is_refused_at_once_and_nothing_is_touched() {
    let _configured = configured(|config| config.parallel_backups = Some(1));
    let long = Story::new(Guest::full_of_data(24), Nas::folder().slow(16));
    let mut other = Story::new(Guest::new([Disk::new()]), Nas::folder());
    take_and(long.request("full"), |_| {
        let refused = take(other.request("full")).unwrap_err();
        assert_eq!((refused.code, refused.step, refused.leftovers), (Code::Busy, "take a place", false));
        assert!(other.published().is_empty());
        assert_eq!(other.guest.checkpoints(), [] as [&str; 0]);
    })
    .unwrap();
    other.take("full").assert_full(true);
    other.assert_all_restore();
}

#[test]
fn a_backup_that_is_refused_or_fails_keeps_no_place() {
    let _configured = configured(|config| config.parallel_backups = Some(1));
    let mut story = Story::new(Guest::new([Disk::new()]), Nas::folder());
    let absent = TakeBackupRequest {
        vm_name: Some("i-0-0-VM".to_owned()),
        backup_path: Some("i-0-0-VM/1".to_owned()),
        ..story.request("full")
    };
    assert_eq!(take(absent).unwrap_err().code, Code::DomainNotFound);
    story.take("full").assert_full(true);
}

#[test]
fn one_long_backup_does_not_hold_up_another() {
    let _configured = configured(|config| config.parallel_backups = Some(2));
    let long = Story::new(Guest::full_of_data(24), Nas::folder().slow(16));
    let mut short = Story::new(Guest::ordinary(), Nas::folder());
    take_and(long.request("full"), |_| {
        short.take("full").assert_full(true);
    })
    .unwrap();
    short.assert_all_restore();
}

/// Overwrites so much of the guest's first disk while a pull copies it to a slow repository.
fn overwrite_during_a_pull(mib: u64) -> Code {
    let mut story = Story::new(Guest::full_of_data(120), Nas::folder().slow(8));
    let error = story.refuse_with(by("pull", story.request("full")), "NO_SPACE", |story, request| {
        take_and(request, |_| {
            for at in 0..mib {
                story.guest.write_on(0, 0x51, (119 - at) * MIB, MIB);
            }
        })
    });
    assert_eq!(story.guest.state(), "running");
    story.assert_guest_untouched();
    error.code
}

#[test]
fn a_pull_ends_before_it_keeps_more_than_its_machine_may() {
    let _configured = configured(|config| config.scratch_per_vm = Some(64 * MIB));
    assert_eq!(overwrite_during_a_pull(48), Code::NoSpace);
}

#[test]
fn a_pull_ends_before_all_keep_more_than_the_host_may() {
    let scratch = folder("scratch");
    let configured = configured(|config| {
        config.scratch_dir = Some(scratch.clone());
        config.scratch_per_host = Some(100 * MIB);
    });
    let other = scratch.join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("vda.qcow2"), vec![1; 30 << 20]).unwrap();
    assert_eq!(overwrite_during_a_pull(48), Code::NoSpace);
    std::fs::write(other.join("vda.qcow2"), vec![1; 60 << 20]).unwrap();
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    story.refuse(by("pull", story.request("full")), "NO_SPACE");
    assert_pushed(&mut story, "scratch folder is too small");
    drop(configured);
}

/// Left open, it is push, for a reason that holds `why`.
fn assert_pushed(story: &mut Story, why: &str) {
    let taken = &story.accept(by("auto", story.request("full"))).taken;
    assert_eq!(taken.engine, Engine::Push);
    assert!(taken.details.starts_with("by push: ") && taken.details.contains(why), "{}", taken.details);
    assert_eq!(details(taken).lines().count(), 1, "{}", taken.details);
    story.assert_all_restore();
}

#[test]
fn left_open_the_engine_is_pull_where_the_host_allows_it() {
    let scratch = Nas::image(Fs::Ext4, 32);
    let _configured = configured(|config| config.scratch_dir = Some(scratch.root().to_owned()));
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    assert_pushed(&mut story, "scratch folder is too small");

    // QEMU can't reach it, which shows when the job begins
    let closed = folder("closed");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    config::set(Config { scratch_dir: Some(closed.join("scratch")), ..Config::clone(&config::current()) });
    assert_pushed(&mut story, "begin the backup");
    story.guest.write(0, 0x51, 9 * MIB, MIB);

    // the attempt that was refused has made the checkpoint again, and the answer is to say so
    let parent = story.bitmap();
    story.guest.restart();
    let point = story.accept(by("auto", story.request("incremental")));
    assert_eq!(point.taken.engine, Engine::Push);
    point.assert_recreated(&parent);
    story.guest.write(0, 0x52, 9 * MIB, MIB);

    config::set(Config { scratch_dir: None, ..Config::clone(&config::current()) });
    let taken = &story.accept(by("auto", story.request("incremental"))).taken;
    assert_eq!((taken.engine, taken.details.as_str()), (Engine::Pull, ""));
    story.last().assert_incremental();
    story.assert_all_restore();
}
