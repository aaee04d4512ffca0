//! `restorePoint`: disks of a restore point, all in one call, as files that stand on nothing. They take their names when all
//! are whole and were found to be what was backed up.

mod clusters;
mod copier;
mod copy;
mod disk;
pub(super) mod dry_run;
mod gate;
mod in_ceph;
mod kept;
mod left;
mod locked_image;
mod names;
mod new_file;
mod old;
mod output;
mod output_path;
mod paths;
mod plan;
mod publication;
mod readable;
mod record;
mod request;
mod room;
mod state;
mod target;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::engine::rate::{Limiter, Rate};
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::logging::ANSWERED;
use crate::nas::files::NasFiles;
use crate::nas::path::PointPath;
use crate::operation::ceph::CephImage;
use crate::operation::checked_chain;
use crate::operation::reading::Reading;
use crate::point::{StateFile, volume_of};
use crate::qcow2;
use crate::qemu::layers;
use crate::work::deadline::{bounded_for_host, bounded_until_cancelled};
use crate::work::job::{self, Listener, Reporter};
use crate::work::phase::Phase;
use copy::{Copying, Finished};
use disk::{DiskParts, RestoredDisk};
use in_ceph::InCeph;
use kept::KeptCopy;
use output::Output;
use output_path::{PointFolders, already_there, refuse_same};
use publication::{Opened, discard_outputs, publish, publish_in_time};
use readable::{Indexes, Readable, choose_verification};
use request::{KeepOld, WantedState};
pub use request::{
    OutputFormat, Preallocation, RestoreOutput, RestorePointRequest, Restored, RestoredState, RestoredVolume, Verify,
    VolumeRequest,
};
pub(super) use request::{RestoreCall, WantedDisk, check_output};
use room::SpaceNeed;

const STEP: &str = output_path::OPEN_ALL;

/// Refuses what `run` would refuse of the request and its outputs, for who only wants to know; not what the point, room and others'
/// locks come to. Folders of outputs may be missing if the caller makes them.
pub fn check(request: RestorePointRequest, makes_folders: bool) -> Result<()> {
    dry_run::check(request::check(request)?, makes_folders)
}

/// Runs `restorePoint`. `listener` is told of progress on this thread. Until all disks are whole, durable and verified, what
/// was there before has its name and its content.
pub fn run(request: RestorePointRequest, listener: Listener<'_>) -> Result<Restored> {
    perform("restorePoint", request::check(request)?, listener)
}

/// Runs a restore on behalf of `operation`, which is `restorePoint` or one that is a restore of one disk.
pub(super) fn perform(operation: &'static str, asked: RestoreCall, listener: Listener<'_>) -> Result<Restored> {
    let RestoreCall { job, export, point, id, volumes, state, verify, keep_old, only_new, rate } = asked;
    let job = job::start(job, operation, &export, Some(point.instance().to_owned()))?;
    let mut job = Reporter::new(job, listener)?;
    job.begin(Phase::OpenRepository)?;
    let reading = Reading::open(export, &point)?;
    job.begin(Phase::OpenOutputs)?;
    // on this thread, because the servers of the images end with the thread that started them
    let in_ceph = in_ceph::open(&volumes, point.instance(), &mut job)?;
    let images = in_ceph.iter().map(|opened| opened.as_ref().map(|opened| opened.image.clone())).collect();
    let in_ceph = in_ceph.into_iter().flatten().collect::<Vec<_>>();
    let sources = open_point(&reading, point.clone(), id, (&volumes, &state), verify);
    let begun =
        sources.and_then(|sources| open_outputs(&reading, sources, (volumes, images, state), (keep_old, only_new)));
    let ended = begun.and_then(|OpenedDisks { opened, disks, space }| {
        let copy = NasFiles::from(Arc::new(Copying::new(disks, Limiter::new(Rate { own: rate, host: None }))));
        restore(opened, space, &copy, (&reading, &in_ceph), &mut job).map_err(|error| copy.add_lost_outputs(error))
    });
    ended.inspect_err(|error| {
        reading.note(error);
        log::error!(target: ANSWERED, "{operation}: unable to restore '{point}': {error}");
    })
}

/// Copies all disks, and gives the outputs their names. If anything fails before the first name is given, what was made is removed.
fn restore(
    opened: Vec<Opened>,
    space: Space,
    copy: &Arc<Copying>,
    (reading, in_ceph): (&Reading, &[InCeph]),
    job: &mut Reporter<'_>,
) -> Result<Restored> {
    // without the lock on the instance the data need not be those that were checked, and by now a guest may use an image in Ceph
    let is_ours = |job: &mut Reporter<'_>| {
        reading.check()?;
        in_ceph.iter().try_for_each(|image| image.check_alone(job))
    };
    let copied = space.take(copy, reading).and_then(|()| copy::run(copy, reading, is_ours, job));
    let copied = copied.and_then(|finished| {
        is_ours(job)?;
        job.begin(Phase::PublishOutputs)?;
        Ok(finished)
    });
    match copied {
        Ok(finished) => {
            let restored = answer(&opened, copy, finished);
            publish_in_time(move |gate| publish(opened, gate))?;
            Ok(Restored { total_millis: job.elapsed_millis(), ..restored })
        }
        Err(error) => {
            let ours = copy.clone();
            let discard = move || discard_outputs(opened).and(ours.forget_kept());
            Err(match bounded_for_host("remove the partial outputs", copy.storage_limit(), discard) {
                Ok(()) => error,
                Err(stuck) => error.with_leftover(stuck),
            })
        }
    }
}

fn answer(opened: &[Opened], copy: &Copying, finished: Vec<Finished>) -> Restored {
    let mut restored = Restored::default();
    let mut details = Vec::new();
    for ((Opened { file, path, verify, kept, .. }, disk), finished) in opened.iter().zip(&copy.disks).zip(finished) {
        if finished.unknown > 0 {
            let (bytes, volume) = (finished.unknown, &disk.paths.volume);
            details.push(format!(
                "{volume}: {bytes} bytes, where an older image ends, were not compared: no fingerprint is of them"
            ));
        }
        restored.volumes.push(RestoredVolume {
            file: file.clone(),
            volume: disk.paths.volume.clone(),
            output: path.clone(),
            verified: *verify,
            bytes_read: disk.done.read.load(Relaxed),
            bytes_kept: disk.done.kept.load(Relaxed),
            bytes_cloned: disk.done.cloned.load(Relaxed),
            kept: kept.clone(),
            millis: finished.millis,
        });
    }
    let state = opened.iter().skip(copy.disks.len()).map(|Opened { file, path, kept, .. }| RestoredState {
        file: file.clone(),
        output: path.clone(),
        kept: kept.clone(),
    });
    restored.state = state.collect();
    let sum = |bytes: fn(&RestoredVolume) -> u64| restored.volumes.iter().map(bytes).sum();
    let (read, kept, cloned) =
        (sum(|disk| disk.bytes_read), sum(|disk| disk.bytes_kept), sum(|disk| disk.bytes_cloned));
    Restored { bytes_read: read, bytes_kept: kept, bytes_cloned: cloned, details: details.join("\n"), ..restored }
}

/// The wanted disks of a point, open for reading, and what is wanted besides.
struct OpenedPoint {
    points: PointFolders,
    disks: Vec<Readable>,
    state: Vec<StateFile>,
}

/// Checks the point, and opens the wanted disks: all that the NAS is asked for before the copy.
fn open_point(
    reading: &Reading,
    point: PointPath,
    id: Option<String>,
    (volumes, state): (&[WantedDisk], &[WantedState]),
    verify: Option<Verify>,
) -> Result<OpenedPoint> {
    let which: Vec<_> = volumes.iter().map(|wanted| wanted.which.clone()).collect();
    let parts: Vec<_> = state.iter().map(|wanted| wanted.part).collect();
    let held = reading.clone();
    bounded_until_cancelled("check the point", limits::STORAGE_LONG_STEP, move || {
        let root = held.root();
        let mut sources = checked_chain::open_all(root, &point, id.as_deref(), &which)?;
        sources.iter_mut().try_for_each(|source| choose_verification(source, verify))?;
        let state = state::read(root, &point, id.as_deref(), &parts)?;
        let points = PointFolders::of(root, &root.open_dir(&point.instance_folder())?)?;
        let disks = sources.into_iter().map(|source| Readable::open(root, source)).collect::<Result<_>>()?;
        Ok(OpenedPoint { points, disks, state })
    })
}

/// The disks and their outputs, open.
struct OpenedDisks {
    opened: Vec<Opened>,
    disks: Vec<RestoredDisk>,
    space: Space,
}

/// Opens the outputs. This makes nothing but empty files, and asks the outputs' storage only, not the NAS.
fn open_outputs(
    reading: &Reading,
    sources: OpenedPoint,
    (volumes, in_ceph, wanted_state): (Vec<WantedDisk>, Vec<Option<Arc<CephImage>>>, Vec<WantedState>),
    (keep_old, only_new): (Option<KeepOld>, bool),
) -> Result<OpenedDisks> {
    let held = reading.clone();
    bounded_for_host(STEP, limits::STORAGE_LONG_STEP, move || {
        let (_held, OpenedPoint { points, disks: readable, state }) = (held, sources);
        let on_this_host = volumes.iter().filter(|wanted| wanted.rbd.is_none()).map(|wanted| &wanted.path);
        let paths: Vec<_> = on_this_host.chain(wanted_state.iter().map(|wanted| &wanted.path)).map(Path::new).collect();
        refuse_same(paths.iter().map(|path| output_path::resolve(path).map(|(real, _)| real)))?;
        record::finish_left(paths.into_iter())?;
        let (mut opened, mut disks, mut indexes) = (Vec::new(), Vec::new(), Vec::new());
        for ((wanted, image), mut readable) in volumes.into_iter().zip(in_ceph).zip(readable) {
            let (file, verify) = (readable.file.clone(), readable.verify());
            indexes.push(readable.indexes.take());
            let (output, disk) = open_output(&points, &wanted, image, readable)?;
            let kept = match &keep_old {
                None => None,
                Some(keep_old) if output.is_in_place() => {
                    Some(prepare_kept_copy(keep_old, &disk, &wanted.path, &points)?)
                }
                Some(_) => output.choose_kept_name()?,
            };
            opened.push(Opened { file, path: wanted.path, verify, output, kept });
            disks.push(disk);
        }
        for (wanted, file) in wanted_state.into_iter().zip(state) {
            opened.push(state::open_output(&points, wanted.path, file, keep_old.is_some())?);
        }
        if only_new {
            refuse_old(&opened)?;
        }
        let needs = room::needs(&opened.iter().map(|opened| &opened.output).zip(&disks).collect::<Vec<_>>())?;
        Ok(OpenedDisks { opened, disks, space: Space { needs, indexes } })
    })
}

/// The space that the outputs need, and the fingerprints by which it can be told more closely.
struct Space {
    needs: Vec<SpaceNeed>,
    indexes: Vec<Option<Indexes>>,
}

impl Space {
    /// Checks the room for all disks, `NO_SPACE` if there surely is too little, and reserves what preallocation wants.
    fn take(self, copy: &Arc<Copying>, reading: &Reading) -> Result<()> {
        let Space { needs, indexes } = self;
        let ours = copy.clone();
        // only the fingerprints tell, and these lie on the NAS
        if room::may_be_short(&needs) {
            let (held, ours) = (reading.clone(), copy.clone());
            bounded_until_cancelled(room::STEP, limits::STORAGE_LONG_STEP, move || {
                let base = |place: usize| {
                    let indexes: Option<&Indexes> = indexes[place].as_ref();
                    indexes.map(|indexes| indexes.open(held.root())).transpose()
                };
                room::check(&needs, &ours.disks, base)
            })?;
        }
        bounded_for_host("take the room", limits::STORAGE_LONG_STEP, move || {
            ours.disks.iter().try_for_each(RestoredDisk::reserve)
        })
    }
}

/// Makes the file that the content of this disk's output is copied to, and returns its path.
fn prepare_kept_copy(keep_old: &KeepOld, disk: &RestoredDisk, path: &str, points: &PointFolders) -> Result<String> {
    let name = volume_of(path).unwrap_or("disk");
    let kept =
        KeptCopy::make(keep_old.folder_for(path)?, name, points).map_err(|error| error.on_disk(&disk.paths.volume))?;
    let path = kept.path().display().to_string();
    disk.set_kept_copy(kept);
    Ok(path)
}

/// `ALREADY_EXISTS` for an output that would replace something. What gets the name of a new one later is not replaced either.
fn refuse_old(opened: &[Opened]) -> Result<()> {
    opened.iter().find(|opened| opened.output.old().is_some()).map_or(Ok(()), |opened| Err(already_there(&opened.path)))
}

/// Opens the output of a disk.
fn open_output(
    points: &PointFolders,
    wanted: &WantedDisk,
    image: Option<Arc<CephImage>>,
    readable: Readable,
) -> Result<(Output, RestoredDisk)> {
    let Readable { volume, names, pieces, images, base, .. } = readable;
    let size = wanted.size.unwrap_or(pieces.size());
    if size < pieces.size() {
        let cause = format!("output.size: the disk has {} bytes, its output is to have {size}", pieces.size());
        return Err(Error::new(Code::InvalidArgument, STEP, cause).on_disk(&volume));
    }
    let raw = wanted.format == OutputFormat::Raw;
    let output = match image {
        Some(image) => Output::of_image(&wanted.path, image, size),
        None => Output::open(&wanted.path, raw, size, points),
    };
    let output = output.map_err(|error| error.on_disk(&volume))?;
    let old = if base.is_some() { open_old(&output, raw) } else { Vec::new() };
    let (target, device) = (output.target()?, output.is_in_place());
    let disk = RestoredDisk::begin(DiskParts {
        volume,
        names: [vec![wanted.path.clone()], names].concat(),
        source: (pieces, images),
        base,
        target,
        format: wanted.format,
        size,
        preallocation: wanted.preallocation,
        device,
        old,
    })?;
    Ok((output, disk))
}

/// Opens the layers of the volume that is replaced, to take data from it; none if it can't be read.
fn open_old(output: &Output, raw: bool) -> Vec<qcow2::Layer> {
    let Some((file, path)) = output.old() else { return Vec::new() };
    let path = path.display().to_string();
    let again = file.try_clone().map_err(|e| Error::io(STEP, &path, e));
    let opened = again.and_then(|file| layers::of_old(&path, file, !raw));
    opened.unwrap_or_else(|error| {
        log::info!("unable to take data from the former '{path}', reading all of it from the NAS: {error}");
        Vec::new()
    })
}
