//! What the machine remembered beside its disks: read from the point, compared with its hash, and written to a file that gets its name
//! together with those of the disks.

use std::io::Write;
use std::path::Path;

use super::output::Output;
use super::output_path::{PointFolders, STEP, refused};
use super::publication::Opened;
use super::request::Verify;
use crate::error::{Code, Error, Result, called};
use crate::nas::folder::Folder;
use crate::nas::path::PointPath;
use crate::point::{Manifest, StateFile, StatePart};

const READ: &str = "read the machine's state";

/// Reads what is wanted of what the machine remembered beside its disks. `NOT_FOUND` where the point does not hold it.
pub(super) fn read(root: &Folder, point: &PointPath, id: Option<&str>, parts: &[StatePart]) -> Result<Vec<StateFile>> {
    if parts.is_empty() {
        return Ok(Vec::new());
    }
    let folder = root.open_dir(&point.folder())?;
    let manifest = Manifest::read_sound(&folder, point)?;
    if manifest.as_ref().is_some_and(|manifest| id.is_some_and(|id| manifest.point_id != id)) {
        return Err(Error::new(Code::CorruptImage, READ, format!("the manifest of '{point}' was exchanged")));
    }
    let read = |part: &StatePart| {
        let file = manifest.as_ref().map_or(Ok(None), |manifest| StateFile::read(&folder, manifest, *part))?;
        file.ok_or_else(|| Error::new(Code::NotFound, READ, format!("'{point}' holds no {}", part.what())))
    };
    parts.iter().map(read).collect()
}

/// Writes it to a new file beside the output's name.
pub(super) fn open_output(points: &PointFolders, path: String, file: StateFile, keep_old: bool) -> Result<Opened> {
    let mut output = Output::open(&path, true, file.bytes.len() as u64, points)?;
    let Output::File(new) = &mut output else {
        return Err(refused(Path::new(&path), "is no file"));
    };
    new.file.write_all(&file.bytes).map_err(|e| Error::io(STEP, &path, called("write")(e)))?;
    let kept = if keep_old { output.choose_kept_name()? } else { None };
    Ok(Opened { file: file.name.to_owned(), path, verify: Verify::Data, output, kept })
}
