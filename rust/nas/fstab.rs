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
    let Ok(table) = std::fs::read(table()) else { return Ok(()) };
    let real = mountinfo::resolved(folder);
    // others are not looked at: they may be of a NAS that hangs
    let above = mount_points(&table).filter(|point| folder.starts_with(point) || real.starts_with(point));
    let above = above.map(|point| (mountinfo::resolved(&point), point)).filter(|(place, _)| real.starts_with(place));
    let Some((place, point)) = above.max_by_key(|(place, _)| place.components().count()) else { return Ok(()) };
    if mountinfo::place(root.as_fd()).map_or(true, |mounted| mounted.point.starts_with(&place)) {
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

/// The mount points in the table, but for `/`: that is mounted.
fn mount_points(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    let lines = table.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii_start().starts_with(b"#"));
    lines.filter_map(|line| {
        let mut fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
        let (_, point, kind) = (fields.next()?, mountinfo::plain(fields.next()?), fields.next()?);
        (kind != b"swap" && point != Path::new("/")).then_some(point)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_from_the_table() {
        let table = b"# comment /mnt/c nfs\nUUID=1 / ext4 defaults 0 1\nUUID=2 none swap sw 0 0\n\
            /dev/sdb /mnt ext4 defaults\nnas:/backup\t/mnt/nas nfs vers=4.2,noauto\nnas:/x /mnt/with\\040space nfs soft\n";
        let found: Vec<_> = mount_points(table).collect();
        assert_eq!(found, ["/mnt", "/mnt/nas", "/mnt/with space"].map(PathBuf::from));
    }
}
