//! Lists and copies files of a guest out of a restore point. The disks are mounted as raw files, as `mount_point` does it, and of
//! one file system of theirs the files are read; all in mounts that no other process sees, and that nobody can write. What is
//! read the guest has written: its tables, names, sizes and links may be any.

mod copy;
mod guestfs;
mod kernel;
mod own_mounts;
mod partitions;
mod superblock;
mod tree;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use serde::Serialize;

use super::mount_point::{MountPointRequest, MountedDisk, Mounting};
use crate::error::{Code, Error, Result, Stopped};
use crate::limits;
use crate::nas::repository::Repository;
use crate::work::deadline::bounded_for_host;
use crate::work::job::Listener;
use crate::work::phase::Phase;
use crate::work::worker::{self, Pulse};
use copy::Destination;
use guestfs::Guestfs;
use own_mounts::OwnFolders;
use partitions::Extent;
use tree::{FileKind as Kind, Tree};

pub use copy::Copied;
pub use own_mounts::OwnMounts;
pub use tree::{Entry, FileKind};

const STEP: &str = "read the guest's disks";

/// Whose files are meant.
#[derive(Debug, Clone, Default)]
pub struct PointFilesRequest {
    /// The caller's id for this job.
    pub job: Option<String>,
    /// The NAS export.
    pub repository: Option<Repository>,
    /// The restore point, `<instance>/<timestamp>`.
    pub backup_path: Option<String>,
    /// The volume of one of its disks; all of them without.
    pub volume: Option<String>,
    /// The partition, as [`FileSystem`] names it; without it there has to be one file system alone.
    pub partition: Option<String>,
}

/// What a partition holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FileSystem {
    /// The disk's volume; none of what lies on several.
    pub volume: Option<String>,
    /// Its number, or the name of a logical volume, `group/name`; none of a whole disk.
    pub partition: Option<String>,
    /// As `blkid` calls it.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its name.
    pub label: Option<String>,
    /// Bytes of the partition.
    pub size: Option<u64>,
    /// Can this host read its files?
    pub readable: bool,
}

/// What is in a folder of a guest's, or one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listing {
    /// Whose files these are.
    pub file_system: FileSystem,
    /// By their names.
    pub entries: Vec<Entry>,
}

/// The file systems of the point's disks.
pub fn find(own: OwnMounts, request: PointFilesRequest, listener: Listener<'_>) -> Result<Vec<FileSystem>> {
    let (mut mounting, disks) = mount(own, "findFileSystems", &request, listener)?;
    let found = worker::look(STEP, limits::STORAGE_STEP, &mut mounting.job, move |pulse| {
        Ok(disks.find(None, pulse)?.into_iter().map(|found| found.told).collect())
    })?;
    mounting.check()?;
    Ok(found)
}

/// What is in the folder at `path` in the guest, or the file.
pub fn list(own: OwnMounts, request: PointFilesRequest, path: Vec<u8>, listener: Listener<'_>) -> Result<Listing> {
    let (mut mounting, disks) = mount(own, "listFiles", &request, listener)?;
    let listing = worker::look(STEP, limits::STORAGE_STEP, &mut mounting.job, move |pulse| {
        let view = disks.view(request.partition.as_deref(), pulse)?;
        let node = view.tree.find(&path)?;
        let mut entries = Vec::new();
        if node.kind() == Kind::Folder {
            node.children(&view.tree, |name, child| {
                entries.push(child.entry(&view.tree, name.to_bytes())?);
                pulse.at(0, 0).map_err(Stopped::error)
            })?;
        } else {
            entries.push(node.entry(&view.tree, tree::name_of(&path).unwrap_or(b"."))?);
        }
        Ok(Listing { file_system: view.file_system.clone(), entries })
    })?;
    mounting.check()?;
    Ok(listing)
}

/// Copies the files and folders at `paths` in the guest to this host: into the folder `to`, or, if that is not there and they are
/// one, under that name. `ALREADY_EXISTS` when a copy's name is there. A call that fails leaves nothing behind.
pub fn get(
    own: OwnMounts,
    request: PointFilesRequest,
    paths: Vec<Vec<u8>>,
    to: PathBuf,
    listener: Listener<'_>,
) -> Result<Copied> {
    let to = bounded_for_host(STEP, limits::STORAGE_STEP, move || Destination::find(paths, &to))?;
    let (mut mounting, disks) = mount(own, "getFiles", &request, listener)?;
    let reading = mounting.reading();
    let unnamed = worker::run(STEP, limits::STORAGE_STEP, &mut mounting.job, move |pulse| {
        to.refuse_below(reading.root())?;
        let view = disks.view(request.partition.as_deref(), pulse)?;
        pulse.enter(Phase::Copy)?;
        to.copy(&view.tree, &mut |done| pulse.at(done, 0).map_err(Stopped::error))
    })?;
    // what was read is not believed if somebody has changed the point meanwhile
    mounting.check()?;
    mounting.job.begin(Phase::PublishOutputs)?;
    bounded_for_host(STEP, limits::STORAGE_STEP, move || unnamed.name())
}

fn mount<'a>(
    own: OwnMounts,
    operation: &'static str,
    request: &PointFilesRequest,
    listener: Listener<'a>,
) -> Result<(Mounting<'a>, Disks)> {
    let own = own.cover()?;
    let mount = MountPointRequest {
        job: request.job.clone(),
        repository: request.repository.clone(),
        backup_path: request.backup_path.clone(),
        volume: request.volume.clone(),
        folder: own.disks.clone(),
    };
    let mut mounting = Mounting::make(operation, mount, listener)?;
    mounting.job.begin(Phase::LookAtDisks)?;
    let disks = mounting.point().disks;
    let guestfs = Guestfs::find(disks.iter().map(|disk| disk.path.clone()).collect(), &own.scratch);
    Ok((mounting, Disks { disks, own, guestfs }))
}

/// The disks of a point, as raw files.
struct Disks {
    disks: Vec<MountedDisk>,
    own: OwnFolders,
    guestfs: Option<Guestfs>,
}

/// A file system, and where it lies.
struct Found {
    told: FileSystem,
    place: Place,
}

enum Place {
    /// On one of the disks.
    Extent(usize, Extent),
    /// On what only libguestfs puts together.
    Volume(String),
}

impl Disks {
    /// All file systems; those that only libguestfs finds are left out if another one has the name of the wanted partition.
    fn find(&self, wanted: Option<&str>, pulse: &Pulse) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        for (index, disk) in self.disks.iter().enumerate() {
            pulse.at(0, 0).map_err(Stopped::error)?;
            let extents = self.find_on(disk).map_err(|e| Error::io(STEP, &disk.path, e))?;
            found.extend(extents.into_iter().map(|(extent, told)| Found { told, place: Place::Extent(index, extent) }));
        }
        let parts = found.iter().any(|found| matches!(found.told.kind.as_str(), "LVM2_member" | "linux_raid_member"));
        let is_found = wanted.is_some() && found.iter().any(|found| found.told.partition.as_deref() == wanted);
        let volumes = match &self.guestfs {
            Some(guestfs) if parts && !is_found => guestfs.find_volumes(|| pulse.at(0, 0).map_err(Stopped::error))?,
            _ => Vec::new(),
        };
        found.extend(volumes.into_iter().map(|(name, kind)| {
            let (readable, partition) = (guestfs::reads(&kind), Some(name.clone()));
            let told = FileSystem { volume: None, partition, kind, label: None, size: None, readable };
            Found { told, place: Place::Volume(name) }
        }));
        Ok(found)
    }

    fn find_on(&self, disk: &MountedDisk) -> std::io::Result<Vec<(Extent, FileSystem)>> {
        let file = File::open(&disk.path)?;
        let read = |at: u64, length: usize| {
            let mut bytes =
                vec![0; usize::try_from(disk.size.saturating_sub(at)).map_or(length, |rest| rest.min(length))];
            file.read_exact_at(&mut bytes, at).map(|()| bytes)
        };
        let mut found = Vec::new();
        for extent in partitions::find(&read, disk.size)? {
            let head = read(
                extent.start,
                usize::try_from(extent.length).map_or(superblock::HEAD, |all| all.min(superblock::HEAD)),
            )?;
            let Some(known) = superblock::find(&head) else { continue };
            let told = FileSystem {
                volume: Some(disk.volume.clone()),
                partition: extent.number.map(|number| number.to_string()),
                kind: known.kind.to_owned(),
                label: known.label,
                size: Some(extent.length),
                readable: if self.guestfs.is_some() { guestfs::reads(known.kind) } else { kernel::reads(known.kind) },
            };
            found.push((extent, told));
        }
        Ok(found)
    }

    /// Mounts the one that is meant.
    fn view(&self, partition: Option<&str>, pulse: &Pulse) -> Result<View> {
        let mut found = self.find(partition, pulse)?;
        let told: Vec<_> = found.iter().map(|found| &found.told).collect();
        let Found { told, place } = found.swap_remove(the_one(&told, partition, self.guestfs.is_some())?);
        let at = &self.own.root;
        let source = match (&self.guestfs, place) {
            (Some(guestfs), place) => {
                let device = match place {
                    Place::Extent(disk, extent) => guestfs::device(disk, extent.number),
                    Place::Volume(name) => Some(format!("/dev/{name}")),
                };
                let many = || Error::new(Code::UnsupportedImage, STEP, "libguestfs is given 26 disks: name the volume");
                let device = device.ok_or_else(many)?;
                Source::Guestfs(guestfs.mount(&device, at, || pulse.at(0, 0).map_err(Stopped::error))?)
            }
            (None, Place::Extent(disk, extent)) => {
                Source::Kernel(kernel::mount_extent(&self.disks[disk].path, &extent, &told.kind, at)?)
            }
            (None, Place::Volume(_)) => return Err(Error::new(Code::Internal, STEP, "libguestfs is gone")),
        };
        View::of(Mounted(at.clone()), source, told)
    }
}

/// A file system that is mounted. Its drop unmounts it.
struct View {
    // closed before it is unmounted, and that before what it is mounted from goes
    tree: Tree,
    _mounted: Mounted,
    _source: Source,
    file_system: FileSystem,
}

#[expect(dead_code, reason = "held")]
enum Source {
    Kernel(crate::sys::LoopDevice),
    Guestfs(guestfs::Server),
}

impl View {
    fn of(mounted: Mounted, source: Source, file_system: FileSystem) -> Result<View> {
        let io = |e: rustix::io::Errno| Error::io(STEP, &mounted.0, e);
        // kernels before Linux 5.10 pass over the last one
        let flags =
            MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOSYMFOLLOW;
        mount_remount(&mounted.0, MountFlags::BIND | flags, c"").map_err(io)?;
        let root = open_folder(&mounted.0).map_err(io)?;
        Ok(View { tree: Tree::new(root), _mounted: mounted, _source: source, file_system })
    }
}

fn open_folder(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Something is mounted there. The drop unmounts it.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.0, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            log::warn!("unable to unmount '{}', leaving it to the end of this process: {error}", self.0.display());
        }
    }
}

/// Which of the file systems is meant.
fn the_one(found: &[&FileSystem], partition: Option<&str>, has_guestfs: bool) -> Result<usize> {
    let is_named = |told: &FileSystem| partition.is_none_or(|name| told.partition.as_deref() == Some(name));
    let named: Vec<_> = (0..).zip(found).filter(|(_, told)| is_named(told)).collect();
    let readable: Vec<_> = named.iter().filter(|(_, told)| told.readable).collect();
    match (&readable[..], named.is_empty()) {
        ([(index, _)], _) => Ok(*index),
        ([], true) => {
            let what =
                partition.map_or("a file system".to_owned(), |name| format!("a file system in partition '{name}'"));
            Err(Error::new(Code::NotFound, STEP, format!("{what} was not found")))
        }
        ([], false) => {
            let help = if has_guestfs { "" } else { "; libguestfs reads more, LVM among it: install guestfish" };
            let all = named.iter().map(|(_, told)| describe(told)).collect::<Vec<_>>().join(", ");
            Err(Error::new(Code::UnsupportedImage, STEP, format!("this host can't read {all}{help}")))
        }
        _ => {
            let all = readable.iter().map(|(_, told)| describe(told)).collect::<Vec<_>>().join(", ");
            Err(Error::invalid("--partition", format!("which one, and of which volume? There are {all}")))
        }
    }
}

fn describe(told: &FileSystem) -> String {
    let on = told.volume.as_ref().map(|volume| format!(" of '{volume}'")).unwrap_or_default();
    match &told.partition {
        Some(partition) => format!("{partition}{on} ({})", told.kind),
        None => format!("all{on} ({})", told.kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_is_meant_if_no_other_can_be() {
        let told = |volume: &str, partition: Option<&str>, kind: &str, readable| FileSystem {
            volume: Some(volume.to_owned()),
            partition: partition.map(str::to_owned),
            kind: kind.to_owned(),
            label: None,
            size: None,
            readable,
        };
        let (whole, boot) = (told("data", None, "xfs", true), told("root", Some("1"), "vfat", true));
        let (root, lvm) = (told("root", Some("2"), "ext4", true), told("root", Some("3"), "LVM2_member", false));
        for (found, partition, expected) in [
            (vec![&whole], None, Ok(0)),
            (vec![&lvm, &root], None, Ok(1)),
            (vec![&boot, &root, &lvm], Some("2"), Ok(1)),
            (vec![&boot, &lvm, &root], None, Err((Code::InvalidArgument, "1 of 'root' (vfat), 2 of 'root' (ext4)"))),
            (vec![&whole, &root], None, Err((Code::InvalidArgument, "all of 'data' (xfs), 2 of 'root' (ext4)"))),
            (vec![&lvm], None, Err((Code::UnsupportedImage, "3 of 'root' (LVM2_member); libguestfs reads more, LVM"))),
            (vec![&lvm, &root], Some("3"), Err((Code::UnsupportedImage, "install guestfish"))),
            (vec![&whole], Some("1"), Err((Code::NotFound, "in partition '1'"))),
            (vec![], None, Err((Code::NotFound, "a file system was not found"))),
        ] {
            match (the_one(&found, partition, false), expected) {
                (Ok(one), Ok(expected)) => assert_eq!(one, expected, "{found:?}"),
                (Err(error), Err((code, says))) => {
                    assert!(error.code == code && error.cause.contains(says), "{found:?}: {error}");
                }
                (got, _) => panic!("{found:?} {partition:?}: {got:?}"),
            }
        }
    }
}
