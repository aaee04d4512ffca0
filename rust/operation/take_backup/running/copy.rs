//! A running guest's backup job, from its begin, for which the guest may be frozen, to its last target's close.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::super::call::{Call, ask};
use super::super::constraints::{Failed, FailureLesson};
use super::super::plan::DiskPlan;
use super::super::quiesce::{self, Frozen};
use super::super::request::Checked;
use super::super::shrink_check::{self, OpenImages};
use super::super::take::{Attempt, Copied};
use super::super::{base, machine_state, targets};
use super::guest::{OwnedJob, Running};
use crate::config::Engine;
use crate::config::QuiesceFailure;
use crate::engine::job::{BackupJob, PreparedJob};
use crate::engine::scratch::Scratch;
use crate::engine::{Changes, leftover, pull, push};
use crate::error::{Code, Error, Result};
use crate::libvirt::{self, BackupDisk, BackupMode};
use crate::point::StateFile;
use crate::point::fingerprints::Fingerprints;
use crate::qemu::layers;
use crate::work::job::Reporter;
use crate::work::phase::Phase;

/// What an engine needs besides the job.
pub(super) enum EngineInput {
    /// The targets that QEMU writes, and closes.
    Push(Vec<push::PushTarget>),
    Pull(Arc<Scratch>, Vec<pull::PullDisk>),
}

/// What came of the begin of a job.
struct JobBegin {
    /// The instant that it copies.
    when: jiff::Timestamp,
    begun: Instant,
    /// The job, or why the hypervisor refused it; the outer error says that libvirt did not answer in time.
    backup: Result<Result<BackupJob>>,
    /// What the machine remembers beside its disks.
    state: Vec<StateFile>,
}

impl Attempt<Running> {
    /// Runs the job, freezing the guest for its begin if that is asked for.
    pub(super) fn copy_running(
        &mut self,
        call: &Call<'_>,
        job: &mut Reporter<'_>,
    ) -> std::result::Result<Copied, Failed> {
        shrink_check::look_ahead(&mut self.targets, &self.plan);
        let mut input = self.engine_input()?;
        let xml = self.backup_xml(call.checked, &input)?;
        let checkpoint = self.bitmap.as_deref().map(|bitmap| self.checkpoint_xml(bitmap));
        job.begin(Phase::Begin)?;
        let mut details = Vec::new();
        let told = self.take_snapshots(call, &mut input, &mut details, job)?;
        let JobBegin { when, begun, backup, state } = self.begin_frozen(call, (xml, checkpoint), &mut details)?;
        let _winds_up = call.winds_up();
        let backup = backup.map_err(|error| match &input {
            EngineInput::Push(targets) => push::explain_begin(error, targets),
            EngineInput::Pull(..) => error,
        });
        let mut backup = match backup {
            Ok(Ok(backup)) => backup,
            Ok(Err(error)) if !self.job_runs() => return Err(self.not_begun(call.checked, error)),
            Ok(Err(error)) | Err(error) => {
                self.guest.job = OwnedJob::Unknown;
                return Err(error.into());
            }
        };
        job.enter(Phase::Copy);
        let copied = self.move_data(call, &mut backup, input, job);
        if backup.has_ended() {
            self.guest.engine.scratch = None;
            // A guest that met an error in the last moment waits.
            if let Err(error) = self.resume() {
                log::error!("{}: {error}", self.guest.found.domain.name());
                details.push(error.to_string());
            }
        }
        let copied = match backup.incident_at_end() {
            Some(incident) => copied.map_err(|error| incident.add_to(error)).inspect(|_| {
                let disk = incident.disk.as_deref().map(|disk| format!("disk {disk}: ")).unwrap_or_default();
                details.push(format!("{disk}{incident}; the restore point holds what the disks held at its instant"));
            }),
            None => copied,
        };
        self.guest.job = OwnedJob::Begun(Box::new(backup));
        let (fingerprints, unlimited) = copied?;
        let fingerprints = fingerprints.into_iter().map(Some).collect();
        details.extend(unlimited.into_iter().chain(told.try_iter()));
        self.guest.images.iter().try_for_each(|image| image.check_there(None, call, job))?;
        let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        if self.guest.engine.kind == Engine::Push {
            details.extend(self.targets.take_over(call)?);
        }
        job.begin(Phase::Publish)?;
        self.check_parent(call)?;
        Ok(Copied { when, millis, details, state, fingerprints, limit: call.time_to_publish(targets::PUBLISH)? })
    }

    /// Has the hypervisor begin the job, and looks at the machine's state, while the guest is frozen if that is asked for.
    fn begin_frozen(
        &mut self,
        call: &Call<'_>,
        (xml, checkpoint): (String, Option<String>),
        details: &mut Vec<String>,
    ) -> Result<JobBegin> {
        let prepared = PreparedJob::new(&self.guest.found.domain, self.guest.found.job_disks(), self.job_folder())?;
        let frozen = self.freeze(call, details)?;
        let (when, begun) = (jiff::Timestamp::now(), Instant::now());
        let backup = prepared.begin(self.guest.engine.kind, xml, checkpoint);
        let found = &self.guest.found;
        // as near to the disks' instant as can be, and while the guest is frozen
        let state = machine_state::read_in_time(&found.xml, found.domain.uuid(), true);
        details.extend(state.details);
        if let Some(Err(error)) = frozen.map(|frozen| frozen.thaw().and_then(|()| self.host.set_frozen(false))) {
            log::error!("{}: {error}", self.guest.found.domain.name());
            details.push(error.to_string());
        }
        Ok(JobBegin { when, begun, backup, state: state.files })
    }

    /// What it means that the hypervisor did not begin the job.
    fn not_begun(&self, checked: &Checked, error: Error) -> Failed {
        if error.code != Code::Libvirt {
            return error.into();
        }
        // by a link, which is not followed there, libvirt's own error says little
        if self.guest.engine.kind == Engine::Push
            && let Err(linked) = self.targets.check_in_place()
        {
            return linked.into();
        }
        let error = match &self.guest.found.xml.confined {
            Some(confined) => Error { cause: format!("{}; {confined}", error.cause), ..error },
            None => error,
        };
        let lesson = match self.guest.engine.kind {
            Engine::Pull if checked.engine == Engine::Auto => FailureLesson::PullRefused,
            _ => FailureLesson::Nothing,
        };
        Failed { error, lesson }
    }

    /// What the engine needs for its copy, made before the guest is touched.
    fn engine_input(&self) -> Result<EngineInput> {
        let Some(scratch) = self.guest.engine.scratch.clone() else {
            return Ok(EngineInput::Push(self.targets.for_qemu()));
        };
        let bases = base::open(&self.targets, &self.plan)?;
        let disk = |((i, disk), base): ((usize, &DiskPlan), _)| {
            let target = self.targets.target(i, base)?;
            let changes = if disk.strategy.is_by_bitmap() { Changes::Bitmap } else { Changes::All };
            Ok(pull::PullDisk { target, changes, late: None })
        };
        let disks = self.plan.disks.iter().enumerate().zip(bases).map(disk).collect::<Result<_>>()?;
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
        if let Err(error) = self.check_unchanged() {
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
                let session = self.targets.instance().session().clone();
                pull::copy(backup, &scratch, disks, rate, session, job, deadline).map(|copied| (copied, None))
            }
        }
    }

    /// Lets the guest go on if the backup has stopped it.
    fn resume(&self) -> Result<()> {
        let (domain, before) = (self.guest.found.domain.clone(), self.guest.found.state);
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
    fn check_unchanged(&self) -> Result<()> {
        let domain = self.guest.found.domain.clone();
        let (_, now) = ask("look at the disks again", move || domain.xml())?;
        self.guest.found.check_unchanged(&now)
    }

    /// The folder that the job writes into: a job is known as ours by it, until it has ended.
    pub(super) fn job_folder(&self) -> PathBuf {
        self.guest.engine.scratch.as_ref().map_or_else(|| self.targets.folder(), |scratch| scratch.folder().to_owned())
    }

    /// Does our job run although its begin failed, as when the connection was lost in between? Or may one?
    fn job_runs(&self) -> bool {
        let (domain, folder) = (self.guest.found.domain.clone(), self.job_folder());
        let ours = ask("look at the domain's job", move || {
            domain.again()?.map_or(Ok(Some(false)), |domain| leftover::runs_in(&domain, &folder))
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
        let domain = &self.guest.found.domain;
        let frozen = quiesce::check(domain, self.guest.found.xml.agent, config, deadline).and_then(|()| {
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
        let domain = self.guest.found.domain.clone();
        ask("look at the domain", move || Ok(domain.state()?.idle()))
    }

    fn backup_xml(&self, checked: &Checked, input: &EngineInput) -> Result<String> {
        let since = checked.mode.parent_bitmap();
        let socket;
        let (mode, paths) = match input {
            EngineInput::Push(_) => (BackupMode::Push, self.targets.paths()?),
            EngineInput::Pull(scratch, _) => {
                socket = scratch.socket()?;
                let paths = self.plan.disks.iter().map(|disk| scratch.file(&disk.facts.target));
                (BackupMode::Pull { socket: socket.path() }, paths.collect())
            }
        };
        let chosen = self.plan.disks.iter().zip(&paths).map(|(disk, path)| BackupDisk {
            target: &disk.facts.target,
            file: Some(path),
            since: since.filter(|_| disk.strategy.is_by_bitmap()),
        });
        let left_out = self.guest.found.others().map(|target| BackupDisk { target, file: None, since: None });
        Ok(libvirt::backup_xml(mode, &chosen.chain(left_out).collect::<Vec<_>>()))
    }

    fn checkpoint_xml(&self, bitmap: &str) -> String {
        let (with, without): (Vec<_>, Vec<_>) = self.plan.disks.iter().partition(|disk| disk.carries);
        let [with, mut without] =
            [with, without].map(|disks| disks.iter().map(|disk| disk.facts.target.as_str()).collect::<Vec<_>>());
        without.extend(self.guest.found.others());
        libvirt::checkpoint_xml(bitmap, None, &with, &without)
    }

    /// `PARENT_INVALID` when the incremental disks of the new point can't stand on its parent after all.
    fn check_parent(&mut self, call: &Call<'_>) -> std::result::Result<(), Failed> {
        let Attempt { guest, plan, targets, .. } = self;
        let images = |i: usize| -> OpenImages {
            let target = &plan.disks[i].facts.target;
            let disk = guest.found.xml.disks.iter().find(|disk| disk.target == *target).cloned();
            Box::new(move || disk.as_ref().map_or_else(|| Ok(Vec::new()), layers::of_domain))
        };
        shrink_check::check(call, targets, plan, images)
    }
}

/// May a job of ours run, by what was found of the domain's job? While libvirt does not answer, what such a job uses is kept.
fn may_run(ours: &Result<Option<bool>>) -> bool {
    !matches!(ours, Ok(Some(false)))
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
}
