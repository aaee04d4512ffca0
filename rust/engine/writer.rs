//! The writer of a copy. Only the writer touches the NAS, so that only the writer is left behind when the NAS hangs.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::nas_probe::NasProbe;
use super::pace;
use super::shared::CopyState;
use crate::apart::Apart;
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::nas::session::Session;
use crate::point::fingerprints::{self, Base, Content, Expected, Fingerprints, Recorder};
use crate::qcow2::{CLUSTER, Stream, hash_rest};
use crate::second_table::run_there;
use crate::work::background;
use crate::work::background::Background;

const STEP: &str = "write the target";

/// The most bytes of one piece of data.
pub(super) const REQUEST: usize = pace::FULL.bytes;
/// The number of slots for what is read and not yet written.
const SLOTS: usize = 16;
/// What an error says of a writer that was left behind.
const HANGING: &str = "a write that the NAS does not answer";

/// Memory for one request's bytes; empty until it is needed. Each piece on its way holds a slot, which bounds their number.
pub(super) type Slot = Box<[u8]>;

/// The slot with its memory, which is made for its first request: a guest waits while a job begins, and few changes need few slots.
pub(super) fn with_memory(slot: Slot) -> Slot {
    if slot.is_empty() { vec![0; REQUEST].into() } else { slot }
}

/// What the reader tells the writer about the current disk, in order.
#[derive(Debug)]
pub(super) enum Piece {
    /// The first `length` bytes of the slot, at `offset`.
    Data { offset: u64, length: usize, slot: Slot },
    /// `length` zeroes at `offset`.
    Zeroes { offset: u64, length: u64, slot: Slot },
    /// The end of the disk; the next piece belongs to the next disk.
    End,
}

/// The file that one disk's data goes to.
#[derive(Debug)]
pub struct CopyTarget {
    /// The empty file.
    pub file: Apart,
    /// Its path, for messages.
    pub path: PathBuf,
    /// The disk's name in the domain, or its path.
    pub disk: String,
    /// Size that the guest sees, in bytes.
    pub size: u64,
    /// The name, relative to the file's folder, of the qcow2 that an incremental stands on.
    pub backing: Option<String>,
    /// The empty file that the fingerprints go to.
    pub index: Apart,
    /// The name of the fingerprints' file, in the same folder.
    pub index_name: String,
    /// What the backing files hold: the writer leaves out clusters that are equal there.
    pub base: Option<Base<Apart>>,
}

impl CopyTarget {
    fn failed(&self, error: crate::qcow2::Error) -> Error {
        error.at(STEP, &self.path)
    }

    /// Corrupt fingerprints of the parent make the parent invalid.
    fn base_failed(&self, error: std::io::Error) -> Error {
        let error = fingerprints::failed("compare with the parent point", &self.path, error);
        if error.code == Code::CorruptImage { Error { code: Code::ParentInvalid, ..error } } else { error }
    }

    fn index_failed(&self, error: std::io::Error) -> Error {
        fingerprints::failed("write the fingerprints", self.path.with_file_name(&self.index_name), error)
    }
}

/// The fingerprints of each disk.
pub type Written = Vec<Fingerprints>;

/// A writer on its thread.
pub(super) struct Writer {
    thread: Background<Written>,
    /// Asks the NAS; empty until the NAS has answered the writer.
    probe: Arc<OnceLock<NasProbe>>,
}

/// The reader's ends of its channels with the writer: one for pieces, one for emptied slots.
pub(super) type WriterEnds = (Sender<Piece>, Receiver<Slot>);

/// Sends a piece to the writer. `CANCELLED` when the writer has ended: its own error says why.
pub(super) fn send(pieces: &Sender<Piece>, piece: Piece) -> Result<()> {
    pieces.send(piece).map_err(|_| Error::new(Code::Cancelled, "write the target", "the writer has ended"))
}

impl Writer {
    /// Starts a writer into `targets`, files of the repository of `session`, and calls `ended` when the writer has ended.
    pub(super) fn start(
        targets: Vec<CopyTarget>,
        session: Session,
        shared: &Arc<CopyState>,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<(Writer, WriterEnds)> {
        let (pieces, written) = mpsc::channel();
        let (free, slots) = mpsc::channel();
        for _ in 0..SLOTS {
            // can't fail: the receiver is in this function
            let _ = free.send(Slot::default());
        }
        let probe = Arc::new(OnceLock::new());
        let (ours, found) = (shared.clone(), probe.clone());
        let work = move || {
            // keeps the repository mounted as long as the writer has files open there: what is here after it is dropped before it
            let _session = session;
            let mut targets = targets;
            open_probe(&targets, found);
            // all of it there, where no write has to be handed over; but not the files' last close, which may take its time
            let all = &mut targets;
            run_there(move || write(all, &written, &free, &ours))
        };
        let thread = background::start("write the targets", work, ended)?;
        Ok((Writer { thread, probe }, (pieces, slots)))
    }

    /// The writer's result, if it has ended and the result was not taken before.
    pub(super) fn result(&self) -> Option<Result<Written>> {
        self.thread.wait(Duration::ZERO)
    }

    /// Stops the writer because of `error`, or leaves it behind. If the deadline passed and the writer does not stop, the
    /// library asks the NAS whether it answers, because it may only be slow.
    pub(super) fn give_up(&self, shared: &CopyState, error: Error) -> Error {
        shared.stop();
        if self.ends_within(limits::COPY_STOP) {
            return error;
        }
        let hangs = error.code == Code::Timeout && self.nas_hangs();
        match () {
            // the writer may have ended while the library asked
            () if self.ends_within(Duration::ZERO) => error,
            () if hangs => Error { code: Code::NasUnresponsive, ..error }.with_leftover(HANGING),
            () => error.with_leftover(HANGING),
        }
    }

    fn ends_within(&self, limit: Duration) -> bool {
        self.thread.wait(limit).is_some() || self.thread.has_ended()
    }

    /// True if the NAS does not answer. A NAS that has not even let the writer open the probe hangs.
    fn nas_hangs(&self) -> bool {
        self.probe.get().cloned().is_none_or(|probe| probe.hangs(limits::NAS_PROBE))
    }
}

/// Opens a probe of the NAS and stores it in `found`.
fn open_probe(targets: &[CopyTarget], found: Arc<OnceLock<NasProbe>>) {
    match targets.first().map(|target| NasProbe::open(&target.file)) {
        // can't fail: only this function sets it
        Some(Ok(probe)) => drop(found.set(probe)),
        Some(Err(error)) => log::debug!("{error}"),
        None => {}
    }
}

/// Writes the pieces of all disks, and returns their slots to the reader.
fn write(
    targets: &mut [CopyTarget],
    pieces: &Receiver<Piece>,
    free: &Sender<Slot>,
    shared: &CopyState,
) -> Result<Written> {
    let write =
        |target: &mut CopyTarget| write_disk(target, pieces, free, shared).map_err(|error| error.on_disk(&target.disk));
    targets.iter_mut().map(write).collect()
}

fn write_disk(
    target: &mut CopyTarget,
    pieces: &Receiver<Piece>,
    free: &Sender<Slot>,
    shared: &CopyState,
) -> Result<Fingerprints> {
    let base = target.base.take();
    let mut image = ImageWriter::begin(target, base)?;
    loop {
        let piece = next_piece(pieces, shared)?;
        let slot = match piece {
            Piece::Data { offset, length, slot } => {
                image.add_data(offset, &slot[..length])?;
                shared.add_written(length as u64);
                slot
            }
            Piece::Zeroes { offset, length, slot } => {
                image.add_zeroes(offset, length)?;
                slot
            }
            Piece::End => break,
        };
        // fails when the reader has ended, which needs no slot any more
        let _ = free.send(slot);
    }
    image.finish()
}

/// Writes one disk's image and its fingerprints.
struct ImageWriter<'a> {
    target: &'a CopyTarget,
    stream: Stream<Apart>,
    recorder: Recorder<Apart>,
    base: Option<Base<Apart>>,
}

impl<'a> ImageWriter<'a> {
    fn begin(target: &'a CopyTarget, base: Option<Base<Apart>>) -> Result<ImageWriter<'a>> {
        let stream =
            Stream::begin(target.file.clone(), target.size, target.backing.as_deref()).map_err(|e| target.failed(e))?;
        let recorder = Recorder::begin(target.index.clone(), target.size).map_err(|e| target.index_failed(e))?;
        Ok(ImageWriter { target, stream, recorder, base })
    }

    /// Adds `bytes` at `offset`, except clusters that are equal in the base.
    fn add_data(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let (mut at, mut new) = (offset, 0..0);
        for cluster in bytes.chunks(CLUSTER as usize) {
            let (content, end) = (Content::of(cluster), at + cluster.len() as u64);
            if self.base_state(at..end)?.0.is_some_and(|state| state.is(content)) {
                self.write(offset, bytes, &mut new)?;
                new = new.end + cluster.len()..new.end + cluster.len();
            } else {
                self.record(at, content, cluster.len() as u64)?;
                new.end += cluster.len();
            }
            at = end;
        }
        self.write(offset, bytes, &mut new)
    }

    /// Writes the part `new` of the bytes that begin at `offset`, and empties `new`.
    fn write(&mut self, offset: u64, bytes: &[u8], new: &mut Range<usize>) -> Result<()> {
        let part = &bytes[new.clone()];
        if !part.is_empty() {
            self.stream.data(offset + new.start as u64, part).map_err(|e| self.target.failed(e))?;
        }
        new.start = new.end;
        Ok(())
    }

    fn add_zeroes(&mut self, offset: u64, length: u64) -> Result<()> {
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let (state, length) = self.base_state(at..end)?;
            if state != Some(Expected::Zero) {
                self.stream.zeroes(at, length).map_err(|e| self.target.failed(e))?;
                self.record(at, Content::Zero, length)?;
            }
            at += length;
        }
        Ok(())
    }

    /// What the base holds at the start of the range, and for how many bytes; `None` without a base.
    fn base_state(&mut self, range: Range<u64>) -> Result<(Option<Expected>, u64)> {
        match &mut self.base {
            None => Ok((None, range.end - range.start)),
            Some(base) => {
                let (state, length) = base.next(range).map_err(|e| self.target.base_failed(e))?;
                Ok((Some(state), length))
            }
        }
    }

    /// Records a fingerprint. Skips zeroes of an image without a backing file, which does not store them.
    fn record(&mut self, at: u64, content: Content, length: u64) -> Result<()> {
        if content == Content::Zero && self.target.backing.is_none() {
            return Ok(());
        }
        self.recorder.add(at, content, length).map_err(|e| self.target.index_failed(e))
    }

    fn finish(self) -> Result<Fingerprints> {
        let ImageWriter { target, stream, recorder, base } = self;
        base.map_or(Ok(()), Base::finish).map_err(|e| target.base_failed(e))?;
        let (file, rest) = stream.finish_and_hash().map_err(|e| target.failed(e))?;
        let (_, hash) = recorder.finish().map_err(|e| target.index_failed(e))?;
        let rest = rest.map_or_else(|| hash_rest(file, &mut |_, _| Ok(())), Ok).map_err(|e| target.failed(e))?;
        Ok(Fingerprints { file: target.index_name.clone(), hash, rest: rest.into() })
    }
}

/// Waits for the next piece, and checks for a stop meanwhile, because a hanging reader neither sends nor ends.
fn next_piece(pieces: &Receiver<Piece>, shared: &CopyState) -> Result<Piece> {
    loop {
        let piece = pieces.recv_timeout(limits::CALLER_LOOK);
        shared.check_not_stopped()?;
        match piece {
            Ok(piece) => return Ok(piece),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::new(Code::Cancelled, STEP, "the reader has ended"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::config::Config;
    use crate::config::FILE_MODE;
    use crate::nas::repository::Repository;

    fn run(program: &str, arguments: &[&str]) {
        assert!(Command::new(program).args(arguments).status().unwrap().success(), "{program} {arguments:?}");
    }

    /// A frozen file system, which answers questions and lets nobody write; its drop thaws it.
    struct Frozen<'a>(&'a Path);

    impl Frozen<'_> {
        fn begin(at: &Path) -> Frozen<'_> {
            run("fsfreeze", &["--freeze", at.to_str().unwrap()]);
            Frozen(at)
        }
    }

    impl Drop for Frozen<'_> {
        fn drop(&mut self) {
            run("fsfreeze", &["--unfreeze", self.0.to_str().unwrap()]);
        }
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_nas_that_is_slow_when_the_time_is_over_is_not_found_to_hang() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        run("mkfs.ext4", &["-q", image.to_str().unwrap()]);
        let address = Some(image.to_str().unwrap().to_owned());
        let export = Repository { kind: Some("ext4".into()), address, options: Some("loop".into()) };
        let config = Config { mount_dir: dir.path().join("mounts"), mount_keep_seconds: 0, ..Default::default() };
        let session = Session::open(&Repository::check(Some(export)).unwrap(), &config).unwrap();
        let root = session.root();
        let target = CopyTarget {
            file: root.create_file("target", FILE_MODE).unwrap(),
            path: root.path.join("target"),
            disk: "vda".into(),
            size: 8 * REQUEST as u64,
            backing: None,
            index: root.create_file("index", FILE_MODE).unwrap(),
            index_name: "index".into(),
            base: None,
        };
        let shared = Arc::new(CopyState::default());
        let (writer, (pieces, slots)) = Writer::start(vec![target], session.clone(), &shared, || ()).unwrap();
        let mut all: Vec<Slot> = (0..SLOTS).map(|_| slots.recv().unwrap()).collect();
        let mut write = |at: usize| {
            let mut slot = with_memory(all.pop().unwrap());
            slot.fill(1);
            send(&pieces, Piece::Data { offset: (at * REQUEST) as u64, length: REQUEST, slot }).unwrap();
        };
        write(0);
        slots.recv().unwrap();
        let frozen = Frozen::begin(&root.path);
        write(1);
        let error = writer.give_up(&shared, Error::new(Code::Timeout, "copy", "not done"));
        assert!(!writer.thread.has_ended(), "the writer hangs in the frozen file system");
        assert!(error.code == Code::Timeout && error.leftovers, "{error}");
        drop(frozen);
        while !writer.thread.has_ended() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_repository_is_in_use_until_the_last_file_is_closed() {
        use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

        let dir = tempfile::tempdir().unwrap();
        let address = Some(dir.path().to_str().unwrap().to_owned());
        let export = Repository { kind: Some("dir".into()), address, options: None };
        let export = Repository::check(Some(export)).unwrap();
        // whoever looks may be too late to see it open
        for round in 0..50 {
            let session = Session::open(&export, &Config::default()).unwrap();
            let (root, name) = (session.root(), format!("target-{round}"));
            let target = CopyTarget {
                file: root.create_file(&name, FILE_MODE).unwrap(),
                path: root.path.join(&name),
                disk: "vda".into(),
                size: REQUEST as u64,
                backing: None,
                index: root.create_file(&format!("index-{round}"), FILE_MODE).unwrap(),
                index_name: format!("index-{round}"),
                base: None,
            };
            let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
            inotify::add_watch(&watch, &target.path, WatchFlags::CLOSE_WRITE).unwrap();
            let shared = Arc::new(CopyState::default());
            let ends = Writer::start(vec![target], session.clone(), &shared, || ()).unwrap();
            drop(ends.1);
            while session.users() > 1 {
                std::hint::spin_loop();
            }
            assert!(rustix::io::read(&watch, &mut [0_u8; 4096]).is_ok(), "a file is open without its repository");
        }
    }
}
