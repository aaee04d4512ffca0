//! Rebase: the target takes in what the images between it and its new backing file have and it lacks. Only then does its header name
//! the new backing file, so that the target reads the same at each moment.

use std::fs::File;

use super::batch::{Batch, MAX_PIECE_CLUSTERS, RebasePulse, Sources, Target};
use super::chain::{ImageFailure, Provided, slice_size};
use super::commit;
use super::header::{AUTOCLEAR_BITMAPS, Header};
use super::image::{COPIED, Image, L2Entry, What};
use super::naming;
use super::storage::{Storage, read_padded};
use super::survey::Survey;
use super::transfer::Moved;
use super::write::{Editor, Fill, FillSource};
use super::{Error, corrupt};
use crate::work::phase::Phase;

/// Bytes whose sharing is tried: those of a block of every file system that can share.
const PROBE: u64 = 4096;
/// Where the autoclear feature bits stand in the header.
const HEADER_AUTOCLEAR: u64 = 88;

/// A rebase whose images have been opened and not yet checked.
#[derive(Debug)]
pub struct Rebase<T> {
    target: Image<T>,
    sources: Sources,
    name: Option<Vec<u8>>,
}

/// A rebase whose images are sound. A drop leaves at any moment a sound image, perhaps with leaked clusters, which
/// [`Absorb::abandon`] frees.
#[derive(Debug)]
pub struct Absorb<T> {
    target: Target<T>,
    sources: Sources,
    name: Option<Vec<u8>>,
    /// What the target has is less than half of what the image below it has.
    is_cheaper_committed: bool,
}

impl<T: Storage> Rebase<T> {
    /// Checks that `target`, which stands on the images `backing`, the nearest first, can be rebased onto `backing[keep]`, under the name
    /// `name`. Without a name the target is to stand alone, and `keep` is the number of the images. Writes nothing.
    pub fn begin(target: T, backing: Vec<File>, keep: usize, name: Option<&str>) -> Result<Rebase<T>, ImageFailure> {
        let target = Image::open(target, slice_size(backing.len()))?;
        plan_naming(&target, name.map(str::as_bytes))?;
        Survey::begin(&target)?;
        let sources = Sources::open(backing, keep, true, target.virtual_size())?;
        Ok(Rebase { target, sources, name: name.map(|name| name.as_bytes().to_vec()) })
    }

    /// Checks the target, then all images that are read: a cluster that tables name twice could be absorbed without end. Writes nothing.
    pub fn check(self, pulse: &mut RebasePulse<'_>) -> Result<Absorb<T>, ImageFailure> {
        let Rebase { mut target, mut sources, name } = self;
        let here = sources.at(Phase::CheckImages, 0);
        let pulse = &mut |_, _| pulse(here);
        let found = Survey::begin(&target)?.run(&mut target, pulse)?;
        let mut below = None;
        for (index, image) in sources.chain.images.iter_mut().take(sources.keep).enumerate() {
            let checked = Survey::begin(image).and_then(|mut survey| survey.run(image, pulse));
            let checked = checked.map_err(|error| ImageFailure::of(index + 1, error))?;
            below.get_or_insert(checked.clusters());
        }
        let is_cheaper_committed = below.is_some_and(|below| commit::is_cheaper(found.clusters(), below));
        Ok(Absorb { target: Target::Untouched(target, found), sources, name, is_cheaper_committed })
    }
}

impl<T: Storage> Absorb<T> {
    /// Absorbs what the target lacks, and names the new backing file, durably.
    pub fn run(&mut self, pulse: &mut RebasePulse<'_>) -> Result<Moved, ImageFailure> {
        pulse(self.sources.at(Phase::TakeBackUnused, 0))?;
        let (mut image, found) = self.target.take()?;
        let changed = forget_unknown(&mut image)?;
        // what the survey has read may have been written by a killed process, and not be durable yet
        image.storage.sync()?;
        let mut editor = Editor::begin(image, found, changed)?;
        let total = self.sources.total;
        let taken_in = self.sources.take_in(&mut editor, Sources::find_lacking, pulse);
        // the last moment to stop it
        let taken_in = taken_in.and_then(|()| Ok(pulse(self.sources.at(Phase::NameBackingFile, total))?));
        if let Err(failure) = taken_in {
            self.target = Target::Changing(editor);
            return Err(failure);
        }
        put_name(&editor.image, self.name.as_deref())?;
        Ok(self.sources.moved)
    }

    /// True if a [`Commit`](super::Commit) can do the same, and writes less: there is one image to absorb, it can take in the target, it
    /// stands where the target is to stand, and the file system does not let both share blocks. To know the last, a block is shared
    /// behind the target's end, and cut off again.
    pub fn is_better_committed(&self) -> Result<bool, ImageFailure> {
        let (Target::Untouched(target, _), [below, ..]) = (&self.target, &self.sources.chain.images[..]) else {
            return Ok(false);
        };
        let stands_there = below.header.backing.as_ref().map(|backing| backing.file.as_bytes()) == self.name.as_deref();
        if !self.is_cheaper_committed || self.sources.keep != 1 || !stands_there || !commit::fits(below, target) {
            return Ok(false);
        }
        let (end, block) = (target.length.next_multiple_of(PROBE), below.length.min(PROBE));
        let shares = target.storage.clone_from(end, &below.storage, 0, block).is_ok();
        if shares {
            target.storage.set_length(target.length)?;
        }
        Ok(!shares)
    }

    /// True if the image, once abandoned, may differ from what it was.
    pub fn has_changed(&self) -> bool {
        self.target.has_changed()
    }

    /// Frees the clusters that were written and that no table names. After an error they stay leaked until the next rebase.
    pub fn abandon(self) -> Result<(), Error> {
        self.target.abandon()
    }
}

impl Sources {
    /// Adds what the target lacks at the batch's position, and moves that on.
    fn find_lacking<T: Storage>(&mut self, target: &mut Image<T>, batch: &mut Batch) -> Result<(), ImageFailure> {
        let here = target.extent(batch.at)?;
        if here.what != What::Unallocated {
            batch.at += here.length;
            return Ok(());
        }
        let between = self.between(batch.at, here.length)?;
        let end = batch.at + between.extent.length;
        let clusters_end = if end == self.total { end } else { end - end % target.cluster_size() };
        if between.extent.what == What::Unallocated && clusters_end > batch.at {
            batch.at = clusters_end;
            return Ok(());
        }
        self.look_closer(target, batch, between)
    }

    /// Adds what the target lacks at the batch's position, of one cluster at least.
    fn look_closer<T: Storage>(
        &mut self,
        target: &mut Image<T>,
        batch: &mut Batch,
        between: Provided,
    ) -> Result<(), ImageFailure> {
        let cluster = target.cluster_size();
        let start = batch.at - batch.at % cluster;
        let end = (start + cluster).min(self.total);
        let mut length = between.extent.length;
        if target.has_subclusters() {
            let entry = target.entry_at(start)?;
            if entry.host() != 0 || entry.subclusters != 0 || length < cluster {
                batch.at = end;
                return self.fill_cluster(start, entry, cluster, batch);
            }
            length = cluster;
        }
        let reaches_end = batch.at + length == self.total;
        let most = MAX_PIECE_CLUSTERS * cluster;
        let whole = (length - length % cluster).min(most);
        let at = batch.at;
        match between.extent.what {
            What::Zero if whole > 0 || reaches_end => {
                let length = if whole < most && reaches_end { length } else { whole };
                batch.at += length;
                self.add_zeroes(target, at, length, batch)?;
            }
            What::Data(offset) if whole > 0 => {
                batch.at += whole;
                batch.add(target, at, whole, FillSource::Image { index: between.image, offset });
            }
            What::Compressed(_) if whole > 0 => {
                batch.at += whole;
                batch.add(target, at, whole, FillSource::Chain);
            }
            _ => {
                batch.at = end;
                match self.classify(at, end)? {
                    Class::Nothing => {}
                    Class::Zeroes => self.add_zeroes(target, at, end - at, batch)?,
                    Class::Data => batch.add(target, at, end - at, FillSource::Chain),
                }
            }
        }
        Ok(())
    }

    /// What the images between the target and its new backing file have at `at`.
    fn between(&mut self, at: u64, length: u64) -> Result<Provided, ImageFailure> {
        self.chain.provider(0..self.keep, at, length)
    }

    /// How many bytes from `at` on read as zeroes in the images that stay below the target.
    fn zeroes_below(&mut self, at: u64, length: u64) -> Result<u64, ImageFailure> {
        let below = self.chain.provider(self.keep..self.chain.images.len(), at, length)?.extent;
        Ok(if matches!(below.what, What::Unallocated | What::Zero) { below.length } else { 0 })
    }

    /// Tells what has to be absorbed of a part of one cluster.
    fn classify(&mut self, start: u64, end: u64) -> Result<Class, ImageFailure> {
        let (mut nothing, mut zeroes, mut masked) = (false, false, false);
        let mut at = start;
        while at < end {
            let between = self.between(at, end - at)?.extent;
            match between.what {
                What::Unallocated => nothing = true,
                What::Zero => {
                    zeroes = true;
                    masked |= self.zeroes_below(at, between.length)? < between.length;
                }
                What::Data(_) | What::Compressed(_) => return Ok(Class::Data),
            }
            at += between.length;
        }
        Ok(match (zeroes && masked, nothing) {
            (false, _) => Class::Nothing,
            (true, false) => Class::Zeroes,
            (true, true) => Class::Data,
        })
    }

    /// Adds marks for zeroes, in whole clusters, where the images that stay would show other data.
    fn add_zeroes<T: Storage>(
        &mut self,
        target: &Image<T>,
        start: u64,
        length: u64,
        batch: &mut Batch,
    ) -> Result<(), ImageFailure> {
        let (cluster, end) = (target.cluster_size(), start + length);
        let content = if target.header.version > 2 { FillSource::Zero } else { FillSource::Chain };
        let mut at = start;
        while at < end {
            let read_as_zeroes = self.zeroes_below(at, end - at)?;
            let next = at + read_as_zeroes;
            let next = if next == end { end } else { next - next % cluster };
            if next == at {
                let next = (at + cluster).min(end);
                batch.add(target, at, next - at, content);
                at = next;
            } else {
                at = next;
            }
        }
        Ok(())
    }

    /// Adds the subclusters of one cluster that the target lacks.
    fn fill_cluster(
        &mut self,
        start: u64,
        entry: L2Entry,
        cluster: u64,
        batch: &mut Batch,
    ) -> Result<(), ImageFailure> {
        let size = cluster / 32;
        let mut parts = Vec::new();
        for index in (0..32).filter(|index| entry.present() >> index & 1 == 0) {
            let guest = start + index * size;
            if guest >= self.total {
                break;
            }
            let length = size.min(self.total - guest);
            let content = match self.classify(guest, guest + length)? {
                Class::Nothing => continue,
                Class::Zeroes => FillSource::Zero,
                Class::Data => FillSource::Subclusters,
            };
            parts.push(Fill { guest, length, content, host: entry.host() + (guest - start) });
        }
        if entry.host() == 0 && parts.iter().any(|part| part.content == FillSource::Subclusters) {
            let length = cluster.min(self.total - start);
            batch.push(Fill { guest: start, length, content: FillSource::Chain, host: 0 }, 1);
            return Ok(());
        }
        if entry.host() != 0 && entry.descriptor & COPIED == 0 {
            return corrupt(format!("the cluster of guest offset {start} is shared")).map_err(ImageFailure::from);
        }
        for part in parts {
            batch.push(part, 0);
        }
        Ok(())
    }
}

/// What has to be absorbed of a place that the target lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Nothing,
    Zeroes,
    Data,
}

/// Clears the autoclear feature bits that this library does not know, since it does not keep up to date what they stand for. Returns
/// whether there were any.
fn forget_unknown<T: Storage>(image: &mut Image<T>) -> Result<bool, Error> {
    let known = image.header.autoclear & AUTOCLEAR_BITMAPS;
    let has_unknown = image.header.autoclear != known;
    if has_unknown {
        image.storage.write_at(&known.to_be_bytes(), HEADER_AUTOCLEAR)?;
    }
    Ok(has_unknown)
}

/// Writes the name of the new backing file into the header, durably.
fn put_name<T: Storage>(image: &Image<T>, name: Option<&[u8]>) -> Result<(), ImageFailure> {
    for write in plan_naming(image, name)? {
        if write.takes_effect {
            image.storage.sync()?;
        }
        image.storage.write_at(&write.data, write.offset as u64)?;
        if write.takes_effect {
            image.storage.sync()?;
        }
    }
    Ok(())
}

/// Plans the writes that put the new name into the present header.
fn plan_naming<T: Storage>(image: &Image<T>, name: Option<&[u8]>) -> Result<Vec<naming::Write>, Error> {
    let header = Header::read(&image.storage)?;
    let mut cluster = vec![0; usize::try_from(header.cluster_size()).unwrap_or(0)];
    read_padded(&image.storage, &mut cluster, 0)?;
    naming::plan(&cluster, &header.layout, name)
}
