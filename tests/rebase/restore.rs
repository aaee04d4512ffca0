//! `restorePoint`: all disks of a point as files, each byte as it was backed up, or nothing at all.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nasbackup::config::Engine;
use nasbackup::error::{Code, Error, Result};
use nasbackup::operation::{call, cancel};
use nasbackup::point::fingerprints::{Fingerprints, file_name, index_image};
use nasbackup::point::{Kind, Manifest, ManifestDisk, ParentPoint};
use nasbackup::qcow2::{CLUSTER, Stream};
use nasbackup::work::phase::Phase;
use serde_json::{Value, json};

use crate::chains::{Chain, Point, Random, qemu_img};
use crate::differential::seeds;
use crate::flatten::{Loop, Mounted};

/// Where a sync takes no time.
pub(crate) const QUICK: &str = "/dev/shm";
pub(crate) const FILES: [&str; 2] = ["root.a.qcow2", "datadisk.b.qcow2"];

/// Points `T1` (full), `T2`, ... of a machine `i-1` with two disks of random content, as backups leave them.
pub(crate) struct Points {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) count: usize,
    /// What each disk was at the last point.
    pub(crate) disks: Vec<Vec<u8>>,
}

fn fill(random: &mut Random, bytes: &mut [u8]) {
    bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]));
}

impl Points {
    pub(crate) fn make(count: usize, size: u64) -> Points {
        Points::make_in(Path::new(QUICK), count, size)
    }

    pub(crate) fn make_in(folder: &Path, count: usize, size: u64) -> Points {
        let dir = tempfile::tempdir_in(folder).unwrap();
        let mut random = Random(count as u64);
        let mut disks = vec![vec![0; size as usize]; FILES.len()];
        for point in 1..=count {
            let folder = dir.path().join(format!("i-1/T{point}"));
            fs::create_dir_all(&folder).unwrap();
            for (file, disk) in FILES.iter().zip(&mut disks) {
                write(&mut random, &folder.join(file), (point > 1).then(|| format!("../T{}/{file}", point - 1)), disk);
            }
            manifest(dir.path(), point, true);
        }
        Points { dir, count, disks }
    }

    pub(crate) fn last(&self) -> String {
        format!("i-1/T{}", self.count)
    }

    /// Into the folder `out`, both disks.
    pub(crate) fn request(&self, out: &Path, format: &str) -> Value {
        let volume = |file: &str| json!({"file": file, "output": {"path": out.join(file), "format": format}});
        json!({
            "job": format!("restore {}", self.dir.path().display()),
            "repository": {"type": "dir", "address": self.dir.path()},
            "backupPath": self.last(),
            "volumes": FILES.map(volume),
        })
    }

    pub(crate) fn restore(&self, out: &Path, format: &str) -> Result<Value> {
        restore(&self.request(out, format))
    }

    pub(crate) fn assert_restored(&self, out: &Path, format: &str) {
        for (file, disk) in FILES.iter().zip(&self.disks) {
            assert!(content(&out.join(file), format) == *disk, "{file} {format}");
        }
    }
}

pub(crate) fn restore(request: &Value) -> Result<Value> {
    call("restorePoint", &request.to_string(), &mut |_| Ok(()))
}

/// What a guest reads of the image, in QEMU's eyes.
pub(crate) fn content(path: &Path, format: &str) -> Vec<u8> {
    if format == "raw" {
        return fs::read(path).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    qemu_img(dir.path(), &["check", "-q", "-f", format, path.to_str().unwrap()]);
    qemu_img(dir.path(), &["convert", "-f", format, "-O", "raw", path.to_str().unwrap(), raw.to_str().unwrap()]);
    fs::read(raw).unwrap()
}

/// An image that changes some of the disk, and begins it if there is nothing below.
fn write(random: &mut Random, path: &Path, below: Option<String>, disk: &mut [u8]) {
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    let mut stream = Stream::begin(file, disk.len() as u64, below.as_deref()).unwrap();
    for at in (0..disk.len()).step_by(CLUSTER as usize) {
        let end = (at + CLUSTER as usize).min(disk.len());
        match random.below(if below.is_some() { 8 } else { 3 }) {
            0 => {
                disk[at..end].fill(0);
                stream.zeroes(at as u64, (end - at) as u64).unwrap();
            }
            1 => {
                fill(random, &mut disk[at..end]);
                stream.data(at as u64, &disk[at..end]).unwrap();
            }
            _ => {}
        }
    }
    stream.finish().unwrap();
}

fn fingerprint(image: &Path) -> Fingerprints {
    let name = file_name(image.file_name().unwrap().to_str().unwrap());
    let index = File::create(image.with_file_name(&name)).unwrap();
    let (hash, rest) = index_image(File::open(image).unwrap(), index, &mut |_, _| Ok(())).unwrap();
    Fingerprints { file: name, hash, rest }
}

pub(crate) fn manifest(root: &Path, point: usize, fingerprints: bool) {
    let folder = root.join(format!("i-1/T{point}"));
    let below = (point > 1).then(|| format!("i-1/T{}", point - 1));
    let kind = if below.is_some() { Kind::Incremental } else { Kind::Full };
    let disk = |file: &&str| ManifestDisk {
        volume: file.split('.').nth(1).unwrap().into(),
        serial: None,
        file: (*file).into(),
        kind,
        parent: below.as_ref().map(|below| format!("{below}/{file}")),
        size: fs::metadata(folder.join(file)).unwrap().len(),
        virtual_size: nasbackup::qcow2::inspect(&File::open(folder.join(file)).unwrap()).unwrap().virtual_size,
        bitmap: None,
        fingerprints: fingerprints.then(|| fingerprint(&folder.join(file))),
        lost_fingerprints: false,
        snapshot: None,
        rebasing: None,
        goes_into: None,
    };
    let manifest = Manifest {
        version: Manifest::VERSION,
        point_id: format!("id-{point}"),
        backup_path: Some(format!("i-1/T{point}")),
        vm_name: "i-1".into(),
        when: "2031-01-02T03:04:05Z".parse().unwrap(),
        kind,
        bitmap: None,
        name: None,
        engine: Engine::Push,
        parent: below.clone().map(|backup_path| ParentPoint { backup_path, point_id: format!("id-{}", point - 1) }),
        disks: FILES.iter().map(disk).collect(),
        left_out: Vec::new(),
        texts: None,
        mac: None,
        checksum: None,
    };
    manifest.write(&File::create(folder.join("manifest.json")).unwrap()).unwrap();
}

/// All names below a folder, and what lies there.
pub(crate) fn all(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

const SIZE: u64 = (6 << 20) + 1536;

#[test]
fn a_chain_of_ten_comes_back_as_it_was_in_either_format_verified_or_not() {
    let points = Points::make(10, SIZE);
    for (format, verify) in
        [("raw", json!(null)), ("qcow2", json!("data")), ("raw", json!("chain")), ("qcow2", json!("chain"))]
    {
        let out = tempfile::tempdir_in(QUICK).unwrap();
        let mut request = points.request(out.path(), format);
        request["verify"] = verify.clone();
        let restored = restore(&request).unwrap();
        points.assert_restored(out.path(), format);
        let verified = if verify == "chain" { "chain" } else { "data" };
        for (i, volume) in restored["volumes"].as_array().unwrap().iter().enumerate() {
            assert_eq!((&volume["file"], &volume["verified"]), (&json!(FILES[i]), &json!(verified)));
            assert_eq!(volume["volume"], ["a", "b"][i]);
            assert_eq!(volume["output"], out.path().join(FILES[i]).to_str().unwrap());
        }
        let held: usize = points
            .disks
            .iter()
            .flat_map(|disk| disk.chunks(CLUSTER as usize))
            .filter(|c| c.iter().any(|b| *b != 0))
            .map(<[u8]>::len)
            .sum();
        assert_eq!(
            restored["bytesRead"].as_u64().unwrap() + restored["bytesCloned"].as_u64().unwrap(),
            held as u64,
            "{restored}"
        );
        assert_eq!(all(out.path()).len(), 2);
    }
}

#[test]
fn an_output_may_be_larger_and_no_smaller_than_the_disk() {
    let points = Points::make(2, SIZE);
    for format in ["raw", "qcow2"] {
        let out = tempfile::tempdir_in(QUICK).unwrap();
        let mut request = points.request(out.path(), format);
        for volume in 0..2 {
            request["volumes"][volume]["output"]["size"] = json!(8 << 20);
        }
        restore(&request).unwrap();
        for (file, disk) in FILES.iter().zip(&points.disks) {
            let mut grown = disk.clone();
            grown.resize(8 << 20, 0);
            assert!(content(&out.path().join(file), format) == grown, "{file} {format}");
        }
        request["volumes"][1]["output"]["size"] = json!(SIZE - 512);
        let error = restore(&request).unwrap_err();
        assert_eq!((error.code, error.disk.as_deref()), (Code::InvalidArgument, Some("b")), "{error}");
        assert!(error.cause.contains(&SIZE.to_string()) && error.cause.contains(&(SIZE - 512).to_string()), "{error}");
    }
}

/// Where in the file of an image its data begin, and what of the disk that is.
pub(crate) fn data_of(image: &Path) -> Vec<(u64, u64, u64)> {
    let map = qemu_img(Path::new("/"), &["map", "--output=json", "-f", "qcow2", image.to_str().unwrap()]);
    let map: Vec<Value> = serde_json::from_str(&map).unwrap();
    let own = map.iter().filter(|part| part["depth"] == 0 && part["data"] == true);
    let number = |value: &Value| value.as_u64().unwrap();
    own.map(|part| (number(&part["start"]), number(&part["length"]), number(&part["offset"]))).collect()
}

#[test]
fn a_byte_that_was_changed_anywhere_in_the_chain_fails_it_and_nothing_is_replaced() {
    let points = Points::make(10, SIZE);
    let mut random = Random(7);
    for format in ["raw", "qcow2"] {
        let out = tempfile::tempdir_in(QUICK).unwrap();
        for file in FILES {
            fs::write(out.path().join(file), "as it was").unwrap();
        }
        let before = all(out.path());
        let mut seen = 0;
        for point in 1..=10 {
            let image = points.dir.path().join(format!("i-1/T{point}/{}", FILES[1]));
            let parts = data_of(&image);
            let (start, length, offset) = parts[random.below(parts.len() as u64) as usize];
            let within = random.below(length);
            let file = File::options().read(true).write(true).open(&image).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset + within).unwrap();
            file.write_all_at(&[byte[0] ^ 1], offset + within).unwrap();
            match points.restore(out.path(), format) {
                // a later point has changed it
                Ok(_) => {
                    points.assert_restored(out.path(), format);
                    FILES.iter().for_each(|file| fs::write(out.path().join(file), "as it was").unwrap());
                }
                Err(Error { code, cause, disk, .. }) => {
                    seen += 1;
                    assert_eq!((code, disk.as_deref()), (Code::CorruptImage, Some("b")), "{cause}");
                    let cluster = (start + within) / CLUSTER * CLUSTER;
                    assert!(cause.contains(&format!("guest offset {cluster} ")), "{cause}");
                    assert!(cause.contains(&format!("i-1/T{point}/{}", FILES[1])), "{cause}");
                }
            }
            assert_eq!(all(out.path()), before);
            file.write_all_at(&byte, offset + within).unwrap();
        }
        assert!(seen > 2, "{seen}");
        points.restore(out.path(), format).unwrap();
        points.assert_restored(out.path(), format);
    }
}

/// Tables are in no fingerprint of a cluster: what they make of the disk is.
#[test]
fn tables_and_fingerprints_that_were_changed_restore_what_was_backed_up_or_nothing() {
    let points = Points::make(3, 1 << 20);
    let mut random = Random(3);
    let out = tempfile::tempdir_in(QUICK).unwrap();
    let (mut refused, mut restored) = (0, 0);
    for round in 0..150 {
        let (point, file) = (1 + random.below(3), FILES[random.below(2) as usize]);
        let name = if round % 3 == 0 { file_name(file) } else { file.to_owned() };
        let path = points.dir.path().join(format!("i-1/T{point}/{name}"));
        let bytes = fs::read(&path).unwrap();
        let mut changed = bytes.clone();
        // mostly the tables: they are at the end of what the stream writes, and the header at its begin
        let at = if round % 2 == 0 {
            random.below(bytes.len() as u64)
        } else {
            bytes.len() as u64 - 1 - random.below(5 * CLUSTER.min(bytes.len() as u64 / 6))
        };
        changed[at as usize] ^= 1 << random.below(8);
        fs::write(&path, &changed).unwrap();
        let format = if round % 5 == 0 { "qcow2" } else { "raw" };
        match points.restore(out.path(), format) {
            Ok(_) => {
                restored += 1;
                points.assert_restored(out.path(), format);
                FILES.iter().for_each(|file| fs::remove_file(out.path().join(file)).unwrap());
            }
            Err(_) => refused += 1,
        }
        assert!(all(out.path()).is_empty());
        fs::write(&path, &bytes).unwrap();
    }
    assert!(refused > 20 && restored > 5, "{refused} refused, {restored} restored");
}

#[test]
fn what_is_asked_wrongly_is_refused_before_anything_is_made() {
    let points = Points::make(2, 1 << 20);
    let out = tempfile::tempdir_in(QUICK).unwrap();
    let inside = points.dir.path().join("i-1/T2/x");
    let device = json!({"path": "/dev/null", "format": "raw"});
    for (change, code, word) in [
        (json!({"volumes": []}), Code::InvalidArgument, "volumes"),
        (json!({"pointId": "another"}), Code::CorruptImage, "another"),
        (json!({"backupPath": "i-1/T9"}), Code::NotFound, ""),
        (json!({"verify": "nothing"}), Code::InvalidArgument, "verify"),
        (
            json!({"volumes": [{"volume": "c", "output": {"path": out.path().join("c"), "format": "raw"}}]}),
            Code::NotFound,
            "'c'",
        ),
        (
            json!({"volumes": [{"file": "c.qcow2", "output": {"path": out.path().join("c"), "format": "raw"}}]}),
            Code::NotFound,
            "'c.qcow2'",
        ),
        (
            json!({"volumes": [{"volume": "a", "output": {"path": inside, "format": "raw"}}]}),
            Code::InvalidArgument,
            "restore points",
        ),
        (json!({"volumes": [{"volume": "a", "output": device}]}), Code::InvalidArgument, "neither"),
    ] {
        let mut request = points.request(out.path(), "raw");
        request.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let error = restore(&request).unwrap_err();
        assert!(error.code == code && error.cause.contains(word), "{change}: {error}");
        assert!(all(out.path()).is_empty(), "{change}");
    }
    // one output for both, by whatever name
    std::os::unix::fs::symlink(out.path(), out.path().join("link")).unwrap();
    for path in [out.path().join("x"), out.path().join("link/x")] {
        let mut request = points.request(out.path(), "raw");
        request["volumes"][0]["output"]["path"] = json!(out.path().join("x"));
        request["volumes"][1]["output"]["path"] = json!(path);
        let error = restore(&request).unwrap_err();
        assert!(error.code == Code::InvalidArgument && error.cause.contains("two outputs"), "{error}");
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), 1);
    }
}

#[test]
fn without_fingerprints_the_chain_alone_is_verified_and_no_more_is_promised() {
    let points = Points::make(3, 1 << 20);
    manifest(points.dir.path(), 2, false);
    let out = tempfile::tempdir_in(QUICK).unwrap();
    let mut request = points.request(out.path(), "raw");
    request["verify"] = json!("data");
    let error = restore(&request).unwrap_err();
    assert!(error.code == Code::InvalidArgument && error.cause.contains("fingerprints"), "{error}");
    assert!(all(out.path()).is_empty());
    let restored = points.restore(out.path(), "raw").unwrap();
    assert_eq!(restored["volumes"][0]["verified"], "chain");
    points.assert_restored(out.path(), "raw");
}

#[test]
fn a_volume_that_qemu_has_open_is_left_alone_and_so_are_all_others() {
    let points = Points::make(2, 1 << 20);
    let out = tempfile::tempdir_in(QUICK).unwrap();
    for file in FILES {
        fs::write(out.path().join(file), [1; 4096]).unwrap();
    }
    let before = all(out.path());
    let held = out.path().join(FILES[1]);
    let mut tool = Command::new("qemu-io")
        .args(["-f", "raw", held.to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read_exact(tool.stdout.as_mut().unwrap(), &mut [0; 1]).unwrap();
    let error = points.restore(out.path(), "raw").unwrap_err();
    assert_eq!((error.code, error.disk.as_deref()), (Code::DomainState, Some("b")), "{error}");
    assert_eq!(all(out.path()), before);
    drop(tool.stdin.take());
    tool.wait().unwrap();
    points.restore(out.path(), "raw").unwrap();
    points.assert_restored(out.path(), "raw");
}

#[test]
fn whenever_it_is_cancelled_nothing_is_replaced() {
    let points = Points::make(3, 4 << 20);
    let out = tempfile::tempdir_in(QUICK).unwrap();
    for file in FILES {
        fs::write(out.path().join(file), "as it was").unwrap();
    }
    let before = all(out.path());
    let mut request = points.request(out.path(), "qcow2");
    // slow enough to be met on its way
    request["rateLimit"] = json!(2 << 20);
    for after in 1..8 {
        let (mut told, mut phases) = (0, Vec::new());
        let ended = call("restorePoint", &request.to_string(), &mut |status| {
            told += 1;
            phases.push(status.phase);
            assert_eq!(status.operation, "restorePoint");
            assert!(told != after || cancel(&status.job).found);
            Ok(())
        });
        assert_eq!(ended.unwrap_err().code, Code::Cancelled, "after {after} reports: {phases:?}");
        assert_eq!(all(out.path()), before);
    }
    request["rateLimit"] = json!(null);
    let mut last = (0, 0);
    call("restorePoint", &request.to_string(), &mut |status| {
        assert!(status.done_bytes >= last.0, "{status:?}");
        last = (status.done_bytes, status.total_bytes);
        Ok(())
    })
    .unwrap();
    assert_eq!(last, (8 << 20, 8 << 20));
    points.assert_restored(out.path(), "qcow2");
}

#[test]
fn what_is_replaced_is_kept_where_that_is_asked() {
    let points = Points::make(2, 1 << 20);
    let out = tempfile::tempdir_in(QUICK).unwrap();
    fs::write(out.path().join(FILES[1]), "as it was").unwrap();
    let mut request = points.request(out.path(), "raw");
    request["keepOld"] = json!(true);
    let restored = restore(&request).unwrap();
    assert_eq!(restored["volumes"][0]["kept"], json!(null), "there was nothing");
    let kept = restored["volumes"][1]["kept"].as_str().unwrap();
    assert!(kept.starts_with(out.path().join(format!("{}.kept-", FILES[1])).to_str().unwrap()), "{kept}");
    assert_eq!(fs::read(kept).unwrap(), b"as it was");
    points.assert_restored(out.path(), "raw");
    assert_eq!(all(out.path()).len(), 3);
}

#[test]
fn an_output_takes_the_room_that_is_asked_for() {
    let points = Points::make(2, SIZE);
    for (format, preallocation) in [("raw", "falloc"), ("qcow2", "metadata"), ("qcow2", "full")] {
        let out = tempfile::tempdir().unwrap();
        let mut request = points.request(out.path(), format);
        for volume in 0..2 {
            let output = &mut request["volumes"][volume]["output"];
            (output["preallocation"], output["size"]) = (json!(preallocation), json!(8 << 20));
        }
        restore(&request).unwrap();
        for (file, disk) in FILES.iter().zip(&points.disks) {
            let path = out.path().join(file);
            let mut grown = disk.clone();
            grown.resize(8 << 20, 0);
            assert!(content(&path, format) == grown, "{file} {format}");
            let metadata = fs::metadata(&path).unwrap();
            assert!(metadata.len() >= 8 << 20, "{preallocation}: {}", metadata.len());
            assert!(
                preallocation == "metadata" || metadata.blocks() * 512 >= 8 << 20,
                "{preallocation}: {}",
                metadata.blocks()
            );
        }
    }
}

/// Restores what the environment asks for, in a process that a test has begun to be killed.
#[cfg(feature = "test-hooks")]
#[test]
fn agent() {
    let Ok(request) = std::env::var("NASBACKUP_TEST_RESTORE") else { return };
    restore(&serde_json::from_str(&request).unwrap()).unwrap();
}

/// The steps of the call, as `NAME:N`, or of the one that is killed at `kill`.
#[cfg(feature = "test-hooks")]
pub(crate) fn in_a_process(request: &Value, kill: Option<&str>) -> Vec<String> {
    let dir = tempfile::tempdir_in(QUICK).unwrap();
    let log = dir.path().join("log");
    let mut agent = Command::new(std::env::current_exe().unwrap());
    agent.args(["restore::agent", "--exact", "-q"]).env("NASBACKUP_TEST_RESTORE", request.to_string());
    agent.env("NASBACKUP_STEP_LOG", &log).stdout(Stdio::null());
    kill.map(|step| agent.env("NASBACKUP_KILL_AT", step));
    let status = agent.status().unwrap();
    assert_eq!(status.success(), kill.is_none(), "{kill:?}: {status}");
    fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect()
}

/// Somebody has used the volumes since: what was on its way is of no use any more.
#[cfg(feature = "test-hooks")]
#[test]
fn what_a_killed_call_has_left_is_forgotten_once_a_volume_has_changed() {
    let points = Points::make(2, 1 << 20);
    for planted in [false, true] {
        // both, or the one whose record is none of ours
        let asked = if planted { 1 } else { 2 };
        let out = tempfile::tempdir_in(QUICK).unwrap();
        FILES.iter().for_each(|file| fs::write(out.path().join(file), "as it was").unwrap());
        in_a_process(&points.request(out.path(), "raw"), Some("give an output its name:1"));
        if planted {
            // a record of somebody else's, who may write to the folder
            let record = out.path().join(format!(".{}.nasbackup.restored", FILES[0]));
            std::os::unix::fs::chown(record, Some(65534), None).unwrap();
        } else {
            fs::write(out.path().join(FILES[1]), "it went on").unwrap();
        }
        let mut request = points.request(out.path(), "raw");
        request["volumes"][0]["output"]["size"] = json!(512);
        request["volumes"].as_array_mut().unwrap().truncate(asked);
        assert_eq!(restore(&request).unwrap_err().code, Code::InvalidArgument);
        assert_eq!(fs::read(out.path().join(FILES[0])).unwrap(), b"as it was");
        points.restore(out.path(), "raw").unwrap_or_else(|error| panic!("{planted}: {error}"));
        points.assert_restored(out.path(), "raw");
    }
}

/// A folder in which a call was killed that had given the first of two outputs its name.
#[cfg(feature = "test-hooks")]
fn half_named(points: &Points) -> tempfile::TempDir {
    let out = tempfile::tempdir_in(QUICK).unwrap();
    FILES.iter().for_each(|file| fs::write(out.path().join(file), "as it was").unwrap());
    in_a_process(&points.request(out.path(), "raw"), Some("give an output its name:2"));
    assert!(fs::read(out.path().join(FILES[0])).unwrap() == points.disks[0]);
    out
}

#[cfg(feature = "test-hooks")]
#[test]
fn once_a_volume_that_has_its_name_was_written_to_no_other_gets_what_was_left_for_it() {
    let points = Points::make(2, 1 << 20);
    let out = half_named(&points);
    File::options().write(true).open(out.path().join(FILES[0])).unwrap().write_all_at(b"it went on", 0).unwrap();
    let mut request = points.request(out.path(), "raw");
    request["volumes"][0]["output"]["size"] = json!(512);
    assert_eq!(restore(&request).unwrap_err().code, Code::InvalidArgument);
    assert_eq!(fs::read(out.path().join(FILES[1])).unwrap(), b"as it was");
    points.restore(out.path(), "raw").unwrap();
    points.assert_restored(out.path(), "raw");
    assert_eq!(all(out.path()).len(), 2);
}

/// The other may be another machine's by now.
#[cfg(feature = "test-hooks")]
#[test]
fn a_volume_that_is_not_asked_for_is_left_as_it_is_whatever_was_left_for_it() {
    let points = Points::make(2, 1 << 20);
    for asked in 0..2 {
        let out = half_named(&points);
        let other = out.path().join(FILES[1 - asked]);
        let before = (fs::read(&other).unwrap(), fs::metadata(&other).unwrap().ino());
        let mut request = points.request(out.path(), "raw");
        request["volumes"].as_array_mut().unwrap().remove(1 - asked);
        restore(&request).unwrap();
        assert!(fs::read(out.path().join(FILES[asked])).unwrap() == points.disks[asked]);
        assert!((fs::read(&other).unwrap(), fs::metadata(&other).unwrap().ino()) == before, "{asked}");
        points.restore(out.path(), "raw").unwrap();
        points.assert_restored(out.path(), "raw");
        assert_eq!(all(out.path()).len(), 2, "{asked}: {:?}", all(out.path()).keys());
    }
}

#[cfg(feature = "test-hooks")]
#[test]
fn what_a_killed_call_has_left_replaces_no_volume_that_qemu_has_open() {
    let points = Points::make(2, 1 << 20);
    for held in FILES {
        let out = half_named(&points);
        let path = out.path().join(held);
        let mut tool = Command::new("qemu-io")
            .args(["-f", "raw", path.to_str().unwrap()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Read::read_exact(tool.stdout.as_mut().unwrap(), &mut [0; 1]).unwrap();
        let error = points.restore(out.path(), "raw").unwrap_err();
        assert!(error.code == Code::DomainState && error.cause.contains(path.to_str().unwrap()), "{error}");
        assert_eq!(fs::read(out.path().join(FILES[1])).unwrap(), b"as it was");
        drop(tool.stdin.take());
        tool.wait().unwrap();
        points.restore(out.path(), "raw").unwrap();
        points.assert_restored(out.path(), "raw");
        assert_eq!(all(out.path()).len(), 2);
    }
}

/// Restores; `act` is called once when all is whole, and before any output gets its name.
pub(crate) fn restore_and(request: &Value, mut act: impl FnMut()) -> Result<Value> {
    let mut acted = false;
    call("restorePoint", &request.to_string(), &mut |status| {
        if status.phase == Phase::PublishOutputs && !std::mem::replace(&mut acted, true) {
            act();
        }
        Ok(())
    })
}

#[test]
fn one_file_whose_name_somebody_else_has_given_leaves_nothing_also_beside_a_device() {
    let points = Points::make(2, 1 << 20);
    let (out, device) = (tempfile::tempdir_in(QUICK).unwrap(), Loop::full(2 << 20));
    let mut request = points.request(out.path(), "raw");
    request["volumes"][1]["output"]["path"] = json!(device.device);
    let taken = out.path().join(FILES[0]);
    let error = restore_and(&request, || fs::write(&taken, "somebody else's").unwrap()).unwrap_err();
    assert_eq!((error.code, error.leftovers), (Code::AlreadyExists, false), "{error}");
    assert_eq!(all(out.path()), BTreeMap::from([(taken, b"somebody else's".to_vec())]));
}

#[test]
fn without_room_for_a_record_nothing_is_left_of_what_was_to_be_kept() {
    let points = Points::make(2, 1 << 20);
    let mounted = Mounted::make("mkfs.ext4 -q -N 64 -O ^has_journal -m 0", 16);
    let out = mounted.path().join("out");
    fs::create_dir(&out).unwrap();
    FILES.iter().for_each(|file| fs::write(out.join(file), "as it was").unwrap());
    let before = all(&out);
    let mut request = points.request(&out, "raw");
    request["keepOld"] = json!(true);
    // a link takes no inode, a record does
    for left in 0..2 {
        let fill = || {
            let made = (0..).take_while(|i| File::create(mounted.path().join(format!("{i}"))).is_ok()).count();
            (0..left).for_each(|i| fs::remove_file(mounted.path().join(format!("{}", made - 1 - i))).unwrap());
        };
        let error = restore_and(&request, fill).unwrap_err();
        assert_eq!(error.code, Code::NoSpace, "{error}");
        assert_eq!(all(&out), before, "{left}");
        for entry in fs::read_dir(mounted.path()).unwrap().map(|entry| entry.unwrap().path()) {
            fs::remove_file(entry).ok();
        }
    }
    restore(&request).unwrap();
    points.assert_restored(&out, "raw");
    assert_eq!(all(&out).len(), 4);
}

const LARGE: u64 = (12 << 20) + 1536;

/// Bytes of the clusters, and of those that hold something and are the same in both.
fn alike(point: &[u8], old: &[u8]) -> (u64, u64) {
    let held = |cluster: &&[u8]| cluster.iter().any(|byte| *byte != 0);
    let all: usize = point.chunks(CLUSTER as usize).filter(held).map(<[u8]>::len).sum();
    let both = point.chunks(CLUSTER as usize).zip(old.chunks(CLUSTER as usize));
    // what ends within a cluster is read
    let same = both.filter(|(point, old)| held(point) && point == old && point.len() as u64 == CLUSTER);
    (all as u64, same.map(|(point, _)| point.len() as u64).sum())
}

/// One cluster of `every` is another.
fn changed(disk: &[u8], every: usize) -> Vec<u8> {
    let mut old = disk.to_vec();
    old.chunks_mut(CLUSTER as usize).step_by(every).for_each(|cluster| cluster.fill(0x77));
    old
}

/// An image of the disk `now`, which stands on one of what it was.
fn image(path: &Path, below: Option<&str>, was: &[u8], now: &[u8]) {
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    let mut stream = Stream::begin(file, now.len() as u64, below).unwrap();
    for (i, (was, now)) in was.chunks(CLUSTER as usize).zip(now.chunks(CLUSTER as usize)).enumerate() {
        if was != now {
            stream.data(i as u64 * CLUSTER, now).unwrap();
        }
    }
    stream.finish().unwrap();
}

#[test]
fn of_a_volume_that_is_there_no_more_than_what_differs_is_read() {
    let points = Points::make(3, LARGE);
    let xfs = Mounted::make("mkfs.xfs -q -m reflink=1", 400);
    for (every, format, folder) in [
        (100, "raw", Path::new(QUICK)),
        (10, "qcow2", Path::new(QUICK)),
        (2, "raw", &xfs.path()),
        (10, "qcow2", &xfs.path()),
    ] {
        let out = tempfile::tempdir_in(folder).unwrap();
        for (file, disk) in FILES.iter().zip(&points.disks) {
            let old = changed(disk, every);
            if format == "raw" {
                fs::write(out.path().join(file), &old).unwrap();
                continue;
            }
            // an overlay, as a root disk is one on its template, which has more than half of it
            let (template, name) = (changed(disk, 3), format!("{file}.template"));
            image(&out.path().join(&name), None, &vec![0; disk.len()], &template);
            image(&out.path().join(file), Some(&name), &template, &old);
        }
        let restored = points.restore(out.path(), format).unwrap();
        points.assert_restored(out.path(), format);
        let (mut all, mut same) = (0, 0);
        for disk in &points.disks {
            let (of_all, of_same) = alike(disk, &changed(disk, every));
            (all, same) = (all + of_all, same + of_same);
        }
        assert_eq!(
            (&restored["bytesRead"], &restored["bytesKept"]),
            (&json!(all - same), &json!(same)),
            "{every} {format}"
        );
    }
}

#[test]
fn whatever_the_volume_was_it_becomes_what_was_backed_up() {
    let points = Points::make(3, 2 << 20);
    let mut random = Random(5);
    for round in 0..24 {
        let out = tempfile::tempdir_in(QUICK).unwrap();
        for (file, disk) in FILES.iter().zip(&points.disks) {
            let mut old = changed(disk, 1 + random.below(6) as usize);
            match round % 4 {
                0 => old.truncate(random.below(2 << 20) as usize),
                1 => old.extend([1; 200_000]),
                2 => fill(&mut random, &mut old),
                _ => old.rotate_left(CLUSTER as usize * random.below(3) as usize),
            }
            fs::write(out.path().join(file), &old).unwrap();
        }
        // what is no qcow2 is not read as one
        let format = if round % 6 == 0 { "qcow2" } else { "raw" };
        points.restore(out.path(), format).unwrap();
        points.assert_restored(out.path(), format);
    }
}

/// Whoever had the volume open before may write to it all the time.
#[test]
fn what_is_written_to_the_volume_meanwhile_is_in_nothing_that_is_restored() {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    let points = Points::make(2, 2 << 20);
    let xfs = Mounted::make("mkfs.xfs -q -m reflink=1", 400);
    for folder in [Path::new(QUICK), &xfs.path()] {
        let out = tempfile::tempdir_in(folder).unwrap();
        for _ in 0..10 {
            FILES.iter().zip(&points.disks).for_each(|(file, disk)| fs::write(out.path().join(file), disk).unwrap());
            let open = |file: &&str| File::options().write(true).open(out.path().join(file)).unwrap();
            let (held, done): (Vec<_>, _) = (FILES.iter().map(open).collect(), AtomicBool::new(false));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for at in (0..2 << 20).step_by(4096).cycle().take_while(|_| !done.load(Relaxed)) {
                        held.iter().for_each(|file| file.write_all_at(&[0x66; 64], at).unwrap());
                    }
                });
                let restored = points.restore(out.path(), "raw");
                done.store(true, Relaxed);
                restored.unwrap();
            });
            points.assert_restored(out.path(), "raw");
        }
    }
}

#[test]
fn devices_are_written_after_all_files_are_whole_and_keep_what_is_right() {
    let points = Points::make(3, LARGE);
    let out = tempfile::tempdir_in(QUICK).unwrap();
    let device = Loop::full((14 << 20) + 4096);
    let mut request = points.request(out.path(), "raw");
    request["volumes"][0]["output"]["path"] = json!(device.device);
    let is_right = || {
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut device.open(), &mut content).unwrap();
        let mut wanted = points.disks[0].clone();
        wanted.resize(content.len(), 0);
        content == wanted && fs::read(out.path().join(FILES[1])).unwrap() == points.disks[1]
    };
    restore(&request).unwrap();
    assert!(is_right());
    device.open().write_all_at(&[9; 3 * CLUSTER as usize], 4 << 20).unwrap();
    let restored = restore(&request).unwrap();
    assert!(is_right());
    let read = restored["bytesRead"].as_u64().unwrap();
    // what ends within a cluster is read
    assert!(read <= 3 * CLUSTER + 2 * 1536, "{restored}");
    // without a comparison, too
    device.open().write_all_at(&vec![9; 14 << 20], 0).unwrap();
    request["verify"] = json!("chain");
    restore(&request).unwrap();
    assert!(is_right());
    // the device fails: the file keeps its content
    request["verify"] = json!("data");
    let image = points.dir.path().join(format!("i-1/T1/{}", FILES[0]));
    device.open().write_all_at(&vec![9; 14 << 20], 0).unwrap();
    fs::write(out.path().join(FILES[1]), "as it was").unwrap();
    for (_, length, offset) in data_of(&image) {
        File::options().write(true).open(&image).unwrap().write_all_at(&vec![1; length as usize], offset).unwrap();
    }
    assert_eq!(restore(&request).unwrap_err().code, Code::CorruptImage);
    assert_eq!(fs::read(out.path().join(FILES[1])).unwrap(), b"as it was");
    // and what can't be a device's is refused before
    for (change, word) in
        [(json!({"format": "qcow2"}), "'raw' only"), (json!({"size": 16 << 20}), "has 14684160 bytes")]
    {
        let mut request = request.clone();
        request["volumes"][0]["output"].as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let error = restore(&request).unwrap_err();
        assert!(error.code == Code::InvalidArgument && error.cause.contains(word), "{error}");
    }
    request["keepOld"] = json!(true);
    let error = restore(&request).unwrap_err();
    assert!(error.code == Code::InvalidArgument && error.cause.contains("keepOld"), "{error}");
}

/// What is replaced in place is copied before it is; the copy stays where it is needed alone.
#[test]
fn what_a_device_held_is_kept_where_that_is_asked() {
    let points = Points::make(2, SIZE);
    let (out, kept) = (tempfile::tempdir_in(QUICK).unwrap(), tempfile::tempdir_in(QUICK).unwrap());
    let device = Loop::full((7 << 20) + 4096);
    let mut old = vec![0xa5; (7 << 20) + 4096];
    old[1 << 20..3 << 20].fill(0);
    device.open().write_all_at(&old, 0).unwrap();
    let mut request = points.request(out.path(), "raw");
    request["volumes"][0]["output"]["path"] = json!(device.device);
    request["keepOld"] = json!(true);
    for (folder, code, word) in [
        (json!(null), Code::InvalidArgument, "keepOldIn: is missing"),
        (json!("kept"), Code::InvalidArgument, "keepOldIn: is not"),
        (json!(points.dir.path().join("i-1")), Code::InvalidArgument, "keepOldIn: '"),
        (json!("/dev/no/folder"), Code::NotFound, "keepOldIn: '"),
    ] {
        request["keepOldIn"] = folder.clone();
        let error = restore(&request).unwrap_err();
        assert!(error.code == code && error.cause.contains(word), "{folder}: {error}");
    }
    request["keepOldIn"] = json!(kept.path());
    // a damaged file: the device is not begun
    let image = points.dir.path().join(format!("i-1/T1/{}", FILES[1]));
    let whole = fs::read(&image).unwrap();
    let (_, length, offset) = data_of(&image)[0];
    File::options().write(true).open(&image).unwrap().write_all_at(&vec![1; length as usize], offset).unwrap();
    let error = restore(&request).unwrap_err();
    assert!(error.code == Code::CorruptImage && !error.cause.contains("overwritten"), "{error}");
    assert!(all(kept.path()).is_empty() && fs::read(&device.device).unwrap() == old);
    fs::write(&image, whole).unwrap();

    let restored = restore(&request).unwrap();
    let path = PathBuf::from(restored["volumes"][0]["kept"].as_str().unwrap());
    assert_eq!(path.parent(), Some(kept.path()));
    assert!(fs::read(&path).unwrap() == old && fs::read(&device.device).unwrap()[..SIZE as usize] == points.disks[0]);
    let metadata = fs::metadata(&path).unwrap();
    assert!(metadata.blocks() * 512 <= metadata.len() - (2 << 20) && metadata.mode() & 0o777 == 0o600, "{metadata:?}");
    assert_eq!((&restored["volumes"][1]["kept"], all(kept.path()).len()), (&json!(null), 1));
    fs::remove_file(&path).unwrap();

    // a damaged device's image: it is kept if something was overwritten
    let image = points.dir.path().join(format!("i-1/T1/{}", FILES[0]));
    for (_, length, offset) in data_of(&image) {
        File::options().write(true).open(&image).unwrap().write_all_at(&vec![1; length as usize], offset).unwrap();
    }
    device.open().write_all_at(&old, 0).unwrap();
    let error = restore(&request).unwrap_err();
    assert_eq!(error.code, Code::CorruptImage, "{error}");
    let files: Vec<_> = all(kept.path()).into_iter().collect();
    assert_eq!(files.len(), usize::from(error.cause.contains("overwritten")), "{error}");
    for (path, content) in files {
        assert!(error.cause.contains(&format!("kept as '{}'", path.display())) && content == old, "{error}");
    }
    assert_eq!(fs::read_dir(kept.path()).unwrap().count(), usize::from(error.cause.contains("overwritten")));
}

#[test]
fn room_is_counted_for_all_disks_of_a_file_system_before_any_is_written() {
    let points = Points::make(1, 9 << 20);
    let held: u64 = points.disks.iter().map(|disk| alike(disk, &[]).0).sum();
    let mounted = Mounted::make("mkfs.ext4 -q -N 64 -O ^has_journal -m 0", (held >> 20) - 1);
    let free = || free_bytes(&mounted.path());
    let before = free();
    let error = points.restore(&mounted.path(), "raw").unwrap_err();
    assert_eq!(error.code, Code::NoSpace, "{error}");
    assert!(
        error.cause.contains(&format!("take {held} bytes")) && error.cause.contains(&format!("{before} free")),
        "{error}"
    );
    let mut one = points.request(&mounted.path(), "raw");
    one["volumes"].as_array_mut().unwrap().truncate(1);
    restore(&one).unwrap();
}

/// Bytes that are free, as the shell has them.
fn free_bytes(path: &Path) -> u64 {
    let free = crate::chains::run("stat", path, &["-f", "-c", "%a %S", "."]).unwrap();
    free.split_whitespace().map(|number| number.parse::<u64>().unwrap()).product()
}

/// Clusters of any size, compressed, with subclusters, of disks that have grown or shrunk, with parts of clusters.
#[test]
fn odd_chains_are_restored_as_qemu_reads_them() {
    for seed in seeds("NASBACKUP_SOAK_CHAINS", 8) {
        let chain = Chain::make(seed + 50_000, crate::chains::Kind::Any);
        let top = chain.images - 1;
        let Point { dir } = Point::of(&chain, top);
        let expected = fs::read(chain.raw(top)).unwrap();
        for format in ["raw", "qcow2"] {
            let output = dir.path().join(format);
            let request = json!({
                "repository": {"type": "dir", "address": dir.path()},
                "backupPath": "i-1/T1",
                "volumes": [{"file": "root.v.qcow2", "output": {"path": output, "format": format}}],
            });
            restore(&request).unwrap_or_else(|error| panic!("{chain}\n{format}: {error}"));
            assert!(content(&output, format) == expected, "{chain}\n{format}");
        }
    }
}

#[test]
fn a_disk_that_has_grown_is_restored_and_what_could_not_be_compared_is_told() {
    let mut points = Points::make(1, (1 << 20) + 1536);
    let (mut random, folder) = (Random(9), points.dir.path().join("i-1/T2"));
    fs::create_dir_all(&folder).unwrap();
    for (file, disk) in FILES.iter().zip(&mut points.disks) {
        disk.resize(2 << 20, 0);
        write(&mut random, &folder.join(file), Some(format!("../T1/{file}")), disk);
    }
    manifest(points.dir.path(), 2, true);
    points.count = 2;
    let out = tempfile::tempdir_in(QUICK).unwrap();
    for _ in 0..2 {
        let restored = points.restore(out.path(), "raw").unwrap();
        points.assert_restored(out.path(), "raw");
        assert_eq!(restored["volumes"][0]["verified"], "data");
        let details = restored["details"].as_str().unwrap();
        assert!(details.is_empty() || details.contains("were not compared"), "{details}");
    }
}
