//! The removal of a restore point: all of it or nothing.
//!
//! A NAS may refuse to remove a file: it is immutable, under a retention time or a legal hold, or its ACL gives nobody the
//! right to delete it. That must not show when another file is removed already. A file that can't be removed can't be renamed
//! either, and a rename can be undone: so the library renames every file before it removes the first.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, StatxFlags};

use super::folder::Folder;
use super::lock::InstanceLock;
use super::path::PARTIAL;
use super::tree_removal::{MOST_REMOVED, is_kept_by_nfs};
use crate::descriptor::Attributes;
use crate::error::{Code, Error, Result};
use crate::work::steps;

/// What the name of a point begins with while it is removed. It is no restore point any more, whatever happens then.
pub const DELETED: &str = ".deleted-";
/// The prefix of the name of a file that could be renamed and so can be removed.
const REMOVED: &str = ".removed-";
/// The most leftovers that the log names.
const MOST_NAMED: usize = 100;
/// The most names for leftovers of one point that can't be removed.
const ASIDE: u32 = 100;
/// The length of the longest file name on Linux.
const LONGEST: usize = 255;

/// Removes the point `name` of the instance, in which the lock has found what deletes have `left`, and returns the bytes that the
/// point's files occupied. After an error the point is there under its name with all its files, or the error names what is left.
pub fn remove_point(instance: &Folder, lock: &InstanceLock, name: &str, left: &[OsString]) -> Result<u64> {
    let hidden = free_name(instance, name, |free| Ok(left.iter().any(|left| left == free)))?;
    lock.check_lately()?;
    instance.rename_to_free(name.as_ref(), hidden.as_ref(), None).map_err(explain_refusal)?;
    steps::at("renamed for its removal");
    // a server changes the times of what is renamed: of what was listed before, an NFS client would ask for each name anew
    let opened = instance.sync().and_then(|()| HiddenPoint::open(instance, lock, &hidden, name));
    let mut point = opened.map_err(|error| {
        let given = give_name_back(instance, lock, &hidden, name);
        tell_put_back(explain_refusal(error), given, instance, &hidden, None)
    })?;
    match point.remove() {
        Ok(freed) => Ok(freed + point.remove_rest()?),
        Err(error) => {
            let given = point.restore_names(name);
            Err(tell_put_back(explain_refusal(error), given, instance, &hidden, Some(&point.folder)))
        }
    }
}

/// Removes what an interrupted delete has left, all of it or nothing, because it may be a whole point of which the NAS keeps a
/// file.
pub fn remove_left(instance: &Folder, lock: &InstanceLock, hidden: &str) -> Result<u64> {
    if instance.kind(hidden)? != Some(FileType::Directory) {
        return instance.remove_tree(hidden).map_err(explain_refusal);
    }
    let mut left = HiddenPoint::open(instance, lock, hidden, hidden)?;
    match left.give_names_back().and_then(|()| left.remove()) {
        Ok(freed) => Ok(freed + left.remove_rest()?),
        Err(error) => {
            if let Err(stuck) = left.give_names_back() {
                log::warn!("unable to give back a file's name in '{}': {stuck}", left.folder.path.display());
            }
            Err(explain_refusal(error))
        }
    }
}

/// Removes `.partial-<timestamp>`, which a backup left that ended early. If it can't be removed, or is larger than
/// `MOST_REMOVED`, renames it to a delete's leftover: then no backup meets it, no image in it counts as a child, and each
/// delete tries again.
pub fn clear_partial(instance: &Folder, partial: &str) -> Result<u64> {
    clear_partial_within(instance, partial, &mut MOST_REMOVED.clone())
}

/// Removes all such leftovers of backups, `MOST_REMOVED` entries at most: the next backup removes the rest.
pub fn clear_partials(instance: &Folder) -> Result<()> {
    let is_partial = |name: &OsStr| name.to_str().is_some_and(|name| name.starts_with(PARTIAL));
    let (partials, mut more) = instance.first_names(MOST_REMOVED as usize, is_partial)?;
    let mut left = MOST_REMOVED;
    for (done, name) in partials.iter().filter_map(|name| name.to_str()).enumerate() {
        if left == 0 {
            more = true;
            break;
        }
        let path = instance.path.join(name);
        if done < MOST_NAMED {
            log::warn!("removing '{}', left by a backup that ended early", path.display());
        }
        if let Err(error) = clear_partial_within(instance, name, &mut left) {
            log::warn!("{error}");
        }
    }
    if partials.len() > MOST_NAMED {
        log::warn!("'{}' held {} leftovers of backups, named in part", instance.path.display(), partials.len());
    }
    if more {
        let path = instance.path.display();
        log::warn!("'{path}' holds more leftovers of backups, leaving them to the next backup");
    }
    Ok(())
}

fn clear_partial_within(instance: &Folder, partial: &str, left: &mut u32) -> Result<u64> {
    let error = match instance.remove_tree_within(partial, left) {
        Err(error) => explain_refusal(error),
        removed => return removed,
    };
    let is_taken = |free: &str| instance.kind(free).map(|kind| kind.is_some());
    let aside = free_name(instance, partial.strip_prefix(PARTIAL).unwrap_or(partial), is_taken)?;
    if instance.rename(partial, &aside).is_err() {
        return Err(error);
    }
    log::warn!("unable to remove '{}', renamed it to '{aside}': {error}", instance.path.join(partial).display());
    Ok(0)
}

/// A free name for what is removed: earlier leftovers of the point that can't be removed have some.
fn free_name(instance: &Folder, name: &str, is_taken: impl Fn(&str) -> Result<bool>) -> Result<String> {
    let names = (0..ASIDE).map(|tries| match tries {
        0 => format!("{DELETED}{name}"),
        tries => format!("{DELETED}{name}.{tries}"),
    });
    for free in names {
        if !is_taken(&free)? {
            return Ok(free);
        }
    }
    let cause = format!("'{}/{DELETED}{name}' and {} more of it can't be removed", instance.path.display(), ASIDE - 1);
    Err(Error::new(Code::Io, "find a name for what is removed", cause))
}

/// The name of a file that could be renamed.
fn removal_name(name: &OsStr) -> OsString {
    let mut removal_name = OsString::from(REMOVED);
    removal_name.push(name);
    removal_name
}

/// The order of removal: folders first, because the library has not tried to rename what is in them, then images.
fn rank(name: &OsStr, found: &Attributes) -> u8 {
    let is_image = Path::new(name).extension() == Some(OsStr::new("qcow2"));
    if found.kind.is_dir() { 0 } else { 2 - u8::from(is_image) }
}

/// A point that has no restore point's name any more.
struct HiddenPoint<'a> {
    instance: &'a Folder,
    lock: &'a InstanceLock,
    /// The point's current name.
    hidden: &'a str,
    /// The point's folder, with its former path, for messages.
    folder: Folder,
    /// All that the folder holds, by its own names.
    files: BTreeMap<OsString, Attributes>,
    /// The own names of the files that have another name now.
    renamed: BTreeSet<OsString>,
    /// True once the removal of files has begun.
    begun: bool,
}

impl<'a> HiddenPoint<'a> {
    /// Opens and lists the point, which messages call `name`.
    fn open(instance: &'a Folder, lock: &'a InstanceLock, hidden: &'a str, name: &str) -> Result<HiddenPoint<'a>> {
        let (mut folder, names) = instance.open_and_list(hidden, |name| !is_kept_by_nfs(name))?;
        folder.path = instance.path.join(name);
        let (mut files, mut renamed) = (BTreeMap::new(), BTreeSet::new());
        for name in names {
            // what an NFS client has just listed it knows
            let Some(found) = folder.find(&name, StatxFlags::BLOCKS)? else { continue };
            // a killed delete has renamed it
            match name.as_bytes().strip_prefix(REMOVED.as_bytes()) {
                Some(own) if !own.is_empty() => {
                    let own = OsStr::from_bytes(own).to_owned();
                    renamed.insert(own.clone());
                    files.insert(own, found);
                }
                _ => _ = files.insert(name, found),
            }
        }
        Ok(HiddenPoint { instance, lock, hidden, folder, files, renamed, begun: false })
    }

    fn remove(&mut self) -> Result<u64> {
        self.rename_all()?;
        self.remove_all()
    }

    /// All that the folder holds, in the order of its removal.
    fn in_order(&self) -> Vec<(&OsString, &Attributes)> {
        let mut files: Vec<_> = self.files.iter().collect();
        files.sort_by_key(|(name, found)| rank(name, found));
        files
    }

    /// Renames each file, to find out whether the NAS lets it be removed; but for the first: before its own removal none is lost.
    fn rename_all(&mut self) -> Result<()> {
        let names: Vec<_> = self.in_order().into_iter().skip(1).map(|(name, found)| (name.clone(), *found)).collect();
        for (name, found) in names {
            if self.renamed.contains(&name) {
                continue;
            }
            steps::at("rename one of a point");
            let other = removal_name(&name);
            // no file of ours has such a name
            if other.len() > LONGEST {
                continue;
            }
            match self.folder.rename_to_free(&name, &other, Some(&found)) {
                Ok(()) => _ = self.renamed.insert(name),
                // a full repository may have no room for a name, and an operator has to be able to empty it
                Err(error) if matches!(error.code, Code::NoSpace | Code::AlreadyExists) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes all files, those first that may still refuse.
    fn remove_all(&mut self) -> Result<u64> {
        self.lock.check_lately()?;
        self.begun = true;
        let mut freed = 0_u64;
        for (name, found) in self.in_order() {
            steps::at("remove one of a point");
            let path = self.folder.path.join(name);
            freed = freed.saturating_add(self.folder.remove_found(&self.current_name(name), &path, found)?);
        }
        Ok(freed)
    }

    /// Removes the folder, with files that came meanwhile. A folder that holds only files that somebody has open stays for the
    /// next delete.
    fn remove_rest(&self) -> Result<u64> {
        if self.instance.remove_empty(self.hidden) {
            return Ok(0);
        }
        let error = match self.instance.remove_tree(self.hidden) {
            Err(error) => error.with_leftover(self.hidden),
            removed => return removed,
        };
        let rest = self.folder.first_names(1, |name| !is_kept_by_nfs(name));
        if rest.is_ok_and(|(rest, _)| rest.is_empty()) {
            let path = self.folder.path.display();
            log::warn!(
                "unable to remove '{path}' while somebody has its files open, leaving it to the next delete: {error}"
            );
            return Ok(0);
        }
        Err(error)
    }

    /// The current name of a file.
    fn current_name(&self, name: &OsStr) -> OsString {
        if self.renamed.contains(name) { removal_name(name) } else { name.to_owned() }
    }

    /// Gives each renamed file its own name back; returns the first error.
    fn give_names_back(&mut self) -> Result<()> {
        let mut given = Ok(());
        for own in std::mem::take(&mut self.renamed) {
            if let Err(error) = self.folder.rename(removal_name(&own), &own) {
                self.renamed.insert(own);
                given = given.and(Err(error));
            }
        }
        given
    }

    /// Gives the point and its files their names back, if all of them are there.
    fn restore_names(&mut self, name: &str) -> Result<()> {
        refuse_lost(self.lock)?;
        self.give_names_back()?;
        // a superset, because somebody may have added a file
        let is_there = |names: Vec<OsString>| self.files.keys().all(|name| names.contains(name));
        if self.begun && !is_there(self.folder.names()?) {
            return Err(Error::new(Code::Io, "put the restore point back", "a part of it is gone"));
        }
        give_name_back(self.instance, self.lock, self.hidden, name)
    }
}

/// `BUSY` if another host has taken the instance over: the files are its own now.
fn refuse_lost(lock: &InstanceLock) -> Result<()> {
    match lock.check() {
        Err(error) if error.code == Code::Busy => Err(error),
        // an error to read the lock does not mean that another host has it
        Ok(()) | Err(_) => Ok(()),
    }
}

fn give_name_back(instance: &Folder, lock: &InstanceLock, hidden: &str, name: &str) -> Result<()> {
    refuse_lost(lock)?;
    instance.rename(hidden, name)
}

/// The error of a removal, with what became of the point, which was to be put back. Syncs the folders in which names were given back.
fn tell_put_back(error: Error, back: Result<()>, instance: &Folder, hidden: &str, point: Option<&Folder>) -> Error {
    if let Err(stuck) = back {
        log::warn!("unable to give '{}' its name back: {stuck}", instance.path.join(hidden).display());
        return error.with_leftover(hidden);
    }
    // the point is back even if the server can't sync the names
    for folder in point.into_iter().chain([instance]) {
        if let Err(unkept) = folder.sync() {
            log::warn!("unable to sync '{}', in which names were given back: {unkept}", folder.path.display());
        }
    }
    Error { cause: format!("{}; the restore point is there, with all files of its own", error.cause), ..error }
}

/// Adds to a refusal what may be its reason: published files may be protected on the NAS.
pub fn explain_refusal(error: Error) -> Error {
    if error.code != Code::PermissionDenied {
        return error;
    }
    let why = "it is kept: immutable or append-only (see lsattr), under a retention time or a legal hold of the NAS, or \
               its ACL gives this host no right to it";
    Error { cause: format!("{}; {why}", error.cause), ..error }
}

#[cfg(test)]
mod tests {
    use super::super::folder::MOST_NAMES;
    use super::*;
    use crate::nas::purpose::Purpose;
    use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat};
    use std::fs;
    use std::os::fd::OwnedFd;

    const FILES: [&str; 3] = ["domain.xml", "manifest.json", "root.x.qcow2"];

    /// An instance's folder with the point T1.
    fn instance() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("T1")).unwrap();
        FILES.iter().for_each(|name| fs::write(dir.path().join("T1").join(name), name).unwrap());
        let folder = Folder::open_root(dir.path()).unwrap();
        (dir, folder)
    }

    /// What is in the folder of the point, under its name or the other one.
    fn found(instance: &Folder) -> (&'static str, Vec<OsString>) {
        let name = if instance.kind("T1").unwrap().is_some() { "T1" } else { ".deleted-T1" };
        (name, instance.open_dir_in(name).unwrap().names().unwrap())
    }

    #[test]
    fn a_failed_removal_puts_the_point_back_if_all_of_it_is_there_and_ours() {
        type Meanwhile = fn(&Path);
        let lease = |dir: &Path| dir.join(".nasbackup.lease");
        let rows: [(&str, Meanwhile, &str, &[&str]); 5] = [
            ("nothing", |_| {}, "T1", &FILES),
            (
                "something is added",
                |dir| fs::write(dir.join(".deleted-T1/.nfs0001"), "").unwrap(),
                "T1",
                &[".nfs0001", "domain.xml", "manifest.json", "root.x.qcow2"],
            ),
            (
                "the claim can't be read",
                |dir| {
                    fs::remove_file(dir.join(".nasbackup.lease")).unwrap();
                    fs::create_dir(dir.join(".nasbackup.lease")).unwrap();
                },
                "T1",
                &FILES,
            ),
            (
                "another host has taken over",
                |dir| fs::remove_file(dir.join(".nasbackup.lease")).unwrap(),
                ".deleted-T1",
                &[".removed-domain.xml", ".removed-manifest.json", "root.x.qcow2"],
            ),
            (
                "the first is gone",
                |dir| fs::remove_file(dir.join(".deleted-T1/.removed-domain.xml")).unwrap(),
                ".deleted-T1",
                &["manifest.json", "root.x.qcow2"],
            ),
        ];
        for (meanwhile, act, name, files) in rows {
            let (dir, instance) = instance();
            let lock = InstanceLock::take(&instance, Purpose::Change).unwrap();
            instance.rename("T1", ".deleted-T1").unwrap();
            let mut point = HiddenPoint::open(&instance, &lock, ".deleted-T1", ".deleted-T1").unwrap();
            point.rename_all().unwrap();
            point.begun = true;
            act(dir.path());
            let given = point.restore_names("T1");
            let error = tell_put_back(Error::new(Code::Io, "remove", "refused"), given, &instance, ".deleted-T1", None);
            assert_eq!(error.leftovers, name != "T1", "{meanwhile}: {error}");
            assert_eq!(found(&instance), (name, files.iter().map(OsString::from).collect()), "{meanwhile}");
            _ = fs::remove_dir(lease(dir.path()));
        }
    }

    #[test]
    fn a_point_that_can_not_be_listed_keeps_its_name() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        fs::create_dir(dir.path().join("T1")).unwrap();
        let file = |n: usize| dir.path().join("T1").join(n.to_string());
        fs::write(file(0), "").unwrap();
        (1..=MOST_NAMES).for_each(|n| fs::hard_link(file(0), file(n)).unwrap());
        let instance = Folder::open_root(dir.path()).unwrap();
        let lock = InstanceLock::take(&instance, Purpose::Change).unwrap();
        let error = remove_point(&instance, &lock, "T1", &[]).unwrap_err();
        assert!(!error.leftovers && error.cause.ends_with("with all files of its own"), "{error}");
        assert_eq!(instance.kind("T1").unwrap(), Some(FileType::Directory));
    }

    #[test]
    fn the_leftover_of_a_killed_delete_is_removed_whatever_its_files_are_called() {
        let (dir, instance) = instance();
        let lock = InstanceLock::take(&instance, Purpose::Change).unwrap();
        let point = dir.path().join("T1");
        fs::rename(point.join("domain.xml"), point.join(".removed-domain.xml")).unwrap();
        fs::write(point.join("n".repeat(LONGEST)), "").unwrap();
        instance.rename("T1", ".deleted-T1").unwrap();
        assert!(remove_left(&instance, &lock, ".deleted-T1").unwrap() > 0);
        assert!(!dir.path().join(".deleted-T1").exists());
    }

    /// What NFS keeps is `EBUSY` to who would remove or rename it, as a place is at which something is mounted.
    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn an_open_file_that_nfs_keeps_does_not_fail_a_delete_and_is_removed_later() {
        let (dir, instance) = instance();
        let kept = |point: &str| dir.path().join(point).join(".nfs0000000000000001");
        fs::write(kept("T1"), "").unwrap();
        rustix::mount::mount_bind(kept("T1"), kept("T1")).unwrap();
        let lock = InstanceLock::take(&instance, Purpose::Change).unwrap();
        remove_point(&instance, &lock, "T1", &[]).unwrap();
        assert_eq!(found(&instance), (".deleted-T1", vec![OsString::from(".nfs0000000000000001")]));
        rustix::mount::unmount(kept(".deleted-T1"), rustix::mount::UnmountFlags::DETACH).unwrap();
        remove_left(&instance, &lock, ".deleted-T1").unwrap();
        assert!(!dir.path().join(".deleted-T1").exists());
    }

    /// Makes so many levels of folders below `name`, of which no path would be short enough, and opens the deepest.
    fn nest(dir: &Path, name: &str, levels: usize) -> OwnedFd {
        fs::create_dir(dir.join(name)).unwrap();
        let mut at = Folder::open_root(dir.join(name)).unwrap().fd;
        for _ in 0..levels {
            mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = openat(&at, "d", OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        at
    }

    /// Takes them away from below, since what removes a test's folder goes down on the stack.
    fn unnest(mut at: OwnedFd, levels: usize) {
        for _ in 0..levels {
            at = openat(&at, "..", OFlags::DIRECTORY, Mode::empty()).unwrap();
            unlinkat(&at, "d", AtFlags::REMOVEDIR).unwrap();
        }
    }

    #[test]
    fn a_partial_that_is_too_deep_or_too_wide_does_not_stop_a_backup() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        fs::create_dir(dir.path().join("T1")).unwrap();
        let instance = Folder::open_root(dir.path()).unwrap();
        let deepest = nest(dir.path(), ".partial-deep", 15_000);
        fs::create_dir(dir.path().join(".partial-wide")).unwrap();
        let wide = |name: u32| dir.path().join(".partial-wide").join(name.to_string());
        fs::write(wide(0), "").unwrap();
        (1..12_000).for_each(|name| fs::hard_link(wide(0), wide(name)).unwrap());
        for _ in 0..3 {
            clear_partials(&instance).unwrap();
            fs::create_dir_all(dir.path().join(".partial-last/x")).unwrap();
        }
        clear_partials(&instance).unwrap();
        let left: Vec<_> = instance.names().unwrap();
        assert_eq!(left, [".deleted-deep", ".deleted-wide", "T1"]);
        let rest = fs::read_dir(dir.path().join(".deleted-wide")).unwrap().count();
        assert!(rest < 12_000, "as much is removed as may be at a time");
        let lock = InstanceLock::take(&instance, Purpose::Change).unwrap();
        assert_eq!(remove_left(&instance, &lock, ".deleted-wide").unwrap_or_default(), 0);
        assert!(!dir.path().join(".deleted-wide").exists());
        assert!(remove_left(&instance, &lock, ".deleted-deep").unwrap_err().cause.contains("nested too deep"));
        unnest(deepest, 15_000);
    }

    #[test]
    fn more_partials_than_are_listed_do_not_stop_a_backup_and_each_backup_removes_some() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let instance = Folder::open_root(dir.path()).unwrap();
        fs::write(dir.path().join("kept"), "").unwrap();
        let partial = |n: u32| dir.path().join(format!("{PARTIAL}{n}"));
        (0..50_001).for_each(|n| fs::hard_link(dir.path().join("kept"), partial(n)).unwrap());
        for stay in [40_001, 30_001] {
            clear_partials(&instance).unwrap();
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), stay + 1);
        }
    }

    #[test]
    fn the_names_for_leftovers_that_stay_are_limited() {
        let (dir, instance) = instance();
        let free_name = || free_name(&instance, "T1", |free| Ok(instance.kind(free)?.is_some()));
        assert_eq!(free_name().unwrap(), ".deleted-T1");
        fs::write(dir.path().join(".deleted-T1"), "").unwrap();
        assert_eq!(free_name().unwrap(), ".deleted-T1.1");
        (1..ASIDE).for_each(|n| fs::write(dir.path().join(format!(".deleted-T1.{n}")), "").unwrap());
        assert!(free_name().unwrap_err().cause.ends_with("and 99 more of it can't be removed"));
    }
}
