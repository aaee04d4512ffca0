//! The plan of a disk's copy: it hands out the pieces in order, each once, to whichever thread asks.

use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::gate::Gate;
use super::paths::{DiskPaths, STEP};
use super::request::Preallocation;
use crate::apart::Apart;
use crate::error::Result;
use crate::point::fingerprints::{Base, Expected};
use crate::qcow2::{self, CLUSTER, Part, Piece, Pieces, Place, Stream};

/// Bytes of the guest's disk that one L2 table of an output maps.
pub(super) const TABLE: u64 = CLUSTER / 8 * CLUSTER;

/// How far the pieces of a disk have been handed out.
#[derive(Debug)]
pub(super) struct CopyPlan {
    pub(super) pieces: Pieces,
    pub(super) base: Option<Base<File>>,
    pub(super) layout: OutputLayout,
    pub(super) at: u64,
    /// Bytes of the longest piece.
    pub(super) most: u64,
    /// From the end of the guest's disk to the end of the device, which becomes zero; empty for a file.
    pub(super) tail: Range<u64>,
    /// Bytes of which no fingerprint is known.
    pub(super) unknown: u64,
    /// Size of the output's disk, in bytes.
    pub(super) size: u64,
    pub(super) preallocation: Preallocation,
    /// The target is overwritten in place, and is no new file that reads as zeroes.
    pub(super) device: bool,
}

#[derive(Debug)]
pub(super) enum OutputLayout {
    Raw,
    Qcow2(Box<Stream<Apart>>),
    Finished,
}

/// A piece to copy, and where it goes.
#[derive(Debug)]
pub(super) struct PlacedPiece {
    pub(super) piece: Piece,
    /// Offset in the target.
    pub(super) to: u64,
    /// What each cluster has to be by the fingerprints; `None` if the data are not compared.
    pub(super) states: Option<Vec<Expected>>,
}

impl CopyPlan {
    /// The next piece; `None` once all were handed out.
    pub(super) fn next(&mut self, paths: &DiskPaths, gate: &Gate, done: &AtomicU64) -> Result<Option<PlacedPiece>> {
        while self.at < self.pieces.size() {
            let (at, limit) = (self.at, self.limit());
            let piece = self.pieces.next(at, limit).map_err(|failure| paths.image_failed(failure))?;
            self.at += piece.length;
            if piece.parts.is_empty() {
                self.check_zeroes(paths, &piece)?;
                let inside = gate.enter(STEP)?;
                self.place_zeroes(paths, piece.at, piece.at + piece.length)?;
                drop(inside);
                if self.device {
                    return Ok(Some(PlacedPiece { to: piece.at, piece, states: None }));
                }
                done.fetch_add(piece.length, Relaxed);
                continue;
            }
            let states = self.states(paths, &piece)?;
            // placing a piece may write a table of the output that is full
            let _inside = gate.enter(STEP)?;
            let to = self.layout.place(&piece, self.size).map_err(|e| paths.table_failed(e))?;
            return Ok(Some(PlacedPiece { piece, to, states }));
        }
        let tail = std::mem::replace(&mut self.tail, 0..0);
        let behind = Piece {
            at: tail.start,
            length: 0,
            parts: vec![Part { length: tail.end - tail.start, place: Place::Hole }],
        };
        Ok((!tail.is_empty()).then_some(PlacedPiece { to: tail.start, piece: behind, states: None }))
    }

    /// An error if the fingerprints say that there were data where the images read as zeroes.
    fn check_zeroes(&mut self, paths: &DiskPaths, piece: &Piece) -> Result<()> {
        let (mut at, end) = (piece.at, piece.at + piece.length);
        while at < end {
            let Some((state, length)) = self.state(paths, at..end)? else { break };
            match state {
                Expected::Zero => {}
                Expected::Unknown => self.unknown += length,
                Expected::Hash(_) => return Err(paths.data_differ(at, 0)),
            }
            at += length;
        }
        Ok(())
    }

    /// Gives zeroes a place in the output if its preallocation wants one for each cluster.
    pub(super) fn place_zeroes(&mut self, paths: &DiskPaths, from: u64, to: u64) -> Result<()> {
        let OutputLayout::Qcow2(stream) = &mut self.layout else { return Ok(()) };
        let to = to.next_multiple_of(CLUSTER).min(self.size);
        let mut at = if self.preallocation == Preallocation::Off { to } else { from };
        while at < to {
            let length = (to - at).min(TABLE - at % TABLE);
            stream.place(at, length).map_err(|e| paths.table_failed(e))?;
            at += length;
        }
        Ok(())
    }

    fn states(&mut self, paths: &DiskPaths, piece: &Piece) -> Result<Option<Vec<Expected>>> {
        let (mut at, end, mut states) = (piece.at, piece.at + piece.length, Vec::new());
        while at < end {
            let Some((state, length)) = self.state(paths, at..end)? else { return Ok(None) };
            if state == Expected::Unknown {
                self.unknown += length;
            }
            (at..at + length).step_by(CLUSTER as usize).for_each(|_| states.push(state));
            at += length;
        }
        Ok(Some(states))
    }

    fn state(&mut self, paths: &DiskPaths, range: Range<u64>) -> Result<Option<(Expected, u64)>> {
        let told = self.base.as_mut().map(|base| base.next(range)).transpose();
        told.map_err(|e| paths.index_failed(e))
    }

    fn limit(&self) -> u64 {
        match self.layout {
            OutputLayout::Raw | OutputLayout::Finished => self.most,
            OutputLayout::Qcow2(_) => self.most.min(TABLE - self.at % TABLE),
        }
    }
}

impl OutputLayout {
    /// Chooses the piece's offset in the target, which holds a disk of `size` bytes.
    fn place(&mut self, piece: &Piece, size: u64) -> Result<u64, qcow2::Error> {
        match self {
            OutputLayout::Raw | OutputLayout::Finished => Ok(piece.at),
            // the last cluster may end within the output's disk
            OutputLayout::Qcow2(stream) => {
                stream.place(piece.at, piece.length.next_multiple_of(CLUSTER).min(size - piece.at))
            }
        }
    }
}
