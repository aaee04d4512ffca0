//! What is refused before anything happens: nothing on the NAS, nothing in the guest.

use nasbackup::nas::repository::Repository;
use nasbackup::operation::take_backup::{StoppedDisk, TakeBackupRequest};

use crate::support::{Disk, Fs, Guest, Image, Nas, Story, listing, take};

type Change = fn(&mut TakeBackupRequest);

/// A field, and what makes a good incremental or stopped request bad in it.
const RUNNING: &[(&str, Change)] = &[
    ("vmName", |r| r.vm_name = None),
    ("vmName", |r| r.vm_name = Some(String::new())),
    ("vmName", |r| r.vm_name = Some("..".into())),
    ("vmName", |r| r.vm_name = Some("a/b".into())),
    ("vmName", |r| r.vm_name = Some("a\0b".into())),
    ("backupPath", |r| r.backup_path = None),
    ("backupPath", |r| r.backup_path = Some(String::new())),
    ("backupPath", |r| r.backup_path = Some("/i-2-10-VM/2026.01.01.00.00.00".into())),
    ("backupPath", |r| r.backup_path = Some("../2026.01.01.00.00.00".into())),
    ("backupPath", |r| r.backup_path = r.backup_path.take().map(|path| format!("{path}/.."))),
    ("backupPath", |r| r.backup_path = r.backup_path.take().map(|path| format!("{path}\0"))),
    ("backupPath", |r| r.backup_path = r.vm_name.clone()),
    ("backupPath", |r| r.backup_path = r.vm_name.clone().map(|name| format!("{name}/"))),
    ("backupPath", |r| r.backup_path = r.vm_name.clone().map(|name| format!("{name}/.partial-x"))),
    ("repository", |r| r.repository = None),
    ("repository", |r| repository(r).kind = None),
    ("repository", |r| repository(r).kind = Some(String::new())),
    ("repository", |r| repository(r).address = None),
    ("repository", |r| repository(r).address = Some(String::new())),
    ("repository", |r| repository(r).address = Some("some/where".into())),
    ("mode", |r| r.mode = Some("differential".into())),
    ("mode", |r| r.mode = Some(String::new())),
    ("bitmapNew", |r| r.bitmap_new = None),
    ("bitmapNew", |r| r.bitmap_new = Some(String::new())),
    ("bitmapNew", |r| r.bitmap_new = Some("a/b".into())),
    ("bitmapNew", |r| r.bitmap_new = r.bitmap_parent.clone()),
    ("bitmapParent", |r| r.bitmap_parent = None),
    ("bitmapParent", |r| r.bitmap_parent = Some(String::new())),
    ("parentPaths", |r| r.parent_paths = None),
    ("parentPaths", |r| r.parent_paths = Some(Vec::new())),
    ("parentPaths", |r| r.parent_paths = Some(vec!["/etc/passwd".into()])),
    ("parentPaths", |r| r.parent_paths = Some(vec!["../../etc/passwd".into()])),
    ("parentPaths", |r| r.parent_paths = Some(vec![String::new()])),
    ("bitmapNew", |r| r.mode = Some("legacy".into())),
    ("bitmapNew", |r| r.mode = None),
    ("bitmapParent", |r| (r.mode, r.bitmap_new) = (Some("legacy".into()), None)),
    ("parentPaths", |r| (r.mode, r.bitmap_new, r.bitmap_parent) = (Some("legacy".into()), None, None)),
    ("disks", |r| r.disks = Some(Vec::new())),
    ("engine", |r| r.engine = Some("warp".into())),
    ("engine", |r| r.engine = Some(String::new())),
];

const STOPPED: &[(&str, Change)] = &[
    ("disks", |r| disk(r).path = None),
    ("disks", |r| disk(r).path = Some(String::new())),
    ("disks", |r| disk(r).path = Some("relative.qcow2".into())),
    ("disks", |r| disk(r).path = Some("json:{\"driver\":\"null-co\"}".into())),
    ("disks", |r| disk(r).format = None),
    ("disks", |r| disk(r).format = Some("vmdk".into())),
    ("disks", |r| {
        let twice = disk(r).clone();
        r.disks.as_mut().unwrap().push(twice);
    }),
];

fn repository(request: &mut TakeBackupRequest) -> &mut Repository {
    request.repository.as_mut().unwrap()
}

fn disk(request: &mut TakeBackupRequest) -> &mut StoppedDisk {
    &mut request.disks.as_mut().unwrap()[0]
}

fn assert_refused(story: &Story, good: &TakeBackupRequest, table: &[(&str, Change)]) {
    let before = listing(story.nas.root());
    for (row, (field, change)) in table.iter().enumerate() {
        let mut request = good.clone();
        change(&mut request);
        let error = take(request.clone()).expect_err(field);
        assert_eq!(error.code.as_str(), "INVALID_ARGUMENT", "row {row}: {error} for {request:?}");
        assert!(error.cause.starts_with(field), "row {row}: {error} for {request:?}");
        assert_eq!(listing(story.nas.root()), before, "row {row}: {request:?}");
    }
}

#[test]
fn each_bad_field_is_named_and_nothing_is_touched() {
    let story = Story::with_full();
    assert_refused(&story, &story.request("incremental"), RUNNING);
    story.assert_guest_untouched();
    story.guest.stop();
    assert_refused(&story, &story.stopped_request("full"), STOPPED);
    assert_eq!(story.guest.bitmaps(0), [story.bitmap()]);
}

#[test]
fn an_unknown_domain_is_not_a_stopped_one() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    let request = TakeBackupRequest {
        vm_name: Some("nobody".into()),
        backup_path: Some("nobody/2026.01.01.00.00.00".into()),
        ..story.request("full")
    };
    story.refuse(request, "DOMAIN_NOT_FOUND");
}

#[test]
fn an_existing_restore_point_is_never_touched() {
    let mut story = Story::with_full();
    let request = TakeBackupRequest { backup_path: Some(story.last().path.clone()), ..story.request("full") };
    story.refuse(request, "ALREADY_EXISTS");
    // A folder that nobody knows, such as one of the shell script's, counts too.
    let request = story.request("full");
    let path = story.nas.at(request.backup_path.as_ref().unwrap());
    std::fs::create_dir(&path).unwrap();
    story.refuse(request, "ALREADY_EXISTS");
    assert!(path.is_dir());
    story.assert_guest_untouched();
    story.assert_all_restore();
}

#[test]
fn a_bitmap_name_serves_once() {
    let mut story = Story::with_full();
    let request = TakeBackupRequest { bitmap_new: Some(story.bitmap()), ..story.request("full") };
    story.refuse(request, "ALREADY_EXISTS");
    story.assert_guest_untouched();
    story.take("incremental").assert_incremental();
    // Also one that only a published point still names.
    let request =
        TakeBackupRequest { bitmap_new: story.points[0].taken.bitmap_created.clone(), ..story.request("full") };
    story.refuse(request, "ALREADY_EXISTS");
    story.assert_guest_untouched();
    story.assert_all_restore();
}

#[test]
fn an_encrypted_disk_is_refused_before_any_effect() {
    let guest = Guest::new([Disk::root(), Disk::new().image(Image::Luks)]);
    let mut story = Story::new(guest, Nas::folder());
    let error = story.refuse(story.request("full"), "UNSUPPORTED_IMAGE");
    assert_eq!(error.disk.as_deref(), Some("vdb"), "{error}");
    assert_eq!(listing(story.nas.root()), [], "before any effect");
    story.assert_guest_untouched();
}

#[test]
fn a_read_only_repository_says_so() {
    let mut story = Story::new(Guest::ordinary(), Nas::image(Fs::Ext4, 64));
    story.nas.read_only(true);
    story.refuse(story.request("full"), "PERMISSION_DENIED");
    story.assert_guest_untouched();
    story.nas.read_only(false);
    story.take("full").assert_full(true);
    story.assert_all_restore();
}

#[test]
fn a_repository_that_is_not_there_says_so() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    let mut request = story.request("full");
    repository(&mut request).address = Some("/nowhere/at/all".into());
    story.refuse(request, "NOT_FOUND");
    let mut request = story.request("full");
    *repository(&mut request) = Repository {
        kind: Some("ext4".into()),
        address: Some("/nowhere/at/all".into()),
        options: Some("loop,password=secret".into()),
    };
    let error = story.refuse(request, "MOUNT_FAILED");
    assert!(!format!("{error} {error:?}").contains("secret"), "a secret in an error");
    story.assert_guest_untouched();
}

#[test]
fn links_do_not_lead_out_of_the_repository() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    let outside = Nas::folder();
    std::os::unix::fs::symlink(outside.root(), story.nas.at(&story.guest.name)).unwrap();
    assert!(take(story.request("full")).is_err());
    assert_eq!(listing(outside.root()), []);
    std::fs::remove_file(story.nas.at(&story.guest.name)).unwrap();
    story.take("full").assert_full(true);
}

#[test]
fn quiesce_without_an_agent_fails_and_leaves_nothing() {
    let mut story = Story::with_full();
    let request = TakeBackupRequest { quiesce: Some(true), ..story.request("incremental") };
    story.refuse(request, "QUIESCE_FAILED");
    story.assert_guest_untouched();
    story.take("incremental").assert_incremental();
}
