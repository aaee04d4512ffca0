//! QEMU's image lock (docs/system/qemu-block-drivers: "Disk image file locking"). The library takes the lock as a reader that
//! allows no writer before it reads a stopped guest's disk, so that the guest can't start meanwhile.
//!
//! A user of an image takes shared locks, one byte for each permission: on the bytes from 100 on for what it does, and on those
//! from 200 on for what it forbids to others.

use std::fs::File;
use std::io;
use std::thread;

use crate::error::{Code, Error, Result};
use crate::{limits, sys};

const DOES: i64 = 100;
const FORBIDS: i64 = 200;
/// QEMU's permissions by bit: read consistently, write, write what changes nothing, resize.
const READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;

/// A kind of user: the permissions that it takes, and those that it denies to all others.
#[derive(Debug)]
pub(crate) struct User {
    does: &'static [i64],
    forbids: &'static [i64],
}

pub(crate) const READER: User = User { does: &[READ], forbids: &[WRITE, RESIZE] };
pub(crate) const WRITER: User = User { does: &[READ, WRITE, RESIZE], forbids: &[READ, WRITE, RESIZE] };

impl User {
    /// Locks the image that is open as `file`. False if another user is in the way, at `looks_again` further looks, too.
    pub(crate) fn lock(&self, file: &File, looks_again: u32) -> io::Result<bool> {
        bytes(self.does, self.forbids).try_for_each(|byte| sys::share_byte(file, byte))?;
        for _ in 0..looks_again {
            if !self.meets_another(file)? {
                return Ok(true);
            }
            thread::sleep(limits::HOLDER_LOOK);
        }
        Ok(!self.meets_another(file)?)
    }

    /// True if another user does what this one forbids, or forbids what this one does.
    fn meets_another(&self, file: &File) -> io::Result<bool> {
        bytes(self.forbids, self.does).try_fold(false, |meets, byte| Ok(meets || sys::byte_is_locked(file, byte)?))
    }
}

/// The lock bytes of one who does and forbids this.
fn bytes(does: &[i64], forbids: &[i64]) -> impl Iterator<Item = i64> {
    does.iter().map(|permission| DOES + permission).chain(forbids.iter().map(|permission| FORBIDS + permission))
}

const STEP: &str = "lock the disk's image";

/// An image that nobody writes to as long as this lives.
#[derive(Debug)]
pub(crate) struct ImageLock {
    file: File,
}

impl ImageLock {
    /// Locks the image that is open as `file`. `DOMAIN_STATE` when somebody writes to it.
    pub(crate) fn take(file: File, path: &str) -> Result<ImageLock> {
        if !READER.lock(&file, 0).map_err(|error| Error::io(STEP, path, error))? {
            let cause = format!("'{path}' is in use: has the guest been started?");
            return Err(Error::new(Code::DomainState, STEP, cause));
        }
        Ok(ImageLock { file })
    }

    /// The image, open for reading.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_lock_together_and_a_writer_alone() {
        for (first, second, together) in
            [(READER, READER, true), (READER, WRITER, false), (WRITER, READER, false), (WRITER, WRITER, false)]
        {
            let image = tempfile::NamedTempFile::new().unwrap();
            let [held, other] = [(); 2].map(|()| image.reopen().unwrap());
            assert!(first.lock(&held, 0).unwrap());
            assert_eq!(second.lock(&other, 1).unwrap(), together, "{first:?}, then {second:?}");
        }
    }
}
