//! A copy of what a device or an image in Ceph holds, made as a file before the restore overwrites it.

use std::io;
use std::path::{Path, PathBuf};

use super::clusters::runs;
use super::gate::Gate;
use super::names::RANDOM_DIGITS;
use super::output::Output;
use super::output_path::{PointFolders, resolve};
use super::target::{OutputTarget, SYNC_EACH};
use crate::error::{Error, Result};
use crate::qcow2::{Buffer, CLUSTER, Storage as _};
use crate::random;

const STEP: &str = "keep what is replaced";
/// Bytes of one read.
const PIECE: u64 = 1 << 20;

/// Refuses a folder in which no copy can be made.
pub(super) fn check_folder(folder: &str, points: &PointFolders) -> Result<()> {
    resolve(&Path::new(folder).join("copy")).and_then(|(path, _)| points.refuse(&path)).map_err(of_field)
}

fn of_field(error: Error) -> Error {
    Error { cause: format!("keepOldIn: {}", error.cause.trim_start_matches("output.path: ")), ..error }
}

/// The copy's file. A drop before the file has its name removes it.
#[derive(Debug)]
pub(super) struct KeptCopy {
    output: Output,
    path: PathBuf,
    named: bool,
}

impl KeptCopy {
    /// Makes an empty file in the folder `folder`, an absolute path, for the content of the device called `name`. The folder must not be
    /// one of `points`.
    pub(super) fn make(folder: &str, name: &str, points: &PointFolders) -> Result<KeptCopy> {
        let path = Path::new(folder).join(format!("{name}.kept-{}", &random::hex("name a file")?[..RANDOM_DIGITS]));
        let output = Output::open(&path.to_string_lossy(), true, 0, points).map_err(of_field)?;
        output.remove_left_beside_kept(name)?;
        Ok(KeptCopy { output, path, named: false })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Copies all of `from`, with holes for zeroes, and gives the file its name once it is durable. Once the gate is closed the file
    /// gets no name.
    pub(super) fn copy(&mut self, from: &OutputTarget, gate: &Gate, go_on: impl Fn() -> Result<()>) -> Result<()> {
        let target = self.output.target()?;
        let failed = |e: io::Error| Error::io(STEP, &self.path, e);
        let length = from.length().map_err(failed)?;
        if let Some(file) = target.new_file() {
            file.set_length(length).map_err(failed)?;
        }
        let (mut buffer, mut at, mut unsynced) = (Buffer::default(), 0, 0);
        while at < length {
            go_on()?;
            let _inside = gate.enter(STEP)?;
            buffer.resize(usize::try_from(PIECE.min(length - at)).unwrap_or(0)).map_err(failed)?;
            from.read(&mut buffer, at).map_err(failed)?;
            unsynced += write_data(&target, &buffer, at).map_err(failed)?;
            at += buffer.len() as u64;
            // one sync of everything at the end would take so long that nobody could cancel it
            if unsynced >= SYNC_EACH {
                target.sync().map_err(failed)?;
                unsynced = 0;
            }
        }
        let _inside = gate.enter(STEP)?;
        self.output.settle()?;
        self.output.publish()?;
        self.named = true;
        Ok(())
    }

    /// Removes the copy: its device was not overwritten after all.
    pub(super) fn forget(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.named, false) { self.output.retract() } else { Ok(()) }
    }

    /// True if the copy is whole: it has its name.
    pub(super) fn is_named(&self) -> bool {
        self.named
    }
}

/// Writes the clusters that hold more than zeroes. Returns how many bytes went through the page cache.
fn write_data(target: &OutputTarget, piece: &[u8], at: u64) -> io::Result<u64> {
    let cluster = CLUSTER as usize;
    let are_data: Vec<_> = piece.chunks(cluster).map(|bytes| bytes.iter().any(|byte| *byte != 0)).collect();
    let written = runs(&are_data, |is_data| *is_data).into_iter().map(|(start, end)| {
        let run = start * cluster..piece.len().min(end * cluster);
        target.write(&piece[run.clone()], at + run.start as u64)
    });
    written.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apart::AnyFile;
    use crate::error::Code;
    use crate::nas::folder::Folder;
    use crate::qcow2::Direct;

    #[test]
    fn a_copy_gets_no_name_once_it_is_told_to_stop_and_goes_where_it_is_not_needed() {
        let (dir, points) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = Folder::open_root(points.path()).unwrap();
        let points = PointFolders::of(&root, &root).unwrap();
        let device = tempfile::tempfile().unwrap();
        device.set_len(3 * PIECE + 512).unwrap();
        let device = OutputTarget::File(Direct::new(device.into()));
        let names = || std::fs::read_dir(dir.path()).unwrap().count();
        for (stop_at, named) in [(1, 0), (4, 0), (5, 1)] {
            let (gate, told) = (Gate::default(), std::cell::Cell::new(0));
            let go_on = || {
                told.set(told.get() + 1);
                if told.get() == stop_at {
                    gate.close();
                }
                Ok(())
            };
            let mut kept = KeptCopy::make(dir.path().to_str().unwrap(), "v", &points).unwrap();
            let ended = kept.copy(&device, &gate, go_on);
            assert_eq!(ended.map_err(|error| error.code).err(), (named == 0).then_some(Code::Cancelled), "{stop_at}");
            assert_eq!((kept.is_named(), gate.is_used(), kept.path().exists()), (named == 1, false, named == 1));
            kept.forget().unwrap();
            drop(kept);
            assert_eq!(names(), 0, "{stop_at}");
        }
    }

    /// If the copy stayed in the page cache, the sync at its end would write all of it, and nobody could cancel that.
    #[test]
    fn a_copy_goes_past_the_page_cache() {
        use rustix::io::{Errno, ReadWriteFlags, preadv2};
        // in a folder of the build, which lies on a disk
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let root = Folder::open_root("/dev/shm").unwrap();
        let file = tempfile::tempfile_in(dir.path()).unwrap();
        let device = Direct::new(AnyFile::from(file.try_clone().unwrap()));
        let mut data = Buffer::default();
        data.resize(2 * PIECE as usize).unwrap();
        data.fill(7);
        assert_eq!(device.write(&data, 0).unwrap(), 0, "the disk of the build does no direct I/O");
        let in_cache = |file: &std::fs::File| {
            let read = preadv2(file, &mut [io::IoSliceMut::new(&mut [0; 4096])], 0, ReadWriteFlags::NOWAIT);
            read != Err(Errno::AGAIN)
        };
        let points = PointFolders::of(&root, &root).unwrap();
        let mut kept = KeptCopy::make(dir.path().to_str().unwrap(), "v", &points).unwrap();
        let device = OutputTarget::File(device);
        kept.copy(&device, &Gate::default(), || Ok(())).unwrap();
        let copy = std::fs::File::open(kept.path()).unwrap();
        assert_eq!([&file, &copy].map(in_cache), [false; 2], "what is kept, and the copy");
        assert!(std::fs::read(kept.path()).unwrap() == data[..]);
    }
}
