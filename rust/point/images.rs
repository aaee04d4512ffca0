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
        None => open_with_images(root, at)?.images,
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

/// A point's folder and what it holds.
pub struct ListedPoint {
    /// The folder.
    pub folder: Folder,
    /// The names of the images.
    pub images: Vec<String>,
    /// There is what may be an unfinished file.
    pub has_new: bool,
}

/// Opens a point's folder and lists it.
pub fn open_with_images(root: &Folder, at: &PointPath) -> Result<ListedPoint> {
    let is_new = |name: &OsStr| name.as_encoded_bytes().ends_with(b".new");
    let (folder, mut listed) = root.open_and_list(at.folder().as_str(), |name| is_image(name) || is_new(name))?;
    let has_new = listed.iter().any(|name| is_new(name));
    listed.retain(|name| is_image(name));
    let images = regular(&folder, listed)?;
    Ok(ListedPoint { folder, images, has_new })
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
