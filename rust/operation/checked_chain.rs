//! The images of disks of a restore point that are to be read: opened once, and judged as they are open. Whoever exchanges
//! names afterwards exchanges nothing of them.

use super::rebase_disks::image_names;
use super::verify_chain::chains;
use crate::error::{Code, Error, Result};
use crate::nas::folder::Folder;
use crate::nas::path::{PointPath, RepoPath};
use crate::point::fingerprints::Fingerprints;
use crate::point::{Link, Manifest, open_chain, volume_of_image};

/// How a disk of a point is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Which {
    /// By its volume, as the backup's answer named that.
    Volume(String),
    /// By its image's file.
    File(String),
}

/// A disk of a restore point.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) volume: String,
    /// Its images, the newest first, each standing on the next.
    pub(super) chain: Vec<Link>,
    /// What the manifests say of the images' fingerprints, where all have some.
    pub(super) recorded: Option<Vec<Fingerprints>>,
}

/// The disks that are wanted, of a point that `verifyChain` would not call bad before it looks at the tables. With an `id` the
/// point is to have that one. What is wrong with the images of the point's other disks does not matter.
pub(super) fn open_all(root: &Folder, point: &PointPath, id: Option<&str>, wanted: &[Which]) -> Result<Vec<Disk>> {
    let manifest = Manifest::read_sound(&root.open_dir(&point.folder())?, point)?;
    let open = |which: &Which| {
        let (file, volume) = find(root, point, manifest.as_ref(), which)?;
        Ok(Disk { volume, chain: open_chain(root, &file)?, recorded: None })
    };
    let mut disks = wanted.iter().map(open).collect::<Result<Vec<_>>>()?;
    let judged = chains::find(root, point, id, &disks.iter().flat_map(|disk| &disk.chain).collect::<Vec<_>>())?;
    judged.refuse_manifests()?;
    if judged.manifest(&point.folder()) != manifest.as_ref() {
        let cause = format!("the manifest of '{point}' was exchanged");
        return Err(Error::new(Code::CorruptImage, "check the point", cause));
    }
    for Disk { chain, recorded, .. } in &mut disks {
        judged.refuse_images(chain)?;
        judged.refuse_unfinished(chain)?;
        *recorded = chain.iter().map(|link| judged.fingerprints(&link.path).cloned()).collect();
    }
    Ok(disks)
}

/// The file of a disk and its volume: as the manifest has them, else by the file's name.
fn find(root: &Folder, point: &PointPath, manifest: Option<&Manifest>, which: &Which) -> Result<(RepoPath, String)> {
    const STEP: &str = "look for the volume";
    let known: Vec<(String, String)> = match manifest {
        Some(manifest) => manifest.disks.iter().map(|disk| (disk.file.clone(), disk.volume.clone())).collect(),
        None => {
            let named = |file: String| Some((file.clone(), volume_of_image(&file)?));
            image_names(&root.open_dir(&point.folder())?)?.into_iter().filter_map(named).collect()
        }
    };
    let is = |(file, volume): &&(String, String)| match which {
        Which::Volume(wanted) => volume == wanted,
        Which::File(wanted) => file == wanted,
    };
    let (Which::Volume(name) | Which::File(name)) = which;
    match &known.iter().filter(is).collect::<Vec<_>>()[..] {
        [(file, volume)] => Ok((point.file(file)?, volume.clone())),
        [] => Err(Error::new(Code::NotFound, STEP, format!("'{point}' has no disk of volume '{name}'"))),
        _ => Err(Error::new(Code::CorruptImage, STEP, format!("'{point}' has several disks of volume '{name}'"))),
    }
}
