//! Whether an incremental may stand: no disk of it was made smaller and as large again since the parent point.

use std::fs::File;
use std::time::Duration;

use super::decision::{DiskFacts, Way};
use super::storage::Targets;
use crate::error::{Code, Error, Result};
use crate::libvirt::{Disk, DomainXml, Source};
use crate::nas::deadline::bounded;
use crate::nas::folder::Folder;
use crate::nas::path::RepoPath;
use crate::point::open_chain;
use crate::qcow2::{self, Layer};

const STEP: &str = "compare with the parent point";

/// `PARENT_INVALID` when a disk was, or when that can't be known. The targets are written, and closed.
pub(super) fn check(
    targets: &Targets,
    xml: &DomainXml,
    disks: &[DiskFacts],
    ways: &[Way],
    limit: Duration,
) -> Result<()> {
    for ((i, facts), way) in disks.iter().enumerate().zip(ways) {
        let Way::Incremental(parent) = way else { continue };
        let disk = xml.disks.iter().find(|disk| disk.target == facts.target).cloned();
        let (session, target, parent) = (targets.session().clone(), targets.file(i), parent.clone());
        let checked = bounded(STEP, limit, move || look(session.root(), target, &parent, disk));
        checked.map_err(|error| {
            match error.code {
                Code::NasUnresponsive => error,
                _ => Error { code: Code::ParentInvalid, ..error },
            }
            .on_disk(&facts.target)
        })?;
    }
    Ok(())
}

fn look(root: &Folder, target: std::io::Result<File>, parent: &RepoPath, disk: Option<Disk>) -> Result<()> {
    let target = target.map_err(|e| Error::io(STEP, parent.as_str(), e))?;
    let parents = open_chain(root, parent)?.into_iter().map(|link| link.file).collect();
    let layers = disk.map_or_else(|| Ok(Vec::new()), |disk| layers(&disk))?;
    if qcow2::regrown(target, parents, layers).map_err(|e| e.at(STEP, parent.as_str()))? {
        let cause = "it was made smaller and as large again since the parent point";
        return Err(Error::new(Code::ParentInvalid, STEP, cause));
    }
    Ok(())
}

/// The disk's images, open for reading.
fn layers(disk: &Disk) -> Result<Vec<Layer>> {
    let below = disk.backing.iter().map(|image| (&image.source, image.format.as_str()));
    let images = std::iter::once((&disk.source, disk.format.as_str())).chain(below);
    let open = |(source, format): (&Source, &str)| {
        let (Source::File(path) | Source::Block(path)) = source else {
            return Err(Error::new(Code::UnsupportedImage, STEP, "an image below it is no file"));
        };
        let file = File::open(path).map_err(|e| Error::io(STEP, path, e))?;
        match format {
            "qcow2" => Ok(Layer::Qcow2(file)),
            "raw" => Ok(Layer::Raw(file)),
            other => Err(Error::new(Code::UnsupportedImage, STEP, format!("'{path}' is of format {other}"))),
        }
    };
    images.map(open).collect()
}
