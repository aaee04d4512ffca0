//! The images that a restore point consists of.

use std::ffi::{OsStr, OsString};

use rustix::fs::FileType;

use super::manifest::Manifest;
use crate::error::{Code, Error, Result};
use crate::nas::folder::Folder;
use crate::nas::path::{PointPath, RepoPath};

/// The images of a point: those that its manifest names, else all files of that kind.
pub fn images(root: &Folder, at: &PointPath) -> Result<Vec<RepoPath>> {
    let names = match Manifest::read_sound(&root.open_to_pass(at.folder().as_str())?, at)? {
        Some(manifest) => manifest.disks.into_iter().map(|disk| disk.file).collect(),
        None => open_with_images(root, at)?.1,
    };
    if names.is_empty() {
        return Err(Error::new(Code::NotFound, "look for the images", format!("'{at}' holds none")));
    }
    names.iter().map(|name| at.file(name)).collect()
}

/// The names of the images in a point's folder: of all files of that kind.
pub fn image_names(folder: &Folder) -> Result<Vec<String>> {
    regular(folder, folder.names_that(is_image)?)
}

/// Opens a point's folder; the same names, which come with it.
pub fn open_with_images(root: &Folder, at: &PointPath) -> Result<(Folder, Vec<String>)> {
    let (folder, listed) = root.open_and_list(at.folder().as_str(), is_image)?;
    let images = regular(&folder, listed)?;
    Ok((folder, images))
}

fn is_image(name: &OsStr) -> bool {
    name.as_encoded_bytes().ends_with(b".qcow2")
}

fn regular(folder: &Folder, names: Vec<OsString>) -> Result<Vec<String>> {
    let mut images = Vec::new();
    for name in names {
        let Some(name) = name.to_str() else { continue };
        if folder.kind(name)? == Some(FileType::RegularFile) {
            images.push(name.to_owned());
        }
    }
    Ok(images)
}
