//! What is mounted where, as the kernel has it (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

const TABLE: &str = "/proc/thread-self/mountinfo";

/// Where a file lies, whichever mount of this host it was opened through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountPlace {
    /// The folder at which its file system is mounted.
    pub(crate) point: PathBuf,
    /// The type and the source of its file system, as `nfs4 'nas:/export'`.
    pub(crate) file_system: String,
    /// The path in it.
    pub(crate) path: PathBuf,
    /// The options of the file system, as it tells them.
    pub(crate) options: String,
}

/// Where the file that is open lies. Asks the kernel's tables only, no file system.
pub(crate) fn place(file: BorrowedFd<'_>) -> io::Result<MountPlace> {
    let path = std::fs::read_link(format!("/proc/thread-self/fd/{}", file.as_raw_fd()))?;
    let found = place_in(&std::fs::read(TABLE)?, &path);
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it lies in no mount"))
}

fn place_in(table: &[u8], path: &Path) -> Option<MountPlace> {
    let mounts = table.split(|byte| *byte == b'\n').filter_map(|line| {
        let fields: Vec<_> = line.split(|byte| *byte == b' ').collect();
        // optional fields end with a dash
        let end = fields.iter().skip(6).position(|field| *field == b"-")? + 6;
        let (root, point) = (plain(fields.get(3)?), plain(fields.get(4)?));
        let inside = path.strip_prefix(&point).ok()?;
        let file_system =
            format!("{} '{}'", plain(fields.get(end + 1)?).display(), plain(fields.get(end + 2)?).display());
        // nothing is joined to the mount point itself: that would add a slash
        let path = if inside.as_os_str().is_empty() { root } else { root.join(inside) };
        let options = plain(fields.get(end + 3)?).display().to_string();
        Some(MountPlace { point, file_system, path, options })
    });
    // of mounts on top of each other the last is seen
    mounts.max_by_key(|place| place.point.components().count())
}

/// Is something mounted at `path`, which is absolute and without links? Asks the kernel's table only, no file system.
pub(crate) fn is_mounted(path: &Path) -> io::Result<bool> {
    Ok(points(&std::fs::read(TABLE)?).any(|point| point == path))
}

/// The mount points right in the folder, which is absolute and without links, of this type of file system.
pub(crate) fn of_type_in(file_system: &str, folder: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(of_type(&std::fs::read(TABLE)?, file_system).filter(|point| point.parent() == Some(folder)).collect())
}

fn of_type<'a>(table: &'a [u8], file_system: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
    table.split(|byte| *byte == b'\n').filter_map(move |line| {
        let fields: Vec<_> = line.split(|byte| *byte == b' ').collect();
        // optional fields end with a dash
        let end = fields.iter().skip(6).position(|field| *field == b"-")? + 6;
        (*fields.get(end + 1)? == file_system.as_bytes()).then(|| plain(fields[4]))
    })
}

/// The mount points in a table; lines that can't be understood are skipped.
fn points(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4)).map(plain)
}

/// A field without the kernel's escapes, `\` and three octal digits.
pub(crate) fn plain(field: &[u8]) -> PathBuf {
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
pub(crate) fn resolved(folder: &Path) -> PathBuf {
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
        assert_eq!(of_type(table, "nfs").collect::<Vec<_>>(), ["/mnt/a b\\c\t", "/mnt/\\9\\04"].map(PathBuf::from));
        assert_eq!(of_type(table, "nf").count(), 0);
        assert!(is_mounted(Path::new("/proc")).unwrap());
        assert!(!is_mounted(Path::new("/proc/self")).unwrap());
    }

    #[test]
    fn a_file_has_one_place_whichever_mount_shows_it() {
        let table = b"22 1 0:21 / / rw - ext4 /dev/a rw\n\
            36 22 0:40 / /mnt/a\\040b rw,noatime shared:2 master:1 - nfs4 host:/x\\040y rw\n\
            37 22 0:40 /i-1 /srv/one rw - nfs4 host:/x\\040y rw\n\
            38 22 8:1 / /over rw - ext4 /dev/b rw\n39 38 8:2 / /over rw - xfs /dev/c ro,x=y\n40 22 short\n";
        for (path, point, file_system, inside) in [
            ("/mnt/a b/i-1/T1", "/mnt/a b", "nfs4 'host:/x y'", "/i-1/T1"),
            ("/srv/one/T1", "/srv/one", "nfs4 'host:/x y'", "/i-1/T1"),
            ("/srv/one", "/srv/one", "nfs4 'host:/x y'", "/i-1"),
            ("/over/x", "/over", "xfs '/dev/c'", "/x"),
            ("/mnt/a bc", "/", "ext4 '/dev/a'", "/mnt/a bc"),
        ] {
            let place = place_in(table, Path::new(path)).unwrap();
            let options = if path == "/over/x" { "ro,x=y" } else { "rw" }.to_owned();
            let (point, path_in_it, file_system) = (point.into(), inside.into(), file_system.to_owned());
            let expected = MountPlace { point, file_system, path: path_in_it, options };
            assert_eq!(place, expected, "{path}");
        }
        assert_eq!(place_in(b"", Path::new("/")), None);
        let dir = std::fs::File::open("/proc/self").unwrap();
        assert_eq!(place(std::os::fd::AsFd::as_fd(&dir)).unwrap().file_system, "proc 'proc'");
    }
}
