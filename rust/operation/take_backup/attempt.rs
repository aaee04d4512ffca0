//! A running guest's backup between the making of its targets and its publication, and how it is undone.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::decision::{DiskPlan, Failed, Plan};
use super::found::{self, Found};
use super::quiesce::{self, Frozen};
use super::regrown::OpenImages;
use super::request::{Checked, Mode};
use super::storage::{Published, TargetWriter, Targets};
use super::{Call, ask, base, describe, layers, regrown};
use crate::config::QuiesceFailure;
use crate::engine::job::{BackupJob, Prepared};
use crate::engine::scratch::Scratch;
use crate::engine::{Engine, leftover, pull, push};
use crate::error::{Code, Error, Result};
use crate::host::HostState;
use crate::job::Reporter;
use crate::libvirt::{self, BackupDisk, BackupMode, State};
use crate::nas::deadline::for_the_same;
use crate::point::fingerprints::Fingerprints;
use crate::point::{LeftOut, Manifest};

/// What the copying of the data has shown.
pub(super) struct Copied {
    /// The instant that the copies show.
    pub when: jiff::Timestamp,
    /// From the begin of the job to the last target's close.
    pub millis: u64,
    /// What was not ordinary.
    pub details: Vec<String>,
    /// Of each disk, if the engine sees what it copies.
    pub fingerprints: Vec<Option<Fingerprints>>,
}

/// What an engine needs besides the job.
enum EngineInput {
    /// The targets that QEMU writes, and closes.
    Push(Vec<push::Target>),
    Pull(Arc<Scratch>, Vec<pull::Disk>),
}

/// A backup from the making of its targets to its publication. Whatever fails in between, `abandon` undoes it.
pub(super) struct Attempt {
    found: Found,
    /// The bitmap that begins with the job.
    bitmap: Option<String>,
    host: HostState,
    targets: Targets,
    engine: Engine,
    /// What the job writes into: by this it is known as ours.
    folder: PathBuf,
    /// For a pull, until its job has ended: by it a job is known that outlives this process.
    scratch: Option<Arc<Scratch>>,
    backup: Option<BackupJob>,
    /// libvirt did not come back from the begin: a job may run.
    stuck: bool,
    /// The hypervisor did not begin the job, which changes nothing.
    refused: bool,
}

impl Attempt {
    /// Begins with targets that were made and nothing else; by pull if there is a `scratch`.
    pub(super) fn new(
        found: Found,
        bitmap: Option<&str>,
        host: HostState,
        targets: Targets,
        scratch: Option<Scratch>,
    ) -> Attempt {
        let engine = if scratch.is_some() { Engine::Pull } else { Engine::Push };
        let folder = scratch.as_ref().map_or_else(|| targets.folder(), |scratch| scratch.folder().to_owned());
        let (scratch, bitmap) = (scratch.map(Arc::new), bitmap.map(str::to_owned));
        Attempt { found, bitmap, host, targets, engine, folder, scratch, backup: None, stuck: false, refused: false }
    }

    /// The engine that moves the data.
    pub(super) fn engine(&self) -> Engine {
        self.engine
    }

    /// The disks that it leaves out.
    pub(super) fn left_out(&self) -> &[LeftOut] {
        &self.found.left_out
    }

    /// Sees to it that the disks can be compared that the plan has compared.
    pub(super) fn complete(&self, call: &Call<'_>, plan: &mut Plan, job: &mut Reporter<'_>) -> Result<()> {
        base::complete(&self.targets, plan, job, call.deadline)
    }

    /// Was it all for nothing because the hypervisor would not begin a pull?
    pub(super) fn pull_was_refused(&self) -> bool {
        self.refused && self.engine == Engine::Pull
    }

    /// Runs the job, freezing the guest for its begin if that is asked for.
    pub(super) fn copy(&mut self, call: &Call<'_>, plan: &Plan, job: &mut Reporter<'_>) -> Result<Copied> {
        let input = self.engine_input(plan)?;
        let xml = self.backup_xml(call.checked, plan, &input)?;
        let checkpoint = self.bitmap.as_deref().map(|bitmap| self.checkpoint_xml(bitmap, plan));
        job.begin("begin")?;
        let mut details = Vec::new();
        let prepared = Prepared::new(&self.found.domain, self.found.job_disks(), self.folder.clone())?;
        let frozen = self.freeze(call, &mut details)?;
        let when = jiff::Timestamp::now();
        let begun = Instant::now();
        let backup = prepared.begin(self.engine, xml, checkpoint);
        if let Some(Err(error)) = frozen.map(|frozen| frozen.thaw().and_then(|()| self.host.set_frozen(false))) {
            log::error!("{}: {error}", self.found.domain.name());
            details.push(error.to_string());
        }
        let _winds_up = call.winds_up();
        self.stuck = backup.as_ref().map_or(true, |answer| answer.is_err() && self.job_runs());
        let backup = backup.map_err(|error| match &means {
            Means::Push(targets) => push::explain_begin(error, targets),
            Means::Pull(..) => error,
        })?;
        self.refused = !self.stuck && backup.as_ref().is_err_and(|error| error.code == Code::Libvirt);
        if self.refused && self.engine == Engine::Push {
            // by a link, which is not followed there, libvirt's own error says little
            self.targets.check_in_place()?;
        }
        let mut backup = backup.map_err(|error| self.refused_while_confined(error))?;
        job.enter("copy");
        let copied = self.move_data(call, &mut backup, input, job);
        if backup.has_ended() {
            self.scratch = None;
            // A guest that met an error in the last moment waits.
            if let Err(error) = self.resume() {
                log::error!("{}: {error}", self.found.domain.name());
                details.push(error.to_string());
            }
        }
        let copied = match backup.incident_at_end() {
            Some(incident) => copied.map_err(|error| incident.told_in(error)).inspect(|_| {
                let disk = incident.disk.as_deref().map(|disk| format!("disk {disk}: ")).unwrap_or_default();
                details.push(format!("{disk}{incident}; the restore point holds what the disks held at its instant"));
            }),
            None => copied,
        };
        self.backup = Some(backup);
        let (fingerprints, unlimited) = copied?;
        let fingerprints = fingerprints.into_iter().map(Some).collect();
        details.extend(unlimited);
        let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        if self.engine == Engine::Push {
            details.extend(self.targets.take_over(call)?);
        }
        job.begin("publish")?;
        Ok(Copied { when, millis, details, fingerprints })
    }

    /// With what confines QEMU, where the hypervisor did not begin the job.
    fn refused_while_confined(&self, error: Error) -> Error {
        match &self.found.xml.confined {
            Some(confined) if self.refused => Error { cause: format!("{}; {confined}", error.cause), ..error },
            _ => error,
        }
    }

    /// What the engine needs for its copy, made before the guest is touched.
    fn engine_input(&self, plan: &Plan) -> Result<EngineInput> {
        let Some(scratch) = self.scratch.clone() else {
            return Ok(EngineInput::Push(self.targets.for_qemu()));
        };
        let bases = base::open(&self.targets, plan)?;
        let disk = |((i, disk), base): ((usize, &DiskPlan), _)| {
            let target = self.targets.target(i, base)?;
            Ok(pull::Disk { target, incremental: disk.strategy.is_by_bitmap() })
        };
        let disks = plan.disks.iter().enumerate().zip(bases).map(disk).collect::<Result<_>>()?;
        Ok(EngineInput::Pull(scratch, disks))
    }

    /// Has the job that was begun copy everything, and ends it on every path where that can be done. Returns the
    /// fingerprints, and what was not ordinary.
    fn move_data(
        &self,
        call: &Call<'_>,
        backup: &mut BackupJob,
        input: EngineInput,
        job: &mut Reporter<'_>,
    ) -> Result<(Vec<Fingerprints>, Option<String>)> {
        let (rate, deadline) = (call.checked.rate, call.deadline);
        if let Err(error) = self.check_same() {
            return Err(backup.abort(error));
        }
        match input {
            EngineInput::Push(targets) => {
                self.targets.check_in_place().map_err(|error| backup.abort(error))?;
                let share = rate.share_of(call.config.places() as u64);
                let unlimited = push::copy(backup, targets, share, job, deadline)?;
                Ok((Vec::new(), unlimited.map(|error| error.to_string())))
            }
            EngineInput::Pull(scratch, disks) => {
                let session = self.targets.session().clone();
                pull::copy(backup, &scratch, disks, rate, session, job, deadline).map(|copied| (copied, None))
            }
        }
    }

    /// Lets the guest go on if the backup has stopped it.
    fn resume(&self) -> Result<()> {
        let (domain, before) = (self.found.domain.clone(), self.found.state);
        ask("resume the guest", move || {
            // The daemon may have been restarted since.
            match domain.again() {
                Ok(now) => now.iter().for_each(|domain| leftover::resume(domain, !before.waits_for_storage())),
                Err(error) => log::error!("{}: {error}", domain.name()),
            }
            Ok(())
        })
    }

    /// Are the disks, now that the job has begun, those that were looked at before?
    fn check_same(&self) -> Result<()> {
        let domain = self.found.domain.clone();
        let (_, now) = ask("look at the disks again", move || domain.xml())?;
        self.found.check_same(&now)
    }

    /// Does our job run although its begin failed, as when the connection was lost in between? Or may one?
    fn job_runs(&self) -> bool {
        let (domain, folder) = (self.found.domain.clone(), self.folder.clone());
        let ours = ask("look at the domain's job", move || {
            domain.again()?.map_or(Ok(Some(false)), |domain| leftover::runs(&domain, &folder))
        });
        may_run(&ours)
    }

    /// Freezes a running guest if that is asked for. One that does not run writes nothing.
    fn freeze(&mut self, call: &Call<'_>, details: &mut Vec<String>) -> Result<Option<Frozen>> {
        let Call { checked, config, deadline, .. } = *call;
        if !checked.quiesce {
            return Ok(None);
        }
        if let Some(idle) = self.idle()? {
            details.push(format!("{idle}: not frozen"));
            return Ok(None);
        }
        let domain = &self.found.domain;
        let frozen = quiesce::check(domain, self.found.xml.agent, config, deadline).and_then(|()| {
            // On record until a thaw has succeeded: it may freeze when nobody waits for it any more.
            self.host.set_frozen(true)?;
            Frozen::freeze(domain, config, deadline)?.inspect_err(|_| {
                // Else the next start would thaw what somebody else has frozen.
                if let Err(error) = self.host.set_frozen(false) {
                    log::error!("{}: {error}", domain.name());
                }
            })
        });
        let error = match frozen {
            Ok(frozen) => return Ok(Some(frozen)),
            Err(error) if error.code != Code::QuiesceFailed => return Err(error),
            Err(error) => error,
        };
        match self.idle()? {
            // It has gone to sleep, or was paused, before its agent could do it.
            Some(idle) => details.push(format!("{idle}: not frozen")),
            None if config.quiesce_failure == QuiesceFailure::Warn => details.push(error.to_string()),
            None => return Err(error),
        }
        Ok(None)
    }

    /// What the guest does now in place of running.
    fn idle(&self) -> Result<Option<&'static str>> {
        let domain = self.found.domain.clone();
        ask("look at the domain", move || Ok(domain.state()?.idle()))
    }

    fn backup_xml(&self, checked: &Checked, plan: &Plan, input: &EngineInput) -> Result<String> {
        let since = match &checked.mode {
            Mode::Incremental { parent_bitmap, .. } => Some(parent_bitmap.as_str()),
            _ => None,
        };
        let socket;
        let (mode, paths) = match input {
            EngineInput::Push(_) => (BackupMode::Push, self.targets.paths()?),
            EngineInput::Pull(scratch, _) => {
                socket = scratch.socket()?;
                let paths = plan.disks.iter().map(|disk| scratch.file(&disk.facts.target));
                (BackupMode::Pull { socket: socket.path() }, paths.collect())
            }
        };
        let chosen = plan.disks.iter().zip(&paths).map(|(disk, path)| BackupDisk {
            target: &disk.facts.target,
            file: Some(path),
            since: since.filter(|_| disk.strategy.is_by_bitmap()),
        });
        let left_out = self.found.others().map(|target| BackupDisk { target, file: None, since: None });
        Ok(libvirt::backup_xml(mode, &chosen.chain(left_out).collect::<Vec<_>>()))
    }

    fn checkpoint_xml(&self, bitmap: &str, plan: &Plan) -> String {
        let (with, without): (Vec<_>, Vec<_>) = plan.disks.iter().partition(|disk| disk.carries);
        let [with, mut without] =
            [with, without].map(|disks| disks.iter().map(|disk| disk.facts.target.as_str()).collect::<Vec<_>>());
        without.extend(self.found.others());
        libvirt::checkpoint_xml(bitmap, None, &with, &without)
    }

    /// `PARENT_INVALID` when the incremental disks of the new point can't stand on its parent after all.
    pub(super) fn check_parent(&self, call: &Call<'_>, plan: &Plan) -> std::result::Result<(), Failed> {
        let images = |i: usize| -> OpenImages {
            let target = &plan.disks[i].facts.target;
            let disk = self.found.xml.disks.iter().find(|disk| disk.target == *target).cloned();
            Box::new(move || disk.as_ref().map_or_else(|| Ok(Vec::new()), layers::of_domain))
        };
        regrown::check(call, &self.targets, plan, images)
    }

    pub(super) fn publish(self, manifest: Manifest, limit: Duration) -> Result<(Published, Found, HostState)> {
        let texts = describe::texts(self.found.domain.name(), &self.found.xml_text, &self.found.xml);
        let Attempt { mut found, bitmap, mut host, targets, .. } = self;
        match targets.publish(manifest, texts, limit) {
            Ok(published) => Ok((published, found, host)),
            Err(error) => {
                let leftovers = error.leftovers;
                let removed = ask("delete the new checkpoint", move || {
                    found.refresh();
                    remove_bitmap(&found, &mut host, bitmap.as_deref());
                    host.end_unless(leftovers);
                    Ok(())
                });
                if let Err(failed) = removed {
                    log::error!("{failed}");
                }
                Err(error)
            }
        }
    }

    /// Undoes everything because of `error`: at once, or, when the job can't be ended now, on a thread that waits for
    /// its end and keeps the virtual machine locked until then.
    pub(super) fn abandon(mut self, error: Error) -> Error {
        let runs_on = self.stuck || self.backup.as_ref().is_some_and(|backup| !backup.has_ended());
        if !runs_on {
            return self.clear(error);
        }
        if self.engine == Engine::Push {
            self.targets.give_room_back();
        }
        let name = self.found.domain.name().to_owned();
        let error = error.with_leftover("the hypervisor's job, which does not end; all is cleared when it does");
        let cause = error.clone();
        let wait = std::thread::Builder::new().name("nasbackup-clear".to_owned()).spawn(for_the_same(move || {
            self.wait_for_end();
            let error = self.clear(cause);
            log::info!("{}: cleared after its job ended: {error}", name);
        }));
        if let Err(failed) = wait {
            log::error!("the thread that clears up could not be started: {failed}");
        }
        error
    }

    /// Waits until our job runs no more. A push job on a NAS that hangs can't be ended by anybody.
    fn wait_for_end(&mut self) {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            self.found.refresh();
            let domain = &self.found.domain;
            match leftover::runs(domain, &self.folder) {
                Ok(Some(true)) => {
                    if let Err(error) = domain.abort_job() {
                        log::debug!("{}: {error}", domain.name());
                    }
                }
                // It may be somebody else's, which nobody but its owner ends.
                Ok(None) => {}
                Ok(Some(false)) => return,
                Err(error) if domain.state() == Ok(State::Other) => {
                    log::info!("{}: {error}", domain.name());
                    return;
                }
                Err(error) => log::debug!("{}: {error}", domain.name()),
            }
        }
    }

    /// Undoes everything because the new point can't stand on its parent, so that another attempt can follow.
    pub(super) fn start_over(self, error: Error) -> Result<HostState> {
        let (error, host) = self.undo(error);
        // what stays behind would be in the way, and that the parent is not good is no error of a backup
        let failed = match error.code {
            Code::ParentInvalid => Error { code: Code::JobFailed, ..error },
            _ => error,
        };
        host.filter(|_| !failed.leftovers).ok_or(failed)
    }

    /// Undoes everything; no job runs any more.
    fn clear(self, error: Error) -> Error {
        self.undo(error).0
    }

    fn undo(self, error: Error) -> (Error, Option<HostState>) {
        let Attempt { mut found, bitmap, mut host, targets, engine, stuck, .. } = self;
        let name = found.domain.name().to_owned();
        let owner = found.xml.owner;
        let cleared = ask("clear the guest", move || {
            found.refresh();
            remove_bitmap(&found, &mut host, bitmap.as_deref());
            // A begin that libvirt carries out after all this makes the bitmap then: the next run has to know it.
            if let Some(bitmap) = bitmap.filter(|_| stuck) {
                host.remember(&bitmap)?;
            }
            leftover::resume(&found.domain, !found.state.waits_for_storage());
            let guest = found.domain.state();
            Ok((found, host, guest))
        });
        let guest = cleared.as_ref().map_err(Error::clone).and_then(|(.., guest)| guest.clone());
        let writer = target_writer(engine, &guest, owner);
        let error = targets.discard(error, writer);
        // Once more: a write of the guest may have failed while the bitmap was being removed.
        let resumed = cleared.and_then(|(found, host, _)| {
            ask("resume the guest", move || {
                leftover::resume(&found.domain, !found.state.waits_for_storage());
                Ok(host)
            })
        });
        let mut host = resumed.inspect_err(|failed| log::error!("{name}: {failed}"));
        if let Ok(host) = &mut host {
            host.end_unless(error.leftovers);
        }
        (error, host.ok())
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
    // Looked at anew: the guest may have been restarted since, and what is stored in its disks be another.
    let removed = found::bitmaps(&found.domain, Some(&found.xml)).and_then(|now| now.remove(&found.domain, bitmap));
    if let Err(error) = removed.and_then(|()| host.forget(bitmap)) {
        log::warn!("{}: bitmap '{bitmap}' stays until the next backup: {error}", found.domain.name());
    }
}

/// May a job of ours run, by what was found of the domain's job? While libvirt does not answer, what such a job uses is kept.
fn may_run(ours: &Result<Option<bool>>) -> bool {
    !matches!(ours, Ok(Some(false)))
}

/// Who has written the targets of a job that failed, so that a full NAS may be the reason; not where the guest's end is it.
fn target_writer(engine: Engine, guest: &Result<State>, owner: Option<(u32, u32)>) -> TargetWriter {
    match guest {
        Ok(State::Other) | Err(_) => TargetWriter::Ours,
        Ok(_) if engine == Engine::Push => TargetWriter::Qemu(owner),
        Ok(_) => TargetWriter::Ours,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_can_not_be_asked_for_may_run() {
        let lost = || Err(Error::new(Code::Libvirt, "look at the domain's job", "the connection was lost"));
        for (ours, may) in [(Ok(Some(true)), true), (Ok(Some(false)), false), (Ok(None), true), (lost(), true)] {
            assert_eq!(may_run(&ours), may, "{ours:?}");
        }
    }

    #[test]
    fn a_full_nas_is_looked_for_only_where_a_qemu_that_lives_has_written_to_it() {
        let (owner, lost) = (Some((1, 2)), Err(Error::new(Code::Libvirt, "ask", "the connection was lost")));
        for (engine, guest, writer) in [
            (Engine::Push, Ok(State::Running), TargetWriter::Qemu(owner)),
            (Engine::Push, Ok(State::Other), TargetWriter::Ours),
            (Engine::Push, lost, TargetWriter::Ours),
            (Engine::Pull, Ok(State::Running), TargetWriter::Ours),
        ] {
            assert_eq!(target_writer(engine, &guest, owner), writer, "{engine:?} {guest:?}");
        }
    }
}
