//! What QEMU has had open for a backup by push, and keeps open.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nasbackup::operation::take_backup::{self, TakeBackupRequest};
use nasbackup::work::phase::Phase;

use crate::support::{Fs, Guest, MIB, Nas, Story, until};

/// As which the lab's libvirt runs QEMU.
pub(super) fn qemu() -> (u32, u32) {
    let text = fs::read_to_string("/etc/passwd").unwrap();
    let fields = text.lines().find_map(|line| line.strip_prefix("libvirt-qemu:")).expect("libvirt's user is there");
    let mut ids = fields.split(':').skip(1).map(|id| id.parse().unwrap());
    (ids.next().unwrap(), ids.next().unwrap())
}

/// A process of QEMU's user that keeps the file open, and overwrites its begin when it is told to.
fn keeper(target: &Path) -> Child {
    let kept = File::options().read(true).write(true).open(target).unwrap();
    let (user, group) = qemu();
    let mut command = Command::new("sh");
    command.args(["-c", "read told; printf 'no header of yours'"]).stdin(Stdio::piped()).stdout(kept);
    command.uid(user).gid(group).spawn().unwrap()
}

/// A process of QEMU's user that makes the file long, and keeps it open.
fn writer(target: &Path) -> (File, Child) {
    let kept = File::options().read(true).write(true).open(target).unwrap();
    let (user, group) = qemu();
    let mut command = Command::new("sh");
    let make_long = "dd if=/dev/urandom bs=1M count=8 seek=1000 conv=notrunc status=none; exec sleep 1000";
    command.args(["-c", make_long]).stdin(Stdio::null()).stdout(kept.try_clone().unwrap());
    (kept, command.uid(user).gid(group).spawn().unwrap())
}

#[test]
fn a_target_that_grows_beyond_its_image_ends_the_job_and_keeps_no_room() {
    let mut story = Story::new(Guest::full_of_data(48), Nas::image(Fs::Ext4, 320));
    let request = TakeBackupRequest { engine: Some("push".into()), ..story.request("full") };
    let unfinished = story.nas.at(&request.backup_path.clone().unwrap().replace('/', "/.partial-"));
    let mut kept = Vec::new();
    let error = take_backup::run(request, &mut |status| {
        if status.phase == Phase::Begin && kept.is_empty() {
            let names = fs::read_dir(&unfinished).unwrap().map(|entry| entry.unwrap().path());
            kept.extend(names.map(|path| writer(&path)));
            until("they are long", || kept.iter().all(|(file, _)| file.metadata().unwrap().len() > 1000 * MIB));
        }
        Ok(())
    })
    .unwrap_err();
    assert_eq!(error.code.as_str(), "JOB_FAILED", "{error}");
    assert!(error.cause.contains("more than an image of 67108864 bytes"), "{error}");
    story.guest.assert_no_job();
    story.assert_nothing_half_made();
    for (file, mut writer) in kept {
        let left = file.metadata().unwrap();
        assert_eq!((left.nlink(), left.blocks()), (0, 0), "it has it open, and takes no room");
        writer.kill().unwrap();
        writer.wait().unwrap();
    }
    story.skip();
    story.take("full").assert_full(true);
    story.assert_all_restore();
}

#[test]
fn a_descriptor_that_qemu_keeps_reaches_no_restore_point_where_files_can_be_cloned() {
    for fs in [Fs::Xfs, Fs::Btrfs, Fs::Ext4] {
        let mut story = Story::new(Guest::ordinary(), Nas::image(fs, 320));
        for mode in ["full", "incremental"] {
            story.guest.write(0, 0x51, 5 * MIB, MIB);
            let request = story.request(mode);
            let unfinished = story.nas.at(&request.backup_path.clone().unwrap().replace('/', "/.partial-"));
            let mut kept = Vec::new();
            story.accept_with(request, |request| {
                take_backup::run(request, &mut |status| {
                    // the targets are there, and the job begins
                    if status.phase == Phase::Begin && kept.is_empty() {
                        let names = fs::read_dir(&unfinished).unwrap().map(|entry| entry.unwrap().path());
                        kept.extend(names.map(|path| keeper(&path)));
                    }
                    Ok(())
                })
            });
            let point = story.points.last().unwrap();
            let images: Vec<_> = point.files().iter().map(|file| story.nas.at(file)).collect();
            assert_eq!(kept.len(), images.len());
            let before: Vec<_> = images.iter().map(|image| fs::read(image).unwrap()).collect();
            for mut keeper in kept {
                keeper.stdin.take().unwrap().write_all(b"now\n").unwrap();
                assert!(keeper.wait().unwrap().success());
            }
            let is_same = images.iter().zip(&before).all(|(image, before)| fs::read(image).unwrap() == *before);
            assert_eq!(is_same, fs != Fs::Ext4, "{fs:?}");
            let told = point.taken.details.contains("can't clone files");
            assert_eq!(told, fs == Fs::Ext4, "{:?}", point.taken);
            for (image, before) in images.iter().zip(before) {
                let metadata = fs::metadata(image).unwrap();
                assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (0, 0o600));
                // as on ext4 it no longer is
                fs::write(image, before).unwrap();
            }
        }
        story.assert_all_restore();
    }
}
