//! Files that the library writes to on storage that may hang. They are open in the second table of descriptors.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, OFlags, Stat};
use rustix::io::DupFlags;

use crate::descriptor;
use crate::second_table::{Pool, first_number, pool};

/// A file with a descriptor in one of the two tables.
pub trait Descriptor {
    /// Runs `work` on a thread that has the file's table. The work uses no file of the other table, and keeps no descriptor.
    fn with<T: Send>(&self, work: impl FnOnce(&File) -> T + Send) -> T;

    /// Opens the same file once more, with these flags.
    fn open_again(&self, flags: OFlags) -> rustix::io::Result<Self>
    where
        Self: Sized;

    /// Gives the file another name, in `folder`.
    fn link_to(&self, folder: BorrowedFd<'_>, name: &str) -> rustix::io::Result<()>;

    /// The file's type, size, times and so on.
    fn stat(&self) -> rustix::io::Result<Stat> {
        self.with(|file| rustix::fs::fstat(file))
    }
}

impl Descriptor for File {
    fn with<T: Send>(&self, work: impl FnOnce(&File) -> T + Send) -> T {
        work(self)
    }

    fn open_again(&self, flags: OFlags) -> rustix::io::Result<File> {
        descriptor::open_again(self, flags)
    }

    fn link_to(&self, folder: BorrowedFd<'_>, name: &str) -> rustix::io::Result<()> {
        rustix::fs::linkat(self, "", folder, name, AtFlags::EMPTY_PATH)
    }
}

/// An open file in one of the two tables.
#[derive(Debug)]
pub enum AnyFile {
    /// In the first table.
    FirstTable(File),
    /// In the second table.
    SecondTable(Apart),
}

impl From<File> for AnyFile {
    fn from(file: File) -> AnyFile {
        AnyFile::FirstTable(file)
    }
}

impl From<Apart> for AnyFile {
    fn from(file: Apart) -> AnyFile {
        AnyFile::SecondTable(file)
    }
}

impl AnyFile {
    /// Runs `work`, and drops the file, as `Apart` does that.
    pub(crate) fn close_after<T: Send + 'static>(self, work: impl FnOnce(&File) -> T + Send + 'static) -> Option<T> {
        match self {
            AnyFile::FirstTable(file) => Some(work(&file)),
            AnyFile::SecondTable(file) => file.close_after(work),
        }
    }
}

impl Descriptor for AnyFile {
    fn with<T: Send>(&self, work: impl FnOnce(&File) -> T + Send) -> T {
        match self {
            AnyFile::FirstTable(file) => file.with(work),
            AnyFile::SecondTable(file) => file.with(work),
        }
    }

    fn open_again(&self, flags: OFlags) -> rustix::io::Result<AnyFile> {
        match self {
            AnyFile::FirstTable(file) => Descriptor::open_again(file, flags).map(AnyFile::FirstTable),
            AnyFile::SecondTable(file) => file.open_again(flags).map(AnyFile::SecondTable),
        }
    }

    fn link_to(&self, folder: BorrowedFd<'_>, name: &str) -> rustix::io::Result<()> {
        match self {
            AnyFile::FirstTable(file) => file.link_to(folder, name),
            AnyFile::SecondTable(file) => file.link_to(folder, name),
        }
    }
}

/// A file in the second table. A clone is the same open file; the drop of the last one closes the file and waits for the close.
#[derive(Clone)]
pub struct Apart(Arc<HeldFile>);

struct HeldFile {
    /// `None` during the drop.
    file: Option<File>,
    /// The threads that have the file's table; `None` where there is no second table.
    pool: Option<&'static Pool>,
}

impl Drop for HeldFile {
    fn drop(&mut self) {
        if let (Some(file), Some(pool)) = (self.file.take(), self.pool) {
            pool.close(move || drop(file));
        }
    }
}

impl std::fmt::Debug for Apart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Apart").field(&self.file().as_raw_fd()).finish()
    }
}

impl Apart {
    /// Calls `open` in the second table, with a copy of `at` that is valid there.
    pub fn open(
        at: impl AsFd,
        open: impl FnOnce(BorrowedFd<'_>) -> rustix::io::Result<File> + Send,
    ) -> rustix::io::Result<Apart> {
        let at = at.as_fd();
        let pool = pool()?;
        let file = match pool {
            None => open(at)?,
            Some(pool) => pool.lend(at, |mut number| {
                let file = open(number.as_fd())?;
                // reuses the number of the lent copy, because there may be no other free one
                rustix::io::dup3(&file, &mut number, DupFlags::CLOEXEC).map(|()| File::from(number))
            })?,
        };
        Ok(Apart(Arc::new(HeldFile { file: Some(file), pool })))
    }

    /// The same open file, once more, in the second table: `file` is open in the first.
    pub fn of(file: &File) -> rustix::io::Result<Apart> {
        Apart::open(file, |number| rustix::io::fcntl_dupfd_cloexec(number, first_number()).map(File::from))
    }

    fn file(&self) -> &File {
        match &self.0.file {
            Some(file) => file,
            None => unreachable!("it is taken by the drop alone"),
        }
    }

    /// Runs `work`, and drops this file, without a wait for a NAS that hangs: none if that is not done soon.
    fn close_after<T: Send + 'static>(self, work: impl FnOnce(&File) -> T + Send + 'static) -> Option<T> {
        match self.0.pool {
            Some(pool) => pool.close(move || work(self.file())),
            None => Some(work(self.file())),
        }
    }

    /// Runs `work` in the second table, with this file and a copy of `other` that is valid there.
    pub(crate) fn with_lent<T: Send>(
        &self,
        other: &File,
        work: impl FnOnce(&File, &File) -> io::Result<T> + Send,
    ) -> io::Result<T> {
        match self.0.pool {
            Some(pool) => pool.lend(other.as_fd(), |other| work(self.file(), &File::from(other))),
            None => work(self.file(), other),
        }
    }

    /// Makes the file's data and metadata durable.
    pub fn sync_all(&self) -> io::Result<()> {
        self.with(File::sync_all)
    }
}

impl Descriptor for Apart {
    fn with<T: Send>(&self, work: impl FnOnce(&File) -> T + Send) -> T {
        let work = || {
            let file = self.file();
            debug_assert!(rustix::io::fcntl_getfd(file).is_ok(), "{self:?} is of another table");
            work(file)
        };
        match self.0.pool {
            Some(pool) => pool.run(work),
            None => work(),
        }
    }

    fn open_again(&self, flags: OFlags) -> rustix::io::Result<Apart> {
        let pool = self.0.pool;
        let file = self.with(|file| {
            let again = descriptor::open_again(file, flags)?;
            if pool.is_some() {
                rustix::io::fcntl_dupfd_cloexec(again, first_number()).map(File::from)
            } else {
                Ok(again)
            }
        })?;
        Ok(Apart(Arc::new(HeldFile { file: Some(file), pool })))
    }

    fn link_to(&self, folder: BorrowedFd<'_>, name: &str) -> rustix::io::Result<()> {
        match self.0.pool {
            Some(pool) => pool.lend(folder, |folder| self.file().link_to(folder.as_fd(), name)),
            None => self.file().link_to(folder, name),
        }
    }
}

impl Read for Apart {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.with(|mut file| file.read(buffer))
    }
}

impl Write for Apart {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|mut file| file.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
