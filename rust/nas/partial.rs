//! A restore point that is being written, under another name until it is complete.

use std::path::PathBuf;

use super::claim::WRITER;
use super::denied;
use super::folder::Folder;
use super::instance::Instance;
use super::path::{PointPath, partial_name};
use super::removal;
use crate::apart::{Apart, Descriptor};
use crate::config;
use crate::error::{Code, Error, Result};
use crate::fs_kind::FsKind;
use crate::work::side_by_side::side_by_side;
use crate::work::steps;

/// An unpublished restore point. Its drop removes what it made, and nothing else; if another host has taken the instance over,
/// the drop leaves the point to that host.
///
/// The caller has closed the point's files before this ends.
#[derive(Debug)]
pub struct PartialPoint {
    // dropped in this order: all files are closed before the instance's session may unmount
    folder: NewFolder,
    instance: Instance,
    point: PointPath,
    done: bool,
}

/// The folder of an unfinished point, in which only its maker makes files.
#[derive(Debug)]
pub struct NewFolder {
    folder: Folder,
    kind: FsKind,
}

impl Instance {
    /// Makes the folder of the unfinished `point`, which holds the instance until it is published or gone. `ALREADY_EXISTS`
    /// when the final folder is there. Removes a leftover of the same name, whose maker no longer holds the lock.
    pub fn begin(self, point: &PointPath) -> Result<PartialPoint> {
        if self.folder().kind(point.name())?.is_some() {
            let cause = format!("'{point}' is there already");
            return Err(Error::new(Code::AlreadyExists, "begin the restore point", cause));
        }
        self.begin_unlisted(point)
    }

    /// Like `begin`, of a point that was not in a list of the instance under its lock.
    pub fn begin_unlisted(self, point: &PointPath) -> Result<PartialPoint> {
        let folder = make_folder(self.folder(), point).map_err(|error| denied::explain_writing(error, self.root()))?;
        // where others may make files one of theirs, which they can read, is not taken for a new one
        let is_ours_alone = config::current().folder_mode() & 0o022 == 0;
        let kind = if is_ours_alone { FsKind::in_table(&folder) } else { FsKind::Other };
        Ok(PartialPoint { folder: NewFolder { folder, kind }, instance: self, point: point.clone(), done: false })
    }
}

impl PartialPoint {
    /// The folder of the unfinished point.
    pub fn folder(&self) -> &Folder {
        &self.folder.folder
    }

    /// The same folder, for another thread that makes files there.
    pub fn new_folder(&self) -> Result<NewFolder> {
        Ok(NewFolder { folder: self.folder().open_again()?, kind: self.folder.kind })
    }

    /// The locked instance that the point is made in.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Asks beside other work what `publish` asks again: an NFS client then knows the answers, and the rename comes right after its fence.
    pub fn read_ahead(&self) -> impl FnOnce() -> Result<()> + Send + 'static {
        let (instance, point) = (self.instance.clone(), self.point.clone());
        move || {
            // a list may have changed what a server says of the folder, and the client would notice that right before the rename
            instance.folder().look_anew()?;
            let names = vec![partial_name(&point), point.name().to_owned(), WRITER.to_owned()];
            let looked = side_by_side("look up the names", names.len(), names, |name| instance.folder().kind(name));
            looked.into_iter().try_for_each(|looked| looked.map(drop))
        }
    }

    /// A folder for files that are taken out of the point.
    pub fn aside(&self) -> Result<Aside> {
        Ok(Aside::new(self.instance.folder().open_again()?, &partial_name(&self.point)))
    }

    /// Gives the point, whose files have been synced, its final name durably. After an error nothing has the final name and
    /// nothing of the point is left, unless the error says so.
    pub fn publish(mut self) -> Result<()> {
        match self.give_name() {
            Ok(()) => {
                self.done = true;
                Ok(())
            }
            Err(error) if self.done => Err(error),
            Err(error) => Err(match self.remove() {
                Ok(()) => error,
                Err(kept) => error.with_leftover(kept.cause),
            }),
        }
    }

    fn give_name(&mut self) -> Result<()> {
        let (partial, name) = (partial_name(&self.point), self.point.name());
        let instance = self.instance.folder();
        self.folder().sync()?;
        steps::at("rename the restore point");
        instance.rename(&partial, name)?;
        steps::at("sync the instance's folder");
        // the instance's own entry may be as new as the point
        let synced = instance.sync().and_then(|()| self.instance.root().sync());
        synced.map_err(|error| match instance.rename(name, &partial) {
            Ok(()) => error,
            Err(stuck) => {
                self.done = true;
                error.with_leftover(stuck)
            }
        })
    }

    /// Removes the point; the error names what stays.
    pub fn discard(mut self) -> Result<()> {
        self.remove()
    }

    fn remove(&mut self) -> Result<()> {
        self.done = true;
        let partial = partial_name(&self.point);
        let folder = self.instance.folder();
        let removed = self.instance.fence().and_then(|()| folder.remove_tree(&partial));
        removed.map(drop).map_err(|e| e.with_leftover(folder.path.join(&partial).display()))
    }
}

impl NewFolder {
    /// Makes a file.
    pub fn create_file(&self, name: &str, mode: u32) -> Result<Apart> {
        self.folder.create_file_once(name, mode, self.kind)
    }

    /// The host path of the file `name`, for messages.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.folder.path.join(name)
    }
}

/// A folder beside an unfinished point, in which files are removed; the next cleanup removes it at the latest. NFS keeps an
/// open file under another name in the folder in which it was removed: that must not be a point's folder.
#[derive(Debug)]
pub struct Aside {
    instance: Folder,
    name: String,
}

impl Aside {
    /// The folder beside the unfinished point `partial`.
    pub fn new(instance: Folder, partial: &str) -> Aside {
        Aside { instance, name: format!("{partial}.replaced") }
    }

    /// Moves `file`, and nothing else that has its `name` by now, out of `folder`.
    pub fn take(&self, folder: &Folder, file: &impl Descriptor, name: &str) -> Result<()> {
        let aside = self.instance.make_dir_if_missing(&self.name, 0o700)?;
        folder.move_to(file, name, &aside)
    }

    /// Removes the files that were moved here.
    pub fn clear(self) -> Result<()> {
        self.instance.remove_tree(&self.name).map(drop)
    }
}

impl Drop for PartialPoint {
    fn drop(&mut self) {
        if !self.done
            && let Err(error) = self.remove()
        {
            log::warn!("{}: unable to remove the unfinished restore point: {error}", self.point);
        }
    }
}

fn make_folder(instance: &Folder, point: &PointPath) -> Result<Folder> {
    let (partial, mode) = (partial_name(point), config::current().folder_mode());
    match instance.make_dir(&partial, mode) {
        Err(error) if error.code == Code::AlreadyExists => {}
        made => return made,
    }
    log::info!("removing '{}', left by a backup that ended early", instance.path.join(&partial).display());
    removal::clear_partial(instance, &partial)?;
    instance.make_dir(&partial, mode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, FILE_MODE};
    use crate::nas::purpose::Purpose;
    use crate::nas::repository::Repository;
    use crate::nas::session::Session;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    /// Begins the point, in the instance's folder, which its lock has made.
    fn begin(dir: &Path) -> Result<PartialPoint> {
        let address = Some(dir.to_str().unwrap().to_owned());
        let export = Repository { kind: Some("dir".into()), address, options: None };
        let session = Session::open(&Repository::check(Some(export)).unwrap(), &Config::default()).unwrap();
        let instance = session.root().make_dir_if_missing("i-1", 0o711)?;
        Instance::take(session, instance, Purpose::Add)?.begin(&point())
    }

    fn point() -> PointPath {
        PointPath::parse("backupPath", "i-1/T1").unwrap()
    }

    fn list(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with(".nasbackup."));
        names.sort();
        names
    }

    #[test]
    fn a_point_is_visible_only_once_it_is_published() {
        let dir = tempfile::tempdir().unwrap();
        let partial = begin(dir.path()).unwrap();
        partial.folder.create_file("root.x.qcow2", FILE_MODE).unwrap().write_all(b"data").unwrap();
        assert_eq!(list(&dir.path().join("i-1")), [".partial-T1"]);
        let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("i-1"), mode("i-1/.partial-T1"), mode("i-1/.partial-T1/root.x.qcow2")), (0o711, 0o711, 0o600));
        partial.publish().unwrap();
        assert_eq!(list(&dir.path().join("i-1")), ["T1"]);
        assert_eq!(fs::read(dir.path().join("i-1/T1/root.x.qcow2")).unwrap(), b"data");
        let again = begin(dir.path()).unwrap_err();
        assert_eq!(again.code, Code::AlreadyExists);
        assert_eq!(list(&dir.path().join("i-1")), ["T1"]);
    }

    #[test]
    fn the_drop_removes_only_what_the_point_made() {
        let dir = tempfile::tempdir().unwrap();
        let partial = begin(dir.path()).unwrap();
        partial.folder.create_file("root.x.qcow2", FILE_MODE).unwrap();
        drop(partial);
        assert!(list(&dir.path().join("i-1")).is_empty());

        let partial = begin(dir.path()).unwrap();
        fs::write(dir.path().join("i-1/other"), "x").unwrap();
        partial.discard().unwrap();
        assert_eq!(list(&dir.path().join("i-1")), ["other"]);
    }

    #[test]
    fn a_point_that_another_host_has_taken_over_stays() {
        let dir = tempfile::tempdir().unwrap();
        let taken_over = || {
            let partial = begin(dir.path()).unwrap();
            fs::remove_file(dir.path().join("i-1/.nasbackup.lease")).unwrap();
            partial
        };
        let error = taken_over().discard().unwrap_err();
        assert!(error.code == Code::Busy && error.leftovers, "{error}");
        assert_eq!(list(&dir.path().join("i-1")), [".partial-T1"]);
        drop(taken_over());
        assert_eq!(list(&dir.path().join("i-1")), [".partial-T1"]);
        let partial = taken_over();
        fs::create_dir(dir.path().join("i-1/T1")).unwrap();
        let error = partial.publish().unwrap_err();
        assert!(error.code == Code::AlreadyExists && error.leftovers, "{error}");
        fs::remove_dir(dir.path().join("i-1/T1")).unwrap();
        drop(begin(dir.path()).unwrap());
        assert!(list(&dir.path().join("i-1")).is_empty());
    }

    #[test]
    fn a_dead_leftover_of_the_same_name_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("i-1/.partial-T1")).unwrap();
        fs::create_dir_all(dir.path().join("i-1/.partial-T2")).unwrap();
        fs::write(dir.path().join("i-1/.partial-T1/old"), "x").unwrap();
        let partial = begin(dir.path()).unwrap();
        assert!(list(&partial.folder().path).is_empty());
        drop(partial);
        assert_eq!(list(&dir.path().join("i-1")), [".partial-T2"]);
    }

    #[test]
    fn a_final_name_taken_meanwhile_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let partial = begin(dir.path()).unwrap();
        fs::create_dir(dir.path().join("i-1/T1")).unwrap();
        assert_eq!(partial.publish().unwrap_err().code, Code::AlreadyExists);
        assert_eq!(list(&dir.path().join("i-1")), ["T1"]);
    }

    #[test]
    fn an_instance_folder_that_is_a_link_is_not_entered() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(outside.path(), dir.path().join("i-1")).unwrap();
        assert!(begin(dir.path()).is_err());
        assert!(list(outside.path()).is_empty());
    }

    #[test]
    fn a_partial_point_can_be_sent_to_another_thread() {
        fn is_send<T: Send>() {}
        is_send::<PartialPoint>();
    }
}
