//! Checks that no disk of an incremental was made smaller and as large again since the parent point, which its bitmap does not
//! show.

use std::time::Instant;

use super::call::Call;
use super::constraints::{Failed, FailureLesson};
use super::plan::{DiskFacts, DiskPlan, Plan, Strategy};
use super::targets::Targets;
use crate::apart::Apart;
use crate::error::{Code, Error, Result};
use crate::libvirt::{Disk, DomainXml};
use crate::nas::folder::Folder;
use crate::nas::path::RepoPath;
use crate::point::open_chain;
use crate::qcow2::{self, Layer, Unseen, View};
use crate::qemu::layers;
use crate::work::background::start_for_the_guest;

const STEP: &str = "compare with the parent point";

/// Opens a disk's images, which its storage may hold up.
pub(super) type OpenImages = Box<dyn FnOnce() -> Result<Vec<Layer>> + Send>;

/// Notes on the disks why `check` could not look at their images, if so: asked before there is a copy to throw away.
pub(super) fn note_unreadable_images(domain: &DomainXml, disks: &mut [DiskFacts]) {
    for facts in disks {
        let disk = domain.disks.iter().find(|disk| disk.target == facts.target);
        facts.shrink_check_impossible = disk.and_then(why_impossible);
    }
}

fn why_impossible(disk: &Disk) -> Option<String> {
    match layers::of_domain(disk) {
        Ok(layers) => View::open_in_use(layers).err().map(|error| error.to_string()),
        Err(error) => Some(error.cause),
    }
}

/// Begins, beside the copy, to ask what `check` is going to ask.
pub(super) fn look_ahead(targets: &mut Targets, plan: &Plan) {
    if plan.disks.iter().any(|disk| matches!(disk.strategy, Strategy::Incremental(_))) {
        targets.list_beside();
    }
}

/// `PARENT_INVALID` when a disk was shrunk and grown again, or when that can't be known: its bitmap is not relied on then, and where it is the
/// parent that can't be read, nothing stands on it. The targets are written, and closed. `images` opens the images of the
/// disk at a position.
pub(super) fn check(
    call: &Call<'_>,
    targets: &mut Targets,
    plan: &Plan,
    mut images: impl FnMut(usize) -> OpenImages,
) -> std::result::Result<(), Failed> {
    let limit = call.time_to_publish(STEP)?;
    // Who reads zeroes for half of the time leaves the other half to an attempt without the bitmap. One that does not end
    // by itself waits for the NAS.
    let (read_until, until) = (Instant::now() + limit / 2, Instant::now() + limit);
    look_ahead(targets, plan);
    targets.wait_listed(limit / 4);
    let mut begun = Vec::new();
    for (i, DiskPlan { facts, strategy, .. }) in plan.disks.iter().enumerate() {
        let Strategy::Incremental(parent) = strategy else { continue };
        let images = images(i);
        let (session, target, parent) = (targets.instance().session().clone(), targets.file(i), parent.clone());
        begun.push((
            facts,
            start_for_the_guest(
                STEP,
                move || Ok(check_disk(session.root(), target, &parent, images, read_until)),
                || (),
            )?,
        ));
    }
    // all of them end before a failure is told: the targets are removed then, and must not be open
    let looked = begun.into_iter().map(|(facts, look)| {
        let late = || Err(Error::new(Code::NasUnresponsive, STEP, "the images can't be read"));
        let looked = look.wait(until.saturating_duration_since(Instant::now())).unwrap_or_else(late)?;
        looked.map_err(|Failed { error, lesson }| Failed { error: error.on_disk(&facts.target), lesson })
    });
    let mut failed: Vec<Failed> = looked.collect::<Vec<_>>().into_iter().filter_map(Result::err).collect();
    // a parent that can't be read leaves the next attempt less to stand on, so it is told first
    failed.sort_by_key(|failed| failed.lesson != FailureLesson::ParentUnreadable);
    failed.into_iter().next().map_or(Ok(()), Err)
}

fn check_disk(
    root: &Folder,
    target: Apart,
    parent: &RepoPath,
    images: OpenImages,
    until: Instant,
) -> std::result::Result<(), Failed> {
    let unfit = |error: Error| Error { code: Code::ParentInvalid, ..error };
    let unreadable = |error| Failed { error: unfit(error), lesson: FailureLesson::ParentUnreadable };
    let (paths, files): (Vec<_>, Vec<_>) =
        open_chain(root, parent).map_err(unreadable)?.into_iter().map(|l| (l.path, l.file)).unzip();
    match qcow2::hides_a_shrink(target, files, images().map_err(unfit)?, until) {
        Ok(false) => Ok(()),
        Ok(true) => {
            let cause = "it was made smaller and as large again since the parent point";
            Err(Error::new(Code::ParentInvalid, STEP, cause).into())
        }
        Err(Unseen::Target(error)) => Err(error.at(STEP, "the new image").into()),
        Err(Unseen::Parent(position, error)) => {
            let path = paths.get(position).map_or(parent.as_str(), RepoPath::as_str);
            Err(unreadable(error.at(STEP, path)))
        }
        Err(Unseen::Disk(error)) => Err(unfit(error.at(STEP, "the disk's images")).into()),
    }
}
