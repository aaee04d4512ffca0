//! `qemu-img rebase` and ours, side by side: 740 MB absorbed on XFS with shared blocks, Btrfs and ext4.
//!
//! Needs root: the file systems are loop images, mounted in a mount namespace of their own. `TMPDIR` has to have room
//! for 6 GiB. Run with `cargo bench --bench rebase`.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use nasbackup::qcow2::Rebase;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const INSIDE: &str = "NASBACKUP_BENCH_INSIDE";
const MIB: u64 = 1 << 20;
const DISK: u64 = 8 << 30;

fn main() -> Outcome {
    let args: Vec<String> = std::env::args().collect();
    if let [_, mode, dir] = &args[..]
        && mode == "ours"
    {
        return ours(Path::new(dir));
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
    println!(
        "{:<22} {:<10} {:>9} {:>9} {:>7}  ours: cloned, copied, written, peak memory",
        "", "", "qemu-img", "ours", "ratio"
    );
    let systems = [("xfs", "mkfs.xfs -q -m reflink=1"), ("btrfs", "mkfs.btrfs -q"), ("ext4", "mkfs.ext4 -q")];
    let asked = |name: &str| args.iter().any(|arg| arg == name);
    let all = !systems.iter().any(|(name, _)| asked(name));
    for (system, mkfs) in systems.into_iter().filter(|(name, _)| all || asked(name)) {
        measure(system, mkfs)?;
    }
    Ok(())
}

fn shell(command: &str) -> Outcome<String> {
    let output = Command::new("sh").args(["-ec", command]).output()?;
    if !output.status.success() {
        return Err(format!("{command}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn measure(system: &str, mkfs: &str) -> Outcome {
    let work = tempfile::tempdir()?;
    let (disk, mount) = (work.path().join("disk"), work.path().join("mount"));
    fs::create_dir(&mount)?;
    File::create(&disk)?.set_len(12 << 30)?;
    let (disk, mount) = (disk.display(), mount.display());
    shell(&format!("{mkfs} {disk}; mount -o loop {disk} {mount}"))?;
    for (shape, runs) in [("700 runs", 700), ("single clusters", 11_840)] {
        let dir = format!("{mount}/{runs}");
        make(Path::new(&dir), runs)?;
        let mut took = Vec::new();
        let mut figures = String::new();
        for who in ["qemu-img", "ours"] {
            shell(&format!("cp {dir}/target.qcow2 {dir}/{who}.qcow2; sync; echo 3 > /proc/sys/vm/drop_caches"))?;
            let begun = Instant::now();
            figures = match who {
                "ours" => shell(&format!("{} ours {dir}", std::env::current_exe()?.display()))?,
                _ => shell(&format!(
                    "cd {dir}; qemu-img rebase -f qcow2 -b base.qcow2 -F qcow2 {who}.qcow2; sync {who}.qcow2"
                ))?,
            };
            // ours starts no process: its own figure leaves out that of this benchmark
            let inside = figures.split_once(' ').and_then(|(seconds, _)| seconds.parse().ok());
            took.push(inside.unwrap_or(begun.elapsed().as_secs_f64()));
        }
        shell(&format!("cd {dir}; qemu-img compare -q qemu-img.qcow2 ours.qcow2; qemu-img check -q ours.qcow2"))?;
        let ratio = took[0] / took[1];
        println!("{system:<22} {shape:<10} {:>7.2} s {:>7.3} s {ratio:>6.1}x  {}", took[0], took[1], figures.trim());
        fs::remove_dir_all(&dir)?;
    }
    shell(&format!("umount {mount}"))?;
    Ok(())
}

/// A full with 1 GiB, an incremental with 740 MB in that many runs in random order, and a small one on top.
fn make(dir: &Path, runs: u64) -> Outcome {
    fs::create_dir(dir)?;
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
    let one_gib: String = (0..1024).map(|i| format!("write -q -P 77 {} 1M\n", i * 8 * MIB)).collect();
    for (name, backing, writes) in [
        ("base", None, one_gib),
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
    Ok(())
}

fn ours(dir: &Path) -> Outcome {
    let target = OpenOptions::new().read(true).write(true).open(dir.join("ours.qcow2"))?;
    let backing = vec![File::open(dir.join("middle.qcow2"))?, File::open(dir.join("base.qcow2"))?];
    let begun = Instant::now();
    let mut rebase = Rebase::begin(target, backing, 1, Some("base.qcow2"))?;
    while !rebase.advance()?.finished {}
    let took = begun.elapsed().as_secs_f64();
    let field = |file: &str, name: &str| -> Outcome<String> {
        let text = fs::read_to_string(file)?;
        let line = text.lines().find(|line| line.starts_with(name)).ok_or("no such field")?;
        Ok(line[name.len()..].trim().to_owned())
    };
    let written: u64 = field("/proc/self/io", "write_bytes:")?.parse()?;
    println!(
        "{took:.4} s: {} MiB, {} MiB, {} MiB, {}",
        rebase.bytes_cloned() / MIB,
        rebase.bytes_copied() / MIB,
        written / MIB,
        field("/proc/self/status", "VmHWM:")?
    );
    Ok(())
}
