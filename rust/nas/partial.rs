//! A restore point that is being written, beside its final name until it is complete.

use std::fs::File;

use super::folder::Folder;
use super::path::PointPath;
use super::session::Session;
use crate::config;
use crate::error::{Code, Error, Result};
use crate::steps;

/// What the name of every unpublished point begins with.
pub const PARTIAL: &str = ".partial-";

/// The name under which a point lies in its instance's folder until it is published.
pub fn partial_name(point: &PointPath) -> String {
    format!("{PARTIAL}{}", point.name())
}

/// An unpublished restore point: dropping it removes what it made, and nothing else.
///
/// The caller holds the instance's lock for as long as this lives, and has closed the point's files before it ends.
#[derive(Debug)]
pub struct PartialPoint {
    // in this order: the folders are closed before the session may unmount
    folder: Folder,
    instance: Folder,
    session: Session,
    point: PointPath,
    made_instance: bool,
    done: bool,
}

impl PartialPoint {
    /// Makes the folder of the unfinished point, and the instance's if it is missing. `ALREADY_EXISTS` when the
    /// final folder is there. A leftover of the same name is removed: whoever made it no longer holds the lock.
    pub fn begin(session: Session, point: &PointPath) -> Result<PartialPoint> {
        let (instance, made_instance) =
            session.root().make_dir_if_missing(point.instance(), config::current().folder_mode())?;
        let folder = make_folder(&instance, point).inspect_err(|_| {
            if made_instance && let Err(error) = session.root().remove_if_empty(point.instance()) {
                log::warn!("unable to clear up after a failed begin - {error}");
            }
        })?;
        Ok(PartialPoint { folder, instance, session, point: point.clone(), made_instance, done: false })
    }

    /// The folder to write into.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The repository that it lies in.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Makes the file `name`, with the permissions that are configured.
    pub fn create_file(&self, name: &str) -> Result<File> {
        self.folder.create_file(name, config::current().file_mode())
    }

    /// Gives the point its final name, durably. Its files have been synced. After an error nothing is visible
    /// under the final name, unless the error says so.
    pub fn publish(mut self) -> Result<()> {
        let (partial, name) = (partial_name(&self.point), self.point.name());
        self.folder.sync()?;
        steps::at("rename the restore point");
        self.instance.rename(&partial, name)?;
        steps::at("sync the instance's folder");
        // the instance's own entry may be as new as the point
        let synced = self.instance.sync().and_then(|()| self.session.root().sync());
        if let Err(error) = synced {
            return Err(match self.instance.rename(name, &partial) {
                Ok(()) => error,
                Err(stuck) => {
                    self.done = true;
                    error.with_leftover(stuck)
                }
            });
        }
        self.done = true;
        Ok(())
    }

    /// Removes what was made, and says what could not be.
    pub fn discard(mut self) -> Result<()> {
        self.remove()
    }

    fn remove(&mut self) -> Result<()> {
        self.done = true;
        let partial = partial_name(&self.point);
        self.instance
            .remove_tree(&partial)
            .map_err(|e| e.with_leftover(self.instance.path.join(&partial).display()))?;
        if self.made_instance {
            let removed = self.session.root().remove_if_empty(self.point.instance());
            removed.map_err(|e| e.with_leftover(self.instance.path.display()))?;
        }
        Ok(())
    }
}

impl Drop for PartialPoint {
    fn drop(&mut self) {
        if !self.done
            && let Err(error) = self.remove()
        {
            log::warn!("unable to remove an unfinished restore point - {error}");
        }
    }
}

fn make_folder(instance: &Folder, point: &PointPath) -> Result<Folder> {
    if instance.kind(point.name())?.is_some() {
        return Err(Error::new(Code::AlreadyExists, "begin the restore point", format!("'{point}' is there already")));
    }
    let partial = partial_name(point);
    if instance.kind(&partial)?.is_some() {
        log::info!("removing '{}', left by a backup that ended early", instance.path.join(&partial).display());
        instance.remove_tree(&partial)?;
    }
    instance.make_dir(&partial, config::current().folder_mode())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::nas::repository::Repository;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    fn session(dir: &Path) -> Session {
        let address = Some(dir.to_str().unwrap().to_owned());
        let export = Repository { kind: Some("dir".into()), address, options: None };
        Session::open(&Repository::check(Some(export)).unwrap(), &Config::default()).unwrap()
    }

    fn point() -> PointPath {
        PointPath::parse("backupPath", "i-1/T1").unwrap()
    }

    fn list(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_point_is_visible_only_once_it_is_published() {
        let dir = tempfile::tempdir().unwrap();
        let partial = PartialPoint::begin(session(dir.path()), &point()).unwrap();
        partial.create_file("root.x.qcow2").unwrap().write_all(b"data").unwrap();
        assert_eq!(list(&dir.path().join("i-1")), [".partial-T1"]);
        let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("i-1"), mode("i-1/.partial-T1"), mode("i-1/.partial-T1/root.x.qcow2")), (0o711, 0o711, 0o600));
        partial.publish().unwrap();
        assert_eq!(list(&dir.path().join("i-1")), ["T1"]);
        assert_eq!(fs::read(dir.path().join("i-1/T1/root.x.qcow2")).unwrap(), b"data");
        let again = PartialPoint::begin(session(dir.path()), &point()).unwrap_err();
        assert_eq!(again.code, Code::AlreadyExists);
        assert_eq!(list(&dir.path().join("i-1")), ["T1"]);
    }

    #[test]
    fn unpublished_it_goes_and_takes_only_what_it_made() {
        let dir = tempfile::tempdir().unwrap();
        let partial = PartialPoint::begin(session(dir.path()), &point()).unwrap();
        partial.create_file("root.x.qcow2").unwrap();
        drop(partial);
        assert!(list(dir.path()).is_empty());

        let partial = PartialPoint::begin(session(dir.path()), &point()).unwrap();
        fs::write(dir.path().join("i-1/other"), "x").unwrap();
        partial.discard().unwrap();
        assert_eq!(list(&dir.path().join("i-1")), ["other"]);

        fs::remove_file(dir.path().join("i-1/other")).unwrap();
        PartialPoint::begin(session(dir.path()), &point()).unwrap().discard().unwrap();
        assert_eq!(list(dir.path()), ["i-1"]);
    }

    #[test]
    fn a_dead_leftover_of_the_same_name_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("i-1/.partial-T1")).unwrap();
        fs::create_dir_all(dir.path().join("i-1/.partial-T2")).unwrap();
        fs::write(dir.path().join("i-1/.partial-T1/old"), "x").unwrap();
        let partial = PartialPoint::begin(session(dir.path()), &point()).unwrap();
        assert!(list(&partial.folder().path).is_empty());
        drop(partial);
        assert_eq!(list(&dir.path().join("i-1")), [".partial-T2"]);
    }

    #[test]
    fn a_final_name_taken_meanwhile_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let partial = PartialPoint::begin(session(dir.path()), &point()).unwrap();
        fs::create_dir(dir.path().join("i-1/T1")).unwrap();
        assert_eq!(partial.publish().unwrap_err().code, Code::AlreadyExists);
        assert_eq!(list(&dir.path().join("i-1")), ["T1"]);
    }

    #[test]
    fn an_instance_folder_that_is_a_link_is_not_entered() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(outside.path(), dir.path().join("i-1")).unwrap();
        assert!(PartialPoint::begin(session(dir.path()), &point()).is_err());
        assert!(list(outside.path()).is_empty());
    }

    #[test]
    fn it_can_be_sent_to_another_thread() {
        fn is_send<T: Send>() {}
        is_send::<PartialPoint>();
    }
}
