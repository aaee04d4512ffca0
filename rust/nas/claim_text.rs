//! What the file of a claim says, a line each: the counter, the host since its boot, the process, an id, the host's name, and `adds` if
//! the owner is a writer that only adds a point.

use super::purpose::Purpose;
use crate::error::{Code, Error, Result};

pub(super) const STEP: &str = "claim the instance";
/// The last line of the claim of a writer that only adds a point.
const ADDS: &str = "adds\n";
/// Longer than any claim, in bytes.
pub(super) const LONGEST: u64 = 512;

/// What a claim of this process says after its counter.
pub(super) fn owner_text(id: &str, purpose: Purpose) -> Result<String> {
    let last = if purpose == Purpose::Add { ADDS } else { "" };
    let host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Ok(format!("{}\n{}\n{id}\n{host_name}\n{last}", host_identity()?, process_identity(std::process::id())?))
}

/// True for the claim of a writer that only adds a point.
pub(super) fn only_adds(claim: &[u8]) -> bool {
    claim.ends_with(ADDS.as_bytes())
}

/// Whose claim it is.
pub(super) fn owner(claim: &[u8]) -> String {
    let text = String::from_utf8_lossy(claim);
    let line = |number| text.lines().nth(number).filter(|line| !line.is_empty()).unwrap_or("unknown");
    // the fifth line is the host's name, which older versions did not write
    let host = if line(4) == ADDS.trim_end() { "unknown" } else { line(4) };
    format!("host '{host}' (boot id {}, process {})", line(1), line(2))
}

/// The counter as text: always of the same length, so that the owner can overwrite it.
pub(super) fn counter(value: u64) -> String {
    format!("{value:020}\n")
}

/// Identifies this host since its boot, and the namespace of process ids.
pub(super) fn host_identity() -> Result<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(|e| Error::io(STEP, "/proc", e))?;
    let ids = std::fs::read_link("/proc/self/ns/pid").map_err(|e| Error::io(STEP, "/proc", e))?;
    Ok(format!("{} {}", boot.trim(), ids.display()))
}

/// Identifies a process of this host: its id and its start time in ticks (proc(5), `/proc/pid/stat`, field 22).
pub(super) fn process_identity(id: u32) -> Result<String> {
    let io = |e| Error::io(STEP, "/proc", e);
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).map_err(io)?;
    // the process's name, in brackets, may hold anything, brackets, too
    let started = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19));
    let started = started.ok_or_else(|| io(std::io::ErrorKind::InvalidData.into()))?;
    Ok(format!("{id} {started}"))
}

/// True for the text of a claim as hosts write it: a counter, the host, the process, an id.
pub(super) fn is_claim(claim: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(claim) else { return false };
    let lines: Vec<_> = text.lines().take(4).collect();
    let is_counter = |line: &str| line.len() == 20 && line.bytes().all(|byte| byte.is_ascii_digit());
    let is_whole = (claim.len() as u64) < LONGEST && text.ends_with('\n');
    is_whole
        && matches!(lines[..], [counter, host, process, id] if is_counter(counter) && ![host, process, id].contains(&""))
}

/// True for the claim of a process of this host that is dead.
pub(super) fn is_of_dead_process(claim: &[u8]) -> bool {
    let text = String::from_utf8_lossy(claim);
    let mut lines = text.lines().skip(1);
    let (Some(host_then), Some(process_then)) = (lines.next(), lines.next()) else { return false };
    let id = process_then.split(' ').next().and_then(|id| id.parse().ok());
    let here = host_identity().is_ok_and(|host| host == host_then);
    here && id.is_some_and(|id| match process_identity(id) {
        Ok(now) => now != process_then,
        Err(error) => error.code == Code::NotFound,
    })
}
