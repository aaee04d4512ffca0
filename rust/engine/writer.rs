//! The side of a copy that writes to the NAS, and may be given up there.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use super::job::TICK;
use super::pull::Shared;
use crate::error::{Code, Error, Result};
use crate::nas::deadline::{self, Background};
use crate::nas::session::Session;
use crate::point::fingerprints::{self, Content, Fingerprints, Recorder};
use crate::qcow2::{CLUSTER, Rest, Stream};

const STEP: &str = "write the target";

/// Bytes of one piece of data at most.
pub(super) const REQUEST: usize = 1 << 20;
/// Requests' worth of memory for what is read and not yet written.
const SLOTS: usize = 8;
/// How long the writer may take to stop before it is given up.
pub(super) const STOP: Duration = Duration::from_millis(500);
/// What is left behind of a writer that does not come back.
const HANGING: &str = "a write that the NAS does not answer";

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
    /// The disk's name in the domain, or its path.
    pub disk: String,
    /// Size that the guest sees, in bytes.
    pub size: u64,
    /// The name, relative to the file's folder, of the qcow2 that an incremental stands on.
    pub backing: Option<String>,
    /// Where the fingerprints go, which is empty.
    pub index: File,
    /// The name of that file, which lies beside the other.
    pub index_name: String,
}

impl Target {
    fn index_failed(&self, error: std::io::Error) -> Error {
        fingerprints::failed("write the fingerprints", self.path.with_file_name(&self.index_name), error)
    }
}

/// What was recorded of each disk.
pub type Written = Vec<Fingerprints>;

/// A writer on its thread, and what leads to it.
pub(super) struct Writer {
    thread: Background<Written>,
}

/// The reader's ends: what it says, and the slots that come back to it.
pub(super) type Ends = (Sender<Piece>, Receiver<Slot>);

impl Writer {
    /// Starts to write into `targets`, files of the repository of `session`; calls `ended` when that is over.
    pub(super) fn start(
        targets: Vec<Target>,
        session: Session,
        shared: &Arc<Shared>,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<(Writer, Ends)> {
        let (pieces, written) = mpsc::channel();
        let (free, slots) = mpsc::channel();
        for _ in 0..SLOTS {
            // Can't fail: the other end is right here.
            let _ = free.send(vec![0; REQUEST].into_boxed_slice());
        }
        let ours = shared.clone();
        let work = move || {
            // Its files are open until it ends: only then may the repository be unmounted.
            let _session = session;
            write(targets, &written, &free, &ours)
        };
        let thread = deadline::start("write the targets", work, ended)?;
        Ok((Writer { thread }, (pieces, slots)))
    }

    /// The result, once there is one and unless it was taken.
    pub(super) fn result(&self) -> Option<Result<Written>> {
        self.thread.wait(Duration::ZERO)
    }

    /// Stops the writer because of `error`, or leaves it behind.
    pub(super) fn give_up(&self, shared: &Shared, error: Error) -> Error {
        shared.stop();
        let hangs = self.thread.wait(STOP).is_none() && !self.thread.has_ended();
        match error.code {
            _ if !hangs => error,
            Code::Timeout => Error { code: Code::NasUnresponsive, ..error }.with_leftover(HANGING),
            _ => error.with_leftover(HANGING),
        }
    }
}

/// Writes all that comes, giving slots back, until the last disk has ended.
fn write(targets: Vec<Target>, pieces: &Receiver<Piece>, free: &Sender<Slot>, shared: &Shared) -> Result<Written> {
    let write = |target: Target| write_disk(&target, pieces, free, shared).map_err(|error| error.on_disk(&target.disk));
    targets.into_iter().map(write).collect()
}

fn write_disk(target: &Target, pieces: &Receiver<Piece>, free: &Sender<Slot>, shared: &Shared) -> Result<Fingerprints> {
    let failed = |error: crate::qcow2::Error| error.at(STEP, &target.path);
    let file = target.file.try_clone().map_err(|e| Error::io(STEP, &target.path, e))?;
    let mut stream = Stream::begin(file, target.size, target.backing.as_deref()).map_err(failed)?;
    let mut recorder = Recorder::begin(&target.index, target.size).map_err(|e| target.index_failed(e))?;
    loop {
        let piece = next(pieces, shared)?;
        let slot = match piece {
            Piece::Data { offset, length, slot } => {
                stream.data(offset, &slot[..length]).map_err(failed)?;
                record(target, &mut recorder, offset, &slot[..length]).map_err(|e| target.index_failed(e))?;
                shared.wrote(length as u64);
                slot
            }
            Piece::Zeroes { offset, length, slot } => {
                stream.zeroes(offset, length).map_err(failed)?;
                if target.backing.is_some() {
                    recorder.add(offset, Content::Zero, length).map_err(|e| target.index_failed(e))?;
                }
                slot
            }
            Piece::End => break,
        };
        // A reader that has ended needs it no more.
        let _ = free.send(slot);
    }
    let file = stream.finish().map_err(failed)?;
    let (_, hash) = recorder.finish().map_err(|e| target.index_failed(e))?;
    let rest = Rest::of(file).map_err(failed)?.into();
    Ok(Fingerprints { file: target.index_name.clone(), hash, rest })
}

/// Records the clusters that the image holds itself; zeroes are none of them where nothing is below.
fn record(target: &Target, recorder: &mut Recorder<&File>, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
    let mut at = offset;
    for cluster in bytes.chunks(CLUSTER as usize) {
        let (content, length) = (Content::of(cluster), cluster.len() as u64);
        if content != Content::Zero || target.backing.is_some() {
            recorder.add(at, content, length)?;
        }
        at += length;
    }
    Ok(())
}

/// The next piece. A reader that hangs sends none and does not end either.
fn next(pieces: &Receiver<Piece>, shared: &Shared) -> Result<Piece> {
    loop {
        let piece = pieces.recv_timeout(TICK);
        shared.go_on()?;
        match piece {
            Ok(piece) => return Ok(piece),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::new(Code::Cancelled, STEP, "the reader has ended"));
            }
        }
    }
}
