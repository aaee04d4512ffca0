//! The steps of a backup, the same for a running and a stopped guest: look, plan, make the targets, copy, publish, keep only
//! the new bitmap. A failed attempt is undone; the next one avoids what the failure has shown to be impossible.

use std::collections::BTreeSet;
use std::time::Duration;

use super::base;
use super::call::Call;
use super::constraints::{Constraints, Failed};
use super::plan::Plan;
use super::repository::OpenedRepository;
use super::request::Checked;
use super::taken::{Outcome, TakenBackup, manifest, parent_point};
use super::targets::{self, Targets};
use crate::config::Engine;
use crate::error::{Code, Error, Result};
use crate::host::{Begun, HostState};
use crate::point::fingerprints::Fingerprints;
use crate::point::{LeftOut, Parent, ParentPoint, StateFile};
use crate::work::job::Reporter;
use crate::work::phase::Phase;

/// The parent that was asked for, or why there is none.
pub(super) type ParentFound = Option<std::result::Result<Parent, String>>;

/// What a backup needs of a guest; `attempt` says in which order.
pub(super) trait Guest: Sized {
    /// What the request tells of the guest.
    type Source;
    /// What is known of the guest before anything is chosen.
    type Found;
    /// True if a disk's name is its name in the domain.
    const IN_DOMAIN: bool;

    /// Finds the guest and its disks, and opens the repository.
    fn look(call: &Call<'_>, source: &Self::Source, job: &mut Reporter<'_>) -> Result<(Self::Found, OpenedRepository)>;

    /// Decides what moves the data and how each disk is backed up, and checks that there is room.
    fn plan(
        found: Self::Found,
        call: &Call<'_>,
        opened: &OpenedRepository,
        parent: ParentFound,
        constraints: &Constraints,
        host: HostState,
        job: &mut Reporter<'_>,
    ) -> Result<(Self, Plan, HostState)>;

    /// The engine that moves the data.
    fn engine(&self) -> Engine;

    /// True if the library writes the targets itself, and so can record fingerprints.
    fn has_fingerprints(&self) -> bool;

    /// Adds to the host's record what this guest's backup leaves if it is killed.
    fn record(&self, plan: &Plan, begun: Begun) -> Begun;

    /// Gives whoever writes the targets access to them.
    fn open_targets(&mut self, targets: Targets) -> Result<Targets>;

    /// Begins the new bitmap, and copies the disks as they are at one instant.
    fn copy(
        attempt: &mut Attempt<Self>,
        call: &Call<'_>,
        job: &mut Reporter<'_>,
    ) -> std::result::Result<Copied, Failed>;

    /// Undoes everything because of `error`. Returns the host's record if nothing is left, so that another attempt can follow.
    fn abandon(attempt: Attempt<Self>, error: Error) -> (Error, Option<HostState>);

    /// Removes the new bitmap, and ends the host's record, because the point could not be published.
    fn drop_bitmap(self, plan: &Plan, bitmap: Option<&str>, host: HostState, error: Error) -> Error;

    /// The disks that it leaves out.
    fn left_out(&self) -> Vec<LeftOut>;

    /// What describes the guest in its point: names of files, and their texts.
    fn texts(&self) -> Vec<(&'static str, String)>;

    /// A line for each thing that was not ordinary before the disks were copied.
    fn details(&self) -> Vec<String>;

    /// Removes all bitmaps of `ours` but the new one, and ends the host's record. What it could not do is added to `details`,
    /// and done by the next backup.
    fn keep_only(self, bitmap: Option<NewBitmap>, ours: &BTreeSet<String>, host: HostState, details: &mut Vec<String>);
}

/// The bitmap that was begun for a point which is published now.
pub(super) struct NewBitmap {
    pub name: String,
    /// True if a disk carries it.
    pub is_carried: bool,
}

/// A backup from the making of its targets to its publication. Whatever fails in between, `abandon` undoes it.
pub(super) struct Attempt<G> {
    pub guest: G,
    pub plan: Plan,
    pub targets: Targets,
    pub host: HostState,
    /// The bitmap that is begun.
    pub bitmap: Option<String>,
}

/// What the copying of the disks has shown.
pub(super) struct Copied {
    /// The instant that the copies show.
    pub when: jiff::Timestamp,
    /// Milliseconds from the begin of the job to the last target's close.
    pub millis: u64,
    /// What was not ordinary.
    pub details: Vec<String>,
    /// What the machine remembered beside its disks.
    pub state: Vec<StateFile>,
    /// Of each disk, if the engine sees what it copies.
    pub fingerprints: Vec<Option<Fingerprints>>,
    /// How long they may take to become a point.
    pub limit: Duration,
}

/// How an attempt ended.
enum AttemptOutcome {
    Taken(TakenBackup),
    /// It was undone; another may do better within these constraints.
    Again(HostState, Constraints),
}

/// Backs the guest up.
pub(super) fn take<G: Guest>(
    call: &Call<'_>,
    source: &G::Source,
    mut host: HostState,
    job: &mut Reporter<'_>,
) -> Result<TakenBackup> {
    let mut constraints = Constraints::default();
    loop {
        match attempt::<G>(call, source, host, constraints, job)? {
            AttemptOutcome::Taken(taken) => return Ok(taken),
            AttemptOutcome::Again(again, learnt) => (host, constraints) = (again, learnt),
        }
    }
}

fn attempt<G: Guest>(
    call: &Call<'_>,
    source: &G::Source,
    host: HostState,
    constraints: Constraints,
    job: &mut Reporter<'_>,
) -> Result<AttemptOutcome> {
    let checked = call.checked;
    let _prepares = call.prepares();
    let (found, mut opened) = G::look(call, source, job)?;
    let ours = our_bitmaps(checked, &opened, &host)?;
    let parent = constraints.parent.clone().map(Err).or(opened.parent.take());
    let parent_point = parent_point(parent.as_ref());
    let (mut guest, plan, mut host) = G::plan(found, call, &opened, parent, &constraints, host, job)?;
    job.begin(Phase::MakeTargets)?;
    let bitmap = plan.new_bitmap(&checked.mode).map(str::to_owned);
    host.begin(guest.record(&plan, call.begun(opened.root(), bitmap.as_deref(), job)))?;
    let texts = guest.texts().into_iter().map(|(name, text)| (name, text.into_bytes())).collect();
    let targets = targets::make_targets(call, opened, plan.specs(guest.has_fingerprints()), texts);
    let targets = targets.and_then(|targets| guest.open_targets(targets));
    let targets = targets.inspect_err(|error| host.end_unless(targets::may_still_run(error)))?;
    let mut attempt = Attempt { guest, plan, targets, host, bitmap };
    let completed = base::complete(&attempt.targets, &mut attempt.plan, job, call.deadline);
    let copied = completed.map_err(Failed::from).and_then(|()| G::copy(&mut attempt, call, job));
    let _winds_up = call.winds_up();
    match copied {
        Ok(copied) => attempt.publish(call, copied, parent_point, &ours, job).map(AttemptOutcome::Taken),
        Err(failed) => {
            let learnt = constraints.learn(&attempt.plan, &failed);
            let (error, host) = G::abandon(attempt, failed.error);
            try_again(learnt, host, error)
        }
    }
}

/// Decides whether another attempt follows: if it can do better, and nothing is left of the failed one.
fn try_again(learnt: Option<Constraints>, host: Option<HostState>, error: Error) -> Result<AttemptOutcome> {
    match (learnt, host) {
        (Some(constraints), Some(host)) => {
            log::warn!("{}: trying the backup again, in another way: {error}", host.vm());
            Ok(AttemptOutcome::Again(host, constraints))
        }
        // a bad parent alone is no error of a backup, but leftovers of the attempt are
        (Some(_), None) if error.code == Code::ParentInvalid => Err(Error { code: Code::JobFailed, ..error }),
        _ => Err(error),
    }
}

impl<G: Guest> Attempt<G> {
    fn publish(
        self,
        call: &Call<'_>,
        copied: Copied,
        parent: Option<ParentPoint>,
        ours: &BTreeSet<String>,
        job: &mut Reporter<'_>,
    ) -> Result<TakenBackup> {
        let Attempt { guest, plan, targets, host, bitmap } = self;
        let mode = &call.checked.mode;
        let carried = plan.new_bitmap(mode);
        let disks = (plan.manifest_disks(carried, copied.fingerprints), guest.left_out());
        let manifest = manifest(call, copied.when, guest.engine(), carried, parent, disks);
        let texts = copied.state.into_iter().map(|file| (file.name, file.bytes)).collect();
        let (published, instance) = match targets.publish(manifest, texts, copied.limit) {
            Ok(published) => published,
            Err(error) => return Err(guest.drop_bitmap(&plan, bitmap.as_deref(), host, error)),
        };
        // The point is published: nothing that happens now changes that.
        job.enter(Phase::ClearUp);
        let mut details = guest.details();
        details.extend(plan.details.iter().cloned());
        details.extend(copied.details);
        let bitmap = bitmap.map(|name| NewBitmap { name, is_carried: carried.is_some() });
        // both wait for others, for milliseconds
        targets::give_back_during(instance, || guest.keep_only(bitmap, ours, host, &mut details));
        let recreated = mode.parent_bitmap().filter(|_| plan.recreated).map(str::to_owned);
        let targets = plan.disks.iter().map(|disk| G::IN_DOMAIN.then(|| disk.facts.target.clone()));
        let targets = targets.collect();
        let outcome =
            Outcome { published, targets, recreated, fallback: plan.fallback, details, job_millis: copied.millis };
        Ok(outcome.answer(&call.checked.point, job))
    }
}

/// The names that are ours: those of this virtual machine's manifests, of this host's record and of the request.
/// `ALREADY_EXISTS` when a published point has the name that is to be begun.
fn our_bitmaps(checked: &Checked, opened: &OpenedRepository, host: &HostState) -> Result<BTreeSet<String>> {
    let mut ours = opened.published.clone();
    if let Some(bitmap) = checked.mode.bitmap() {
        if ours.contains(bitmap) {
            let cause = format!("a restore point has bitmap '{bitmap}' already");
            return Err(Error::new(Code::AlreadyExists, "look at the bitmaps", cause));
        }
        ours.insert(bitmap.to_owned());
    }
    ours.extend(checked.mode.parent_bitmap().map(str::to_owned));
    ours.extend(host.bitmaps().iter().cloned());
    Ok(ours)
}
