//! One disk on its way: what of it comes next, told to whoever asks, and what is done with that by many at once.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use log::Level;
use rustix::fs::FallocateFlags;

use super::clusters::runs;
use super::gate::{Gate, Inside};
use super::kept::Kept;
use super::old::Old;
use super::request::{OutputFormat, Preallocation};
use super::target::{SYNC_EACH, Target};
use crate::engine::rate::Limiter;
use crate::error::{Code, Error, Result, called};
use crate::lacking;
use crate::nas::apart::{Apart, Descriptor};
use crate::point::fingerprints::{self, Base, Content, State};
use crate::qcow2::{
    self, Buffer, CLUSTER, Failure, Images, Inflated, Layer, Part, Piece, Pieces, Place, Route, Source as _, Step,
    Storage, Stream, View, Writeback, Zeroing,
};

const STEP: &str = "copy";
/// Bytes that are read, compared and written as one.
const PIECE: u64 = 1 << 20;
/// The same where nothing but blocks are shared.
const SHARED_PIECE: u64 = 1 << 30;
/// What one L2 table of an output stands for.
const TABLE: u64 = CLUSTER / 8 * CLUSTER;
/// A disk, and what was done of it.
#[derive(Debug)]
pub(super) struct Disk {
    /// For messages.
    pub(super) volume: String,
    /// The output's path, and those of the images, the newest first.
    names: Vec<String>,
    images: Images,
    /// Size that the guest sees of them, in bytes: told also while somebody has the plan.
    pub(super) guest: u64,
    target: Target,
    /// Of the output's disk, in bytes.
    pub(super) size: u64,
    pub(super) preallocation: Preallocation,
    /// It holds something, and is not a new file.
    pub(super) device: bool,
    old: Vec<Layer>,
    /// The fingerprints are known.
    compared: bool,
    /// Not compared, and blocks can be shared.
    shares: bool,
    plan: Mutex<Plan>,
    writeback: Mutex<Writeback>,
    unsynced: AtomicU64,
    /// What the output holds is copied there first.
    kept: Mutex<Option<Kept>>,
    /// Something was written.
    begun: AtomicBool,
    pub(super) done: Done,
}

/// Bytes.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Of the guest's disk that are dealt with.
    pub(super) guest: AtomicU64,
    pub(super) read: AtomicU64,
    pub(super) kept: AtomicU64,
    pub(super) cloned: AtomicU64,
}

/// What one who copies has for itself.
#[derive(Debug, Default)]
pub(super) struct Room {
    buffer: Buffer,
    inflated: Inflated,
    /// The ways from the images of one disk.
    routes: Vec<Route>,
    zeroing: Zeroing,
    /// The volume as it was, if the disk is compared with it.
    old: Option<Old>,
    /// Blocks of the volume as it was were refused to be shared.
    refused: bool,
    /// What is written passes it.
    gate: Arc<Gate>,
}

impl Room {
    pub(super) fn new(gate: &Arc<Gate>) -> Room {
        Room { gate: gate.clone(), ..Room::default() }
    }
}

/// What of a disk was told already.
#[derive(Debug)]
struct Plan {
    pieces: Pieces,
    base: Option<Base<File>>,
    layout: Layout,
    at: u64,
    most: u64,
    /// Where a device ends, up to which zeroes follow the disk; nothing of a file.
    tail: Range<u64>,
    /// Bytes whose fingerprints can't be known.
    unknown: u64,
}

#[derive(Debug)]
enum Layout {
    Raw,
    Qcow2(Box<Stream<Apart>>),
    Finished,
}

/// Something to do.
#[derive(Debug)]
pub(super) struct Work {
    piece: Piece,
    /// Where in the target it begins.
    to: u64,
    /// What each cluster has to be, if that is known.
    states: Option<Vec<State>>,
}

/// Where a cluster is, on its way to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cluster {
    /// On the NAS alone.
    Wanted,
    /// In the buffer, and right.
    Buffered,
    /// To be made zero.
    Zero,
    /// In the target.
    Placed,
}

/// What a disk is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) volume: String,
    pub(super) names: Vec<String>,
    pub(super) source: (Pieces, Images),
    pub(super) base: Option<Base<File>>,
    pub(super) target: Target,
    pub(super) format: OutputFormat,
    /// Size of the output's disk, at least that of the images'.
    pub(super) size: u64,
    pub(super) preallocation: Preallocation,
    /// The target is a device, which holds something.
    pub(super) device: bool,
    /// The volume as it was, with which it is to be compared.
    pub(super) old: Vec<Layer>,
}

impl Disk {
    /// Begins with an empty target.
    pub(super) fn begin(parts: Parts) -> Result<Disk> {
        let Parts { volume, names, source: (pieces, images), base, target, format, size, preallocation, device, old } =
            parts;
        let io = |e| Error::io("open the output", &names[0], e);
        let (new, compared) = (target.new_file(), base.is_some());
        let shares = match new {
            Some(file) if base.is_none() => shares(&images, file).map_err(io)?,
            _ => false,
        };
        let layout = match (format, new) {
            (OutputFormat::Raw, None) => Layout::Raw,
            (OutputFormat::Raw, Some(file)) => file.set_length(size).map(|()| Layout::Raw).map_err(io)?,
            (OutputFormat::Qcow2, Some(file)) => {
                let stream = Stream::begin(file.clone(), size, None);
                Layout::Qcow2(Box::new(stream.map_err(|e| e.at("open the output", &names[0]))?))
            }
            (OutputFormat::Qcow2, None) => {
                return Err(Error::new(Code::Internal, "open the output", "a qcow2 on a device"));
            }
        };
        let most = if shares { SHARED_PIECE } else { PIECE };
        let end = if device { target.length().map_err(io)? } else { 0 };
        let guest = pieces.size();
        let tail = guest..end.max(guest);
        let plan = Mutex::new(Plan { pieces, base, layout, at: 0, most, tail, unknown: 0 });
        Ok(Disk {
            volume,
            names,
            images,
            guest,
            target,
            size,
            preallocation,
            device,
            old,
            compared,
            shares,
            plan,
            writeback: Mutex::default(),
            unsynced: AtomicU64::new(0),
            kept: Mutex::default(),
            begun: AtomicBool::new(false),
            done: Done::default(),
        })
    }

    /// Takes the room that a raw file is to have; a qcow2 takes its own at the end.
    pub(super) fn reserve(&self) -> Result<()> {
        match (&self.plan().layout, self.target.new_file()) {
            (Layout::Raw, Some(file)) => {
                reserve(file, self.size, self.preallocation).map_err(|e| self.target_failed(e))
            }
            _ => Ok(()),
        }
    }

    /// Bytes that are to be written by the fingerprints; nothing where the blocks of what is replaced may be shared.
    pub(super) fn data(&self, mut base: Base<File>) -> Result<u64> {
        if !self.old.is_empty() {
            return Ok(0);
        }
        let (mut at, mut bytes, size) = (0, 0, self.guest);
        while at < size {
            let (state, length) = base.next(at..size).map_err(|e| self.index_failed(e))?;
            bytes += if matches!(state, State::Hash(_)) { length } else { 0 };
            at += length;
        }
        Ok(bytes)
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ways to copy from its images, for one who copies.
    pub(super) fn enter(&self, room: &mut Room) {
        room.routes = (0..self.images.count()).map(|image| Route::new(self.images.file(image).1)).collect();
        room.inflated = Inflated::default();
        room.zeroing = Zeroing::default();
        room.refused = false;
        // if it was told to stop, nothing is written any more
        let _inside = room.gate.enter(STEP).ok();
        room.old = match &self.target {
            Target::Image(image) => self.compared.then(|| Old::Image(image.clone())),
            Target::File(_) if self.old.is_empty() => None,
            Target::File(_) => again(&self.old).and_then(|old| self.readable(View::open(old))).map(Old::Layers),
        };
    }

    /// What of the volume as it was could be read; the NAS has all that could not.
    fn readable<T>(&self, read: Result<T, qcow2::Error>) -> Option<T> {
        let log = |error: &qcow2::Error| log::warn!("'{}' as it was is not read any more: {error}", self.names[0]);
        read.inspect_err(log).ok()
    }

    /// What is to be done next; none once all was told.
    pub(super) fn next(&self, gate: &Gate) -> Result<Option<Work>> {
        let mut plan = self.plan();
        while plan.at < plan.pieces.size() {
            let (at, limit) = (plan.at, plan.limit());
            let piece = plan.pieces.next(at, limit).map_err(|failure| self.explain(failure))?;
            plan.at += piece.length;
            if piece.parts.is_empty() {
                self.check_zeroes(&mut plan, &piece)?;
                let inside = gate.enter(STEP)?;
                self.place_zeroes(&mut plan, piece.at, piece.at + piece.length)?;
                drop(inside);
                if self.device {
                    return Ok(Some(Work { to: piece.at, piece, states: None }));
                }
                self.done.guest.fetch_add(piece.length, Relaxed);
                continue;
            }
            let states = self.states(&mut plan, &piece)?;
            // a table of the output that is full is written
            let _inside = gate.enter(STEP)?;
            let to = plan.layout.place(&piece, self.size).map_err(|e| self.table_failed(e))?;
            return Ok(Some(Work { piece, to, states }));
        }
        let tail = std::mem::replace(&mut plan.tail, 0..0);
        let behind = Piece {
            at: tail.start,
            length: 0,
            parts: vec![Part { length: tail.end - tail.start, place: Place::Hole }],
        };
        Ok((!tail.is_empty()).then_some(Work { to: tail.start, piece: behind, states: None }))
    }

    /// What has no data has to have none by the fingerprints.
    fn check_zeroes(&self, plan: &mut Plan, piece: &Piece) -> Result<()> {
        let (mut at, end) = (piece.at, piece.at + piece.length);
        while at < end {
            let Some((state, length)) = self.state(plan, at..end)? else { break };
            match state {
                State::Zero => {}
                State::Unknown => plan.unknown += length,
                State::Hash(_) => return Err(self.differs(at, 0)),
            }
            at += length;
        }
        Ok(())
    }

    /// Gives zeroes a place where each cluster is to have one.
    fn place_zeroes(&self, plan: &mut Plan, from: u64, to: u64) -> Result<()> {
        let Layout::Qcow2(stream) = &mut plan.layout else { return Ok(()) };
        let to = to.next_multiple_of(CLUSTER).min(self.size);
        let mut at = if self.preallocation == Preallocation::Off { to } else { from };
        while at < to {
            let length = (to - at).min(TABLE - at % TABLE);
            stream.place(at, length).map_err(|e| self.table_failed(e))?;
            at += length;
        }
        Ok(())
    }

    fn states(&self, plan: &mut Plan, piece: &Piece) -> Result<Option<Vec<State>>> {
        let (mut at, end, mut states) = (piece.at, piece.at + piece.length, Vec::new());
        while at < end {
            let Some((state, length)) = self.state(plan, at..end)? else { return Ok(None) };
            if state == State::Unknown {
                plan.unknown += length;
            }
            (at..at + length).step_by(CLUSTER as usize).for_each(|_| states.push(state));
            at += length;
        }
        Ok(Some(states))
    }

    fn state(&self, plan: &mut Plan, range: Range<u64>) -> Result<Option<(State, u64)>> {
        let told = plan.base.as_mut().map(|base| base.next(range)).transpose();
        told.map_err(|e| self.index_failed(e))
    }

    fn differs(&self, at: u64, image: usize) -> Error {
        let image = self.names.get(image + 1).map_or("", String::as_str);
        let cause = format!("'{image}': the data at guest offset {at} are not those that were backed up");
        Error::new(Code::CorruptImage, STEP, cause).on_disk(&self.volume)
    }

    fn explain(&self, failure: Failure) -> Error {
        explain(STEP, &self.names, failure).on_disk(&self.volume)
    }

    fn target_failed(&self, error: io::Error) -> Error {
        Error::io(STEP, &self.names[0], error).on_disk(&self.volume)
    }

    /// A table of the output could not be made.
    fn table_failed(&self, error: qcow2::Error) -> Error {
        error.at(STEP, &self.names[0]).on_disk(&self.volume)
    }

    fn index_failed(&self, error: io::Error) -> Error {
        fingerprints::failed("read the fingerprints", &self.names[1], error).on_disk(&self.volume)
    }

    /// Does the work. Whoever may have to wait asks `go_on` meanwhile.
    pub(super) fn perform(
        &self,
        work: &Work,
        room: &mut Room,
        limiter: &Limiter,
        go_on: impl Fn() -> Result<()>,
    ) -> Result<()> {
        match &work.states {
            None if self.device && work.piece.parts.is_empty() => {
                self.zero(work.to, work.piece.length, room, &go_on)?;
            }
            Some(states) => self.compare(work, states, room, limiter, go_on)?,
            None => self.take(work, room, limiter, go_on)?,
        }
        self.done.guest.fetch_add(work.piece.length, Relaxed);
        Ok(())
    }

    /// Takes from the volume as it was what is right there, reads the rest, and writes it if it is what the fingerprints say.
    fn compare(
        &self,
        work: &Work,
        states: &[State],
        room: &mut Room,
        limiter: &Limiter,
        go_on: impl Fn() -> Result<()>,
    ) -> Result<()> {
        room.buffer.resize(usize::try_from(work.piece.length).unwrap_or(0));
        let mut clusters = self.keep(work, states, room)?;
        for (start, end) in runs(&clusters, |cluster| *cluster == Cluster::Wanted) {
            let range = bytes_of(work, start, end);
            let bytes = data_in(&work.piece.parts, &range);
            limiter.wait(bytes, &go_on)?;
            let buffer = &mut room.buffer[bounds(&range)];
            let read = self.images.read(&work.piece, range.clone(), buffer, &mut room.inflated);
            read.map_err(|failure| self.explain(failure))?;
            self.done.read.fetch_add(bytes, Relaxed);
            for (i, content) in (start..).zip(buffer.chunks(CLUSTER as usize).map(Content::of)) {
                clusters[i] = self.check_read(work, i, states[i], content)?;
            }
        }
        for (start, end) in runs(&clusters, |cluster| *cluster == Cluster::Buffered) {
            let run = bytes_of(work, start, end);
            self.write(&room.buffer[bounds(&run)], work.to + run.start, &room.gate)?;
        }
        for (start, end) in runs(&clusters, |cluster| *cluster == Cluster::Zero) {
            let run = bytes_of(work, start, end);
            self.zero(work.to + run.start, run.end - run.start, room, || Ok(()))?;
        }
        Ok(())
    }

    /// What was read as the `i`-th cluster, if it is what it has to be.
    fn check_read(&self, work: &Work, i: usize, state: State, content: Content) -> Result<Cluster> {
        if state != State::Unknown && !state.is(content) {
            let within = i as u64 * CLUSTER;
            return Err(self.differs(work.piece.at + within, image_at(&work.piece.parts, within)));
        }
        Ok(if content == Content::Zero { Cluster::Zero } else { Cluster::Buffered })
    }

    /// What the volume as it was has of the clusters.
    fn keep(&self, work: &Work, states: &[State], room: &mut Room) -> Result<Vec<Cluster>> {
        let (mut clusters, at) = (vec![Cluster::Wanted; states.len()], work.piece.at);
        let Some(old) = &mut room.old else { return Ok(clusters) };
        // until it has an answer it is the outputs' storage that is asked
        let gate = room.gate.clone();
        let _inside = gate.enter(STEP)?;
        let length = old.size().saturating_sub(at).min(work.piece.length) / CLUSTER * CLUSTER;
        let all = 0..length;
        if self.readable(old.read(at, &mut room.buffer[bounds(&all)])).is_none() {
            room.old = None;
            return Ok(clusters);
        }
        let contents = room.buffer[bounds(&all)].chunks(CLUSTER as usize).map(Content::of);
        for ((cluster, state), content) in clusters.iter_mut().zip(states).zip(contents) {
            *cluster = match content {
                content if !state.is(content) => Cluster::Wanted,
                // a new file reads as zeroes
                Content::Zero => Cluster::Placed,
                Content::Hash(_) => Cluster::Buffered,
            };
        }
        for (start, end) in runs(&clusters, |cluster| *cluster == Cluster::Buffered) {
            match self.target.new_file() {
                None => clusters[start..end].fill(Cluster::Placed),
                Some(file) => self.share(file, work, start, states, &mut clusters[start..end], room)?,
            }
            let kept = clusters[start..end].iter().filter(|cluster| **cluster != Cluster::Wanted).count() as u64;
            self.done.kept.fetch_add(kept * CLUSTER, Relaxed);
        }
        Ok(clusters)
    }

    /// Lets the new file share the blocks of a run of the volume as it was, where that can be.
    fn share(
        &self,
        file: &Apart,
        work: &Work,
        first: usize,
        states: &[State],
        clusters: &mut [Cluster],
        room: &mut Room,
    ) -> Result<()> {
        let run = bytes_of(work, first, first + clusters.len());
        room.refused = room.refused || !share(file, work, run.clone(), room.old.as_mut());
        if room.refused {
            return Ok(());
        }
        // whoever held the volume open may have written to it before its blocks were shared: what is shared counts
        let buffer = &mut room.buffer[bounds(&run)];
        let read = file.with(|file| std::os::unix::fs::FileExt::read_exact_at(file, buffer, work.to + run.start));
        read.map_err(|e| self.target_failed(e))?;
        for ((cluster, state), bytes) in clusters.iter_mut().zip(&states[first..]).zip(buffer.chunks(CLUSTER as usize))
        {
            *cluster = if state.is(Content::of(bytes)) { Cluster::Placed } else { Cluster::Wanted };
        }
        Ok(())
    }

    /// Moves it by the best way that there is, whatever it is.
    fn take(&self, work: &Work, room: &mut Room, limiter: &Limiter, go_on: impl Fn() -> Result<()>) -> Result<()> {
        let mut to = work.to;
        for part in &work.piece.parts {
            let mut at = match (part.place, self.target.new_file()) {
                (Place::Hole, _) => {
                    self.zero(to, part.length, room, &go_on)?;
                    part.length
                }
                (Place::Data(image, offset), Some(file)) if !room.routes[image].is_read_write() => {
                    if !self.shares {
                        limiter.wait(part.length, &go_on)?;
                    }
                    self.move_data((image, offset), (file, to), part.length, room, &go_on)?
                }
                (Place::Data(..) | Place::Packed(_), _) => {
                    limiter.wait(part.length, &go_on)?;
                    0
                }
            };
            while at < part.length {
                go_on()?;
                let length = PIECE.min(part.length - at);
                self.read_and_write(part.place.skip(at), to + at, length, room)?;
                at += length;
            }
            to += part.length;
        }
        Ok(())
    }

    /// Between the read and the write it is asked whether it is still wanted, and it is known which of the two hangs.
    fn read_and_write(&self, place: Place, to: u64, length: u64, room: &mut Room) -> Result<()> {
        room.buffer.resize(usize::try_from(length).unwrap_or(0));
        let read = self.images.read_place(place, &mut room.buffer, &mut room.inflated);
        read.map_err(|failure| self.explain(failure))?;
        if self.device || room.buffer.iter().any(|byte| *byte != 0) {
            self.write(&room.buffer, to, &room.gate)?;
        }
        self.done.read.fetch_add(length, Relaxed);
        Ok(())
    }

    /// Moves data to a new file, which nobody else has, as far as the kernel does it; how many bytes it did.
    fn move_data(
        &self,
        (image, offset): (usize, u64),
        (new, to): (&Apart, u64),
        length: u64,
        room: &mut Room,
        go_on: impl Fn() -> Result<()>,
    ) -> Result<u64> {
        let (source, mut moved) = (self.images.file(image).0, 0);
        while moved < length {
            go_on()?;
            let from = (source, offset + moved);
            let _moved = room.gate.move_data();
            let step = room.routes[image].step_by_kernel(new, to + moved, from, length - moved, true);
            let step = step.map_err(|(of_source, error)| {
                if of_source {
                    self.explain(Failure { image: image + 1, error: error.into() })
                } else {
                    self.target_failed(error)
                }
            })?;
            let Step::Moved(step) = step else { break };
            self.done.cloned.fetch_add(step.cloned, Relaxed);
            self.done.read.fetch_add(step.copied, Relaxed);
            self.wrote(to + moved, step.copied)?;
            moved += step.cloned + step.copied;
        }
        Ok(moved)
    }

    /// Makes a part of a device zero; a new file is.
    fn zero(&self, mut at: u64, length: u64, room: &mut Room, go_on: impl Fn() -> Result<()>) -> Result<()> {
        let end = if self.device { at + length } else { at };
        while at < end {
            go_on()?;
            let _inside = self.enter_to_write(&room.gate)?;
            let made = self.target.zero(&mut room.zeroing, at, end - at);
            let (zeroed, written) = made.map_err(|e| self.target_failed(e))?;
            if written {
                self.wrote(at, zeroed)?;
            }
            at += zeroed;
        }
        Ok(())
    }

    /// Writes it, unless it was told to stop since it was read: another restore may have the device by now, or a guest.
    fn write(&self, bytes: &[u8], to: u64, gate: &Gate) -> Result<()> {
        let _inside = self.enter_to_write(gate)?;
        let cached = self.target.write(bytes, to).map_err(|e| self.target_failed(e))?;
        self.wrote(to, cached)
    }

    fn enter_to_write<'a>(&self, gate: &'a Gate) -> Result<Inside<'a>> {
        let inside = gate.enter(STEP)?;
        self.begun.store(true, Relaxed);
        Ok(inside)
    }

    /// What the output holds is to be copied there before it is overwritten.
    pub(super) fn keep_as(&self, kept: Kept) {
        *self.kept() = Some(kept);
    }

    pub(super) fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn kept_unless_it_is_copied(&self) -> Option<MutexGuard<'_, Option<Kept>>> {
        self.kept.try_lock().ok()
    }

    /// Copies it, if that is asked.
    pub(super) fn keep_held(&self, gate: &Gate, go_on: impl Fn() -> Result<()>) -> Result<()> {
        let kept = self.kept().as_mut().map(|kept| kept.copy(&self.target, gate, go_on));
        kept.unwrap_or(Ok(())).map_err(|error| error.on_disk(&self.volume))
    }

    /// Does the output hold anything of it?
    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Relaxed)
    }

    /// So many bytes were written there: they are to reach the disk soon.
    fn wrote(&self, to: u64, bytes: u64) -> Result<()> {
        let due = self.writeback.lock().unwrap_or_else(PoisonError::into_inner).note(to, bytes);
        if let Some(span) = due
            && let Err(error) = self.target.begin_writing(span.start, span.end - span.start)
        {
            // what fails here fails in the sync
            log::debug!("the kernel writes when it wants to - {error}");
        }
        let before = self.unsynced.fetch_add(bytes, Relaxed);
        if before / SYNC_EACH < (before + bytes) / SYNC_EACH {
            self.target.sync().map_err(|e| self.target_failed(e))?;
        }
        Ok(())
    }

    /// All was copied: it is made whole and durable, unless the fingerprints are not what was recorded. How many bytes could
    /// not be compared.
    pub(super) fn finish(&self, gate: &Gate) -> Result<u64> {
        let mut plan = self.plan();
        if let Some(base) = plan.base.take() {
            base.finish().map_err(|e| self.index_failed(e))?;
        }
        plan.pieces.check_whole().map_err(|failure| self.explain(failure))?;
        // from here on it is the outputs' storage that has to answer
        let _inside = gate.enter("sync")?;
        let end = plan.pieces.size().next_multiple_of(CLUSTER).min(self.size);
        self.place_zeroes(&mut plan, end, self.size)?;
        if let Layout::Qcow2(stream) = std::mem::replace(&mut plan.layout, Layout::Finished) {
            stream.finish().map_err(|e| self.table_failed(e))?;
            if let Some(file) = self.target.new_file() {
                let reserved = file.length().and_then(|length| reserve(file, length, self.preallocation));
                reserved.map_err(|e| self.target_failed(e))?;
            }
        }
        self.sync()?;
        Ok(plan.unknown)
    }

    /// Makes what was written durable.
    pub(super) fn sync(&self) -> Result<()> {
        self.target.sync().map_err(|e| self.target_failed(e))
    }

    /// The output's path.
    pub(super) fn output(&self) -> &str {
        &self.names[0]
    }
}

impl Plan {
    fn limit(&self) -> u64 {
        match self.layout {
            Layout::Raw | Layout::Finished => self.most,
            Layout::Qcow2(_) => self.most.min(TABLE - self.at % TABLE),
        }
    }
}

impl Layout {
    /// Where in the target, of a disk of `size` bytes, the piece goes.
    fn place(&mut self, piece: &Piece, size: u64) -> Result<u64, qcow2::Error> {
        match self {
            Layout::Raw | Layout::Finished => Ok(piece.at),
            // the last cluster may end within the output's disk
            Layout::Qcow2(stream) => {
                stream.place(piece.at, piece.length.next_multiple_of(CLUSTER).min(size - piece.at))
            }
        }
    }
}

/// Lets the new file share the blocks of a run of the volume as it was; false when not all could be.
fn share(new: &Apart, work: &Work, run: Range<u64>, old: Option<&mut Old>) -> bool {
    let Some(Old::Layers(old)) = old else { return false };
    let mut at = run.start;
    while at < run.end {
        let Ok((Some((file, offset)), length)) = old.place(work.piece.at + at, run.end - at) else { return false };
        if new.clone_from(work.to + at, file, offset, length).is_err() {
            return false;
        }
        at += length;
    }
    true
}

fn shares(images: &Images, target: &Apart) -> io::Result<bool> {
    (0..images.count()).try_fold(true, |all, image| Ok(all && qcow2::shares(images.file(image).0, target)?))
}

/// Takes the room of all of the file, where the file system can.
fn reserve(target: &Apart, length: u64, preallocation: Preallocation) -> io::Result<()> {
    if matches!(preallocation, Preallocation::Off | Preallocation::Metadata) {
        return Ok(());
    }
    target.with(|target| match rustix::fs::fallocate(target, FallocateFlags::empty(), 0, length) {
        Err(error) if lacking::is_unknown(error) => {
            lacking::tell(Level::Warn, target, "fallocate", error, "what is restored there has no room of its own");
            Ok(())
        }
        reserved => reserved.map_err(|e| called("fallocate")(e.into())),
    })
}

fn explain(step: &'static str, names: &[String], Failure { image, error }: Failure) -> Error {
    error.at(step, names.get(image).map_or("", String::as_str))
}

/// Bytes within the range of a piece that lie in a file.
fn data_in(parts: &[Part], range: &Range<u64>) -> u64 {
    let (mut start, mut bytes) = (0, 0);
    for part in parts {
        let end = start + part.length;
        if part.place != Place::Hole {
            bytes += end.min(range.end).saturating_sub(start.max(range.start));
        }
        start = end;
    }
    bytes
}

/// The bytes of some clusters of a piece.
fn bytes_of(work: &Work, start: usize, end: usize) -> Range<u64> {
    start as u64 * CLUSTER..(end as u64 * CLUSTER).min(work.piece.length)
}

/// The range of a buffer, which is no longer than a piece.
fn bounds(range: &Range<u64>) -> Range<usize> {
    let end = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
    end(range.start)..end(range.end)
}

/// The layers once more.
fn again(layers: &[Layer]) -> Option<Vec<Layer>> {
    let again = |layer: &Layer| match layer {
        Layer::Raw(file) => file.try_clone().map(Layer::Raw),
        Layer::Qcow2(file, data) => {
            Ok(Layer::Qcow2(file.try_clone()?, data.as_ref().map(File::try_clone).transpose()?))
        }
    };
    layers.iter().map(again).collect::<io::Result<_>>().ok()
}

/// The image that the first data from `within` on come from.
fn image_at(parts: &[Part], within: u64) -> usize {
    let mut end = 0;
    let after = parts.iter().filter(|part| {
        end += part.length;
        end > within
    });
    after.filter_map(|part| part.place.image()).next().unwrap_or(0)
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Seek;
    use std::path::Path;

    use tempfile::tempfile;

    use super::*;
    use crate::engine::rate::Rate;
    use crate::nas::folder::{FILE_MODE, Folder};
    use crate::point::fingerprints::{Index, index_image};

    const SIZE: u64 = 4 * CLUSTER;
    const OLD: u8 = 9;

    /// A disk with data and then none, onto a device that is full.
    pub(in super::super) fn device(compared: bool) -> Disk {
        let image = tempfile().unwrap();
        let mut stream = Stream::begin(image.try_clone().unwrap(), SIZE, None).unwrap();
        stream.data(0, &[7; 2 * CLUSTER as usize]).unwrap();
        stream.finish().unwrap();
        let index = tempfile().unwrap();
        let both = (image.try_clone().unwrap(), index.try_clone().unwrap());
        let (hash, _) = index_image(both.0, both.1, &mut |_, _| Ok(())).unwrap();
        (&index).rewind().unwrap();
        let index = Index::open(index, hash).unwrap();
        let target = tempfile().unwrap();
        target.write_at(&[OLD; SIZE as usize], 0).unwrap();
        Disk::begin(Parts {
            volume: "a".into(),
            names: vec!["output".into(), "image".into()],
            source: Pieces::open(vec![image]).unwrap(),
            base: compared.then(|| Base::begin(vec![index], SIZE).unwrap()),
            target: Target::File(qcow2::Direct::new(target.into())),
            format: OutputFormat::Raw,
            size: SIZE,
            preallocation: Preallocation::Off,
            device: true,
            old: Vec::new(),
        })
        .unwrap()
    }

    fn new_file(folder: &Path) -> Apart {
        Folder::open_root(folder).unwrap().create_file("new", FILE_MODE).unwrap()
    }

    fn content(disk: &Disk) -> Vec<u8> {
        let mut content = vec![0; SIZE as usize];
        disk.target.read(&mut content, 0).unwrap();
        content
    }

    #[test]
    fn what_is_read_of_a_disk_after_the_call_was_told_to_stop_is_not_written_to_a_device() {
        let limiter = Limiter::new(Rate::default());
        for compared in [false, true] {
            let disk = device(compared);
            let mut pieces = 0;
            while let Some(work) = disk.next(&Gate::default()).unwrap() {
                let gate = Arc::default();
                let mut room = Room::new(&gate);
                disk.enter(&mut room);
                // before the read it is still wanted
                let told_meanwhile = || {
                    gate.close();
                    Ok(())
                };
                let error = disk.perform(&work, &mut room, &limiter, told_meanwhile).unwrap_err();
                assert_eq!(error.code, Code::Cancelled, "{error}");
                assert!(!gate.is_used());
                pieces += 1;
            }
            assert!(pieces > 1 && content(&disk) == [OLD; SIZE as usize], "compared: {compared}, {pieces} pieces");
        }
    }

    #[test]
    fn no_table_is_written_once_the_call_was_told_to_stop() {
        let (image, size) = (tempfile().unwrap(), 2 * TABLE);
        let dir = tempfile::tempdir().unwrap();
        let target = new_file(dir.path());
        let mut stream = Stream::begin(image.try_clone().unwrap(), size, None).unwrap();
        for at in [0, TABLE] {
            stream.data(at, &[7; CLUSTER as usize]).unwrap();
        }
        stream.finish().unwrap();
        let disk = Disk::begin(Parts {
            volume: "a".into(),
            names: vec!["output".into(), "image".into()],
            source: Pieces::open(vec![image]).unwrap(),
            base: None,
            target: Target::File(qcow2::Direct::new(target.clone().into())),
            format: OutputFormat::Qcow2,
            size,
            preallocation: Preallocation::Off,
            device: false,
            old: Vec::new(),
        })
        .unwrap();
        let (gate, length) = (Gate::default(), target.length().unwrap());
        assert_eq!(disk.next(&gate).unwrap().unwrap().piece.at, 0);
        gate.close();
        assert_eq!(disk.next(&gate).unwrap_err().code, Code::Cancelled);
        assert!(target.length().unwrap() == length && !gate.is_used());
    }

    #[test]
    fn a_device_becomes_what_was_backed_up() {
        for compared in [false, true] {
            let (disk, gate, limiter) = (device(compared), Arc::default(), Limiter::new(Rate::default()));
            let mut room = Room::new(&gate);
            disk.enter(&mut room);
            while let Some(work) = disk.next(&gate).unwrap() {
                disk.perform(&work, &mut room, &limiter, || Ok(())).unwrap();
            }
            assert_eq!(disk.finish(&gate).unwrap(), 0);
            let mut wanted = vec![7; 2 * CLUSTER as usize];
            wanted.resize(SIZE as usize, 0);
            assert!(content(&disk) == wanted, "compared: {compared}");
        }
    }

    #[test]
    fn a_disk_whose_blocks_can_t_be_shared_says_nothing_of_the_next_one() {
        let (disk, mut room) = (device(false), Room { refused: true, ..Room::default() });
        disk.enter(&mut room);
        assert!(!room.refused);
    }

    /// As it is while it is made durable.
    pub(in super::super) fn is_being_finished(disk: &Disk) -> impl Sized {
        disk.plan()
    }

    /// Where blocks could be shared at the begin, and no more since.
    #[test]
    fn nobody_holds_more_than_a_piece_in_memory() {
        let (source, dir) = (tempfile::tempfile_in("/dev/shm").unwrap(), tempfile::tempdir_in("/var/tmp").unwrap());
        let target = new_file(dir.path());
        let size = 64 * PIECE;
        let mut stream = Stream::begin(source.try_clone().unwrap(), size, None).unwrap();
        for at in [0, size / 2 + CLUSTER] {
            stream.data(at, &vec![7; (size / 2 - CLUSTER) as usize]).unwrap();
        }
        stream.finish().unwrap();
        let mut disk = Disk::begin(Parts {
            volume: "a".into(),
            names: vec!["output".into(), "image".into()],
            source: Pieces::open(vec![source]).unwrap(),
            base: None,
            target: Target::File(qcow2::Direct::new(target.into())),
            format: OutputFormat::Raw,
            size,
            preallocation: Preallocation::Off,
            device: false,
            old: Vec::new(),
        })
        .unwrap();
        disk.shares = true;
        disk.plan().most = SHARED_PIECE;
        let (gate, limiter) = (Arc::default(), Limiter::new(Rate::default()));
        let mut room = Room::new(&gate);
        disk.enter(&mut room);
        while let Some(work) = disk.next(&gate).unwrap() {
            disk.perform(&work, &mut room, &limiter, || Ok(())).unwrap();
            assert!(room.buffer.len() as u64 <= PIECE, "{} bytes", room.buffer.len());
        }
    }
}
