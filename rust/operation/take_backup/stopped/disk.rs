//! The disks of a stopped guest: looked at, and read, under QEMU's image lock.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::call::Call;
use super::super::plan::{DiskFacts, DiskPlan, Plan};
use super::super::request::{Checked, StoppedSource};
use super::super::snapshots::DiskImage;
use super::questions::answered;
use crate::engine::Changes;
use crate::engine::offline::{self, Origin};
use crate::engine::socket::Socket;
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::nbd;
use crate::operation::ceph::{Access, Rbd, Server};
use crate::qcow2::{self, Dirty, Layer, View};
use crate::qemu::image_file::Nameable;
use crate::qemu::layers::{self, StoppedImage};
use crate::work::job::Reporter;

/// A stopped guest.
pub(in super::super) struct Stopped {
    pub(super) found: Vec<FoundDisk>,
    pub(super) left_out: Vec<StoppedSource>,
    /// The images in Ceph of which it has taken snapshots.
    pub(super) images: Vec<DiskImage>,
    /// True if the disks' own storage does not answer: a thread that was left behind may hold their locks.
    pub(super) hangs: bool,
}

/// A disk as it was found.
pub(super) struct FoundDisk {
    pub source: StoppedSource,
    /// The paths of all disks of files or devices.
    pub paths: Vec<String>,
    pub facts: DiskFacts,
    /// The bitmaps stored in it.
    pub bitmaps: BTreeSet<String>,
    /// Why the parent's bitmap does not tell what was written since, if so.
    pub untracked: Option<String>,
}

/// Looks at a disk: nobody may be writing to it.
pub(super) fn look(
    call: &Call<'_>,
    source: StoppedSource,
    paths: Vec<String>,
    job: &mut Reporter<'_>,
) -> Result<FoundDisk> {
    if let Some(image) = source.rbd.clone() {
        return look_at_image(call, &image, source, job).map_err(|error| error.on_disk(&image.name));
    }
    let parent_bitmap = call.checked.mode.parent_bitmap().map(str::to_owned);
    answered("look at the disks", limits::STORAGE_STEP, move || inspect_disk(source, paths, parent_bitmap.as_deref()))
}

/// Looks at an image in Ceph.
fn look_at_image(call: &Call<'_>, image: &Rbd, source: StoppedSource, job: &mut Reporter<'_>) -> Result<FoundDisk> {
    nbd::available().map_err(|e| Error { cause: format!("an image in Ceph is read as by pull; {}", e.cause), ..e })?;
    let virtual_size = export(image, call, job)?.size()?;
    let facts = facts(&source, virtual_size, Some("it is an image in Ceph".to_owned()));
    Ok(FoundDisk { source, paths: Vec::new(), facts, bitmaps: BTreeSet::new(), untracked: None })
}

/// Looks at a disk of files or devices, under their lock. `paths` are those of all disks of files or devices.
fn inspect_disk(source: StoppedSource, paths: Vec<String>, parent_bitmap: Option<&str>) -> Result<FoundDisk> {
    let look = || {
        let OpenedDisk { images, view } = open(&source, &paths)?;
        let top = &images[0];
        let facts = facts(&source, view.size(), cannot_carry(top.info.as_ref()));
        let bitmaps = top.info.iter().flat_map(|info| &info.bitmaps).map(|bitmap| bitmap.name.clone()).collect();
        let untracked = parent_bitmap.filter(|_| source.qcow2).and_then(|name| open_bitmap(top, name).err());
        Ok((facts, bitmaps, untracked))
    };
    let (facts, bitmaps, untracked) = look().map_err(|error: Error| error.on_disk(&source.path))?;
    Ok(FoundDisk { source, paths, facts, bitmaps, untracked })
}

/// The facts of a disk, of which the request tells no serial.
fn facts(source: &StoppedSource, virtual_size: u64, cannot_carry: Option<String>) -> DiskFacts {
    DiskFacts {
        target: source.path.clone(),
        volume: source.volume.clone(),
        file: source.file.clone(),
        serial: None,
        serial_is_shared: false,
        virtual_size,
        cannot_carry,
        shrink_check_impossible: None,
    }
}

/// Why a disk whose top image has this header, if any, can't carry a bitmap, if so.
fn cannot_carry(info: Option<&qcow2::Info>) -> Option<String> {
    match info {
        None => Some("its format is raw".to_owned()),
        Some(info) if info.version < 3 => {
            Some("its image is qcow2 version 2; 'qemu-img amend -o compat=1.1' helps".to_owned())
        }
        Some(_) => None,
    }
}

/// What changed since the bitmap `name` began; the error says why it does not tell.
fn open_bitmap(image: &StoppedImage, name: &str) -> std::result::Result<Dirty, String> {
    Dirty::open(image.file(), name).unwrap_or_else(|error| Err(format!("can't be read: {error}")))
}

/// A disk's images, the top one first, and what the guest sees of them.
struct OpenedDisk {
    images: Vec<StoppedImage>,
    view: View,
}

/// Opens and locks them; `paths` are those of all disks.
fn open(source: &StoppedSource, paths: &[String]) -> Result<OpenedDisk> {
    let nameable = match &source.backing {
        Some(files) => Nameable::only(files),
        None => Nameable::beside(paths.iter().map(String::as_str)),
    };
    let images = layers::of_file(&source.path, source.qcow2, &nameable)?;
    let layers = images.iter().map(StoppedImage::layer).collect::<Result<Vec<_>>>()?;
    let view = View::open(layers).map_err(|error| error.at("look at the disk", &source.path))?;
    Ok(OpenedDisk { images, view })
}

/// A disk to lock and open.
pub(super) struct DiskToOpen {
    pub source: StoppedSource,
    /// The paths of all disks of files or devices.
    pub paths: Vec<String>,
    pub size: u64,
    /// The bitmap that tells what is copied of a file or device; without it everything is.
    pub bitmap: Option<String>,
    /// What is exported of an image in Ceph: itself, or a snapshot of it.
    pub image: Option<Rbd>,
    /// What is copied of an export.
    pub changes: Changes,
    /// The socket of its export, if it has one.
    pub export: Option<Arc<Socket>>,
}

/// The disks, as the plan wants them opened.
pub(super) fn wanted(checked: &Checked, found: &[FoundDisk], plan: &Plan) -> Vec<DiskToOpen> {
    let wanted = |(found, planned): (&FoundDisk, &DiskPlan)| DiskToOpen {
        source: found.source.clone(),
        paths: found.paths.clone(),
        size: found.facts.virtual_size,
        bitmap: checked.mode.parent_bitmap().filter(|_| planned.strategy.is_by_bitmap()).map(str::to_owned),
        image: found.source.rbd.clone(),
        changes: Changes::All,
        export: None,
    };
    found.iter().zip(&plan.disks).map(wanted).collect()
}

fn export(image: &Rbd, call: &Call<'_>, job: &mut Reporter<'_>) -> Result<Server> {
    Server::start(image, Access::Read, (call.config, &call.checked.vm), call.left(), job)
}

/// Exports the images in Ceph among the disks, for a client each.
pub(super) fn serve(call: &Call<'_>, disks: &mut [DiskToOpen], job: &mut Reporter<'_>) -> Result<Vec<Server>> {
    let mut servers = Vec::new();
    for disk in disks {
        let Some(image) = &disk.image else { continue };
        let server = export(image, call, job).map_err(|error| error.on_disk(&image.name))?;
        disk.export = Some(server.socket());
        servers.push(server);
    }
    Ok(servers)
}

/// A disk that nobody writes to.
pub(super) struct LockedDisk {
    /// The images, locked.
    pub images: Vec<StoppedImage>,
    /// The images of an incremental without their locks: the NAS may hold up the comparison with its parent.
    pub compared: Vec<Layer>,
    pub origin: Origin,
}

impl DiskToOpen {
    pub(super) fn lock(&self) -> Result<LockedDisk> {
        const STEP: &str = "look at the disk again";
        if let Some(socket) = &self.export {
            let origin = Origin::Export(socket.clone(), self.changes.clone());
            return Ok(LockedDisk { images: Vec::new(), compared: Vec::new(), origin });
        }
        let OpenedDisk { images, view } = open(&self.source, &self.paths)?;
        if view.size() != self.size {
            let what = format!("it has {} bytes and not {}", view.size(), self.size);
            let cause = format!("it was exchanged while the backup was being prepared: {what}");
            return Err(Error::new(Code::DomainState, STEP, cause));
        }
        let lost =
            |name: &str, reason: String| Error::new(Code::ParentInvalid, STEP, format!("bitmap '{name}' {reason}"));
        let (changes, compared) = match &self.bitmap {
            Some(name) => {
                let changes = open_bitmap(&images[0], name).map_err(|reason| lost(name, reason))?;
                (Some(changes), images.iter().map(StoppedImage::layer_without_lock).collect::<Result<_>>()?)
            }
            None => (None, Vec::new()),
        };
        Ok(LockedDisk { images, compared, origin: Origin::Images(Box::new(view), changes) })
    }

    /// The bytes that are to be copied. Zeroes that somebody wrote are among them, clusters without data are not.
    pub(super) fn bytes(&self) -> Result<u64> {
        let LockedDisk { images, origin, .. } = self.lock().map_err(|e| e.on_disk(&self.source.path))?;
        let held = images.iter().map(StoppedImage::occupied).reduce(u64::saturating_add);
        let mapped = offline::count_bytes_to_read(&self.source.path, self.size, origin)?;
        // an image may map more than it holds
        Ok(held.map_or(mapped, |held| mapped.min(held)))
    }
}
