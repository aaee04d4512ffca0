//! The backup of a stopped guest: its bitmaps are seeded, then its disks are read, all of them under QEMU's image lock.
//! What is written between the two is in the copy and in the bitmap, so nothing is lost. An incremental takes what the
//! parent's bitmap, stored in the disk, names.
//!
//! An image in Ceph has neither bitmap nor lock. The library reads a snapshot of it, from an export of `qemu-nbd`. Where it can't
//! take one, it reads the image, and after that the guest must still be stopped.

mod bitmaps;
mod copy;
mod disk;
mod questions;

use std::collections::BTreeSet;

use super::call::Call;
use super::constraints::{Constraints, Failed};
use super::decision::{self, ParentBitmap, RequestedBackup};
use super::plan::{Plan, Strategy};
use super::repository::{self, OpenedRepository};
use super::request::{Checked, StoppedSource, StoppedSources};
use super::selection::{self, EXCLUDED};
use super::snapshots::DiskImage;
use super::space::Free;
use super::take::{Attempt, Copied, Guest, NewBitmap, ParentFound};
use super::targets::{TargetWriter, Targets};
use crate::config::Engine;
use crate::error::{Error, Result};
use crate::host::{Begun, HostState};
use crate::limits;
use crate::point::{LeftOut, Parent};
use crate::work::job::Reporter;
use crate::work::phase::Phase;

pub(super) use bitmaps::remove_if_there;
pub(super) use disk::Stopped;
use disk::{DiskToOpen, FoundDisk};
use questions::{answered, refuse_running};

impl Guest for Stopped {
    type Source = StoppedSources;
    type Found = Stopped;
    const IN_DOMAIN: bool = false;

    fn look(call: &Call<'_>, sources: &StoppedSources, job: &mut Reporter<'_>) -> Result<(Stopped, OpenedRepository)> {
        job.begin(Phase::LookAtDisks)?;
        refuse_running(call, "it is not shut off, but the request names disks as for a stopped one")?;
        let look = |source: &StoppedSource| disk::look(call, source.clone(), sources.paths(), job);
        let found = sources.chosen.iter().map(look).collect::<Result<Vec<_>>>()?;
        job.begin(Phase::OpenRepository)?;
        let stopped = Stopped { found, left_out: sources.left_out.clone(), images: Vec::new(), hangs: false };
        Ok((stopped, repository::open(call)?))
    }

    fn plan(
        found: Stopped,
        call: &Call<'_>,
        opened: &OpenedRepository,
        parent: ParentFound,
        constraints: &Constraints,
        host: HostState,
        job: &mut Reporter<'_>,
    ) -> Result<(Stopped, Plan, HostState)> {
        let lost = constraints.bitmap.clone().map(ParentBitmap::Lost);
        let plan = decide(call.checked, &found.found, parent.as_ref(), lost);
        check_space(call, &found.found, &plan, &opened.free, job)?;
        Ok((found, plan, host))
    }

    fn engine(&self) -> Engine {
        Engine::Push
    }

    fn has_fingerprints(&self) -> bool {
        true
    }

    fn record(&self, plan: &Plan, begun: Begun) -> Begun {
        let seeds = plan.disks.iter().filter(|disk| disk.carries).map(|disk| disk.facts.target.clone());
        Begun { disks: seeds.collect(), ..begun }
    }

    fn open_targets(&mut self, targets: Targets) -> Result<Targets> {
        Ok(targets)
    }

    fn copy(
        attempt: &mut Attempt<Stopped>,
        call: &Call<'_>,
        job: &mut Reporter<'_>,
    ) -> std::result::Result<Copied, Failed> {
        attempt.seed()?;
        attempt.copy_stopped(call, job)
    }

    fn abandon(attempt: Attempt<Stopped>, error: Error) -> (Error, Option<HostState>) {
        let Attempt { guest, plan, targets, mut host, bitmap } = attempt;
        let error = targets.discard(error, TargetWriter::Ours);
        guest.images.iter().for_each(DiskImage::remove);
        let error = match &bitmap {
            Some(bitmap) if guest.hangs => {
                log::warn!("{}: bitmap '{bitmap}' stays in its disks until the next backup", host.vm());
                error
            }
            bitmap => bitmaps::unseed(&guest.found, &plan, bitmap.as_deref(), &mut host, error),
        };
        host.end_unless(error.leftovers);
        let host = Some(host).filter(|_| !error.leftovers);
        (error, host)
    }

    fn drop_bitmap(self, plan: &Plan, bitmap: Option<&str>, mut host: HostState, error: Error) -> Error {
        self.images.iter().for_each(DiskImage::remove);
        let error = bitmaps::unseed(&self.found, plan, bitmap, &mut host, error);
        host.end_unless(error.leftovers);
        error
    }

    fn left_out(&self) -> Vec<LeftOut> {
        let told = |source: &StoppedSource| LeftOut {
            target: None,
            volume: Some(source.volume.clone()),
            serial: None,
            reason: EXCLUDED.to_owned(),
        };
        self.left_out.iter().map(told).collect()
    }

    fn texts(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn details(&self) -> Vec<String> {
        self.left_out.iter().map(|source| selection::told(&source.path, EXCLUDED)).collect()
    }

    fn keep_only(
        self,
        bitmap: Option<NewBitmap>,
        ours: &BTreeSet<String>,
        mut host: HostState,
        details: &mut Vec<String>,
    ) {
        match bitmap {
            Some(NewBitmap { name, is_carried: true }) => {
                details.extend(bitmaps::clear_up(&self.found, self.left_out, ours, &name, &mut host));
            }
            // No disk got it.
            Some(NewBitmap { name, is_carried: false }) => {
                details.extend(host.forget(&name).err().map(|error| error.to_string()));
            }
            None => {}
        }
        details.extend(self.images.iter().filter_map(DiskImage::remove_older));
        host.end();
    }
}

/// `NO_SPACE` when there is less room than the plan will write, as far as is known. The data are counted only where the disks'
/// sizes do not fit.
fn check_space(call: &Call<'_>, found: &[FoundDisk], plan: &Plan, free: &Free, job: &mut Reporter<'_>) -> Result<()> {
    if found.iter().map(|disk| disk.facts.virtual_size).fold(0, u64::saturating_add) <= free.bytes {
        return Ok(());
    }
    // how much of a disk differs is known when all was read
    let disks = disk::wanted(call.checked, found, plan).into_iter().zip(&plan.disks);
    let counted = disks.filter(|(_, planned)| !matches!(planned.strategy, Strategy::Compared(..)));
    let mut counted: Vec<_> = counted.map(|(disk, _)| disk).collect();
    let _servers = disk::serve(call, &mut counted, job)?;
    let count = move || counted.iter().map(DiskToOpen::bytes).sum();
    free.fits(answered("count the data", limits::STORAGE_STEP.max(call.left()), count)?)
}

/// Finds out about the parent's bitmap, unless it is known to be `lost`, and decides.
fn decide(
    checked: &Checked,
    found: &[FoundDisk],
    parent: Option<&std::result::Result<Parent, String>>,
    lost: Option<ParentBitmap>,
) -> Plan {
    let facts: Vec<_> = found.iter().map(|disk| disk.facts.clone()).collect();
    let asked = RequestedBackup::of(&checked.mode, parent);
    let strategies = decision::choose_strategies(asked, &facts, true);
    let bitmap = match (asked, &strategies, checked.mode.parent_bitmap()) {
        (RequestedBackup::Incremental(Ok(_)), Ok(strategies), Some(name)) => {
            lost.or_else(|| find_bitmap(name, found, strategies))
        }
        _ => None,
    };
    decision::make_plan(asked, &facts, strategies, bitmap, true)
}

/// What is known of the parent's bitmap, if any disk needs it.
fn find_bitmap(name: &str, found: &[FoundDisk], strategies: &[Strategy]) -> Option<ParentBitmap> {
    let on = found.iter().zip(strategies).filter(|(_, strategy)| strategy.is_by_bitmap());
    let on: Vec<_> = on.map(|(disk, _)| disk).collect();
    let lost = on.iter().filter_map(|disk| {
        disk.untracked.as_ref().map(|reason| format!("bitmap '{name}' {reason} on disk {}", disk.source.path))
    });
    let lost: Vec<_> = lost.collect();
    match lost[..] {
        _ if on.is_empty() => None,
        [] => Some(ParentBitmap::Known),
        _ => Some(ParentBitmap::Lost(lost.join(", "))),
    }
}
