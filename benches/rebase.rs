//! `qemu-img` and ours, side by side on XFS with shared blocks, Btrfs and ext4: 740 MB absorbed by a rebase, 3 GiB
//! flattened to either format, and the tables of 1 TiB checked.
//!
//! Needs root: the file systems are loop images, mounted in a mount namespace of their own. `TMPDIR` has to have room
//! for 14 GiB. Run with `make bench-images`, or `cargo bench --bench rebase xfs` for one file system.

mod absorbed;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use absorbed::{BY_QEMU, COMPARE, Outcome, Shape, absorb, make, shell};
use nasbackup::operation::call;
use nasbackup::qcow2::check;
use serde_json::json;

const INSIDE: &str = "NASBACKUP_BENCH_INSIDE";
const MIB: u64 = 1 << 20;

/// What is measured: QEMU's commands, which make `theirs`, what comes before them, how that is compared to `ours`, and the images that
/// hold the same bytes: to read, write and sync them plainly is the floor where nothing is shared.
struct Job {
    name: &'static str,
    before: &'static str,
    qemu: &'static str,
    compare: &'static str,
    floor: &'static str,
}

const REBASE: Job = Job {
    name: "rebase",
    before: "cp target.qcow2 theirs; sync",
    qemu: BY_QEMU,
    compare: COMPARE,
    floor: "middle.qcow2",
};
const RAW: Job = Job {
    name: "flatten to raw",
    before: "true",
    qemu: "qemu-img convert -f qcow2 -O raw target.qcow2 theirs; sync theirs",
    compare: "cmp theirs ours",
    floor: "base.qcow2 middle.qcow2",
};
const QCOW2: Job = Job {
    name: "flatten to qcow2",
    before: "true",
    qemu: "qemu-img convert -f qcow2 -O qcow2 target.qcow2 theirs; sync theirs",
    compare: COMPARE,
    floor: "base.qcow2 middle.qcow2",
};
const CHECK: Job =
    Job { name: "check 1 TiB", before: "true", qemu: "qemu-img check -q target.qcow2", compare: "true", floor: "" };

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

fn on(system: &str, mkfs: &str) -> Outcome {
    let work = tempfile::tempdir()?;
    let (disk, mount) = (work.path().join("disk"), work.path().join("mount"));
    fs::create_dir(&mount)?;
    File::create(&disk)?.set_len(14 << 30)?;
    shell(work.path(), &format!("{mkfs} disk; mount -o loop disk mount"))?;
    for (shape, runs) in [("700 runs", 700), ("single clusters", 11_840)] {
        let dir = mount.join("nas/i-1/T1");
        fs::create_dir_all(&dir)?;
        make(&dir, &Shape { disk: 8 << 30, absorbed: 740 * MIB, runs, base: 2304 })?;
        fs::hard_link(dir.join("target.qcow2"), dir.join("root.v.qcow2"))?;
        for job in [REBASE, RAW, QCOW2] {
            measure(system, shape, &dir, &job)?;
        }
        fs::remove_dir_all(mount.join("nas"))?;
    }
    let dir = mount.join("large");
    fs::create_dir(&dir)?;
    shell(&dir, "qemu-img create -q -f qcow2 -o preallocation=metadata target.qcow2 1T")?;
    measure(system, "", &dir, &CHECK)?;
    shell(work.path(), "umount mount")?;
    Ok(())
}

/// Bytes that the file system of `dir` has written to its device.
fn written(dir: &Path) -> Outcome<u64> {
    let stat = shell(dir, "sync -f .; cat /sys/block/$(basename $(findmnt -no SOURCE -T .))/stat")?;
    let sectors: u64 = stat.split_whitespace().nth(6).ok_or("no count of sectors")?.parse()?;
    Ok(sectors * 512)
}

fn measure(system: &str, shape: &str, dir: &Path, job: &Job) -> Outcome {
    let begin = || -> Outcome<u64> {
        let written = written(dir)?;
        shell(dir, "echo 3 > /proc/sys/vm/drop_caches").map(|_| written)
    };
    shell(dir, job.before)?;
    let from = begin()?;
    let begun = Instant::now();
    shell(dir, job.qemu)?;
    let theirs = begun.elapsed().as_secs_f64();
    let by_qemu = written(dir)? - from;

    if job.name == REBASE.name {
        shell(dir, "cp target.qcow2 ours")?;
    }
    let from = begin()?;
    let ours = std::env::current_exe()?;
    let figures = shell(dir, &format!("{} ours '{}' {}", ours.display(), job.name, dir.display()))?;
    let by_ours = written(dir)? - from;
    let [ours, cloned, copied, memory] = figures.split_whitespace().collect::<Vec<_>>()[..] else {
        return Err(format!("figures '{figures}'").into());
    };
    let floor = if job.floor.is_empty() || cloned != "0" {
        "-".into()
    } else {
        begin()?;
        let begun = Instant::now();
        shell(dir, &format!("cat {} | dd of=floor bs=1M iflag=fullblock conv=fdatasync", job.floor))?;
        let took = begun.elapsed().as_secs_f64();
        shell(dir, "rm floor")?;
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
    shell(dir, &format!("{}; rm -f theirs ours", job.compare))?;
    Ok(())
}

/// Where the output of a flattening goes: no restore point takes it.
fn outside(dir: &Path) -> PathBuf {
    dir.ancestors().nth(2).unwrap_or(dir).with_extension("ours")
}

/// Does it, in a process of its own, and prints seconds, MiB cloned and copied, and the most memory it had, in MiB.
fn run_ours(job: &str, dir: &Path) -> Outcome {
    let begun = Instant::now();
    let (cloned, copied) = match job {
        "rebase" => {
            let moved = absorb(dir)?;
            (moved.cloned, moved.copied)
        }
        "check 1 TiB" => {
            let checked = check(File::open(dir.join("target.qcow2"))?, &mut |_, _| Ok(()))?;
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
