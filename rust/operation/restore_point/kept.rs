//! What a device or an image in Ceph holds, copied to a file before it is overwritten.

use std::io;
use std::path::{Path, PathBuf};

use super::gate::Gate;
use super::output::{ID, Output, Points};
use super::target::Target;
use crate::error::{Error, Result};
use crate::point::Manifest;
use crate::qcow2::{CLUSTER, Storage as _};

const STEP: &str = "keep what is replaced";
/// Bytes that are read as one.
const PIECE: u64 = 1 << 20;

/// The file. Dropped before it has its name, it goes.
#[derive(Debug)]
pub(super) struct Kept {
    output: Output,
    path: PathBuf,
    named: bool,
}

impl Kept {
    /// Makes it, empty, in the folder of the absolute path `folder`, for what is called `name`. `points` as for an output.
    pub(super) fn make(folder: &str, name: &str, points: &Points) -> Result<Kept> {
        let path = Path::new(folder).join(format!("{name}.kept-{}", &Manifest::new_point_id()?[..ID]));
        let text = path.to_string_lossy();
        let opened = Output::open(&text, true, 0, points);
        let of_field = |cause: String| format!("keepOldIn: {}", cause.trim_start_matches("output.path: "));
        let output = opened.map_err(|e| Error { cause: of_field(e.cause), ..e })?;
        output.remove_left_of_kept(name)?;
        Ok(Kept { output, path, named: false })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Copies all of it, with holes for zeroes, and gives the file its name when it is durable. Whoever closes the gate knows
    /// whether the storage is being waited for, and that no name is given afterwards.
    pub(super) fn copy(&mut self, from: &Target, gate: &Gate, go_on: impl Fn() -> Result<()>) -> Result<()> {
        let target = self.output.target()?;
        let failed = |e: io::Error| Error::io(STEP, &self.path, e);
        let length = from.length().map_err(failed)?;
        if let Some(file) = target.file() {
            file.set_length(length).map_err(failed)?;
        }
        let mut buffer = vec![0; usize::try_from(PIECE).unwrap_or(0)];
        let mut at = 0;
        while at < length {
            go_on()?;
            let _inside = gate.enter(STEP)?;
            let piece = &mut buffer[..usize::try_from(PIECE.min(length - at)).unwrap_or(0)];
            from.read(piece, at).map_err(failed)?;
            for part in piece.chunks(CLUSTER as usize) {
                if part.iter().any(|byte| *byte != 0) {
                    target.write(part, at).map_err(failed)?;
                }
                at += part.len() as u64;
            }
        }
        let _inside = gate.enter(STEP)?;
        self.output.settle()?;
        self.output.publish()?;
        self.named = true;
        Ok(())
    }

    /// Nothing was overwritten: it goes.
    pub(super) fn forget(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.named, false) { self.output.retract() } else { Ok(()) }
    }

    /// Is it whole?
    pub(super) fn is_named(&self) -> bool {
        self.named
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use crate::nas::folder::Folder;
    use crate::qcow2::Direct;

    #[test]
    fn a_copy_gets_no_name_once_it_is_told_to_stop_and_goes_where_it_is_not_needed() {
        let (dir, points) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = Folder::open_root(points.path()).unwrap();
        let points = Points::of(&root, &root).unwrap();
        let device = tempfile::tempfile().unwrap();
        device.set_len(3 * PIECE + 512).unwrap();
        let device = Target::File(Direct::new(device));
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
            let mut kept = Kept::make(dir.path().to_str().unwrap(), "v", &points).unwrap();
            let ended = kept.copy(&device, &gate, go_on);
            assert_eq!(ended.map_err(|error| error.code).err(), (named == 0).then_some(Code::Cancelled), "{stop_at}");
            assert_eq!((kept.is_named(), gate.is_used(), kept.path().exists()), (named == 1, false, named == 1));
            kept.forget().unwrap();
            drop(kept);
            assert_eq!(names(), 0, "{stop_at}");
        }
    }
}
