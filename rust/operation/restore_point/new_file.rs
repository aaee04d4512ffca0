//! A new file that is written under a name beside the output's, and gets the output's name when it is whole.

use std::fs::Metadata;
use std::path::Path;

use log::Level;
use rustix::fs::{Gid, Mode, Uid};
use rustix::io::Errno;

use super::left::{Lock, lock_exclusively, remove_left};
use super::locked_image::LockedImage;
use super::names::{RANDOM_DIGITS, is_kept, is_partial, kept_name_of, kept_prefix, partial_prefix};
use super::output_path::{STEP, refused};
use crate::apart::{AnyFile, Apart, Descriptor};
use crate::config::FILE_MODE;
use crate::error::{Code, Error, Result, called};
use crate::lacking;
use crate::nas::folder::Folder;
use crate::nas::lock::{Locked, lock_file};
use crate::random;
use crate::work::steps;

const PUBLISH: &str = "publish the output";

/// The new file. A drop before `publish` removes it.
#[derive(Debug)]
pub(super) struct NewFile {
    pub(super) folder: Folder,
    pub(super) name: String,
    /// The file's name until it is published; `None` afterwards.
    pub(super) beside: Option<String>,
    pub(super) file: Apart,
    /// The volume that it replaces.
    pub(super) old: Option<LockedImage>,
    // dropped last: until then no other call writes an output of this name
    lock: Option<Lock>,
}

impl NewFile {
    pub(super) fn make(path: &Path, old: Option<Metadata>) -> Result<NewFile> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            return Err(refused(path, "is no file's name"));
        };
        let folder = Folder::open_without_links(parent)?;
        let old = old.map(|_| LockedImage::take(folder.open_file_in(name)?, path)).transpose()?;
        let beside = format!("{}-{}", partial_prefix(name), &random::hex("name a file")?[..RANDOM_DIGITS]);
        let file = folder.create_file(&beside, FILE_MODE)?;
        let mut new = NewFile { folder, name: name.to_owned(), beside: Some(beside), file, old, lock: None };
        new.lock_name()?;
        Ok(new)
    }

    /// Locks the output's name, and removes what killed calls have left of it. `BUSY` while another call writes an output of this name.
    /// Of two calls that begin at the same time both may be refused.
    fn lock_name(&mut self) -> Result<()> {
        let NewFile { folder, name, beside: Some(own), file, .. } = self else { return Ok(()) };
        let path = folder.path.join(&*name);
        let busy = |by: &str| {
            let by = folder.path.join(by);
            let cause = format!("another call writes '{}': '{}' is locked", path.display(), by.display());
            Error::new(Code::Busy, STEP, cause)
        };
        let (Locked::InRepository(lock) | Locked::OnHost(lock)) =
            lock_file(folder, &partial_prefix(name), AnyFile::from(file.clone()), lock_exclusively)?.map_err(
                |error| match error {
                    Errno::WOULDBLOCK => busy(own),
                    error => Error::io(STEP, &path, called("flock")(error.into())),
                },
            )?;
        self.lock = Some(lock);
        let left = folder.names_that(|left| left.to_str().is_some_and(|left| left != own && is_partial(name, left)))?;
        for left in left.iter().filter_map(|left| left.to_str()) {
            if !remove_left(folder, left, name, file)? {
                return Err(busy(left));
            }
        }
        // before the file was locked another call may have removed it as one that was left
        folder.check_is(STEP, &*own, file).map_err(|_| busy(own))?;
        self.remove_stale_kept_names()
    }

    /// Removes second names of the volume that a killed call has made to keep it: that call did not replace the volume.
    fn remove_stale_kept_names(&self) -> Result<()> {
        let NewFile { folder, name, old: Some(old), .. } = self else { return Ok(()) };
        let links = rustix::fs::fstat(&old.file).map_err(|e| Error::io(STEP, &old.path, e))?.st_nlink;
        if links < 2 {
            return Ok(());
        }
        let all = folder.names_that(|other| other.to_str().is_some_and(|other| is_kept(name, other)))?;
        for left in all.iter().filter_map(|left| left.to_str()) {
            if folder.check_is(STEP, left, &old.file).is_ok() {
                log::info!("removing '{}', another name of the volume", folder.path.join(left).display());
                folder.remove_file(&old.file, left)?;
            }
        }
        Ok(())
    }

    /// Chooses a path under which the replaced volume can be kept, and tries whether its storage gives it a second name. `None` if
    /// the output replaces nothing.
    pub(super) fn choose_kept_name(&self) -> Result<Option<String>> {
        let NewFile { folder, name, old: Some(old), .. } = self else { return Ok(None) };
        let kept = format!("{}{}", kept_prefix(name), &random::hex("name a file")?[..RANDOM_DIGITS]);
        // some storage has no second names, and that has to be known before hours of copying
        let tried = folder.link(&old.file, name, &kept).and_then(|()| folder.remove_file(&old.file, &kept));
        let why = "keepOld: what is replaced is kept by a second name, which its storage does not give it";
        tried.map_err(|e| Error { cause: format!("{why}: {}", e.cause), ..e })?;
        Ok(Some(folder.path.join(kept).display().to_string()))
    }

    /// Gives the replaced volume the name `kept` beside its own.
    pub(super) fn keep_old(&self, kept: &str) -> Result<()> {
        let (NewFile { folder, name, old: Some(old), .. }, Some(kept)) = (self, kept.rsplit('/').next()) else {
            return Ok(());
        };
        folder.link(&old.file, name, kept)
    }

    /// An error unless the name still leads to the volume that was opened: somebody may use what has been put there since.
    pub(super) fn check_old(&self) -> Result<()> {
        let NewFile { folder, name, old: Some(old), .. } = self else { return Ok(()) };
        folder.check_is(PUBLISH, name, &old.file)
    }

    /// Removes the name `kept` again, unless it is by now the only name of the volume.
    pub(super) fn forget_old(&self, kept: &str) -> Result<()> {
        let (NewFile { folder, old: Some(old), .. }, Some(kept)) = (self, kept.rsplit('/').next()) else {
            return Ok(());
        };
        if self.check_old().is_err() { Ok(()) } else { folder.remove_file(&old.file, kept) }
    }

    /// Removes the partial files that killed calls have left of copies which were to keep the device `name`.
    pub(super) fn remove_left_beside_kept(&self, name: &str) -> Result<()> {
        let NewFile { folder, file, beside: Some(own), .. } = self else { return Ok(()) };
        let all = folder.names_that(|left| left.to_str().is_some_and(|left| kept_name_of(name, left).is_some()))?;
        for left in all.iter().filter_map(|left| left.to_str()).filter(|left| left != own) {
            // a living call holds its lock; where there are no locks nobody knows, and nothing is removed
            let lock = |left: Apart| lock_exclusively(left.into()).is_ok();
            if let Some(output) = kept_name_of(name, left)
                && folder.open_for_writing(left).is_ok_and(lock)
            {
                remove_left(folder, left, output, file)?;
            }
        }
        Ok(())
    }

    pub(super) fn settle(&mut self) -> Result<()> {
        let path = self.folder.path.join(&self.name);
        let io = |error| Error::io(PUBLISH, &path, error);
        if let Some(LockedImage { file, path: old }) = &self.old {
            // whoever may read or write the replaced volume may do so with the new one
            let stat = rustix::fs::fstat(file).map_err(|e| Error::io(PUBLISH, old, e))?;
            let (owner, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            let owned = self.file.with(|file| rustix::fs::fchown(file, Some(owner), Some(group)));
            settle(&self.folder, "chown", owned).map_err(|e| io(e.into()))?;
            let moded = self.file.with(|file| rustix::fs::fchmod(file, Mode::from_raw_mode(stat.st_mode & 0o777)));
            settle(&self.folder, "chmod", moded).map_err(|e| io(e.into()))?;
        }
        self.file.sync_all().map_err(|e| io(called("fsync")(e)))
    }

    pub(super) fn publish(&mut self) -> Result<()> {
        steps::at("give an output its name");
        let Some(beside) = &self.beside else { return Ok(()) };
        if let Some(old) = &self.old {
            self.folder.check_is(PUBLISH, &self.name, &old.file)?;
            self.folder.replace(&self.file, beside, &self.name)?;
        } else {
            self.folder.name_beside_others(&self.file, beside, &self.name)?;
        }
        self.beside = None;
        self.folder.sync()
    }

    pub(super) fn remove(&mut self) -> Result<()> {
        match self.beside.take() {
            Some(beside) => self.folder.remove_file(&self.file, &beside),
            None => Ok(()),
        }
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            log::warn!("unable to remove the partial output '{}': {error}", self.folder.path.display());
        }
    }
}

/// Tolerates that a server refuses owners or modes: it decides itself who may do what, for the old file and the new one alike.
fn settle(folder: &Folder, what: &'static str, set: rustix::io::Result<()>) -> rustix::io::Result<()> {
    set.or_else(|error| {
        if !lacking::is_unsettable(error) {
            return Err(error);
        }
        lacking::tell(Level::Info, folder, what, error, "what is made there has the rights that the server gives it");
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::qcow2::Storage;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

    use rustix::fs::{CWD, RenameFlags, renameat_with};

    const TEXT: &str = "somebody else's";

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn make(path: &Path) -> Result<NewFile> {
        NewFile::make(path, fs::metadata(path).ok())
    }

    fn write(path: &Path) -> Result<()> {
        let mut new = make(path)?;
        new.file.write_at(b"flattened", 0).unwrap();
        new.settle()?;
        new.publish()
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn what_somebody_has_planted_beside_the_name_is_neither_written_nor_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("x"), dir.path().join("victim"));
        fs::write(&victim, TEXT).unwrap();
        let planted = [".x.nasbackup", ".x.nasbackup-0123456789abcdef"].map(|name| dir.path().join(name));
        type Plant = (&'static str, fn(&Path, &Path));
        let plants: [Plant; 4] = [
            ("a second name of another image", |victim, at| fs::hard_link(victim, at).unwrap()),
            ("a link to another image", |victim, at| symlink(victim, at).unwrap()),
            ("a file that everybody may write", |_, at| {
                fs::write(at, TEXT).unwrap();
                fs::set_permissions(at, fs::Permissions::from_mode(0o666)).unwrap();
                chown(at, Some(65534), Some(65534)).unwrap();
            }),
            ("a folder", |_, at| fs::create_dir(at).unwrap()),
        ];
        for (what, plant) in plants {
            for at in &planted {
                plant(&victim, at);
            }
            for _ in 0..2 {
                write(&path).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(fs::read(&path).unwrap(), b"flattened", "{what}");
                let metadata = fs::metadata(&path).unwrap();
                assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o600, 0), "{what}");
            }
            assert_eq!(fs::read(&victim).unwrap(), TEXT.as_bytes(), "{what}");
            fs::remove_file(&path).unwrap();
            assert_eq!(names(dir.path()).len(), 3, "{what}");
            for at in &planted {
                fs::remove_file(at).or_else(|_| fs::remove_dir(at)).unwrap();
            }
        }
    }

    #[test]
    fn what_a_killed_call_has_left_goes_and_what_a_living_one_writes_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let others = [".x.nasbackup-y.nasbackup-0123456789abcdef", ".x.nasbackup.old", ".y.nasbackup"];
        for name in [".x.nasbackup", ".x.nasbackup-0123456789abcdef"].into_iter().chain(others) {
            fs::write(dir.path().join(name), TEXT).unwrap();
        }
        let living = make(&path).unwrap();
        let mut left = [&[living.beside.as_deref().unwrap()][..], &others].concat();
        left.sort_unstable();
        assert_eq!(names(dir.path()), left);
        assert_eq!(make(&path).unwrap_err().code, Code::Busy);
        assert_eq!(names(dir.path()), left);
        drop(living);
        write(&path).unwrap();
        assert_eq!(names(dir.path()).len(), 4);
    }

    #[test]
    fn a_file_that_looks_as_if_a_call_wrote_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let planted = dir.path().join(".x.nasbackup-0123456789abcdef");
        fs::write(&planted, TEXT).unwrap();
        let _lock = lock_exclusively(File::open(&planted).unwrap().into()).unwrap();
        let error = write(&dir.path().join("x")).unwrap_err();
        assert!(error.code == Code::Busy && error.cause.contains(planted.to_str().unwrap()), "{error}");
        assert_eq!(fs::read(&planted).unwrap(), TEXT.as_bytes());
    }

    #[test]
    fn a_file_that_a_thread_still_writes_stays_locked_when_its_call_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut new = make(&path).unwrap();
        let _written = new.file.clone();
        // it could not be removed
        new.beside = None;
        drop(new);
        assert_eq!(make(&path).unwrap_err().code, Code::Busy);
    }

    #[test]
    fn a_call_that_was_killed_between_its_two_names_leaves_no_second_one_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write(&path).unwrap();
        fs::hard_link(&path, dir.path().join(".x.nasbackup-0123456789abcdef")).unwrap();
        write(&path).unwrap();
        assert_eq!((names(dir.path()), fs::read(&path).unwrap()), (vec!["x".to_owned()], b"flattened".to_vec()));
    }

    #[test]
    fn the_rights_of_the_volume_are_taken_over_but_for_those_of_a_program() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, TEXT).unwrap();
        chown(&path, Some(65534), Some(65534)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6640)).unwrap();
        write(&path).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o640, 65534, 65534));
    }

    /// Somebody who may write to the folder keeps giving the partial output's name to another image.
    #[test]
    fn however_names_are_exchanged_nothing_else_is_written_to() {
        let (dir, outside) = (tempfile::tempdir_in("/dev/shm").unwrap(), tempfile::tempdir().unwrap());
        let victims = [dir.path().join("victim"), outside.path().join("victim")];
        victims.iter().for_each(|victim| fs::write(victim, TEXT).unwrap());
        let (path, done) = (dir.path().join("x"), AtomicBool::new(false));
        let exchange = || {
            let planted = dir.path().join("planted");
            for name in names(dir.path()).iter().filter(|name| is_partial("x", name)) {
                _ = symlink(&victims[1], &planted);
                _ = fs::rename(&planted, dir.path().join(name));
                _ = fs::hard_link(&victims[0], &planted);
                _ = fs::rename(&planted, dir.path().join(name));
                _ = fs::remove_file(dir.path().join(name));
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    exchange()
                }
            });
            for _ in 0..1_000 {
                if write(&path).is_ok() {
                    assert_eq!(fs::read(&path).unwrap(), b"flattened");
                }
                fs::remove_file(&path).ok();
            }
            done.store(true, Relaxed);
        });
        for victim in victims {
            assert_eq!(fs::read(victim).unwrap(), TEXT.as_bytes());
        }
    }

    /// The partial output is exchanged for a link to another image, and back, while it gets its name.
    #[test]
    fn however_names_are_exchanged_the_name_becomes_that_of_nothing_else() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let [path, victim, planted] = ["x", "victim", "planted"].map(|name| dir.path().join(name));
        fs::write(&victim, TEXT).unwrap();
        symlink(&victim, &planted).unwrap();
        let published = AtomicUsize::new(0);
        for _ in 0..1_000 {
            let mut new = make(&path).unwrap();
            new.file.write_at(b"flattened", 0).unwrap();
            let (beside, begun, done) =
                (dir.path().join(new.beside.as_ref().unwrap()), AtomicBool::new(false), AtomicBool::new(false));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !done.load(Relaxed) {
                        _ = renameat_with(CWD, &beside, CWD, &planted, RenameFlags::EXCHANGE);
                        begun.store(true, Relaxed);
                    }
                });
                while !begun.load(Relaxed) {
                    std::hint::spin_loop();
                }
                published.fetch_add(usize::from(new.publish().is_ok()), Relaxed);
                done.store(true, Relaxed);
            });
            // whatever was told, what has the name is the output
            if path.symlink_metadata().is_ok() {
                assert!(path.symlink_metadata().unwrap().is_file(), "a link has got the name");
                fs::remove_file(&path).unwrap();
            }
            drop(new);
            for left in [&beside, &planted] {
                fs::remove_file(left).ok();
            }
            symlink(&victim, &planted).unwrap();
        }
        assert!(published.load(Relaxed) > 0);
        assert_eq!(fs::read(&victim).unwrap(), TEXT.as_bytes());
    }
}
