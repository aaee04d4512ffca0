//! Commit, as `qemu-img commit` does it: an image takes in what the one that stands on it has, and reads as that one from then on. What
//! of it changes the one above covers with its own: so that one reads the same at each moment.

use std::fs::File;
use std::ops::Range;

use super::batch::{Batch, MAX_PIECE_CLUSTERS, RebasePulse, Sources, Target};
use super::chain::{ImageFailure, slice_size};
use super::image::{Image, What};
use super::storage::{Source, Storage};
use super::survey::{Survey, SurveyFindings};
use super::transfer::Moved;
use super::write::{Editor, FillSource};
use super::{Error, Pulse};
use crate::work::phase::Phase;

/// Runs of clusters whose blocks are given back, the longest ones: each is a request to the NAS.
const MOST_GIVEN_BACK: usize = 1000;

/// A commit whose images are sound. A drop before tables change leaves at worst leaked clusters, which [`Commit::abandon`] frees.
#[derive(Debug)]
pub struct Commit<T> {
    target: Target<T>,
    sources: Sources,
}

/// True if an image of so many clusters is better written over one that has `below` of them than the other way round, whatever both
/// have in common.
pub(super) fn is_cheaper(clusters: u64, below: u64) -> bool {
    clusters < below / 2
}

/// True if `below` can take in what `above` has: both cover the same places by the same clusters, and marks for zeroes can stand for
/// themselves.
pub(super) fn fits(below: &Image<impl Source>, above: &Image<impl Source>) -> bool {
    let (one, other) = (&below.header, &above.header);
    let is_plain = one.bitmaps.is_none() && !one.layout.has_unknown;
    let are_alike = (one.virtual_size, one.cluster_bits) == (other.virtual_size, other.cluster_bits);
    let is_whole = one.version > 2 && !below.has_subclusters() && !above.has_subclusters();
    is_plain && are_alike && is_whole
}

impl<T: Storage> Commit<T> {
    /// Checks that `below` can take in what the image `above`, which stands on it, has, and both images. Writes nothing. Of the two, `above`
    /// is the image 0 of a failure, and `below` 1.
    pub fn check(below: T, above: File, pulse: &mut RebasePulse<'_>) -> Result<Commit<T>, ImageFailure> {
        let mut target = Image::open(below, slice_size(1)).map_err(of_below)?;
        let mut sources = Sources::open(vec![above], 1, false, target.virtual_size()).map_err(swapped)?;
        let above = &mut sources.chain.images[0];
        if !fits(&target, above) {
            return Err(of_below(Error::Unsupported("the image that stands on it is of another kind".into())));
        }
        let total = target.virtual_size();
        let pulse = &mut |_, _| pulse(super::Progress { phase: Phase::CheckImages, done: 0, total });
        survey(above, pulse)?;
        let found = survey(&mut target, pulse).map_err(of_below)?;
        Ok(Commit { target: Target::Untouched(target, found), sources })
    }

    /// Takes in all that the image above has, durably, and gives back the room of what that covers.
    pub fn run(&mut self, pulse: &mut RebasePulse<'_>) -> Result<Moved, ImageFailure> {
        pulse(self.sources.at(Phase::TakeBackUnused, 0))?;
        let (image, found) = self.target.take().map_err(of_below)?;
        // what the survey has read may have been written by a killed process, and not be durable yet
        image.storage.sync().map_err(of_below)?;
        let mut editor = Editor::begin(image, found, false).map_err(of_below)?.replacing();
        if let Err(failure) = self.sources.take_in(&mut editor, Sources::find_own, pulse) {
            self.target = Target::Changing(editor);
            return Err(swapped(failure));
        }
        let storage = editor.image.storage;
        storage.sync().map_err(of_below)?;
        let here = self.sources.at(Phase::TakeBackUnused, self.sources.total);
        free_covered(storage, &mut |_, _| pulse(here)).map_err(of_below)?;
        Ok(self.sources.moved)
    }

    /// True if the image, once abandoned, may differ from what it was.
    pub fn has_changed(&self) -> bool {
        self.target.has_changed()
    }

    /// Frees the clusters that were written and that no table names. After an error they stay leaked until the next change.
    pub fn abandon(self) -> Result<(), Error> {
        self.target.abandon()
    }
}

impl Sources {
    /// Adds what the source has at the batch's position, and moves that on.
    fn find_own<T: Storage>(&mut self, target: &mut Image<T>, batch: &mut Batch) -> Result<(), ImageFailure> {
        let (at, cluster) = (batch.at, target.cluster_size());
        let most = (self.total - at).min(MAX_PIECE_CLUSTERS * cluster);
        let own = self.chain.provider(0..1, at, most)?.extent;
        let whole = own.length - own.length % cluster;
        let (length, content) = match own.what {
            What::Unallocated => (own.length, None),
            What::Zero => (own.length, Some(FillSource::Zero)),
            What::Data(offset) if whole > 0 => (whole, Some(FillSource::Image { index: 0, offset })),
            What::Compressed(_) if whole > 0 => (whole, Some(FillSource::Chain)),
            // a last cluster that the disk's end cuts short is read, not moved
            What::Data(_) | What::Compressed(_) => (own.length, Some(FillSource::Chain)),
        };
        if let Some(content) = content {
            batch.add(target, at, length, content);
        }
        batch.at += length;
        Ok(())
    }
}

/// Frees the clusters that nothing refers to, and gives back their room.
fn free_covered<T: Storage>(storage: T, pulse: &mut Pulse<'_>) -> Result<(), Error> {
    let mut image = Image::open(storage, slice_size(1))?;
    let found = survey(&mut image, pulse)?;
    let (cluster, mut covered) = (image.cluster_size(), found.leaks.clone());
    let image = Editor::begin(image, found, true)?.image;
    covered.retain_mut(|run| {
        run.end = run.end.min(image.length / cluster);
        !run.is_empty()
    });
    give_back(&image.storage, cluster, covered);
    Ok(image.storage.sync()?)
}

/// What is not given back is used by the next change of the image.
fn give_back(storage: &impl Storage, cluster: u64, mut runs: Vec<Range<u64>>) {
    runs.sort_unstable_by_key(|run| std::cmp::Reverse(run.end - run.start));
    for run in runs.into_iter().take(MOST_GIVEN_BACK) {
        if let Err(error) = storage.give_back(run.start * cluster, (run.end - run.start) * cluster) {
            log::debug!("what a commit has covered keeps its room until the next change: {error}");
            return;
        }
    }
}

fn survey<S: Source>(image: &mut Image<S>, pulse: &mut Pulse<'_>) -> Result<SurveyFindings, Error> {
    Survey::begin(image)?.run(image, pulse)
}

/// A failure of the image below.
fn of_below(error: impl Into<Error>) -> ImageFailure {
    ImageFailure::of(1, error)
}

/// In a commit the target is below its source.
fn swapped(failure: ImageFailure) -> ImageFailure {
    ImageFailure { image: 1 - failure.image.min(1), ..failure }
}
