//! The path of an output: where it leads, and whether restore points lie there.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::nas::folder::Folder;
use crate::qemu::image_file;

pub(super) const STEP: &str = "open the output";

pub(super) fn refused(path: &Path, why: &str) -> Error {
    Error::invalid("output.path", format!("'{}' {why}", path.display()))
}

/// Resolves the symbolic links of a path; returns what is there, too. Only links that root has made are followed: others may lead to
/// any volume.
pub(super) fn resolve(path: &Path) -> Result<(PathBuf, Option<Metadata>)> {
    let io = |error| Error::io(STEP, path, error);
    let not_roots = || refused(path, "is reached by a link that root has not made");
    match image_file::resolve(path) {
        Ok(found) => found.map(|(real, metadata)| (real, Some(metadata))).ok_or_else(not_roots),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if fs::symlink_metadata(path).is_ok() {
                return Err(refused(path, "is a link that leads nowhere"));
            }
            let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(refused(path, "is no file's name"));
            };
            let (folder, _) = image_file::resolve(folder).map_err(io)?.ok_or_else(not_roots)?;
            Ok((folder.join(name), None))
        }
        Err(error) => Err(io(error)),
    }
}

/// The folders of a repository that hold restore points, as device and inode numbers: a comparison with them asks nothing of a NAS
/// that may hang.
#[derive(Debug, Clone, Copy)]
pub(super) struct PointFolders {
    root: (u64, u64),
    instance: (u64, u64),
}

impl PointFolders {
    pub(super) fn of(root: &Folder, instance: &Folder) -> Result<PointFolders> {
        let id = |folder: &Folder| {
            let stat = rustix::fs::fstat(folder).map_err(|e| Error::io(STEP, &folder.path, e))?;
            Ok((stat.st_dev, stat.st_ino))
        };
        Ok(PointFolders { root: id(root)?, instance: id(instance)? })
    }

    /// Refuses a path below the instance's folder, or two folders deep in the repository, where restore points lie.
    pub(super) fn refuse(&self, path: &Path) -> Result<()> {
        for (depth, folder) in path.ancestors().skip(1).enumerate() {
            let metadata = fs::metadata(folder).map_err(|e| Error::io(STEP, folder, e))?;
            let this = (metadata.dev(), metadata.ino());
            if this == self.instance || this == self.root && depth > 1 {
                return Err(refused(path, "lies where the repository's restore points are"));
            }
        }
        Ok(())
    }
}
