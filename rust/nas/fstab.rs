//! What this host's table of mounts (fstab(5)) and systemd's units (systemd.mount(5)) say that a folder is to be.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::folder::Folder;
use crate::error::{Code, Error, Result};
use crate::mountinfo;

/// `MOUNT_FAILED` for a folder that lies where the table or a unit of the operator's has a file system, and none is mounted: points
/// would lie on this host, fill its disk, and be hidden by the next mount. Whatever is mounted between the two is taken for what was
/// meant. A file that can't be read says nothing.
pub(super) fn check_mounted(folder: &Path, root: &Folder) -> Result<()> {
    let real = mountinfo::resolved(folder);
    // others are not looked at: they may be of a NAS that hangs
    let above = told().into_iter().filter(|(point, _)| folder.starts_with(point) || real.starts_with(point));
    let above = above.map(|told| (mountinfo::resolved(&told.0), told)).filter(|(place, _)| real.starts_with(place));
    let Some((place, (point, file))) = above.max_by_key(|(place, _)| place.components().count()) else { return Ok(()) };
    if mountinfo::place(root.as_fd()).map_or(true, |mounted| mounted.point.starts_with(&place)) {
        return Ok(());
    }
    let cause = format!("'{}' stands in '{}', and nothing is mounted there", point.display(), file.display());
    Err(Error::new(Code::MountFailed, "open the repository", cause))
}

/// The mount points, but for `/`, which is mounted, each with the file that tells it.
fn told() -> Vec<(PathBuf, PathBuf)> {
    let (table, units) = (settings().join("fstab"), settings().join("systemd/system"));
    let mut told = Vec::new();
    let mut add = |file: PathBuf, points: fn(&[u8]) -> Vec<PathBuf>| {
        let points = fs::read(&file).map(|text| points(&text)).unwrap_or_default();
        told.extend(points.into_iter().filter(|point| point != Path::new("/")).map(|point| (point, file.clone())));
    };
    add(table, in_table);
    let units = fs::read_dir(units).into_iter().flatten().flatten().map(|unit| unit.path());
    // a FIFO would be waited for
    let is_unit = |unit: &PathBuf| unit.extension() == Some("mount".as_ref()) && unit.is_file();
    units.filter(is_unit).for_each(|unit| add(unit, in_unit));
    told
}

#[cfg(not(feature = "test-hooks"))]
fn settings() -> PathBuf {
    "/etc".into()
}

/// A test may have others.
#[cfg(feature = "test-hooks")]
fn settings() -> PathBuf {
    std::env::var_os("NASBACKUP_ETC").unwrap_or_else(|| "/etc".into()).into()
}

fn in_table(table: &[u8]) -> Vec<PathBuf> {
    let lines = table.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii_start().starts_with(b"#"));
    let points = lines.filter_map(|line| {
        let mut fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
        let (_, point, kind) = (fields.next()?, mountinfo::plain(fields.next()?), fields.next()?);
        (kind != b"swap").then_some(point)
    });
    points.collect()
}

fn in_unit(unit: &[u8]) -> Vec<PathBuf> {
    let points = unit.split(|byte| *byte == b'\n').filter_map(|line| {
        let value = line.trim_ascii().strip_prefix(b"Where")?.trim_ascii_start().strip_prefix(b"=")?.trim_ascii_start();
        value.starts_with(b"/").then(|| OsStr::from_bytes(value).into())
    });
    points.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_from_the_table_and_units() {
        let table = b"# comment /mnt/c nfs\nUUID=1 / ext4 defaults 0 1\nUUID=2 none swap sw 0 0\n\
            /dev/sdb /mnt ext4 defaults\nnas:/backup\t/mnt/nas nfs vers=4.2,noauto\nnas:/x /mnt/with\\040space nfs soft\n";
        assert_eq!(in_table(table), ["/", "/mnt", "/mnt/nas", "/mnt/with space"].map(PathBuf::from));
        let unit = b"[Unit]\nDescription=Where=/x\n[Mount]\n#Where=/y\nWhat=nas:/backup\nWhere = /mnt/my nas/\n";
        assert_eq!(in_unit(unit), ["/mnt/my nas"].map(PathBuf::from));
    }
}
