//! What one image takes in of others: pieces are collected, get places in the target's file, and are moved there, before the target's
//! tables change.

use std::fs::File;

use super::chain::{Chain, ImageFailure};
use super::image::{Image, What};
use super::storage::{Storage, read_padded};
use super::survey::SurveyFindings;
use super::transfer::{Moved, Route, Writeback};
use super::write::{Editor, Fill, FillSource};
use super::{Error, corrupt};
use crate::error::Stopped;
use crate::work::phase::Phase;

/// What one batch holds at most, which is absorbed between two changes of the tables: pieces with the L2 tables that they may need
/// (6 MiB of memory), and clusters, whose refcount blocks are remembered.
const MAX_PIECES: u64 = 128 << 10;
const MAX_CLUSTERS: u64 = 4 << 20;
/// Clusters of the longest piece.
pub(super) const MAX_PIECE_CLUSTERS: u64 = 4096;
/// Bytes that one call moves at most.
const MAX_RUN: u64 = 1 << 30;
/// Look-ups in the images' tables between two calls of the pulse.
const LOOKS_A_PULSE: u32 = 256;

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

/// The images that a target takes in, and what was taken from them.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) chain: Chain,
    routes: Vec<Route>,
    /// The target stands on them, and what it has itself covers what they have; else it is the other way round.
    are_below: bool,
    /// The first of them that is not taken in.
    pub(super) keep: usize,
    /// Bytes of the guest's disk.
    pub(super) total: u64,
    pub(super) moved: Moved,
    writeback: Writeback,
    buffer: Vec<u8>,
}

/// What is taken in between two changes of the tables.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Guest offsets: where the batch begins, and up to where the images have been searched.
    start: u64,
    pub(super) at: u64,
    pieces: Vec<Fill>,
    /// The number of pieces, and of the tables that they may need beyond one each.
    weight: u64,
    /// Clusters that the pieces take.
    clusters: u64,
    /// How many pieces have been moved, and how many bytes of the next one.
    moved: usize,
    part: u64,
}

/// The image that takes in others.
#[derive(Debug)]
pub(super) enum Target<T> {
    Untouched(Image<T>, SurveyFindings),
    Changing(Editor<T>),
    /// A failure has lost it, or all is done.
    Gone,
}

impl<T: Storage> Target<T> {
    /// The image, which is to be changed now, and what its survey has found.
    pub(super) fn take(&mut self) -> Result<(Image<T>, SurveyFindings), Error> {
        match std::mem::replace(self, Target::Gone) {
            Target::Untouched(image, found) => Ok((image, found)),
            Target::Changing(_) | Target::Gone => Err(Error::Unsupported("it was run before".into())),
        }
    }

    /// True if the image, once abandoned, may differ from what it was.
    pub(super) fn has_changed(&self) -> bool {
        match self {
            Target::Untouched(..) => false,
            Target::Changing(editor) => editor.has_changed(),
            Target::Gone => true,
        }
    }

    /// Frees the clusters that were written and that no table names. After an error they stay leaked until the next change.
    pub(super) fn abandon(self) -> Result<(), Error> {
        match self {
            Target::Changing(mut editor) => editor.abandon(),
            Target::Untouched(..) | Target::Gone => Ok(()),
        }
    }
}

impl Sources {
    /// The images `files`, of which those before `keep` are taken in, for a target of a disk of `total` bytes.
    pub(super) fn open(files: Vec<File>, keep: usize, are_below: bool, total: u64) -> Result<Sources, ImageFailure> {
        let chain = Chain::open(files).map_err(|(i, error)| ImageFailure::of(i + 1, error))?;
        Ok(Sources {
            routes: chain.images.iter().map(|image| Route::new(image.length)).collect(),
            keep: keep.min(chain.images.len()),
            chain,
            are_below,
            total,
            moved: Moved::default(),
            writeback: Writeback::default(),
            buffer: Vec::new(),
        })
    }

    pub(super) fn at(&self, phase: Phase, done: u64) -> Progress {
        Progress { phase, done, total: self.total }
    }

    /// Lets the target have what `find` adds, a batch at a time. It looks at the batch's position, and moves that on.
    pub(super) fn take_in<T: Storage>(
        &mut self,
        editor: &mut Editor<T>,
        find: fn(&mut Sources, &mut Image<T>, &mut Batch) -> Result<(), ImageFailure>,
        pulse: &mut RebasePulse<'_>,
    ) -> Result<(), ImageFailure> {
        let mut batch = Batch::default();
        loop {
            let mut looks = 0_u32;
            while batch.at < self.total && !batch.is_full() {
                if looks.is_multiple_of(LOOKS_A_PULSE) {
                    pulse(self.at(Phase::LookForLacking, batch.start))?;
                }
                looks += 1;
                find(self, &mut editor.image, &mut batch)?;
            }
            if batch.pieces.is_empty() {
                return Ok(());
            }
            batch.place(editor)?;
            self.move_data(editor, &mut batch, pulse)?;
            self.chain.check_whole()?;
            batch.pieces.sort_unstable_by_key(|piece| piece.guest);
            editor.commit(&batch.pieces)?;
            batch = batch.next();
        }
    }

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

    /// Reads what the guest sees in the target and the sources together.
    fn read_through<T: Storage>(
        &mut self,
        target: &mut Image<T>,
        at: u64,
        buffer: &mut [u8],
    ) -> Result<(), ImageFailure> {
        if !self.are_below {
            return self.chain.read(at, buffer);
        }
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

    pub(super) fn add<T: Storage>(&mut self, target: &Image<T>, guest: u64, length: u64, content: FillSource) {
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

    pub(super) fn push(&mut self, piece: Fill, clusters: u64) {
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
