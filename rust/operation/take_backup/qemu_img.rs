//! What is left to `qemu-img`: bitmaps, for QEMU alone writes to a guest's disk.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::process::Process;
use crate::error::{Code, Error, Result};

const PROGRAM: &str = "qemu-img";
/// How long `qemu-img bitmap` may take: it writes a few clusters.
const BITMAP: Duration = Duration::from_secs(120);

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
