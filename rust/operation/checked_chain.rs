//! The images of a disk of a restore point that are to be read: opened once, and judged as they are open. Whoever exchanges
//! names afterwards exchanges nothing of them.

use super::rebase_disks::image_names;
use super::verify_chain::chains;
use crate::error::{Code, Error, Result};
use crate::nas::folder::Folder;
use crate::nas::path::{PointPath, RepoPath};
use crate::point::{Link, Manifest, open_chain};

/// The images of the volume's disk, the newest first, each standing on the next, of a point that `verifyChain` would not call bad
/// before it looks at the tables. With an `id` the point is to have that one. What is wrong with the images of the point's other
/// disks does not matter.
pub(super) fn open(root: &Folder, point: &PointPath, id: Option<&str>, volume: &str) -> Result<Vec<Link>> {
    let manifest = Manifest::read_sound(&root.open_dir(&point.folder())?, point)?;
    let chain = open_chain(root, &find(root, point, manifest.as_ref(), volume)?)?;
    let judged = chains::find(root, point, id, &chain.iter().collect::<Vec<_>>())?;
    judged.refuse_manifests()?;
    judged.refuse_images(&chain)?;
    if judged.manifest(&point.folder()) != manifest.as_ref() {
        return Err(Error::new(
            Code::CorruptImage,
            "check the point",
            format!("the manifest of '{point}' was exchanged"),
        ));
    }
    Ok(chain)
}

/// The file of the volume's disk: as the manifest has it, else by its name.
fn find(root: &Folder, point: &PointPath, manifest: Option<&Manifest>, volume: &str) -> Result<RepoPath> {
    const STEP: &str = "look for the volume";
    let files: Vec<String> = match manifest {
        Some(manifest) => {
            let disks = manifest.disks.iter().filter(|disk| disk.volume == volume);
            disks.map(|disk| disk.file.clone()).collect()
        }
        None => {
            let is =
                |name: &String| *name == format!("root.{volume}.qcow2") || *name == format!("datadisk.{volume}.qcow2");
            image_names(&root.open_dir(&point.folder())?)?.into_iter().filter(is).collect()
        }
    };
    match &files[..] {
        [file] => point.file(file),
        [] => Err(Error::new(Code::NotFound, STEP, format!("'{point}' has no disk of volume '{volume}'"))),
        _ => Err(Error::new(Code::CorruptImage, STEP, format!("'{point}' has several disks of volume '{volume}'"))),
    }
}
