//! The reader of a pull, which holds the NBD connections. The reader never touches the NAS: while it waited there, QEMU would
//! wait for the reader, and the guest for QEMU.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use super::pace::{Demand, Pace};
use super::rate::{Limiter, Rate};
use super::shared::CopyState;
use super::socket::Socket;
use super::writer::{Piece, Slot, WriterEnds, send, with_memory};
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::nbd::{ALLOCATION, Connection, DIRTY, Extent, Status, Ticket, ZERO};
use crate::qcow2::CLUSTER;

/// The bytes that one question about extents covers.
const WINDOW: u64 = 1 << 30;
/// What ranges are called among the answers of a server, as if it had told them.
const RANGES: &str = "ranges";

/// One disk's export.
#[derive(Debug, Clone)]
pub(super) struct DiskExport {
    /// The name of the disk in the domain, and of its export.
    pub(super) disk: String,
    pub(super) size: u64,
    /// What of it is copied.
    pub(super) changes: Changes,
    /// QEMU's file for the disk's old blocks; `None` if no guest writes.
    pub(super) scratch: Option<PathBuf>,
}

impl DiskExport {
    /// The NBD context of the disk's bitmap, as libvirt names it.
    fn bitmap(&self) -> Option<String> {
        matches!(self.changes, Changes::Bitmap).then(|| format!("qemu:dirty-bitmap:backup-{}", self.disk))
    }
}

/// What of a disk is copied.
#[derive(Debug, Clone)]
pub enum Changes {
    /// All of it.
    All,
    /// What its bitmap names.
    Bitmap,
    /// These ranges, in ascending order. None of them touches another.
    Ranges(Arc<[Range<u64>]>),
}

/// Fails when the copy is to stop.
pub type GoOn<'a> = &'a mut dyn FnMut() -> Result<()>;

/// Tells what of a disk is copied once the job has begun, and asks meanwhile whether to go on.
pub struct LateChanges(pub Box<dyn FnOnce(GoOn<'_>) -> Result<Changes> + Send>);

impl fmt::Debug for LateChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LateChanges")
    }
}

impl Changes {
    /// Where something may have to be copied next, from `offset` on, which is the begin of a cluster.
    fn next(&self, offset: u64) -> Option<u64> {
        let Changes::Ranges(ranges) = self else { return Some(offset) };
        let next = ranges.get(first_beyond(ranges, offset))?;
        Some(offset.max(next.start / CLUSTER * CLUSTER))
    }
}

/// The position of the first of the ranges that ends behind `offset`.
fn first_beyond(ranges: &[Range<u64>], offset: u64) -> usize {
    ranges.partition_point(|range| range.end <= offset)
}

/// What lies in the window, and in the ranges or not, as an export tells it of a bitmap.
fn as_extents(ranges: &[Range<u64>], window: Range<u64>) -> Vec<Extent> {
    let (mut extents, mut at) = (Vec::new(), window.start);
    let mut add = |end: u64, flags| {
        if end > at {
            extents.push(Extent { length: end - at, flags });
            at = end;
        }
    };
    for range in ranges[first_beyond(ranges, window.start)..].iter().take_while(|range| range.start < window.end) {
        add(range.start, 0);
        add(range.end.min(window.end), DIRTY);
    }
    add(window.end, 0);
    extents
}

/// Consecutive clusters that are all data or all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ClusterRun {
    offset: u64,
    length: u64,
    zero: bool,
}

/// A piece that waits for the pieces before it.
#[derive(Debug)]
enum PieceInOrder {
    Read { ticket: Ticket, offset: u64, length: usize },
    Ready(Piece),
}

/// How the reading ended, and the connections, on which no reply is due any more. The caller keeps the connections until the
/// job was aborted: a QEMU with iothreads may not survive a close before.
#[derive(Debug)]
pub(super) struct ReadResult {
    pub(super) outcome: Result<()>,
    _connections: Vec<ExportReader>,
}

impl ReadResult {
    /// The result of a reader that failed before it connected.
    pub(super) fn failed(error: Error) -> ReadResult {
        ReadResult { outcome: Err(error), _connections: Vec::new() }
    }
}

/// Reads the exports behind `socket`, one after the other, into the slots that the writer has emptied.
pub(super) fn read(
    socket: Arc<Socket>,
    exports: Vec<(DiskExport, Option<LateChanges>)>,
    rate: Rate,
    ends: &WriterEnds,
    shared: &CopyState,
) -> ReadResult {
    let mut disks = Vec::new();
    let outcome = read_all(&mut disks, &socket, exports, rate, ends, shared);
    for disk in &mut disks {
        let settled = disk.connection.settle(limits::COPY_LOOK, || shared.check_replies_wanted());
        let _ = settled.inspect_err(|error| log::debug!("disk {}: {error}", disk.export.disk));
    }
    ReadResult { outcome, _connections: disks }
}

fn read_all(
    disks: &mut Vec<ExportReader>,
    socket: &Socket,
    exports: Vec<(DiskExport, Option<LateChanges>)>,
    rate: Rate,
    ends: &WriterEnds,
    shared: &CopyState,
) -> Result<()> {
    let mut throttle = Throttle::new(exports.iter().filter_map(|(export, _)| export.scratch.as_deref()), rate);
    let mut late = Vec::new();
    for (export, changes) in exports {
        // pushed first, so that the connection stays open if its own connect fails
        disks.push(ExportReader::new(export)?);
        late.push(changes);
        if let Some(disk) = disks.last_mut() {
            disk.connect(socket, shared)?;
        }
    }
    // without the name nobody else can connect; the check finds who did before
    socket.remove();
    socket.check_alone(disks.len())?;
    for (ExportReader { export, .. }, late) in disks.iter_mut().zip(late) {
        if let Some(LateChanges(tell)) = late {
            export.changes = tell(&mut || shared.check_not_stopped()).map_err(|error| error.on_disk(&export.disk))?;
        }
    }
    let mut total = 0;
    for disk in disks.iter_mut() {
        total += disk.count(shared)?;
    }
    shared.set_total(total);
    disks.iter_mut().try_for_each(|disk| disk.copy(&mut throttle, ends, shared))?;
    // somebody may have connected through another name that they gave to the socket
    socket.check_alone(disks.len())
}

/// How much the reader may ask for, and when.
pub(super) struct Throttle {
    pace: Pace,
    /// The scratch files of all disks.
    scratch: Vec<File>,
    pub(super) limiter: Limiter,
}

impl Throttle {
    /// A throttle for the exports with these scratch files.
    pub(super) fn new<'a>(scratch: impl Iterator<Item = &'a Path>, rate: Rate) -> Throttle {
        let open = |path: &Path| match File::open(path) {
            Ok(file) => Some(file),
            Err(error) => {
                log::warn!(
                    "unable to open '{}', going on at full speed while the guest writes: {error}",
                    path.display()
                );
                None
            }
        };
        Throttle { pace: Pace::default(), scratch: scratch.filter_map(open).collect(), limiter: Limiter::new(rate) }
    }

    fn demand(&mut self) -> Demand {
        // the length and not the blocks: the library allocates blocks ahead of QEMU
        let length = |file: &File| file.metadata().map_or(0, |metadata| metadata.len());
        self.pace.observe(Instant::now(), self.scratch.iter().map(length).sum())
    }
}

/// What a request did with the slot that it was given.
enum RequestOutcome {
    Used,
    /// The request may be sent only after this time; the slot comes back.
    Early(Slot, Duration),
}

/// The reader of one export.
#[derive(Debug)]
pub(super) struct ExportReader {
    export: DiskExport,
    bitmap: Option<String>,
    connection: Connection,
    /// The offset up to which the reader has asked for extents.
    asked: u64,
    /// What the reader requests next.
    runs: VecDeque<ClusterRun>,
    /// What the reader has requested and not yet sent to the writer, in order.
    waiting: VecDeque<PieceInOrder>,
    in_flight: usize,
    /// When the next request may be sent, and for how many bytes.
    turn: Option<(Instant, usize)>,
}

impl ExportReader {
    /// A reader that is not connected yet.
    fn new(export: DiskExport) -> Result<ExportReader> {
        let connection = Connection::new().map_err(|error| error.on_disk(&export.disk))?;
        let (bitmap, runs, waiting) = (export.bitmap(), VecDeque::new(), VecDeque::new());
        Ok(ExportReader { export, bitmap, connection, asked: 0, runs, waiting, in_flight: 0, turn: None })
    }

    fn connect(&mut self, socket: &Socket, shared: &CopyState) -> Result<()> {
        let ExportReader { export, bitmap, connection, .. } = self;
        let at = |error: Error| error.on_disk(&export.disk);
        let contexts: Vec<&str> = std::iter::once(ALLOCATION).chain(bitmap.as_deref()).collect();
        let socket = socket.connect(|| shared.check_not_stopped()).map_err(at)?;
        connection
            .connect(socket, &export.disk, &contexts, limits::COPY_LOOK, || shared.check_not_stopped())
            .map_err(at)?;
        if connection.size() != export.size {
            let cause = format!("it has {} bytes and not {}: it was resized", connection.size(), export.size);
            return Err(at(Error::new(Code::DomainState, "connect to the export", cause)));
        }
        Ok(())
    }

    /// Connects as the only client of the socket.
    pub(super) fn open(socket: &Socket, export: DiskExport, shared: &CopyState) -> Result<ExportReader> {
        let mut disk = ExportReader::new(export)?;
        disk.connect(socket, shared)?;
        socket.remove();
        socket.check_alone(1)?;
        Ok(disk)
    }

    /// The number of bytes that the copy will read.
    pub(super) fn count(&mut self, shared: &CopyState) -> Result<u64> {
        let mut total = 0;
        while self.asked < self.export.size {
            self.ask(shared).map_err(|error| error.on_disk(&self.export.disk))?;
            total += self.runs.drain(..).filter(|run| !run.zero).map(|run| run.length).sum::<u64>();
        }
        self.asked = 0;
        Ok(total)
    }

    /// Asks the server for the extents of the disk's next part.
    fn ask(&mut self, shared: &CopyState) -> Result<()> {
        let size = self.export.size;
        let Some(next) = self.export.changes.next(self.asked).filter(|next| *next < size) else {
            self.asked = size;
            return Ok(());
        };
        self.asked = next;
        let length = WINDOW.min(size - next);
        let mut status = self.connection.status(next, length, limits::COPY_LOOK, || shared.check_not_stopped())?;
        let mut bitmap = self.bitmap.as_deref();
        if let Changes::Ranges(ranges) = &self.export.changes {
            status.insert(RANGES.to_owned(), as_extents(ranges, next..next + length));
            bitmap = Some(RANGES);
        }
        let (covered, runs) = runs(&status, bitmap, next, length)?;
        self.asked += covered;
        self.runs.extend(runs);
        Ok(())
    }

    /// Reads the export into the slots that the writer has emptied.
    pub(super) fn copy(&mut self, throttle: &mut Throttle, ends: &WriterEnds, shared: &CopyState) -> Result<()> {
        self.read(throttle, ends, shared).map_err(|error| error.on_disk(&self.export.disk))
    }

    fn read(&mut self, throttle: &mut Throttle, (pieces, free): &WriterEnds, shared: &CopyState) -> Result<()> {
        let mut spare = None;
        loop {
            shared.check_not_stopped()?;
            self.hand_on(pieces)?;
            if self.runs.is_empty() && self.asked < self.export.size {
                self.ask(shared)?;
                continue;
            }
            if self.runs.is_empty() && self.waiting.is_empty() {
                return send(pieces, Piece::End);
            }
            let demand = throttle.demand();
            if !self.runs.is_empty() && self.in_flight < demand.requests {
                if let Some(slot) = spare.take().or_else(|| free.try_recv().ok()) {
                    if let RequestOutcome::Early(slot, wait) = self.request(slot, demand, &throttle.limiter)? {
                        spare = Some(slot);
                        self.connection.poll(wait.clamp(limits::NBD_LEAST, limits::COPY_LOOK))?;
                    }
                    continue;
                }
                // no reply is due, so QEMU does not wait while the reader waits for the writer
                if self.in_flight == 0 {
                    spare = free.recv_timeout(limits::COPY_LOOK).ok();
                    continue;
                }
            }
            self.connection.poll(limits::COPY_LOOK)?;
        }
    }

    /// Sends what has arrived to the writer, in order.
    fn hand_on(&mut self, pieces: &Sender<Piece>) -> Result<()> {
        while let Some(first) = self.waiting.pop_front() {
            let piece = match first {
                PieceInOrder::Ready(piece) => piece,
                PieceInOrder::Read { ticket, offset, length } => match self.connection.take(ticket)? {
                    Some(slot) => {
                        self.in_flight -= 1;
                        Piece::Data { offset, length, slot }
                    }
                    None => {
                        self.waiting.push_front(first);
                        return Ok(());
                    }
                },
            };
            send(pieces, piece)?;
        }
        Ok(())
    }

    /// Requests the next bytes if the limits allow, or queues zeroes.
    fn request(&mut self, slot: Slot, demand: Demand, limiter: &Limiter) -> Result<RequestOutcome> {
        let Some(run) = self.runs.front_mut() else { return Ok(RequestOutcome::Used) };
        let (offset, zero) = (run.offset, run.zero);
        let mut length = run.length;
        if !zero {
            let now = Instant::now();
            let most = length.min(demand.bytes.min(limiter.most()) as u64);
            let (at, bytes) = *self.turn.get_or_insert_with(|| (limiter.reserve(now, most), most as usize));
            if at > now {
                return Ok(RequestOutcome::Early(slot, at - now));
            }
            self.turn = None;
            length = bytes as u64;
        }
        run.offset += length;
        run.length -= length;
        if run.length == 0 {
            self.runs.pop_front();
        }
        let waiting = if zero {
            PieceInOrder::Ready(Piece::Zeroes { offset, length, slot })
        } else {
            let length = length as usize;
            self.in_flight += 1;
            PieceInOrder::Read { ticket: self.connection.read(offset, length, with_memory(slot))?, offset, length }
        };
        self.waiting.push_back(waiting);
        Ok(RequestOutcome::Used)
    }
}

/// The clusters to copy of the `length` bytes from `offset` on, and how many bytes the server's answer covers: whole clusters,
/// or all `length` bytes. Without `bitmap` everything is copied, else what the bitmap names.
fn runs(status: &Status, bitmap: Option<&str>, offset: u64, length: u64) -> Result<(u64, Vec<ClusterRun>)> {
    let extents = |context: &str| {
        status.get(context).map(Vec::as_slice).ok_or_else(|| {
            Error::new(Code::JobFailed, "ask what the export holds", format!("no word about '{context}'"))
        })
    };
    let data = extents(ALLOCATION)?;
    let changes = bitmap.map(extents).transpose()?;
    let said = |extents: &[Extent]| extents.iter().map(|extent| extent.length).sum::<u64>();
    let said = said(data).min(changes.map_or(u64::MAX, said)).min(length);
    let covered = if said == length { length } else { said / CLUSTER * CLUSTER };
    if covered == 0 {
        // the answer covers less than a cluster, and to copy a cluster is always right
        let length = CLUSTER.min(length);
        return Ok((length, vec![ClusterRun { offset, length, zero: false }]));
    }
    let data = clusters(data, covered, |flags| flags & ZERO == 0);
    let copied = match changes {
        Some(changes) => clusters(changes, covered, |flags| flags & DIRTY != 0),
        None => vec![true; data.len()],
    };
    let mut runs: Vec<ClusterRun> = Vec::new();
    for (i, (data, copied)) in (0..).zip(data.into_iter().zip(copied)) {
        let at = i * CLUSTER;
        let length = CLUSTER.min(covered - at);
        match runs.last_mut() {
            _ if !copied => {}
            Some(run) if run.zero != data && run.offset + run.length == offset + at => run.length += length,
            _ => runs.push(ClusterRun { offset: offset + at, length, zero: !data }),
        }
    }
    Ok((covered, runs))
}

/// For each cluster of the first `covered` bytes: true if an extent that touches the cluster has flags that suit.
fn clusters(extents: &[Extent], covered: u64, suits: impl Fn(u32) -> bool) -> Vec<bool> {
    let mut found = vec![false; covered.div_ceil(CLUSTER) as usize];
    let mut at = 0;
    for extent in extents {
        let end = (at + extent.length).min(covered);
        if at < end && suits(extent.flags) {
            found[(at / CLUSTER) as usize..end.div_ceil(CLUSTER) as usize].fill(true);
        }
        at += extent.length;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLE: u32 = 1;
    const BITMAP: &str = "qemu:dirty-bitmap:backup-vda";

    fn status(contexts: &[(&str, &[(u64, u32)])]) -> Status {
        fn extent((length, flags): &(u64, u32)) -> Extent {
            Extent { length: *length, flags: *flags }
        }
        contexts.iter().map(|(name, all)| ((*name).to_owned(), all.iter().map(extent).collect())).collect()
    }

    /// Offset and length in clusters, and whether it is zero.
    fn brief(runs: &[ClusterRun]) -> Vec<(u64, u64, bool)> {
        runs.iter().map(|run| (run.offset / CLUSTER, run.length / CLUSTER, run.zero)).collect()
    }

    /// As the reader walks over a disk: no cluster that a range touches is passed over, and no other is copied.
    #[test]
    fn each_cluster_that_a_range_touches_is_copied() {
        type Case<'a> = (&'a [(u64, u64)], Vec<u64>);
        const C: u64 = CLUSTER;
        let size = 9 * C + 512;
        let cases: [Case<'_>; 9] = [
            (&[], vec![]),
            (&[(0, 1)], vec![0]),
            (&[(C - 1, C)], vec![0]),
            (&[(C - 1, C + 1)], vec![0, 1]),
            (&[(10, 20), (30, 40), (2 * C + 5, 2 * C + 6), (5 * C, 7 * C)], vec![0, 2, 5, 6]),
            (&[(4 * C - 1, 4 * C), (9 * C + 511, 9 * C + 512)], vec![3, 9]),
            (&[(9 * C, 12 * C)], vec![9]),
            (&[(12 * C, 13 * C)], vec![]),
            (&[(0, size)], (0..10).collect()),
        ];
        for (ranges, expected) in cases {
            let ranges: Vec<_> = ranges.iter().map(|(start, end)| *start..*end).collect();
            for window in [C, 3 * C, WINDOW] {
                let changes = Changes::Ranges(ranges.clone().into());
                let (mut at, mut copied) = (0, Vec::new());
                while let Some(next) = changes.next(at).filter(|next| *next < size) {
                    let length = window.min(size - next);
                    let extents = as_extents(&ranges, next..next + length);
                    assert_eq!(extents.iter().map(|extent| extent.length).sum::<u64>(), length);
                    let zeroes = vec![Extent { length, flags: HOLE | ZERO }];
                    let said = Status::from([(ALLOCATION.to_owned(), zeroes), (RANGES.to_owned(), extents)]);
                    let (covered, found) = runs(&said, Some(RANGES), next, length).unwrap();
                    let clusters = found.iter().flat_map(|run| run.offset / C..(run.offset + run.length).div_ceil(C));
                    copied.extend(clusters);
                    at = next + covered;
                }
                assert_eq!(copied, expected, "{ranges:?} by {window}");
            }
        }
    }

    #[test]
    fn a_full_copies_everything_and_says_where_it_is_zero() {
        let said = status(&[(ALLOCATION, &[(2 * CLUSTER, 0), (CLUSTER, HOLE | ZERO), (CLUSTER, ZERO), (CLUSTER, 0)])]);
        let (covered, found) = runs(&said, None, 10 * CLUSTER, 5 * CLUSTER).unwrap();
        assert_eq!(covered, 5 * CLUSTER);
        assert_eq!(brief(&found), [(10, 2, false), (12, 2, true), (14, 1, false)]);
    }

    #[test]
    fn an_incremental_copies_changes_and_says_where_they_are_zero() {
        let said = status(&[
            (ALLOCATION, &[(3 * CLUSTER, 0), (3 * CLUSTER, HOLE | ZERO)]),
            (BITMAP, &[(CLUSTER, 0), (4 * CLUSTER, DIRTY), (CLUSTER, 0)]),
        ]);
        let (_, found) = runs(&said, Some(BITMAP), 0, 6 * CLUSTER).unwrap();
        assert_eq!(brief(&found), [(1, 2, false), (3, 2, true)]);
    }

    #[test]
    fn a_cluster_is_copied_whole_for_any_part_of_it() {
        // 4 KiB of data in a zero cluster, and a change of 4 KiB in a cluster whose data is elsewhere in it
        let said = status(&[
            (ALLOCATION, &[(4096, ZERO), (4096, 0), (CLUSTER - 8192, ZERO), (4096, 0), (2 * CLUSTER - 4096, ZERO)]),
            (BITMAP, &[(CLUSTER, DIRTY), (8192, 0), (4096, DIRTY), (2 * CLUSTER - 12288, 0)]),
        ]);
        let (_, found) = runs(&said, Some(BITMAP), 0, 3 * CLUSTER).unwrap();
        assert_eq!(brief(&found), [(0, 2, false)]);
        let (_, found) = runs(&said, None, 0, 3 * CLUSTER).unwrap();
        assert_eq!(brief(&found), [(0, 2, false), (2, 1, true)]);
    }

    #[test]
    fn answers_that_end_early_are_used_as_far_as_they_go() {
        let said = status(&[(ALLOCATION, &[(8 * CLUSTER, 0)]), (BITMAP, &[(3 * CLUSTER + 512, DIRTY)])]);
        let (covered, found) = runs(&said, Some(BITMAP), 0, 8 * CLUSTER).unwrap();
        assert_eq!((covered, brief(&found)), (3 * CLUSTER, vec![(0, 3, false)]));
        let said = status(&[(ALLOCATION, &[(512, HOLE | ZERO)])]);
        let (covered, found) = runs(&said, None, 0, 8 * CLUSTER).unwrap();
        assert_eq!((covered, brief(&found)), (CLUSTER, vec![(0, 1, false)]));
        assert!(runs(&said, Some(BITMAP), 0, CLUSTER).is_err(), "no word about the bitmap");
    }

    #[test]
    fn the_end_of_a_disk_need_not_be_a_whole_cluster() {
        let said = status(&[(ALLOCATION, &[(CLUSTER, ZERO), (512, 0)])]);
        let (covered, found) = runs(&said, None, 0, CLUSTER + 512).unwrap();
        assert_eq!(covered, CLUSTER + 512);
        let zeroes = ClusterRun { offset: 0, length: CLUSTER, zero: true };
        assert_eq!(found, [zeroes, ClusterRun { offset: CLUSTER, length: 512, zero: false }]);
    }
}
