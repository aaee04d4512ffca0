//! The path of an output: where it leads, and whether restore points lie there.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::error::{Code, Error, Result};
use crate::nas::folder::Folder;
use crate::nas::path::PARTIAL;
use crate::nas::removal::DELETED;
use crate::operation::list_points::OURS;
use crate::qemu::image_file;
use crate::work::phase::Phase;

pub(super) const STEP: &str = "open the output";
/// The step in which all are opened.
pub(super) const OPEN_ALL: &str = Phase::OpenOutputs.as_str();

pub(super) fn refused(path: &Path, why: &str) -> Error {
    Error::invalid("output.path", format!("'{}' {why}", path.display()))
}

/// An output would replace something, and is not to.
pub(super) fn already_there(path: &str) -> Error {
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
            // `..` in a folder that is not there leads nowhere yet
            (real, Some(found)) if found.is_dir() && !path.components().any(|part| part == Component::ParentDir) => {
                Ok((real.join(path.strip_prefix(above).unwrap_or(path)), None))
            }
            _ => Err(refused(path, "lies in no folder")),
        },
        _ => resolve(path),
    }
}

/// Does this folder of a repository hold points, or what the library keeps beside them? True of one that is not there yet.
fn is_machine(folder: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        entries => entries?,
    };
    for entry in entries {
        if is_of_points(entry?.file_name().as_bytes()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Is it the name of a point, as `2026.11.22.01.00.00`, or one that the library gives beside points?
fn is_of_points(name: &[u8]) -> bool {
    let parts: Vec<_> = name.split(|byte| *byte == b'.').collect();
    let is_time = parts.len() == 6 && parts.iter().all(|part| !part.is_empty() && part.iter().all(u8::is_ascii_digit));
    is_time || [PARTIAL, DELETED, OURS].iter().any(|begin| name.starts_with(begin.as_bytes()))
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

    /// Refuses a path in a machine's folder, or in a new one, which would be taken for one. Other folders of the repository may be
    /// pools of CloudStack's, which lie on the same NAS.
    pub(super) fn refuse(&self, path: &Path) -> Result<()> {
        let mut below = None;
        for folder in path.ancestors().skip(1) {
            let io = |error| Error::io(STEP, folder, error);
            let this = match fs::metadata(folder) {
                // nothing lies in it yet
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                metadata => metadata.map(|metadata| Some((metadata.dev(), metadata.ino()))).map_err(io)?,
            };
            let is_in_machine = || below.map_or(Ok(false), is_machine).map_err(io);
            if this == Some(self.instance) || this == Some(self.root) && is_in_machine()? {
                return Err(refused(path, "lies where the repository's restore points are"));
            }
            below = Some(folder);
        }
        Ok(())
    }
}
