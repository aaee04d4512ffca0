//! Mounts the disks of a restore point as raw files that nobody can write, for as long as the call lasts. Nothing is copied, and
//! the point stays as it is meanwhile.

pub(super) mod place;
pub(super) mod raw_file;

use std::path::PathBuf;

use serde::Serialize;

use super::checked_chain::{self, CheckedDisk, Which};
use super::reading::Reading;
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::nas::files::NasFiles;
use crate::nas::path::PointPath;
use crate::nas::repository::Repository;
use crate::work::deadline::bounded_until_cancelled;
use crate::work::job::{self, Listener, Reporter};
use crate::work::phase::Phase;
use place::Place;
use raw_file::RawFile;

pub use place::unmount;

/// What is mounted, and where.
#[derive(Debug, Clone, Default)]
pub struct MountPointRequest {
    /// The caller's id for this job.
    pub job: Option<String>,
    /// The NAS export.
    pub repository: Option<Repository>,
    /// The restore point, `<instance>/<timestamp>`.
    pub backup_path: Option<String>,
    /// The volume of one of its disks; all of them without.
    pub volume: Option<String>,
    /// An empty folder of this host.
    pub folder: PathBuf,
}

/// The disks that are mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MountedPoint {
    /// One for each disk of the point.
    pub disks: Vec<MountedDisk>,
}

/// A disk that is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MountedDisk {
    /// Its volume, as the backup's answer named it.
    pub volume: String,
    /// The raw file.
    pub path: PathBuf,
    /// Bytes that the guest sees.
    pub size: u64,
}

/// Mounts the disks of a point, calls `mounted`, and keeps the disks mounted until all were unmounted ([`unmount`] does it), or
/// an error of the listener, or a cancel, ends the call, which then unmounts them from whoever uses them. `BUSY` when the point is
/// being changed, another host has taken this one for dead, or the folder is in use.
pub fn run(
    request: MountPointRequest,
    mounted: impl FnOnce(&MountedPoint) -> Result<()>,
    listener: Listener<'_>,
) -> Result<()> {
    let mut mounting = Mounting::make("mountPoint", request, listener)?;
    mounting.job.begin(Phase::KeepMounted)?;
    mounted(&mounting.point())?;
    mounting.keep()
}

/// A point of which disks are mounted. The drop unmounts them, from whoever uses them.
pub(super) struct Mounting<'a> {
    pub(super) job: Reporter<'a>,
    files: Vec<(String, RawFile)>,
    reading: Reading,
    place: Place,
}

impl<'a> Mounting<'a> {
    /// Mounts them, as a job of this operation.
    pub(super) fn make(
        operation: &'static str,
        request: MountPointRequest,
        listener: Listener<'a>,
    ) -> Result<Mounting<'a>> {
        let export = Repository::check(request.repository)?;
        let path = request.backup_path.ok_or_else(|| Error::invalid("backupPath", "is missing"))?;
        let point = PointPath::parse("backupPath", &path)?;
        let place = Place::take(&request.folder)?;
        let job = job::start(request.job, operation, &export, Some(point.instance().to_owned()))?;
        let mut job = Reporter::new(job, listener)?;
        job.begin(Phase::OpenRepository)?;
        let reading = Reading::open(export, &point)?;
        job.begin(Phase::FollowChains)?;
        let (held, at, volume) = (reading.clone(), point.clone(), request.volume.map(Which::Volume));
        let open = move || {
            let wanted = volume.map_or_else(|| checked_chain::all(held.root(), &at), |volume| Ok(vec![volume]))?;
            checked_chain::open_all(held.root(), &at, None, &wanted)
        };
        let disks = bounded_until_cancelled("follow the chains", limits::STORAGE_STEP, open);
        let disks = NasFiles::from(disks.inspect_err(|error| reading.note(error))?);
        job.begin(Phase::OpenOutputs)?;
        // each daemon has its images open in the end
        let files = mount(&place, &disks, &mut job)?;
        log::info!("'{point}' is mounted in '{}'", request.folder.display());
        Ok(Mounting { job, files, reading, place })
    }

    /// What is mounted.
    pub(super) fn point(&self) -> MountedPoint {
        let disk = |(volume, raw): &(String, RawFile)| MountedDisk {
            volume: volume.clone(),
            path: raw.path(),
            size: raw.size,
        };
        MountedPoint { disks: self.files.iter().map(disk).collect() }
    }

    /// The repository.
    pub(super) fn reading(&self) -> Reading {
        self.reading.clone()
    }

    /// Are the disks what they were? An error when one is not served any more, and `BUSY` when another host has taken this one for
    /// dead.
    pub(super) fn check(&self) -> Result<()> {
        self.files.iter().try_for_each(|(_, raw)| raw.check())?;
        self.reading.check()
    }

    /// Returns when nothing is mounted any more.
    fn keep(mut self) -> Result<()> {
        while self.place.has_mounts()? {
            self.job.tell()?;
            self.files.iter().try_for_each(|(_, raw)| raw.check())?;
            match self.reading.check() {
                Err(error) if error.code == Code::Busy => return Err(error),
                // whoever reads the files waits for the NAS, too
                checked => checked.unwrap_or_else(|error| self.reading.note(&error)),
            }
            std::thread::sleep(limits::JOB_LOOK);
        }
        Ok(())
    }
}

fn mount(place: &Place, disks: &[CheckedDisk], job: &mut Reporter<'_>) -> Result<Vec<(String, RawFile)>> {
    let mount = |disk: &CheckedDisk| {
        job.tell()?;
        Ok((disk.volume.clone(), RawFile::mount(place, &disk.volume, &disk.chain)?))
    };
    disks.iter().map(mount).collect()
}
