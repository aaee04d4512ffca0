//! `rebaseBackup` and `rebasePoint`, as callers see them.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use nasbackup::config::Engine;
use nasbackup::error::{Code, Error};
use nasbackup::nas::folder::Folder;
use nasbackup::nas::lock::InstanceLock;
use nasbackup::nas::purpose::Purpose;
use nasbackup::operation::call;
use nasbackup::point::{Kind, Manifest, ManifestDisk, ParentPoint, Rebasing};
use serde_json::{Value, json};

use crate::chains::{qemu_img, run};
use crate::differential::{check, compare};

pub(crate) const DISKS: [&str; 2] = ["root.a b.qcow2", "datadisk.y.qcow2"];

/// Points `T1` (full), `T2`, ... of two disks below `i-1`, each with its own data; the second disk begins at `T2`.
pub(crate) struct Points {
    pub(crate) dir: tempfile::TempDir,
    raws: Vec<(String, PathBuf)>,
}

impl Points {
    pub(crate) fn make(points: usize, manifests: bool) -> Points {
        Points::make_in(&std::env::temp_dir(), points, manifests)
    }

    pub(crate) fn make_in(folder: &Path, points: usize, manifests: bool) -> Points {
        let dir = tempfile::tempdir_in(folder).unwrap();
        let mut raws = Vec::new();
        for point in 1..=points {
            let folder = dir.path().join(format!("i-1/T{point}"));
            fs::create_dir_all(&folder).unwrap();
            for (index, file) in DISKS.iter().enumerate().filter(|(index, _)| point > *index) {
                let below = format!("../T{}/{file}", point - 1);
                let mut args = vec!["create", "-q", "-f", "qcow2"];
                if point > index + 1 {
                    args.extend(["-b", &below, "-F", "qcow2"]);
                }
                qemu_img(&folder, &[&args[..], &[file, "8M"]].concat());
                let write = |at: usize, length: &str| format!("write -q -P {} {at} {length}", 16 * point + index + 1);
                let (own, shared) = (write(point << 20, "300k"), write(6 << 20, "70k"));
                run("qemu-io", &folder, &["-f", "qcow2", "-c", &own, "-c", &shared, file]).unwrap();
            }
            if manifests {
                manifest(&dir.path().join("i-1"), point);
            }
        }
        for point in 1..=points {
            for file in DISKS.iter().take(point) {
                let image = format!("i-1/T{point}/{file}");
                let raw = dir.path().join(format!("{point}.{file}.raw"));
                qemu_img(dir.path(), &["convert", "-O", "raw", &image, raw.to_str().unwrap()]);
                raws.push((image, raw));
            }
        }
        Points { dir, raws }
    }

    pub(crate) fn call(&self, operation: &str, mut request: Value) -> Result<Value, Error> {
        request["repository"] = json!({"type": "dir", "address": self.dir.path()});
        call(operation, &request.to_string(), &mut |_| Ok(()))
    }

    pub(crate) fn code(&self, operation: &str, request: Value) -> (Code, String) {
        let error = self.call(operation, request).unwrap_err();
        (error.code, error.cause)
    }

    /// Do all images that are there read as when they were made?
    pub(crate) fn assert_same(&self) {
        for (image, raw) in &self.raws {
            if self.dir.path().join(image).exists() {
                compare(self.dir.path(), raw, image).unwrap();
                assert_eq!(check(self.dir.path(), image), (0, 0), "{image}");
            }
        }
    }

    pub(crate) fn manifest(&self, point: &str) -> Manifest {
        Manifest::read(&Folder::open_root(self.dir.path().join("i-1").join(point)).unwrap()).unwrap().unwrap()
    }

    fn length(&self, image: &str) -> u64 {
        fs::metadata(self.dir.path().join(image)).unwrap().len()
    }
}

fn manifest(instance: &Path, point: usize) {
    let disks: Vec<_> = DISKS.iter().enumerate().filter(|(index, _)| point > *index).collect();
    let manifest = Manifest {
        version: Manifest::VERSION,
        point_id: format!("id-{point}"),
        backup_path: Some(format!("i-1/T{point}")),
        vm_name: "i-1".into(),
        when: "2031-01-02T03:04:05Z".parse().unwrap(),
        kind: if point == 1 { Kind::Full } else { Kind::Incremental },
        bitmap: None,
        name: None,
        engine: Engine::Push,
        parent: (point > 1)
            .then(|| ParentPoint { backup_path: format!("i-1/T{}", point - 1), point_id: format!("id-{}", point - 1) }),
        disks: disks
            .into_iter()
            .map(|(index, file)| ManifestDisk {
                volume: format!("v{index}"),
                serial: None,
                file: (*file).into(),
                kind: if point > index + 1 { Kind::Incremental } else { Kind::Full },
                parent: (point > index + 1).then(|| format!("i-1/T{}/{file}", point - 1)),
                size: fs::metadata(instance.join(format!("T{point}/{file}"))).unwrap().len(),
                virtual_size: 8 << 20,
                bitmap: None,
                fingerprints: None,
                lost_fingerprints: false,
                snapshot: None,
                rebasing: None,
                goes_into: None,
            })
            .collect(),
        left_out: Vec::new(),
        texts: None,
        mac: None,
        checksum: None,
    };
    manifest.write(&fs::File::create(instance.join(format!("T{point}/manifest.json"))).unwrap()).unwrap();
}

#[test]
fn one_image_is_rebased_and_the_point_between_can_go() {
    for manifests in [true, false] {
        let points = Points::make(4, manifests);
        let request = json!({"target": "i-1/T3/root.a b.qcow2", "newBacking": "i-1/T1/root.a b.qcow2"});
        let done = points.call("rebaseBackup", request.clone()).unwrap();
        assert_eq!(done["size"], points.length("i-1/T3/root.a b.qcow2"));
        assert_eq!(done["bytesCloned"].as_u64().unwrap() + done["bytesCopied"].as_u64().unwrap(), 5 << 16);
        points.assert_same();
        if manifests {
            let manifest = points.manifest("T3");
            assert_eq!(manifest.disks[0].size, done["size"].as_u64().unwrap());
            assert_eq!(manifest.parent.unwrap().backup_path, "i-1/T2", "the data disk stands there still");
        }
        // the other disk still needs it
        assert_eq!(points.code("deleteBackup", json!({"backupPath": "i-1/T2"})).0, Code::HasChildren);
        let again = points.call("rebaseBackup", request).unwrap();
        assert_eq!((&again["bytesCloned"], &again["bytesCopied"]), (&json!(0), &json!(0)));

        points.call("rebasePoint", json!({"backupPath": "i-1/T3", "newParent": "i-1/T1"})).unwrap();
        points.call("deleteBackup", json!({"backupPath": "i-1/T2"})).unwrap();
        points.assert_same();
        if manifests {
            let manifest = points.manifest("T3");
            let parent = ParentPoint { backup_path: "i-1/T1".into(), point_id: "id-1".into() };
            assert_eq!(manifest.parent, Some(parent));
            assert_eq!(
                manifest.disks.iter().map(|disk| disk.kind).collect::<Vec<_>>(),
                [Kind::Incremental, Kind::Full]
            );
        }
    }
}

/// As CloudStack's own script leaves it: no manifests, and what libvirt says of the guest beside the images.
#[test]
fn a_chain_of_the_shell_script_loses_its_middle_and_its_full() {
    let points = Points::make(4, false);
    for point in 1..=4 {
        for file in ["domain-config.xml", "dominfo.xml", "domiflist.xml", "domblklist.xml"] {
            fs::write(points.dir.path().join(format!("i-1/T{point}/{file}")), "text").unwrap();
        }
    }
    points.call("rebasePoint", json!({"backupPath": "i-1/T3", "newParent": "i-1/T1"})).unwrap();
    points.call("deleteBackup", json!({"backupPath": "i-1/T2"})).unwrap();
    points.assert_same();
    assert_eq!(points.code("deleteBackup", json!({"backupPath": "i-1/T1"})).0, Code::HasChildren);
    points.call("rebasePoint", json!({"backupPath": "i-1/T3"})).unwrap();
    points.call("deleteBackup", json!({"backupPath": "i-1/T1"})).unwrap();
    points.assert_same();
    for point in ["T3", "T4"] {
        let verified = points.call("verifyChain", json!({"backupPath": format!("i-1/{point}")})).unwrap();
        assert_eq!(verified["verdict"], "good", "{verified}");
        assert!(!points.dir.path().join(format!("i-1/{point}/manifest.json")).exists());
    }
    for point in ["T4", "T3"] {
        points.call("deleteBackup", json!({"backupPath": format!("i-1/{point}")})).unwrap();
        assert!(!points.dir.path().join(format!("i-1/{point}")).exists());
    }
}

#[test]
fn a_point_without_a_parent_stands_alone() {
    let points = Points::make(3, true);
    let done = points.call("rebasePoint", json!({"backupPath": "i-1/T3", "newParent": null})).unwrap();
    let files = DISKS.map(|file| points.length(&format!("i-1/T3/{file}")));
    assert_eq!(done["size"], files.iter().sum::<u64>());
    let manifest = points.manifest("T3");
    assert_eq!((manifest.kind, manifest.parent), (Kind::Full, None));
    assert_eq!(manifest.disks.iter().map(|disk| disk.size).collect::<Vec<_>>(), files);
    for point in ["T2", "T1"] {
        points.call("deleteBackup", json!({"backupPath": format!("i-1/{point}")})).unwrap();
    }
    points.assert_same();
    points.call("rebasePoint", json!({"backupPath": "i-1/T3"})).unwrap();
    points.assert_same();
}

#[test]
fn what_was_cut_off_before_the_manifest_is_finished_by_the_next_call() {
    // as an older version left it, and this one: from the moment on that an image may change
    type Cut = fn(&mut ManifestDisk);
    let cuts: [Cut; 2] = [
        |disk| disk.size = 0,
        |disk| {
            let onto = (disk.volume == "v0").then(|| "i-1/T1/root.a b.qcow2".to_owned());
            disk.rebasing =
                Some(Rebasing { point_id: onto.as_ref().map(|_| "id-1".into()), onto, had_fingerprints: false });
        },
    ];
    for cut in cuts {
        let points = Points::make(3, true);
        let path = points.dir.path().join("i-1/T3/manifest.json");
        let mut stale = points.manifest("T3");
        let request = json!({"backupPath": "i-1/T3", "newParent": "i-1/T1"});
        points.call("rebasePoint", request.clone()).unwrap();
        let right = fs::read(&path).unwrap();
        stale.disks.iter_mut().for_each(cut);
        stale.replace(&Folder::open_root(path.parent().unwrap()).unwrap()).unwrap();
        fs::write(points.dir.path().join("i-1/T3/.manifest.json.new"), "half").unwrap();
        let verified = points.call("verifyChain", json!({"backupPath": "i-1/T3"})).unwrap();
        assert_eq!(verified["files"][0]["verdict"], "aborted", "{verified}");
        assert_eq!(verified["verdict"], "aborted", "{verified}");
        points.call("rebasePoint", request).unwrap();
        assert_eq!(fs::read(&path).unwrap(), right);
        assert!(!points.dir.path().join("i-1/T3/.manifest.json.new").exists());
    }
}

#[test]
fn a_rebase_of_one_disk_vouches_for_no_other() {
    type Call = (&'static str, Value);
    let calls: [Call; 2] = [
        ("rebaseBackup", json!({"target": "i-1/T3/root.a b.qcow2", "newBacking": "i-1/T1/root.a b.qcow2"})),
        // the data disk stands on nothing already
        ("rebasePoint", json!({"backupPath": "i-1/T2"})),
    ];
    for (operation, request) in calls {
        let points = Points::make(3, true);
        let point = if operation == "rebasePoint" { "i-1/T2" } else { "i-1/T3" };
        let file = points.dir.path().join(point).join(DISKS[1]);
        let length = fs::metadata(&file).unwrap().len();
        fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(length - 60_000).unwrap();
        let verdict = || {
            let verified = points.call("verifyChain", json!({"backupPath": point})).unwrap();
            let files = verified["files"].as_array().unwrap();
            let bad = files.iter().filter(|file| file["verdict"] != "good").map(|file| file["file"].clone());
            bad.collect::<Vec<_>>()
        };
        assert_eq!(verdict(), [json!(format!("{point}/{}", DISKS[1]))]);
        points.call(operation, request).unwrap();
        assert_eq!(verdict(), [json!(format!("{point}/{}", DISKS[1]))], "after {operation}");
    }
}

#[test]
fn a_disk_that_can_not_be_rebased_keeps_the_others_from_being_changed() {
    let points = Points::make(3, true);
    let before = fs::read(points.dir.path().join("i-1/T3/manifest.json")).unwrap();
    let below = points.dir.path().join("i-1/T2").join(DISKS[1]);
    // the count of the cluster of its header
    fs::OpenOptions::new().write(true).open(&below).unwrap().write_all_at(&[0, 0], 2 << 16).unwrap();
    let request = json!({"backupPath": "i-1/T3", "newParent": "i-1/T1"});
    let (code, cause) = points.code("rebasePoint", request);
    assert!(code == Code::CorruptImage && cause.contains("count of 0"), "{code:?} {cause}");
    let verified = points.call("verifyChain", json!({"backupPath": "i-1/T3"})).unwrap();
    let files = verified["files"].as_array().unwrap();
    let bad: Vec<_> = files.iter().filter(|file| file["verdict"] != "good").map(|file| &file["file"]).collect();
    assert_eq!(bad, ["i-1/T2/datadisk.y.qcow2"], "{verified}");
    assert!(files.iter().any(|file| file["file"] == "i-1/T2/root.a b.qcow2"), "the root disk stands on it still");
    assert!(fs::read(points.dir.path().join("i-1/T3/manifest.json")).unwrap() == before);
}

#[test]
fn a_manifest_that_was_changed_is_not_written_anew() {
    let points = Points::make(3, true);
    let path = points.dir.path().join("i-1/T3/manifest.json");
    let changed = fs::read_to_string(&path).unwrap().replace("\"v1\"", "\"w1\"");
    fs::write(&path, &changed).unwrap();
    let image = points.length("i-1/T3/root.a b.qcow2");
    let (code, cause) = points.code("rebaseBackup", json!({"target": "i-1/T3/root.a b.qcow2"}));
    assert!(code == Code::CorruptImage && cause.contains("manifest.json"), "{code:?} {cause}");
    assert_eq!(fs::read_to_string(&path).unwrap(), changed);
    assert_eq!(points.length("i-1/T3/root.a b.qcow2"), image);
    points.assert_same();
}

/// Whenever it is cancelled, the manifest says of each disk what it is, of those that were not reached what they were.
#[test]
fn a_cancel_between_two_disks_leaves_one_rebased_and_the_other_as_it_was() {
    let (mut between, mut as_before) = (0, 0);
    for after in 1.. {
        let points = Points::make(3, true);
        let before = points.manifest("T3").disks;
        let request = json!({
            "job": "rebase-two-disks",
            "repository": {"type": "dir", "address": points.dir.path()},
            "backupPath": "i-1/T3",
            "newParent": "i-1/T1",
        });
        let mut told = 0;
        let ended = call("rebasePoint", &request.to_string(), &mut |_| {
            told += 1;
            if told == after {
                assert!(nasbackup::operation::cancel("rebase-two-disks").found);
            }
            Ok(())
        });
        if ended.is_ok() {
            break;
        }
        points.assert_same();
        let verified = points.call("verifyChain", json!({"backupPath": "i-1/T3"})).unwrap();
        assert_eq!(verified["verdict"], "good", "after {after} reports: {verified}");
        let now = points.manifest("T3").disks;
        as_before += u32::from(now == before);
        between += u32::from(now[0].parent.as_deref() == Some("i-1/T1/root.a b.qcow2") && now[1] == before[1]);
    }
    assert!(between > 0 && as_before > 0, "{between} {as_before}");
}

/// A link to another machine's image lies in the place of the one that is rebased.
#[test]
fn an_image_that_has_a_second_name_is_not_written_to() {
    let points = Points::make(3, false);
    let (image, other) = (points.dir.path().join("i-1/T3").join(DISKS[0]), points.dir.path().join("i-2/T1"));
    fs::create_dir_all(&other).unwrap();
    fs::rename(&image, other.join("x")).unwrap();
    fs::hard_link(other.join("x"), &image).unwrap();
    let content = fs::read(&image).unwrap();
    for request in [
        json!({"target": "i-1/T3/root.a b.qcow2"}),
        json!({"target": "i-1/T3/root.a b.qcow2", "newBacking": "i-1/T1/root.a b.qcow2"}),
    ] {
        let (code, cause) = points.code("rebaseBackup", request);
        assert!(code == Code::Io && cause.contains("root.a b.qcow2' has 2 names"), "{code:?} {cause}");
        assert!(fs::read(&image).unwrap() == content);
    }
}

#[test]
fn a_request_that_makes_no_sense_is_refused_and_changes_nothing() {
    let points = Points::make(3, true);
    let root = |point: &str| format!("i-1/{point}/root.a b.qcow2");
    for (request, field) in [
        (json!({}), "target: "),
        (json!({"target": ""}), "target: "),
        (json!({"target": "/etc/passwd"}), "target: "),
        (json!({"target": "i-1/../i-1/T3/x"}), "target: "),
        (json!({"target": "root.qcow2"}), "target: "),
        (json!({"target": "i-1/root.qcow2"}), "target: "),
        (json!({"target": "i-1/.partial-T3/root.qcow2"}), "target: "),
        (json!({"target": root("T3"), "newBacking": ""}), "newBacking: "),
        (json!({"target": root("T3"), "newBacking": root("T3")}), "newBacking: "),
        (json!({"target": root("T3"), "newBacking": "../x"}), "newBacking: "),
    ] {
        let (code, cause) = points.code("rebaseBackup", request.clone());
        assert_eq!(code, Code::InvalidArgument, "{request}");
        assert!(cause.starts_with(field), "{request}: {cause}");
    }
    for (request, field) in [
        (json!({}), "backupPath: "),
        (json!({"backupPath": "i-1"}), "backupPath: "),
        (json!({"backupPath": "i-1/T3", "newParent": "i-1/T3"}), "newParent: "),
        (json!({"backupPath": "i-1/T3", "newParent": "i-1"}), "newParent: "),
    ] {
        let (code, cause) = points.code("rebasePoint", request.clone());
        assert_eq!(code, Code::InvalidArgument, "{request}");
        assert!(cause.starts_with(field), "{request}: {cause}");
    }
    for onto in [root("T4"), "i-1/T2/datadisk.y.qcow2".into(), "i-2/T1/x".into()] {
        let request = json!({"target": root("T3"), "newBacking": onto});
        assert_eq!(points.code("rebaseBackup", request).0, Code::ParentInvalid, "{onto}");
    }
    let older = json!({"target": root("T1"), "newBacking": root("T2")});
    assert_eq!(points.code("rebaseBackup", older).0, Code::ParentInvalid);
    assert_eq!(points.code("rebaseBackup", json!({"target": root("T9")})).0, Code::NotFound);
    assert_eq!(points.code("rebasePoint", json!({"backupPath": "i-1/T9"})).0, Code::NotFound);
    assert_eq!(points.code("rebasePoint", json!({"backupPath": "i-9/T9"})).0, Code::NotFound);
    let no_parent = json!({"backupPath": "i-1/T3", "newParent": "i-1/T4"});
    assert_eq!(points.code("rebasePoint", no_parent).0, Code::ParentInvalid);
    points.assert_same();
}

#[test]
fn a_chain_that_leads_out_or_in_circles_is_not_followed() {
    let points = Points::make(3, false);
    let folder = points.dir.path().join("i-1/T2");
    let outside = tempfile::tempdir().unwrap();
    let elsewhere = outside.path().join("x.qcow2");
    qemu_img(outside.path(), &["create", "-q", "-f", "qcow2", "x.qcow2", "8M"]);
    symlink(&elsewhere, folder.join("link.qcow2")).unwrap();
    let request = json!({"target": "i-1/T3/root.a b.qcow2"});
    let elsewhere = elsewhere.to_str().unwrap();
    for (backing, format, code) in [
        (elsewhere, "qcow2", Code::UnsupportedImage),
        ("../../../x.qcow2", "qcow2", Code::UnsupportedImage),
        ("json:{\"driver\":\"qcow2\"}", "qcow2", Code::UnsupportedImage),
        ("nbd:unix:/x", "qcow2", Code::UnsupportedImage),
        ("../T1/root.a b.qcow2", "raw", Code::UnsupportedImage),
        ("../T3/root.a b.qcow2", "qcow2", Code::ParentInvalid),
        ("root.a b.qcow2", "qcow2", Code::ParentInvalid),
        ("../T1/gone.qcow2", "qcow2", Code::ParentInvalid),
        ("link.qcow2", "qcow2", Code::Io),
    ] {
        qemu_img(&folder, &["rebase", "-u", "-f", "qcow2", "-b", backing, "-F", format, DISKS[0]]);
        let before = fs::read(points.dir.path().join("i-1/T3").join(DISKS[0])).unwrap();
        assert_eq!(points.code("rebaseBackup", request.clone()).0, code, "{backing}");
        assert_eq!(fs::read(points.dir.path().join("i-1/T3").join(DISKS[0])).unwrap(), before);
    }
}

#[test]
fn a_cancel_and_a_rebase_of_others_leave_the_chain_as_it_was() {
    let points = Points::make(3, true);
    let request = json!({
        "job": "rebase-to-cancel",
        "repository": {"type": "dir", "address": points.dir.path()},
        "target": "i-1/T3/root.a b.qcow2",
    });
    for after in 1..7 {
        let before = points.length("i-1/T3/root.a b.qcow2");
        let mut told = 0;
        let error = call("rebaseBackup", &request.to_string(), &mut |status| {
            assert_eq!(status.operation, "rebaseBackup");
            told += 1;
            if told == after {
                assert!(nasbackup::operation::cancel("rebase-to-cancel").found);
            }
            Ok(())
        });
        assert_eq!(error.unwrap_err().code, Code::Cancelled, "after {after} reports");
        assert_eq!(points.length("i-1/T3/root.a b.qcow2"), before);
        points.assert_same();
        let verified = points.call("verifyChain", json!({"backupPath": "i-1/T3"})).unwrap();
        assert_eq!(verified["verdict"], "good", "after {after} reports: {verified}");
    }
    let _lock = InstanceLock::take(&Folder::open_root(points.dir.path().join("i-1")).unwrap(), Purpose::Read).unwrap();
    assert_eq!(points.code("rebaseBackup", json!({"target": "i-1/T3/root.a b.qcow2"})).0, Code::Busy);
}
