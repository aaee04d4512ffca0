//! `verifyChain`, as callers see it.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};

use nasbackup::error::Code;
use nasbackup::nas::folder::Folder;
use nasbackup::nas::lock::InstanceLock;
use nasbackup::nas::path::{PointPath, RepoPath};
use nasbackup::nas::purpose::Purpose;
use nasbackup::operation::{call, cancel};
use nasbackup::point::{Kind, Manifest, Parent, open_chain};
use nasbackup::qcow2;
use serde_json::{Value, json};

use crate::chains::qemu_img;
use crate::operations::{DISKS, Points};

fn verify(points: &Points) -> Value {
    points.call("verifyChain", json!({"backupPath": "i-1/T3"})).unwrap()
}

/// The files that are not good, and those that are and have a reason all the same.
fn told(result: &Value) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let files = result["files"].as_array().unwrap().iter();
    let told = files.filter(|file| file["verdict"] != "good" || file["reasons"] != json!([]));
    let reasons = |file: &Value| file["reasons"].as_array().unwrap().iter().map(text).collect::<Vec<_>>().join("; ");
    told.map(|file| (text(&file["file"]), text(&file["verdict"]), reasons(file))).collect()
}

#[test]
fn a_sound_point_is_good_with_or_without_manifests() {
    for manifests in [true, false] {
        let points = Points::make(3, manifests);
        let result = verify(&points);
        assert_eq!((&result["verdict"], told(&result)), (&json!("good"), vec![]));
        let mut files = vec![
            "i-1/T3/root.a b.qcow2",
            "i-1/T2/root.a b.qcow2",
            "i-1/T1/root.a b.qcow2",
            "i-1/T3/datadisk.y.qcow2",
            "i-1/T2/datadisk.y.qcow2",
            "i-1/T3/manifest.json",
        ];
        files.truncate(if manifests { 6 } else { 5 });
        let listed: Vec<_> = result["files"].as_array().unwrap().iter().map(|f| f["file"].as_str().unwrap()).collect();
        if !manifests {
            files.sort_unstable();
        }
        let mut sorted = listed.clone();
        sorted.sort_unstable();
        assert_eq!(if manifests { listed } else { sorted }, files);
    }
}

#[test]
fn each_damage_is_told_of_the_file_that_has_it() {
    type Damage = fn(&Points);
    let write = |points: &Points, file: &str, bytes: &[u8], at: u64| {
        OpenOptions::new().write(true).open(points.dir.path().join(file)).unwrap().write_all_at(bytes, at).unwrap();
    };
    let rebase = |points: &Points, backing: &str, format: &str| {
        let folder = points.dir.path().join("i-1/T2");
        qemu_img(&folder, &["rebase", "-u", "-f", "qcow2", "-b", backing, "-F", format, DISKS[0]]);
    };
    const T2: &str = "i-1/T2/root.a b.qcow2";
    const T1: &str = "i-1/T1/root.a b.qcow2";
    let table: [(Damage, &str, &str, &str); 8] = [
        (|p| fs::remove_file(p.dir.path().join(T1)).unwrap(), T1, "bad", "is not there"),
        (|p| fs::remove_dir_all(p.dir.path().join("i-1/T1")).unwrap(), T1, "bad", "is not there"),
        (|p| fs::write(p.dir.path().join(T1), "no image").unwrap(), T1, "bad", "not a qcow2 image"),
        (|p| fs::create_dir(p.dir.path().join("i-1/T3/x.qcow2")).unwrap(), "", "good", ""),
        (
            |p| {
                fs::remove_file(p.dir.path().join(T1)).unwrap();
                symlink("/etc/passwd", p.dir.path().join(T1)).unwrap();
            },
            T1,
            "bad",
            "is not a regular file",
        ),
        (
            |p| {
                fs::remove_file(p.dir.path().join(T1)).unwrap();
                fs::hard_link(p.dir.path().join(T2), p.dir.path().join(T1)).unwrap();
            },
            T1,
            "bad",
            "the chain comes back to it",
        ),
        (
            |p| fs::remove_file(p.dir.path().join("i-1/T3").join(DISKS[1])).unwrap(),
            "i-1/T3/datadisk.y.qcow2",
            "bad",
            "is not there",
        ),
        (|p| fs::write(p.dir.path().join("i-1/T3/manifest.json"), "{").unwrap(), "i-1/T3/manifest.json", "bad", "EOF"),
    ];
    for (damage, file, verdict, reason) in table {
        let points = Points::make(3, true);
        damage(&points);
        let result = verify(&points);
        assert_eq!(result["verdict"], verdict, "{result}");
        assert!(
            file.is_empty() && told(&result).is_empty()
                || told(&result).iter().any(|(f, v, r)| f == file && v == verdict && r.contains(reason)),
            "{file} {reason}: {result}"
        );
    }
    for (backing, format, reason) in [
        ("/etc/passwd", "qcow2", "is absolute"),
        ("../../../x.qcow2", "qcow2", "leads out of the repository"),
        ("json:{\"driver\":\"qcow2\"}", "qcow2", "is not a file name"),
        ("nbd:unix:/x", "qcow2", "is not a file name"),
        ("../T1/root.a b.qcow2", "raw", "format 'raw'"),
    ] {
        let points = Points::make(3, false);
        rebase(&points, backing, format);
        let result = verify(&points);
        assert_eq!(result["verdict"], "bad");
        assert!(matches!(&told(&result)[..], [(f, _, r)] if f == T2 && r.contains(reason)), "{backing}: {result}");
    }
    // a feature that nobody knows: nothing can be said; a count of 2 for the header: a leak; of 0: damage
    for (bytes, at, verdict, reason) in [
        (&[0x80_u8][..], 72, "aborted", "unknown incompatible features"),
        (&[0x02], 79, "bad", "marked corrupt"),
        (&[0x00, 0x02], 2 << 16, "good", "1 clusters are in no use"),
        (&[0x00, 0x00], 2 << 16, "bad", "1 references and a count of 0"),
    ] {
        let points = Points::make(3, true);
        write(&points, T2, bytes, at);
        let result = verify(&points);
        assert_eq!(result["verdict"], verdict, "{result}");
        let told = told(&result);
        assert!(matches!(&told[..], [(f, v, r)] if f == T2 && v == verdict && r.contains(reason)), "{told:?}");
    }
}

#[test]
fn each_disagreement_with_a_manifest_is_told() {
    type Change = fn(&mut Manifest);
    let table: [(&str, Change, &str, &str); 9] = [
        ("T3", |m| m.disks[0].size += 1, "i-1/T3/root.a b.qcow2", "its manifest says"),
        ("T2", |m| m.disks[0].virtual_size += 512, "i-1/T2/root.a b.qcow2", "is of a disk of 8388608 bytes"),
        ("T1", |m| m.disks[0].kind = Kind::Incremental, "i-1/T1/root.a b.qcow2", "has no backing file"),
        ("T3", |m| m.disks[1].file = "gone.qcow2".into(), "i-1/T3/gone.qcow2", "is not there"),
        ("T3", |m| m.disks.truncate(1), "i-1/T3/datadisk.y.qcow2", "its point's manifest does not name it"),
        (
            "T3",
            |m| m.disks[1].file = "../T2/datadisk.y.qcow2".into(),
            "i-1/T3/manifest.json",
            "more than one component",
        ),
        ("T3", |m| m.bitmap = Some("backup-3".into()), "i-1/T3/manifest.json", "its bitmap is [backup-3]"),
        (
            "T3",
            |m| m.parent.as_mut().unwrap().point_id = "x".into(),
            "i-1/T3/manifest.json",
            "another point of that name",
        ),
        ("T3", |m| m.parent = None, "i-1/T3/manifest.json", "names no parent"),
    ];
    for (point, change, file, reason) in table {
        let points = Points::make(3, true);
        let mut manifest = points.manifest(point);
        change(&mut manifest);
        manifest.replace(&Folder::open_root(points.dir.path().join("i-1").join(point)).unwrap()).unwrap();
        let result = verify(&points);
        assert_eq!(result["verdict"], "bad", "{reason}");
        assert!(told(&result).iter().any(|(f, v, r)| f == file && v == "bad" && r.contains(reason)), "{result}");
    }
}

/// An instance `i-1` whose points are `images` tiny images, each on the one before; the newest is in `T3`.
fn deep_chain(images: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let folder = |image: usize| if image == images { "T3" } else { "T1" };
    for image in 1..=images {
        let at = dir.path().join("i-1").join(folder(image));
        fs::create_dir_all(&at).unwrap();
        let below = format!("../T1/{}.qcow2", image - 1);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(at.join(format!("{image}.qcow2")));
        qcow2::create(&file.unwrap(), 65536, (image > 1).then_some(below.as_str())).unwrap();
    }
    dir
}

#[test]
fn a_chain_that_is_too_deep_to_be_read_is_bad_and_no_parent() {
    for (images, verdict, may_be_parent) in [(511, "good", true), (512, "good", false), (513, "bad", false)] {
        let dir = deep_chain(images);
        let request = json!({"repository": {"type": "dir", "address": dir.path()}, "backupPath": "i-1/T3"});
        let result = call("verifyChain", &request.to_string(), &mut |_| Ok(())).unwrap();
        assert_eq!(result["verdict"], verdict, "{:?}", told(&result));
        let told = told(&result);
        assert!(
            verdict == "good" || matches!(&told[..], [(_, _, reason)] if reason.contains("more than 512")),
            "{told:?}"
        );
        let root = Folder::open_root(dir.path()).unwrap();
        let newest = RepoPath::parse("image", &format!("i-1/T3/{images}.qcow2")).unwrap();
        assert_eq!(open_chain(&root, &newest).is_ok(), verdict == "good");
        let mut manifest = Points::make(1, true).manifest("T1");
        let file = fs::metadata(dir.path().join(newest.as_str())).unwrap();
        manifest.backup_path = Some("i-1/T3".into());
        manifest.bitmap = Some("backup-1".into());
        manifest.disks[0].file = newest.name().into();
        (manifest.disks[0].size, manifest.disks[0].virtual_size) = (file.len(), 65536);
        let point = PointPath::parse("point", "i-1/T3").unwrap();
        manifest.replace(&root.open_dir(&point.folder()).unwrap()).unwrap();
        let parent = Parent::find(&root, &point, "i-1", "backup-1").unwrap();
        let chain = &parent.chains[newest.name()];
        assert_eq!(chain.is_ok(), may_be_parent, "{images}: {:?}", chain.as_ref().err());
    }
}

#[test]
fn a_request_that_makes_no_sense_a_cancel_and_a_lock_are_errors() {
    let points = Points::make(3, true);
    for (request, code) in [
        (json!({}), Code::InvalidArgument),
        (json!({"backupPath": "i-1"}), Code::InvalidArgument),
        (json!({"backupPath": "i-1/.partial-T3"}), Code::InvalidArgument),
        (json!({"backupPath": "i-1/T9"}), Code::NotFound),
        (json!({"backupPath": "i-9/T1"}), Code::NotFound),
    ] {
        assert_eq!(points.code("verifyChain", request.clone()).0, code, "{request}");
    }
    fs::create_dir(points.dir.path().join("i-1/T9")).unwrap();
    assert_eq!(points.code("verifyChain", json!({"backupPath": "i-1/T9"})).0, Code::NotFound);
    let repository = json!({"type": "dir", "address": points.dir.path()});
    let request = json!({"job": "verify-to-cancel", "repository": repository, "backupPath": "i-1/T3"});
    for after in 1..8 {
        let mut told = 0;
        let error = call("verifyChain", &request.to_string(), &mut |status| {
            assert_eq!(status.operation, "verifyChain");
            assert!(status.done_bytes <= status.total_bytes);
            told += 1;
            assert!(told != after || cancel("verify-to-cancel").found);
            Ok(())
        });
        assert_eq!(error.unwrap_err().code, Code::Cancelled, "after {after} reports");
    }
    let _lock =
        InstanceLock::take(&Folder::open_root(points.dir.path().join("i-1")).unwrap(), Purpose::Change).unwrap();
    assert_eq!(points.code("verifyChain", json!({"backupPath": "i-1/T3"})).0, Code::Busy);
}
