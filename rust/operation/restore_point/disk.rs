//! One disk on its way from the images to its output.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use log::Level;
use rustix::fs::FallocateFlags;

use super::gate::{Gate, Passage};
use super::kept::KeptCopy;
use super::paths::{DiskPaths, STEP};
use super::plan::{CopyPlan, OutputLayout, PlacedPiece};
use super::request::{OutputFormat, Preallocation};
use super::target::{OutputTarget, SYNC_EACH};
use crate::apart::{Apart, Descriptor};
use crate::error::{Code, Error, Result, called};
use crate::lacking;
use crate::point::fingerprints::{Base, Expected};
use crate::qcow2::{self, CLUSTER, Images, Layer, Pieces, Source as _, Storage as _, Stream, Writeback};

/// Bytes that are read, compared and written as one.
pub(super) const PIECE: u64 = 1 << 20;
/// Bytes of one piece where blocks are shared and nothing is read.
pub(super) const SHARED_PIECE: u64 = 1 << 30;

/// A disk, and how far its copy is.
#[derive(Debug)]
pub(super) struct RestoredDisk {
    pub(super) paths: DiskPaths,
    pub(super) images: Images,
    /// Size that the guest sees, in bytes. It stands here, too, so that it can be read while a thread holds the plan.
    pub(super) guest: u64,
    pub(super) target: OutputTarget,
    /// Size of the output's disk, in bytes.
    pub(super) size: u64,
    pub(super) preallocation: Preallocation,
    /// The target is overwritten in place, and is no new file.
    pub(super) device: bool,
    pub(super) old: Vec<Layer>,
    /// The data are compared with fingerprints.
    pub(super) compared: bool,
    /// The data are not compared, and the output can share the images' blocks.
    pub(super) shares: bool,
    plan: Mutex<CopyPlan>,
    writeback: Mutex<Writeback>,
    unsynced: AtomicU64,
    /// Where the output's former content is copied to first, if it is kept.
    kept: Mutex<Option<KeptCopy>>,
    /// Something was written to the target.
    begun: AtomicBool,
    pub(super) done: ByteCounts,
}

/// Bytes that were dealt with, by where they came from.
#[derive(Debug, Default)]
pub(super) struct ByteCounts {
    /// Bytes of the guest's disk, wherever they came from.
    pub(super) guest: AtomicU64,
    pub(super) read: AtomicU64,
    pub(super) kept: AtomicU64,
    pub(super) cloned: AtomicU64,
}

/// What `RestoredDisk::begin` needs.
#[derive(Debug)]
pub(super) struct DiskParts {
    pub(super) volume: String,
    pub(super) names: Vec<String>,
    pub(super) source: (Pieces, Images),
    pub(super) base: Option<Base<File>>,
    pub(super) target: OutputTarget,
    pub(super) format: OutputFormat,
    /// Size of the output's disk, at least that of the images'.
    pub(super) size: u64,
    pub(super) preallocation: Preallocation,
    /// The target is a device, which holds something.
    pub(super) device: bool,
    /// The layers of the volume that is replaced, from which data may be taken.
    pub(super) old: Vec<Layer>,
}

impl RestoredDisk {
    /// Prepares an empty target for the copy.
    pub(super) fn begin(parts: DiskParts) -> Result<RestoredDisk> {
        let DiskParts {
            volume,
            names,
            source: (pieces, images),
            base,
            target,
            format,
            size,
            preallocation,
            device,
            old,
        } = parts;
        let paths = DiskPaths { volume, names };
        let io = |e| Error::io("open the output", paths.output(), e);
        let (new, compared) = (target.new_file(), base.is_some());
        let shares = match new {
            Some(file) if base.is_none() => shares(&images, file).map_err(io)?,
            _ => false,
        };
        let layout = match (format, new) {
            (OutputFormat::Raw, None) => OutputLayout::Raw,
            (OutputFormat::Raw, Some(file)) => file.set_length(size).map(|()| OutputLayout::Raw).map_err(io)?,
            (OutputFormat::Qcow2, Some(file)) => {
                let stream = Stream::begin(file.clone(), size, None);
                OutputLayout::Qcow2(Box::new(stream.map_err(|e| e.at("open the output", paths.output()))?))
            }
            (OutputFormat::Qcow2, None) => {
                return Err(Error::new(Code::Internal, "open the output", "a qcow2 on a device"));
            }
        };
        let most = if shares { SHARED_PIECE } else { PIECE };
        let end = if device { target.length().map_err(io)? } else { 0 };
        let guest = pieces.size();
        let tail = guest..end.max(guest);
        let plan =
            Mutex::new(CopyPlan { pieces, base, layout, at: 0, most, tail, unknown: 0, size, preallocation, device });
        Ok(RestoredDisk {
            paths,
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
            done: ByteCounts::default(),
        })
    }

    /// Reserves the space of a raw file. A qcow2's is reserved at the end, when its length is known.
    pub(super) fn reserve(&self) -> Result<()> {
        match (&self.plan().layout, self.target.new_file()) {
            (OutputLayout::Raw, Some(file)) => {
                reserve(file, self.size, self.preallocation).map_err(|e| self.paths.output_failed(e))
            }
            _ => Ok(()),
        }
    }

    /// Bytes that have to be written at least, by the fingerprints; 0 where blocks of the replaced volume may be shared.
    pub(super) fn data(&self, mut base: Base<File>) -> Result<u64> {
        if !self.old.is_empty() {
            return Ok(0);
        }
        let (mut at, mut bytes, size) = (0, 0, self.guest);
        while at < size {
            let (state, length) = base.next(at..size).map_err(|e| self.paths.index_failed(e))?;
            bytes += if matches!(state, Expected::Hash(_)) { length } else { 0 };
            at += length;
        }
        Ok(bytes)
    }

    /// The next piece; `None` once all were handed out.
    pub(super) fn next(&self, gate: &Gate) -> Result<Option<PlacedPiece>> {
        self.plan().next(&self.paths, gate, &self.done.guest)
    }

    pub(super) fn plan(&self) -> MutexGuard<'_, CopyPlan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the bytes, unless the restore was told to stop since they were read: by now another restore, or a guest, may have the
    /// device.
    pub(super) fn write(&self, bytes: &[u8], to: u64, gate: &Gate) -> Result<()> {
        let _inside = self.enter_gate(gate)?;
        let cached = self.target.write(bytes, to).map_err(|e| self.paths.output_failed(e))?;
        self.note_written(to, cached)
    }

    pub(super) fn enter_gate<'a>(&self, gate: &'a Gate) -> Result<Passage<'a>> {
        let inside = gate.enter(STEP)?;
        self.begun.store(true, Relaxed);
        Ok(inside)
    }

    /// Has the output's content copied to `kept` before it is overwritten.
    pub(super) fn set_kept_copy(&self, kept: KeptCopy) {
        *self.kept() = Some(kept);
    }

    pub(super) fn kept(&self) -> MutexGuard<'_, Option<KeptCopy>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn try_kept(&self) -> Option<MutexGuard<'_, Option<KeptCopy>>> {
        self.kept.try_lock().ok()
    }

    /// Copies the output's content, if it is to be kept.
    pub(super) fn make_kept_copy(&self, gate: &Gate, go_on: impl Fn() -> Result<()>) -> Result<()> {
        let kept = self.kept().as_mut().map(|kept| kept.copy(&self.target, gate, go_on));
        kept.unwrap_or(Ok(())).map_err(|error| error.on_disk(&self.paths.volume))
    }

    /// True once something was written to the output.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Relaxed)
    }

    /// Notes that `bytes` were written at `to`, and sees to it that they soon reach the disk.
    pub(super) fn note_written(&self, to: u64, bytes: u64) -> Result<()> {
        let due = self.writeback.lock().unwrap_or_else(PoisonError::into_inner).note(to, bytes);
        if let Some(span) = due
            && let Err(error) = self.target.begin_writing(span.start, span.end - span.start)
        {
            // a write that fails here makes the sync fail, too
            log::debug!("'{}': unable to start writeback, going on without: {error}", self.paths.output());
        }
        let before = self.unsynced.fetch_add(bytes, Relaxed);
        if before / SYNC_EACH < (before + bytes) / SYNC_EACH {
            self.target.sync().map_err(|e| self.paths.output_failed(e))?;
        }
        Ok(())
    }

    /// Makes the output whole and durable after all was copied, unless the file of fingerprints is not the one that was recorded.
    /// Returns how many bytes could not be compared.
    pub(super) fn finish(&self, gate: &Gate) -> Result<u64> {
        let mut plan = self.plan();
        if let Some(base) = plan.base.take() {
            base.finish().map_err(|e| self.paths.index_failed(e))?;
        }
        plan.pieces.check_whole().map_err(|failure| self.paths.image_failed(failure))?;
        // from here on the outputs' storage has to answer, and not the NAS
        let _inside = gate.enter("sync")?;
        let end = plan.pieces.size().next_multiple_of(CLUSTER).min(self.size);
        plan.place_zeroes(&self.paths, end, self.size)?;
        if let OutputLayout::Qcow2(stream) = std::mem::replace(&mut plan.layout, OutputLayout::Finished) {
            stream.finish().map_err(|e| self.paths.table_failed(e))?;
            if let Some(file) = self.target.new_file() {
                let reserved = file.length().and_then(|length| reserve(file, length, self.preallocation));
                reserved.map_err(|e| self.paths.output_failed(e))?;
            }
        }
        self.sync()?;
        Ok(plan.unknown)
    }

    /// Makes what was written durable.
    pub(super) fn sync(&self) -> Result<()> {
        self.target.sync().map_err(|e| self.paths.output_failed(e))
    }
}

fn shares(images: &Images, target: &Apart) -> io::Result<bool> {
    (0..images.count()).try_fold(true, |all, image| Ok(all && qcow2::shares(images.file(image).0, target)?))
}

/// Reserves the space of all of the file, where the file system can.
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

#[cfg(test)]
pub(super) mod tests {
    use std::io::Seek;
    use std::path::Path;

    use tempfile::tempfile;

    use std::sync::Arc;

    use super::super::copier::Copier;
    use super::super::plan::TABLE;
    use super::*;
    use crate::config::FILE_MODE;
    use crate::engine::rate::{Limiter, Rate};
    use crate::nas::folder::Folder;
    use crate::point::fingerprints::{Index, index_image};

    const SIZE: u64 = 4 * CLUSTER;
    const OLD: u8 = 9;

    /// A disk with data and then none, onto a device that is full.
    pub(in super::super) fn device(compared: bool) -> RestoredDisk {
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
        RestoredDisk::begin(DiskParts {
            volume: "a".into(),
            names: vec!["output".into(), "image".into()],
            source: Pieces::open(vec![image]).unwrap(),
            base: compared.then(|| Base::begin(vec![index], SIZE).unwrap()),
            target: OutputTarget::File(qcow2::Direct::new(target.into())),
            format: OutputFormat::Raw,
            size: SIZE,
            preallocation: Preallocation::Off,
            device: true,
            old: Vec::new(),
        })
        .unwrap()
    }

    pub(in super::super) fn new_file(folder: &Path) -> Apart {
        Folder::open_root(folder).unwrap().create_file("new", FILE_MODE).unwrap()
    }

    fn content(disk: &RestoredDisk) -> Vec<u8> {
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
                let mut buffer = vec![0; PIECE as usize];
                let mut copier = Copier::new(&gate, &mut buffer);
                copier.begin_disk(&disk);
                // before the read it is still wanted
                let told_meanwhile = || {
                    gate.close();
                    Ok(())
                };
                let error = copier.copy_piece(&disk, &work, &limiter, told_meanwhile).unwrap_err();
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
        let disk = RestoredDisk::begin(DiskParts {
            volume: "a".into(),
            names: vec!["output".into(), "image".into()],
            source: Pieces::open(vec![image]).unwrap(),
            base: None,
            target: OutputTarget::File(qcow2::Direct::new(target.clone().into())),
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
            let mut buffer = vec![0; PIECE as usize];
            let mut copier = Copier::new(&gate, &mut buffer);
            copier.begin_disk(&disk);
            while let Some(work) = disk.next(&gate).unwrap() {
                copier.copy_piece(&disk, &work, &limiter, || Ok(())).unwrap();
            }
            assert_eq!(disk.finish(&gate).unwrap(), 0);
            let mut wanted = vec![7; 2 * CLUSTER as usize];
            wanted.resize(SIZE as usize, 0);
            assert!(content(&disk) == wanted, "compared: {compared}");
        }
    }

    /// Holds the disk's plan, as `finish` does.
    pub(in super::super) fn is_being_finished(disk: &RestoredDisk) -> impl Sized {
        disk.plan()
    }
}
