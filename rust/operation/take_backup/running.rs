//! The backup of a running or paused guest.

use std::collections::BTreeSet;
use std::fs::File;
use std::time::{Duration, Instant};

use super::bitmap::Bitmaps;
use super::decision::{self, Asked, BitmapFound, DiskFacts, Plan, Way};
use super::quiesce::Frozen;
use super::request::{Checked, Mode};
use super::storage::{self, Opened, TargetSpec, Targets};
use super::{Call, Outcome, TakenBackup, file_name, manifest};
use crate::config::{Config, QuiesceFailure};
use crate::engine::push::PushJob;
use crate::error::{Code, Error, Result};
use crate::host::HostState;
use crate::job::Reporter;
use crate::libvirt::{self, BackupDisk, Disk, Domain, DomainXml, JobState, Source, State};
use crate::nas::deadline::bounded;
use crate::point::{Kind, Manifest, ManifestDisk, ParentPoint, volume_of};
use crate::qcow2;

/// A question to QEMU that is open for longer means that it hangs; others in the agent ask it for statistics.
const MONITOR: Duration = Duration::from_secs(10);
/// How long one libvirt call after a job may take.
const CALL: Duration = Duration::from_secs(60);
/// How long the files may take to reach the NAS, at least.
const SYNC: Duration = Duration::from_secs(600);

/// A running guest as it was found.
struct Found {
    domain: Domain,
    uri: String,
    runs: bool,
    xml_text: String,
    xml: DomainXml,
    disks: Vec<DiskFacts>,
    /// The names in the domain of the disks that no backup holds.
    left_out: Vec<String>,
    bitmaps: Bitmaps,
    details: Vec<String>,
}

/// Asks libvirt on a thread that may be given up: a QEMU that hangs, perhaps in its own storage, answers no question.
fn ask<T: Send + 'static>(step: &'static str, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    bounded(step, CALL, work).map_err(|error| match error.code {
        Code::NasUnresponsive => Error { code: Code::Libvirt, ..error },
        _ => error,
    })
}

/// Runs the backup of a guest that must be running or paused.
pub(super) fn run(call: &Call<'_>, mut host: HostState, job: &mut Reporter<'_>) -> Result<TakenBackup> {
    let Call { checked, config, .. } = *call;
    job.begin("find the domain")?;
    let (request, settings) = (checked.clone(), config.clone());
    let found = ask("look at the domain", move || find(&request, &settings))?;
    job.begin("open the repository")?;
    let mut opened = storage::open(checked, config)?;
    let ours = ours(checked, &opened, &host)?;
    let (request, parent) = (checked.clone(), opened.parent.take());
    let (found, host, parent, plan) = ask("look at the bitmaps", move || {
        clear_way(&request, &found, &mut host)?;
        let plan = decide(&request, &found, parent.as_ref());
        Ok((found, host, parent, plan))
    })?;
    job.begin("make the targets")?;
    let specs = specs(&found.disks, &plan);
    let names: Vec<String> = specs.iter().map(|spec| spec.name.clone()).collect();
    let targets = storage::make_targets(opened, &checked.point, specs, storage::PROBE)?;
    let bitmap = checked.mode.bitmap().filter(|_| plan.carries.contains(&true));
    let mut attempt = Attempt { found, bitmap: bitmap.map(str::to_owned), host, targets, push: None, stuck: false };
    let copied = match attempt.copy(call, &plan, &names, job) {
        Ok(copied) => copied,
        Err(error) => return Err(attempt.abandon(error)),
    };
    let parent = parent
        .and_then(Result::ok)
        .map(|parent| ParentPoint { backup_path: parent.path.to_string(), point_id: parent.manifest.point_id });
    let disks = manifest_disks(&attempt, &plan, &names);
    let manifest = manifest(&checked.vm, copied.when, bitmap, parent, disks)?;
    let limit = SYNC.max(call.left());
    let (manifest, found, host) = attempt.publish(manifest, limit)?;
    job.enter("clear up");
    let mut details = found.details.clone();
    details.extend(plan.details.iter().cloned());
    details.extend(copied.details);
    let targets = found.disks.iter().map(|disk| Some(disk.target.clone())).collect();
    if let Some(bitmap) = bitmap.map(str::to_owned) {
        // The point is published: nothing that happens now changes that.
        let cleared = ask("remove the older bitmaps", move || Ok(clear_up(found, host, &ours, &bitmap)));
        details.extend(cleared.unwrap_or_else(|error| vec![error.to_string()]));
    }
    let parents =
        plan.ways.iter().map(|way| if let Way::Incremental(file) = way { Some(file.to_string()) } else { None });
    let recreated = match &checked.mode {
        Mode::Incremental { parent_bitmap, .. } if plan.recreated => Some(parent_bitmap.clone()),
        _ => None,
    };
    let outcome = Outcome {
        targets,
        parents: parents.collect(),
        manifest,
        recreated,
        fallback: plan.fallback,
        details,
        job_millis: copied.millis,
    };
    Ok(outcome.answer(&checked.point, job))
}

impl Found {
    /// Follows the domain onto a new connection, should the daemon have been restarted.
    fn refresh(&mut self) {
        match libvirt::connect(&self.uri).and_then(|connection| self.domain.on(&connection)) {
            Ok(Some(domain)) => self.domain = domain,
            Ok(None) => log::info!("{}: the domain is gone", self.domain.name()),
            Err(error) => log::warn!("{}: {error}", self.domain.name()),
        }
    }
}

/// Looks at the domain and its disks, and refuses what can't be backed up.
fn find(checked: &Checked, config: &Config) -> Result<Found> {
    let connection = libvirt::connect(&config.connection_uri)?;
    let missing =
        || Error::new(Code::DomainNotFound, "look up the domain", format!("libvirt has no domain '{}'", checked.vm));
    let domain = Domain::find(&connection, &checked.vm)?.ok_or_else(missing)?;
    let runs = match domain.state()? {
        State::Running => true,
        State::Paused { .. } => false,
        State::Other => {
            return Err(Error::new(
                Code::DomainState,
                "look at the domain",
                "it is neither running nor paused, and no disks are given",
            ));
        }
    };
    if domain.monitor_hangs(MONITOR)? || domain.job()?.state == JobState::Running {
        return Err(Error::new(
            Code::Busy,
            "look at the domain",
            "another job (backup, migration, save) runs on it, or QEMU does not answer",
        ));
    }
    let (xml_text, xml) = domain.xml()?;
    let (chosen, skipped): (Vec<&Disk>, Vec<&Disk>) =
        xml.disks.iter().partition(|disk| !disk.shareable && !disk.transient);
    let details =
        skipped.iter().map(|disk| format!("disk {}: left out, it is shareable or transient", disk.target)).collect();
    let left_out = skipped.iter().map(|disk| disk.target.clone()).chain(xml.others.iter().cloned()).collect();
    let mut disks = Vec::new();
    let mut stored = Vec::new();
    for disk in chosen {
        let (facts, names) = look_at(&domain, disk).map_err(|e| e.on_disk(&disk.target))?;
        disks.push(facts);
        stored.push(names);
    }
    refuse_twins(&disks)?;
    let targets = disks.iter().map(|disk| disk.target.clone()).collect();
    let bitmaps = Bitmaps { targets, stored, known: domain.checkpoint_names()?.into_iter().collect() };
    Ok(Found { domain, uri: config.connection_uri.clone(), runs, xml_text, xml, disks, left_out, bitmaps, details })
}

/// Facts of one disk, and the names of the bitmaps stored in its top image.
fn look_at(domain: &Domain, disk: &Disk) -> Result<(DiskFacts, BTreeSet<String>)> {
    const STEP: &str = "look at the disk";
    if disk.encrypted {
        return Err(Error::new(
            Code::UnsupportedImage,
            STEP,
            "it is encrypted, and would be written to the NAS in plain text",
        ));
    }
    if domain.in_block_job(&disk.target)? {
        return Err(Error::new(Code::Busy, STEP, "a block job runs on it"));
    }
    let volume = disk.source.path().and_then(volume_of);
    let volume = volume.filter(|volume| !volume.chars().any(char::is_control));
    let volume = volume
        .ok_or_else(|| Error::new(Code::UnsupportedImage, STEP, "its source has no name that a file can have"))?;
    let (cannot_carry, stored) = match bitmap_home(disk) {
        Err(reason) => (Some(reason), BTreeSet::new()),
        Ok(stored) => (None, stored),
    };
    let facts = DiskFacts {
        target: disk.target.clone(),
        volume: volume.to_owned(),
        serial: disk.serial.clone(),
        virtual_size: domain.capacity(&disk.target)?,
        cannot_carry,
    };
    Ok((facts, stored))
}

/// The bitmaps stored in the disk's top image, or why it can't hold one.
fn bitmap_home(disk: &Disk) -> Result<BTreeSet<String>, String> {
    let Source::File(path) = &disk.source else { return Err("it is no file".to_owned()) };
    if disk.format != "qcow2" {
        return Err(format!("its format is {}", disk.format));
    }
    if disk.read_only {
        return Err("it is read-only".to_owned());
    }
    let info = File::open(path).map_err(qcow2::Error::from).and_then(|file| qcow2::inspect(&file));
    let info = info.map_err(|e| format!("its image can't be read: {e}"))?;
    if info.version < 3 {
        return Err(
            "its image is qcow2 version 2; 'qemu-img amend -o compat=1.1' while the guest is stopped helps".to_owned()
        );
    }
    Ok(info.bitmaps.into_iter().map(|bitmap| bitmap.name).collect())
}

fn refuse_twins(disks: &[DiskFacts]) -> Result<()> {
    if disks.is_empty() {
        return Err(Error::new(Code::DomainState, "look at the disks", "the domain has no disk to back up"));
    }
    for (i, disk) in disks.iter().enumerate() {
        if disks[..i].iter().any(|other| other.volume == disk.volume) {
            let cause = format!("two disks have the volume name '{}'", disk.volume);
            return Err(Error::new(Code::UnsupportedImage, "look at the disks", cause).on_disk(&disk.target));
        }
    }
    Ok(())
}

/// The names that are ours: those of this virtual machine's manifests, of this host's record and of the request.
/// `ALREADY_EXISTS` when a published point has the name that is to be begun.
pub(super) fn ours(checked: &Checked, opened: &Opened, host: &HostState) -> Result<BTreeSet<String>> {
    let mut ours = opened.published.clone();
    if let Some(bitmap) = checked.mode.bitmap() {
        if ours.contains(bitmap) {
            return Err(Error::new(
                Code::AlreadyExists,
                "look at the bitmaps",
                format!("a restore point has bitmap '{bitmap}' already"),
            ));
        }
        ours.insert(bitmap.to_owned());
    }
    if let Mode::Incremental { parent_bitmap, .. } = &checked.mode {
        ours.insert(parent_bitmap.clone());
    }
    ours.extend(host.bitmaps().iter().cloned());
    Ok(ours)
}

/// Removes what a failed run left under the name that is to be begun.
fn clear_way(checked: &Checked, found: &Found, host: &mut HostState) -> Result<()> {
    let Some(bitmap) = checked.mode.bitmap().filter(|bitmap| found.bitmaps.has(bitmap)) else { return Ok(()) };
    log::warn!("{}: bitmap '{bitmap}' of a run that failed is removed", checked.vm);
    found.bitmaps.remove(&found.domain, bitmap)?;
    host.forget(bitmap)
}

/// Finds out about the parent's bitmap and decides.
fn decide(checked: &Checked, found: &Found, parent: Option<&Result<crate::point::Parent, String>>) -> Plan {
    let asked = match (&checked.mode, parent) {
        (Mode::Legacy, _) => Asked::Legacy,
        (Mode::Full { .. }, _) | (_, None) => Asked::Full,
        (Mode::Incremental { .. }, Some(parent)) => Asked::Incremental(parent.as_ref().map_err(String::as_str)),
    };
    let ways = decision::ways(asked, &found.disks);
    let bitmap = match (asked, &ways) {
        (Asked::Incremental(Ok(parent)), Ok(ways)) => Some(find_bitmap(found, parent, ways)),
        _ => None,
    };
    decision::plan(asked, &found.disks, ways, bitmap)
}

fn find_bitmap(found: &Found, parent: &crate::point::Parent, ways: &[Way]) -> BitmapFound {
    let on: Vec<_> = found.disks.iter().zip(ways).filter(|(_, way)| matches!(way, Way::Incremental(_))).collect();
    let on: Vec<_> = on.into_iter().map(|(disk, _)| disk.target.as_str()).collect();
    let name = parent.manifest.bitmap.as_deref().unwrap_or_default();
    found.bitmaps.find_parent(&found.domain, name, parent.manifest.when.as_second(), &on)
}

fn specs(disks: &[DiskFacts], plan: &Plan) -> Vec<TargetSpec> {
    let spec = |(i, (disk, way)): (usize, (&DiskFacts, &Way))| TargetSpec {
        name: file_name(i, &disk.volume),
        virtual_size: disk.virtual_size,
        parent: if let Way::Incremental(file) = way { Some(file.clone()) } else { None },
    };
    disks.iter().zip(&plan.ways).enumerate().map(spec).collect()
}

/// What the copying of the data has shown.
struct Copied {
    when: jiff::Timestamp,
    millis: u64,
    details: Vec<String>,
}

/// A backup from the making of its targets to its publication. Whatever fails in between, `abandon` undoes it.
struct Attempt {
    found: Found,
    /// The bitmap that begins with the job.
    bitmap: Option<String>,
    host: HostState,
    targets: Targets,
    push: Option<PushJob>,
    /// libvirt did not come back from the begin: a job may run.
    stuck: bool,
}

impl Attempt {
    fn copy(&mut self, call: &Call<'_>, plan: &Plan, names: &[String], job: &mut Reporter<'_>) -> Result<Copied> {
        let Call { checked, config, deadline } = *call;
        let backup = self.backup_xml(checked, plan, names)?;
        let checkpoint = self.bitmap.as_deref().map(|bitmap| self.checkpoint_xml(bitmap, plan));
        if let Some(bitmap) = &self.bitmap {
            self.host.remember(bitmap)?;
        }
        job.begin("begin")?;
        let mut details = Vec::new();
        let frozen = self.freeze(checked, config, &mut details)?;
        let when = jiff::Timestamp::now();
        let begun = Instant::now();
        let targets = self.found.disks.iter().map(|disk| disk.target.clone()).collect();
        let push = PushJob::begin(&self.found.domain, &config.connection_uri, targets, backup, checkpoint);
        if let Some(Err(error)) = frozen.map(Frozen::thaw) {
            log::error!("{}: {error}", self.found.domain.name());
            details.push(error.to_string());
        }
        self.stuck = push.as_ref().is_err_and(|error| error.code == Code::NasUnresponsive);
        let push = self.push.insert(push?);
        job.enter("copy");
        push.wait(job, deadline)?;
        let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        job.begin("publish")?;
        Ok(Copied { when, millis, details })
    }

    /// Freezes a running guest if that is asked for.
    fn freeze(&self, checked: &Checked, config: &Config, details: &mut Vec<String>) -> Result<Option<Frozen>> {
        if !checked.quiesce {
            return Ok(None);
        }
        if !self.found.runs {
            details.push("the guest is paused: not frozen".to_owned());
            return Ok(None);
        }
        match Frozen::freeze(&self.found.domain, self.found.xml.agent) {
            Ok(frozen) => Ok(Some(frozen)),
            Err(error) if config.quiesce_failure == QuiesceFailure::Warn => {
                details.push(error.to_string());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn backup_xml(&self, checked: &Checked, plan: &Plan, names: &[String]) -> Result<String> {
        let since = match &checked.mode {
            Mode::Incremental { parent_bitmap, .. } => Some(parent_bitmap.as_str()),
            _ => None,
        };
        let paths = names.iter().map(|name| self.targets.path(name)).collect::<Result<Vec<_>>>()?;
        let disks = self.found.disks.iter().zip(&plan.ways).zip(&paths);
        let chosen = disks.map(|((disk, way), path)| BackupDisk {
            target: &disk.target,
            file: Some(path),
            since: since.filter(|_| matches!(way, Way::Incremental(_))),
        });
        let left_out = self.found.left_out.iter().map(|target| BackupDisk { target, file: None, since: None });
        Ok(libvirt::backup_xml(&chosen.chain(left_out).collect::<Vec<_>>()))
    }

    fn checkpoint_xml(&self, bitmap: &str, plan: &Plan) -> String {
        let (with, without): (Vec<_>, Vec<_>) =
            self.found.disks.iter().zip(&plan.carries).partition(|(_, carries)| **carries);
        let with: Vec<_> = with.into_iter().map(|(disk, _)| disk.target.as_str()).collect();
        let without = without.into_iter().map(|(disk, _)| disk.target.as_str());
        let without: Vec<_> = without.chain(self.found.left_out.iter().map(String::as_str)).collect();
        libvirt::checkpoint_xml(bitmap, None, &with, &without)
    }

    fn publish(self, manifest: Manifest, limit: Duration) -> Result<(Manifest, Found, HostState)> {
        let texts = super::describe::texts(self.found.domain.name(), &self.found.xml_text, &self.found.xml);
        let Attempt { found, bitmap, mut host, targets, .. } = self;
        match targets.publish(manifest, texts, limit) {
            Ok(manifest) => Ok((manifest, found, host)),
            Err(error) => {
                remove_bitmap(&found, &mut host, bitmap.as_deref());
                Err(error)
            }
        }
    }

    /// Undoes everything because of `error`: at once, or, when the job can't be ended now, on a thread that waits for
    /// its end and keeps the virtual machine locked until then.
    fn abandon(mut self, error: Error) -> Error {
        let runs_on = self.stuck || self.push.as_ref().is_some_and(|push| !push.has_ended());
        if !runs_on {
            return self.clear(error);
        }
        let name = self.found.domain.name().to_owned();
        let error = error.with_leftover("the hypervisor's job, which does not end; all is cleared when it does");
        let cause = error.clone();
        let wait = std::thread::Builder::new().name("nasbackup-clear".to_owned()).spawn(move || {
            self.wait_for_end();
            let error = self.clear(cause);
            log::info!("{}: cleared after its job ended: {error}", name);
        });
        if let Err(failed) = wait {
            log::error!("the thread that clears up could not be started: {failed}");
        }
        error
    }

    /// Waits until no job runs on the domain. A push job on a NAS that hangs can't be ended by anybody.
    fn wait_for_end(&mut self) {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            self.found.refresh();
            let domain = &self.found.domain;
            match domain.job() {
                Ok(picture) if picture.state == JobState::Running => {
                    if let Err(error) = domain.abort_job() {
                        log::debug!("{}: {error}", domain.name());
                    }
                }
                Ok(_) => return,
                Err(error) if domain.state() == Ok(State::Other) => {
                    log::info!("{}: {error}", domain.name());
                    return;
                }
                Err(error) => log::debug!("{}: {error}", domain.name()),
            }
        }
    }

    /// Undoes everything; no job runs any more.
    fn clear(self, error: Error) -> Error {
        let Attempt { mut found, bitmap, mut host, targets, .. } = self;
        found.refresh();
        remove_bitmap(&found, &mut host, bitmap.as_deref());
        resume(&found);
        let error = targets.discard(error);
        resume(&found);
        error
    }
}

/// Removes the bitmap of a run that failed: as a parent it would hide a hole in the chain. What can't be removed stays in
/// this host's record, for the next run.
fn remove_bitmap(found: &Found, host: &mut HostState, bitmap: Option<&str>) {
    let Some(bitmap) = bitmap else { return };
    if found.domain.state() == Ok(State::Other) {
        log::info!(
            "{}: the guest is gone, what is left of bitmap '{bitmap}' goes with the next backup",
            found.domain.name()
        );
        return;
    }
    let (bitmaps, domain, name) = (found.bitmaps.clone(), found.domain.clone(), bitmap.to_owned());
    let removed = ask("delete the new checkpoint", move || bitmaps.remove(&domain, &name));
    if let Err(error) = removed.and_then(|()| host.forget(bitmap)) {
        log::warn!("{}: bitmap '{bitmap}' stays until the next backup: {error}", found.domain.name());
    }
}

/// Lets a guest go on that ran before and that the failed backup stopped, and no other.
fn resume(found: &Found) {
    let go_on = || -> Result<bool> {
        let stopped = found.runs && found.domain.state()? == State::Paused { io_error: true };
        if stopped {
            found.domain.resume()?;
        }
        Ok(stopped)
    };
    match go_on() {
        Ok(true) => log::warn!("{}: the guest, paused by the failed backup, goes on", found.domain.name()),
        Ok(false) => {}
        Err(error) => log::error!("{}: {error}", found.domain.name()),
    }
}

/// After a success: removes the other bitmaps of ours. What could not be done is told, and done by the next run.
fn clear_up(mut found: Found, mut host: HostState, ours: &BTreeSet<String>, bitmap: &str) -> Vec<String> {
    found.refresh();
    let mut details = Vec::new();
    for name in ours.iter().filter(|name| *name != bitmap) {
        let removed = if found.bitmaps.has(name) { found.bitmaps.remove(&found.domain, name) } else { Ok(()) };
        if let Err(error) = removed.and_then(|()| host.forget(name)) {
            details.push(format!("bitmap '{name}' stays until the next backup: {error}"));
        }
    }
    details.extend(
        found.bitmaps.foreign(ours).iter().map(|name| format!("bitmap '{name}' is not ours and is left alone")),
    );
    details
}

fn manifest_disks(attempt: &Attempt, plan: &Plan, names: &[String]) -> Vec<ManifestDisk> {
    let disk = |(i, disk): (usize, &DiskFacts)| ManifestDisk {
        volume: disk.volume.clone(),
        serial: disk.serial.clone(),
        file: names[i].clone(),
        kind: if matches!(plan.ways[i], Way::Incremental(_)) { Kind::Incremental } else { Kind::Full },
        size: 0,
        virtual_size: disk.virtual_size,
        bitmap: attempt.bitmap.clone().filter(|_| plan.carries[i]),
    };
    attempt.found.disks.iter().enumerate().map(disk).collect()
}
