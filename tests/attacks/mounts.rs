//! Who writes on the NAS while QEMU does, and who else has an account on the host.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use nasbackup::config;
use nasbackup::operation::take_backup::{self, TakeBackupRequest};
use nasbackup::work::phase::Phase;
use rustix::fs::{CWD, RenameFlags};

use crate::support::{Guest, Nas, Story, backup_path, folder, until};

/// The disk of a guest that is stopped: another one's, and the host's own. What it was like is told by its change time, for
/// libvirt gives back what it takes.
struct Victim {
    path: PathBuf,
    before: (u32, u32, u32, i64, i64),
}

impl Victim {
    fn new() -> Victim {
        let path = folder("victim").join("disk.qcow2");
        fs::write(&path, vec![0x5a; 1 << 20]).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let before = Victim::now(&path);
        Victim { path, before }
    }

    fn now(path: &Path) -> (u32, u32, u32, i64, i64) {
        let now = fs::metadata(path).unwrap();
        (now.uid(), now.gid(), now.mode(), now.ctime(), now.ctime_nsec())
    }

    fn assert_untouched(&self) {
        assert_eq!(Victim::now(&self.path), self.before);
        assert_eq!(fs::read(&self.path).unwrap(), vec![0x5a; 1 << 20]);
    }
}

fn push(story: &Story) -> TakeBackupRequest {
    TakeBackupRequest { engine: Some("push".into()), ..story.request("full") }
}

/// The target of the root disk, while it is written.
fn target(story: &Story, request: &TakeBackupRequest) -> PathBuf {
    let partial = story.nas.at(&request.backup_path.clone().unwrap().replace('/', "/.partial-"));
    let names = fs::read_dir(&partial).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    partial.join(names.into_iter().find(|name| name.starts_with("root.")).unwrap())
}

/// The places at which QEMU sees the folder of this file.
fn places_of(ours: &Path) -> Vec<PathBuf> {
    let id = |file: fs::Metadata| (file.dev(), file.ino());
    let ours = id(fs::metadata(ours).unwrap());
    let mounted = fs::read_dir(&config::current().mount_dir).unwrap().map(|entry| entry.unwrap().path());
    // those of other tests are there, too
    let shows = |path: &PathBuf| {
        fs::read_dir(path.join("mount"))
            .is_ok_and(|files| files.flatten().any(|file| file.metadata().is_ok_and(|file| id(file) == ours)))
    };
    mounted.filter(shows).collect()
}

/// Is it a link at the place, which is not followed there?
fn is_refused(at: &Path) -> bool {
    fs::File::open(at).is_err_and(|error| error.raw_os_error() == Some(libc::ELOOP))
}

#[test]
fn a_push_writes_into_nothing_that_a_link_in_its_target_s_place_names() {
    let story = Story::new(Guest::ordinary(), Nas::folder());
    let (request, victim) = (push(&story), Victim::new());
    let again = request.clone();
    let error = take_backup::run(request, &mut |status| {
        if status.phase == Phase::Begin {
            let target = target(&story, &again);
            let places = places_of(&target);
            let [place] = &places[..] else { panic!("{places:?}") };
            fs::remove_file(&target).unwrap();
            symlink(&victim.path, &target).unwrap();
            assert!(is_refused(&place.join("mount").join(target.file_name().unwrap())));
        }
        Ok(())
    });
    let error = error.unwrap_err();
    assert!(error.code.as_str() == "IO" && error.cause.contains("was exchanged"), "{error}");
    victim.assert_untouched();
    story.guest.assert_no_job();
    story.assert_nothing_half_made();
}

#[test]
fn nor_when_link_and_target_change_places_all_the_time() {
    let story = Story::new(Guest::ordinary(), Nas::folder());
    let victim = Victim::new();
    let mut refused = 0;
    for tries in 0.. {
        // of a try that succeeded there is a point, and its bitmap
        let (path, bitmap) = (backup_path(&story.guest, tries), format!("backup-{}", 1_700_000_000 + tries));
        let request = TakeBackupRequest { backup_path: Some(path), bitmap_new: Some(bitmap), ..push(&story) };
        let (ended, exchanges) = (AtomicBool::new(false), AtomicU32::new(0));
        let again = request.clone();
        std::thread::scope(|scope| {
            let begun = std::cell::Cell::new(false);
            let taken = take_backup::run(request, &mut |status| {
                if status.phase == Phase::Begin && !begun.replace(true) {
                    let target = target(&story, &again);
                    let places = places_of(&target);
                    let place = places[0].join("mount").join(target.file_name().unwrap());
                    let link = target.with_file_name("link");
                    symlink(&victim.path, &link).unwrap();
                    let (ended, exchanges) = (&ended, &exchanges);
                    scope.spawn(move || {
                        while !ended.load(Relaxed) {
                            if rustix::fs::renameat_with(CWD, &link, CWD, &target, RenameFlags::EXCHANGE).is_ok() {
                                exchanges.fetch_add(1, Relaxed);
                            }
                        }
                    });
                    until("they change places", || exchanges.load(Relaxed) > 1000);
                    until("a link is met, and not followed", || is_refused(&place));
                }
                Ok(())
            });
            ended.store(true, Relaxed);
            // a target that had its name whenever somebody looked is right
            if let Err(error) = taken {
                assert!(["IO", "LIBVIRT", "JOB_FAILED"].contains(&error.code.as_str()), "{error}");
                refused += 1;
            }
        });
        victim.assert_untouched();
        story.guest.assert_no_job();
        if tries >= 2 && refused > 0 {
            break;
        }
        assert!(tries < 50, "no push met a link");
    }
}

#[test]
fn nobody_but_qemu_s_group_passes_through_to_what_is_pushed() {
    let story = Story::new(Guest::ordinary(), Nas::folder());
    let qemu = fs::metadata(story.guest.stopped_disks()[0].path.as_ref().unwrap()).unwrap();
    assert_ne!(qemu.uid(), 0);
    let (request, mut seen) = (push(&story), Vec::new());
    let again = request.clone();
    take_backup::run(request, &mut |status| {
        if status.phase == Phase::Begin {
            seen = places_of(&target(&story, &again));
            assert_eq!(seen.len(), 1);
            let found = fs::metadata(&seen[0]).unwrap();
            assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (0o710, 0, qemu.gid()));
        }
        Ok(())
    })
    .unwrap();
    assert!(!seen[0].exists());
}
