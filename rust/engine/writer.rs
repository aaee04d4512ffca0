//! The side of a pull that writes to the NAS, and may be given up there.

use std::fs::File;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender};

use super::pull::Shared;
use crate::error::{Code, Error, Result};
use crate::qcow2::Stream;

/// Room for one request's bytes. Each piece on its way has one, so that they are bounded.
pub(super) type Slot = Box<[u8]>;

/// What the reader says of the disk that it is at, in order.
#[derive(Debug)]
pub(super) enum Piece {
    /// The first `length` bytes of the slot, at `offset`.
    Data { offset: u64, length: usize, slot: Slot },
    /// Nothing but zeroes.
    Zeroes { offset: u64, length: u64, slot: Slot },
    /// The disk ends, the next one begins.
    End,
}

/// The file that one disk's data goes to.
#[derive(Debug)]
pub struct Target {
    /// The file, whose present content goes.
    pub file: File,
    /// Its path, for messages.
    pub path: PathBuf,
    /// The disk's name in the domain.
    pub disk: String,
    /// Size that the guest sees, in bytes.
    pub size: u64,
    /// The name, relative to the file's folder, of the qcow2 that an incremental stands on.
    pub backing: Option<String>,
}

/// Writes all that comes, giving slots back, until the last disk has ended.
pub(super) fn write(
    targets: Vec<Target>,
    pieces: &Receiver<Piece>,
    free: &Sender<Slot>,
    shared: &Shared,
) -> Result<()> {
    for target in targets {
        write_disk(&target, pieces, free, shared).map_err(|error| error.on_disk(&target.disk))?;
    }
    Ok(())
}

fn write_disk(target: &Target, pieces: &Receiver<Piece>, free: &Sender<Slot>, shared: &Shared) -> Result<()> {
    const STEP: &str = "write the target";
    let failed = |error: crate::qcow2::Error| error.at(STEP, &target.path);
    let file = target.file.try_clone().map_err(|e| Error::io(STEP, &target.path, e))?;
    let mut stream = Stream::begin(file, target.size, target.backing.as_deref()).map_err(failed)?;
    loop {
        let piece = pieces.recv().map_err(|_| Error::new(Code::Cancelled, STEP, "the reader has ended"))?;
        shared.go_on()?;
        let slot = match piece {
            Piece::Data { offset, length, slot } => {
                stream.data(offset, &slot[..length]).map_err(failed)?;
                shared.wrote(length as u64);
                slot
            }
            Piece::Zeroes { offset, length, slot } => {
                stream.zeroes(offset, length).map_err(failed)?;
                slot
            }
            Piece::End => break,
        };
        // A reader that has ended needs it no more.
        let _ = free.send(slot);
    }
    stream.finish().map(drop).map_err(failed)
}
