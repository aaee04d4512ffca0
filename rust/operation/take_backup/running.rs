//! The backup of a guest that has a process, whether it runs in there, is paused, sleeps or has crashed.

use std::collections::BTreeSet;

use super::attempt::Attempt;
use super::decision::{self, Asked, BitmapFound, Constraints, Failed, Plan, Strategy};
use super::found::{self, Found};
use super::request::{Checked, Mode};
use super::storage::{self, Opened};
use super::{Call, Outcome, TakenBackup, ask, manifest, parent_point, regrown, space};
use crate::engine::{Engine, choice, scratch};
use crate::error::{Code, Error, Result};
use crate::host::{Begun, HostState};
use crate::job::Reporter;
use crate::libvirt::State;
use crate::nas::view::View;
use crate::nbd;
use crate::point::Parent;

/// Runs the backup of a guest that must have a process.
pub(super) fn run(call: &Call<'_>, host: HostState, job: &mut Reporter<'_>) -> Result<TakenBackup> {
    take(call, host, Constraints::default(), job)
}

/// Takes the point within what earlier attempts have shown.
fn take(call: &Call<'_>, mut host: HostState, constraints: Constraints, job: &mut Reporter<'_>) -> Result<TakenBackup> {
    let Call { checked, config, .. } = *call;
    let _prepares = call.prepares();
    if checked.engine == Engine::Pull {
        nbd::available()?;
    }
    scratch::sweep(config, Some(&checked.vm));
    job.begin("find the domain")?;
    let (request, settings) = (checked.clone(), config.clone());
    let opening = storage::begin_open(call)?;
    let found = ask("look at the domain", move || found::find(&request, &settings));
    job.enter("open the repository");
    let (mut found, session) = opening.with(found, call.time_for("open the repository", storage::OPEN))?;
    job.tell()?;
    let mut opened = storage::enter(call, session)?;
    let ours = ours(checked, &opened, &host)?;
    let disks = found.engine_disks();
    let chosen =
        choice::choose(checked.engine, constraints.pull.clone(), config, &found.domain, found.xml.owner, &disks)?;
    let compares = chosen.scratch.is_some();
    let (request, parent) = (checked.clone(), constraints.parent.clone().map(Err).or(opened.parent.take()));
    let (lost, redefined) = (constraints.bitmap.clone().map(BitmapFound::Lost), constraints.recreated);
    let free = opened.free.bytes;
    let (found, mut host, parent, mut plan, needed) = ask("look at the bitmaps", move || {
        clear_way(&request, &found, &mut host)?;
        if let Some(Ok(_)) = parent {
            regrown::look_ahead(&found.xml, &mut found.disks);
        }
        let plan = decide(&request, &found, parent.as_ref(), lost, redefined, compares);
        let since = parent.as_ref().and_then(|parent| parent.as_ref().ok()?.manifest.bitmap.as_deref());
        let needed = space::needed(&found, &plan, since, free);
        Ok((found, host, parent, plan, needed))
    })?;
    opened.free.fits(needed)?;
    job.begin("make the targets")?;
    let bitmap = plan.new_bitmap(&checked.mode);
    let view = if chosen.scratch.is_none() { Some(View::prepare(config)?) } else { None };
    host.begin(Begun {
        may_resume: !found.state.waits_for_storage(),
        view: view.as_ref().map(View::path),
        ..call.begun(opened.root(), bitmap, job)
    })?;
    let made = storage::make_targets(call, opened, plan.specs(compares));
    let made = made.and_then(|targets| match view {
        Some(view) => targets.show_to_qemu(view, found.xml.owner),
        None => Ok(targets),
    });
    let targets = made.inspect_err(|error| host.end_unless(storage::goes_on(error)))?;
    let mut attempt = Attempt::new(found, bitmap, host, targets, chosen.scratch);
    let completed = attempt.complete(call, &mut plan, job);
    let copied = completed.and_then(|()| attempt.copy(call, &plan, job)).map_err(Failed::from);
    let _winds_up = call.winds_up();
    let copied = copied.and_then(|copied| {
        attempt.check_parent(call, &plan)?;
        Ok((copied, call.time_to_publish(storage::PUBLISH)?))
    });
    let (copied, limit) = match copied {
        Ok(copied) => copied,
        Err(failed) => {
            let next = next(checked, &attempt, constraints, &plan, &failed);
            let error = failed.into_error();
            let Some(next) = next else { return Err(attempt.abandon(error)) };
            log::warn!("{}: once more: {error}", checked.vm);
            return take(call, attempt.start_over(error)?, next, job);
        }
    };
    let parent = parent_point(parent);
    let disks = plan.manifest_disks(bitmap, copied.fingerprints);
    let disks = (disks, attempt.left_out().to_vec());
    let manifest = manifest(call, copied.when, attempt.engine(), bitmap, parent, disks);
    let (published, found, mut host) = attempt.publish(manifest, limit)?;
    job.enter("clear up");
    let gone = is_gone(&found);
    let mut details: Vec<String> = gone.iter().chain(&found.details).cloned().collect();
    details.extend(chosen.details);
    details.extend(plan.details.iter().cloned());
    details.extend(copied.details);
    let targets = found.disks.iter().map(|disk| Some(disk.target.clone())).collect();
    match bitmap.filter(|_| gone.is_none()).map(str::to_owned) {
        None => host.end(),
        Some(bitmap) => {
            // The point is published: nothing that happens now changes that.
            let cleared = ask("remove the older bitmaps", move || Ok(clear_up(found, host, &ours, &bitmap)));
            details.extend(cleared.unwrap_or_else(|error| vec![error.to_string()]));
        }
    }
    let recreated = match &checked.mode {
        Mode::Incremental { parent_bitmap, .. } if plan.recreated => Some(parent_bitmap.clone()),
        _ => None,
    };
    let outcome =
        Outcome { targets, published, recreated, fallback: plan.fallback, details, job_millis: copied.millis };
    Ok(outcome.answer(&checked.point, job))
}

/// What is to be told first of a guest that has ended by now. All its data had been read, and the point stands.
fn is_gone(found: &Found) -> Option<String> {
    let (domain, name) = (found.domain.clone(), found.domain.name());
    let state = ask("ask the domain's state", move || domain.again()?.map_or(Ok(State::Other), |now| now.state()));
    // Where libvirt does not answer, the clearing up that follows tells so.
    if !matches!(state, Ok(State::Other)) {
        return None;
    }
    let told = format!(
        "the guest is gone: it stopped, or its QEMU ended, after its data had been read; QEMU's log of '{name}' says why"
    );
    log::error!("{name}: {told}");
    Some(told)
}

/// What another attempt has to do without, now that this one has failed; none where it would be no better.
fn next(
    checked: &Checked,
    attempt: &Attempt,
    constraints: Constraints,
    plan: &Plan,
    failed: &Failed,
) -> Option<Constraints> {
    let constraints = Constraints { recreated: constraints.recreated || plan.recreated, ..constraints };
    if checked.engine == Engine::Auto && attempt.pull_was_refused() {
        return Some(Constraints { pull: Some(failed.error().to_string()), ..constraints });
    }
    constraints.learn(plan, failed)
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

/// Finds out about the parent's bitmap, unless it is known to be `lost`, and decides. What libvirt knows because an earlier
/// attempt has `redefined` it counts as that.
fn decide(
    checked: &Checked,
    found: &Found,
    parent: Option<&Result<Parent, String>>,
    lost: Option<BitmapFound>,
    redefined: bool,
    compares: bool,
) -> Plan {
    let asked = Asked::of(&checked.mode, parent);
    let strategies = decision::strategies(asked, &found.disks, compares);
    let bitmap = match (asked, &strategies) {
        (Asked::Incremental(Ok(parent)), Ok(strategies)) => lost.or_else(|| {
            let bitmap = find_bitmap(found, parent, strategies);
            if redefined && bitmap == Some(BitmapFound::Known) { Some(BitmapFound::Redefined) } else { bitmap }
        }),
        _ => None,
    };
    decision::plan(asked, &found.disks, strategies, bitmap, compares)
}

/// What is known of the parent's bitmap, if any disk needs it.
fn find_bitmap(found: &Found, parent: &Parent, strategies: &[Strategy]) -> Option<BitmapFound> {
    let on = found.disks.iter().zip(strategies).filter(|(_, strategy)| strategy.is_by_bitmap());
    let on: Vec<_> = on.map(|(disk, _)| disk.target.as_str()).collect();
    let name = parent.manifest.bitmap.as_deref().filter(|_| !on.is_empty())?;
    Some(found.bitmaps.find_parent(&found.domain, name, parent.manifest.when.as_second(), &on))
}

/// After a success: removes the other bitmaps of ours. What could not be done is told, and done by the next run.
fn clear_up(mut found: Found, mut host: HostState, ours: &BTreeSet<String>, bitmap: &str) -> Vec<String> {
    found.refresh();
    // Looked at anew: the guest may have been restarted since, and its older bitmaps be stored ones now.
    let bitmaps = match found::bitmaps(&found.domain, Some(&found.xml)) {
        Ok(bitmaps) => bitmaps,
        Err(error) => {
            host.end();
            return vec![format!("the older bitmaps stay until the next backup: {error}")];
        }
    };
    let mut details = Vec::new();
    for name in ours.iter().filter(|name| *name != bitmap) {
        let removed = found::remove_everywhere(&found.domain, &found.xml, &bitmaps, name);
        // a name that was forgotten while it may be somewhere would be nobody's
        if let Err(error) = removed.and_then(|everywhere| if everywhere { host.forget(name) } else { Ok(()) }) {
            details.push(format!("bitmap '{name}' stays until the next backup: {error}"));
        }
    }
    details.extend(bitmaps.unknown.iter().map(|disk| format!("older bitmaps may stay until the next backup: {disk}")));
    details.extend(bitmaps.foreign(ours).iter().map(|name| format!("bitmap '{name}' is not ours and is left alone")));
    host.end();
    details
}
