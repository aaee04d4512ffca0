//! `restorePoint` against `qemu-img convert`: a full onto another file system, both durable; volumes that differ in 1, 10 and
//! 50 % from what they were; a NAS that answers after 5 ms. `NASBACKUP_BENCH_MIB`: size of the disk, 3072 unless given;
//! `BENCH_RUNS`: how often, once unless given.

use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nasbackup::config::Engine;
use nasbackup::operation::call;
use nasbackup::point::fingerprints::{Fingerprints, file_name, index_image};
use nasbackup::point::{Kind, Manifest, ManifestDisk};
use nasbackup::qcow2::{CLUSTER, Stream};
use serde_json::{Value, json};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const IMAGE: &str = "root.v.qcow2";
const MIB: u64 = 1 << 20;
/// Each read waits for 5 ms, as on a NAS that is far away.
const DELAY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
#include <unistd.h>
ssize_t pread64(int f, void *b, size_t n, off64_t o) {
    ssize_t (*next)(int, void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pread64");
    struct timespec t = {0, 5000000};
    nanosleep(&t, 0);
    return next(f, b, n, o);
}
ssize_t pread(int f, void *b, size_t n, off_t o) { return pread64(f, b, n, o); }
"#;

fn sample(run: u64, what: &str, who: &str, (seconds, read): (f64, u64)) {
    println!(
        "{}",
        json!({"section": "restore", "what": what, "who": who, "run": run, "seconds": seconds, "read": read})
    );
}

/// One repository, and another file system for what is restored.
struct Bench {
    work: PathBuf,
    nas: PathBuf,
    out: PathBuf,
    size: u64,
}

fn main() -> Outcome {
    const INSIDE: &str = "NASBACKUP_BENCH_INSIDE";
    if std::env::var(INSIDE).is_err() {
        let status = Command::new("unshare").arg("-m").arg(std::env::current_exe()?).env(INSIDE, "1").status()?;
        return if status.success() { Ok(()) } else { Err("the benchmark failed".into()) };
    }
    let (size, runs) = (number("NASBACKUP_BENCH_MIB", 3072)? * MIB, number("BENCH_RUNS", 1)?);
    let work = tempfile::tempdir()?;
    let [nas, out] = ["nas", "out"].map(|name| work.path().join(name));
    for at in [&nas, &out] {
        let image = at.with_extension("img");
        File::create(&image)?.set_len(3 * size + (1 << 30))?;
        shell(&format!("mkfs.ext4 -q {0}; mkdir {1}; mount -o loop {0} {1}", image.display(), at.display()))?;
    }
    make(&nas, size)?;
    let mut bench = Bench { work: work.path().into(), nas, out, size };
    for run in 0..runs {
        for format in ["raw", "qcow2"] {
            bench.full(run, format)?;
        }
        bench.differential(run)?;
        bench.far(run)?;
    }
    shell(&format!("umount {} {}", bench.nas.display(), bench.out.display()))
}

fn number(variable: &str, default: u64) -> Outcome<u64> {
    Ok(std::env::var(variable).map_or(Ok(default), |text| text.parse())?)
}

impl Bench {
    /// All of it to another file system: each the first in every other run.
    fn full(&mut self, run: u64, format: &str) -> Outcome {
        let what = format!("full to {format}");
        for turn in [run, run + 1] {
            if turn.is_multiple_of(2) {
                let seconds = self.convert(format, "")?;
                sample(run, &what, "qemu-img, in the page cache only", (seconds, 0));
                let seconds = self.convert(format, "; sync theirs")?;
                sample(run, &what, "qemu-img", (seconds, 0));
            } else {
                for (verify, who) in [("chain", "unverified"), ("data", "restorePoint")] {
                    let took = restore(&self.nas, &self.out, format, verify)?;
                    fs::remove_file(self.out.join("ours"))?;
                    sample(run, &what, who, took);
                }
            }
        }
        Ok(())
    }

    fn convert(&self, format: &str, then: &str) -> Outcome<f64> {
        let (out, image) = (self.out.display(), self.nas.join("i-1/T1").join(IMAGE));
        let convert = format!("qemu-img convert -W -m 16 -f qcow2 -O {format} {} theirs", image.display());
        let seconds = timed(|| shell(&format!("cd {out}; {convert}{then}")))?;
        fs::remove_file(self.out.join("theirs"))?;
        Ok(seconds)
    }

    /// Onto a volume of which so many hundredths differ.
    fn differential(&mut self, run: u64) -> Outcome {
        restore(&self.nas, &self.out, "raw", "data")?;
        for percent in [1, 10, 50] {
            let volume = File::options().write(true).open(self.out.join("ours"))?;
            for at in (0..self.size).step_by(CLUSTER as usize).filter(|at| at / CLUSTER * 37 % 100 < percent) {
                std::os::unix::fs::FileExt::write_all_at(&volume, &[percent as u8; CLUSTER as usize], at)?;
            }
            volume.sync_all()?;
            let took = restore(&self.nas, &self.out, "raw", "data")?;
            sample(run, &format!("{percent} % differ"), "restorePoint", took);
        }
        Ok(fs::remove_file(self.out.join("ours"))?)
    }

    /// From a NAS that answers after 5 ms; one reader's time is that of a part of it, multiplied.
    fn far(&mut self, run: u64) -> Outcome {
        const PART: u64 = 128 * MIB;
        let (source, delay) = (self.work.join("delay.c"), self.work.join("delay.so"));
        let at = self.work.join("far");
        fs::write(&source, DELAY)?;
        fs::create_dir_all(&at)?;
        shell(&format!("cc -shared -fPIC -O2 -o {} {} -ldl", delay.display(), source.display()))?;
        let mut view: Child = Command::new("bindfs")
            .args(["-f", "--multithreaded", "-o", "ro"])
            .args([&self.nas, &at])
            .env("LD_PRELOAD", &delay)
            .spawn()?;
        while !at.join("i-1").exists() {
            std::thread::sleep(Duration::from_millis(50));
        }
        let image = at.join("i-1/T1").join(IMAGE);
        let blocks = PART / MIB;
        let read =
            timed(|| shell(&format!("dd if={} of=/dev/null bs=1M count={blocks} 2>/dev/null", image.display())))?;
        let all = fs::metadata(&image)?.len() as f64 / PART as f64;
        sample(run, "5 ms away", "one reader", (read * all, 0));
        let took = restore(&at, &self.out, "raw", "data")?;
        fs::remove_file(self.out.join("ours"))?;
        sample(run, "5 ms away", "restorePoint", took);
        shell(&format!("umount {}", at.display()))?;
        view.wait()?;
        Ok(())
    }
}

/// Seconds, with nothing in the page cache before.
fn timed<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<f64> {
    shell("sync; echo 3 > /proc/sys/vm/drop_caches")?;
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Seconds, and bytes that were read from the repository.
fn restore(nas: &Path, out: &Path, format: &str, verify: &str) -> Outcome<(f64, u64)> {
    let request = json!({
        "repository": {"type": "dir", "address": nas},
        "backupPath": "i-1/T1",
        "verify": verify,
        "volumes": [{"volume": "v", "output": {"path": out.join("ours"), "format": format}}],
    });
    let mut restored = Value::Null;
    let took = timed(|| {
        restored = call("restorePoint", &request.to_string(), &mut |_| Ok(()))?;
        Ok(())
    })?;
    Ok((took, restored["bytesRead"].as_u64().unwrap_or(0)))
}

/// A full of random data, with its fingerprints.
fn make(nas: &Path, size: u64) -> Outcome {
    let folder: PathBuf = nas.join("i-1/T1");
    fs::create_dir_all(&folder)?;
    let image = folder.join(IMAGE);
    let file = File::options().read(true).write(true).create_new(true).open(&image)?;
    let mut stream = Stream::begin(file, size, None)?;
    let (mut piece, mut random) = (vec![0; 1 << 20], File::open("/dev/urandom")?);
    for at in (0..size).step_by(piece.len()) {
        std::io::Read::read_exact(&mut random, &mut piece)?;
        stream.data(at, &piece)?;
    }
    stream.finish()?;
    let index = file_name(IMAGE);
    let (hash, rest) = index_image(File::open(&image)?, File::create(folder.join(&index))?, &mut |_, _| Ok(()))?;
    let disk = ManifestDisk {
        volume: "v".into(),
        serial: None,
        file: IMAGE.into(),
        kind: Kind::Full,
        parent: None,
        size: fs::metadata(&image)?.len(),
        virtual_size: size,
        bitmap: None,
        fingerprints: Some(Fingerprints { file: index, hash, rest }),
        lost_fingerprints: false,
        snapshot: None,
        rebasing: None,
        goes_into: None,
    };
    let manifest = Manifest {
        version: Manifest::VERSION,
        point_id: "bench".into(),
        backup_path: Some("i-1/T1".into()),
        vm_name: "i-1".into(),
        when: "2031-01-02T03:04:05Z".parse()?,
        kind: Kind::Full,
        bitmap: None,
        name: None,
        engine: Engine::Pull,
        parent: None,
        disks: vec![disk],
        left_out: Vec::new(),
        texts: None,
        mac: None,
        checksum: None,
    };
    manifest.write(&File::create(folder.join("manifest.json"))?)?;
    Ok(())
}

fn shell(command: &str) -> Outcome {
    let output = Command::new("bash").args(["-ec", command]).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command}: {}", String::from_utf8_lossy(&output.stderr)).into())
}
