//! What is left to `qemu-img`: bitmaps, for QEMU alone writes to a guest's disk, and the copy of images that only QEMU knows
//! how to read.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::process::Process;
use crate::error::{Code, Error, Result};
use crate::job::Reporter;

const PROGRAM: &str = "qemu-img";
/// How long `qemu-img bitmap` may take: it writes a few clusters.
const BITMAP: Duration = Duration::from_secs(120);
/// Between two looks at a process.
const TICK: Duration = Duration::from_millis(50);

/// Adds or removes a bitmap (`--add`, `--remove`), under QEMU's image lock.
pub(super) fn bitmap(what: &str, path: &str, bitmap: &str) -> Result<()> {
    let mut command = Command::new(PROGRAM);
    command.args(["bitmap", what, "-f", "qcow2", "--", path, bitmap]);
    let mut process = Process::start(PROGRAM, "change the disk's bitmaps", command.stdin(Stdio::null()))?;
    let until = Instant::now() + BITMAP;
    loop {
        match process.ended()? {
            Some(status) => return process.result(status),
            None if Instant::now() > until => {
                let late = Error::new(Code::Timeout, "change the disk's bitmaps", "qemu-img did not end");
                return Err(process.kill(late));
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// Copies what a guest sees of the image `source` into the empty qcow2 `target`, which it gets open: by now a link to something
/// else may have its name. `progress` makes bytes done and bytes to do out of the bytes that were read.
pub(super) fn convert(
    (source, format): (&str, &str),
    target: File,
    job: &mut Reporter<'_>,
    deadline: Instant,
    progress: impl Fn(u64) -> (u64, u64),
) -> Result<()> {
    let mut command = Command::new(PROGRAM);
    command.args(["convert", "-n", "--target-is-zero", "-f", format, "-O", "qcow2", source, "/proc/self/fd/0"]);
    let mut process = Process::start(PROGRAM, "copy the disk", command.stdin(target))?;
    loop {
        if let Some(status) = process.ended()? {
            return process.result(status);
        }
        let (done, total) = progress(process.bytes_read());
        job.progress(done, total);
        job.tell().map_err(|error| process.kill(error))?;
        if Instant::now() >= deadline {
            return Err(process.kill(Error::new(Code::Timeout, "copy the disk", "not done within waitSeconds")));
        }
        std::thread::sleep(TICK);
    }
}
