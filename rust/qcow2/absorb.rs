//! Rebase: the target takes in what the images between it and its new backing file have and it lacks. Only then does its header name
//! the new backing file, so that the target reads the same at each moment.

use std::fs::File;

use super::chain::{Chain, ImageFailure, Provided, slice_size};
use super::header::{AUTOCLEAR_BITMAPS, Header};
use super::image::{COPIED, Image, L2Entry, What};
use super::naming;
use super::storage::{Storage, read_padded};
use super::survey::{Survey, SurveyFindings};
use super::transfer::{Moved, Route, Writeback};
use super::write::{Editor, Fill, FillSource};
use super::{Error, corrupt};
use crate::error::Stopped;
use crate::work::phase::Phase;

/// Look-ups in the images' tables between two calls of the pulse.
const LOOKS_A_PULSE: u32 = 256;
/// What one batch holds at most, which is absorbed between two changes of the tables: pieces with the L2 tables that they may need
/// (6 MiB of memory), and clusters, whose refcount blocks are remembered.
const MAX_PIECES: u64 = 128 << 10;
const MAX_CLUSTERS: u64 = 4 << 20;
/// Clusters of the longest piece.
const MAX_PIECE_CLUSTERS: u64 = 4096;
/// Bytes that one call moves at most.
const MAX_RUN: u64 = 1 << 30;
/// Where the autoclear feature bits stand in the header.
const HEADER_AUTOCLEAR: u64 = 88;

/// How far a rebase is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The present phase.
    pub phase: Phase,
    /// Bytes of the guest's disk that are dealt with.
    pub done: u64,
    /// Bytes of the guest's disk.
    pub total: u64,
}

/// Is called with the progress of a rebase, as `Pulse` is with that of other work.
pub type RebasePulse<'a> = dyn FnMut(Progress) -> Result<(), Stopped> + 'a;

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
    target: AbsorbTarget<T>,
    sources: Sources,
    name: Option<Vec<u8>>,
}

/// The image that takes in others.
#[derive(Debug)]
enum AbsorbTarget<T> {
    Untouched(Image<T>, SurveyFindings),
    Changing(Editor<T>),
    /// A failure has lost it, or the rebase is finished.
    Gone,
}

/// The images that the target stands on, and what was taken from them.
#[derive(Debug)]
struct Sources {
    chain: Chain,
    routes: Vec<Route>,
    /// The first image that stays below the target.
    keep: usize,
    /// Bytes of the guest's disk.
    total: u64,
    moved: Moved,
    writeback: Writeback,
    buffer: Vec<u8>,
}

/// What is absorbed between two changes of the tables.
#[derive(Debug, Default)]
struct Batch {
    /// Guest offsets: where the batch begins, and up to where the images have been searched.
    start: u64,
    at: u64,
    pieces: Vec<Fill>,
    /// The number of pieces, and of the tables that they may need beyond one each.
    weight: u64,
    /// Clusters that the pieces take.
    clusters: u64,
    /// How many pieces have been moved, and how many bytes of the next one.
    moved: usize,
    part: u64,
}

impl<T: Storage> Rebase<T> {
    /// Checks that `target`, which stands on the images `backing`, the nearest first, can be rebased onto `backing[keep]`, under the name
    /// `name`. Without a name the target is to stand alone, and `keep` is the number of the images. Writes nothing.
    pub fn begin(target: T, backing: Vec<File>, keep: usize, name: Option<&str>) -> Result<Rebase<T>, ImageFailure> {
        let target = Image::open(target, slice_size(backing.len()))?;
        plan_naming(&target, name.map(str::as_bytes))?;
        Survey::begin(&target)?;
        let chain = Chain::open(backing).map_err(|(i, error)| ImageFailure::of(i + 1, error))?;
        let sources = Sources {
            routes: chain.images.iter().map(|image| Route::new(image.length)).collect(),
            keep: keep.min(chain.images.len()),
            chain,
            total: target.virtual_size(),
            moved: Moved::default(),
            writeback: Writeback::default(),
            buffer: Vec::new(),
        };
        Ok(Rebase { target, sources, name: name.map(|name| name.as_bytes().to_vec()) })
    }

    /// Checks the target, then all images that are read: a cluster that tables name twice could be absorbed without end. Writes nothing.
    pub fn check(self, pulse: &mut RebasePulse<'_>) -> Result<Absorb<T>, ImageFailure> {
        let Rebase { mut target, mut sources, name } = self;
        let here = sources.at(Phase::CheckImages, 0);
        let pulse = &mut |_, _| pulse(here);
        let found = Survey::begin(&target)?.run(&mut target, pulse)?;
        for (index, image) in sources.chain.images.iter_mut().take(sources.keep).enumerate() {
            let checked = Survey::begin(image).and_then(|mut survey| survey.run(image, pulse));
            checked.map_err(|error| ImageFailure::of(index + 1, error))?;
        }
        Ok(Absorb { target: AbsorbTarget::Untouched(target, found), sources, name })
    }
}

impl<T: Storage> Absorb<T> {
    /// Absorbs what the target lacks, and names the new backing file, durably.
    pub fn run(&mut self, pulse: &mut RebasePulse<'_>) -> Result<Moved, ImageFailure> {
        pulse(self.sources.at(Phase::TakeBackUnused, 0))?;
        let AbsorbTarget::Untouched(mut image, found) = std::mem::replace(&mut self.target, AbsorbTarget::Gone) else {
            return Err(Error::Unsupported("the rebase was run before".into()).into());
        };
        let changed = forget_unknown(&mut image)?;
        // what the survey has read may have been written by a killed process, and not be durable yet
        image.storage.sync()?;
        let mut editor = Editor::begin(image, found, changed)?;
        if let Err(failure) = self.sources.absorb(&mut editor, pulse) {
            self.target = AbsorbTarget::Changing(editor);
            return Err(failure);
        }
        put_name(&editor.image, self.name.as_deref())?;
        Ok(self.sources.moved)
    }

    /// True if the image, once abandoned, may differ from what it was.
    pub fn has_changed(&self) -> bool {
        match &self.target {
            AbsorbTarget::Untouched(..) => false,
            AbsorbTarget::Changing(editor) => editor.has_changed(),
            AbsorbTarget::Gone => true,
        }
    }

    /// Frees the clusters that were written and that no table names. After an error they stay leaked until the next rebase.
    pub fn abandon(self) -> Result<(), Error> {
        match self.target {
            AbsorbTarget::Changing(mut editor) => editor.abandon(),
            AbsorbTarget::Untouched(..) | AbsorbTarget::Gone => Ok(()),
        }
    }
}

impl Sources {
    fn at(&self, phase: Phase, done: u64) -> Progress {
        Progress { phase, done, total: self.total }
    }

    /// Absorbs all that the target lacks, a batch at a time.
    fn absorb<T: Storage>(&mut self, editor: &mut Editor<T>, pulse: &mut RebasePulse<'_>) -> Result<(), ImageFailure> {
        let mut batch = Batch::default();
        loop {
            self.collect(editor, &mut batch, pulse)?;
            if batch.pieces.is_empty() {
                return Ok(pulse(self.at(Phase::NameBackingFile, self.total))?);
            }
            batch.place(editor)?;
            self.move_data(editor, &mut batch, pulse)?;
            self.chain.check_whole()?;
            batch.pieces.sort_unstable_by_key(|piece| piece.guest);
            editor.commit(&batch.pieces)?;
            batch = batch.next();
        }
    }

    /// Collects what the target lacks, up to what one batch may hold.
    fn collect<T: Storage>(
        &mut self,
        editor: &mut Editor<T>,
        batch: &mut Batch,
        pulse: &mut RebasePulse<'_>,
    ) -> Result<(), ImageFailure> {
        let target = &mut editor.image;
        let mut looks = 0_u32;
        while batch.at < self.total && !batch.is_full() {
            if looks.is_multiple_of(LOOKS_A_PULSE) {
                pulse(self.at(Phase::LookForLacking, batch.start))?;
            }
            looks += 1;
            let here = target.extent(batch.at)?;
            if here.what != What::Unallocated {
                batch.at += here.length;
                continue;
            }
            let between = self.between(batch.at, here.length)?;
            let end = batch.at + between.extent.length;
            let clusters_end = if end == self.total { end } else { end - end % target.cluster_size() };
            if between.extent.what == What::Unallocated && clusters_end > batch.at {
                batch.at = clusters_end;
                continue;
            }
            self.look_closer(target, batch, between)?;
        }
        Ok(())
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

    /// Moves the data of the batch.
    fn move_data<T: Storage>(
        &mut self,
        editor: &mut Editor<T>,
        batch: &mut Batch,
        pulse: &mut RebasePulse<'_>,
    ) -> Result<(), ImageFailure> {
        while let Some(piece) = batch.pieces.get(batch.moved).copied() {
            pulse(self.at(Phase::Absorb, batch.done()))?;
            match piece.content {
                FillSource::Zero => batch.moved += 1,
                FillSource::Image { index, offset } => self.move_run(editor, batch, (piece, index, offset), pulse)?,
                FillSource::Chain | FillSource::Subclusters => self.read_piece(editor, batch, piece)?,
            }
        }
        Ok(())
    }

    /// Moves a part of the pieces that lie one after the other both in the source and in the target.
    fn move_run<T: Storage>(
        &mut self,
        editor: &Editor<T>,
        batch: &mut Batch,
        (first, index, offset): (Fill, usize, u64),
        pulse: &mut RebasePulse<'_>,
    ) -> Result<(), ImageFailure> {
        let mut length = first.length;
        for next in &batch.pieces[batch.moved + 1..] {
            let follows = FillSource::Image { index, offset: offset + length };
            if next.content != follows || next.host != first.host + length || length >= MAX_RUN {
                break;
            }
            length += next.length;
        }
        let (to, from) = (first.host + batch.part, offset + batch.part);
        let fresh = editor.is_fresh(to / editor.image.cluster_size());
        let source = (&self.chain.images[index].storage, from);
        let (here, mut told) = (self.at(Phase::Absorb, batch.done()), Ok(()));
        let goes_on = &mut || {
            told = pulse(here);
            told.is_ok()
        };
        let length = (length - batch.part, fresh);
        let moved = self.routes[index].step(&editor.image.storage, to, source, length, goes_on);
        let moved =
            moved.map_err(|(of_source, error)| ImageFailure::of(if of_source { index + 1 } else { 0 }, error))?;
        self.chain.spend(index, moved.cloned + moved.copied)?;
        self.moved.cloned += moved.cloned;
        self.moved.copied += moved.copied;
        self.writeback.wrote(&editor.image.storage, to, moved.copied);
        batch.advance(moved.cloned + moved.copied);
        Ok(told?)
    }

    /// Reads a cluster, or a run of subclusters, through the chain, and writes it.
    fn read_piece<T: Storage>(
        &mut self,
        editor: &mut Editor<T>,
        batch: &mut Batch,
        piece: Fill,
    ) -> Result<(), ImageFailure> {
        let cluster = editor.image.cluster_size();
        let (at, to) = (piece.guest + batch.part, piece.host + batch.part);
        let length = (piece.length - batch.part).min(cluster);
        // a last cluster that the disk's end cuts short is filled up with zeroes
        let written = if piece.content == FillSource::Chain { cluster } else { length };
        self.buffer.clear();
        self.buffer.resize(usize::try_from(written).unwrap_or(0), 0);
        let mut buffer = std::mem::take(&mut self.buffer);
        let part = usize::try_from(length).unwrap_or(0);
        self.read_through(&mut editor.image, at, &mut buffer[..part])?;
        let is_hole = editor.is_fresh(to / cluster) && buffer.iter().all(|byte| *byte == 0);
        if !is_hole {
            editor.image.storage.write_at(&buffer, to)?;
            self.writeback.wrote(&editor.image.storage, to, length);
        }
        self.buffer = buffer;
        self.moved.copied += length;
        batch.advance(length);
        Ok(())
    }

    /// Reads what the guest sees in the target.
    fn read_through<T: Storage>(
        &mut self,
        target: &mut Image<T>,
        at: u64,
        buffer: &mut [u8],
    ) -> Result<(), ImageFailure> {
        let mut done = 0;
        while done < buffer.len() {
            let from = at + done as u64;
            let extent = target.extent(from)?.limit((buffer.len() - done) as u64);
            let part = &mut buffer[done..][..usize::try_from(extent.length).unwrap_or(0)];
            match extent.what {
                What::Unallocated => self.chain.read(from, part)?,
                What::Zero => part.fill(0),
                What::Data(offset) => read_padded(&target.storage, part, offset)?,
                What::Compressed(_) => return corrupt("a compressed cluster has parts").map_err(ImageFailure::from),
            }
            done += part.len();
        }
        Ok(())
    }
}

impl Batch {
    fn is_full(&self) -> bool {
        self.weight >= MAX_PIECES || self.clusters >= MAX_CLUSTERS
    }

    fn add<T: Storage>(&mut self, target: &Image<T>, guest: u64, length: u64, content: FillSource) {
        self.weight += 1 + length / target.table_covers();
        if content != FillSource::Zero {
            self.clusters += length.div_ceil(target.cluster_size());
        }
        // two pieces at the same place of a source are not joined: two guest clusters may share one cluster of the file
        let goes_on = |last: &&mut Fill| {
            let is_placed = matches!(content, FillSource::Image { .. });
            !is_placed && last.content == content && last.guest + last.length == guest
        };
        match self.pieces.last_mut().filter(goes_on) {
            Some(last) => last.length += length,
            None => self.pieces.push(Fill { guest, length, content, host: 0 }),
        }
    }

    fn push(&mut self, piece: Fill, clusters: u64) {
        self.weight += 1;
        self.clusters += clusters;
        self.pieces.push(piece);
    }

    /// Chooses places in the target, in the order of the sources' files. So data that lie together in a source lie together in the
    /// target, and are moved by one call, however they are scattered over the guest's disk.
    fn place<T: Storage>(&mut self, editor: &mut Editor<T>) -> Result<(), Error> {
        let cluster = editor.image.cluster_size();
        self.pieces.sort_unstable_by_key(|piece| match piece.content {
            FillSource::Image { index, offset } => (0, index, offset),
            FillSource::Chain => (1, 0, piece.guest),
            FillSource::Subclusters => (2, 0, piece.guest),
            FillSource::Zero => (3, 0, piece.guest),
        });
        let mut next = 0;
        while let Some(piece) = self.pieces.get_mut(next) {
            next += 1;
            if !matches!(piece.content, FillSource::Image { .. } | FillSource::Chain) {
                continue;
            }
            let run = editor.take(piece.length.div_ceil(cluster))?;
            piece.host = run.start * cluster;
            let fits = (run.end - run.start) * cluster;
            if fits < piece.length {
                let rest = piece.after(fits);
                piece.length = fits;
                self.pieces.push(rest);
            }
        }
        Ok(())
    }

    /// Bytes from the position on have been moved.
    fn advance(&mut self, bytes: u64) {
        self.part += bytes;
        while let Some(piece) = self.pieces.get(self.moved)
            && self.part >= piece.length
            && self.part > 0
        {
            self.part -= piece.length;
            self.moved += 1;
        }
    }

    /// The guest offset up to which all is moved, as far as the share of the pieces tells it.
    fn done(&self) -> u64 {
        let parts = self.moved as u128 * u128::from(self.at - self.start);
        self.start + u64::try_from(parts / self.pieces.len().max(1) as u128).unwrap_or(0)
    }

    /// The batch that follows.
    fn next(self) -> Batch {
        Batch { start: self.at, at: self.at, ..Batch::default() }
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
