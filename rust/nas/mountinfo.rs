//! What is mounted where, as the kernel has it (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Is something mounted at `path`, which is absolute and without links? Asks the kernel's table only, no file system.
pub(super) fn is_mounted(path: &Path) -> io::Result<bool> {
    Ok(points(&std::fs::read("/proc/thread-self/mountinfo")?).any(|point| point == path))
}

/// The mount points in a table; lines that can't be understood are skipped.
fn points(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4)).map(plain)
}

/// A field without the kernel's escapes, `\` and three octal digits.
fn plain(field: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [byte, after @ ..] = rest {
        let escaped = after.get(..3).filter(|_| *byte == b'\\').and_then(octal);
        plain.push(escaped.unwrap_or(*byte));
        rest = if escaped.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(plain).into()
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

/// The folder's path as the kernel writes it, links resolved; the path itself when that can't be found out.
pub(super) fn resolved(folder: &Path) -> PathBuf {
    folder.canonicalize().unwrap_or_else(|_| folder.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let table = b"22 1 0:21 / / rw - ext4 /dev/a rw\n\
            36 22 98:0 /x /mnt/a\\040b\\134c\\011 rw,noatime master:1 - nfs host:/x rw\n\
            37 22 98:0 / /mnt/\\9\\04 rw - nfs host:/x rw\n\nnonsense\n";
        let found: Vec<_> = points(table).collect();
        assert_eq!(found, ["/", "/mnt/a b\\c\t", "/mnt/\\9\\04"].map(PathBuf::from));
        assert!(is_mounted(Path::new("/proc")).unwrap());
        assert!(!is_mounted(Path::new("/proc/self")).unwrap());
    }
}
