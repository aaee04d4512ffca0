//! The path of an output: where it leads, and whether restore points lie there.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Code, Error, Result};
use crate::nas::folder::Folder;
use crate::qemu::image_file;
use crate::work::phase::Phase;

pub(super) const STEP: &str = "open the output";
/// The step in which all are opened.
pub(super) const OPEN_ALL: &str = Phase::OpenOutputs.as_str();

pub(super) fn refused(path: &Path, why: &str) -> Error {
    Error::invalid("output.path", format!("'{}' {why}", path.display()))
}

/// An output would replace something, and is not to.
pub(super) fn is_there(path: &str) -> Error {
    Error::new(Code::AlreadyExists, OPEN_ALL, format!("'{path}' is there"))
}

/// Refuses two outputs with the same path.
pub(super) fn refuse_same(paths: impl Iterator<Item = Result<PathBuf>>) -> Result<()> {
    let mut taken = BTreeSet::new();
    for path in paths {
        if let Some(path) = taken.replace(path?) {
            return Err(refused(&path, "is the path of two outputs"));
        }
    }
    Ok(())
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
        Err(error) if error.kind() == ErrorKind::NotADirectory => Err(refused(path, "lies in no folder")),
        Err(error) => Err(io(error)),
    }
}

/// As `resolve`, of a path whose folders are made if they are missing.
pub(super) fn resolve_in_new_folders(path: &Path) -> Result<(PathBuf, Option<Metadata>)> {
    let is_there = |above: &&Path| above.symlink_metadata().is_ok();
    match path.ancestors().skip(1).find(is_there) {
        Some(above) if path.parent() != Some(above) => match resolve(above)? {
            (real, Some(found)) if found.is_dir() => Ok((real.join(path.strip_prefix(above).unwrap_or(path)), None)),
            _ => Err(refused(path, "lies in no folder")),
        },
        _ => resolve(path),
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

    /// Refuses a path in a folder of the repository: those are the machines', in which restore points lie.
    pub(super) fn refuse(&self, path: &Path) -> Result<()> {
        for (depth, folder) in path.ancestors().skip(1).enumerate() {
            let metadata = match fs::metadata(folder) {
                // nothing lies in it yet
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                metadata => metadata.map_err(|e| Error::io(STEP, folder, e))?,
            };
            let this = (metadata.dev(), metadata.ino());
            if this == self.instance || this == self.root && depth > 0 {
                return Err(refused(path, "lies where the repository's restore points are"));
            }
        }
        Ok(())
    }
}
