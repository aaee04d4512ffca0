//! A guest that has a process, whether it runs in there, is paused, sleeps or has crashed.

mod copy;
mod guest;
mod images;
mod undo;

use std::collections::BTreeSet;

use super::call::{Call, ask};
use super::constraints::{Constraints, Failed};
use super::decision::{self, ParentBitmap, RequestedBackup};
use super::found::{self, FoundGuest};
use super::plan::{Plan, Strategy};
use super::repository::{self, OpenedRepository};
use super::request::Checked;
use super::snapshots::DiskImage;
use super::take::{Attempt, Copied, Guest, NewBitmap, ParentFound};
use super::targets::Targets;
use super::{describe, shrink_check, space};
use crate::config::Engine;
use crate::engine::scratch;
use crate::error::{Error, Result};
use crate::host::{Begun, HostState};
use crate::libvirt::State;
use crate::limits;
use crate::logging::ANSWERED;
use crate::nas::view::TargetView;
use crate::nbd;
use crate::point::{LeftOut, Parent};
use crate::work::job::Reporter;
use crate::work::phase::Phase;

pub(super) use guest::Running;
use guest::{ChosenEngine, OwnedJob};

impl Guest for Running {
    type Source = ();
    type Found = FoundGuest;
    const IN_DOMAIN: bool = true;

    fn look(call: &Call<'_>, _: &(), job: &mut Reporter<'_>) -> Result<(FoundGuest, OpenedRepository)> {
        let Call { checked, config, .. } = *call;
        if checked.engine == Engine::Pull {
            nbd::available()?;
        }
        scratch::sweep(config, Some(&checked.vm));
        job.begin(Phase::FindDomain)?;
        let (request, settings) = (checked.clone(), config.clone());
        let opening = repository::begin_open(call)?;
        let found = ask("look at the domain", move || found::find(&request, &settings));
        job.enter(Phase::OpenRepository);
        let (found, opened) = opening.with(found, call.time_for("open the repository", limits::OPEN_AND_PROBE))?;
        job.tell()?;
        Ok((found, repository::lock_and_look(call, opened)?))
    }

    fn plan(
        mut found: FoundGuest,
        call: &Call<'_>,
        opened: &OpenedRepository,
        parent: ParentFound,
        constraints: &Constraints,
        mut host: HostState,
        _: &mut Reporter<'_>,
    ) -> Result<(Running, Plan, HostState)> {
        let engine = ChosenEngine::choose(call, &found, constraints)?;
        let (request, free) = (call.checked.clone(), opened.free.bytes);
        let (lost, redefined) = (constraints.bitmap.clone().map(ParentBitmap::Lost), constraints.recreated);
        let compares = engine.kind == Engine::Pull;
        // The thread that a QEMU holds up has no more than it needs: not the scratch, whose room others wait for.
        let (found, plan, host, needed) = ask("look at the bitmaps", move || {
            clear_way(&request, &found, &mut host)?;
            if let Some(Ok(_)) = parent {
                shrink_check::note_unreadable_images(&found.xml, &mut found.disks);
            }
            let plan = decide(&request, &found, parent.as_ref(), lost, redefined, compares);
            let since = parent.as_ref().and_then(|parent| parent.as_ref().ok()?.manifest.bitmap.as_deref());
            let needed = space::needed(&found, &plan, since, free);
            Ok((found, plan, host, needed))
        })?;
        opened.free.fits(needed)?;
        Ok((Running { found, engine, job: OwnedJob::None, images: Vec::new() }, plan, host))
    }

    fn engine(&self) -> Engine {
        self.engine.kind
    }

    fn has_fingerprints(&self) -> bool {
        self.engine.kind == Engine::Pull
    }

    fn record(&self, _: &Plan, begun: Begun) -> Begun {
        let may_resume = !self.found.state.waits_for_storage();
        Begun { may_resume, view: self.engine.view.as_ref().map(TargetView::path), ..begun }
    }

    fn open_targets(&mut self, targets: Targets) -> Result<Targets> {
        match self.engine.view.take() {
            Some(view) => targets.show_to_qemu(view, self.found.xml.owner),
            None => Ok(targets),
        }
    }

    fn copy(
        attempt: &mut Attempt<Running>,
        call: &Call<'_>,
        job: &mut Reporter<'_>,
    ) -> std::result::Result<Copied, Failed> {
        attempt.copy_running(call, job)
    }

    fn abandon(attempt: Attempt<Running>, error: Error) -> (Error, Option<HostState>) {
        undo::abandon(attempt, error)
    }

    fn drop_bitmap(self, _: &Plan, bitmap: Option<&str>, host: HostState, error: Error) -> Error {
        self.images.iter().for_each(DiskImage::remove);
        undo::drop_bitmap(self.found, bitmap, host, error)
    }

    fn left_out(&self) -> Vec<LeftOut> {
        self.found.left_out.clone()
    }

    fn texts(&self) -> Vec<(&'static str, String)> {
        describe::texts(self.found.domain.name(), &self.found.xml_text, &self.found.xml)
    }

    fn details(&self) -> Vec<String> {
        self.found.details.iter().chain(&self.engine.details).cloned().collect()
    }

    fn keep_only(
        self,
        bitmap: Option<NewBitmap>,
        ours: &BTreeSet<String>,
        mut host: HostState,
        details: &mut Vec<String>,
    ) {
        details.extend(self.images.iter().filter_map(DiskImage::remove_older));
        let found = self.found;
        let gone = is_gone(&found);
        match bitmap.filter(|bitmap| bitmap.is_carried && gone.is_none()) {
            None => host.end(),
            Some(bitmap) => {
                let ours = ours.clone();
                let cleared = ask("remove the older bitmaps", move || Ok(clear_up(found, host, &ours, &bitmap.name)));
                details.extend(cleared.unwrap_or_else(|error| vec![error.to_string()]));
            }
        }
        details.splice(0..0, gone);
    }
}

/// What is to be told first of a guest that has ended by now. All its data had been read, and the point stands.
fn is_gone(found: &FoundGuest) -> Option<String> {
    let (domain, name) = (found.domain.clone(), found.domain.name());
    let state = ask("ask the domain's state", move || domain.again()?.map_or(Ok(State::Other), |now| now.state()));
    // Where libvirt does not answer, the clearing up that follows tells so.
    if !matches!(state, Ok(State::Other)) {
        return None;
    }
    let told = format!(
        "the guest is gone: it stopped, or its QEMU ended, after its data had been read; QEMU's log of '{name}' says why"
    );
    log::error!(target: ANSWERED, "{name}: {told}");
    Some(told)
}

/// Removes what a failed run left under the name that is to be begun.
fn clear_way(checked: &Checked, found: &FoundGuest, host: &mut HostState) -> Result<()> {
    let Some(bitmap) = checked.mode.bitmap().filter(|bitmap| found.bitmaps.has(bitmap)) else { return Ok(()) };
    log::warn!("{}: bitmap '{bitmap}' of a run that failed is removed", checked.vm);
    found.bitmaps.remove(&found.domain, bitmap)?;
    host.forget(bitmap)
}

/// Finds out about the parent's bitmap, unless it is known to be `lost`, and decides. What libvirt knows because an earlier
/// attempt has `redefined` it counts as that.
fn decide(
    checked: &Checked,
    found: &FoundGuest,
    parent: Option<&Result<Parent, String>>,
    lost: Option<ParentBitmap>,
    redefined: bool,
    compares: bool,
) -> Plan {
    let asked = RequestedBackup::of(&checked.mode, parent);
    let strategies = decision::choose_strategies(asked, &found.disks, compares);
    let bitmap = match (asked, &strategies) {
        (RequestedBackup::Incremental(Ok(parent)), Ok(strategies)) => lost.or_else(|| {
            let bitmap = find_bitmap(found, parent, strategies);
            if redefined && bitmap == Some(ParentBitmap::Known) { Some(ParentBitmap::Redefined) } else { bitmap }
        }),
        _ => None,
    };
    decision::make_plan(asked, &found.disks, strategies, bitmap, compares)
}

/// What is known of the parent's bitmap, if any disk needs it.
fn find_bitmap(found: &FoundGuest, parent: &Parent, strategies: &[Strategy]) -> Option<ParentBitmap> {
    let on = found.disks.iter().zip(strategies).filter(|(_, strategy)| strategy.is_by_bitmap());
    let on: Vec<_> = on.map(|(disk, _)| disk.target.as_str()).collect();
    let name = parent.manifest.bitmap.as_deref().filter(|_| !on.is_empty())?;
    Some(found.bitmaps.find_parent(&found.domain, name, parent.manifest.when.as_second(), &on))
}

/// After a success: removes the other bitmaps of ours. What could not be done is told, and done by the next run.
fn clear_up(mut found: FoundGuest, mut host: HostState, ours: &BTreeSet<String>, bitmap: &str) -> Vec<String> {
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
