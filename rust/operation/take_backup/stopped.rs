//! The backup of a stopped guest: its bitmaps are seeded, then its disks are read, all of them under QEMU's image lock.
//! What is written between the two is in the copy and in the bitmap, so nothing is lost. An incremental takes what the
//! parent's bitmap, stored in the disk, names.
//!
//! An image in Ceph has neither bitmap nor lock. It is read from an export of `qemu-nbd`, and after that the guest must still
//! be stopped.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::decision::{self, Asked, BitmapFound, Constraints, DiskFacts, DiskPlan, Failed, Plan, Strategy};
use super::image_file::{Nameable, open_named};
use super::layers::{self, Image};
use super::regrown::OpenImages;
use super::request::{Checked, Mode, StoppedSource, StoppedSources};
use super::selection::{self, EXCLUDED};
use super::space::Free;
use super::storage::{self, TargetWriter, Targets};
use super::{Call, Outcome, TakenBackup, ask, base, manifest, parent_point, qemu_img, regrown};
use crate::engine::Engine;
use crate::engine::offline::{self, Origin};
use crate::engine::socket::Socket;
use crate::error::{Code, Error, Result};
use crate::host::{Begun, HostState};
use crate::job::{Job, Reporter};
use crate::libvirt::Domain;
use crate::nas::deadline::{LIMIT, of_the_guest, within_call};
use crate::nbd;
use crate::operation::ceph::{Access, Rbd, Server};
use crate::point::fingerprints::{Base, Fingerprints};
use crate::point::{LeftOut, Parent};
use crate::qcow2::{self, Dirty, Layer, View};

/// How long the bitmaps of disks may take to be changed: longer than `qemu-img` may for one, where it removes one and adds one.
const CHANGE: Duration = qemu_img::LIMIT.saturating_mul(2);

/// A disk as it was found.
struct Found {
    source: StoppedSource,
    /// Of all disks of files or devices.
    paths: Vec<String>,
    facts: DiskFacts,
    /// The bitmaps stored in it.
    bitmaps: BTreeSet<String>,
    /// Why the parent's bitmap does not tell what was written since, if so.
    untracked: Option<String>,
}

/// Runs the backup of a guest that must not run.
pub(super) fn run(
    call: &Call<'_>,
    sources: &StoppedSources,
    mut host: HostState,
    job: &mut Reporter<'_>,
) -> Result<TakenBackup> {
    let mut constraints = Constraints::default();
    loop {
        let without_parent = constraints.parent.is_some();
        match take(call, sources, &mut host, &mut constraints, job) {
            Err(error) if error.code == Code::ParentInvalid && !error.leftovers && !without_parent => {
                log::warn!("{}: once more: {error}", call.checked.vm);
            }
            taken => return taken,
        }
    }
}

/// Takes the point within `constraints`. `PARENT_INVALID` when a further one has shown.
fn take(
    call: &Call<'_>,
    sources: &StoppedSources,
    host: &mut HostState,
    constraints: &mut Constraints,
    job: &mut Reporter<'_>,
) -> Result<TakenBackup> {
    let checked = call.checked;
    let _prepares = call.prepares();
    job.begin("look at the disks")?;
    refuse_running(call, "it is not shut off, but the request names disks as for a stopped one")?;
    let look = |source: &StoppedSource| look(call, source.clone(), sources.paths(), job);
    let found = sources.chosen.iter().map(look).collect::<Result<Vec<_>>>()?;
    job.begin("open the repository")?;
    let mut opened = storage::open(call)?;
    let ours = super::running::ours(checked, &opened, host)?;
    let parent = constraints.parent.clone().map(Err).or(opened.parent.take());
    let lost = constraints.bitmap.clone().map(BitmapFound::Lost);
    let facts: Vec<_> = found.iter().map(|disk| disk.facts.clone()).collect();
    let plan = decide(checked, &found, &facts, parent.as_ref(), lost);
    check_space(call, &found, &plan, &opened.free, job)?;
    job.begin("make the targets")?;
    let bitmap = checked.mode.bitmap();
    let seeds = facts.iter().filter(|disk| disk.cannot_carry.is_none()).map(|disk| disk.target.clone());
    host.begin(Begun { disks: seeds.collect(), ..call.begun(opened.root(), bitmap, job) })?;
    let targets = storage::make_targets(call, opened, plan.specs(true));
    let targets = targets.inspect_err(|error| host.end_unless(storage::goes_on(error)))?;
    let left_out = sources.left_out.clone();
    let mut attempt = Attempt { found, left_out, plan, targets, hangs: false };
    let completed = base::complete(&attempt.targets, &mut attempt.plan, job, call.deadline);
    let seeded = completed.and_then(|()| bitmap.map_or(Ok(()), |bitmap| attempt.seed(bitmap)));
    let copied = seeded.map_err(Failed::from).and_then(|()| attempt.copy(call, job));
    let _winds_up = call.winds_up();
    match copied {
        Ok(copied) => attempt.publish(call, copied, parent, &ours, host, job),
        Err(failed) => {
            if let Some(more) = std::mem::take(constraints).learn(&attempt.plan, &failed) {
                *constraints = more;
            }
            Err(attempt.abandon(failed.into_error(), bitmap, host))
        }
    }
}

/// Work on the disks' own storage, on a thread that may be given up; `TIMEOUT` when there is no answer.
fn answered<T: Send + 'static>(
    step: &'static str,
    limit: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    of_the_guest(step, limit, work).map_err(|error| match error.code {
        Code::NasUnresponsive => {
            let late = Error::new(Code::Timeout, step, format!("the disks' own storage: {}", error.cause));
            late.with_leftover("what was asked of them")
        }
        _ => error,
    })
}

fn parent_bitmap(checked: &Checked) -> Option<&str> {
    if let Mode::Incremental { parent_bitmap, .. } = &checked.mode { Some(parent_bitmap) } else { None }
}

/// `DOMAIN_STATE`, for this reason, when the guest runs on this host.
fn refuse_running(call: &Call<'_>, reason: &'static str) -> Result<()> {
    const STEP: &str = "look at the domain";
    let (uri, vm) = (call.config.connection_uri.clone(), call.checked.vm.clone());
    ask(STEP, move || match Domain::find(&uri, &vm)? {
        Some(domain) if domain.is_active()? => Err(Error::new(Code::DomainState, STEP, reason)),
        _ => Ok(()),
    })
}

/// Looks at a disk: nobody may be writing to it.
fn look(call: &Call<'_>, source: StoppedSource, paths: Vec<String>, job: &mut Reporter<'_>) -> Result<Found> {
    if let Some(image) = source.rbd.clone() {
        return look_at_image(call, &image, source, job).map_err(|error| error.on_disk(&image.name));
    }
    let parent_bitmap = parent_bitmap(call.checked).map(str::to_owned);
    answered("look at the disks", LIMIT, move || look_at(source, paths, parent_bitmap.as_deref()))
}

/// Looks at an image in Ceph.
fn look_at_image(call: &Call<'_>, image: &Rbd, source: StoppedSource, job: &mut Reporter<'_>) -> Result<Found> {
    nbd::available().map_err(|e| Error { cause: format!("an image in Ceph is read as by pull; {}", e.cause), ..e })?;
    let virtual_size = export(image, call, job)?.size()?;
    let facts = DiskFacts {
        target: source.path.clone(),
        volume: source.volume.clone(),
        file: source.file.clone(),
        serial: None,
        twin: false,
        virtual_size,
        cannot_carry: Some("it is an image in Ceph".to_owned()),
        unseen: None,
    };
    Ok(Found { source, paths: Vec::new(), facts, bitmaps: BTreeSet::new(), untracked: None })
}

/// Looks at a disk of files or devices, under their lock. `paths` are those of all disks of files or devices.
fn look_at(source: StoppedSource, paths: Vec<String>, parent_bitmap: Option<&str>) -> Result<Found> {
    let look = || {
        let Opened { images, view } = open(&source, &paths)?;
        let top = &images[0];
        let facts = DiskFacts {
            target: source.path.clone(),
            volume: source.volume.clone(),
            file: source.file.clone(),
            serial: None,
            twin: false,
            virtual_size: view.size(),
            cannot_carry: cannot_carry(top.info.as_ref()),
            unseen: None,
        };
        let bitmaps = top.info.iter().flat_map(|info| &info.bitmaps).map(|bitmap| bitmap.name.clone()).collect();
        let untracked = parent_bitmap.filter(|_| source.qcow2).and_then(|name| tracked(top, name).err());
        Ok((facts, bitmaps, untracked))
    };
    let (facts, bitmaps, untracked) = look().map_err(|error: Error| error.on_disk(&source.path))?;
    Ok(Found { source, paths, facts, bitmaps, untracked })
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
fn tracked(image: &Image, name: &str) -> std::result::Result<Dirty, String> {
    Dirty::open(image.file(), name).unwrap_or_else(|error| Err(format!("can't be read: {error}")))
}

/// A disk's images, the top one first, and what the guest sees of them.
struct Opened {
    images: Vec<Image>,
    view: View,
}

/// Opens and locks them; `paths` are those of all disks.
fn open(source: &StoppedSource, paths: &[String]) -> Result<Opened> {
    let nameable = match &source.backing {
        Some(files) => Nameable::only(files),
        None => Nameable::beside(paths.iter().map(String::as_str)),
    };
    let images = layers::of_file(source, &nameable)?;
    let layers = images.iter().map(Image::layer).collect::<Result<Vec<_>>>()?;
    let view = View::open(layers).map_err(|error| error.at("look at the disk", &source.path))?;
    Ok(Opened { images, view })
}

/// `NO_SPACE` when there is less room than the plan will write, as far as is known. The data are counted only where the disks'
/// sizes do not fit.
fn check_space(call: &Call<'_>, found: &[Found], plan: &Plan, free: &Free, job: &mut Reporter<'_>) -> Result<()> {
    if found.iter().map(|disk| disk.facts.virtual_size).fold(0, u64::saturating_add) <= free.bytes {
        return Ok(());
    }
    // how much of a disk differs is known when all was read
    let disks = wanted(call.checked, found, plan).into_iter().zip(&plan.disks);
    let counted = disks.filter(|(_, planned)| !matches!(planned.strategy, Strategy::Compared(..)));
    let mut counted: Vec<_> = counted.map(|(disk, _)| disk).collect();
    let _servers = serve(call, &mut counted, job)?;
    let count = move || counted.iter().map(Wanted::bytes).sum();
    free.fits(answered("count the data", LIMIT.max(call.left()), count)?)
}

/// Finds out about the parent's bitmap, unless it is known to be `lost`, and decides.
fn decide(
    checked: &Checked,
    found: &[Found],
    facts: &[DiskFacts],
    parent: Option<&std::result::Result<Parent, String>>,
    lost: Option<BitmapFound>,
) -> Plan {
    let asked = Asked::of(&checked.mode, parent);
    let strategies = decision::strategies(asked, facts, true);
    let bitmap = match (asked, &strategies, parent_bitmap(checked)) {
        (Asked::Incremental(Ok(_)), Ok(strategies), Some(name)) => {
            lost.or_else(|| find_bitmap(name, found, strategies))
        }
        _ => None,
    };
    decision::plan(asked, facts, strategies, bitmap, true)
}

/// What is known of the parent's bitmap, if any disk needs it.
fn find_bitmap(name: &str, found: &[Found], strategies: &[Strategy]) -> Option<BitmapFound> {
    let on = found.iter().zip(strategies).filter(|(_, strategy)| strategy.is_by_bitmap());
    let on: Vec<_> = on.map(|(disk, _)| disk).collect();
    let lost = on.iter().filter_map(|disk| {
        disk.untracked.as_ref().map(|reason| format!("bitmap '{name}' {reason} on disk {}", disk.source.path))
    });
    let lost: Vec<_> = lost.collect();
    match lost[..] {
        _ if on.is_empty() => None,
        [] => Some(BitmapFound::Known),
        _ => Some(BitmapFound::Lost(lost.join(", "))),
    }
}

/// A backup from the making of its targets to its publication.
struct Attempt {
    found: Vec<Found>,
    left_out: Vec<StoppedSource>,
    /// Once they are seeded, with the disks that really carry the bitmap.
    plan: Plan,
    targets: Targets,
    /// The disks' own storage does not answer: somebody still waits for it, and may hold the locks.
    hangs: bool,
}

/// What the reading of the disks has shown.
struct Copied {
    /// The instant that the copies show.
    when: jiff::Timestamp,
    millis: u64,
    /// Of each disk that we wrote ourselves.
    fingerprints: Vec<Option<Fingerprints>>,
    /// How long they may take to become a point.
    limit: Duration,
}

impl Attempt {
    /// Adds the bitmap to each disk that can carry it. One that gets none is told, and backed up all the same; not one whose
    /// storage does not answer, for nothing could be read from that either.
    fn seed(&mut self, bitmap: &str) -> Result<()> {
        let Attempt { found, plan, hangs, .. } = self;
        let wanted = |planned: &mut DiskPlan| std::mem::take(&mut planned.carries);
        let wanted: Vec<bool> = plan.disks.iter_mut().map(wanted).collect();
        for (i, disk) in found.iter().enumerate().filter(|(i, _)| wanted[*i]) {
            let (path, name, stale) = (disk.source.path.clone(), bitmap.to_owned(), disk.bitmaps.contains(bitmap));
            // what came after it was given up would be nobody's
            let until = Instant::now() + within_call(CHANGE);
            let add = move || {
                if stale {
                    qemu_img::bitmap("--remove", &path, &name)?;
                }
                qemu_img::bitmap_until(until, "--add", &path, &name)
            };
            match answered("seed the disks", CHANGE, add) {
                Ok(()) => plan.disks[i].carries = true,
                Err(error) if error.leftovers => {
                    *hangs = true;
                    return Err(error);
                }
                Err(error) => plan.details.push(format!("disk {}: not seeded: {}", disk.source.path, error.cause)),
            }
        }
        Ok(())
    }

    /// Reads the disks, all under their locks. `PARENT_INVALID` when an incremental can't stand on its parent after all.
    fn copy(&mut self, call: &Call<'_>, job: &mut Reporter<'_>) -> std::result::Result<Copied, Failed> {
        job.begin("copy")?;
        let begun = Instant::now();
        let mut wanted = wanted(call.checked, &self.found, &self.plan);
        let servers = serve(call, &mut wanted, job)?;
        let locked = answered("lock the disks", LIMIT, move || {
            wanted.iter().map(|disk| disk.lock().map_err(|e| e.on_disk(&disk.source.path))).collect::<Result<Vec<_>>>()
        });
        self.hangs = locked.as_ref().is_err_and(|error| error.code == Code::Timeout);
        let locked = locked?;
        let _winds_up = call.winds_up();
        let when = jiff::Timestamp::now();
        let (mut locks, mut compared, mut origins) = (Vec::new(), Vec::new(), Vec::new());
        for disk in locked {
            locks.extend(disk.images);
            compared.push(disk.compared);
            origins.push(disk.origin);
        }
        let locks = Arc::new(locks);
        let copied = self.copy_locked(call, origins, compared, locks.clone(), job);
        drop(servers);
        self.hangs = Arc::strong_count(&locks) > 1;
        let unlocked = answered("unlock the disks", LIMIT, move || {
            drop(locks);
            Ok(())
        });
        let fingerprints = copied?;
        unlocked?;
        if self.found.iter().any(|disk| disk.source.rbd.is_some()) {
            refuse_running(call, "it was started while its images in Ceph, which nothing locks, were read")?;
        }
        let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        job.begin("publish")?;
        Ok(Copied { when, millis, fingerprints, limit: call.time_to_publish(storage::PUBLISH)? })
    }

    /// Copies the disks from their `origins`, and compares them, of which there are the images `compared`, with the parent point.
    fn copy_locked(
        &self,
        call: &Call<'_>,
        origins: Vec<Origin>,
        mut compared: Vec<Vec<Layer>>,
        locks: Arc<Vec<Image>>,
        job: &mut Reporter<'_>,
    ) -> std::result::Result<Vec<Option<Fingerprints>>, Failed> {
        let bases = base::open(&self.targets, &self.plan)?;
        let disk = |((i, origin), base): ((usize, Origin), Option<Base<File>>)| {
            Ok(offline::Disk { target: self.targets.target(i, base)?, origin })
        };
        let disks = origins.into_iter().enumerate().zip(bases).map(disk).collect::<Result<Vec<_>>>()?;
        let (rate, session) = (call.checked.rate, self.targets.session().clone());
        let fingerprints = offline::copy(disks, rate, session, locks, job, call.deadline)?;
        let images = |i: usize| -> OpenImages {
            let images = std::mem::take(&mut compared[i]);
            Box::new(move || Ok(images))
        };
        regrown::check(call, &self.targets, &self.plan, images)?;
        Ok(fingerprints.into_iter().map(Some).collect())
    }

    fn publish(
        self,
        call: &Call<'_>,
        copied: Copied,
        parent: Option<std::result::Result<Parent, String>>,
        ours: &BTreeSet<String>,
        host: &mut HostState,
        job: &Job,
    ) -> Result<TakenBackup> {
        let Attempt { found, left_out, plan, targets, .. } = self;
        let new = call.checked.mode.bitmap();
        let bitmap = plan.new_bitmap(&call.checked.mode);
        let without = |source: &StoppedSource| LeftOut {
            target: None,
            volume: Some(source.volume.clone()),
            serial: None,
            reason: EXCLUDED.to_owned(),
        };
        let disks = plan.manifest_disks(bitmap, copied.fingerprints);
        let disks = (disks, left_out.iter().map(without).collect());
        let manifest = manifest(call, copied.when, Engine::Push, bitmap, parent_point(parent), disks);
        let published = match targets.publish(manifest, Vec::new(), copied.limit) {
            Ok(published) => published,
            Err(error) => {
                let error = unseed(&found, &plan, new, host, error);
                host.end_unless(error.leftovers);
                return Err(error);
            }
        };
        let mut details: Vec<_> = left_out.iter().map(|source| selection::told(&source.path, EXCLUDED)).collect();
        details.extend(plan.details);
        match (bitmap, new) {
            (Some(bitmap), _) => details.extend(clear_up(&found, left_out, ours, bitmap, host)),
            // No disk got it.
            (None, Some(new)) => details.extend(host.forget(new).err().map(|error| error.to_string())),
            (None, None) => {}
        }
        host.end();
        let outcome = Outcome {
            targets: found.iter().map(|_| None).collect(),
            published,
            recreated: parent_bitmap(call.checked).filter(|_| plan.recreated).map(str::to_owned),
            fallback: plan.fallback,
            details,
            job_millis: copied.millis,
        };
        Ok(outcome.answer(&call.checked.point, job))
    }

    /// Drops the seeds and the targets.
    fn abandon(self, error: Error, bitmap: Option<&str>, host: &mut HostState) -> Error {
        let error = self.targets.discard(error, TargetWriter::Ours);
        let error = if self.hangs {
            log::warn!("what was seeded stays until the next backup");
            error
        } else {
            unseed(&self.found, &self.plan, bitmap, host, error)
        };
        host.end_unless(error.leftovers);
        error
    }
}

/// A disk to lock and open.
struct Wanted {
    source: StoppedSource,
    /// Of all disks of files or devices.
    paths: Vec<String>,
    size: u64,
    /// The bitmap that tells what is copied; without it everything is.
    bitmap: Option<String>,
    /// The socket of its export, if it has one.
    export: Option<Arc<Socket>>,
}

/// The disks, as the plan wants them opened.
fn wanted(checked: &Checked, found: &[Found], plan: &Plan) -> Vec<Wanted> {
    let wanted = |(found, planned): (&Found, &DiskPlan)| Wanted {
        source: found.source.clone(),
        paths: found.paths.clone(),
        size: found.facts.virtual_size,
        bitmap: parent_bitmap(checked).filter(|_| planned.strategy.is_by_bitmap()).map(str::to_owned),
        export: None,
    };
    found.iter().zip(&plan.disks).map(wanted).collect()
}

fn export(image: &Rbd, call: &Call<'_>, job: &mut Reporter<'_>) -> Result<Server> {
    Server::start(image, Access::Read, (call.config, &call.checked.vm), call.left(), job)
}

/// Exports the images in Ceph among the disks, for a client each.
fn serve(call: &Call<'_>, disks: &mut [Wanted], job: &mut Reporter<'_>) -> Result<Vec<Server>> {
    let mut servers = Vec::new();
    for disk in disks {
        let Some(image) = &disk.source.rbd else { continue };
        let server = export(image, call, job).map_err(|error| error.on_disk(&image.name))?;
        disk.export = Some(server.socket());
        servers.push(server);
    }
    Ok(servers)
}

/// A disk that nobody writes to.
struct Locked {
    /// Those that are locked.
    images: Vec<Image>,
    /// The same of an incremental, which is compared with its parent without holding their locks: the NAS may hold that up.
    compared: Vec<Layer>,
    origin: Origin,
}

impl Wanted {
    fn lock(&self) -> Result<Locked> {
        const STEP: &str = "look at the disk again";
        if let Some(socket) = &self.export {
            let origin = Origin::Export(socket.clone());
            return Ok(Locked { images: Vec::new(), compared: Vec::new(), origin });
        }
        let Opened { images, view } = open(&self.source, &self.paths)?;
        if view.size() != self.size {
            let what = format!("it has {} bytes and not {}", view.size(), self.size);
            let cause = format!("it was exchanged while the backup was being prepared: {what}");
            return Err(Error::new(Code::DomainState, STEP, cause));
        }
        let lost =
            |name: &str, reason: String| Error::new(Code::ParentInvalid, STEP, format!("bitmap '{name}' {reason}"));
        let (changes, compared) = match &self.bitmap {
            Some(name) => {
                let changes = tracked(&images[0], name).map_err(|reason| lost(name, reason))?;
                (Some(changes), images.iter().map(Image::layer_without_lock).collect::<Result<_>>()?)
            }
            None => (None, Vec::new()),
        };
        Ok(Locked { images, compared, origin: Origin::Images(Box::new(view), changes) })
    }

    /// The bytes that are to be copied. Zeroes that somebody wrote are among them, clusters without data are not.
    fn bytes(&self) -> Result<u64> {
        let Locked { images, origin, .. } = self.lock().map_err(|e| e.on_disk(&self.source.path))?;
        let held = images.iter().map(Image::occupied).reduce(u64::saturating_add);
        let mapped = offline::count(&self.source.path, self.size, origin)?;
        // an image may map more than it holds
        Ok(held.map_or(mapped, |held| mapped.min(held)))
    }
}

/// Removes a bitmap from the disk at `path`, if it is stored there.
pub(super) fn remove_if_there(path: &str, bitmap: &str) -> Result<()> {
    const STEP: &str = "look at the disk";
    let info = qcow2::inspect(&open_named(path)?).map_err(|e| e.at(STEP, path))?;
    let there = info.bitmaps.iter().any(|stored| stored.name == bitmap);
    if there { qemu_img::bitmap("--remove", path, bitmap) } else { Ok(()) }
}

/// Removes the new bitmap from the disks that got it. Where that can't be done (the guest was started), it stays in this
/// host's record for the next run; where their storage does not answer, `error` says that somebody is still at it.
fn unseed(found: &[Found], plan: &Plan, bitmap: Option<&str>, host: &mut HostState, error: Error) -> Error {
    let Some(bitmap) = bitmap else { return error };
    let seeded = found.iter().zip(&plan.disks).filter(|(_, planned)| planned.carries);
    let paths: Vec<_> = seeded.map(|(disk, _)| disk.source.path.clone()).collect();
    let name = bitmap.to_owned();
    let removed = answered("remove the new bitmap", CHANGE, move || remove_bitmap(&paths, &name));
    match removed.and_then(|()| host.forget(bitmap)) {
        Ok(()) => error,
        Err(stays) => {
            log::warn!("bitmap '{bitmap}' stays until the next backup: {stays}");
            if stays.leftovers { error.with_leftover(stays.cause) } else { error }
        }
    }
}

/// Removes a bitmap from each of the disks, whatever happens on the others; the first failure.
fn remove_bitmap(paths: &[String], bitmap: &str) -> Result<()> {
    paths.iter().map(|path| qemu_img::bitmap("--remove", path, bitmap)).fold(Ok(()), Result::and)
}

/// Removes each of these bitmaps from the disks at its paths; what became of it. Once it is given up it begins with none more.
fn remove_bitmaps(bitmaps: Vec<(String, Vec<String>)>) -> Result<Vec<(String, Result<()>)>> {
    let until = Instant::now() + within_call(CHANGE);
    let remove = move |(name, paths): (String, Vec<String>)| {
        let removed = remove_bitmap(&paths, &name);
        (name, removed)
    };
    answered("remove the older bitmaps", CHANGE, move || {
        Ok(bitmaps.into_iter().take_while(|_| Instant::now() < until).map(remove).collect())
    })
}

/// Removes the other bitmaps of ours, from the disks that were left out, too; what could not be done is told, and done by the
/// next run.
fn clear_up(
    found: &[Found],
    left_out: Vec<StoppedSource>,
    ours: &BTreeSet<String>,
    bitmap: &str,
    host: &mut HostState,
) -> Vec<String> {
    let mut details = Vec::new();
    let (stored, unknown) = stored_in(left_out);
    let older = ours.iter().filter(|name| *name != bitmap).map(|name| {
        let disks = found.iter().map(|disk| (&disk.source.path, &disk.bitmaps));
        let there = disks.chain(stored.iter().map(|(path, names)| (path, names)));
        let there = there.filter(|(_, names)| names.contains(name)).map(|(path, _)| path.clone());
        (name.clone(), there.collect())
    });
    let removed = remove_bitmaps(older.collect()).unwrap_or_else(|error| {
        details.push(format!("older bitmaps may stay until the next backup: {error}"));
        Vec::new()
    });
    for (name, removed) in removed {
        // a name that was forgotten while it may be somewhere would be nobody's
        if let Err(error) = removed.and_then(|()| if unknown.is_empty() { host.forget(&name) } else { Ok(()) }) {
            details.push(format!("bitmap '{name}' stays until the next backup: {error}"));
        }
    }
    details.extend(unknown.iter().map(|error| format!("older bitmaps may stay until the next backup: {error}")));
    let foreign =
        found.iter().flat_map(|disk| &disk.bitmaps).filter(|name| !ours.contains(*name)).collect::<BTreeSet<_>>();
    details.extend(foreign.iter().map(|name| format!("bitmap '{name}' is not ours and is left alone")));
    details
}

/// The bitmaps in the disks that were left out, with their paths, and why it is not known of others.
fn stored_in(left_out: Vec<StoppedSource>) -> (Vec<(String, BTreeSet<String>)>, Vec<Error>) {
    const STEP: &str = "look at the disks that are left out";
    let look = |source: StoppedSource| {
        let info = qcow2::inspect(&open_named(&source.path)?).map_err(|error| error.at(STEP, &source.path))?;
        Ok((source.path, info.bitmaps.into_iter().map(|bitmap| bitmap.name).collect()))
    };
    let qcow2 = left_out.into_iter().filter(|source| source.qcow2 && source.rbd.is_none()).collect::<Vec<_>>();
    let looked = answered(STEP, LIMIT, move || Ok(qcow2.into_iter().map(look).collect()));
    let looked: Vec<Result<_>> = looked.unwrap_or_else(|error| vec![Err(error)]);
    let (mut stored, mut unknown) = (Vec::new(), Vec::new());
    for disk in looked {
        match disk {
            Ok(disk) => stored.push(disk),
            Err(error) => unknown.push(error),
        }
    }
    (stored, unknown)
}
