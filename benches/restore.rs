//! `restorePoint` against `qemu-img convert`: a full onto another file system, both durable; a NAS that answers after 5 ms; and
//! volumes that differ in 1, 10 and 50 % from what they were. MiB in `NASBACKUP_BENCH_MIB`, 3072 unless given.

use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nasbackup::engine::Engine;
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

fn main() -> Outcome {
    const INSIDE: &str = "NASBACKUP_BENCH_INSIDE";
    if std::env::var(INSIDE).is_err() {
        let status = Command::new("unshare").arg("-m").arg(std::env::current_exe()?).env(INSIDE, "1").status()?;
        return if status.success() { Ok(()) } else { Err("the benchmark failed".into()) };
    }
    let size = std::env::var("NASBACKUP_BENCH_MIB").map_or(Ok(3072), |mib| mib.parse::<u64>())? * MIB;
    let work = tempfile::tempdir()?;
    let [nas, out] = ["nas", "out"].map(|name| work.path().join(name));
    for at in [&nas, &out] {
        let image = at.with_extension("img");
        File::create(&image)?.set_len(3 * size + (1 << 30))?;
        shell(&format!("mkfs.ext4 -q {0}; mkdir {1}; mount -o loop {0} {1}", image.display(), at.display()))?;
    }
    make(&nas, size)?;
    println!("{:<34} {:>9} {:>9} {:>7} {:>10}", "", "qemu-img", "ours", "ratio", "read");
    let image = nas.join("i-1/T1").join(IMAGE);
    for format in ["raw", "qcow2"] {
        let convert = |then: &str| {
            shell(&format!(
                "cd {}; qemu-img convert -W -m 16 -f qcow2 -O {format} {} theirs{then}",
                out.display(),
                image.display()
            ))
        };
        let cached = timed(|| convert(""))?;
        let theirs = timed(|| convert("; sync theirs"))?;
        for verify in ["chain", "data"] {
            let (ours, read) = restore(&nas, &out, format, verify)?;
            tell(&format!("{format}, verify {verify}"), Some(theirs), ours, read);
            shell(&format!("rm {}", out.join("ours").display()))?;
        }
        println!("{:<34} {cached:>7.2} s, in the page cache only", format!("{format}, qemu-img"));
        shell(&format!("rm {}", out.join("theirs").display()))?;
    }
    differential(&nas, &out, size)?;
    slow(work.path(), &nas, &out)?;
    shell(&format!("umount {} {}", nas.display(), out.display()))?;
    Ok(())
}

fn differential(nas: &Path, out: &Path, size: u64) -> Outcome {
    restore(nas, out, "raw", "data")?;
    for percent in [1, 10, 50] {
        let volume = File::options().write(true).open(out.join("ours"))?;
        for at in (0..size).step_by(CLUSTER as usize).filter(|at| at / CLUSTER * 37 % 100 < percent) {
            std::os::unix::fs::FileExt::write_all_at(&volume, &[percent as u8; CLUSTER as usize], at)?;
        }
        volume.sync_all()?;
        let (ours, read) = restore(nas, out, "raw", "data")?;
        tell(&format!("raw, {percent} % differ"), None, ours, read);
    }
    Ok(fs::remove_file(out.join("ours"))?)
}

fn slow(work: &Path, nas: &Path, out: &Path) -> Outcome {
    let (source, delay, at) = (work.join("delay.c"), work.join("delay.so"), work.join("slow"));
    fs::write(&source, DELAY)?;
    shell(&format!("cc -shared -fPIC -O2 -o {} {} -ldl; mkdir {}", delay.display(), source.display(), at.display()))?;
    let mut view: Child = Command::new("bindfs")
        .args(["-f", "--multithreaded", "-o", "ro"])
        .args([nas, &at])
        .env("LD_PRELOAD", &delay)
        .spawn()?;
    while !at.join("i-1").exists() {
        std::thread::sleep(Duration::from_millis(50));
    }
    let read = timed(|| {
        shell(&format!("dd if={} of=/dev/null bs=1M count=256 2>/dev/null", at.join("i-1/T1").join(IMAGE).display()))
    })?;
    let all = read * fs::metadata(nas.join("i-1/T1").join(IMAGE))?.len() as f64 / (256 * MIB) as f64;
    let (ours, bytes) = restore(&at, out, "raw", "data")?;
    tell("raw, 5 ms away (by one reader)", Some(all), ours, bytes);
    shell(&format!("umount {}", at.display()))?;
    view.wait()?;
    Ok(())
}

fn tell(what: &str, theirs: Option<f64>, ours: f64, read: u64) {
    let theirs_told = theirs.map_or("-".into(), |theirs| format!("{theirs:.2} s"));
    let ratio = theirs.map_or("-".into(), |theirs| format!("{:.1}x", theirs / ours));
    println!("{what:<34} {theirs_told:>9} {:>9} {ratio:>7} {:>6} MiB", format!("{ours:.2} s"), read / MIB);
}

fn timed<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<f64> {
    shell("sync; echo 3 > /proc/sys/vm/drop_caches")?;
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed().as_secs_f64())
}

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
    let mut indexing = index_image(File::open(&image)?, File::create(folder.join(&index))?)?;
    let (hash, rest) = loop {
        if let Some(hashes) = indexing.advance(Instant::now() + Duration::from_secs(1))? {
            break hashes;
        }
    };
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
        rebasing: None,
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
    manifest.write(&mut File::create(folder.join("manifest.json"))?)?;
    Ok(())
}

fn shell(command: &str) -> Outcome {
    let output = Command::new("bash").args(["-ec", command]).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command}: {}", String::from_utf8_lossy(&output.stderr)).into())
}
