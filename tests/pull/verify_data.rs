//! `verifyData` on chains that the pull engine made: a changed byte anywhere is found.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nasbackup::digest::Digest;
use nasbackup::nas::folder::Folder;
use nasbackup::operation::{call, cancel};
use nasbackup::point::fingerprints::{self, index_image};
use nasbackup::point::{Manifest, ManifestDisk};
use nasbackup::work::job::Listener;
use nasbackup::work::phase::Phase;
use serde_json::{Value, json};

use crate::support::{Disk, Guest, Image, MIB, Nas, Story, take};

/// A sequence of numbers that is the same on each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// A full point and two incrementals, of a disk that ends within a cluster, and of one that can't carry a bitmap.
fn story() -> Story {
    let odd = Disk::root().size(33 * MIB + 512 * 3);
    let mut story = Story::new(Guest::new([odd, Disk::new().image(Image::Raw)]), Nas::folder());
    story.guest.write(0, 0x41, 0, 3 * MIB);
    story.guest.write(0, 0x42, 33 * MIB + 512, 1024);
    story.guest.write(1, 0x43, 5 * MIB, MIB);
    story.take("full");
    for round in 0..2 {
        story.guest.write(0, 0x51 + round, u64::from(round) * MIB, MIB + 4096);
        story.guest.write_zeroes(0, 2 * MIB, MIB / 2);
        story.guest.write(1, 0x61, u64::from(round) * MIB, 8192);
        story.take("incremental").assert_incremental();
    }
    story
}

fn verify(story: &Story, point: &str) -> Value {
    let request = json!({"backupPath": point, "repository": {"type": "dir", "address": story.nas.root()}});
    call("verifyData", &request.to_string(), &mut |_| Ok(())).unwrap()
}

fn verdict_of<'a>(result: &'a Value, file: &str) -> &'a str {
    let file = result["files"].as_array().unwrap().iter().find(|told| told["file"] == file);
    file.unwrap_or_else(|| panic!("no word of it: {result}"))["verdict"].as_str().unwrap()
}

/// What a point's manifest says of its disks.
fn recorded(story: &Story, point: &str) -> Vec<ManifestDisk> {
    Manifest::read(&Folder::open_root(story.nas.at(point)).unwrap()).unwrap().unwrap().disks
}

/// The hash of the index that an image gets by being read, and that of its rest.
fn indexed(image: &Path) -> (Digest, Digest) {
    index_image(File::open(image).unwrap(), Vec::new(), &mut |_, _| Ok(())).unwrap()
}

/// The fingerprints of each image are those that it gets by being read.
fn assert_indexed(story: &Story, point: &str) {
    for disk in recorded(story, point) {
        let recorded = disk.fingerprints.unwrap_or_else(|| panic!("'{point}' has no fingerprints of {}", disk.file));
        let image = story.nas.at(&format!("{point}/{}", disk.file));
        assert_eq!((recorded.hash, recorded.rest), indexed(&image), "{point}/{}", disk.file);
    }
}

/// All files of all points, relative to the repository's root.
fn files(story: &Story) -> Vec<String> {
    let files = story.points.iter().flat_map(|point| {
        let names = fs::read_dir(story.nas.at(&point.path)).unwrap();
        names.map(|name| format!("{}/{}", point.path, name.unwrap().file_name().into_string().unwrap()))
    });
    let mut files: Vec<_> = files.collect();
    files.sort();
    files
}

fn flip(path: &Path, at: u64, by: u8) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ by], at).unwrap();
}

#[test]
fn a_changed_byte_in_any_file_of_the_chain_is_found() {
    let story = story();
    let newest = &story.points[2].path;
    let result = verify(&story, newest);
    assert_eq!(result["verdict"], "good", "{result}");
    // the disk that can't carry a bitmap stands alone in each point
    let of_raw = format!("datadisk.{}", story.guest.disks[1].volume());
    let below = |file: &String| !file.contains(&of_raw) || file.starts_with(newest);
    let all = files(&story);
    let chain: Vec<_> = all.iter().filter(|file| below(file)).collect();
    assert_eq!(chain.len(), 3 * (2 + 1 + 4) + 2, "{chain:?}");
    let random = &mut Random(17);
    for file in chain {
        assert_eq!(verdict_of(&result, file), "good");
        let path = story.nas.at(file);
        let length = fs::metadata(&path).unwrap().len();
        let places = (0..4).map(|_| random.below(length)).collect::<Vec<_>>();
        for at in places.into_iter().chain([0, length - 1]) {
            let by = 1 << random.below(8);
            flip(&path, at, by);
            let result = verify(&story, newest);
            assert_eq!((verdict_of(&result, file), &result["verdict"]), ("bad", &json!("bad")), "{at} {by}: {result}");
            flip(&path, at, by);
        }
    }
    assert_eq!(verify(&story, newest)["verdict"], "good");
}

#[test]
fn changed_clusters_are_named_and_counted() {
    let story = story();
    let full = &story.points[0];
    let image = full.taken.disks[0].file.clone();
    let path = story.nas.at(&image);
    for cluster in 0..20 {
        flip(&path, (1 + cluster) * 65536, 1);
    }
    let result = verify(&story, &full.path);
    let files = result["files"].as_array().unwrap();
    let reasons = files.iter().find(|file| file["file"] == image.as_str()).unwrap()["reasons"].as_array().unwrap();
    assert_eq!(reasons.len(), 17, "{result}");
    assert!(reasons[1].as_str().unwrap().contains("guest offset 65536 "), "{result}");
    assert!(reasons[16].as_str().unwrap().starts_with("4 more"), "{result}");
    assert_eq!(files.iter().filter(|file| file["verdict"] != "good").count(), 1, "{result}");
}

#[test]
fn what_is_missing_is_told() {
    let story = story();
    let point = &story.points[2].path;
    for name in [
        "dominfo.xml".to_owned(),
        fingerprints::file_name(story.points[2].taken.disks[0].file.rsplit('/').next().unwrap()),
    ] {
        let file = format!("{point}/{name}");
        let text = fs::read(story.nas.at(&file)).unwrap();
        fs::remove_file(story.nas.at(&file)).unwrap();
        let result = verify(&story, point);
        assert_eq!(verdict_of(&result, &file), "bad", "{result}");
        fs::write(story.nas.at(&file), text).unwrap();
    }
    assert_eq!(verify(&story, point)["verdict"], "good");
}

#[test]
fn without_fingerprints_nothing_is_said_of_the_data() {
    let mut story = Story::new(Guest::new([Disk::root()]), Nas::folder());
    let request = story.request("full");
    story.accept(nasbackup::operation::take_backup::TakeBackupRequest { engine: Some("push".into()), ..request });
    let (path, image) = (story.points[0].path.clone(), story.points[0].taken.disks[0].file.clone());
    let result = verify(&story, &path);
    assert_eq!((&result["verdict"], verdict_of(&result, &image)), (&json!("aborted"), "aborted"), "{result}");
    assert_eq!(verdict_of(&result, &format!("{path}/manifest.json")), "good");
    // its tables are looked at all the same
    fs::write(story.nas.at(&image), "no image").unwrap();
    assert_eq!(verdict_of(&verify(&story, &path), &image), "bad");
}

#[test]
fn sizes_are_those_of_the_images_alone() {
    let story = story();
    for point in &story.points {
        let length = |file: &String| fs::metadata(story.nas.at(file)).unwrap().len();
        assert_eq!(point.taken.size, point.files().iter().map(length).sum::<u64>());
        assert!(recorded(&story, &point.path).iter().all(|disk| disk.fingerprints.is_some()));
    }
}

#[test]
fn it_tells_of_progress_and_can_be_cancelled() {
    let story = story();
    let request = json!({"job": "verify", "backupPath": story.points[2].path,
        "repository": {"type": "dir", "address": story.nas.root()}});
    let mut done = Vec::new();
    call("verifyData", &request.to_string(), &mut |status| {
        assert_eq!(status.operation, "verifyData");
        if status.phase == Phase::CompareData && status.total_bytes > 0 {
            done.push((status.done_bytes, status.total_bytes));
        }
        Ok(())
    })
    .unwrap();
    assert!(done.is_sorted() && done.iter().all(|(done, total)| done <= total) && done.len() > 1, "{done:?}");
    let error = call("verifyData", &request.to_string(), &mut |status| {
        if status.phase == Phase::CompareData {
            assert!(cancel("verify").found);
        }
        Ok(())
    });
    assert_eq!(error.unwrap_err().code, nasbackup::error::Code::Cancelled);
    take(story.request("legacy")).unwrap();
}

fn job_of(point: &str) -> String {
    format!("rebase {point}")
}

fn rebase(story: &Story, point: usize, onto: Option<usize>, listener: Listener<'_>) -> nasbackup::error::Result<Value> {
    let parent = onto.map(|onto| &story.points[onto].path);
    let request = json!({"job": job_of(&story.points[point].path), "backupPath": story.points[point].path, "newParent": parent,
        "repository": {"type": "dir", "address": story.nas.root()}});
    call("rebasePoint", &request.to_string(), listener)
}

/// The same root disk through many points, each with data, zeroes and parts of clusters that the others have too.
fn long_story() -> Story {
    let mut story = Story::new(Guest::new([Disk::root().size(33 * MIB + 512 * 3)]), Nas::folder());
    story.guest.write(0, 0x41, 0, 8 * MIB);
    story.guest.write(0, 0x42, 33 * MIB + 512, 1024);
    story.take("full");
    for round in 0..5 {
        let at = u64::from(round) * MIB;
        story.guest.write(0, 0x51 + round, at, MIB + 4096);
        story.guest.write_zeroes(0, at / 2, MIB / 2);
        story.guest.discard(0, 7 * MIB - at, MIB / 4);
        story.guest.write(0, 0, 20 * MIB + at, MIB);
        story.take("incremental").assert_incremental();
    }
    story
}

#[test]
fn fingerprints_are_those_that_an_image_gets_by_being_read() {
    let story = long_story();
    story.points.iter().for_each(|point| assert_indexed(&story, &point.path));
}

#[test]
fn a_rebase_takes_the_fingerprints_along() {
    let story = long_story();
    // one between, two between, and in the end on nothing
    for (point, onto, gone) in [(2, Some(0), vec![1]), (5, Some(2), vec![4, 3]), (5, None, vec![]), (2, None, vec![0])]
    {
        rebase(&story, point, onto, &mut |_| Ok(())).unwrap();
        for gone in gone {
            let request = json!({"backupPath": story.points[gone].path,
                "repository": {"type": "dir", "address": story.nas.root()}});
            call("deleteBackup", &request.to_string(), &mut |_| Ok(())).unwrap();
        }
        let path = &story.points[point].path;
        assert_indexed(&story, path);
        let result = verify(&story, path);
        assert_eq!(result["verdict"], "good", "{point} onto {onto:?}: {result}");
        story.assert_restores(&story.points[point]);
    }
    let image = &story.points[2].taken.disks[0].file;
    let length = fs::metadata(story.nas.at(image)).unwrap().len();
    let random = &mut Random(5);
    for _ in 0..20 {
        let at = random.below(length);
        flip(&story.nas.at(image), at, 1);
        assert_eq!(verdict_of(&verify(&story, &story.points[2].path), image), "bad", "{at}");
        flip(&story.nas.at(image), at, 1);
    }
}

#[test]
fn a_rebase_that_is_cut_off_before_it_writes_keeps_the_fingerprints() {
    let story = long_story();
    let path = &story.points[2].path;
    let error = rebase(&story, 2, Some(0), &mut |status| {
        if status.phase == Phase::CheckImages {
            cancel(&job_of(path));
        }
        Ok(())
    });
    assert_eq!(error.unwrap_err().code, nasbackup::error::Code::Cancelled);
    assert_indexed(&story, path);
    assert_eq!(verify(&story, path)["verdict"], "good");
}

#[test]
fn a_rebase_that_is_cancelled_once_it_has_written_records_that_fingerprints_were_lost() {
    let story = long_story();
    let path = &story.points[2].path;
    let error = rebase(&story, 2, Some(0), &mut |status| {
        if status.phase == Phase::NameBackingFile {
            cancel(&job_of(path));
        }
        Ok(())
    });
    assert_eq!(error.unwrap_err().code, nasbackup::error::Code::Cancelled);
    let image = &story.points[2].taken.disks[0].file;
    let result = verify(&story, path);
    assert_eq!(verdict_of(&result, image), "aborted", "{result}");
    let length = fs::metadata(story.nas.at(image)).unwrap().len();
    assert_eq!(recorded(&story, path)[0].size, length, "the image is whole");
    assert!(recorded(&story, path)[0].lost_fingerprints);
    story.assert_restores(&story.points[2]);
    // what is above can't have what is not there
    rebase(&story, 3, Some(0), &mut |_| Ok(())).unwrap();
    let above = &recorded(&story, &story.points[3].path)[0];
    assert!(above.fingerprints.is_none() && above.lost_fingerprints);
    assert_eq!(verify(&story, &story.points[3].path)["verdict"], "aborted");
    story.assert_restores(&story.points[3]);
}

#[test]
fn a_cancel_while_fingerprints_are_merged_comes_too_late() {
    let story = long_story();
    let path = &story.points[2].path;
    let mut cancelled = false;
    rebase(&story, 2, Some(0), &mut |status| {
        if status.phase == Phase::MergeFingerprints {
            // the header names the new backing file, durably, and the manifest what the image was
            assert!(recorded(&story, path)[0].rebasing.is_some());
            cancelled = cancel(&job_of(path)).found;
        }
        Ok(())
    })
    .unwrap();
    assert!(cancelled);
    assert!(recorded(&story, path)[0].rebasing.is_none());
    assert_eq!(verdict_of(&verify(&story, path), &story.points[2].taken.disks[0].file), "good");
}

#[test]
fn damaged_fingerprints_are_not_taken_along() {
    let story = long_story();
    let index = recorded(&story, &story.points[1].path)[0].fingerprints.clone().unwrap().file;
    let index = story.nas.at(&format!("{}/{index}", story.points[1].path));
    flip(&index, fs::metadata(&index).unwrap().len() - 20, 1);
    rebase(&story, 2, Some(0), &mut |_| Ok(())).unwrap();
    let path = &story.points[2].path;
    assert!(recorded(&story, path)[0].fingerprints.is_none());
    let names: Vec<_> =
        files(&story).into_iter().filter(|file| file.contains(path) && file.contains("fingerprints")).collect();
    assert!(names.is_empty(), "{names:?}");
    story.assert_restores(&story.points[2]);
}
