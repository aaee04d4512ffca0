//! The copy of a stopped guest's disks: a reader reads the images on the guest's own storage, or an export, a writer writes to
//! the NAS. Each has its own thread, so that the caller's thread never hangs with one of them.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::job::COPY;
use super::rate::{Limiter, Rate};
use super::reader::{self, Changes, DiskExport, Throttle};
use super::shared::CopyState;
use super::socket::Socket;
use super::writer::{CopyTarget, Piece, REQUEST, Slot, Writer, WriterEnds, Written, send, with_memory};
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::nas::session::Session;
use crate::qcow2::{self, Buffer, CLUSTER, Dirty, Images, Inflated, View};
use crate::work::background;
use crate::work::background::Background;
use crate::work::job::Reporter;
use crate::work::side_by_side::begin_threads;

/// What an error says of a reader that was left behind.
const HANGING: &str = "a read that the disk's own storage does not answer, and which holds the disk's lock";

/// Requests to a disk's own storage that are under way at a time, fewer than there are slots. More are no quicker.
const READS: usize = 8;

/// One disk of a stopped guest.
#[derive(Debug)]
pub struct OfflineDisk {
    /// The file that the disk's data goes to.
    pub target: CopyTarget,
    /// What the disk's data is read from.
    pub origin: Origin,
}

/// What a disk's data is read from.
#[derive(Debug)]
pub enum Origin {
    /// The disk's images, and, for an incremental, what changed since the parent.
    Images(Box<View>, Option<Dirty>),
    /// The export behind this socket that has the disk's name, and what of it is copied.
    Export(Arc<Socket>, Changes),
}

/// Copies the disks and returns the fingerprints of each. `guard` keeps others from writing to the disks; the reader drops it
/// when it has read the last. The targets are complete, not synced. The error says if a hanging thread was left behind.
pub fn copy(
    disks: Vec<OfflineDisk>,
    rate: Rate,
    session: Session,
    guard: impl Send + 'static,
    job: &mut Reporter<'_>,
    deadline: Instant,
) -> Result<Written> {
    let shared = Arc::new(CopyState::default());
    let (ended, ends) = mpsc::channel();
    let (mut sources, mut targets) = (Vec::new(), Vec::new());
    for OfflineDisk { target, origin } in disks {
        sources.push((target.disk.clone(), target.size, origin));
        targets.push(target);
    }
    let tell = |sender: Sender<()>| {
        move || {
            // fails when nobody waits any more
            let _ = sender.send(());
        }
    };
    let (writer, writer_ends) = Writer::start(targets, session, &shared, tell(ended.clone()))?;
    let ours = shared.clone();
    let work = move || {
        let _guard = guard;
        read(sources, writer_ends, Throttle::new(std::iter::empty(), rate), &ours)
    };
    let reader = background::start_for_the_guest("read the disks", work, tell(ended))?;
    let copied = follow(&reader, &writer, &ends, &shared, job, deadline);
    copied.map_err(|error| note_left_reader(&reader, writer.give_up(&shared, error)))
}

/// The number of bytes that a copy of `disk` would read: all that hold data, or of an incremental those that changed.
pub fn count_bytes_to_read(disk: &str, size: u64, origin: Origin) -> Result<u64> {
    let shared = CopyState::default();
    DiskReader::open((disk.to_owned(), size, origin), &shared)?.count(&shared)
}

/// Waits until the reader and the writer have ended, and reports progress meanwhile.
fn follow(
    reader: &Background<()>,
    writer: &Writer,
    ends: &Receiver<()>,
    shared: &CopyState,
    job: &mut Reporter<'_>,
    deadline: Instant,
) -> Result<Written> {
    let (mut read, mut written) = (None, None);
    loop {
        read = read.or_else(|| reader.wait(Duration::ZERO));
        written = written.or_else(|| writer.result());
        // a thread that ends because the other one did fails with CANCELLED: the other's error tells the reason
        match (&read, &written) {
            (Some(Ok(())), Some(Ok(written))) => {
                shared.report(job)?;
                return Ok(written.clone());
            }
            (Some(Err(error)), _) | (_, Some(Err(error))) if error.code != Code::Cancelled => return Err(error.clone()),
            _ => {}
        }
        shared.report(job)?;
        if Instant::now() >= deadline {
            return Err(Error::new(Code::Timeout, COPY, "not done within waitSeconds"));
        }
        // wakes up when one of the threads ends
        let _ = ends.recv_timeout(limits::CALLER_LOOK);
    }
}

/// Adds to `error` that the reader, which has been told to stop, is left behind, if it does not end.
fn note_left_reader(reader: &Background<()>, error: Error) -> Error {
    let hangs = reader.wait(limits::COPY_STOP).is_none() && !reader.has_ended();
    if hangs { error.with_leftover(HANGING) } else { error }
}

/// A disk's name, its size, and what it is read from.
type DiskOrigin = (String, u64, Origin);

/// Reads the disks one after the other and sends their pieces to the writer.
fn read(disks: Vec<DiskOrigin>, ends: WriterEnds, mut throttle: Throttle, shared: &CopyState) -> Result<()> {
    let mut sources = disks.into_iter().map(|disk| DiskReader::open(disk, shared)).collect::<Result<Vec<_>>>()?;
    let mut total = 0;
    for source in &mut sources {
        total += source.count(shared)?;
    }
    shared.set_total(total);
    for source in sources {
        match source {
            DiskReader::Images(mut images) => images.copy(&ends, &throttle.limiter, shared)?,
            DiskReader::Export(mut export) => export.copy(&mut throttle, &ends, shared)?,
        }
    }
    Ok(())
}

/// What reads one disk.
enum DiskReader {
    Images(ImageReader),
    Export(reader::ExportReader),
}

impl DiskReader {
    fn open((name, size, origin): DiskOrigin, shared: &CopyState) -> Result<DiskReader> {
        Ok(match origin {
            Origin::Images(view, changes) => DiskReader::Images(ImageReader { name, view, changes }),
            Origin::Export(socket, changes) => {
                let export = DiskExport { disk: name, size, changes, scratch: None };
                DiskReader::Export(reader::ExportReader::open(&socket, export, shared)?)
            }
        })
    }

    /// The number of bytes that the copy will read.
    fn count(&mut self, shared: &CopyState) -> Result<u64> {
        match self {
            DiskReader::Images(images) => images.count(shared),
            DiskReader::Export(export) => export.count(shared),
        }
    }
}

struct ImageReader {
    /// The disk's name, for messages.
    name: String,
    view: Box<View>,
    changes: Option<Dirty>,
}

impl ImageReader {
    /// The number of bytes that the copy will read.
    fn count(&mut self, shared: &CopyState) -> Result<u64> {
        let mut total = 0;
        self.runs(shared, |_, _, run| {
            total += if run.zero { 0 } else { run.length };
            Ok(())
        })?;
        Ok(total)
    }

    /// Finds out what is to be read, and has it read by threads of its own, so that the storage always has something to do.
    fn copy(&mut self, (pieces, free): &WriterEnds, limiter: &Limiter, shared: &CopyState) -> Result<()> {
        let (name, most) = (self.name.clone(), REQUEST.min(limiter.most()));
        let images = self.view.images().map_err(|error| read_error(&name, error))?;
        let (requests, asked) = mpsc::channel();
        let asked = Mutex::new(asked);
        thread::scope(|scope| {
            begin_threads(scope, COPY, READS, |_| serve(&images, &name, &asked))?;
            // dropped at the end, so that the threads end
            let requests = requests;
            let mut waiting = VecDeque::new();
            self.runs(shared, |view, at, run| {
                let step = if run.zero { run.length } else { most as u64 };
                for offset in (at..at + run.length).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
                    hand_on(&mut waiting, READS - 1, pieces)?;
                    let (length, slot) = (step.min(at + run.length - offset), take_slot(free, shared)?);
                    let (done, read) = mpsc::channel();
                    waiting.push_back(read);
                    if run.zero {
                        // can't fail: the receiver has just been put there
                        let _ = done.send(Ok(Piece::Zeroes { offset, length, slot }));
                        continue;
                    }
                    limiter.wait(length, || shared.check_not_stopped())?;
                    let piece = view.piece(offset, length).map_err(|error| read_error(&name, error))?;
                    // the threads end after this one
                    let _ = requests.send(Request { piece, slot, done });
                }
                Ok(())
            })?;
            hand_on(&mut waiting, 0, pieces)
        })?;
        self.view.check_whole().map_err(|error| read_error(&name, error))?;
        send(pieces, Piece::End)
    }

    /// Calls `each` with the runs to copy, in ascending order.
    fn runs(
        &mut self,
        shared: &CopyState,
        mut each: impl FnMut(&mut View, u64, qcow2::Run) -> Result<()>,
    ) -> Result<()> {
        let ImageReader { name, view, changes } = self;
        let size = view.size();
        let mut walk = |range: Range<u64>| {
            let mut at = range.start;
            while at < range.end {
                shared.check_not_stopped()?;
                let run = view.run(at, range.end - at).map_err(|error| read_error(name, error))?;
                each(view, at, run)?;
                at += run.length;
            }
            Ok(())
        };
        let Some(changes) = changes else { return walk(0..size) };
        changes.rewind();
        for range in widen_to_clusters(changes, size) {
            walk(range.map_err(|error| read_error(name, error))?)?;
        }
        Ok(())
    }
}

/// A piece that is to be read into a slot, and who waits for it.
struct Request {
    piece: qcow2::Piece,
    slot: Slot,
    done: Sender<Result<Piece>>,
}

/// Reads the pieces that are asked for, until nobody asks any more.
fn serve(images: &Images, disk: &str, asked: &Mutex<Receiver<Request>>) {
    let (mut buffer, mut inflated) = (Buffer::default(), Inflated::default());
    let next = || asked.lock().unwrap_or_else(PoisonError::into_inner).recv();
    while let Ok(Request { piece, slot, done }) = next() {
        let mut slot = with_memory(slot);
        let length = usize::try_from(piece.length).unwrap_or(REQUEST);
        let mut read = || {
            buffer.resize(length).map_err(|error| Error::io(COPY, disk, error))?;
            let read = images.read(&piece, 0..piece.length, &mut buffer, &mut inflated);
            read.map_err(|failure| read_error(disk, failure.error))?;
            slot[..length].copy_from_slice(&buffer);
            Ok(())
        };
        let read = read();
        // fails when the copy has failed
        let _ = done.send(read.map(|()| Piece::Data { offset: piece.at, length, slot }));
    }
}

/// Sends the first of the pieces that are read to the writer, until no more than `most` are left.
fn hand_on(waiting: &mut VecDeque<Receiver<Result<Piece>>>, most: usize, pieces: &Sender<Piece>) -> Result<()> {
    while waiting.len() > most {
        let Some(first) = waiting.pop_front() else { break };
        let read = first.recv().map_err(|_| Error::new(Code::Internal, COPY, "a thread that reads has ended"))?;
        send(pieces, read?)?;
    }
    Ok(())
}

fn read_error(disk: &str, error: qcow2::Error) -> Error {
    error.at("read the disk", disk).on_disk(disk)
}

/// Waits for a slot that the writer has emptied.
fn take_slot(free: &Receiver<Slot>, shared: &CopyState) -> Result<Slot> {
    loop {
        shared.check_not_stopped()?;
        match free.recv_timeout(limits::CALLER_LOOK) {
            Ok(slot) => return Ok(slot),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::new(Code::Cancelled, "write the target", "the writer has ended"));
            }
        }
    }
}

/// Widens ranges in ascending order to whole clusters of a disk of `size` bytes, and joins those that meet.
fn widen_to_clusters<E>(
    ranges: impl Iterator<Item = Result<Range<u64>, E>>,
    size: u64,
) -> impl Iterator<Item = Result<Range<u64>, E>> {
    let mut ranges = ranges.peekable();
    let widen = move |range: &Range<u64>| {
        range.start / CLUSTER * CLUSTER..range.end.checked_next_multiple_of(CLUSTER).map_or(size, |end| end.min(size))
    };
    std::iter::from_fn(move || {
        let mut range = match ranges.next()? {
            Ok(range) => widen(&range),
            error => return Some(error),
        };
        while let Some(Ok(next)) = ranges.next_if(|next| next.as_ref().is_ok_and(|next| widen(next).start <= range.end))
        {
            range.end = range.end.max(widen(&next).end);
        }
        Some(Ok(range))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_widened_to_whole_clusters_and_each_cluster_comes_once() {
        const C: u64 = CLUSTER;
        let whole_of = |ranges: &[Range<u64>]| {
            let ranges = ranges.iter().cloned().map(Ok::<_, ()>);
            widen_to_clusters(ranges, 9 * C + 512).map(Result::unwrap).collect::<Vec<_>>()
        };
        assert_eq!(whole_of(&[]), []);
        assert_eq!(whole_of(&[0..512, 1024..2048, C - 1..C]), std::slice::from_ref(&(0..C)));
        assert_eq!(whole_of(&[0..512, C..C + 1, 3 * C + 5..4 * C + 5]), [0..2 * C, 3 * C..5 * C]);
        assert_eq!(whole_of(&[C..2 * C, 9 * C + 511..9 * C + 512]), [C..2 * C, 9 * C..9 * C + 512]);
        let failing = [Ok(0..1), Err(()), Ok(C..C + 1)].into_iter();
        assert_eq!(widen_to_clusters(failing, 2 * C).collect::<Vec<_>>(), [Ok(0..C), Err(()), Ok(C..2 * C)]);
    }
}
