//! What becomes of an image's fingerprints when it is rebased: they are kept, or made of those that there were, or that they were
//! lost is recorded. With a key nobody reads instead what the image holds.

use std::fs::{self, File};

use nasbackup::error::{Code, Result};
use nasbackup::nas::folder::Folder;
use nasbackup::operation::{call, cancel};
use nasbackup::point::{Manifest, ManifestDisk, Rebasing};
use nasbackup::work::phase::Phase;
use serde_json::{Value, json};

use crate::restore::{FILES, Points};

impl Points {
    fn folder(&self, point: u32) -> Folder {
        Folder::open_root(self.dir.path().join(format!("i-1/T{point}"))).unwrap()
    }

    fn manifest(&self, point: u32) -> Manifest {
        Manifest::read(&self.folder(point)).unwrap().unwrap()
    }

    /// Lets the manifest of a point say something else of its disks.
    fn record(&self, point: u32, change: impl FnMut(&mut ManifestDisk)) {
        let mut manifest = self.manifest(point);
        manifest.disks.iter_mut().for_each(change);
        manifest.replace(&self.folder(point)).unwrap();
    }

    /// The third point onto another.
    pub(crate) fn rebase(&self, onto: Option<u32>) -> Result<Value> {
        call("rebasePoint", &self.request_to_rebase(onto).to_string(), &mut |_| Ok(()))
    }

    fn request_to_rebase(&self, onto: Option<u32>) -> Value {
        json!({
            "job": format!("rebase {}", self.dir.path().display()),
            "repository": {"type": "dir", "address": self.dir.path()},
            "backupPath": "i-1/T3",
            "newParent": onto.map(|point| format!("i-1/T{point}")),
        })
    }

    /// The same onto the first one, cancelled when it comes so far.
    fn cancel_at(&self, phase: Phase) {
        let rebased = call("rebasePoint", &self.request_to_rebase(Some(1)).to_string(), &mut |status| {
            if status.phase == phase {
                assert!(cancel(&status.job).found);
            }
            Ok(())
        });
        assert_eq!(rebased.unwrap_err().code, Code::Cancelled);
    }

    /// Of each disk: has it fingerprints, and has it lost some?
    pub(crate) fn told(&self) -> [(bool, bool); 2] {
        let manifest = self.manifest(3);
        [0, 1].map(|disk| (manifest.disks[disk].fingerprints.is_some(), manifest.disks[disk].lost_fingerprints))
    }

    fn images(&self) -> [Vec<u8>; 2] {
        FILES.map(|file| fs::read(self.dir.path().join("i-1/T3").join(file)).unwrap())
    }

    fn assert_good(&self) {
        let request = json!({"repository": {"type": "dir", "address": self.dir.path()}, "backupPath": "i-1/T3"});
        let told = call("verifyData", &request.to_string(), &mut |_| Ok(())).unwrap();
        assert_eq!(told["verdict"], "good", "{told}");
    }
}

const SIZE: u64 = 2 << 20;
pub(crate) const KEPT: (bool, bool) = (true, false);
pub(crate) const LOST: (bool, bool) = (false, true);
const NONE: (bool, bool) = (false, false);

/// As when the backup was taken by push.
fn without(disk: &mut ManifestDisk) {
    disk.fingerprints = None;
}

/// As a rebase onto T1 leaves it from the moment on that it may change the image.
fn cut_off(disk: &mut ManifestDisk) {
    let onto = Some(format!("i-1/T1/{}", disk.file));
    disk.rebasing = Some(Rebasing { onto, point_id: Some("id-1".into()), had_fingerprints: true });
}

#[test]
fn what_a_rebase_made_of_images_with_fingerprints_has_some_or_has_lost_them() {
    type Case = (&'static str, fn(&Points), (bool, bool));
    let cases: [Case; 6] = [
        ("all have some", |_| {}, KEPT),
        ("none has any", |points| (1..=3).for_each(|point| points.record(point, without)), NONE),
        ("it has none itself, and takes in one that has", |points| points.record(3, without), LOST),
        ("it takes in one that has none", |points| points.record(2, without), LOST),
        (
            "it takes in one that has lost them",
            |points| {
                points.record(3, without);
                points.record(2, |disk| (disk.fingerprints, disk.lost_fingerprints) = (None, true));
            },
            LOST,
        ),
        (
            "an index is damaged",
            |points| {
                for file in FILES {
                    let index = file.replace(".qcow2", ".fingerprints");
                    let index = File::options().write(true).open(points.dir.path().join("i-1/T3").join(index)).unwrap();
                    index.set_len(index.metadata().unwrap().len() - 1).unwrap();
                }
            },
            LOST,
        ),
    ];
    for (case, change, expected) in cases {
        let points = Points::make(3, SIZE);
        change(&points);
        points.rebase(Some(1)).unwrap();
        assert_eq!(points.told(), [expected; 2], "{case}");
        // once they are lost, no later rebase makes anything of that
        points.rebase(None).unwrap();
        assert_eq!(points.told(), [expected; 2], "{case}, and once more");
        if expected == KEPT {
            points.assert_good();
        }
    }
}

#[test]
fn a_cancel_before_the_image_has_changed_keeps_its_fingerprints_and_one_after_it_records_their_loss() {
    let (mut unchanged, mut changed) = (0, 0);
    for after in 1.. {
        let points = Points::make(3, SIZE);
        let before = (points.manifest(3), points.images());
        let request = points.request_to_rebase(Some(1));
        let (mut told, mut phase) = (0, None);
        let rebased = call("rebasePoint", &request.to_string(), &mut |status| {
            told += 1;
            if told == after {
                phase = Some(status.phase);
                assert!(cancel(&status.job).found);
            }
            Ok(())
        });
        if told < after {
            rebased.unwrap();
            break;
        }
        match rebased {
            // once an image stands where it was to stand, its fingerprints are made in any case
            Ok(_) => assert_eq!(points.told(), [KEPT; 2], "{phase:?}"),
            Err(error) => assert_eq!(error.code, Code::Cancelled, "{error}"),
        }
        let (now, images) = (points.manifest(3), points.images());
        for (disk, image) in images.iter().enumerate() {
            assert!(now.disks[disk].rebasing.is_none(), "{phase:?}");
            if *image == before.1[disk] {
                assert_eq!(now.disks[disk], before.0.disks[disk], "{phase:?}");
                unchanged += 1;
            } else {
                assert!([KEPT, LOST].contains(&points.told()[disk]), "{phase:?}: {:?}", points.told());
                changed += 1;
            }
        }
        if points.told() == [KEPT; 2] {
            points.assert_good();
        }
    }
    assert!(unchanged > 0 && changed > 0, "{unchanged} {changed}");
}

#[test]
fn a_cancel_before_the_image_has_changed_takes_no_loss_for_one() {
    let points = Points::make(3, SIZE);
    points.record(3, without);
    let before = points.manifest(3);
    points.cancel_at(Phase::Absorb);
    assert_eq!(points.manifest(3).disks, before.disks);
}

#[test]
fn a_cancel_keeps_no_fingerprints_of_an_image_that_a_call_that_was_cut_off_has_changed() {
    let points = Points::make(3, SIZE);
    let before = points.manifest(3);
    points.cancel_at(Phase::NameBackingFile);
    assert_eq!(points.told(), [LOST, KEPT]);
    // as if it had been killed
    points.record(3, |disk| {
        *disk = before.disks.iter().find(|before| before.file == disk.file).unwrap().clone();
        cut_off(disk);
    });
    points.cancel_at(Phase::TakeBackUnused);
    assert_eq!(points.told()[0], LOST);
}

#[test]
fn what_was_cut_off_before_the_image_changed_has_its_fingerprints_when_it_is_left_where_it_stands() {
    let points = Points::make(3, SIZE);
    let before = points.manifest(3);
    points.record(3, cut_off);
    points.rebase(Some(2)).unwrap();
    assert_eq!(points.manifest(3), before);
    points.assert_good();
    // a cluster that nothing names follows: what else is another is not known
    points.record(3, cut_off);
    let image = File::options().write(true).open(points.dir.path().join("i-1/T3").join(FILES[0])).unwrap();
    image.set_len(image.metadata().unwrap().len() + 65536).unwrap();
    points.rebase(Some(2)).unwrap();
    assert_eq!(points.told(), [LOST, KEPT]);
}
