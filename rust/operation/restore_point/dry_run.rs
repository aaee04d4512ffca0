//! What a restore would refuse of its outputs, found without an effect.

use std::path::Path;

use super::output_path::{
    OPEN_ALL, PointFolders, already_there, refuse_same, refused, resolve, resolve_in_new_folders,
};
use super::request::{OutputFormat, RestoreCall};
use super::{kept, output};
use crate::config;
use crate::error::Result;
use crate::limits;
use crate::nas::session::Session;
use crate::work::deadline::{bounded, bounded_for_host};
use crate::work::owner::WorkFor;

/// Refuses what the call would refuse of its outputs. An image in Ceph is not asked for. `makes_folders`: those that are missing
/// are made before the call.
pub(in crate::operation) fn check(asked: RestoreCall, makes_folders: bool) -> Result<()> {
    let _on = WorkFor::repository(&asked.export);
    let session = Session::open_bounded(asked.export.clone(), config::current())?;
    let instance = asked.point.instance_folder();
    let points = bounded("look at the instance", limits::NAS_LOOK, move || {
        PointFolders::of(session.root(), &session.root().open_dir(&instance)?)
    })?;
    bounded_for_host(OPEN_ALL, limits::STORAGE_STEP, move || check_outputs(&asked, &points, makes_folders))
}

fn check_outputs(asked: &RestoreCall, points: &PointFolders, makes_folders: bool) -> Result<()> {
    let resolve = if makes_folders { resolve_in_new_folders } else { resolve };
    let disks = asked.volumes.iter().filter(|wanted| wanted.rbd.is_none());
    let disks = disks.map(|wanted| (&wanted.path, Some(wanted.format)));
    let mut taken = Vec::new();
    for (path, format) in disks.chain(asked.state.iter().map(|wanted| (&wanted.path, None))) {
        let (real, old) = resolve(Path::new(path))?;
        let is_device = output::check(&real, old.as_ref(), format != Some(OutputFormat::Qcow2), points)?;
        if is_device && format.is_none() {
            return Err(refused(&real, "is no file"));
        }
        if asked.only_new && old.is_some() {
            return Err(already_there(path));
        }
        if let (Some(keep_old), true) = (&asked.keep_old, is_device) {
            kept::check_folder(keep_old.folder_for(path)?, points)?;
        }
        taken.push(real);
    }
    refuse_same(taken.into_iter().map(Ok))
}
