//! The images that a restore point consists of.

use rustix::fs::FileType;

use super::manifest::Manifest;
use crate::error::{Code, Error, Result};
use crate::nas::folder::Folder;
use crate::nas::path::{PointPath, RepoPath};

/// The images of a point: those that its manifest names, else all files of that kind.
pub fn images(root: &Folder, at: &PointPath) -> Result<Vec<RepoPath>> {
    let folder = root.open_dir(&at.folder())?;
    let names = match Manifest::read_sound(&folder, at)? {
        Some(manifest) => manifest.disks.into_iter().map(|disk| disk.file).collect(),
        None => image_names(&folder)?,
    };
    if names.is_empty() {
        return Err(Error::new(Code::NotFound, "look for the images", format!("'{at}' holds none")));
    }
    names.iter().map(|name| at.file(name)).collect()
}

/// The names of the images in a point's folder: of all files of that kind.
pub fn image_names(folder: &Folder) -> Result<Vec<String>> {
    let mut images = Vec::new();
    for name in folder.names_that(|name| name.as_encoded_bytes().ends_with(b".qcow2"))? {
        let Some(name) = name.to_str() else { continue };
        if folder.kind(name)? == Some(FileType::RegularFile) {
            images.push(name.to_owned());
        }
    }
    Ok(images)
}
