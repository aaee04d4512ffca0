//! Where the point below is deleted next, and blocks can't be shared: its image takes in what the image on it has, and gets the name
//! of that one. At each moment the point, and all that stand on it, read as before.
//!
//! From before its image changes until it is gone the manifest of the point below says which image takes its place. If that is cut
//! off, the point is rebased without a commit.

use std::cell::OnceCell;
use std::collections::BTreeSet;

use super::disk::{ImageFile, RebasedDisk};
use super::guarded::Guarded;
use super::record::PointRecord;
use super::telling::Telling;
use crate::apart::Apart;
use crate::config;
use crate::error::{Code, Error, Result};
use crate::fs_kind::FsKind;
use crate::nas::folder::open_same_for_writing;
use crate::nas::instance::Instance;
use crate::nas::path::{PointPath, RepoPath};
use crate::operation::delete_backup;
use crate::point::{Link, Manifest};
use crate::qcow2::{Absorb, Commit, Direct, Moved};
use crate::work::phase::Phase;
use crate::work::worker::Pulse;

/// The images that may be committed: those whose one absorbed image goes, and on which no other image stands.
#[derive(Debug)]
pub(super) struct Committable<'a> {
    going: &'a PointPath,
    images: BTreeSet<RepoPath>,
    /// Whether no others stand on the point that goes. It is asked where it matters: each other point's headers tell.
    are_alone: OnceCell<bool>,
}

impl Committable<'_> {
    /// Those of `disks` that stand on the point `going`. None where a key has to vouch for what images are: nobody could for one that a
    /// commit was cut off in. None on CIFS, whose client may remove a file before another gets its name.
    pub(super) fn of<'a>(
        held: &Instance,
        record: &PointRecord,
        disks: &[RebasedDisk],
        going: &'a PointPath,
    ) -> Committable<'a> {
        let is_possible = config::current().keys.is_none() && FsKind::in_table(held.folder()) != FsKind::Cifs;
        let may_be = |disk: &&RebasedDisk| is_possible && may_be_committed(record, disk, going);
        let images = disks.iter().filter(may_be).map(|disk| disk.chain[0].path.clone()).collect();
        Committable { going, images, are_alone: OnceCell::new() }
    }

    /// The image below, open for writing, if the disk's own may be committed to it, and is better so.
    pub(super) fn below(
        &self,
        held: &Instance,
        disk: &RebasedDisk,
        absorb: &Absorb<ImageFile>,
    ) -> Result<Option<Apart>> {
        let is_better =
            || absorb.is_better_committed().map_err(|failure| disk.explain("look for shared blocks", failure));
        if !self.images.contains(&disk.chain[0].path) || !is_better()? || !self.are_alone(held)? {
            return Ok(None);
        }
        let Link { path, file } = &disk.chain[1];
        let opened = open_same_for_writing(file, path.as_str()).inspect_err(|error| {
            log::info!("what '{path}' has is copied, for it can't be written to: {error}");
        });
        Ok(opened.ok())
    }

    fn are_alone(&self, held: &Instance) -> Result<bool> {
        if let Some(known) = self.are_alone.get() {
            return Ok(*known);
        }
        let names = held.folder().names_that(|name| !delete_backup::is_deleted(name))?;
        let children = delete_backup::children(held.folder(), self.going, &names)?;
        let are_alone = children.iter().all(|child| self.images.iter().any(|image| image.as_str() == child));
        Ok(*self.are_alone.get_or_init(|| are_alone))
    }
}

/// True if the one image that the disk absorbs is one of the point that goes, and its manifest can say so, and does not yet.
fn may_be_committed(record: &PointRecord, disk: &RebasedDisk, going: &PointPath) -> bool {
    let [below] = disk.absorbed() else { return false };
    let is_sound = record.recorded(&below.path).is_some_and(|recorded| !recorded.is_unfinished());
    let is_signed = record.manifest_of(&going.folder()).is_some_and(|manifest| manifest.mac.is_some());
    is_sound
        && !is_signed
        && record.of(disk).is_some()
        && below.path.is_in(&going.folder())
        && below.path.name() == disk.chain[0].path.name()
}

/// Lets the image `below`, open for writing, take the place of the disk's own, and returns the disk as it is now. After a failure the
/// disk reads as before, and its file is as it was; it is returned unless that was closed. Nobody else has that file open.
pub(super) fn commit(
    held: &Instance,
    record: &PointRecord,
    disk: RebasedDisk,
    below: Apart,
    pulse: &Pulse,
) -> Result<(RebasedDisk, Moved), (Option<RebasedDisk>, Error)> {
    let taken_in = take_in(held, &disk, below, pulse).and_then(|moved| {
        pulse.enter(Phase::Publish)?;
        record.folder().check_is("look at the image", disk.chain[0].path.name(), &disk.chain[0].file)?;
        Ok(moved)
    });
    match taken_in {
        Ok(moved) => Ok((take_place(held, record, disk).map_err(|error| (None, error))?, moved)),
        Err(error) => Err((Some(disk), error)),
    }
}

/// Lets the image below read as the disk's own.
fn take_in(held: &Instance, disk: &RebasedDisk, below: Apart, pulse: &Pulse) -> Result<Moved> {
    let (above, at) = (&disk.chain[0], &disk.chain[1].path);
    let source = above.file.try_clone().map_err(|e| Error::io("open the image", above.path.as_str(), e))?;
    let mut tell = Telling::new(held, pulse);
    let target = Guarded::new(Direct::new(below), held);
    let checked = Commit::check(target, source, &mut |progress| tell.of(progress));
    let mut commit = checked.map_err(|failure| tell.explain(disk, failure))?;
    // before anything is written: an image that is longer than its manifest says is served to nobody, nor is what stands on it
    mark(held, at, Some(&above.path))?;
    let done = commit.run(&mut |progress| tell.of(progress));
    done.map_err(|failure| {
        let error = tell.explain(disk, failure);
        if let Err(left) = abandon(held, commit, &disk.chain[1]) {
            log::warn!("'{at}' is sound, and not quite as it was: {left}");
        }
        error
    })
}

/// Nothing is taken back once another host has the lock. An image that is again what it was keeps its place.
fn abandon(held: &Instance, commit: Commit<ImageFile>, below: &Link) -> Result<()> {
    held.fence()?;
    let has_changed = commit.has_changed();
    commit.abandon().map_err(|e| e.at("take back what was written", below.path.as_str()))?;
    below.sync()?;
    if has_changed { Ok(()) } else { mark(held, &below.path, None) }
}

/// Lets the manifest of the point below say, durably, which image takes the place of its own.
fn mark(held: &Instance, below: &RepoPath, into: Option<&RepoPath>) -> Result<()> {
    const STEP: &str = "write the manifest of the point below";
    let untold = || Error::new(Code::CorruptImage, STEP, format!("no manifest tells of '{below}'"));
    let folder = below.parent().ok_or_else(untold)?;
    let opened = held.root().open_dir(&folder)?;
    let mut manifest =
        Manifest::read_sound(&opened, &PointPath::parse("parent", folder.as_str())?)?.ok_or_else(untold)?;
    let disk = manifest.disks.iter_mut().find(|disk| disk.file == below.name()).ok_or_else(untold)?;
    disk.goes_into = into.map(RepoPath::to_string);
    held.fence()?;
    manifest.replace(&opened).map(drop)
}

/// Gives the image below the name of the disk's own, whose file is closed before.
fn take_place(held: &Instance, record: &PointRecord, disk: RebasedDisk) -> Result<RebasedDisk> {
    let below = disk.chain[1].path.clone();
    let folder = below.parent().ok_or_else(|| Error::invalid("parent", format!("'{below}' is in no point")))?;
    let folder = held.root().open_to_pass(folder.as_str())?;
    let disk = disk.replaced_by_below();
    held.fence()?;
    folder.move_to(&disk.chain[0].file, below.name(), record.folder())?;
    Ok(disk)
}
