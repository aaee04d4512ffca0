//! Renames in a folder in which other hosts may rename, too. A rename replaces nothing that the caller does not mean, and its result is
//! looked at where a server's answer may be lost or wrong.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;

use log::Level;
use rustix::fs::{AtFlags, OFlags, RenameFlags, Stat, StatxFlags};
use rustix::io::Errno;

use super::folder::{Folder, create, failed, stat};
use crate::apart::{Apart, Descriptor};
use crate::config::FILE_MODE;
use crate::descriptor::Attributes;
use crate::error::Result;
use crate::fs_kind::FsKind;
use crate::{lacking, limits};

/// How often a rename is tried that a CIFS server refuses because a file in the folder is open.
const TRIES: u32 = 40;

/// A way to rename a file of a folder.
type Rename = fn(&Folder, &OsStr, &OsStr) -> rustix::io::Result<()>;

impl Folder {
    /// Renames within this folder; `ALREADY_EXISTS` when `to` is there. The caller holds the instance's lock, or gives a unique
    /// name.
    pub fn rename(&self, from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> Result<()> {
        self.rename_or(from.as_ref(), to.as_ref(), None, Folder::rename_after_check)
    }

    /// Like `rename`, of a name `to` that nobody has: the caller has just found it free in a listing, or nobody can guess it. It is
    /// not looked for again, nor is what has the name `from`, if that is `known`.
    pub(super) fn rename_to_free(&self, from: &OsStr, to: &OsStr, known: Option<&Attributes>) -> Result<()> {
        self.rename_or(from, to, known, |folder, from, to| rustix::fs::renameat(&folder.fd, from, &folder.fd, to))
    }

    /// Renames `file`, and nothing else that has the name `from` by now, to `to` in a folder in which others rename, too;
    /// `ALREADY_EXISTS` when `to` is there.
    pub fn name_beside_others(&self, file: &impl Descriptor, from: &str, to: &str) -> Result<()> {
        const STEP: &str = "rename";
        self.check_name(STEP, to.as_ref())?;
        match file.link_to(self.as_fd(), to) {
            // the server may have linked although its answer was lost
            linked if linked.is_ok() || self.check_is(STEP, to, file).is_ok() => {
                if let Err(error) = self.remove_file(file, from) {
                    log::warn!("'{}' has a second name: {error}", self.path.join(to).display());
                }
                Ok(())
            }
            Err(Errno::EXIST) => Err(failed(STEP, self.path.join(to), Errno::EXIST)),
            // where files can't have two names, or a process may not link an open file
            _ => {
                self.check_is(STEP, from, file)?;
                self.rename_or(from.as_ref(), to.as_ref(), None, Folder::rename_onto_own)?;
                self.check_is(STEP, to, file)
            }
        }
    }

    /// Renames with `RENAME_NOREPLACE`, or by `otherwise` where the file system lacks that.
    fn rename_or(&self, from: &OsStr, to: &OsStr, known: Option<&Attributes>, otherwise: Rename) -> Result<()> {
        let step = "rename";
        self.check_name(step, from)?;
        self.check_name(step, to)?;
        let before = known.copied().map_or_else(|| Attributes::of_name(self, from, StatxFlags::empty()), Ok);
        let once = || match rustix::fs::renameat_with(&self.fd, from, &self.fd, to, RenameFlags::NOREPLACE) {
            // NFS and others lack the flag
            Err(error) if lacking::is_unknown(error) => {
                let instead = "a new name is looked at, or linked to, before the old one goes";
                lacking::tell(Level::Info, self, "RENAME_NOREPLACE", error, instead);
                otherwise(self, from, to)
            }
            other => other,
        };
        let mut renamed = once();
        for _ in 1..TRIES {
            if renamed != Err(Errno::ACCESS) || !self.may_be_held_by_its_files(&before) {
                break;
            }
            std::thread::sleep(limits::REMOVAL_PAUSE);
            renamed = once();
        }
        let Err(error) = renamed else { return Ok(()) };
        let both = format!("{}' to '{}", self.path.join(from).display(), to.display());
        let Ok(before) = before else { return Err(failed(step, both, error)) };
        match self.has_moved(&before, from, to) {
            Ok(true) => {
                log::warn!("the NAS renamed '{both}', going on although it answered: {error}");
                Ok(())
            }
            Ok(false) => Err(failed(step, both, error)),
            Err(unknown) => {
                let left = format!("'{}', unless it has its old name: {unknown}", self.path.join(to).display());
                Err(failed(step, both, error).with_leftover(left))
            }
        }
    }

    /// True for a folder on CIFS. The CIFS client closes a file at the server up to a second after the file was closed here,
    /// and a server renames no folder in which one is open.
    fn may_be_held_by_its_files(&self, found: &rustix::io::Result<Attributes>) -> bool {
        found.is_ok_and(|found| found.kind.is_dir()) && FsKind::of(self) == FsKind::Cifs
    }

    /// Renames `file`, and nothing else that has the name `from` by now, to `to`, and replaces what has that name.
    pub fn replace(&self, file: &impl Descriptor, from: &str, to: &str) -> Result<()> {
        const STEP: &str = "rename";
        self.check_name(STEP, from.as_ref())?;
        self.check_name(STEP, to.as_ref())?;
        self.check_is_ours(STEP, from, file)?;
        rustix::fs::renameat(&self.fd, from, &self.fd, to).map_err(|e| failed(STEP, self.path.join(to), e))?;
        self.check_is_ours(STEP, to, file)
    }

    /// Moves `file`, and nothing else that has its `name` by now, to another folder under the same name, and replaces what has it there.
    /// That is replaced in one step if no process of this host has it open: an NFS client gives an open one another name before.
    pub fn move_to(&self, file: &impl Descriptor, name: &str, other: &Folder) -> Result<()> {
        const STEP: &str = "move";
        self.check_name(STEP, name.as_ref())?;
        self.check_is(STEP, name, file)?;
        let moved = rustix::fs::renameat(&self.fd, name, &other.fd, name);
        // the server may have moved it although its answer was lost
        let is_there = other.check_is(STEP, name, file);
        moved
            .map_err(|e| failed(STEP, self.path.join(name), e))
            .or_else(|error| is_there.clone().map_err(|_| error))?;
        is_there
    }

    /// Gives `file`, which has the name `from`, the second name `to`; `ALREADY_EXISTS` when `to` is there.
    pub fn link(&self, file: &File, from: &str, to: &str) -> Result<()> {
        const STEP: &str = "link";
        self.check_name(STEP, from.as_ref())?;
        self.check_name(STEP, to.as_ref())?;
        rustix::fs::linkat(&self.fd, from, &self.fd, to, AtFlags::empty())
            .map_err(|e| failed(STEP, self.path.join(to), e))?;
        self.check_is(STEP, to, file)
    }

    /// True if the file was renamed although the server's answer was lost or wrong: it has the name `to` and not `from`.
    fn has_moved(&self, before: &Attributes, from: &OsStr, to: &OsStr) -> rustix::io::Result<bool> {
        match (stat(self.as_fd(), from), stat(self.as_fd(), to)) {
            (Err(Errno::NOENT), Ok(now)) => Ok((now.st_dev, now.st_ino) == before.id()),
            (Ok(_), _) | (_, Err(Errno::NOENT)) => Ok(false),
            (Err(error), _) => Err(error),
        }
    }

    /// Renames if `to` is not there. Should somebody make `to` meanwhile, a folder replaces at most an empty folder.
    fn rename_after_check(&self, from: &OsStr, to: &OsStr) -> rustix::io::Result<()> {
        match stat(self.as_fd(), to) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => rustix::fs::renameat(&self.fd, from, &self.fd, to),
            Err(error) => Err(error),
        }
    }

    /// Links the file to its new name, which fails if that is there, and removes the old name.
    fn rename_onto_own(&self, from: &OsStr, to: &OsStr) -> rustix::io::Result<()> {
        let is_linked = || Ok::<_, Errno>(is_same(&stat(self.as_fd(), from)?, &stat(self.as_fd(), to)?));
        match rustix::fs::linkat(&self.fd, from, &self.fd, to, AtFlags::empty()) {
            // the server may have linked although its answer was lost
            linked if linked.is_ok() || is_linked() == Ok(true) => {
                // a failure is only logged: the file has its new name
                self.remove_made(from, AtFlags::empty());
                Ok(())
            }
            Err(error) if lacking::is_unsettable(error) || error == Errno::MLINK => self.rename_onto_empty(from, to),
            other => other,
        }
    }

    /// Where files can't have two names: makes an empty file under the new name, which fails if that is there, and replaces it.
    fn rename_onto_empty(&self, from: &OsStr, to: &OsStr) -> rustix::io::Result<()> {
        stat(self.as_fd(), from)?;
        let own = Apart::open(self, |folder| create(folder, to, OFlags::WRONLY, FILE_MODE))?;
        let is_own = || Ok::<_, Errno>(is_same(&own.stat()?, &stat(self.as_fd(), to)?));
        rustix::fs::renameat(&self.fd, from, &self.fd, to).inspect_err(|_| {
            // the new name may belong to somebody else by now, or to our file if the rename worked in spite of the error
            if is_own() == Ok(true) {
                self.remove_made(to, AtFlags::empty());
            }
        })
    }
}

fn is_same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino, one.st_size) == (other.st_dev, other.st_ino, other.st_size)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::super::folder::tests::folder;
    use super::*;
    use crate::config::FOLDER_MODE;
    use crate::error::Code;

    #[test]
    fn a_rename_replaces_nothing() {
        let (_dir, folder) = folder();
        folder.make_dir("from", FOLDER_MODE).unwrap();
        folder.make_dir("there", FOLDER_MODE).unwrap();
        assert_eq!(folder.rename("from", "there").unwrap_err().code, Code::AlreadyExists);
        assert_eq!(folder.rename_after_check("from".as_ref(), "there".as_ref()).unwrap_err(), Errno::EXIST);
        assert_eq!(folder.rename("none", "to").unwrap_err().code, Code::NotFound);
        folder.rename("from", "to").unwrap();
        folder.rename_after_check("to".as_ref(), "again".as_ref()).unwrap();
        folder.sync().unwrap();
        assert_eq!(folder.names().unwrap(), ["again", "there"]);
        for (name, text) in [("file", "new"), ("old", "old")] {
            folder.create_file(name, FILE_MODE).unwrap().write_all(text.as_bytes()).unwrap();
        }
        let file = folder.open_file_in("file").unwrap();
        assert_eq!(folder.name_beside_others(&file, "file", "old").unwrap_err().code, Code::AlreadyExists);
        for (rename, from, to) in
            [(Folder::rename_onto_own as Rename, "file", "linked"), (Folder::rename_onto_empty, "linked", "renamed")]
        {
            let rename = |from: &str, to: &str| rename(&folder, from.as_ref(), to.as_ref());
            assert_eq!(rename(from, "old").unwrap_err(), Errno::EXIST);
            assert_eq!(rename("none", "free").unwrap_err(), Errno::NOENT);
            rename(from, to).unwrap();
        }
        assert_eq!(folder.names().unwrap(), ["again", "old", "renamed", "there"]);
        let read = |name: &str| fs::read_to_string(folder.path.join(name)).unwrap();
        assert_eq!((read("old"), read("renamed")), ("old".to_owned(), "new".to_owned()));
    }
}
