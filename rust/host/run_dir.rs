//! Folders of this host that one owner has for a while, such as the one in which a NAS is mounted. While its owner lives such a
//! folder is locked: one that is not was left by a process that was killed, and the next sweep clears it.

use std::fmt::Display;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::flock::Flock;
use crate::error::{Code, Error, Result};
use crate::random;
use crate::user::refuse_writable_by_others;

/// How often a folder is made anew when a sweep removes it in the moment before it is locked.
const RACES: u32 = 100;

/// Where folders of one kind lie.
#[derive(Debug)]
pub struct RunDirs {
    /// The folder that holds them all. Others find what is theirs in it, too.
    pub all: PathBuf,
    /// The setting that names it, and what it says: the same folder, perhaps by links. None where names are not relied on, so that
    /// others may write there.
    pub setting: Option<(&'static str, PathBuf)>,
    /// What the name of each begins with.
    pub prefix: &'static str,
    /// The mode of each.
    pub mode: u32,
}

/// A folder that this process holds. Its user removes it, or leaves it to a sweep.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    folder: File,
    // dropped last: until then no sweep touches the folder
    _lock: Flock,
}

impl RunDirs {
    /// `INVALID_ARGUMENT` on the setting when others may write there: they could exchange a folder after QEMU or `mount` was
    /// given its name.
    pub fn check(&self) -> Result<()> {
        self.setting.iter().try_for_each(|(name, said)| refuse_writable_by_others(name, said))
    }

    /// Makes one, whatever the umask, under a name that nobody can guess.
    pub fn make(&self, step: &'static str) -> Result<RunDir> {
        self.check()?;
        for _ in 0..RACES {
            let path = self.all.join(format!("{}{}-{}", self.prefix, std::process::id(), random::hex(step)?));
            let io = |e| Error::io(step, &path, e);
            DirBuilder::new().mode(self.mode).create(&path).map_err(io)?;
            if let Some(made) = RunDir::take(&path).map_err(io)? {
                made.folder.set_permissions(Permissions::from_mode(self.mode)).map_err(io)?;
                return Ok(made);
            }
        }
        Err(Error::new(Code::Busy, step, format!("'{}' is swept all the time", self.all.display())))
    }

    /// Calls `clear` with each that nobody holds any more, if it `is_meant`; false when that leaves the folder as it is. Failures
    /// are logged, and the next sweep tries again.
    pub fn sweep<E: Display>(&self, is_meant: impl Fn(&Path) -> bool, clear: impl Fn(&RunDir) -> Result<bool, E>) {
        let Ok(entries) = fs::read_dir(&self.all) else { return };
        if let Err(error) = self.check() {
            return log::error!("unable to clear '{}', leaving it alone: {error}", self.all.display());
        }
        for path in entries.flatten().map(|entry| entry.path()) {
            if !path.file_name().and_then(|name| name.to_str()).is_some_and(|name| self.is_ours(name))
                || !is_meant(&path)
            {
                continue;
            }
            let cleared = match RunDir::take(&path) {
                Ok(Some(left)) => clear(&left).map_err(|error| error.to_string()),
                taken => taken.map(|_| false).map_err(|error| error.to_string()),
            };
            let left = format!("'{}', left by a process that was killed", path.display());
            match cleared {
                Ok(true) => log::warn!("cleared {left}"),
                Ok(false) => {}
                Err(error) => log::error!("unable to clear {left}, leaving it to the next sweep: {error}"),
            }
        }
    }

    /// True for a name as `make` gives it: a process id and a random part, or a counter, as earlier versions wrote.
    fn is_ours(&self, name: &str) -> bool {
        let all = |part: &str, is: fn(&u8) -> bool| !part.is_empty() && part.bytes().all(|byte| is(&byte));
        name.strip_prefix(self.prefix).and_then(|name| name.split_once('-')).is_some_and(|(process, rest)| {
            all(process, u8::is_ascii_digit)
                && (all(rest, u8::is_ascii_digit) || rest.len() == 32 && all(rest, u8::is_ascii_hexdigit))
        })
    }
}

impl RunDir {
    /// Locks the folder at `path`; none when somebody holds it, or it is gone or was exchanged.
    fn take(path: &Path) -> io::Result<Option<RunDir>> {
        let gone = |e: &io::Error| e.kind() == ErrorKind::NotFound;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let folder = match OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path) {
            Err(error) if gone(&error) => return Ok(None),
            folder => folder?,
        };
        let lock = match Flock::take(folder.try_clone()?) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            lock => lock?,
        };
        let own = folder.metadata()?;
        let is_there = match path.symlink_metadata() {
            Err(error) if gone(&error) => false,
            found => found.map(|found| (found.dev(), found.ino()) == (own.dev(), own.ino()))?,
        };
        Ok(is_there.then(|| RunDir { path: path.to_owned(), folder, _lock: lock }))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder, open.
    pub fn folder(&self) -> &File {
        &self.folder
    }
}

/// Makes a folder with this mode, whatever the umask.
pub fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_swept_once_its_owner_is_gone_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let all = dir.path().to_owned();
        let dirs = RunDirs { setting: Some(("scratchDir", all.clone())), all, prefix: "p-", mode: 0o711 };
        let held = dirs.make("make it").unwrap();
        assert_eq!(held.folder().metadata().unwrap().permissions().mode() & 0o777, 0o711);
        let left = dirs.make("make it").unwrap().path().to_owned();
        fs::create_dir(dir.path().join("p-1-1")).unwrap();
        for other in ["1-1", "p-1", "p-1-", "p-x-1", "p-1-0123456789abcdef", "p-1-x"] {
            fs::create_dir(dir.path().join(other)).unwrap();
        }
        let cleared = std::cell::RefCell::new(Vec::new());
        dirs.sweep(
            |_| true,
            |swept| {
                assert!(RunDir::take(swept.path()).unwrap().is_none(), "it is held meanwhile");
                cleared.borrow_mut().push(swept.path().to_owned());
                Ok::<_, Error>(true)
            },
        );
        let (mut cleared, mut expected) = (cleared.into_inner(), vec![left, dir.path().join("p-1-1")]);
        cleared.sort();
        expected.sort();
        assert_eq!(cleared, expected);
        drop(held);
    }

    #[test]
    fn what_was_removed_or_exchanged_before_it_was_locked_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        assert!(RunDir::take(&dir.path().join("gone")).unwrap().is_none());
        std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).unwrap();
        RunDir::take(&dir.path().join("link")).unwrap_err();
    }
}
