//! A copier: what one of the threads that copy has for itself, and how it copies one piece.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::clusters::runs;
use super::disk::{PIECE, RestoredDisk};
use super::gate::Gate;
use super::old::OldVolume;
use super::paths::STEP;
use super::plan::PlacedPiece;
use super::target::OutputTarget;
use crate::apart::{Apart, Descriptor};
use crate::engine::rate::Limiter;
use crate::error::Result;
use crate::point::fingerprints::{Content, Expected};
use crate::qcow2::{CLUSTER, ImageFailure, Inflated, Layer, Part, Place, Route, Step, Storage as _, View, Zeroing};

/// The state of one thread that copies.
#[derive(Debug, Default)]
pub(super) struct Copier<'a> {
    /// Memory for a piece.
    buffer: &'a mut [u8],
    inflated: Inflated,
    /// For each image of the present disk, how its data reach the output.
    routes: Vec<Route>,
    zeroing: Zeroing,
    /// The volume that is replaced, if data may be taken from it.
    old: Option<OldVolume>,
    /// Its file system has refused to share its blocks.
    refused: bool,
    /// Each write passes the gate.
    gate: Arc<Gate>,
}

/// Where a cluster is, on its way to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cluster {
    /// To be read from the NAS.
    Missing,
    /// In the buffer, and as the fingerprint says.
    Buffered,
    /// To be made zero.
    Zero,
    /// In the target already.
    Placed,
}

impl<'a> Copier<'a> {
    /// One that has `buffer` for its pieces, `PIECE` bytes.
    pub(super) fn new(gate: &Arc<Gate>, buffer: &'a mut [u8]) -> Copier<'a> {
        Copier { buffer, gate: gate.clone(), ..Copier::default() }
    }

    /// Prepares for the pieces of another disk.
    pub(super) fn begin_disk(&mut self, disk: &RestoredDisk) {
        self.routes = (0..disk.images.count()).map(|image| Route::new(disk.images.file(image).1)).collect();
        self.inflated = Inflated::default();
        self.zeroing = Zeroing::default();
        self.refused = false;
        // an error means that the restore was told to stop: nothing is written any more
        let _inside = self.gate.enter(STEP).ok();
        self.old = match &disk.target {
            OutputTarget::Image(image) => disk.compared.then(|| OldVolume::Image(image.clone())),
            OutputTarget::File(_) if disk.old.is_empty() => None,
            OutputTarget::File(_) => {
                reopen(&disk.old).and_then(|old| disk.paths.readable_old(View::open(old))).map(OldVolume::Layers)
            }
        };
    }

    /// Copies one piece. Where that may take long, `go_on` is asked whether to go on.
    pub(super) fn copy_piece(
        &mut self,
        disk: &RestoredDisk,
        work: &PlacedPiece,
        limiter: &Limiter,
        go_on: impl Fn() -> Result<()>,
    ) -> Result<()> {
        match &work.states {
            None if disk.device && work.piece.parts.is_empty() => {
                self.zero(disk, work.to, work.piece.length, &go_on)?;
            }
            Some(states) => self.copy_compared(disk, work, states, limiter, go_on)?,
            None => self.copy_uncompared(disk, work, limiter, go_on)?,
        }
        disk.done.guest.fetch_add(work.piece.length, Relaxed);
        Ok(())
    }

    /// Copies a piece with fingerprints: takes from the replaced volume the clusters that are right there, reads the others from the NAS,
    /// and writes them if they are as the fingerprints say.
    fn copy_compared(
        &mut self,
        disk: &RestoredDisk,
        work: &PlacedPiece,
        states: &[Expected],
        limiter: &Limiter,
        go_on: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let mut clusters = self.take_from_old(disk, work, states)?;
        for (start, end) in runs(&clusters, |cluster| *cluster == Cluster::Missing) {
            let range = bytes_of(work, start, end);
            let bytes = data_in(&work.piece.parts, &range);
            limiter.wait(bytes, &go_on)?;
            let buffer = &mut self.buffer[indexes(&range)];
            let read = disk.images.read(&work.piece, range.clone(), buffer, &mut self.inflated);
            read.map_err(|failure| disk.paths.image_failed(failure))?;
            disk.done.read.fetch_add(bytes, Relaxed);
            for (i, content) in (start..).zip(buffer.chunks(CLUSTER as usize).map(Content::of)) {
                clusters[i] = check_read(disk, work, i, states[i], content)?;
            }
        }
        for (start, end) in runs(&clusters, |cluster| *cluster == Cluster::Buffered) {
            let run = bytes_of(work, start, end);
            disk.write(&self.buffer[indexes(&run)], work.to + run.start, &self.gate)?;
        }
        for (start, end) in runs(&clusters, |cluster| *cluster == Cluster::Zero) {
            let run = bytes_of(work, start, end);
            self.zero(disk, work.to + run.start, run.end - run.start, || Ok(()))?;
        }
        Ok(())
    }

    /// Finds the clusters that the replaced volume holds as the fingerprints say, and takes them from there.
    fn take_from_old(&mut self, disk: &RestoredDisk, work: &PlacedPiece, states: &[Expected]) -> Result<Vec<Cluster>> {
        let (mut clusters, at) = (vec![Cluster::Missing; states.len()], work.piece.at);
        let Some(old) = &mut self.old else { return Ok(clusters) };
        // these reads are answered by the outputs' storage, not by the NAS
        let gate = self.gate.clone();
        let _inside = gate.enter(STEP)?;
        let length = old.size().saturating_sub(at).min(work.piece.length) / CLUSTER * CLUSTER;
        let all = 0..length;
        if disk.paths.readable_old(old.read(at, &mut self.buffer[indexes(&all)])).is_none() {
            self.old = None;
            return Ok(clusters);
        }
        let contents = self.buffer[indexes(&all)].chunks(CLUSTER as usize).map(Content::of);
        for ((cluster, state), content) in clusters.iter_mut().zip(states).zip(contents) {
            *cluster = match content {
                content if !state.is(content) => Cluster::Missing,
                // a new file reads as zeroes
                Content::Zero => Cluster::Placed,
                Content::Hash(_) => Cluster::Buffered,
            };
        }
        for (start, end) in runs(&clusters, |cluster| *cluster == Cluster::Buffered) {
            match disk.target.new_file() {
                None => clusters[start..end].fill(Cluster::Placed),
                Some(file) => self.share_run(disk, file, work, start, states, &mut clusters[start..end])?,
            }
            let kept = clusters[start..end].iter().filter(|cluster| **cluster != Cluster::Missing).count() as u64;
            disk.done.kept.fetch_add(kept * CLUSTER, Relaxed);
        }
        Ok(clusters)
    }

    /// Lets the new file share a run of blocks of the replaced volume, where the file system can.
    fn share_run(
        &mut self,
        disk: &RestoredDisk,
        file: &Apart,
        work: &PlacedPiece,
        first: usize,
        states: &[Expected],
        clusters: &mut [Cluster],
    ) -> Result<()> {
        let run = bytes_of(work, first, first + clusters.len());
        self.refused = self.refused || !share(file, work, run.clone(), self.old.as_mut());
        if self.refused {
            return Ok(());
        }
        // somebody may have written to the volume before its blocks were shared, so the shared blocks are compared again
        let buffer = &mut self.buffer[indexes(&run)];
        let read = file.with(|file| std::os::unix::fs::FileExt::read_exact_at(file, buffer, work.to + run.start));
        read.map_err(|e| disk.paths.output_failed(e))?;
        for ((cluster, state), bytes) in clusters.iter_mut().zip(&states[first..]).zip(buffer.chunks(CLUSTER as usize))
        {
            *cluster = if state.is(Content::of(bytes)) { Cluster::Placed } else { Cluster::Missing };
        }
        Ok(())
    }

    /// Copies a piece without fingerprints by the cheapest way there is.
    fn copy_uncompared(
        &mut self,
        disk: &RestoredDisk,
        work: &PlacedPiece,
        limiter: &Limiter,
        go_on: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let mut to = work.to;
        for part in &work.piece.parts {
            let mut at = match (part.place, disk.target.new_file()) {
                (Place::Hole, _) => {
                    self.zero(disk, to, part.length, &go_on)?;
                    part.length
                }
                (Place::Data(image, offset), Some(file)) if !self.routes[image].is_read_write() => {
                    if !disk.shares {
                        limiter.wait(part.length, &go_on)?;
                    }
                    self.move_data(disk, (image, offset), (file, to), part.length, &go_on)?
                }
                (Place::Data(..) | Place::Packed(_), _) => {
                    limiter.wait(part.length, &go_on)?;
                    0
                }
            };
            while at < part.length {
                go_on()?;
                let length = PIECE.min(part.length - at);
                self.read_and_write(disk, part.place.skip(at), to + at, length)?;
                at += length;
            }
            to += part.length;
        }
        Ok(())
    }

    /// Reads a part from the NAS, then writes it. In between the gate is asked whether the restore goes on; and by the gate it is known
    /// whether the NAS or the outputs' storage hangs.
    fn read_and_write(&mut self, disk: &RestoredDisk, place: Place, to: u64, length: u64) -> Result<()> {
        let buffer = &mut self.buffer[indexes(&(0..length))];
        let read = disk.images.read_place(place, buffer, &mut self.inflated);
        read.map_err(|failure| disk.paths.image_failed(failure))?;
        if disk.device || buffer.iter().any(|byte| *byte != 0) {
            disk.write(buffer, to, &self.gate)?;
        }
        disk.done.read.fetch_add(length, Relaxed);
        Ok(())
    }

    /// Lets the kernel move data from an image to the new file, as far as it can. Returns how many bytes it has moved.
    fn move_data(
        &mut self,
        disk: &RestoredDisk,
        (image, offset): (usize, u64),
        (new, to): (&Apart, u64),
        length: u64,
        go_on: impl Fn() -> Result<()>,
    ) -> Result<u64> {
        let (source, mut moved) = (disk.images.file(image).0, 0);
        while moved < length {
            go_on()?;
            let from = (source, offset + moved);
            let _moved = self.gate.move_data();
            let step = self.routes[image].step_by_kernel(new, to + moved, from, length - moved, true);
            let step = step.map_err(|(of_source, error)| {
                if of_source {
                    disk.paths.image_failed(ImageFailure { image: image + 1, error: error.into() })
                } else {
                    disk.paths.output_failed(error)
                }
            })?;
            let Step::Moved(step) = step else { break };
            disk.done.cloned.fetch_add(step.cloned, Relaxed);
            disk.done.read.fetch_add(step.copied, Relaxed);
            disk.note_written(to + moved, step.copied)?;
            moved += step.cloned + step.copied;
        }
        Ok(moved)
    }

    /// Makes a range of a device zero; a new file reads as zeroes already.
    fn zero(&mut self, disk: &RestoredDisk, mut at: u64, length: u64, go_on: impl Fn() -> Result<()>) -> Result<()> {
        let end = if disk.device { at + length } else { at };
        while at < end {
            go_on()?;
            let _inside = disk.enter_gate(&self.gate)?;
            let made = disk.target.zero(&mut self.zeroing, at, end - at);
            let (zeroed, written) = made.map_err(|e| disk.paths.output_failed(e))?;
            if written {
                disk.note_written(at, zeroed)?;
            }
            at += zeroed;
        }
        Ok(())
    }
}

/// Compares the content that was read as the `i`-th cluster with its fingerprint.
fn check_read(disk: &RestoredDisk, work: &PlacedPiece, i: usize, state: Expected, content: Content) -> Result<Cluster> {
    if state != Expected::Unknown && !state.is(content) {
        let within = i as u64 * CLUSTER;
        return Err(disk.paths.data_differ(work.piece.at + within, image_at(&work.piece.parts, within)));
    }
    Ok(if content == Content::Zero { Cluster::Zero } else { Cluster::Buffered })
}

/// Lets the new file share a run of blocks of the replaced volume; false if not all blocks can be shared.
fn share(new: &Apart, work: &PlacedPiece, run: Range<u64>, old: Option<&mut OldVolume>) -> bool {
    let Some(OldVolume::Layers(old)) = old else { return false };
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

/// Bytes of the range of a piece that are stored in an image, and not holes.
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

/// The byte range of the clusters `start..end` of a piece.
fn bytes_of(work: &PlacedPiece, start: usize, end: usize) -> Range<u64> {
    start as u64 * CLUSTER..(end as u64 * CLUSTER).min(work.piece.length)
}

/// A byte range as the range of a buffer, which is no longer than a piece.
fn indexes(range: &Range<u64>) -> Range<usize> {
    let end = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
    end(range.start)..end(range.end)
}

/// Opens the layers once more: each thread reads by descriptors of its own.
fn reopen(layers: &[Layer]) -> Option<Vec<Layer>> {
    let again = |layer: &Layer| match layer {
        Layer::Raw(file) => file.try_clone().map(Layer::Raw),
        Layer::Qcow2(file, data) => {
            Ok(Layer::Qcow2(file.try_clone()?, data.as_ref().map(File::try_clone).transpose()?))
        }
    };
    layers.iter().map(again).collect::<io::Result<_>>().ok()
}

/// The position in the chain of the image that holds the first data from the offset `within` on.
fn image_at(parts: &[Part], within: u64) -> usize {
    let mut end = 0;
    let after = parts.iter().filter(|part| {
        end += part.length;
        end > within
    });
    after.filter_map(|part| part.place.image()).next().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::disk::tests::{device, new_file};
    use super::super::disk::{DiskParts, SHARED_PIECE};
    use super::super::request::{OutputFormat, Preallocation};
    use super::*;
    use crate::engine::rate::Rate;
    use crate::qcow2::{self, Pieces, Stream};

    #[test]
    fn a_disk_whose_blocks_can_t_be_shared_says_nothing_of_the_next_one() {
        let (disk, mut copier) = (device(false), Copier { refused: true, ..Copier::default() });
        copier.begin_disk(&disk);
        assert!(!copier.refused);
    }

    /// As where blocks could be shared when the restore began, and no longer.
    #[test]
    fn memory_for_a_piece_is_enough_for_each() {
        let (source, dir) = (tempfile::tempfile_in("/dev/shm").unwrap(), tempfile::tempdir_in("/var/tmp").unwrap());
        let target = new_file(dir.path());
        let size = 64 * PIECE;
        let mut stream = Stream::begin(source.try_clone().unwrap(), size, None).unwrap();
        for at in [0, size / 2 + CLUSTER] {
            stream.data(at, &vec![7; (size / 2 - CLUSTER) as usize]).unwrap();
        }
        stream.finish().unwrap();
        let mut disk = RestoredDisk::begin(DiskParts {
            volume: "a".into(),
            names: vec!["output".into(), "image".into()],
            source: Pieces::open(vec![source]).unwrap(),
            base: None,
            target: OutputTarget::File(qcow2::Direct::new(target.into())),
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
        let mut buffer = vec![0; PIECE as usize];
        let mut copier = Copier::new(&gate, &mut buffer);
        copier.begin_disk(&disk);
        while let Some(work) = disk.next(&gate).unwrap() {
            copier.copy_piece(&disk, &work, &limiter, || Ok(())).unwrap();
        }
    }
}
