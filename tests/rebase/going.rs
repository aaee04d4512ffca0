//! A rebase of a point whose parent is deleted next: where blocks are not shared, and the point has less than its parent, the parent's
//! images take the places of its own.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nasbackup::error::{Code, Result};
use nasbackup::nas::folder::Folder;
use nasbackup::operation::call;
use nasbackup::point::{Kind, Manifest, ManifestDisk, Rebasing};
use nasbackup::qcow2::{Commit, create};
use nasbackup::work::phase::Phase;
use serde_json::{Value, json};

use crate::chains::qemu_img;
use crate::fingerprints::KEPT;
use crate::flatten::Mounted;
use crate::restore::{FILES, Points, content};

const SIZE: u64 = 32 << 20;

/// A full one, and two incrementals on it that change an eighth each.
fn chain() -> Points {
    Points::make(3, SIZE)
}

fn ask(folder: &Path, operation: &str, point: u32, more: Value) -> Result<Value> {
    let mut request = json!({
        "repository": {"type": "dir", "address": folder},
        "backupPath": format!("i-1/T{point}"),
    });
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    call(operation, &request.to_string(), &mut |_| Ok(()))
}

impl Points {
    fn ask(&self, operation: &str, point: u32, more: Value) -> Result<Value> {
        ask(self.dir.path(), operation, point, more)
    }

    /// The second point onto nothing, for the first one goes.
    fn merge(&self) -> Value {
        self.ask("rebasePoint", 2, json!({"goingPoint": "i-1/T1"})).unwrap()
    }

    fn inodes(&self, point: u32) -> [Option<u64>; 2] {
        FILES.map(|file| {
            fs::metadata(self.dir.path().join(format!("i-1/T{point}/{file}"))).ok().map(|found| found.ino())
        })
    }

    fn manifest_of(&self, point: u32) -> Manifest {
        Manifest::read(&self.folder_of(point)).unwrap().unwrap()
    }

    fn folder_of(&self, point: u32) -> Folder {
        Folder::open_root(self.dir.path().join(format!("i-1/T{point}"))).unwrap()
    }

    fn tell(&self, point: u32, change: impl FnMut(&mut ManifestDisk)) {
        let mut manifest = self.manifest_of(point);
        manifest.disks.iter_mut().for_each(change);
        manifest.replace(&self.folder_of(point)).unwrap();
    }

    fn verdict(&self, operation: &str, point: u32) -> Value {
        self.ask(operation, point, json!({})).unwrap()["verdict"].clone()
    }

    /// The newest point is restored, each cluster compared with its fingerprint where it has one, and compared.
    fn assert_restores(&self) {
        let out = tempfile::tempdir().unwrap();
        self.restore(out.path(), "raw").unwrap();
        self.assert_restored(out.path(), "raw");
    }

    fn assert_first_is_refused(&self) {
        let out = tempfile::tempdir().unwrap();
        let volume = json!({"file": FILES[0], "output": {"path": out.path().join("x"), "format": "raw"}});
        let refused = self.ask("restorePoint", 1, json!({"volumes": [volume]})).unwrap_err();
        assert_eq!(refused.code, Code::NotFound, "{refused}");
        assert!(refused.cause.contains("is being deleted"), "{refused}");
        for operation in ["verifyChain", "verifyData"] {
            let told = self.ask(operation, 1, json!({})).unwrap();
            assert_eq!(told["verdict"], "aborted", "nothing is damaged: {told}");
            assert!(told.to_string().contains("is being deleted"), "{told}");
        }
        let listed = call(
            "listPoints",
            &json!({"repository": {"type": "dir", "address": self.dir.path()}}).to_string(),
            &mut |_| Ok(()),
        );
        let listed = listed.unwrap();
        assert!(listed["machines"][0]["points"][0]["problems"].to_string().contains("is being deleted"), "{listed}");
    }

    /// The first point is gone, and the others are whole.
    fn assert_merged(&self) {
        let manifest = self.manifest_of(2);
        assert_eq!((manifest.kind, &manifest.parent), (Kind::Full, &None));
        for disk in &manifest.disks {
            assert_eq!((disk.kind, &disk.parent, &disk.rebasing), (Kind::Full, &None, &None));
            assert_eq!((disk.fingerprints.is_some(), disk.lost_fingerprints), KEPT, "{disk:?}");
        }
        assert!(self.ask("deleteBackup", 1, json!({})).unwrap()["freedBytes"].as_u64().unwrap() > 0);
        assert!(!self.dir.path().join("i-1/T1").exists());
        for point in [2, 3] {
            assert_eq!(self.verdict("verifyChain", point), "good");
            assert_eq!(self.verdict("verifyData", point), "good");
        }
        self.assert_restores();
    }
}

#[test]
fn the_images_of_the_point_that_goes_take_the_places_of_those_on_them() {
    let points = chain();
    let below = points.inodes(1);
    let merged = points.merge();
    assert_eq!(points.inodes(2), below, "{merged}");
    assert_eq!(points.inodes(1), [None; 2]);
    let copied = merged["bytesCopied"].as_u64().unwrap();
    assert!(copied > 0 && copied < 2 * SIZE / 6, "an eighth of each disk: {copied}");
    let lengths: u64 =
        FILES.iter().map(|file| fs::metadata(points.dir.path().join("i-1/T2").join(file)).unwrap().len()).sum();
    assert_eq!(merged["size"], lengths);
    points.assert_first_is_refused();

    // what both ways make has the same fingerprints, and takes as much room
    let copying = chain();
    copying.ask("rebasePoint", 2, json!({})).unwrap();
    let room = |points: &Points| FILES.map(|file| fs::metadata(path(points, 2, file)).unwrap().blocks() / 2048);
    assert_eq!(room(&points), room(&copying));
    let hashes = |points: &Points| {
        points.manifest_of(2).disks.into_iter().map(|disk| disk.fingerprints.unwrap().hash).collect::<Vec<_>>()
    };
    assert_eq!(hashes(&points), hashes(&copying));
    points.assert_merged();
}

/// Whatever was cut off of it, all that stay read as before, and the same call again ends it.
#[test]
fn one_that_is_cut_off_is_ended_by_the_same_call() {
    type Cut = fn(&Points);
    let marked: Cut = |points| points.tell(1, |disk| disk.goes_into = Some(format!("i-1/T2/{}", disk.file)));
    let changed: Cut = |points| FILES.iter().for_each(|file| commit(points, file));
    let half_changed: Cut = |points| commit(points, FILES[1]);
    let moved: Cut = |points| FILES.iter().for_each(|file| take_place(points, file));
    let half_moved: Cut = |points| take_place(points, FILES[0]);
    for (what, cuts) in [
        ("begun", vec![]),
        ("marked", vec![marked]),
        ("one is changed", vec![marked, half_changed]),
        ("changed", vec![marked, changed]),
        ("one has the name", vec![marked, changed, half_moved]),
        ("both have the name", vec![marked, changed, moved]),
    ] {
        println!("{what}");
        let points = chain();
        points.tell(2, |disk| disk.rebasing = Some(Rebasing { onto: None, point_id: None, had_fingerprints: true }));
        cuts.iter().for_each(|cut| cut(&points));
        points.assert_restores();
        assert_eq!(points.verdict("verifyChain", 3), "aborted", "{what}");
        if !cuts.is_empty() {
            points.assert_first_is_refused();
        }
        points.merge();
        points.assert_merged();
    }
}

fn path(points: &Points, point: u32, file: &str) -> std::path::PathBuf {
    points.dir.path().join(format!("i-1/T{point}/{file}"))
}

fn commit(points: &Points, file: &str) {
    let below = File::options().read(true).write(true).open(path(points, 1, file)).unwrap();
    let above = File::open(path(points, 2, file)).unwrap();
    Commit::check(below, above, &mut |_| Ok(())).unwrap().run(&mut |_| Ok(())).unwrap();
}

fn take_place(points: &Points, file: &str) {
    fs::rename(path(points, 1, file), path(points, 2, file)).unwrap();
}

/// Names what the image stands on.
fn name_below(image: &Path, name: &str) {
    qemu_img(image.parent().unwrap(), &["rebase", "-u", "-F", "qcow2", "-b", name, image.to_str().unwrap()]);
}

/// What must not happen to an image on which others stand, which has another name, or of which nothing is recorded.
#[test]
fn where_more_than_the_point_needs_the_images_they_are_copied() {
    type Case = (&'static str, fn(&Points));
    let cases: [Case; 5] = [
        ("the images on it have other names", |points| {
            for file in FILES {
                let other = format!("other.{file}");
                fs::rename(path(points, 2, file), path(points, 2, &other)).unwrap();
                name_below(&path(points, 3, file), &format!("../T2/{other}"));
            }
            points.tell(2, |disk| disk.file.insert_str(0, "other."));
            points.tell(3, |disk| {
                disk.parent = Some(format!("i-1/T2/other.{}", disk.file));
                (disk.size, disk.fingerprints) = (fs::metadata(path(points, 3, &disk.file)).unwrap().len(), None);
            });
        }),
        ("another point stands on it", |points| {
            let folder = points.dir.path().join("i-1/T4");
            fs::create_dir(&folder).unwrap();
            for file in FILES {
                let image = File::create_new(folder.join(file)).unwrap();
                create(&image, SIZE, Some(&format!("../T1/{file}"))).unwrap();
            }
        }),
        ("an unfinished point stands on it", |points| {
            let folder = points.dir.path().join("i-1/.partial-T4");
            fs::create_dir(&folder).unwrap();
            create(&File::create_new(folder.join("x.qcow2")).unwrap(), SIZE, Some(&format!("../T1/{}", FILES[0])))
                .unwrap();
        }),
        ("somebody keeps its images under other names", |points| {
            for file in FILES {
                fs::hard_link(path(points, 1, file), points.dir.path().join(file)).unwrap();
            }
        }),
        ("it has no manifest", |points| {
            fs::remove_file(path(points, 1, "manifest.json")).unwrap();
            let mut manifest = points.manifest_of(2);
            manifest.parent.as_mut().unwrap().point_id.clear();
            manifest.replace(&points.folder_of(2)).unwrap();
        }),
    ];
    for (what, change) in cases {
        let points = chain();
        change(&points);
        let (below, own) = (points.inodes(1), points.inodes(2));
        let content = FILES.map(|file| fs::read(path(&points, 1, file)).unwrap());
        points.merge();
        assert_eq!((points.inodes(1), points.inodes(2)), (below, own), "{what}");
        assert!(FILES.map(|file| fs::read(path(&points, 1, file)).unwrap()) == content, "{what}");
        points.assert_restores();
    }
}

/// The delete of the point does not look at it either.
#[test]
fn what_an_interrupted_delete_has_left_keeps_no_image_from_being_committed() {
    for content in [&b"QFI\xfb"[..], &fs::read(path(&chain(), 2, FILES[0])).unwrap()] {
        let points = chain();
        let left = points.dir.path().join("i-1/.deleted-T4");
        fs::create_dir(&left).unwrap();
        fs::write(left.join(FILES[0]), content).unwrap();
        let below = points.inodes(1);
        points.merge();
        assert_eq!(points.inodes(2), below);
        points.assert_merged();
    }
}

/// One that has more than half of what its parent has takes that in.
#[test]
fn what_is_less_is_written() {
    let points = chain();
    for file in FILES {
        // most of the first point goes
        let below = path(&points, 1, file);
        fs::remove_file(&below).unwrap();
        create(&File::create_new(&below).unwrap(), SIZE, None).unwrap();
    }
    points.tell(1, |disk| {
        (disk.size, disk.fingerprints) = (fs::metadata(path(&points, 1, &disk.file)).unwrap().len(), None)
    });
    let own = points.inodes(2);
    points.merge();
    assert_eq!(points.inodes(2), own);
}

#[test]
fn where_blocks_are_shared_nothing_is_written() {
    let xfs = Mounted::make("mkfs.xfs -q -m reflink=1", 400);
    let points = Points::make_in(&xfs.path(), 3, SIZE);
    let own = points.inodes(2);
    let merged = points.merge();
    assert_eq!((points.inodes(2), &merged["bytesCopied"]), (own, &json!(0)), "{merged}");
    points.assert_merged();
}

/// Somebody gives another file the name of one of the two images once the lower one holds what both have.
#[test]
fn only_the_image_that_was_looked_at_is_replaced_and_by_none_other() {
    for (exchanged, step) in [(1, "move"), (2, "look at the image")] {
        let points = chain();
        let request = json!({
            "repository": {"type": "dir", "address": points.dir.path()},
            "backupPath": "i-1/T2",
            "goingPoint": "i-1/T1",
        });
        let (image, stranger) = (path(&points, exchanged, FILES[0]), points.dir.path().join("stranger"));
        fs::write(&stranger, "stranger").unwrap();
        let kept = points.dir.path().join("kept");
        let refused = call("rebasePoint", &request.to_string(), &mut |status| {
            if status.phase == Phase::Publish && !kept.exists() {
                fs::rename(&image, &kept).unwrap();
                fs::rename(&stranger, &image).unwrap();
            }
            Ok(())
        });
        let refused = refused.unwrap_err();
        assert_eq!((refused.code, refused.step), (Code::Io, step), "{refused}");
        assert_eq!(fs::read(&image).unwrap(), b"stranger");
        fs::rename(&kept, &image).unwrap();
        points.assert_restores();
        points.merge();
        points.assert_merged();
    }
}

/// Merges the points in a folder, in a process that a test has begun.
#[test]
fn agent() {
    let Ok(folder) = std::env::var("NASBACKUP_TEST_MERGE") else { return };
    ask(Path::new(&folder), "rebasePoint", 2, json!({"goingPoint": "i-1/T1"})).unwrap();
}

/// The merge by another process, for which no file may become much longer than the images of the first point: a longer write fails,
/// or kills the process.
fn merge_in_little_room(points: &Points, is_killed: bool) {
    let lengths = FILES.map(|file| fs::metadata(path(points, 1, file)).unwrap().len());
    let most = lengths.iter().min().unwrap() + (100 << 10);
    let mut agent = Command::new("prlimit");
    agent.args(["--core=0", &format!("--fsize={most}"), "sh", "-c"]);
    agent.arg(if is_killed { "exec \"$0\" \"$@\"" } else { "trap '' XFSZ; exec \"$0\" \"$@\"" });
    agent.arg(std::env::current_exe().unwrap()).args(["going::agent", "--exact", "-q"]);
    let status = agent.env("NASBACKUP_TEST_MERGE", points.dir.path()).stdout(Stdio::null()).status().unwrap();
    assert_eq!(status.signal(), is_killed.then_some(libc::SIGXFSZ), "{status}");
    assert!(!status.success());
}

#[test]
fn one_that_is_killed_while_it_writes_leaves_what_stays_readable() {
    let points = chain();
    merge_in_little_room(&points, true);
    points.assert_restores();
    points.assert_first_is_refused();
    points.merge();
    points.assert_merged();
}

#[test]
fn one_that_fails_while_it_writes_takes_all_back() {
    let points = chain();
    let content = || [1, 2].map(|point| FILES.map(|file| fs::read(path(&points, point, file)).unwrap()));
    let (images, manifest, below) = (content(), points.manifest_of(1), points.inodes(1));
    merge_in_little_room(&points, false);
    assert!(content() == images);
    assert_eq!(points.manifest_of(1), manifest);
    for point in 1..=3 {
        assert_eq!(points.verdict("verifyData", point), "good");
    }
    // and what it could not do before, it does now
    points.merge();
    assert_eq!(points.inodes(2), below);
    points.assert_merged();
}

/// One of the disks has nothing that is new.
#[test]
fn the_first_point_goes_whatever_the_second_has() {
    let points = chain();
    let file = FILES[1];
    let image = path(&points, 2, file);
    fs::remove_file(&image).unwrap();
    create(&File::create_new(&image).unwrap(), SIZE, Some(&format!("../T1/{file}"))).unwrap();
    points.tell(2, |disk| {
        (disk.size, disk.fingerprints) = (fs::metadata(path(&points, 2, &disk.file)).unwrap().len(), None)
    });
    let below = points.inodes(1);
    points.merge();
    assert_eq!(points.inodes(2), below);
    points.assert_first_is_refused();
    // one that waits to be deleted is asked for nothing more
    points.ask("rebasePoint", 1, json!({})).unwrap();
    points.ask("deleteBackup", 1, json!({})).unwrap();
    assert_eq!(points.verdict("verifyChain", 3), "good");
}

/// A client of NFS that has an image open gives it another name before a second one gets its name.
#[test]
fn what_may_be_all_that_is_left_of_an_image_stays() {
    let points = chain();
    points.tell(2, |disk| disk.rebasing = Some(Rebasing { onto: None, point_id: None, had_fingerprints: true }));
    points.tell(1, |disk| disk.goes_into = Some(format!("i-1/T2/{}", disk.file)));
    for file in FILES {
        commit(&points, file);
        fs::rename(path(&points, 2, file), path(&points, 2, &format!(".nfs-{file}.0001"))).unwrap();
    }
    let refused = points.ask("deleteBackup", 1, json!({})).unwrap_err();
    assert_eq!(refused.code, Code::CorruptImage, "{refused}");
    assert!(refused.cause.contains("may be all that is left of it"), "{refused}");
    FILES.iter().for_each(|file| take_place(&points, file));
    points.merge();
    points.assert_merged();

    // one that goes with its point keeps nothing
    let points = chain();
    points.tell(1, |disk| disk.goes_into = Some(format!("i-1/T2/{}", disk.file)));
    // nor is what still stands on one that is not there whole
    let (image, away) = (path(&points, 1, FILES[0]), points.dir.path().join("away"));
    fs::rename(&image, &away).unwrap();
    assert_eq!(points.verdict("verifyChain", 2), "bad");
    fs::rename(&away, &image).unwrap();
    [3, 2, 1].into_iter().for_each(|point| drop(points.ask("deleteBackup", point, json!({})).unwrap()));
}

/// The third point onto the first, and only if it is the second one that goes, of which the third one's images can have the names.
#[test]
fn the_images_of_a_point_in_between_take_the_places_too() {
    type Case = (&'static str, bool, &'static str, fn(&Points));
    let cases: [Case; 4] = [
        ("the one in between", true, "i-1/T2", |_| ()),
        ("one that is not there", false, "i-1/T9", |_| ()),
        ("one on which nothing of it stands", false, "i-1/T4", |_| ()),
        ("it names what it stands on in another way", false, "i-1/T2", |points| {
            for file in FILES {
                name_below(&path(points, 2, file), &format!("../T1/./{file}"));
            }
            points.tell(2, |disk| {
                disk.size = fs::metadata(path(points, 2, &disk.file)).unwrap().len();
                disk.fingerprints = None;
            });
        }),
    ];
    for (what, is_committed, going, change) in cases {
        let points = Points::make(4, SIZE);
        for file in FILES {
            // more than it has anyway
            let image = path(&points, 2, file);
            let data = ["-f", "qcow2", "-c", "write -q -P 7 0 16M", "-c", "write -q -P 8 16M 8M"];
            assert!(Command::new("qemu-io").args(data).arg(image).status().unwrap().success());
        }
        points.tell(2, |disk| {
            (disk.size, disk.fingerprints) = (fs::metadata(path(&points, 2, &disk.file)).unwrap().len(), None);
        });
        change(&points);
        let reads = || [3, 4].map(|point| FILES.map(|file| content(&path(&points, point, file), "qcow2")));
        let (before, below, own) = (reads(), points.inodes(2), points.inodes(3));
        points.ask("rebasePoint", 3, json!({"newParent": "i-1/T1", "goingPoint": going})).unwrap();
        assert_eq!(points.inodes(3), if is_committed { below } else { own }, "{what}");
        assert!(reads() == before, "{what}");
        if !is_committed {
            assert_eq!(points.verdict("verifyChain", 2), "good", "{what}");
        }
        points.ask("deleteBackup", 2, json!({})).unwrap();
        assert!(reads() == before, "{what}");
        for point in [1, 3, 4] {
            assert_eq!(points.verdict("verifyChain", point), "good", "{what}");
        }
    }
}

/// What was longer than its tables say is not any more.
#[test]
fn one_that_fails_once_it_has_changed_the_image_below_lets_nobody_have_that() {
    let points = chain();
    for file in FILES {
        let below = File::options().write(true).open(path(&points, 1, file)).unwrap();
        below.set_len(below.metadata().unwrap().len() + (128 << 10)).unwrap();
    }
    points.tell(1, |disk| (disk.size, disk.fingerprints) = (disk.size + (128 << 10), None));
    points.assert_restores();
    merge_in_little_room(&points, false);
    points.assert_first_is_refused();
    points.assert_restores();
}
