//! Whose a restore point is: a NAS, or a QEMU that kept a descriptor, passes off one as another.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nasbackup::config::Engine;
use nasbackup::error::{Code, Result};
use nasbackup::nas::folder::Folder;
use nasbackup::nas::path::PointPath;
use nasbackup::operation::call;
use nasbackup::point::{Kind, Manifest, ManifestDisk, Parent, ParentPoint};
use nasbackup::qcow2;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::{Value, json};

const DISKS: [&str; 2] = ["root.a.qcow2", "datadisk.b.qcow2"];
const POINT: &str = "i-1/T3";

/// The machines `i-1` and `i-2`, each with the points `T1` to `T3` of two disks.
struct Repository(tempfile::TempDir);

impl Repository {
    fn make(manifests: bool) -> Repository {
        let repository = Repository(tempfile::tempdir().unwrap());
        for vm in ["i-1", "i-2"] {
            for point in 1..=3 {
                let folder = repository.at(&format!("{vm}/T{point}"));
                fs::create_dir_all(&folder).unwrap();
                for disk in DISKS {
                    let below = (point > 1).then(|| format!("../T{}/{disk}", point - 1));
                    qcow2::create(&fs::File::create_new(folder.join(disk)).unwrap(), 1 << 20, below.as_deref())
                        .unwrap();
                }
                if manifests {
                    write(&folder, &manifest(vm, point, &folder));
                }
            }
        }
        repository
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn call(&self, operation: &str, mut request: Value) -> Result<Value> {
        request["repository"] = json!({"type": "dir", "address": self.0.path()});
        call(operation, &request.to_string(), &mut |_| Ok(()))
    }

    fn flatten(&self, id: Option<&str>) -> Result<Value> {
        let out = tempfile::tempdir().unwrap();
        let output = json!({"path": out.path().join("disk"), "format": "raw"});
        self.call("flatten", json!({"backupPath": POINT, "pointId": id, "volume": "a", "output": output}))
    }

    /// All reasons why the point is bad.
    fn reasons(&self, operation: &str, id: Option<&str>) -> String {
        let told = self.call(operation, json!({"backupPath": POINT, "pointId": id})).unwrap();
        assert_eq!(told["verdict"], "bad", "{operation}: {told}");
        let bad = told["files"].as_array().unwrap().iter().filter(|file| file["verdict"] == "bad");
        bad.map(|file| file.to_string()).collect()
    }

    /// Nobody is served by the point, or builds upon it.
    fn assert_bad(&self, reason: &str) {
        for operation in ["verifyChain", "verifyData"] {
            let reasons = self.reasons(operation, None);
            assert!(reasons.contains(reason), "{operation} wants {reason}: {reasons}");
        }
        let refused = [Code::CorruptImage, Code::UnsupportedImage];
        let error = self.flatten(None).unwrap_err();
        assert!(refused.contains(&error.code), "flatten: {error}");
        let error = self.call("rebasePoint", json!({"backupPath": POINT})).unwrap_err();
        assert!(refused.contains(&error.code), "rebasePoint: {error}");
        assert!(self.parent().is_err(), "it may be a parent");
    }

    /// May something stand on its root disk?
    fn parent(&self) -> Result<(), String> {
        let root = Folder::open_root(self.0.path()).unwrap();
        let parent = Parent::find(&root, &PointPath::parse("point", POINT).unwrap(), "i-1", "backup-3")?;
        parent.chains[DISKS[0]].as_ref().map(drop).map_err(String::clone)
    }

    fn assert_good(&self) {
        let told = self.call("verifyChain", json!({"backupPath": POINT})).unwrap();
        assert_eq!(told["verdict"], "good", "{told}");
        self.flatten(None).unwrap();
    }
}

fn id(vm: &str, point: u32) -> String {
    format!("{vm}-{point}")
}

fn manifest(vm: &str, point: u32, folder: &Path) -> Manifest {
    let (incremental, below) = (point > 1, format!("{vm}/T{}", point - 1));
    let disk = |file: &&str| ManifestDisk {
        volume: file.split('.').nth(1).unwrap().into(),
        serial: None,
        file: (*file).into(),
        kind: if incremental { Kind::Incremental } else { Kind::Full },
        parent: incremental.then(|| format!("{below}/{file}")),
        size: fs::metadata(folder.join(file)).unwrap().len(),
        virtual_size: 1 << 20,
        bitmap: Some(format!("backup-{point}")),
        fingerprints: None,
        lost_fingerprints: false,
        snapshot: None,
        rebasing: None,
        goes_into: None,
    };
    Manifest {
        version: Manifest::VERSION,
        point_id: id(vm, point),
        backup_path: Some(format!("{vm}/T{point}")),
        vm_name: vm.into(),
        when: "2031-01-02T03:04:05Z".parse().unwrap(),
        kind: if incremental { Kind::Incremental } else { Kind::Full },
        bitmap: Some(format!("backup-{point}")),
        name: Some(format!("backup-{point}")),
        engine: Engine::Push,
        parent: incremental.then(|| ParentPoint { backup_path: below.clone(), point_id: id(vm, point - 1) }),
        disks: DISKS.iter().map(disk).collect(),
        left_out: Vec::new(),
        texts: None,
        mac: None,
        checksum: None,
    }
}

/// With a checksum that is right, as whoever may write on the NAS can compute it.
fn write(folder: &Path, manifest: &Manifest) {
    let _ = fs::remove_file(folder.join("manifest.json"));
    manifest.write(&fs::File::create(folder.join("manifest.json")).unwrap()).unwrap();
}

/// Writes another name into the header, as a descriptor kept from a push lets QEMU do.
fn rename_backing(image: &Path, backing: &str) {
    let arguments = ["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing];
    let folder = image.parent().unwrap();
    assert!(Command::new("qemu-img").args(arguments).arg(image).current_dir(folder).status().unwrap().success());
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Puts a copy of one point in the place of another.
fn put(repository: &Repository, from: &str, to: &str) {
    fs::remove_dir_all(repository.at(to)).unwrap();
    copy(&repository.at(from), &repository.at(to));
}

#[test]
fn what_is_as_it_was_written_is_good() {
    for manifests in [true, false] {
        let repository = Repository::make(manifests);
        repository.assert_good();
        assert_eq!(repository.parent().is_ok(), manifests);
    }
}

#[test]
fn a_header_that_names_another_machine_s_image_hands_over_none_of_it() {
    for manifests in [true, false] {
        for (image, backing) in [
            ("i-1/T3/root.a.qcow2", "../../i-2/T2/root.a.qcow2"),
            ("i-1/T1/root.a.qcow2", "../../i-2/T1/root.a.qcow2"),
            ("i-1/T3/root.a.qcow2", "../.partial-T4/root.a.qcow2"),
            ("i-1/T3/root.a.qcow2", "../root.a.qcow2"),
            ("i-1/T3/root.a.qcow2", "../../root.a.qcow2"),
            ("i-1/T3/root.a.qcow2", "../T2/deeper/root.a.qcow2"),
        ] {
            let repository = Repository::make(manifests);
            for planted in [".partial-T4", "T2/deeper", "."] {
                fs::create_dir_all(repository.at("i-1").join(planted)).unwrap();
                let image = repository.at("i-1").join(planted).join("root.a.qcow2");
                fs::copy(repository.at("i-2/T1/root.a.qcow2"), image).unwrap();
            }
            fs::copy(repository.at("i-2/T1/root.a.qcow2"), repository.at("root.a.qcow2")).unwrap();
            rename_backing(&repository.at(image), backing);
            repository.assert_bad("which is in no restore point of its machine");
        }
    }
}

#[test]
fn a_header_that_names_another_disk_or_an_older_point_of_its_machine_contradicts_the_manifest() {
    for (image, backing) in [
        ("i-1/T3/root.a.qcow2", "../T2/datadisk.b.qcow2"),
        ("i-1/T3/root.a.qcow2", "../T1/root.a.qcow2"),
        ("i-1/T2/root.a.qcow2", "../T1/datadisk.b.qcow2"),
    ] {
        let repository = Repository::make(true);
        rename_backing(&repository.at(image), backing);
        repository.assert_bad("now it stands on");
    }
}

#[test]
fn a_point_in_the_place_of_another_is_bad() {
    for (from, to, reason) in [
        ("i-1/T2", "i-1/T3", "is that of the point 'i-1/T2'"),
        ("i-2/T3", "i-1/T3", "is of virtual machine 'i-2'"),
        ("i-2/T1", "i-1/T1", "is of virtual machine 'i-2'"),
        // as long as what stands on it
        ("i-1/T1", "i-1/T2", "is that of the point 'i-1/T1'"),
    ] {
        let repository = Repository::make(true);
        put(&repository, from, to);
        repository.assert_bad(reason);
    }
}

#[test]
fn a_parent_of_the_same_name_that_is_another_point_is_bad() {
    for (point, reason) in [(1, "'i-1/T1' is another point"), (2, "'i-1/T2' is another point")] {
        let repository = Repository::make(true);
        let folder = repository.at(&format!("i-1/T{point}"));
        write(&folder, &Manifest { point_id: "new".into(), ..manifest("i-1", point, &folder) });
        repository.assert_bad(reason);
    }
}

#[test]
fn a_manifest_that_was_edited_without_its_checksum_is_bad() {
    for point in ["T1", "T3"] {
        let repository = Repository::make(true);
        let path = repository.at("i-1").join(point).join("manifest.json");
        let edited = fs::read_to_string(&path).unwrap().replace("2031-01-02", "2031-01-03");
        fs::write(&path, edited).unwrap();
        repository.assert_bad("is not what was written");
    }
}

#[test]
fn who_remembers_a_point_s_id_is_served_by_no_other() {
    let repository = Repository::make(true);
    let own = id("i-1", 3);
    repository.flatten(Some(&own)).unwrap();
    let told = repository.call("verifyChain", json!({"backupPath": POINT, "pointId": own})).unwrap();
    assert_eq!(told["verdict"], "good", "{told}");
    let refused = |repository: &Repository| {
        for operation in ["verifyChain", "verifyData"] {
            let reasons = repository.reasons(operation, Some(&own));
            assert!(reasons.contains("is not that of the point with the id"), "{reasons}");
        }
        assert_eq!(repository.flatten(Some(&own)).unwrap_err().code, Code::CorruptImage);
    };
    // an older point whose manifest was written for the newer name
    put(&repository, "i-1/T2", "i-1/T3");
    let mut older = manifest("i-1", 2, &repository.at("i-1/T3"));
    older.backup_path = Some(POINT.into());
    write(&repository.at("i-1/T3"), &older);
    repository.assert_good();
    refused(&repository);
    // a point that does not tell
    fs::remove_file(repository.at("i-1/T3/manifest.json")).unwrap();
    repository.assert_good();
    refused(&repository);
    for operation in ["verifyChain", "verifyData", "flatten"] {
        let request = json!({"backupPath": POINT, "pointId": "", "volume": "a"});
        assert_eq!(repository.call(operation, request).unwrap_err().code, Code::InvalidArgument);
    }
}

#[test]
fn a_point_of_an_older_version_is_served_and_told_of() {
    let repository = Repository::make(true);
    for point in 1..=3 {
        let folder = repository.at(&format!("i-1/T{point}"));
        let mut older = manifest("i-1", point, &folder);
        older.backup_path = None;
        older.disks.iter_mut().for_each(|disk| disk.parent = None);
        write(&folder, &older);
    }
    repository.assert_good();
    repository.parent().unwrap();
    let told = repository.call("verifyChain", json!({"backupPath": POINT})).unwrap();
    assert!(told.to_string().contains("is of an older version"), "{told}");
    // another machine's is told by the name in it
    put(&repository, "i-2/T3", "i-1/T3");
    repository.assert_bad("is of virtual machine 'i-2'");
}

/// Calls `run` again and again while the root disk's image and one that stands on the other disk's, which no check lets through,
/// change places all the time.
fn while_exchanged(repository: &Repository, run: impl FnMut()) {
    let (image, other) = (repository.at("i-1/T3/root.a.qcow2"), repository.at("i-1/other"));
    fs::copy(&image, &other).unwrap();
    rename_backing(&image, "../T2/datadisk.b.qcow2");
    let done = AtomicBool::new(false);
    let exchange = || {
        while !done.load(Relaxed) {
            renameat_with(CWD, &image, CWD, &other, RenameFlags::EXCHANGE).unwrap();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(exchange);
        // whatever becomes of it, the other thread ends
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        done.store(true, Relaxed);
        ran.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

#[test]
fn however_names_are_exchanged_no_other_image_than_the_one_that_was_judged_is_read() {
    let repository = Repository::make(true);
    let folder = repository.at("i-1/T2");
    let arguments = ["-f", "qcow2", "-c", "write -q -P 0x42 0 64k", DISKS[1]];
    assert!(Command::new("qemu-io").args(arguments).current_dir(&folder).status().unwrap().success());
    write(&folder, &manifest("i-1", 2, &folder));
    let (out, mut served) = (tempfile::tempdir().unwrap(), 0);
    let output = out.path().join("disk");
    while_exchanged(&repository, || {
        for _ in 0..100 {
            let request = json!({"backupPath": POINT, "volume": "a", "output": {"path": output, "format": "raw"}});
            if repository.call("flatten", request).is_ok() {
                served += 1;
                assert!(fs::read(&output).unwrap().iter().all(|byte| *byte == 0), "it is the other disk's");
            }
        }
    });
    assert!(served > 0);
}

#[test]
fn however_names_are_exchanged_no_other_image_than_the_one_that_was_judged_is_rebased_or_recorded() {
    for _ in 0..8 {
        let repository = Repository::make(true);
        let rebase = || repository.call("rebasePoint", json!({"backupPath": POINT})).is_ok();
        while_exchanged(&repository, || {
            // it is refused as often as it opens the other one, in every second call or so
            assert!((0..10_000).any(|_| rebase()), "none has succeeded");
            for _ in 0..5 {
                rebase();
            }
        });
        let images = ["i-1/T3/root.a.qcow2", "i-1/other"].map(|image| repository.at(image));
        let backing = images.clone().map(|image| {
            let backing = qcow2::backing(&File::open(image).unwrap()).unwrap();
            backing.map(|backing| backing.file)
        });
        let other = Some("../T2/datadisk.b.qcow2".to_owned());
        assert!(backing.contains(&None) && backing.contains(&other), "what was written to: {backing:?}");
        if backing[0] == other {
            renameat_with(CWD, &images[0], CWD, &images[1], RenameFlags::EXCHANGE).unwrap();
        }
        repository.assert_good();
    }
}

#[test]
fn a_rebase_does_not_make_right_what_was_wrong() {
    let repository = Repository::make(true);
    rename_backing(&repository.at("i-1/T3/root.a.qcow2"), "../T2/datadisk.b.qcow2");
    for newer in [Value::Null, json!("i-1/T1")] {
        let error = repository.call("rebasePoint", json!({"backupPath": POINT, "newParent": newer})).unwrap_err();
        assert_eq!(error.code, Code::CorruptImage, "{error}");
    }
    rename_backing(&repository.at("i-1/T3/root.a.qcow2"), "../T2/root.a.qcow2");
    repository.assert_good();
    repository.call("rebasePoint", json!({"backupPath": POINT, "newParent": "i-1/T1"})).unwrap();
    repository.assert_good();
    let manifest = Manifest::read(&Folder::open_root(repository.at(POINT)).unwrap()).unwrap().unwrap();
    assert_eq!(manifest.point_id, id("i-1", 3), "whoever remembers it finds it");
    let parents: Vec<_> = manifest.disks.iter().filter_map(|disk| disk.parent.as_deref()).collect();
    assert_eq!(parents, ["i-1/T1/root.a.qcow2", "i-1/T1/datadisk.b.qcow2"]);
}
