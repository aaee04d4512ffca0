//! `deleteBackup`: removes a restore point that no other image needs.

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

use super::verified;
use crate::config;
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::nas::folder::{Folder, MOST_NAMES};
use crate::nas::instance::Instance;
use crate::nas::lock::InstanceLock;
use crate::nas::path::{PointPath, RepoPath, partial_name};
use crate::nas::purpose::Purpose;
use crate::nas::removal::{self, DELETED};
use crate::nas::repository::{Export, Repository};
use crate::nas::session::Session;
use crate::nas::{denied, health};
use crate::point::{MANIFEST, Manifest};
use crate::qcow2;
use crate::work::deadline;
use crate::work::job::{self, Job, JobGuard};
use crate::work::phase::Phase;
use crate::work::side_by_side::side_by_side;

const CHILDREN: &str = Phase::LookForChildren.as_str();
/// Folders of a machine that are looked into at a time: most of what that takes is the way to the NAS and back.
const LOOKED_INTO: usize = 4;

/// What `deleteBackup` is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DeleteBackupRequest {
    /// The caller's id for this job.
    pub job: Option<String>,
    /// The NAS export.
    pub repository: Option<Repository>,
    /// The restore point, `<instance>/<timestamp>`.
    pub backup_path: Option<String>,
}

/// What `deleteBackup` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeletedBackup {
    /// Bytes that the removed files had occupied; 0 when the point was gone already.
    pub freed_bytes: u64,
}

/// Runs `deleteBackup`.
pub fn run(request: DeleteBackupRequest) -> Result<DeletedBackup> {
    let export = Repository::check(request.repository)?;
    let path = request.backup_path.ok_or_else(|| Error::invalid("backupPath", "is missing"))?;
    let point = PointPath::parse("backupPath", &path)?;
    let job = job::start(request.job, "deleteBackup", &export, Some(point.instance().to_owned()))?;
    delete(export.clone(), point, &job).inspect_err(|error| health::note_failure(&export, error))
}

fn delete(export: Export, point: PointPath, job: &JobGuard) -> Result<DeletedBackup> {
    job.enter(Phase::OpenRepository);
    let session = Session::open_bounded(export, config::current())?;
    let (shared, state, at) = (session.clone(), job.share(), point.clone());
    let found = deadline::bounded_until_cancelled(CHILDREN, limits::STORAGE_STEP + limits::CLAIM_WAIT, move || {
        find(shared, &at, &state)
    })?;
    let Some(found) = found else { return Ok(DeletedBackup { freed_bytes: 0 }) };
    job.check_cancelled()?;
    job.enter(Phase::RemoveFiles);
    let given_up = format!("'{point}', whose removal goes on when the NAS answers");
    let (ours, at) = (session.clone(), point.clone());
    let removed = deadline::bounded("remove the files", limits::STORAGE_LONG_STEP, move || {
        let before = ours.shows_room_late().then(|| ours.free());
        let freed_bytes = remove(found, &at)?;
        log::info!("deleted '{at}', which had {freed_bytes} bytes");
        let shows = |before: Result<u64>| Ok::<_, Error>(ours.free()? >= before?.saturating_add(freed_bytes));
        Ok((DeletedBackup { freed_bytes }, before.is_none_or(|before| shows(before) == Ok(true))))
    });
    let (deleted, shows) = removed.map_err(|error| match error.code {
        Code::NasUnresponsive if !error.leftovers => error.with_leftover(given_up),
        _ => error,
    })?;
    if !shows
        && let Err(error) = deadline::bounded("sync the file system", limits::STORAGE_STEP, move || session.sync())
    {
        log::warn!("'{point}' is deleted, but its space may become free only later: {error}");
    }
    Ok(deleted)
}

/// A point that may be removed.
struct Deletable {
    instance: Instance,
    /// True if the point has its own name; false if only what an interrupted backup or delete has left of it is there.
    published: bool,
    listed: Listed,
}

/// What a machine's folder holds under its lock, beside which nobody else makes or removes any of it.
struct Listed {
    /// All names but those of what deletes have left.
    names: Vec<OsString>,
    /// What interrupted deletes have left, or as much of it as is listed.
    deleted: Vec<OsString>,
}

impl Listed {
    fn of(instance: &Instance) -> Result<Listed> {
        if let Some(mut names) = instance.lock().take_names() {
            names.sort();
            let (deleted, names) = names.into_iter().partition(|name| is_deleted(name));
            return Ok(Listed { names, deleted });
        }
        let deleted = RefCell::new(Vec::new());
        let names = instance.folder().names_that(|name| {
            let is_left = is_deleted(name);
            // the next delete removes the rest
            if is_left && deleted.borrow().len() < MOST_NAMES {
                deleted.borrow_mut().push(name.to_owned());
            }
            !is_left
        })?;
        Ok(Listed { names, deleted: deleted.into_inner() })
    }

    /// The notes that are left once the point is removed.
    fn notes(&self, point: &PointPath) -> Vec<String> {
        let names = self.names.iter().filter_map(|name| name.to_str());
        verified::left(&names.filter(|name| *name != point.name()).collect())
    }
}

/// Locks the instance, and refuses a point on which another image stands. `None` if the point is gone.
fn find(session: Session, point: &PointPath, job: &Job) -> Result<Option<Deletable>> {
    let root = session.root();
    let folder = match root.open_dir(&point.instance_folder()) {
        Err(error) if error.code == Code::NotFound => return Ok(None),
        folder => folder.map_err(|error| denied::explain_reading(error, &root.path))?,
    };
    if !anything_to_delete(&folder, point)? {
        return Ok(None);
    }
    job.enter(Phase::LockInstance);
    let instance = Instance::take(session, folder, Purpose::Change)?;
    // looked at again under the lock, since another delete may just have removed it
    let published = is_folder(instance.folder(), point.name())?;
    job.enter(Phase::LookForChildren);
    let listed = Listed::of(&instance)?;
    let children = children(instance.folder(), point, &listed.names)?;
    if !children.is_empty() {
        return Err(Error::new(
            Code::HasChildren,
            CHILDREN,
            format!("'{point}' is needed by: {}", children.join(", ")),
        ));
    }
    if published {
        refuse_last(&instance, point)?;
    }
    Ok(Some(Deletable { instance, published, listed }))
}

/// True for a name in a machine's folder that a point has while it is being removed.
pub(super) fn is_deleted(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(DELETED.as_bytes())
}

/// The name that a point has while it is being removed.
fn deleted_name(point: &PointPath) -> String {
    format!("{DELETED}{}", point.name())
}

fn anything_to_delete(instance: &Folder, point: &PointPath) -> Result<bool> {
    for name in [point.name(), &partial_name(point), &deleted_name(point)] {
        if instance.kind(name)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// True if the point is there. A file or link of that name is no restore point, and stays.
fn is_folder(instance: &Folder, name: &str) -> Result<bool> {
    match instance.kind(name)? {
        None => Ok(false),
        Some(FileType::Directory) => Ok(true),
        Some(_) => {
            let path = instance.path.join(name);
            let cause = format!("'{}' is not a folder, nothing was removed", path.display());
            Err(Error::new(Code::Io, "look up the restore point", cause))
        }
    }
}

fn remove(Deletable { instance, published, listed }: Deletable, point: &PointPath) -> Result<u64> {
    let (folder, lock, mut freed) = (instance.folder(), instance.lock(), 0);
    if published {
        freed += removal::remove_point(folder, lock, point.name(), &listed.deleted)?;
    } else {
        instance.fence_lately()?;
        let deleted = deleted_name(point);
        freed += removal::remove_left(folder, lock, &deleted).map_err(|error| error.with_leftover(&deleted))?;
    }
    let (partial, notes) = (partial_name(point), listed.notes(point));
    let has_partial = listed.names.iter().any(|name| name == partial.as_str());
    if has_partial || !notes.is_empty() || !listed.deleted.is_empty() {
        // that may have taken long
        instance.fence_lately()?;
    }
    if has_partial {
        freed += removal::clear_partial(folder, &partial).map_err(|error| error.with_leftover(&partial))?;
    }
    freed += remove_left(folder, lock, &listed.deleted);
    verified::clear(folder, &notes);
    folder.sync()?;
    Ok(freed)
}

/// Removes what interrupted deletes of other points have left. None of them still runs, because this one holds the lock. What can't
/// be removed stays, and does not fail this delete.
fn remove_left(instance: &Folder, lock: &InstanceLock, left: &[OsString]) -> u64 {
    let removed = left.iter().filter_map(|name| name.to_str()).map(|name| {
        let removed = removal::remove_left(instance, lock, name);
        removed.inspect_err(|error| {
            log::warn!(
                "unable to remove '{}', leaving it to the next delete: {error}",
                instance.path.join(name).display()
            )
        })
    });
    removed.filter_map(Result::ok).sum()
}

/// The images of the instance, outside the point, that name a file in it as their backing file.
///
/// Unpublished points count too; points that are being deleted do not. A file that is no qcow2 image has no backing
/// file. An image that says it is one but contradicts itself may be mended one day, and may need the point: as
/// long as it is there the delete fails with `CORRUPT_IMAGE`, naming it. Its own point can always be deleted.
pub(super) fn children(instance: &Folder, point: &PointPath, listed: &[OsString]) -> Result<Vec<String>> {
    let own = [point.name().to_owned(), partial_name(point)];
    let others: Vec<_> = listed.iter().filter(|folder| own.iter().all(|name| *folder != name.as_str())).collect();
    let found = side_by_side(CHILDREN, LOOKED_INTO, others, |folder| children_in(instance, folder, point));
    found.into_iter().collect::<Result<Vec<_>>>().map(|children| children.concat())
}

/// `CORRUPT_IMAGE` if an image of the point was about to take the place of one that is not there, though its point is: a rename that a
/// crash has cut off may have left nothing else of it.
fn refuse_last(instance: &Instance, point: &PointPath) -> Result<()> {
    let folder = instance.point(point)?;
    let manifest = match Manifest::read_sound(&folder, point) {
        // a manifest that is no file, or is not sound, keeps no point from being deleted
        Err(_) if folder.kind(MANIFEST)? != Some(FileType::RegularFile) => None,
        Err(error) if error.code == Code::CorruptImage => None,
        read => read?,
    };
    for disk in manifest.into_iter().flat_map(|manifest| manifest.disks) {
        let Some(into) = disk.goes_into.and_then(|into| RepoPath::parse("image", &into).ok()) else { continue };
        let there = match into.parent().map(|parent| instance.root().open_dir(&parent)) {
            Some(Err(error)) if error.code == Code::NotFound => continue,
            Some(opened) => opened?,
            None => continue,
        };
        if there.kind(into.name())?.is_none() && folder.kind(&disk.file)?.is_some() {
            let cause = format!("'{into}' is not there, and '{point}/{}' may be all that is left of it", disk.file);
            return Err(Error::new(Code::CorruptImage, CHILDREN, cause));
        }
    }
    Ok(())
}

/// The images in a `folder` of the instance that name a file of the point as their backing file.
fn children_in(instance: &Folder, folder: &OsStr, point: &PointPath) -> Result<Vec<String>> {
    let mut children = Vec::new();
    if instance.kind(folder)? != Some(FileType::Directory) {
        return Ok(children);
    }
    let is_image = |name: &OsStr| Path::new(name).extension() == Some(OsStr::new("qcow2"));
    let (images, names_of_images) = instance.open_and_list(folder, is_image)?;
    for name in names_of_images {
        if images.kind(&name)? != Some(FileType::RegularFile) {
            continue;
        }
        if backing_of(&images, &name)?.is_some_and(|backing| names(&backing, point)) {
            children.push(format!("{}/{}/{}", point.instance(), folder.display(), name.display()));
        }
    }
    Ok(children)
}

fn backing_of(folder: &Folder, name: &OsStr) -> Result<Option<String>> {
    match qcow2::backing(&folder.open_file_in(name)?) {
        Ok(backing) => Ok(backing.map(|backing| backing.file)),
        Err(qcow2::Error::NotQcow2) => Ok(None),
        Err(error) => Err(error.at(CHILDREN, folder.path.join(name))),
    }
}

/// True if a backing file's name, found in an image of a sibling folder, means a file of the point. A name that is not relative (an
/// earlier mount point, `file:`, `json:`) can't be followed: it counts if it has the point's name in it as a folder.
fn names(backing: &str, point: &PointPath) -> bool {
    let sibling = point.instance_folder().join("sibling");
    match sibling.and_then(|sibling| RepoPath::resolve(&sibling, backing)) {
        Ok(file) => file.is_in(&point.folder()),
        Err(_) => backing.contains(&format!("/{}/", point.name())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};
    use tempfile::TempDir;

    fn delete_in(dir: &Path, path: &str) -> Result<DeletedBackup> {
        let address = Some(dir.to_str().unwrap().to_owned());
        let repository = Repository { kind: Some("dir".into()), address, options: None };
        run(DeleteBackupRequest { job: None, repository: Some(repository), backup_path: Some(path.into()) })
    }

    /// A repository with the images `<instance>/<point>/<file>` and their backing files.
    fn repository(images: &[(&str, Option<&str>)]) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (image, backing) in images {
            let path = dir.path().join(image);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            qcow2::create(&fs::File::create_new(path).unwrap(), 1 << 20, *backing).unwrap();
        }
        dir
    }

    /// Every path below, links not followed, without lock files.
    fn tree(dir: &Path) -> Vec<String> {
        fn walk(dir: &Path, below: &Path, into: &mut Vec<String>) {
            for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
                let path = below.join(entry.file_name());
                if entry.file_type().unwrap().is_dir() {
                    walk(&entry.path(), &path, into);
                }
                into.push(path.to_str().unwrap().to_owned());
            }
        }
        let mut all = Vec::new();
        walk(dir, Path::new(""), &mut all);
        all.retain(|path| !path.ends_with(".lock"));
        all.sort();
        all
    }

    #[test]
    fn more_of_what_deletes_left_than_is_listed_holds_no_delete_up() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let instance = dir.path().join("i-1");
        fs::create_dir_all(instance.join("T1")).unwrap();
        fs::write(instance.join("T1/x.qcow2"), "").unwrap();
        let left = |n: u32| instance.join(format!("{DELETED}{n}"));
        (0..50_001).for_each(|n| fs::hard_link(instance.join("T1/x.qcow2"), left(n)).unwrap());
        delete_in(dir.path(), "i-1/T1").unwrap();
        assert!(tree(&instance).len() <= 1, "as many are removed as are listed");
    }

    #[test]
    fn a_point_goes_and_says_what_it_occupied_and_again_nothing() {
        let dir = repository(&[("i-1/T1/root.x.qcow2", None), ("i-1/T2/root.x.qcow2", None)]);
        fs::write(dir.path().join("i-1/T1/manifest.json"), vec![b' '; 10_000]).unwrap();
        let occupied = ["root.x.qcow2", "manifest.json"]
            .map(|file| fs::metadata(dir.path().join("i-1/T1").join(file)).unwrap().blocks() * 512)
            .iter()
            .sum();
        assert_eq!(delete_in(dir.path(), "i-1/T1").unwrap(), DeletedBackup { freed_bytes: occupied });
        assert_eq!(tree(dir.path()), ["i-1", "i-1/T2", "i-1/T2/root.x.qcow2"]);
        assert_eq!(delete_in(dir.path(), "i-1/T1").unwrap(), DeletedBackup { freed_bytes: 0 });
        assert_eq!(delete_in(dir.path(), "i-none/T1").unwrap(), DeletedBackup { freed_bytes: 0 });
        assert_eq!(tree(dir.path()), ["i-1", "i-1/T2", "i-1/T2/root.x.qcow2"]);
    }

    #[test]
    fn a_path_that_is_no_point_is_refused_before_anything() {
        let dir = repository(&[("i-1/T1/root.x.qcow2", None), ("i-1/.partial-T2/root.x.qcow2", None)]);
        let before = tree(dir.path());
        let absolute = dir.path().join("i-1/T1");
        for bad in [
            "",
            "/",
            ".",
            "i-1",
            "i-1/",
            "i-1/..",
            "i-1/.",
            "../i-1",
            "i-1/T1/root.x.qcow2",
            "i-1/.partial-T2",
            "i-1//T1",
            "./i-1/T1",
            "i-1/T1\n",
            "i-1/T1/",
            absolute.to_str().unwrap(),
        ] {
            let error = delete_in(dir.path(), bad).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument, "{bad}");
            assert!(error.cause.starts_with("backupPath: "), "{error}");
        }
        let request = DeleteBackupRequest { repository: Some(Repository::default()), ..Default::default() };
        assert!(run(request).unwrap_err().cause.starts_with("repository.type: "));
        assert_eq!(tree(dir.path()), before);
        assert!(!dir.path().join("i-1/.nasbackup.lock").exists());
    }

    #[test]
    fn a_point_that_others_need_stays_and_all_of_them_are_named() {
        let dir = repository(&[
            ("i-1/T1/root.x.qcow2", None),
            ("i-1/T1/datadisk.y.qcow2", None),
            ("i-1/T2/root.x.qcow2", Some("../T1/root.x.qcow2")),
            ("i-1/T2/datadisk.y.qcow2", Some(".././T1//datadisk.y.qcow2")),
            ("i-1/.partial-T3/root.x.qcow2", Some("../T1/root.x.qcow2")),
            ("i-1/T4/root.x.qcow2", Some("../T2/root.x.qcow2")),
        ]);
        let before = tree(dir.path());
        let error = delete_in(dir.path(), "i-1/T1").unwrap_err();
        assert_eq!(error.code, Code::HasChildren);
        let named = "i-1/.partial-T3/root.x.qcow2, i-1/T2/datadisk.y.qcow2, i-1/T2/root.x.qcow2";
        assert!(error.cause.ends_with(named), "{error}");
        assert_eq!(tree(dir.path()), before);
        // newest first it goes
        for point in ["T4", "T3", "T2", "T1"] {
            delete_in(dir.path(), &format!("i-1/{point}")).unwrap();
        }
        assert_eq!(tree(dir.path()), ["i-1"]);
    }

    #[test]
    fn names_that_can_not_be_followed_count_when_they_name_the_point() {
        let point = PointPath::parse("backupPath", "i-1/T1").unwrap();
        for (backing, child) in [
            ("../T1/root.x.qcow2", true),
            ("../../i-1/T1/x", true),
            ("../T10/root.x.qcow2", false),
            ("root.x.qcow2", false),
            ("../../i-2/T1/x", false),
            ("../../../primary/template.qcow2", false),
            ("../../../../x", false),
            ("/var/lib/libvirt/images/disk.qcow2", false),
            ("/tmp/csbackup.AbCdE/i-1/T1/root.x.qcow2", true),
            ("file:../T1/root.x.qcow2", true),
            ("json:{\"driver\":\"qcow2\",\"file\":{\"filename\":\"../T1/root.x.qcow2\"}}", true),
            ("nbd:unix:/run/x.sock", false),
        ] {
            assert_eq!(names(backing, &point), child, "{backing}");
        }
    }

    #[test]
    fn backing_names_that_lead_out_are_no_children() {
        let dir = repository(&[
            ("i-1/T1/root.x.qcow2", None),
            ("i-1/T2/root.x.qcow2", Some("../../../primary/template.qcow2")),
            ("i-1/T3/root.x.qcow2", Some("/primary/template.qcow2")),
        ]);
        delete_in(dir.path(), "i-1/T1").unwrap();
        assert!(!dir.path().join("i-1/T1").exists());
    }

    #[test]
    fn a_broken_image_elsewhere_holds_the_delete_until_it_is_gone_itself() {
        let dir = repository(&[("i-1/T1/root.x.qcow2", None), ("i-1/T2/root.x.qcow2", None)]);
        let broken = dir.path().join("i-1/T2/root.x.qcow2");
        fs::write(&broken, b"QFI\xfb\0\0\0\x03").unwrap();
        let error = delete_in(dir.path(), "i-1/T1").unwrap_err();
        assert_eq!(error.code, Code::CorruptImage);
        assert!(error.cause.contains(broken.to_str().unwrap()), "{error}");
        assert!(dir.path().join("i-1/T1/root.x.qcow2").exists());
        delete_in(dir.path(), "i-1/T2").unwrap();
        delete_in(dir.path(), "i-1/T1").unwrap();
        assert_eq!(tree(dir.path()), ["i-1"]);
    }

    #[test]
    fn files_that_are_no_images_do_not_hold_it() {
        let dir = repository(&[("i-1/T1/root.x.qcow2", None)]);
        fs::create_dir_all(dir.path().join("i-1/T2/folder.qcow2")).unwrap();
        fs::write(dir.path().join("i-1/T2/empty.qcow2"), "").unwrap();
        fs::write(dir.path().join("i-1/T2/text.qcow2"), "../T1/root.x.qcow2").unwrap();
        symlink("../T1/root.x.qcow2", dir.path().join("i-1/T2/link.qcow2")).unwrap();
        symlink("/", dir.path().join("i-1/T3")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("i-1/T2/fifo.qcow2"), rustix::fs::Mode::RWXU).unwrap();
        delete_in(dir.path(), "i-1/T1").unwrap();
        assert!(!dir.path().join("i-1/T1").exists());
    }

    #[test]
    fn links_are_never_followed() {
        let (dir, outside) = (repository(&[("i-1/T1/root.x.qcow2", None)]), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("precious"), "x").unwrap();
        fs::create_dir(outside.path().join("T1")).unwrap();
        symlink(outside.path(), dir.path().join("i-1/T2")).unwrap();
        symlink(outside.path(), dir.path().join("i-2")).unwrap();
        symlink("T1", dir.path().join("i-1/T3")).unwrap();
        for planted in ["i-1/T2", "i-2/T1", "i-1/T3"] {
            assert_eq!(delete_in(dir.path(), planted).unwrap_err().code, Code::Io, "{planted}");
        }
        assert!(dir.path().join("i-1/T2").is_symlink() && dir.path().join("i-1/T1/root.x.qcow2").exists());
        assert_eq!(tree(outside.path()), ["T1", "precious"]);

        // inside a point a link goes, what it names stays
        symlink(outside.path(), dir.path().join("i-1/T1/link")).unwrap();
        delete_in(dir.path(), "i-1/T1").unwrap();
        assert!(!dir.path().join("i-1/T1").exists());
        assert_eq!(tree(outside.path()), ["T1", "precious"]);
    }

    #[test]
    fn leftovers_of_the_same_name_and_of_other_deletes_go_too() {
        let dir = repository(&[
            ("i-1/T1/root.x.qcow2", None),
            ("i-1/.partial-T1/root.x.qcow2", None),
            ("i-1/.deleted-T1/root.x.qcow2", None),
            ("i-1/.deleted-T2/root.x.qcow2", Some("../T1/root.x.qcow2")),
            ("i-1/.partial-T2/root.x.qcow2", None),
            ("i-2/.partial-T1/root.x.qcow2", None),
            ("i-3/.deleted-T1/root.x.qcow2", None),
        ]);
        for point in ["i-1/T1", "i-2/T1", "i-3/T1"] {
            assert!(delete_in(dir.path(), point).unwrap().freed_bytes > 0);
        }
        assert_eq!(tree(dir.path()), ["i-1", "i-1/.partial-T2", "i-1/.partial-T2/root.x.qcow2", "i-2", "i-3"]);
    }

    #[test]
    fn of_what_was_noted_of_points_that_of_others_stays() {
        let dir = repository(&[("i-1/T1/root.x.qcow2", None), ("i-1/T10/root.x.qcow2", None)]);
        let note = |name: &str| fs::write(dir.path().join("i-1").join(name), "{}").unwrap();
        // of points that another tool has removed, and of a verification that was killed
        let gone = [".nasbackup.verified-T0", ".nasbackup.verified-T1", ".nasbackup.verified.00ff"];
        gone.into_iter().for_each(note);
        note(".nasbackup.verified-T10");
        delete_in(dir.path(), "i-1/T1").unwrap();
        assert_eq!(tree(dir.path()), ["i-1", "i-1/.nasbackup.verified-T10", "i-1/T10", "i-1/T10/root.x.qcow2"]);
        delete_in(dir.path(), "i-1/T10").unwrap();
        assert_eq!(tree(dir.path()), ["i-1"]);
    }

    #[test]
    fn while_the_instance_is_locked_nothing_is_removed() {
        let dir = repository(&[("i-1/T1/root.x.qcow2", None)]);
        let lock = InstanceLock::take(&Folder::open_root(dir.path().join("i-1")).unwrap(), Purpose::Read).unwrap();
        assert_eq!(delete_in(dir.path(), "i-1/T1").unwrap_err().code, Code::Busy);
        assert!(dir.path().join("i-1/T1/root.x.qcow2").exists());
        drop(lock);
        delete_in(dir.path(), "i-1/T1").unwrap();
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_chain_made_by_qemu_img_is_understood() {
        let dir = tempfile::tempdir().unwrap();
        for point in ["i-1/T1", "i-1/T2"] {
            fs::create_dir_all(dir.path().join(point)).unwrap();
        }
        let qemu_img = |args: &[&str]| {
            let mut command = std::process::Command::new("qemu-img");
            assert!(command.args(args).current_dir(dir.path().join("i-1/T2")).status().unwrap().success());
        };
        qemu_img(&["create", "-q", "-f", "qcow2", "../T1/root.x.qcow2", "1M"]);
        qemu_img(&["create", "-q", "-f", "qcow2", "-b", "../T1/root.x.qcow2", "-F", "qcow2", "root.x.qcow2"]);
        assert_eq!(delete_in(dir.path(), "i-1/T1").unwrap_err().code, Code::HasChildren);
        qemu_img(&["rebase", "-b", "", "root.x.qcow2"]);
        delete_in(dir.path(), "i-1/T1").unwrap();
    }
}
