//! `restorePoint`: disks of a restore point, all in one call, as files that stand on nothing. They take their names when all
//! are whole and were found to be what was backed up.

mod copy;
mod disk;
mod gate;
mod in_ceph;
mod old;
mod output;
mod record;
mod request;
mod room;
mod target;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::engine::rate::{Limiter, Rate};
use crate::error::{Code, Error, Result};
use crate::job::{self, Listener, Reporter};
use crate::nas::deadline::{bounded, of_the_host};
use crate::nas::folder::Folder;
use crate::nas::path::{PointPath, RepoPath};
use crate::operation::ceph::Image;
use crate::operation::checked_chain::{self, Disk as Source};
use crate::operation::reading::Reading;
use crate::operation::take_backup::layers;
use crate::point::Link;
use crate::point::fingerprints::{self, Base, Fingerprints};
use crate::qcow2;
use copy::{Copy, Finished};
use disk::{Disk, Parts};
use gate::Gate;
use in_ceph::InCeph;
use output::Output;
pub(super) use request::{Asked, Wanted, check_output};
pub use request::{
    OutputFormat, Preallocation, RestoreOutput, RestorePointRequest, Restored, RestoredVolume, Verify, VolumeRequest,
};

const STEP: &str = "open the outputs";
const PUBLISH: &str = "publish the outputs";
/// A step is short, but for the syncs.
const LIMIT: Duration = Duration::from_secs(600);

/// A disk that is open, and where it goes.
#[derive(Debug)]
struct Opened {
    file: String,
    path: String,
    verify: Verify,
    output: Output,
    /// What the file that it replaces is to be kept as.
    kept: Option<String>,
}

/// What is asked of a point.
struct Asking {
    volumes: Vec<Wanted>,
    /// Of each its image in Ceph, if it goes to one.
    images: Vec<Option<Arc<Image>>>,
    verify: Option<Verify>,
    keep_old: bool,
}

/// Runs `restorePoint`. `listener` is told of progress on this thread. Until all disks are whole, durable and verified, what
/// was there before has its name and its content.
pub fn run(request: RestorePointRequest, listener: Listener<'_>) -> Result<Restored> {
    perform("restorePoint", request::check(request)?, listener)
}

/// The same for what another `operation` is asked.
pub(super) fn perform(operation: &'static str, asked: Asked, listener: Listener<'_>) -> Result<Restored> {
    let Asked { job, export, point, id, volumes, verify, keep_old, rate } = asked;
    let job = job::start(job, operation, &export, Some(point.instance().to_owned()))?;
    let mut job = Reporter::new(job, listener)?;
    job.begin("open the repository")?;
    let reading = Reading::open(export, &point)?;
    job.begin(STEP)?;
    // by this thread, with which what serves them ends
    let in_ceph = in_ceph::open(&volumes, point.instance(), &mut job)?;
    let images = in_ceph.iter().map(|opened| opened.as_ref().map(|opened| opened.image.clone())).collect();
    let (held, at) = (reading.clone(), point.clone());
    let begin = move || begin(held.session.root(), &at, id.as_deref(), Asking { volumes, images, verify, keep_old });
    let in_ceph = in_ceph.into_iter().flatten().collect::<Vec<_>>();
    let ended = bounded(STEP, LIMIT, begin).and_then(|(opened, disks)| {
        let copy = Arc::new(Copy::new(disks, Limiter::new(Rate { own: rate, host: None })));
        restore(opened, &copy, (&reading, &in_ceph), &mut job).map_err(|error| copy.lost(error))
    });
    ended.inspect_err(|error| {
        reading.note(error);
        log::error!("{operation}: '{point}' could not be restored: {error}");
    })
}

/// Copies all, and gives the outputs their names; whatever fails before that, what was made goes.
fn restore(
    opened: Vec<Opened>,
    copy: &Arc<Copy>,
    (reading, in_ceph): (&Reading, &[InCeph]),
    job: &mut Reporter<'_>,
) -> Result<Restored> {
    let copied = copy::run(copy, reading, job).and_then(|finished| {
        // else what was read need not be what was checked
        reading.check()?;
        in_ceph.iter().try_for_each(|image| image.check_alone(job))?;
        job.begin(PUBLISH)?;
        Ok(finished)
    });
    match copied {
        Ok(finished) => {
            let restored = answer(&opened, copy, finished, in_ceph);
            publish_in_time(opened)?;
            Ok(Restored { total_millis: job.elapsed_millis(), ..restored })
        }
        Err(error) => Err(match of_the_host("remove the partial outputs", LIMIT, move || discard(opened)) {
            Ok(()) => error,
            Err(stuck) => error.with_leftover(stuck),
        }),
    }
}

/// Gives the outputs their names. Once the caller is told that their storage did not answer, none is given any more.
fn publish_in_time(opened: Vec<Opened>) -> Result<()> {
    let gate = Arc::new(Gate::default());
    let theirs = gate.clone();
    of_the_host(PUBLISH, LIMIT, move || publish(opened, &theirs)).map_err(|error| {
        gate.close();
        let begun =
            "outputs of which some may have their names: the next restore onto all of them gives the others theirs";
        if gate.is_used() { error.with_leftover(begun) } else { error }
    })
}

/// Gives the outputs their names, one after the other; before the first all that can fail by itself was done.
fn publish(mut opened: Vec<Opened>, gate: &Gate) -> Result<()> {
    opened.iter_mut().try_for_each(|opened| opened.output.settle())?;
    let _inside = gate.enter(PUBLISH)?;
    let names = opened.iter().filter_map(|opened| opened.output.name());
    let names = names.map(|(folder, name)| Ok((folder.again()?, name.to_owned()))).collect::<Result<Vec<_>>>()?;
    keep_old(&opened)?;
    let recorded = record::write(&opened.iter().map(|opened| &opened.output).collect::<Vec<_>>());
    recorded.and_then(|()| gate.enter(PUBLISH).map(drop)).map_err(|error| {
        record::remove(&names);
        forget_old(&opened, error)
    })?;
    name_all(&mut opened, gate)?;
    record::remove(&names);
    Ok(())
}

/// Gives all their names. Where one does not get it, the record stays, and with it what is to have the name.
fn name_all(opened: &mut [Opened], gate: &Gate) -> Result<()> {
    let all = opened.iter_mut().map(|opened| gate.enter(PUBLISH).and_then(|_inside| opened.output.publish()));
    let mut failures = all.collect::<Vec<_>>().into_iter().filter_map(Result::err);
    let Some(error) = failures.next() else { return Ok(()) };
    // of one file there is no record: it goes
    if opened.iter().filter(|opened| opened.output.name().is_some()).count() < 2 {
        return Err(error);
    }
    opened.iter_mut().for_each(|opened| opened.output.leave());
    Err(error.with_leftover("outputs that are whole, which the next restore onto all of them gives their names"))
}

/// Keeps what all outputs replace, or nothing.
fn keep_old(opened: &[Opened]) -> Result<()> {
    each_kept(opened, Output::keep_old).map_err(|error| forget_old(opened, error))
}

/// What is replaced is not kept, for this error.
fn forget_old(opened: &[Opened], error: Error) -> Error {
    match each_kept(opened, Output::forget_old) {
        Ok(()) => error,
        Err(stuck) => error.with_leftover(stuck),
    }
}

fn each_kept(opened: &[Opened], act: fn(&Output, &str) -> Result<()>) -> Result<()> {
    let kept = opened.iter().filter_map(|opened| Some((&opened.output, opened.kept.as_deref()?)));
    kept.map(|(output, kept)| act(output, kept)).fold(Ok(()), Result::and)
}

fn discard(opened: Vec<Opened>) -> Result<()> {
    let ended: Vec<_> = opened.into_iter().map(|opened| opened.output.discard()).collect();
    ended.into_iter().collect()
}

fn answer(opened: &[Opened], copy: &Copy, finished: Vec<Finished>, in_ceph: &[InCeph]) -> Restored {
    let mut restored = Restored::default();
    let mut details: Vec<_> = in_ceph.iter().filter_map(InCeph::unknown).collect();
    for ((Opened { file, path, verify, kept, .. }, disk), finished) in opened.iter().zip(&copy.disks).zip(finished) {
        if finished.unknown > 0 {
            let (bytes, volume) = (finished.unknown, &disk.volume);
            details.push(format!(
                "{volume}: {bytes} bytes, where an older image ends, were not compared: no fingerprint is of them"
            ));
        }
        restored.volumes.push(RestoredVolume {
            file: file.clone(),
            volume: disk.volume.clone(),
            output: path.clone(),
            verified: *verify,
            bytes_read: disk.done.read.load(Relaxed),
            bytes_kept: disk.done.kept.load(Relaxed),
            bytes_cloned: disk.done.cloned.load(Relaxed),
            kept: kept.clone(),
            millis: finished.millis,
        });
    }
    let sum = |bytes: fn(&RestoredVolume) -> u64| restored.volumes.iter().map(bytes).sum();
    let (read, kept, cloned) =
        (sum(|disk| disk.bytes_read), sum(|disk| disk.bytes_kept), sum(|disk| disk.bytes_cloned));
    Restored { bytes_read: read, bytes_kept: kept, bytes_cloned: cloned, details: details.join("\n"), ..restored }
}

/// Checks the point and opens everything; until it returns nothing but empty files was made.
fn begin(
    root: &Folder,
    point: &PointPath,
    id: Option<&str>,
    Asking { volumes, images, verify, keep_old }: Asking,
) -> Result<(Vec<Opened>, Vec<Disk>)> {
    let which: Vec<_> = volumes.iter().map(|wanted| wanted.which.clone()).collect();
    let mut sources = checked_chain::open_all(root, point, id, &which)?;
    sources.iter_mut().try_for_each(|source| check_verify(source, verify))?;
    let instance = root.open_dir(&point.instance_folder())?;
    refuse_same(&volumes)?;
    let on_this_host = volumes.iter().filter(|wanted| wanted.rbd.is_none());
    record::finish_left(on_this_host.map(|wanted| Path::new(&wanted.path)))?;
    let (mut opened, mut disks, mut indexed) = (Vec::new(), Vec::new(), Vec::new());
    for ((wanted, image), source) in volumes.into_iter().zip(images).zip(sources) {
        let file = source.chain.first().map_or("", |link| link.path.name()).to_owned();
        let verify = if source.recorded.is_some() { Verify::Data } else { Verify::Chain };
        let indexes = Indexes::of(&source)?;
        let (output, disk) = open((root, &instance), &wanted, image, source, indexes.as_ref())?;
        indexed.push(indexes);
        let kept = if keep_old { output.name_to_keep()? } else { None };
        opened.push(Opened { file, path: wanted.path, verify, output, kept });
        disks.push(disk);
    }
    let outputs: Vec<_> = opened.iter().map(|opened| &opened.output).zip(&disks).collect();
    room::check(&outputs, |place| indexed[place].as_ref().map(|indexed| indexed.base(root)).transpose())?;
    disks.iter().try_for_each(Disk::reserve)?;
    Ok((opened, disks))
}

/// Leaves the source its fingerprints if the data are to be compared with them.
fn check_verify(source: &mut Source, verify: Option<Verify>) -> Result<()> {
    match (verify, &source.recorded) {
        (Some(Verify::Chain), _) => source.recorded = None,
        (Some(Verify::Data), None) => {
            let cause = "verify: its image, or one below it, has no fingerprints to compare its data with";
            return Err(Error::new(Code::InvalidArgument, STEP, cause).on_disk(&source.volume));
        }
        _ => {}
    }
    Ok(())
}

/// No two disks have one output.
fn refuse_same(volumes: &[Wanted]) -> Result<()> {
    let mut taken = BTreeSet::new();
    for wanted in volumes {
        if wanted.rbd.is_none() && !taken.insert(output::resolve(Path::new(&wanted.path))?.0) {
            return Err(Error::invalid("output.path", format!("'{}' is the output of two disks", wanted.path)));
        }
    }
    Ok(())
}

/// Opens the output and the fingerprints.
fn open(
    (root, instance): (&Folder, &Folder),
    wanted: &Wanted,
    image: Option<Arc<Image>>,
    source: Source,
    indexes: Option<&Indexes>,
) -> Result<(Output, Disk)> {
    let Source { volume, chain, .. } = source;
    let mut names = vec![wanted.path.clone()];
    names.extend(chain.iter().map(|link| link.path.to_string()));
    let disk = size_of(&chain)?;
    let size = wanted.size.unwrap_or(disk);
    if size < disk {
        let cause = format!("output.size: the disk has {disk} bytes, its output is to have {size}");
        return Err(Error::new(Code::InvalidArgument, STEP, cause).on_disk(&volume));
    }
    let base = indexes.map(|indexes| indexes.base(root)).transpose().map_err(|error| error.on_disk(&volume))?;
    let raw = wanted.format == OutputFormat::Raw;
    let output = match image {
        Some(image) => Output::of_image(&wanted.path, image, size),
        None => Output::open(&wanted.path, raw, size, root, instance),
    };
    let output = output.map_err(|error| error.on_disk(&volume))?;
    let old = if base.is_some() { old(&output, raw) } else { Vec::new() };
    let images = chain.into_iter().map(|link| link.file).collect();
    let (target, device) = (output.target()?, output.is_in_place());
    let disk = Disk::begin(Parts {
        volume,
        names,
        images,
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

/// The volume as it is, in the format that its output is to have; nothing where it can't be read.
fn old(output: &Output, raw: bool) -> Vec<qcow2::Layer> {
    let Some((file, path)) = output.old() else { return Vec::new() };
    let path = path.display().to_string();
    let again = file.try_clone().map_err(|e| Error::io(STEP, &path, e));
    let opened = again.and_then(|file| layers::of_old(&path, file, !raw));
    opened.unwrap_or_else(|error| {
        log::info!("'{path}' is restored without a look at what it was: {error}");
        Vec::new()
    })
}

/// Size that the guest sees of a chain, in bytes.
fn size_of(chain: &[Link]) -> Result<u64> {
    let newest = chain.first().ok_or_else(|| Error::new(Code::Internal, STEP, "a chain without an image"))?;
    Ok(qcow2::inspect(&newest.file).map_err(|e| e.at(STEP, newest.path.as_str()))?.virtual_size)
}

/// The fingerprints of a disk.
struct Indexes {
    images: Vec<(RepoPath, Fingerprints)>,
    disk: u64,
}

impl Indexes {
    /// None where the data are not compared.
    fn of(source: &Source) -> Result<Option<Indexes>> {
        let Some(recorded) = &source.recorded else { return Ok(None) };
        let images = source.chain.iter().map(|link| link.path.clone()).zip(recorded.iter().cloned()).collect();
        Ok(Some(Indexes { images, disk: size_of(&source.chain)? }))
    }

    /// Opens them.
    fn base(&self, root: &Folder) -> Result<Base<File>> {
        let open = |(image, recorded): &(RepoPath, Fingerprints)| fingerprints::open(root, image, recorded);
        let indexes = self.images.iter().map(open).collect::<Result<Vec<_>>>()?;
        let newest = self.images.first().map_or("", |(image, _)| image.as_str());
        Base::begin(indexes, self.disk).map_err(|e| fingerprints::failed("read the fingerprints", newest, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_its_name_once_the_caller_was_told_of_failure() {
        let (nas, pool) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = Folder::open_root(nas.path()).unwrap();
        let open = |name: &str| {
            let path = pool.path().join(name).display().to_string();
            std::fs::write(&path, "as it was").unwrap();
            let output = Output::open(&path, true, 512, &root, &root).unwrap();
            let kept = output.name_to_keep().unwrap();
            Opened { file: name.into(), path, verify: Verify::Data, output, kept }
        };
        let gate = Gate::default();
        let opened = vec![open("a"), open("b")];
        gate.close();
        let error = publish(opened, &gate).unwrap_err();
        assert_eq!((error.code, error.leftovers, gate.is_used()), (Code::Cancelled, false, false), "{error}");
        for name in ["a", "b"] {
            assert_eq!(std::fs::read(pool.path().join(name)).unwrap(), b"as it was");
        }
        assert_eq!(std::fs::read_dir(pool.path()).unwrap().count(), 2);
    }
}
