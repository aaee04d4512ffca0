//! Whether an incremental may stand: no disk of it was made smaller and as large again since the parent point.

use std::fs::File;
use std::time::{Duration, Instant};

use super::decision::{DiskFacts, Way};
use super::layers::LayerAt;
use super::storage::Targets;
use crate::error::{Code, Error, Result};
use crate::nas::deadline::start;
use crate::nas::folder::Folder;
use crate::nas::path::RepoPath;
use crate::point::open_chain;
use crate::qcow2;

const STEP: &str = "compare with the parent point";

/// `PARENT_INVALID` when a disk was, or when that can't be known. The targets are written, and closed. `layers` tells the
/// images of the disk at a position.
pub(super) fn check(
    targets: &Targets,
    disks: &[DiskFacts],
    ways: &[Way],
    layers: impl Fn(usize) -> Result<Vec<LayerAt>>,
    limit: Duration,
) -> Result<()> {
    let until = Instant::now() + limit;
    let mut begun = Vec::new();
    for ((i, facts), way) in disks.iter().enumerate().zip(ways) {
        let Way::Incremental(parent) = way else { continue };
        let layers = layers(i);
        let (session, target, parent) = (targets.session().clone(), targets.file(i), parent.clone());
        begun.push((facts, start(STEP, move || look(session.root(), target, &parent, layers?), || ())?));
    }
    // all of them end before a failure is told: the targets are removed then, and must not be open
    let looked: Vec<Result<()>> = begun
        .into_iter()
        .map(|(facts, look)| {
            let late = || Err(Error::new(Code::NasUnresponsive, STEP, "the images can't be read"));
            let looked = look.wait(until.saturating_duration_since(Instant::now())).unwrap_or_else(late);
            looked.map_err(|error| match error.code {
                Code::NasUnresponsive => error.on_disk(&facts.target),
                _ => Error { code: Code::ParentInvalid, ..error }.on_disk(&facts.target),
            })
        })
        .collect();
    looked.into_iter().collect()
}

fn look(root: &Folder, target: std::io::Result<File>, parent: &RepoPath, layers: Vec<LayerAt>) -> Result<()> {
    let target = target.map_err(|e| Error::io(STEP, parent.as_str(), e))?;
    let parents = open_chain(root, parent)?.into_iter().map(|link| link.file).collect();
    let layers = layers.iter().map(LayerAt::open).collect::<Result<_>>()?;
    if qcow2::regrown(target, parents, layers).map_err(|e| e.at(STEP, parent.as_str()))? {
        let cause = "it was made smaller and as large again since the parent point";
        return Err(Error::new(Code::ParentInvalid, STEP, cause));
    }
    Ok(())
}
