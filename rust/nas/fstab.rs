//! What this host's table of mounts (fstab(5)) says that a folder is to be.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::folder::Folder;
use crate::error::{Code, Error, Result};
use crate::mountinfo;

/// `MOUNT_FAILED` for a folder that lies where the table has a file system, and none is mounted: points would lie on this host,
/// fill its disk, and be hidden by the next mount. Whatever is mounted between the two is taken for what was meant. A table that
/// can't be read says nothing.
pub(super) fn check_mounted(folder: &Path, root: &Folder) -> Result<()> {
    let Some(point) = std::fs::read(table()).ok().and_then(|table| mount_point(&table, folder)) else { return Ok(()) };
    let real = mountinfo::resolved(&point);
    if mountinfo::place(root.as_fd()).map_or(true, |place| place.point.starts_with(&real)) {
        return Ok(());
    }
    let cause = format!("'{}' stands in /etc/fstab, and nothing is mounted there", point.display());
    Err(Error::new(Code::MountFailed, "open the repository", cause))
}

#[cfg(not(feature = "test-hooks"))]
fn table() -> PathBuf {
    "/etc/fstab".into()
}

/// A test may have another table.
#[cfg(feature = "test-hooks")]
fn table() -> PathBuf {
    std::env::var_os("NASBACKUP_FSTAB").unwrap_or_else(|| "/etc/fstab".into()).into()
}

/// The mount point in the table that the folder is, or lies below; of several the deepest.
fn mount_point(table: &[u8], folder: &Path) -> Option<PathBuf> {
    let lines = table.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii_start().starts_with(b"#"));
    let points = lines.filter_map(|line| {
        let mut fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
        let (_, point, kind) = (fields.next()?, mountinfo::plain(fields.next()?), fields.next()?);
        (kind != b"swap" && point != Path::new("/") && folder.starts_with(&point)).then_some(point)
    });
    points.max_by_key(|point| point.components().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_point_of_the_table_is_meant() {
        let table = b"# comment /mnt/c nfs\nUUID=1 / ext4 defaults 0 1\nUUID=2 none swap sw 0 0\n\
            /dev/sdb /mnt ext4 defaults\nnas:/backup\t/mnt/nas nfs vers=4.2,noauto\nnas:/x /mnt/with\\040space nfs soft\n";
        for (folder, expected) in [
            ("/mnt/nas", Some("/mnt/nas")),
            ("/mnt/nas/a/b", Some("/mnt/nas")),
            ("/mnt/nasty", Some("/mnt")),
            ("/mnt/with space/a", Some("/mnt/with space")),
            ("/srv/nas", None),
            ("/", None),
        ] {
            assert_eq!(mount_point(table, Path::new(folder)).as_deref(), expected.map(Path::new), "{folder}");
        }
    }
}
