//! What a key shows: the NAS forges manifests, whose hashes it can compute, and no MAC. Part of `tests/settings.rs`, for the keys
//! are the process's own.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nasbackup::config::{self, Config};
use nasbackup::digest::Digest;
use nasbackup::error::{Code, Result};
use nasbackup::nas::folder::Folder;
use nasbackup::nas::path::PointPath;
use nasbackup::operation::{call, take_backup::TakeBackupRequest};
use nasbackup::point::{MANIFEST, Manifest, NVRAM, Parent, Rebasing, TPM};
use serde_json::{Value, json};

use crate::alone;
use crate::support::{Disk, Guest, MIB, Nas, Point, Story};

const ONE: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const TWO: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";

/// The configuration as it was, which comes back.
struct Before(Config);

impl Before {
    fn keep() -> Before {
        crate::support::init();
        Before(Config::clone(&config::current()))
    }

    /// Puts a file with these keys into force, or none.
    fn keys(&self, lines: &[&str]) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        fs::write(&path, lines.join("\n")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let key_file = (!lines.is_empty()).then_some(path);
        config::set(Config { key_file, ..self.0.clone() }.check().unwrap());
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        config::set(self.0.clone());
    }
}

/// A full and two incrementals.
fn story() -> Story {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    for (round, mode) in ["full", "incremental", "incremental"].into_iter().enumerate() {
        story.guest.write(0, 0x41 + round as u8, round as u64 * MIB, MIB);
        take(&mut story, mode);
    }
    story
}

/// By pull, for what QEMU writes has no fingerprints.
fn take<'a>(story: &'a mut Story, mode: &str) -> &'a Point {
    let request = TakeBackupRequest { engine: Some("pull".into()), ..story.request(mode) };
    story.accept(request)
}

fn ask(story: &Story, operation: &str, mut request: Value) -> Result<Value> {
    request["repository"] = json!({"type": "dir", "address": story.nas.root()});
    call(operation, &request.to_string(), &mut |_| Ok(()))
}

fn verdict(story: &Story, operation: &str, point: &Point) -> String {
    let request = json!({"backupPath": point.path, "pointId": point.taken.point_id});
    ask(story, operation, request).unwrap()["verdict"].as_str().unwrap().to_owned()
}

fn flatten(story: &Story, point: &Point) -> Result<Value> {
    let out = tempfile::tempdir().unwrap();
    let output = json!({"path": out.path().join("disk"), "format": "qcow2"});
    ask(story, "flatten", json!({"backupPath": point.path, "volume": story.guest.disks[0].volume(), "output": output}))
}

fn assert_good(story: &Story, point: &Point) {
    for operation in ["verifyChain", "verifyData"] {
        assert_eq!(verdict(story, operation, point), "good", "{operation} of {}", point.path);
    }
    flatten(story, point).unwrap();
}

/// Is one of its disks compared with nothing, for having lost its fingerprints?
fn is_doubted(story: &Story, point: &Point) -> bool {
    let root = Folder::open_root(story.nas.root()).unwrap();
    let (path, manifest) = (PointPath::parse("point", &point.path).unwrap(), manifest(story, point));
    let parent = Parent::find(&root, &path, path.instance(), manifest.name.as_ref().unwrap()).unwrap();
    manifest.disks.iter().any(|disk| {
        let disk = parent.disk(disk.serial.as_deref(), &disk.volume).unwrap();
        disk.comparable().is_err_and(|why| why.contains("has lost its fingerprints"))
    })
}

fn assert_bad(story: &Story, point: &Point, what: &str) {
    for operation in ["verifyChain", "verifyData"] {
        assert_eq!(verdict(story, operation, point), "bad", "{operation}: {what}");
    }
    assert_eq!(flatten(story, point).unwrap_err().code, Code::CorruptImage, "{what}");
    let rebased = ask(story, "rebasePoint", json!({"backupPath": point.path}));
    assert_eq!(rebased.unwrap_err().code, Code::CorruptImage, "{what}");
}

fn manifest(story: &Story, point: &Point) -> Manifest {
    Manifest::read(&Folder::open_root(story.nas.at(&point.path)).unwrap()).unwrap().unwrap()
}

/// Writes another manifest with a checksum that is right, as the NAS can.
fn forge(story: &Story, point: &Point, change: impl FnOnce(&mut Manifest)) {
    let mut manifest = Manifest { checksum: None, ..manifest(story, point) };
    change(&mut manifest);
    let text = |manifest: &Manifest| serde_json::to_string_pretty(manifest).unwrap() + "\n";
    manifest.checksum = Some(Digest::of(text(&manifest).as_bytes()));
    fs::write(story.nas.at(&format!("{}/manifest.json", point.path)), text(&manifest)).unwrap();
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_point_that_no_key_vouches_for_is_served_by_nobody_and_no_parent() {
    let _alone = alone();
    let before = Before::keep();
    before.keys(&[ONE]);
    let mut story = story();
    let newest = &story.points[2];
    assert_good(&story, newest);
    assert!(story.points.iter().all(|point| point.taken.mac.is_some()));
    assert_eq!(newest.taken.mac, manifest(&story, newest).mac);
    let (id, older) = (newest.taken.point_id.clone(), story.points[1].path.clone());
    let path = newest.path.clone();
    type Attack<'a> = (&'a str, usize, Box<dyn Fn(&mut Manifest) + 'a>);
    let attacks: [Attack<'_>; 6] = [
        ("another time", 2, Box::new(|m| m.when = "2031-01-02T03:04:05Z".parse().unwrap())),
        ("no MAC", 2, Box::new(|m| m.mac = None)),
        ("a MAC of another key", 2, Box::new(|m| m.mac = Some(Digest::of(b"mac")))),
        (
            "its fingerprints exchanged",
            2,
            Box::new(|m| m.disks[0].fingerprints.as_mut().unwrap().hash = Digest::of(b"")),
        ),
        ("no MAC in the middle", 1, Box::new(|m| m.mac = None)),
        ("no folder of its own below", 0, Box::new(|m| m.backup_path = None)),
    ];
    for (what, point, change) in attacks {
        let at = story.nas.at(&format!("{}/manifest.json", story.points[point].path));
        let sound = fs::read(&at).unwrap();
        forge(&story, &story.points[point], change);
        assert_bad(&story, newest, what);
        before.keys(&[]);
        // without a key nobody sees it, but for whoever compares what is recorded with the data
        assert_eq!(verdict(&story, "verifyChain", newest), "good", "{what}");
        before.keys(&[ONE]);
        fs::write(&at, sound).unwrap();
    }
    // fingerprints that a rebase could not keep: without a key the image would be read, and what it holds taken for right
    let at = story.nas.at(&format!("{path}/manifest.json"));
    let sound = fs::read(&at).unwrap();
    assert!(!is_doubted(&story, newest));
    for (has_lost, keys, doubted) in
        [(true, &[ONE][..], true), (true, &[], false), (false, &[], false), (false, &[ONE], false)]
    {
        before.keys(&[ONE]);
        let mut changed = manifest(&story, newest);
        for disk in &mut changed.disks {
            (disk.fingerprints, disk.lost_fingerprints) = (None, has_lost);
        }
        changed.replace(&Folder::open_root(story.nas.at(&path)).unwrap()).unwrap();
        before.keys(keys);
        assert_eq!(is_doubted(&story, newest), doubted, "{has_lost} {keys:?}");
    }
    fs::write(&at, &sound).unwrap();
    fs::remove_file(&at).unwrap();
    assert_bad(&story, newest, "no manifest");
    fs::write(&at, &sound).unwrap();
    // an older point under the newer name, with the newer one's id
    let aside = tempfile::tempdir().unwrap();
    copy(&story.nas.at(&path), aside.path());
    copy(&story.nas.at(&older), &story.nas.at(&path));
    assert_bad(&story, newest, "an older point");
    forge(&story, newest, |m| (m.backup_path, m.point_id) = (Some(path.clone()), id.clone()));
    assert_bad(&story, newest, "an older point with a forged manifest");
    copy(aside.path(), &story.nas.at(&path));
    assert_good(&story, newest);
    // nothing is built upon what is forged
    forge(&story, &story.points[1], |m| m.mac = None);
    let taken = take(&mut story, "incremental");
    taken.assert_fallback();
    assert!(taken.taken.details.contains("no key of keyFile vouches"), "{}", taken.taken.details);
    assert_good(&story, story.last());
}

#[test]
fn keys_are_changed_and_older_points_signed_without_a_look_at_data() {
    let _alone = alone();
    let before = Before::keep();
    before.keys(&[]);
    let sign = |story: &Story, trust: bool| {
        let told = ask(story, "signPoints", json!({"trustUnsigned": trust})).unwrap();
        ["signed", "kept", "refused", "busy"].map(|field| told[field].as_u64().unwrap())
    };
    let mut story = story();
    assert_eq!(ask(&story, "signPoints", json!({})).unwrap_err().code, Code::InvalidArgument, "there is no key");
    fs::create_dir_all(story.nas.at("others/folder")).unwrap();
    let images = |story: &Story| {
        let files = story.points.iter().flat_map(Point::files).map(|file| fs::metadata(story.nas.at(&file)).unwrap());
        files.map(|file| (file.ino(), file.mtime(), file.mtime_nsec())).collect::<Vec<_>>()
    };
    let as_made = images(&story);
    // CloudStack's own script makes such
    let without_manifest = format!("{}/2020.01.01.00.00.00", story.points[0].path.split('/').next().unwrap());
    fs::create_dir(story.nas.at(&without_manifest)).unwrap();
    before.keys(&[ONE]);
    assert_bad(&story, &story.points[2], "made without a key");
    assert_eq!(sign(&story, false), [0, 0, 3, 0]);
    let into = story.points[2].files()[0].clone();
    forge(&story, &story.points[1], |m| m.disks[0].goes_into = Some(into));
    assert_eq!(sign(&story, true), [0, 0, 1, 0], "what was cut off has to be ended without a key");
    forge(&story, &story.points[1], |m| m.disks[0].goes_into = None);
    forge(&story, &story.points[0], |m| m.mac = Some(Digest::of(b"mac")));
    assert_eq!(sign(&story, true), [2, 0, 1, 0], "a wrong MAC is none that is missing");
    assert_bad(&story, &story.points[2], "what it stands on was refused");
    forge(&story, &story.points[0], |m| m.mac = None);
    assert_eq!(sign(&story, true), [1, 2, 0, 0]);
    assert_good(&story, &story.points[2]);
    // the new key first, the old one still believed
    before.keys(&[TWO, ONE]);
    assert_good(&story, &story.points[2]);
    take(&mut story, "incremental").assert_incremental();
    before.keys(&[TWO]);
    assert_bad(&story, &story.points[2], "signed by a key that is gone");
    assert_eq!(sign(&story, true), [0, 1, 3, 0]);
    before.keys(&[TWO, ONE]);
    let instance = story.points[0].path.split('/').next().unwrap().to_owned();
    let told = ask(&story, "signPoints", json!({"instance": instance})).unwrap();
    assert_eq!(told, json!({"signed": 3, "kept": 1, "refused": 0, "busy": 0}));
    before.keys(&[TWO]);
    story.points.iter().for_each(|point| assert_good(&story, point));
    assert_eq!(images(&story)[..as_made.len()], as_made);
    assert_eq!(fs::read_dir(story.nas.at("others")).unwrap().count(), 1, "nothing is made in folders of others");
    let _lock = nasbackup::nas::lock::InstanceLock::take(
        &Folder::open_root(story.nas.at(&instance)).unwrap(),
        nasbackup::nas::purpose::Purpose::Read,
    );
    assert_eq!(sign(&story, false), [0, 0, 0, 1]);
}

#[test]
fn a_signed_point_has_what_its_machine_remembered_and_a_key_vouches_for_it() {
    let _alone = alone();
    let before = Before::keep();
    before.keys(&[]);
    let mut guest = Guest::stopped([Disk::root()]);
    guest.os = " firmware='efi'";
    guest.devices = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>".to_owned();
    guest.start();
    guest.suspend();
    let mut story = Story::new(guest, Nas::folder());
    take(&mut story, "full");
    let point = &story.points[0];
    let files = [NVRAM, TPM].map(|name| story.nas.at(&format!("{}/{name}", point.path)));
    let held = || files.each_ref().map(|file| Digest::of(&fs::read(file).unwrap()));
    let as_made = held();
    before.keys(&[ONE]);
    let told = ask(&story, "signPoints", json!({"trustUnsigned": true})).unwrap();
    assert_eq!((&told["signed"], held()), (&json!(1), as_made));
    assert_good(&story, point);
    let restore = || -> Result<[Digest; 2]> {
        let out = tempfile::tempdir().unwrap();
        let disk = json!({"path": out.path().join("disk"), "format": "raw"});
        let request = json!({
            "backupPath": point.path,
            "volumes": [{"volume": story.guest.disks[0].volume(), "output": disk}],
            "nvramPath": out.path().join("vars"),
            "tpmPath": out.path().join("tpm"),
        });
        ask(&story, "restorePoint", request)?;
        Ok(["vars", "tpm"].map(|name| Digest::of(&fs::read(out.path().join(name)).unwrap())))
    };
    assert_eq!(restore(), Ok(as_made));
    let manifest_at = story.nas.at(&format!("{}/{MANIFEST}", point.path));
    let signed = fs::read(&manifest_at).unwrap();
    for (file, name) in files.iter().zip([NVRAM, TPM]) {
        let whole = fs::read(file).unwrap();
        let mut changed = whole.clone();
        *changed.last_mut().unwrap() ^= 1;
        fs::write(file, &changed).unwrap();
        assert_eq!(verdict(&story, "verifyData", point), "bad", "{name}");
        assert_eq!(restore().unwrap_err().code, Code::CorruptImage, "{name}");
        // whoever changes it can write its hash, too, and no MAC
        forge(&story, point, |m| _ = m.texts.as_mut().unwrap().insert(name.to_owned(), Digest::of(&changed)));
        assert_bad(&story, point, name);
        assert_eq!(restore().unwrap_err().code, Code::CorruptImage, "{name}");
        before.keys(&[]);
        assert_eq!(verdict(&story, "verifyData", point), "good", "{name}: without a key nobody sees it");
        before.keys(&[ONE]);
        fs::write(file, whole).unwrap();
        fs::write(&manifest_at, &signed).unwrap();
    }
    assert_good(&story, point);
    assert_eq!(restore(), Ok(as_made));
}

/// The files of a point but its images.
fn small_files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let small = paths.filter(|path| path.extension().is_none_or(|end| end != "qcow2"));
    small.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn a_rebase_that_was_cut_off_vouches_for_what_it_was_and_is_to_be_and_the_next_call_finishes_it() {
    let _alone = alone();
    let before = Before::keep();
    before.keys(&[ONE]);
    let mut story = story();
    let (first, middle, newest) = (&story.points[0], &story.points[1], &story.points[2]);
    let folder = story.nas.at(&newest.path);
    let rebase = json!({"backupPath": newest.path, "newParent": first.path});
    // what is there from before the first write to the image on
    let mut cut_off = manifest(&story, newest);
    for (disk, onto) in cut_off.disks.iter_mut().zip(first.files()) {
        disk.rebasing =
            Some(Rebasing { onto: Some(onto), point_id: Some(first.taken.point_id.clone()), had_fingerprints: true });
    }
    cut_off.replace(&Folder::open_root(&folder).unwrap()).unwrap();
    let cut = small_files(&folder);
    let image = story.nas.at(&newest.files()[0]);
    let (as_it_was, unfinished) = (fs::read(&image).unwrap(), |story: &Story, what: &str| {
        let newest = &story.points[2];
        for operation in ["verifyChain", "verifyData"] {
            assert_eq!(verdict(story, operation, newest), "aborted", "{operation}: {what}");
        }
        let error = flatten(story, newest).unwrap_err();
        assert!(error.code == Code::CorruptImage && error.cause.contains("was cut off"), "{what}: {error}");
    });
    unfinished(&story, "before the first write");
    ask(&story, "rebasePoint", rebase.clone()).unwrap();
    assert_good(&story, newest);
    let finished = small_files(&folder);
    // after the last write, with the new index beside the old one
    cut.iter().for_each(|(path, content)| fs::write(path, content).unwrap());
    unfinished(&story, "after the last write");
    for request in [rebase.clone(), json!({"backupPath": newest.path, "newParent": middle.path})] {
        let rebased = ask(&story, "rebasePoint", request);
        // whatever else it was asked, what was cut off is finished; on what it does not stand any more it can't be put
        assert!(rebased.is_ok() || rebased.unwrap_err().code == Code::ParentInvalid);
    }
    assert_good(&story, newest);
    assert_eq!(small_files(&folder).len(), finished.len(), "one index is left");
    // the same once the middle is gone: what has made it is not known any more, and nothing is made good
    let (image_finished, kept) = (fs::read(&image).unwrap(), small_files(&folder));
    ask(&story, "deleteBackup", json!({"backupPath": middle.path})).unwrap();
    cut.iter().for_each(|(path, content)| fs::write(path, content).unwrap());
    unfinished(&story, "put back later");
    // as it was before, with what it stood on then put in the place of its parent's image: it is another point by its manifest
    fs::create_dir(story.nas.at(&middle.path)).unwrap();
    fs::copy(story.nas.at(&first.files()[0]), story.nas.at(&middle.files()[0])).unwrap();
    fs::write(&image, as_it_was).unwrap();
    assert_bad(&story, newest, "on an image that nothing vouches for");
    fs::remove_dir_all(story.nas.at(&middle.path)).unwrap();
    // on nothing at all
    fs::copy(story.nas.at(&first.files()[0]), &image).unwrap();
    assert_bad(&story, newest, "on nothing");
    fs::write(&image, image_finished).unwrap();
    cut.iter().for_each(|(path, _)| fs::remove_file(path).unwrap());
    kept.iter().for_each(|(path, content)| fs::write(path, content).unwrap());
    assert_good(&story, newest);
    // nothing is built upon what is unfinished
    cut.iter().for_each(|(path, content)| fs::write(path, content).unwrap());
    let taken = take(&mut story, "incremental");
    taken.assert_fallback();
    assert!(taken.taken.details.contains("was cut off"), "{}", taken.taken.details);
}

/// CloudStack's own script has made all of it.
#[test]
fn a_chain_without_any_manifest_is_rebased_and_deleted_and_nothing_is_signed() {
    let _alone = alone();
    let before = Before::keep();
    before.keys(&[ONE]);
    let story = story();
    let manifests: Vec<_> =
        story.points.iter().map(|point| story.nas.at(&format!("{}/manifest.json", point.path))).collect();
    let contents: Vec<_> = manifests.iter().map(|path| fs::read(path).unwrap()).collect();
    let rebase = json!({"backupPath": story.points[2].path, "newParent": story.points[0].path});
    // as soon as one of them has one, nobody believes that the others never had any
    for kept in 0..3 {
        for (n, path) in manifests.iter().enumerate() {
            if n == kept { fs::write(path, &contents[n]).unwrap() } else { fs::remove_file(path).unwrap_or(()) }
        }
        assert_eq!(ask(&story, "rebasePoint", rebase.clone()).unwrap_err().code, Code::CorruptImage, "{kept}");
    }
    fs::write(&manifests[2], "{}").unwrap();
    assert_eq!(ask(&story, "rebasePoint", rebase.clone()).unwrap_err().code, Code::CorruptImage);
    fs::remove_file(&manifests[2]).unwrap();
    ask(&story, "rebasePoint", rebase).unwrap();
    ask(&story, "deleteBackup", json!({"backupPath": story.points[1].path})).unwrap();
    assert!(manifests.iter().all(|path| !path.exists()));
    story.assert_restores(&story.points[2]);
    assert_eq!(flatten(&story, &story.points[2]).unwrap_err().code, Code::CorruptImage, "no key vouches for it");
}

#[test]
fn a_point_in_the_middle_goes_and_the_others_are_vouched_for() {
    let _alone = alone();
    let before = Before::keep();
    before.keys(&[ONE]);
    let mut story = story();
    story.guest.write(0, 0x77, 3 * MIB, MIB);
    take(&mut story, "incremental");
    let manifest_of =
        |story: &Story, point: usize| story.nas.at(&format!("{}/manifest.json", story.points[point].path));
    let older = fs::read(manifest_of(&story, 2)).unwrap();
    // what was changed is not signed: of the image itself, of one that it would take in
    for point in [2, 1] {
        let image = File::options().read(true).write(true).open(story.nas.at(&story.points[point].files()[0])).unwrap();
        image.write_all_at(&[1], 0x8000).unwrap();
        let request = json!({"backupPath": story.points[2].path, "newParent": story.points[0].path});
        let error = ask(&story, "rebasePoint", request).unwrap_err();
        assert!(error.code == Code::CorruptImage && error.cause.contains("the tables of"), "{error}");
        image.write_all_at(&[0], 0x8000).unwrap();
    }
    let request = json!({"backupPath": story.points[2].path, "newParent": story.points[0].path});
    let rebased = ask(&story, "rebasePoint", request).unwrap();
    let mac = manifest(&story, &story.points[2]).mac;
    assert_eq!(rebased["mac"], json!(mac));
    assert!(mac.is_some() && mac != story.points[2].taken.mac);
    ask(&story, "deleteBackup", json!({"backupPath": story.points[1].path})).unwrap();
    // under the ids that they had when they were made
    for point in [0, 2, 3] {
        assert_good(&story, &story.points[point]);
        story.assert_restores(&story.points[point]);
    }
    // a host without the key takes no MAC away
    before.keys(&[]);
    let signed = fs::read(manifest_of(&story, 3)).unwrap();
    let error = ask(&story, "rebasePoint", json!({"backupPath": story.points[3].path})).unwrap_err();
    assert!(error.code == Code::InvalidArgument && error.cause.contains("keyFile"), "{error}");
    assert_eq!(fs::read(manifest_of(&story, 3)).unwrap(), signed);
    before.keys(&[ONE]);
    assert_good(&story, &story.points[3]);
    // what was signed before it was rebased is not what is there
    let signed = fs::read(manifest_of(&story, 2)).unwrap();
    fs::write(manifest_of(&story, 2), older).unwrap();
    for operation in ["verifyChain", "verifyData"] {
        assert_eq!(verdict(&story, operation, &story.points[3]), "bad", "{operation}");
    }
    assert_eq!(flatten(&story, &story.points[3]).unwrap_err().code, Code::CorruptImage);
    // a rebase that finds the hashes themselves damaged fails, and signs nothing
    fs::write(manifest_of(&story, 2), signed).unwrap();
    let folder = story.nas.at(&story.points[3].path);
    let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let index = names.into_iter().find(|path| path.extension().is_some_and(|end| end == "fingerprints")).unwrap();
    let file = File::options().write(true).open(index).unwrap();
    file.write_all_at(&[0xff; 8], file.metadata().unwrap().len() / 2).unwrap();
    let error = ask(&story, "rebasePoint", json!({"backupPath": story.points[3].path})).unwrap_err();
    assert_eq!(error.code, Code::CorruptImage, "{error}");
    assert_ne!(verdict(&story, "verifyData", &story.points[3]), "good");
    // nor does a later backup, which would have to read the image instead
    assert!(manifest(&story, &story.points[3]).disks.iter().any(|disk| disk.lost_fingerprints));
    assert!(is_doubted(&story, &story.points[3]));
}
