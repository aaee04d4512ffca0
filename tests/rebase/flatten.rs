//! `flatten`, against `qemu-img convert`: the same content, as a file of either format and on a block device.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use nasbackup::error::{Code, Error};
use nasbackup::operation::{call, cancel};
use serde_json::{Value, json};

use crate::chains::{Chain, Kind, Point, Random, qemu_img, run};
use crate::differential::{check, compare, seeds};
use crate::fuzz::mutate;
use crate::mutation::time;
use crate::operations::{DISKS, Points};
use crate::verify;

fn shell(command: &str) -> String {
    run("sh", Path::new("/"), &["-ec", command]).unwrap_or_else(|error| panic!("{error}"))
}

/// A loop device over a file that is full of something else.
pub(crate) struct Loop {
    pub(crate) device: PathBuf,
    _dir: tempfile::TempDir,
}

impl Loop {
    pub(crate) fn full(bytes: u64) -> Loop {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk");
        fs::write(&file, vec![0xa5; bytes as usize]).unwrap();
        let device = shell(&format!("losetup -f --show {}", file.display()));
        Loop { device: device.trim().into(), _dir: dir }
    }

    pub(crate) fn open(&self) -> File {
        OpenOptions::new().read(true).write(true).open(&self.device).unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        shell(&format!("losetup -d {}", self.device.display()));
    }
}

/// A file system on a loop image.
pub(crate) struct Mounted(tempfile::TempDir);

impl Mounted {
    pub(crate) fn make(mkfs: &str, mib: u64) -> Mounted {
        let dir = tempfile::tempdir().unwrap();
        let (disk, at) = (dir.path().join("disk"), dir.path().join("mount"));
        fs::create_dir(&at).unwrap();
        File::create(&disk).unwrap().set_len(mib << 20).unwrap();
        shell(&format!("{mkfs} {0} >&2; mount -o loop {0} {1}", disk.display(), at.display()));
        Mounted(dir)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("mount")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        shell(&format!("umount -l {}", self.path().display()));
    }
}

impl Point {
    fn flatten(&self, output: &Path, format: &str) -> Result<Value, Error> {
        let request = json!({
            "repository": {"type": "dir", "address": self.dir.path()},
            "backupPath": "i-1/T1",
            "volume": "v",
            "output": {"path": output, "format": format},
        });
        call("flatten", &request.to_string(), &mut |_| Ok(()))
    }
}

fn same_bytes(one: &Path, other: &Path) -> bool {
    Command::new("cmp").arg("-s").args([one, other]).status().unwrap().success()
}

#[test]
fn random_chains_flatten_to_what_qemu_reads() {
    for seed in seeds("NASBACKUP_SOAK_CHAINS", 15) {
        let chain = Chain::make(seed + 40_000, Kind::Any);
        let (image, dir) = (chain.images - 1, chain.dir.path());
        let expected = chain.raw(image);
        let size = fs::metadata(&expected).unwrap().len();
        let point = Point::of(&chain, image);
        let (raw, qcow2) = (dir.join("out.raw"), dir.join("out.qcow2"));
        point.flatten(&raw, "raw").unwrap_or_else(|error| panic!("{chain}\nraw: {error}"));
        assert!(same_bytes(&raw, &expected), "{chain}\nraw");
        point.flatten(&qcow2, "qcow2").unwrap_or_else(|error| panic!("{chain}\nqcow2: {error}"));
        compare(dir, &expected, "out.qcow2").unwrap_or_else(|error| panic!("{chain}\nqcow2: {error}"));
        assert_eq!(check(dir, "out.qcow2"), (0, 0), "{chain}");
        let device = Loop::full(size.next_multiple_of(4096) + (1 << 20));
        point.flatten(&device.device, "raw").unwrap_or_else(|error| panic!("{chain}\ndevice: {error}"));
        let mut content = Vec::new();
        device.open().read_to_end(&mut content).unwrap();
        let mut wanted = fs::read(&expected).unwrap();
        wanted.resize(content.len(), 0);
        assert!(content == wanted, "{chain}\ndevice");
        // what nothing has written takes no room; QEMU also leaves out zeroes that are written
        let blocks = |path: &Path| fs::metadata(path).unwrap().blocks();
        let held: u64 = (0..chain.images).map(|image| blocks(&chain.path(image))).sum();
        assert!(blocks(&raw) <= held + 4096, "{} in {chain}", blocks(&raw));
    }
}

/// The root disk of `i-1/T3`, as a raw file that QEMU has made.
fn expected(points: &Points) -> PathBuf {
    points.dir.path().join(format!("3.{}.raw", DISKS[0]))
}

fn flatten(points: &Points, output: &Path, format: &str) -> Value {
    json!({"backupPath": "i-1/T3", "volume": "v0", "output": {"path": output, "format": format}, "job": points.job()})
}

impl Points {
    fn job(&self) -> String {
        format!("flatten {}", self.dir.path().display())
    }
}

#[test]
fn where_blocks_can_be_shared_they_are() {
    for (mkfs, shares) in [("mkfs.xfs -q -m reflink=1", true), ("mkfs.btrfs -q", true), ("mkfs.ext4 -q", false)] {
        let mounted = Mounted::make(mkfs, 400);
        let points = Points::make_in(&mounted.path(), 3, true);
        for format in ["raw", "qcow2"] {
            let output = mounted.path().join(format!("out.{format}"));
            let done = points.call("flatten", flatten(&points, &output, format)).unwrap();
            let (cloned, copied) = (done["bytesCloned"].as_u64().unwrap(), done["bytesCopied"].as_u64().unwrap());
            // 300 KiB of each of three points and one piece of 70 KiB, in clusters of 64 KiB
            assert_eq!(cloned + copied, 17 << 16, "{mkfs} {format}: {done}");
            assert_eq!(cloned > 0, shares, "{mkfs} {format}: {done}");
            if shares {
                assert_eq!(copied, 0, "{mkfs} {format}: {done}");
            }
            qemu_img(
                &mounted.path(),
                &["compare", "-f", format, "-F", "raw", output.to_str().unwrap(), expected(&points).to_str().unwrap()],
            );
        }
        points.assert_same();
    }
}

#[test]
fn a_file_is_replaced_when_the_new_one_is_whole() {
    let points = Points::make(3, true);
    let out = tempfile::tempdir().unwrap();
    let (volume, link) = (out.path().join("a volume"), out.path().join("link"));
    fs::write(&volume, "old").unwrap();
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(&volume, Some(12), Some(34)).unwrap();
    symlink(&volume, &link).unwrap();
    // of a call that was killed
    fs::write(out.path().join(".a volume.nasbackup"), vec![1; 20 << 20]).unwrap();
    for after in 1..7 {
        let mut told = 0;
        let mut request = flatten(&points, &link, "raw");
        request["repository"] = json!({"type": "dir", "address": points.dir.path()});
        let error = call("flatten", &request.to_string(), &mut |_| {
            told += 1;
            assert!(told != after || cancel(&points.job()).found);
            Ok(())
        });
        assert_eq!(error.unwrap_err().code, Code::Cancelled, "after {after} reports");
        assert_eq!(fs::read(&volume).unwrap(), b"old");
    }
    points.call("flatten", flatten(&points, &link, "raw")).unwrap();
    assert!(same_bytes(&volume, &expected(&points)));
    let metadata = fs::metadata(&volume).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o640, 12, 34));
    let new = out.path().join("new.qcow2");
    points.call("flatten", flatten(&points, &new, "qcow2")).unwrap();
    assert_eq!(fs::metadata(&new).unwrap().mode() & 0o7777, 0o600);
    let mut names: Vec<_> = fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a volume", "link", "new.qcow2"]);
    points.assert_same();
}

#[test]
fn a_full_file_system_is_told_and_nothing_is_left() {
    let points = Points::make(3, true);
    let mounted = Mounted::make("mkfs.ext4 -q -N 64 -b 1024", 1);
    let output = mounted.path().join("volume");
    fs::write(&output, "old").unwrap();
    for format in ["raw", "qcow2"] {
        let (code, cause) = points.code("flatten", flatten(&points, &output, format));
        assert_eq!(code, Code::NoSpace, "{cause}");
        assert!(cause.contains("volume"), "{cause}");
        assert_eq!(fs::read(&output).unwrap(), b"old");
        assert!(
            !fs::read_dir(mounted.path()).unwrap().any(|e| e
                .unwrap()
                .file_name()
                .to_string_lossy()
                .contains("nasbackup"))
        );
    }
}

#[test]
fn a_device_is_overwritten_to_its_end_unless_it_is_in_use_or_too_small() {
    let points = Points::make(3, true);
    let device = Loop::full(9 << 20);
    points.call("flatten", flatten(&points, &device.device, "raw")).unwrap();
    let mut wanted = fs::read(expected(&points)).unwrap();
    wanted.resize(9 << 20, 0);
    let mut content = Vec::new();
    device.open().read_to_end(&mut content).unwrap();
    assert!(content == wanted);

    let small = Loop::full(7 << 20);
    let (code, cause) = points.code("flatten", flatten(&points, &small.device, "raw"));
    assert!(code == Code::InvalidArgument && cause.contains("has 7340032 bytes"), "{cause}");
    let (code, cause) = points.code("flatten", flatten(&points, &device.device, "qcow2"));
    assert!(code == Code::InvalidArgument && cause.contains("'raw' only"), "{cause}");
    shell(&format!("mkfs.ext4 -q {}", device.device.display()));
    let at = tempfile::tempdir().unwrap();
    shell(&format!("mount {} {}", device.device.display(), at.path().display()));
    assert_eq!(points.code("flatten", flatten(&points, &device.device, "raw")).0, Code::Busy);
    shell(&format!("umount {}", at.path().display()));

    // QEMU has it open, as it would for a guest
    let volume = at.path().join("volume");
    File::create(&volume).unwrap().set_len(8 << 20).unwrap();
    for output in [&small.device, &volume] {
        let mut tool = Command::new("qemu-io")
            .args(["-f", "raw", output.to_str().unwrap()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut prompt = [0; 1];
        tool.stdout.as_mut().unwrap().read_exact(&mut prompt).unwrap();
        let request = if output == &volume { flatten(&points, output, "raw") } else { onto_small(&points, output) };
        assert_eq!(points.code("flatten", request).0, Code::DomainState, "{}", output.display());
        drop(tool.stdin.take());
        tool.wait().unwrap();
    }
}

/// A disk that fits on the small device.
fn onto_small(points: &Points, device: &Path) -> Value {
    let folder = points.dir.path().join("i-2/T1");
    fs::create_dir_all(&folder).unwrap();
    qemu_img(&folder, &["create", "-q", "-f", "qcow2", "root.small.qcow2", "4M"]);
    json!({"backupPath": "i-2/T1", "volume": "small", "output": {"path": device, "format": "raw"}})
}

#[test]
fn what_can_not_be_an_output_is_refused_before_anything_is_made() {
    let points = Points::make(3, true);
    let out = tempfile::tempdir().unwrap();
    symlink("/no/such", out.path().join("dangling")).unwrap();
    symlink(points.dir.path().join("i-1/T1"), out.path().join("point")).unwrap();
    run("mkfifo", out.path(), &["fifo"]).unwrap();
    fs::create_dir(points.dir.path().join("i-1/new")).unwrap();
    fs::create_dir_all(points.dir.path().join("i-2/2026.01.02.03.04.05")).unwrap();
    let root = points.dir.path().display();
    let at = out.path().display();
    for (path, code, word) in [
        ("relative".to_owned(), Code::InvalidArgument, "output.path"),
        ("/tmp/".to_owned(), Code::InvalidArgument, "output.path"),
        ("/".to_owned(), Code::InvalidArgument, "output.path"),
        ("/tmp/a\nb".to_owned(), Code::InvalidArgument, "output.path"),
        (format!("{at}"), Code::InvalidArgument, "neither"),
        (format!("{at}/fifo"), Code::InvalidArgument, "neither"),
        ("/dev/null".to_owned(), Code::InvalidArgument, "neither"),
        (format!("{at}/dangling"), Code::InvalidArgument, "leads nowhere"),
        (format!("{at}/none/x"), Code::NotFound, ""),
        (format!("{root}/i-1/T3/{}", DISKS[0]), Code::InvalidArgument, "restore points"),
        (format!("{root}/i-1/T3/x"), Code::InvalidArgument, "restore points"),
        (format!("{root}/i-1/x"), Code::InvalidArgument, "restore points"),
        (format!("{root}/i-1/new/x"), Code::InvalidArgument, "restore points"),
        (format!("{root}/i-2/2026.01.02.03.04.05/x"), Code::InvalidArgument, "restore points"),
        (format!("{at}/point/x"), Code::InvalidArgument, "restore points"),
    ] {
        let (found, cause) = points.code("flatten", flatten(&points, Path::new(&path), "raw"));
        assert!(found == code && cause.contains(word), "{path}: {found} {cause}");
    }
    let good = out.path().join("x");
    for (change, code) in [
        (json!({"backupPath": null}), Code::InvalidArgument),
        (json!({"backupPath": "i-1"}), Code::InvalidArgument),
        (json!({"backupPath": "i-1/T9"}), Code::NotFound),
        (json!({"volume": null}), Code::InvalidArgument),
        (json!({"volume": ""}), Code::InvalidArgument),
        (json!({"volume": "v7"}), Code::NotFound),
        (json!({"output": null}), Code::InvalidArgument),
        (json!({"output": {"path": good}}), Code::InvalidArgument),
        (json!({"output": {"format": "raw"}}), Code::InvalidArgument),
        (json!({"output": {"path": good, "format": "vmdk"}}), Code::InvalidArgument),
    ] {
        let mut request = flatten(&points, &good, "raw");
        request.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        assert_eq!(points.code("flatten", request).0, code, "{change}");
    }
    fs::remove_file(points.dir.path().join("i-1/T1").join(DISKS[0])).unwrap();
    assert_eq!(points.code("flatten", flatten(&points, &good, "raw")).0, Code::ParentInvalid);
    assert!(fs::read_dir(points.dir.path().join("i-1/new")).unwrap().next().is_none());
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 3);
}

#[test]
fn without_a_manifest_the_volume_is_found_by_its_files_name() {
    let points = Points::make(3, true);
    let out = tempfile::tempdir().unwrap();
    let output = out.path().join("x");
    let mut request = flatten(&points, &output, "raw");
    request["volume"] = json!("a b");
    let manifest = points.dir.path().join("i-1/T3/manifest.json");
    fs::write(&manifest, "{").unwrap();
    assert_eq!(points.code("flatten", request.clone()).0, Code::CorruptImage, "what it said is not known");
    fs::remove_file(&manifest).unwrap();
    points.call("flatten", request).unwrap();
    assert!(same_bytes(&output, &expected(&points)));
}

#[test]
fn neighbours_that_share_a_cluster_of_the_file_are_read_both_from_there() {
    let points = Points::make(3, true);
    let image =
        OpenOptions::new().read(true).write(true).open(points.dir.path().join("i-1/T2").join(DISKS[0])).unwrap();
    let at = |offset: u64| {
        let mut entry = [0; 8];
        image.read_exact_at(&mut entry, offset).unwrap();
        u64::from_be_bytes(entry) & !(1 << 63)
    };
    // the guest's clusters at 2 MiB and the one behind it: the second one's own is in use no more
    let (l2, counts) = (at(at(40)) + (2 << 20 >> 16) * 8, at(at(48)));
    let (shared, unused) = (at(l2), at(l2 + 8));
    run(
        "qemu-io",
        points.dir.path(),
        &["-f", "raw", "-c", &format!("write -q -P 99 {unused} 64k"), "i-1/T2/root.a b.qcow2"],
    )
    .unwrap();
    for entry in [l2, l2 + 8] {
        image.write_all_at(&shared.to_be_bytes(), entry).unwrap();
    }
    for (cluster, count) in [(shared, 2_u16), (unused, 0)] {
        image.write_all_at(&count.to_be_bytes(), counts + (cluster >> 16) * 2).unwrap();
    }
    assert_eq!(check(points.dir.path(), "i-1/T2/root.a b.qcow2"), (0, 0));
    let out = tempfile::tempdir().unwrap();
    for format in ["raw", "qcow2"] {
        points.call("flatten", flatten(&points, &out.path().join(format), format)).unwrap();
    }
    assert!(same_bytes(&out.path().join("raw"), &expected(&points)));
    compare(out.path(), &expected(&points), "qcow2").unwrap();
    points.call("rebasePoint", json!({"backupPath": "i-1/T3", "newParent": "i-1/T1"})).unwrap();
    points.assert_same();
}

#[test]
fn images_that_name_the_same_data_without_end_are_refused() {
    let (point, out) = (Point::empty(), tempfile::tempdir_in("/dev/shm").unwrap());
    let path = point.newest();
    qemu_img(point.dir.path(), &["create", "-q", "-f", "qcow2", path.to_str().unwrap(), "4T"]);
    run("qemu-io", point.dir.path(), &["-f", "qcow2", "-c", "write -q 0 64k", path.to_str().unwrap()]).unwrap();
    let image = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut table = [0; 8];
    let at = |offset: u64| {
        let mut entry = [0; 8];
        image.read_exact_at(&mut entry, offset).unwrap();
        u64::from_be_bytes(entry)
    };
    let l1 = at(40);
    let l2 = at(l1) & 0x00ff_ffff_ffff_fe00;
    image.read_exact_at(&mut table, l2).unwrap();
    let whole = |format: &str| point.flatten(&out.path().join(format), format);
    whole("raw").unwrap();
    // one cluster of data for all of a table
    image.write_all_at(&table.repeat(8192), l2).unwrap();
    assert!(whole("raw").unwrap_err().to_string().contains("again and again"));
    // one table for all of the disk
    image.write_all_at(&at(l1).to_be_bytes().repeat(8192), l1).unwrap();
    for format in ["raw", "qcow2"] {
        assert!(whole(format).unwrap_err().to_string().contains("is named twice"));
    }
}

#[test]
fn damaged_images_are_an_error_or_are_checked_and_flattened() {
    let (begun, time) = (Instant::now(), time());
    let (mut flattened, mut refused) = (0, 0);
    for seed in seeds("NASBACKUP_FUZZ_CHAINS", 3).chain(if time.is_some() { 1000..u64::MAX } else { 0..0 }) {
        if time.is_some_and(|time| begun.elapsed() > time) {
            break;
        }
        let chain = Chain::make(seed, Kind::Small);
        let point = Point::of(&chain, chain.images - 1);
        let out = tempfile::tempdir_in("/dev/shm").unwrap();
        for round in 0..150 {
            let mut random = Random(seed << 32 | round);
            let damaged = point.image(random.below(chain.images as u64) as usize);
            let original = fs::read(&damaged).unwrap();
            let mut image = original.clone();
            mutate(&mut random, &mut image);
            fs::write(&damaged, &image).unwrap();
            eprintln!("seed {seed}, round {round}");
            drop(verify::ours(&damaged));
            for format in ["raw", "qcow2"] {
                let output = out.path().join(format);
                match point.flatten(&output, format) {
                    Ok(_) => {
                        flattened += 1;
                        fs::remove_file(output).unwrap();
                    }
                    Err(error) => {
                        refused += 1;
                        assert!(error.code != Code::Internal && !error.cause.is_empty() && !error.leftovers, "{error}");
                    }
                }
                assert!(fs::read_dir(out.path()).unwrap().next().is_none());
            }
            fs::write(&damaged, &original).unwrap();
        }
    }
    println!("{flattened} flattened, {refused} refused");
    assert!(flattened > 50 && refused > 50, "{flattened} flattened, {refused} refused");
}
