//! The removal of a restore point: the whole of it, or nothing.
//!
//! A NAS may keep a file: it is immutable, under a retention time or a legal hold, or its ACL gives nobody the right to
//! delete it. The second of two images may refuse to go when the first is gone already. But a file that can't be removed
//! gets no other name either, and a name can be given back: so every file gets one before the first is removed.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FileType;

use super::folder::{Folder, MOST_REMOVED, is_kept_by_nfs};
use super::lock::InstanceLock;
use super::path::PARTIAL;
use crate::error::{Code, Error, Result};
use crate::steps;

/// What the name of a point begins with while it is removed: no longer a restore point, whatever happens then.
pub const DELETED: &str = ".deleted-";
/// How long a removal may take: some file systems need minutes for a terabyte.
pub const LIMIT: Duration = Duration::from_secs(600);
/// What the name of a file begins with, before its own, whose removal nothing refuses.
const REMOVED: &str = ".removed-";
/// How many leftovers are named as they are removed.
const MOST_NAMED: usize = 100;
/// How many points of one name may lie aside that can't be removed.
const ASIDE: u32 = 100;
/// The longest name that Linux's file systems have.
const LONGEST: usize = 255;

/// Removes the point `name` of the instance, and returns the bytes that its files occupied. After an error it is there
/// under its name, with all files of its own, or the error names what is left of it.
pub fn remove_point(instance: &Folder, lock: &InstanceLock, name: &str) -> Result<u64> {
    let folder = instance.open_dir_in(name)?;
    let hidden = free_name(instance, name)?;
    let mut point = HiddenPoint::new(instance, lock, folder, &hidden)?;
    lock.check()?;
    instance.rename(name, &hidden).map_err(explain_refusal)?;
    steps::at("renamed for its removal");
    match instance.sync().and_then(|()| point.remove()) {
        Ok(freed) => Ok(freed + point.remove_rest()?),
        Err(error) => Err(point.put_back(name, explain_refusal(error))),
    }
}

/// Removes what a delete has left that was cut short, all of it or nothing: it may be a whole point of which something is
/// kept. Where its removal had begun, what is left is held to the same rule, for that destroys nothing.
pub fn remove_left(instance: &Folder, lock: &InstanceLock, hidden: &str) -> Result<u64> {
    if instance.kind(hidden)? != Some(FileType::Directory) {
        return instance.remove_tree(hidden).map_err(explain_refusal);
    }
    let mut left = HiddenPoint::new(instance, lock, instance.open_dir_in(hidden)?, hidden)?;
    match left.give_names_back().and_then(|()| left.remove()) {
        Ok(freed) => Ok(freed + left.remove_rest()?),
        Err(error) => {
            if let Err(stuck) = left.give_names_back() {
                log::warn!("not every file in '{}' has its name again: {stuck}", left.folder.path.display());
            }
            Err(explain_refusal(error))
        }
    }
}

/// Removes `.partial-<timestamp>`, which a backup has left that ended early. If that can't be done, or it is larger than what
/// is removed at a time, it is put with what deletes have left: there no backup meets it, no image in it counts as a child,
/// and each delete tries again.
pub fn clear_partial(instance: &Folder, partial: &str) -> Result<u64> {
    clear_partial_within(instance, partial, &mut MOST_REMOVED.clone())
}

/// Removes all of them, within the same bound: if there are more, the next backup goes on with those.
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
        log::warn!("'{}' held {} of those, which are not all named", instance.path.display(), partials.len());
    }
    if more {
        let path = instance.path.display();
        log::warn!("'{path}' holds more that backups left which ended early: the next one goes on with it");
    }
    Ok(())
}

fn clear_partial_within(instance: &Folder, partial: &str, left: &mut u32) -> Result<u64> {
    let error = match instance.remove_tree_within(partial, left) {
        Err(error) => explain_refusal(error),
        removed => return removed,
    };
    let aside = free_name(instance, partial.strip_prefix(PARTIAL).unwrap_or(partial))?;
    if instance.rename(partial, &aside).is_err() {
        return Err(error);
    }
    log::warn!("'{}' can't be removed yet and is called '{aside}' now: {error}", instance.path.join(partial).display());
    Ok(0)
}

/// A name for what is removed, beside what could not be.
fn free_name(instance: &Folder, name: &str) -> Result<String> {
    let names = (0..ASIDE).map(|tries| match tries {
        0 => format!("{DELETED}{name}"),
        tries => format!("{DELETED}{name}.{tries}"),
    });
    for free in names {
        if instance.kind(&free)?.is_none() {
            return Ok(free);
        }
    }
    let cause = format!("'{}/{DELETED}{name}' and {} more of it can't be removed", instance.path.display(), ASIDE - 1);
    Err(Error::new(Code::Io, "find a name for what is removed", cause))
}

/// The name of a file that yields.
fn removal_name(name: &OsStr) -> OsString {
    let mut removal_name = OsString::from(REMOVED);
    removal_name.push(name);
    removal_name
}

/// A point that is out of view.
struct HiddenPoint<'a> {
    instance: &'a Folder,
    lock: &'a InstanceLock,
    /// Its name now.
    hidden: &'a str,
    /// Its path is the one that is known.
    folder: Folder,
    /// What is in it, by the files' own names.
    names: BTreeSet<OsString>,
    /// Those that have another name now.
    renamed: BTreeSet<OsString>,
    /// The removal of files has begun.
    begun: bool,
}

impl<'a> HiddenPoint<'a> {
    fn new(instance: &'a Folder, lock: &'a InstanceLock, folder: Folder, hidden: &'a str) -> Result<HiddenPoint<'a>> {
        let mut point = HiddenPoint {
            instance,
            lock,
            hidden,
            folder,
            names: BTreeSet::new(),
            renamed: BTreeSet::new(),
            begun: false,
        };
        for name in point.folder.names_that(|name| !is_kept_by_nfs(name))? {
            // a delete that was killed has left it
            match name.as_bytes().strip_prefix(REMOVED.as_bytes()) {
                Some(own) if !own.is_empty() => {
                    let own = OsStr::from_bytes(own).to_owned();
                    point.renamed.insert(own.clone());
                    point.names.insert(own);
                }
                _ => _ = point.names.insert(name),
            }
        }
        Ok(point)
    }

    fn remove(&mut self) -> Result<u64> {
        self.rename_all()?;
        self.remove_all()
    }

    /// Asks of each file whether it may be removed, by another name for it.
    fn rename_all(&mut self) -> Result<()> {
        for name in self.names.difference(&self.renamed.clone()) {
            steps::at("rename one of a point");
            let other = removal_name(name);
            // no file of ours has such a name
            if other.len() > LONGEST {
                continue;
            }
            match self.folder.rename(name, &other) {
                Ok(()) => _ = self.renamed.insert(name.clone()),
                // A full repository may have no room for a name, and has to be emptied all the same.
                Err(error) if matches!(error.code, Code::NoSpace | Code::AlreadyExists) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes everything, what may still refuse it first.
    fn remove_all(&mut self) -> Result<u64> {
        self.lock.check()?;
        let mut names: Vec<_> = self.names.iter().map(|name| Ok((self.rank(name)?, name))).collect::<Result<_>>()?;
        names.sort();
        self.begun = true;
        let mut freed = 0_u64;
        for (_, name) in names {
            steps::at("remove one of a point");
            let (now, path) = (self.current_name(name), self.folder.path.join(name));
            let removed = self.folder.remove_tree_known_as(&now, &path, &mut MOST_REMOVED.clone())?;
            freed = freed.saturating_add(removed);
        }
        Ok(freed)
    }

    /// Removes the folder, with what came meanwhile. Where nothing is left but what somebody has open, it stays for the next
    /// delete.
    fn remove_rest(&self) -> Result<u64> {
        let error = match self.instance.remove_tree(self.hidden) {
            Err(error) => error.with_leftover(self.hidden),
            removed => return removed,
        };
        let rest = self.folder.first_names(1, |name| !is_kept_by_nfs(name));
        if rest.is_ok_and(|(rest, _)| rest.is_empty()) {
            log::warn!("'{}' stays while somebody has files open that were in it: {error}", self.folder.path.display());
            return Ok(0);
        }
        Err(error)
    }

    /// The name that a file has now.
    fn current_name(&self, name: &OsStr) -> OsString {
        if self.renamed.contains(name) { removal_name(name) } else { name.to_owned() }
    }

    /// Folders go first, for nobody has asked what is in them; then images, for which a point is made.
    fn rank(&self, name: &OsStr) -> Result<u8> {
        let is_folder = self.folder.kind(self.current_name(name))? == Some(FileType::Directory);
        let is_image = Path::new(name).extension() == Some(OsStr::new("qcow2"));
        Ok(if is_folder { 0 } else { 2 - u8::from(is_image) })
    }

    /// Gives each file its own name again that has another; the error is the first of those that could not get it.
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

    /// Gives everything its own name again, if all of it is there; the error says which it is.
    fn put_back(&mut self, name: &str, error: Error) -> Error {
        if let Err(stuck) = self.restore_names(name) {
            log::warn!("'{}' can't be put back: {stuck}", self.folder.path.display());
            return error.with_leftover(self.hidden);
        }
        // it is back, whether or not its server says that it keeps the names
        for folder in [&self.folder, self.instance] {
            if let Err(unkept) = folder.sync() {
                log::warn!("'{}' is back under its name: {unkept}", self.folder.path.display());
            }
        }
        Error { cause: format!("{}; the restore point is there, with all files of its own", error.cause), ..error }
    }

    fn restore_names(&mut self, name: &str) -> Result<()> {
        match self.lock.check() {
            // what is there is the other host's now
            Err(error) if error.code == Code::Busy => return Err(error),
            // a lock that can't be looked at is nobody else's
            Ok(()) | Err(_) => {}
        }
        self.give_names_back()?;
        // others may have added something
        if self.begun && !self.folder.names()?.into_iter().collect::<BTreeSet<_>>().is_superset(&self.names) {
            return Err(Error::new(Code::Io, "put the restore point back", "a part of it is gone"));
        }
        self.instance.rename(self.hidden, name)
    }
}

/// What may be behind the refusal of a NAS to change or remove what is published.
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
    fn a_point_is_put_back_whenever_all_of_it_is_there_and_ours() {
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
                &[".removed-domain.xml", ".removed-manifest.json", ".removed-root.x.qcow2"],
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
            let folder = instance.open_dir_in(".deleted-T1").unwrap();
            let mut point = HiddenPoint::new(&instance, &lock, folder, ".deleted-T1").unwrap();
            point.rename_all().unwrap();
            point.begun = true;
            act(dir.path());
            let error = point.put_back("T1", Error::new(Code::Io, "remove", "refused"));
            assert_eq!(error.leftovers, name != "T1", "{meanwhile}: {error}");
            assert_eq!(found(&instance), (name, files.iter().map(OsString::from).collect()), "{meanwhile}");
            _ = fs::remove_dir(lease(dir.path()));
        }
    }

    #[test]
    fn what_a_killed_delete_has_left_goes_whatever_its_files_are_called() {
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
    fn what_nfs_keeps_of_a_file_that_is_open_refuses_no_delete_and_goes_with_a_later_one() {
        let (dir, instance) = instance();
        let kept = |point: &str| dir.path().join(point).join(".nfs0000000000000001");
        fs::write(kept("T1"), "").unwrap();
        rustix::mount::mount_bind(kept("T1"), kept("T1")).unwrap();
        let lock = InstanceLock::take(&instance, Purpose::Change).unwrap();
        remove_point(&instance, &lock, "T1").unwrap();
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
    fn a_partial_that_is_too_deep_or_too_wide_holds_no_backup_up() {
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
    fn more_partials_than_are_listed_hold_no_backup_up_and_each_takes_some() {
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
    fn names_for_what_stays_come_to_an_end() {
        let (dir, instance) = instance();
        assert_eq!(free_name(&instance, "T1").unwrap(), ".deleted-T1");
        fs::write(dir.path().join(".deleted-T1"), "").unwrap();
        assert_eq!(free_name(&instance, "T1").unwrap(), ".deleted-T1.1");
        (1..ASIDE).for_each(|n| fs::write(dir.path().join(format!(".deleted-T1.{n}")), "").unwrap());
        assert!(free_name(&instance, "T1").unwrap_err().cause.ends_with("and 99 more of it can't be removed"));
    }
}
