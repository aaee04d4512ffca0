//! What a call that was killed has left of an output, which a lock tells from what a living one writes.

use std::fs::File;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::names::partial_prefix;
use super::output_path::STEP;
use crate::error::{Code, Error, Result, called};
use crate::nas::apart::{AnyFile, Apart, Descriptor};
use crate::nas::folder::{FILE_MODE, Folder};
use crate::nas::lock::{Locked, lock_file};
use crate::point::Manifest;
use crate::{host, lacking};

/// Keeps calls out that write for a name.
pub(super) type Lock = AnyFile;

pub(super) fn lock_exclusively(file: AnyFile) -> rustix::io::Result<AnyFile> {
    host::lock(&file, FlockOperation::NonBlockingLockExclusive).map(|()| file)
}

/// Locks `file`, a whole output of the name `name` that a call has left; `BUSY` while that one lives.
pub(super) fn lock_left_output(folder: &Folder, name: &str, file: &File) -> Result<Option<Lock>> {
    let path = folder.path.join(name);
    let once_more = file.try_clone().map_err(|e| Error::io(STEP, &path, e))?;
    match lock_file(folder, &partial_prefix(name), once_more.into(), lock_exclusively)? {
        Ok(Locked::InRepository(lock) | Locked::OnHost(lock)) => Ok(Some(lock)),
        Err(Errno::WOULDBLOCK) => {
            Err(Error::new(Code::Busy, STEP, format!("another call gives '{}' its name", path.display())))
        }
        Err(error) => Err(Error::io(STEP, &path, called("flock")(error.into()))),
    }
}

/// Does the file belong to whom what we make in the folder belongs to?
pub(super) fn belongs_to_us(folder: &Folder, file: &impl Descriptor) -> Result<bool> {
    let probe = format!(".nasbackup-{}", Manifest::new_point_id()?);
    let ours = folder.create_file(&probe, FILE_MODE)?;
    folder.remove_file(&ours, &probe)?;
    Ok(owner(folder, file)? == owner(folder, &ours)?)
}

fn owner(folder: &Folder, file: &impl Descriptor) -> Result<u32> {
    file.stat().map(|stat| stat.st_uid).map_err(|e| Error::io(STEP, &folder.path, e))
}

/// Removes what a call that was killed has left under this name; false while a call that lives writes it. What is no file of
/// the owner of `ours`, or has another name, too, that is not the `output`'s, somebody else has put there: it is left alone,
/// and never written to.
pub(super) fn remove_left(folder: &Folder, name: &str, output: &str, ours: &Apart) -> Result<bool> {
    let leave = |why: &dyn std::fmt::Display| {
        log::warn!("'{}' is none of ours and is left alone: {why}", folder.path.join(name).display());
        Ok(true)
    };
    // it has got its name, and was to lose this one
    if let Ok(published) = folder.open_file_in(output)
        && folder.check_is(STEP, name, &published).is_ok()
    {
        return folder.remove_file(&published, name).map(|()| true);
    }
    let left = match folder.open_for_writing(name) {
        Err(error) if error.code == Code::NotFound => return Ok(true),
        Err(error) => return leave(&error),
        Ok(left) => left,
    };
    // one that was about to get its name has the rights of what it replaces already
    let of_the_old = folder.open_file_in(output).and_then(|old| owner(folder, &old)).ok();
    let left_by = owner(folder, &left)?;
    if left_by != owner(folder, ours)? && Some(left_by) != of_the_old {
        return leave(&"another user owns it");
    }
    match lock_exclusively(left.clone().into()) {
        Err(Errno::WOULDBLOCK) => return Ok(false),
        // where there is no flock, this host's is held by now
        Err(error) if !lacking::is_unknown(error) && error != Errno::NOLCK => return leave(&error),
        _ => {}
    }
    log::info!("removing '{}', left by a call that was killed", folder.path.join(name).display());
    folder.remove_file(&left, name).map(|()| true)
}
