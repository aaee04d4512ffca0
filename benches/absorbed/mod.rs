//! A chain of three images of which the newest takes in the middle one, for the benchmarks of rebases.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use nasbackup::qcow2::{Direct, Moved, Rebase};

pub(crate) type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// What QEMU does with `theirs`, a copy of the newest image.
pub(crate) const BY_QEMU: &str = "qemu-img rebase -f qcow2 -b base.qcow2 -F qcow2 theirs; sync theirs";

/// Whether both have done the same.
pub(crate) const COMPARE: &str = "qemu-img compare -q -f qcow2 -F qcow2 theirs ours; qemu-img check -q ours";

/// The bytes of the guest's disk, those that the middle image has, in so many runs, and the pieces of 1 MiB in the full.
pub(crate) struct Shape {
    pub(crate) disk: u64,
    pub(crate) absorbed: u64,
    pub(crate) runs: u64,
    pub(crate) base: u64,
}

/// What the command prints, in this folder.
pub(crate) fn shell(folder: &Path, command: &str) -> Outcome<String> {
    let output = Command::new("bash").args(["-ec", command]).current_dir(folder).output()?;
    if !output.status.success() {
        return Err(format!("{command}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// A full, an incremental whose runs lie in random order, and a small one on top.
pub(crate) fn make(dir: &Path, shape: &Shape) -> Outcome {
    let aligned = |bytes: u64| bytes / 65536 * 65536;
    let (length, stride) = (aligned(shape.absorbed / shape.runs), aligned(shape.disk / shape.runs));
    let mut places: Vec<u64> = (0..shape.runs).collect();
    let mut state = 1_u64;
    for last in (1..places.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        places.swap(last, (state >> 33) as usize % (last + 1));
    }
    let write = |place: &u64| format!("write -q -P {} {} {length}\n", place % 255 + 1, place * stride);
    let spread: String = places.iter().map(write).collect();
    let each = aligned(shape.disk / shape.base);
    let full: String = (0..shape.base).map(|i| format!("write -q -P 77 {} 1M\n", i * each)).collect();
    for (name, backing, writes) in [
        ("base", None, full),
        ("middle", Some("base"), spread),
        ("target", Some("middle"), "write -q -P 9 1M 4M\n".into()),
    ] {
        let options = backing.map_or(String::new(), |backing| format!("-b {backing}.qcow2 -F qcow2"));
        shell(dir, &format!("qemu-img create -q -f qcow2 {options} {name}.qcow2 {}", shape.disk))?;
        let mut tool = Command::new("qemu-io")
            .args(["-f", "qcow2", &format!("{name}.qcow2")])
            .current_dir(dir)
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

/// Does to `ours`, a copy of the newest image, what QEMU does, and as a rebase of a point does it.
pub(crate) fn absorb(dir: &Path) -> Outcome<Moved> {
    let open = |name: &str| File::open(dir.join(name));
    let backing = ["middle.qcow2", "base.qcow2"].map(open).into_iter().collect::<Result<_, _>>()?;
    let ours = Direct::new(OpenOptions::new().read(true).write(true).open(dir.join("ours"))?);
    let rebase = Rebase::begin(ours, backing, 1, Some("base.qcow2"))?;
    Ok(rebase.check(&mut |_| Ok(()))?.run(&mut |_| Ok(()))?)
}
