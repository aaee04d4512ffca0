//! Partial outputs that killed calls have left. A lock tells them from the files that living calls write.

use std::fs::File;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::names::partial_prefix;
use super::output_path::STEP;
use crate::apart::{AnyFile, Apart, Descriptor};
use crate::config::FILE_MODE;
use crate::error::{Code, Error, Result, called};
use crate::nas::folder::Folder;
use crate::nas::lock::{Locked, lock_file};
use crate::random;
use crate::{host, lacking};

/// A lock that keeps out other calls that write an output of the same name. It is no `Flock`, whose drop gives the lock back: a
/// thread that outlives its call and still writes the file has to keep the lock until it closes the file.
pub(super) type Lock = AnyFile;

pub(super) fn lock_exclusively(file: AnyFile) -> rustix::io::Result<AnyFile> {
    host::lock(&file, FlockOperation::NonBlockingLockExclusive).map(|()| file)
}

/// Locks `file`, a whole output that a killed call has left for the name `name`. `BUSY` if that call lives.
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

/// True if the file belongs to the user to whom files belong that this process makes in the folder. A server may map users, so a
/// file is made to see.
pub(super) fn belongs_to_us(folder: &Folder, file: &impl Descriptor) -> Result<bool> {
    let probe = format!(".nasbackup-{}", random::hex("name a file")?);
    let ours = folder.create_file(&probe, FILE_MODE)?;
    folder.remove_file(&ours, &probe)?;
    Ok(owner(folder, file)? == owner(folder, &ours)?)
}

fn owner(folder: &Folder, file: &impl Descriptor) -> Result<u32> {
    file.stat().map(|stat| stat.st_uid).map_err(|e| Error::io(STEP, &folder.path, e))
}

/// Removes the file `name` that a killed call has left of `output`. Returns false while a living call writes the file. If the file
/// belongs to another user than `ours`, or has a further name that is not `output`, somebody else has put it there: the library
/// leaves it alone, and never writes to it.
pub(super) fn remove_left(folder: &Folder, name: &str, output: &str, ours: &Apart) -> Result<bool> {
    let leave = |why: &dyn std::fmt::Display| {
        log::warn!("'{}' is none of ours and is left alone: {why}", folder.path.join(name).display());
        Ok(true)
    };
    // the output has got its name, and the killed call did not come to remove this one
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
    // a file that was about to get its name has the owner of the volume that it replaces already
    let of_the_old = folder.open_file_in(output).and_then(|old| owner(folder, &old)).ok();
    let left_by = owner(folder, &left)?;
    if left_by != owner(folder, ours)? && Some(left_by) != of_the_old {
        return leave(&"another user owns it");
    }
    match lock_exclusively(left.clone().into()) {
        Err(Errno::WOULDBLOCK) => return Ok(false),
        // where the storage has no flock, `lock_name` holds this host's lock by now
        Err(error) if !lacking::is_unknown(error) && error != Errno::NOLCK => return leave(&error),
        _ => {}
    }
    log::info!("removing '{}', left by a call that was killed", folder.path.join(name).display());
    folder.remove_file(&left, name).map(|()| true)
}
