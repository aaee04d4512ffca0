//! The removal of a restore point: the whole of it, or nothing.
//!
//! A NAS may keep a file: it is immutable, under a retention time or a legal hold, or its ACL gives nobody the right to
//! delete it. The second of two images may refuse to go when the first is gone already. But a file that can't be removed
//! gets no other name either, and a name can be given back: so every file gets one before the first is removed.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use rustix::fs::FileType;

use super::folder::Folder;
use super::lock::InstanceLock;
use super::partial::PARTIAL;
use crate::error::{Code, Error, Result};
use crate::steps;

/// What the name of a point begins with while it is removed: no longer a restore point, whatever happens then.
pub const DELETED: &str = ".deleted-";
/// What the name of a file begins with whose removal nothing refuses.
const YIELDS: &str = ".removed-";

/// Removes the point `name` of the instance, and returns the bytes that its files occupied. After an error it is there
/// under its name as it was, or the error names what is left of it.
pub fn remove_point(instance: &Folder, lock: &InstanceLock, name: &str) -> Result<u64> {
    let folder = instance.open_dir_in(name)?;
    let names = folder.names()?;
    let hidden = free_name(instance, name)?;
    lock.check()?;
    instance.rename(name, &hidden).map_err(explain)?;
    steps::at("renamed for its removal");
    let mut point = Hidden { instance, lock, name, hidden, folder, names, renamed: Vec::new() };
    let freed = match instance.sync().and_then(|()| point.ask_all()).and_then(|()| point.remove_all()) {
        Ok(freed) => freed,
        Err(error) => return Err(point.put_back(explain(error))),
    };
    // what came meanwhile, such as the other name of a file that somebody has open, goes with the folder
    let rest = instance.remove_tree(&point.hidden).map_err(|error| error.with_leftover(&point.hidden))?;
    Ok(freed + rest)
}

/// Removes `.partial-<timestamp>`, which a backup has left that ended early. If that can't be done, it is put with what
/// deletes have left: there it is in the way of no backup and in need of no parent, and each delete tries again.
pub fn clear_partial(instance: &Folder, partial: &str) -> Result<()> {
    let Err(error) = instance.remove_tree(partial) else { return Ok(()) };
    let error = explain(error);
    let aside = free_name(instance, partial.strip_prefix(PARTIAL).unwrap_or(partial))?;
    if instance.rename(partial, &aside).is_err() {
        return Err(error);
    }
    log::warn!("'{}' can't be removed yet and is called '{aside}' now: {error}", instance.path.join(partial).display());
    Ok(())
}

/// A name for what is removed, beside what could not be.
fn free_name(instance: &Folder, name: &str) -> Result<String> {
    let mut free = format!("{DELETED}{name}");
    let mut tries = 0;
    while instance.kind(&free)?.is_some() {
        tries += 1;
        free = format!("{DELETED}{name}.{tries}");
    }
    Ok(free)
}

/// A point that is out of view, and whole so far.
struct Hidden<'a> {
    instance: &'a Folder,
    lock: &'a InstanceLock,
    /// The name under which it is known.
    name: &'a str,
    hidden: String,
    /// Its path is the one that is known.
    folder: Folder,
    /// What is in it.
    names: Vec<OsString>,
    /// What has another name now.
    renamed: Vec<(OsString, String)>,
}

impl Hidden<'_> {
    /// Asks of each file whether it may be removed, by another name for it.
    fn ask_all(&mut self) -> Result<()> {
        for (i, name) in self.names.iter().enumerate() {
            steps::at("rename one of a point");
            let other = format!("{YIELDS}{i}");
            match self.folder.rename(name, &other) {
                Ok(()) => self.renamed.push((name.clone(), other)),
                // A full repository may have no room for a name, and has to be emptied all the same.
                Err(error) if matches!(error.code, Code::NoSpace | Code::AlreadyExists) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes everything, what may still refuse it first.
    fn remove_all(&self) -> Result<u64> {
        self.lock.check()?;
        let mut names: Vec<_> = self.names.iter().map(|name| Ok((self.rank(name)?, name))).collect::<Result<_>>()?;
        names.sort();
        let mut freed = 0_u64;
        for (_, name) in names {
            steps::at("remove one of a point");
            let removed = self.folder.remove_tree_known_as(self.now(name), &self.folder.path.join(name))?;
            freed = freed.saturating_add(removed);
        }
        Ok(freed)
    }

    /// The name that a file has now.
    fn now<'a>(&'a self, name: &'a OsStr) -> &'a OsStr {
        self.renamed.iter().find(|(own, _)| own == name).map_or(name, |(_, other)| other.as_ref())
    }

    /// What is in a folder was not asked; an image is what a point is made for.
    fn rank(&self, name: &OsStr) -> Result<u8> {
        let is_folder = self.folder.kind(self.now(name))? == Some(FileType::Directory);
        let is_image = Path::new(name).extension() == Some(OsStr::new("qcow2"));
        Ok(if is_folder { 0 } else { 2 - u8::from(is_image) })
    }

    /// Gives everything its own name again, if all of it is there; the error says which it is.
    fn put_back(&self, error: Error) -> Error {
        let put_back = || {
            self.lock.check()?;
            self.renamed.iter().try_for_each(|(own, other)| self.folder.rename(other, own))?;
            if self.folder.names()? != self.names {
                return Err(Error::new(Code::Io, "put the restore point back", "a part of it is gone"));
            }
            self.folder.sync()?;
            self.instance.rename(&self.hidden, self.name)?;
            self.instance.sync()
        };
        match put_back() {
            Ok(()) => Error { cause: format!("{}; the restore point is as it was", error.cause), ..error },
            Err(stuck) => {
                log::warn!("'{}' can't be put back: {stuck}", self.folder.path.display());
                error.with_leftover(&self.hidden)
            }
        }
    }
}

/// What may be behind the refusal of a NAS to change or remove what is published.
pub fn explain(error: Error) -> Error {
    if error.code != Code::PermissionDenied {
        return error;
    }
    let why = "it is kept: immutable or append-only (see lsattr), under a retention time or a legal hold of the NAS, or \
               its ACL gives this host no right to it";
    Error { cause: format!("{}; {why}", error.cause), ..error }
}
