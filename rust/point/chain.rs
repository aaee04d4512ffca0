//! The images that an image stands on.

use std::fs::File;

use crate::error::{Code, Error, Result};
use crate::nas::folder::Folder;
use crate::nas::path::{PointPath, RepoPath};
use crate::qcow2;

const STEP: &str = "follow the chain";
/// More images than any chain has; each is an open file, and the provider begins a new chain long before.
pub const DEEPEST: usize = 512;

/// One image of a chain, open for reading.
#[derive(Debug)]
pub struct Link {
    /// Its file, relative to the repository's root.
    pub path: RepoPath,
    /// The same, open.
    pub file: File,
}

impl Link {
    /// Makes all that was written to the file durable, whoever has.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| Error::io("sync", self.path.as_str(), e))
    }
}

/// Opens the image `path` and all that it stands on, itself first, each beneath `root`. `NOT_FOUND` when it is not there,
/// `PARENT_INVALID` when one below is missing or stands on itself, `UNSUPPORTED_IMAGE` when one is not in a point of the
/// same machine or not qcow2, `CORRUPT_IMAGE`.
pub fn open_chain(root: &Folder, path: &RepoPath) -> Result<Vec<Link>> {
    open_chain_while(root, path, || Ok(()))
}

/// Like `open_chain`; asks `go_on` before each image, and fails with its error.
pub fn open_chain_while(root: &Folder, path: &RepoPath, mut go_on: impl FnMut() -> Result<()>) -> Result<Vec<Link>> {
    let look = |at: RepoPath| {
        go_on()?;
        let file = root.open_file(&at).map_err(|error| match error.code {
            Code::NotFound if at != *path => Error { code: Code::ParentInvalid, ..error },
            _ => error,
        })?;
        let backing = qcow2::backing(&file).map_err(|e| e.at(STEP, at.as_str()))?;
        let below = backing.map(|backing| resolve(&at, &backing)).transpose()?;
        Ok((Link { path: at, file }, below))
    };
    let endless = |at| {
        let cause = format!("'{at}' stands on itself, or on more than {DEEPEST} images");
        Error::new(Code::ParentInvalid, STEP, cause)
    };
    qcow2::follow(path.clone(), DEEPEST, RepoPath::as_str, look, endless)
}

/// The file that the image `path` stands on: in a restore point of the same machine, whatever the header names. A chain that
/// leads elsewhere would hand over another machine's data.
pub fn resolve(path: &RepoPath, backing: &qcow2::Backing) -> Result<RepoPath> {
    let refuse = |why: String| Error::new(Code::UnsupportedImage, STEP, format!("'{path}' {why}"));
    // without a format the script's images are meant; they are looked at as qcow2, and nothing else
    if let Some(format) = backing.format.as_deref().filter(|format| *format != "qcow2") {
        return Err(refuse(format!("stands on an image of format '{format}'")));
    }
    let folder = path.parent().ok_or_else(|| refuse("lies in no folder".into()))?;
    let file = RepoPath::resolve(&folder, &backing.file)?;
    let point = |file: &RepoPath| PointPath::parse("folder", file.parent()?.as_str()).ok();
    match point(path).zip(point(&file)) {
        Some((own, other)) if own.instance() == other.instance() => Ok(file),
        _ => Err(refuse(format!("stands on '{file}', which is in no restore point of its machine"))),
    }
}
