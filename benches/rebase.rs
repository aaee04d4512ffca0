//! `qemu-img` and ours, side by side on XFS with shared blocks, Btrfs and ext4: 740 MB absorbed by a rebase, 3 GiB
//! flattened to either format, and the tables of 1 TiB checked.
//!
//! Needs root: the file systems are loop images, mounted in a mount namespace of their own. `TMPDIR` has to have room
//! for 14 GiB. Run with `make bench-images`, or `cargo bench --bench rebase xfs` for one file system.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use nasbackup::operation::call;
use nasbackup::qcow2::{Rebase, check};
use serde_json::json;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const INSIDE: &str = "NASBACKUP_BENCH_INSIDE";
const MIB: u64 = 1 << 20;
const DISK: u64 = 8 << 30;
/// Pieces of 1 MiB in the full.
const BASE: u64 = 2304;

/// What is measured: QEMU's commands, from `time ` on with a clock, which make `theirs`, how that is compared to `ours`,
/// and the images that hold the same bytes: to read, write and sync them plainly is the floor where nothing is shared.
struct Job {
    name: &'static str,
    qemu: &'static str,
    compare: &'static str,
    floor: &'static str,
}

const REBASE: Job = Job {
    name: "rebase",
    qemu: "cp target.qcow2 theirs; sync; time qemu-img rebase -f qcow2 -b base.qcow2 -F qcow2 theirs; sync theirs",
    compare: "qemu-img compare -q -f qcow2 -F qcow2 theirs ours; qemu-img check -q ours",
    floor: "middle.qcow2",
};
const RAW: Job = Job {
    name: "flatten to raw",
    qemu: "time qemu-img convert -f qcow2 -O raw target.qcow2 theirs; sync theirs",
    compare: "cmp theirs ours",
    floor: "base.qcow2 middle.qcow2",
};
const QCOW2: Job = Job {
    name: "flatten to qcow2",
    qemu: "time qemu-img convert -f qcow2 -O qcow2 target.qcow2 theirs; sync theirs",
    compare: "qemu-img compare -q -f qcow2 -F qcow2 theirs ours; qemu-img check -q ours",
    floor: "base.qcow2 middle.qcow2",
};
const CHECK: Job = Job { name: "check 1 TiB", qemu: "time qemu-img check -q target.qcow2", compare: "", floor: "" };

fn main() -> Outcome {
    let args: Vec<String> = std::env::args().collect();
    if let [_, ours, job, dir] = &args[..]
        && ours == "ours"
    {
        return run_ours(job, Path::new(dir));
    }
    if std::env::var(INSIDE).is_err() {
        let status = Command::new("unshare")
            .arg("-m")
            .arg(std::env::current_exe()?)
            .args(&args[1..])
            .env(INSIDE, "1")
            .status()?;
        return if status.success() { Ok(()) } else { Err("the benchmark failed".into()) };
    }
    println!("{:<6} {:<16} {:<16} {:>10} {:>10} {:>8} {:>10} | ours", "", "", "", "qemu-img", "ours", "ratio", "floor");
    println!("{:<80} | {:>8} {:>8} {:>9} (qemu-img) {:>11}", "", "cloned", "copied", "written", "peak memory");
    let systems = [("xfs", "mkfs.xfs -q -m reflink=1"), ("btrfs", "mkfs.btrfs -q"), ("ext4", "mkfs.ext4 -q")];
    let asked = |name: &str| args.iter().any(|arg| arg == name);
    let all = !systems.iter().any(|(name, _)| asked(name));
    for (system, mkfs) in systems.into_iter().filter(|(name, _)| all || asked(name)) {
        on(system, mkfs)?;
    }
    Ok(())
}

fn shell(command: &str) -> Outcome<String> {
    let output = Command::new("bash").args(["-ec", command]).output()?;
    if !output.status.success() {
        return Err(format!("{command}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn on(system: &str, mkfs: &str) -> Outcome {
    let work = tempfile::tempdir()?;
    let (disk, mount) = (work.path().join("disk"), work.path().join("mount"));
    fs::create_dir(&mount)?;
    File::create(&disk)?.set_len(14 << 30)?;
    shell(&format!("{mkfs} {}; mount -o loop {0} {}", disk.display(), mount.display()))?;
    for (shape, runs) in [("700 runs", 700), ("single clusters", 11_840)] {
        let dir = mount.join("nas/i-1/T1");
        make(&dir, runs)?;
        for job in [REBASE, RAW, QCOW2] {
            measure(system, shape, &dir, &job)?;
        }
        fs::remove_dir_all(mount.join("nas"))?;
    }
    let dir = mount.join("large");
    fs::create_dir(&dir)?;
    let image = dir.join("target.qcow2");
    shell(&format!("qemu-img create -q -f qcow2 -o preallocation=metadata {} 1T", image.display()))?;
    measure(system, "", &dir, &CHECK)?;
    shell(&format!("umount {}", mount.display()))?;
    Ok(())
}

/// Bytes that the file system of `dir` has written to its device.
fn written(dir: &Path) -> Outcome<u64> {
    let dir = dir.display();
    let stat = shell(&format!("sync -f {dir}; cat /sys/block/$(basename $(findmnt -no SOURCE -T {dir}))/stat"))?;
    let sectors: u64 = stat.split_whitespace().nth(6).ok_or("no count of sectors")?.parse()?;
    Ok(sectors * 512)
}

fn measure(system: &str, shape: &str, dir: &Path, job: &Job) -> Outcome {
    let at = dir.display();
    let begin = || -> Outcome<u64> {
        let written = written(dir)?;
        shell("echo 3 > /proc/sys/vm/drop_caches").map(|_| written)
    };
    // what comes before is not measured
    let (before, command) = job.qemu.split_once("time ").ok_or("nothing is timed")?;
    shell(&format!("cd {at}; {before}"))?;
    let from = begin()?;
    let begun = Instant::now();
    shell(&format!("cd {at}; {command}"))?;
    let theirs = begun.elapsed().as_secs_f64();
    let by_qemu = written(dir)? - from;

    if job.name == REBASE.name {
        shell(&format!("cd {at}; cp target.qcow2 ours"))?;
    }
    let from = begin()?;
    let figures = shell(&format!("{} ours '{}' {at}", std::env::current_exe()?.display(), job.name))?;
    let by_ours = written(dir)? - from;
    let [ours, cloned, copied, memory] = figures.split_whitespace().collect::<Vec<_>>()[..] else {
        return Err(format!("figures '{figures}'").into());
    };
    let floor = if job.floor.is_empty() || cloned != "0" {
        "-".into()
    } else {
        begin()?;
        let begun = Instant::now();
        shell(&format!("cd {at}; cat {} | dd of=floor bs=1M iflag=fullblock conv=fdatasync", job.floor))?;
        let took = begun.elapsed().as_secs_f64();
        shell(&format!("rm {at}/floor"))?;
        format!("{took:.2} s")
    };
    let ratio = theirs / ours.parse::<f64>()?;
    println!(
        "{system:<6} {:<16} {shape:<16} {theirs:>8.2} s {ours:>8} s {ratio:>7.1}x {floor:>10} | {cloned:>4} MiB {copied:>4} MiB {:>5} MiB \
         ({:>4} MiB) {memory:>7} MiB",
        job.name,
        by_ours / MIB,
        by_qemu / MIB,
    );
    shell(&format!("cd {at}; {}; rm -f theirs ours", if job.compare.is_empty() { "true" } else { job.compare }))?;
    Ok(())
}

/// A full of 2.25 GiB, an incremental with 740 MB in that many runs in random order, and a small one on top.
fn make(dir: &Path, runs: u64) -> Outcome {
    fs::create_dir_all(dir)?;
    let length = 740 * MIB / runs / 65536 * 65536;
    let mut places: Vec<u64> = (0..runs).collect();
    let mut state = 1_u64;
    for last in (1..places.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        places.swap(last, (state >> 33) as usize % (last + 1));
    }
    let stride = DISK / runs / 65536 * 65536;
    let spread: String =
        places.iter().map(|place| format!("write -q -P {} {} {length}\n", place % 255 + 1, place * stride)).collect();
    let full: String =
        (0..BASE).map(|i| format!("write -q -P 77 {} 1M\n", i * (DISK / BASE / 65536 * 65536))).collect();
    for (name, backing, writes) in [
        ("base", None, full),
        ("middle", Some("base"), spread),
        ("target", Some("middle"), "write -q -P 9 1M 4M\n".into()),
    ] {
        let options = backing.map_or(String::new(), |backing| format!("-b {backing}.qcow2 -F qcow2"));
        let dir = dir.display();
        shell(&format!("cd {dir}; qemu-img create -q -f qcow2 {options} {name}.qcow2 {DISK}"))?;
        let mut tool = Command::new("qemu-io");
        let mut tool = tool
            .args(["-f", "qcow2", &format!("{dir}/{name}.qcow2")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        tool.stdin.take().ok_or("no input")?.write_all(writes.as_bytes())?;
        if !tool.wait()?.success() {
            return Err("qemu-io failed".into());
        }
    }
    Ok(fs::hard_link(dir.join("target.qcow2"), dir.join("root.v.qcow2"))?)
}

/// Where the output of a flattening goes: no restore point takes it.
fn outside(dir: &Path) -> PathBuf {
    dir.ancestors().nth(2).unwrap_or(dir).with_extension("ours")
}

/// Does it, in a process of its own, and prints seconds, MiB cloned and copied, and the most memory it had, in MiB.
fn run_ours(job: &str, dir: &Path) -> Outcome {
    let open = |name: &str| File::open(dir.join(name));
    let output = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(dir.join("ours"));
    let chain = || ["target.qcow2", "middle.qcow2", "base.qcow2"].map(open).into_iter().collect::<Result<Vec<_>, _>>();
    let begun = Instant::now();
    let (cloned, copied) = match job {
        "rebase" => {
            let backing = chain()?.split_off(1);
            let rebase = Rebase::begin(output()?, backing, 1, Some("base.qcow2"))?;
            let moved = rebase.check(&mut |_| Ok(()))?.run(&mut |_| Ok(()))?;
            (moved.cloned, moved.copied)
        }
        "check 1 TiB" => {
            let checked = check(open("target.qcow2")?, &mut |_, _| Ok(()))?;
            if checked.damaged + checked.leaked > 0 {
                return Err(format!("{checked:?}").into());
            }
            (0, 0)
        }
        _ => {
            let format = job.strip_prefix("flatten to ").ok_or("no such job")?;
            let (root, output) = (dir.ancestors().nth(2).ok_or("no repository")?, outside(dir));
            let request = json!({
                "repository": {"type": "dir", "address": root},
                "backupPath": "i-1/T1",
                "volume": "v",
                "output": {"path": output, "format": format},
            });
            let flattened = call("flatten", &request.to_string(), &mut |_| Ok(()))?;
            let bytes = |field: &str| flattened[field].as_u64().unwrap_or(0);
            (bytes("bytesCloned"), bytes("bytesCopied"))
        }
    };
    let took = begun.elapsed().as_secs_f64();
    if outside(dir).exists() {
        fs::rename(outside(dir), dir.join("ours"))?;
    }
    let status = fs::read_to_string("/proc/self/status")?;
    let memory = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no peak memory")?;
    let kib: u64 = memory.trim().trim_end_matches(" kB").parse()?;
    println!("{took:.3} {} {} {}", cloned / MIB, copied / MIB, kib.div_ceil(1024));
    Ok(())
}
