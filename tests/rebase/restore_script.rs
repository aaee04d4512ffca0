//! `restorePoint` of points that CloudStack's own script has made: no manifest, QEMU's own images, and libvirt's texts beside
//! them. They are restored as they are, and by a host with a key not at all.

use std::fs;
use std::path::{Path, PathBuf};

use nasbackup::error::Code;
use serde_json::{Value, json};

use crate::chains::{qemu_img, run};
use crate::restore::{QUICK, all, content, restore};

const FILES: [&str; 2] = ["root.7c7bd7f0-5e2f-4d56-9a3c-0d3d4f6f0a11.qcow2", "datadisk.vol two.qcow2"];
const VM: &str = "i-2-10-VM";
const TEXTS: [&str; 4] = ["domain-config.xml", "dominfo.xml", "domiflist.xml", "domblklist.xml"];

/// A repository of the script's, and what each disk was at each point.
struct Made {
    dir: tempfile::TempDir,
    points: Vec<(String, Vec<PathBuf>)>,
}

impl Made {
    fn begin() -> Made {
        let made = Made { dir: tempfile::tempdir_in(QUICK).unwrap(), points: Vec::new() };
        for (i, size) in ["3M", "1536K"].iter().enumerate() {
            let live = made.live(i);
            qemu_img(made.dir.path(), &["create", "-q", "-f", "qcow2", live.to_str().unwrap(), size]);
            made.write(i, &format!("write -P {} 0 700k", 0x20 + i));
        }
        made
    }

    /// The disk of the machine.
    fn live(&self, disk: usize) -> PathBuf {
        self.dir.path().join(format!("live-{disk}"))
    }

    fn write(&self, disk: usize, command: &str) {
        self.io(&self.live(disk), command);
    }

    fn io(&self, image: &Path, command: &str) {
        run("qemu-io", self.dir.path(), &["-f", "qcow2", "-c", command, image.to_str().unwrap()]).unwrap();
    }

    fn folder(&mut self) -> PathBuf {
        let point = format!("{VM}/2026.11.{:02}.00.00.00", self.points.len() + 1);
        let raws = (0..FILES.len()).map(|disk| {
            let raw = self.dir.path().join(format!("raw-{}-{disk}", self.points.len()));
            let live = self.live(disk);
            qemu_img(
                self.dir.path(),
                &["convert", "-f", "qcow2", "-O", "raw", live.to_str().unwrap(), raw.to_str().unwrap()],
            );
            raw
        });
        let raws = raws.collect();
        let folder = self.dir.path().join(&point);
        fs::create_dir_all(&folder).unwrap();
        self.points.push((point, raws));
        folder
    }

    /// Of a machine that does not run: converted, and no texts.
    fn stopped(&mut self) {
        let folder = self.folder();
        for (disk, file) in FILES.iter().enumerate() {
            let (live, image) = (self.live(disk), folder.join(file));
            qemu_img(&folder, &["convert", "-O", "qcow2", live.to_str().unwrap(), image.to_str().unwrap()]);
        }
    }

    /// Of one that runs: libvirt makes the target on the live disk, QEMU writes what has changed, and the script gives it the
    /// file of its own disk below, without a look.
    fn incremental(&mut self, changes: [&str; 2]) {
        let below = self.points.last().unwrap().0.rsplit('/').next().unwrap().to_owned();
        (0..FILES.len()).for_each(|disk| self.write(disk, changes[disk]));
        let folder = self.folder();
        for (disk, file) in FILES.iter().enumerate() {
            let (live, image) = (self.live(disk), folder.join(file));
            let [live, image] = [&live, &image].map(|path| path.to_str().unwrap());
            qemu_img(&folder, &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", live, image]);
            self.io(Path::new(image), changes[disk]);
            let parent = format!("../{below}/{file}");
            qemu_img(&folder, &["rebase", "-u", "-f", "qcow2", "-b", &parent, "-F", "qcow2", image]);
        }
        TEXTS.iter().for_each(|text| fs::write(folder.join(text), "as virsh prints it").unwrap());
    }

    fn request(&self, point: usize, out: &Path, format: &str) -> Value {
        let volume = |file: &str| json!({"file": file, "output": {"path": out.join(file), "format": format}});
        json!({
            "repository": {"type": "dir", "address": self.dir.path()},
            "backupPath": self.points[point].0,
            "volumes": FILES.map(volume),
        })
    }
}

/// Two chains of a machine: full and incrementals, with data, zeroes and discards.
fn chains() -> Made {
    let mut made = Made::begin();
    made.stopped();
    made.incremental(["write -P 0x31 512k 200k", "write -z 64k 128k"]);
    made.incremental(["discard 0 64k", "write -P 0x42 1M 300k"]);
    made.stopped();
    made.incremental(["write -P 0x53 2M 1M", "write -P 0x54 4k 4k"]);
    made
}

#[test]
fn each_point_of_the_script_s_chains_comes_back_and_is_checked_as_far_as_it_can_be() {
    let made = chains();
    for (point, (path, raws)) in made.points.iter().enumerate() {
        let format = if point % 2 == 0 { "raw" } else { "qcow2" };
        let out = tempfile::tempdir_in(QUICK).unwrap();
        let restored = restore(&made.request(point, out.path(), format)).unwrap();
        for (disk, file) in FILES.iter().enumerate() {
            assert_eq!(restored["volumes"][disk]["verified"], "chain", "{path}");
            assert!(content(&out.path().join(file), format) == fs::read(&raws[disk]).unwrap(), "{path}: {file}");
        }
        // by the volume that the file's name tells
        let mut named = made.request(point, out.path(), format);
        named["volumes"][1] = json!({"volume": "vol two", "output": named["volumes"][1]["output"]});
        restore(&named).unwrap();
        assert!(content(&out.path().join(FILES[1]), format) == fs::read(&raws[1]).unwrap(), "{path}");
        assert_eq!(all(out.path()).len(), 2);
        let mut compared = made.request(point, out.path(), format);
        compared["verify"] = json!("data");
        let error = restore(&compared).unwrap_err();
        assert!(error.code == Code::InvalidArgument && error.cause.contains("fingerprints"), "{error}");
    }
}

/// What a restore asks for in a process of its own, whose host has a key.
#[test]
fn with_a_key() {
    let Ok(request) = std::env::var("NASBACKUP_TEST_WITH_KEY") else { return };
    let request: Value = serde_json::from_str(&request).unwrap();
    let init = json!({"keyFile": request["keyFile"]});
    nasbackup::operation::call("init", &init.to_string(), &mut |_| Ok(())).unwrap();
    let error = restore(&request["restore"]).unwrap_err();
    assert_eq!(error.code, Code::CorruptImage, "{error}");
    assert!(error.cause.contains("no key of keyFile vouches for the point"), "{error}");
}

#[test]
fn a_host_with_a_key_restores_none_of_them_and_replaces_nothing() {
    use std::os::unix::fs::PermissionsExt;

    let made = chains();
    let (out, host) = (tempfile::tempdir_in(QUICK).unwrap(), tempfile::tempdir().unwrap());
    let key = host.path().join("keys");
    fs::write(&key, "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    FILES.iter().for_each(|file| fs::write(out.path().join(file), "as it was").unwrap());
    let before = all(out.path());
    for point in [0, 2] {
        let request = json!({"keyFile": key, "restore": made.request(point, out.path(), "raw")});
        let mut agent = std::process::Command::new(std::env::current_exe().unwrap());
        agent.args(["restore_script::with_a_key", "--exact", "--nocapture"]);
        let output = agent.env("NASBACKUP_TEST_WITH_KEY", request.to_string()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(all(out.path()) == before, "{point}");
    }
    // and one without does
    restore(&made.request(2, out.path(), "raw")).unwrap();
    assert!(fs::read(out.path().join(FILES[0])).unwrap() == fs::read(&made.points[2].1[0]).unwrap());
}
