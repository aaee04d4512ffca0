//! The files of indexes, which lie beside their images. A new index is made durable under another name first. Their points are
//! published, so that each change looks at the instance's lock before.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::{Fingerprints, Index, failed, file_name};
use crate::apart::Apart;
use crate::config;
use crate::error::{Error, Result, called};
use crate::nas::folder::Folder;
use crate::nas::instance::Instance;
use crate::nas::path::RepoPath;

const STEP: &str = "write the fingerprints";

/// Opens the index of `image`, a file below `root`, as it was `recorded`.
pub fn open(root: &Folder, image: &RepoPath, recorded: &Fingerprints) -> Result<Index<File>> {
    open_as(root, image, recorded, Ok)
}

/// The same, for whoever reads `what` the file is made to.
pub fn open_as<R: Read>(
    root: &Folder,
    image: &RepoPath,
    recorded: &Fingerprints,
    what: impl FnOnce(File) -> rustix::io::Result<R>,
) -> Result<Index<R>> {
    let folder =
        image.parent().ok_or_else(|| Error::invalid("image", format!("'{image}' lies in no restore point")))?;
    let path = folder.join(&recorded.file)?;
    let file = root.open_file(&path)?;
    let opened = what(file).map_err(std::io::Error::from).and_then(|from| Index::open(from, recorded.hash));
    opened.map_err(|e| failed("read the fingerprints", path.as_str(), e))
}

/// Makes the file for a new index of `image`, which lies in `folder`, and removes an unfinished one.
pub fn create(instance: &Instance, folder: &Folder, image: &RepoPath) -> Result<Apart> {
    instance.fence_lately()?;
    folder.create_anew(&new_name(image), config::current().file_mode())
}

/// Makes the new index `file` durable under its name, and returns the name. The index `old` stays beside it, because the manifest still
/// names that one.
pub fn place(
    instance: &Instance,
    folder: &Folder,
    image: &RepoPath,
    file: &Apart,
    old: Option<&str>,
) -> Result<String> {
    file.sync_all().map_err(|e| Error::io(STEP, Path::new(image.as_str()), called("fsync")(e)))?;
    let [first, second] = names(image);
    let name = if old == Some(&first) { second } else { first };
    instance.fence_lately()?;
    folder.replace(file, &new_name(image), &name)?;
    folder.sync()?;
    Ok(name)
}

/// Removes all indexes of `image`, which lies in `folder`, but the one that the manifest names, and an unfinished one if there may be one.
/// The caller has looked at the instance's lock.
pub fn clear(folder: &Folder, image: &RepoPath, named: Option<&str>, has_new: bool) -> Result<()> {
    if has_new {
        folder.remove_tree(&new_name(image))?;
    }
    let mut unnamed = names(image).into_iter().filter(|name| named != Some(name));
    unnamed.try_for_each(|name| folder.remove_tree(&name).map(drop))
}

/// The names that indexes of the image have in turn. The second one can't be the name of another image's index.
fn names(image: &RepoPath) -> [String; 2] {
    let name = file_name(image.name());
    [name.clone(), name + ".2"]
}

fn new_name(image: &RepoPath) -> String {
    format!(".{}.new", file_name(image.name()))
}
