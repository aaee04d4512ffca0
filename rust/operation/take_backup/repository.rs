//! The repository of a backup, opened and locked, and what its points tell. Each step runs on a thread that may be given up, so that a
//! hung NAS fails the call and does not block the agent. Should such a step ever return, its guards remove what it made.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::{Duration, Instant};

use super::call::Call;
use super::request::{Checked, Mode};
use super::space::Free;
use crate::config;
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::nas::folder::Folder;
use crate::nas::instance::Instance;
use crate::nas::path::{PARTIAL, PointPath, RepoPath};
use crate::nas::purpose::Purpose;
use crate::nas::removal;
use crate::nas::session::Session;
use crate::point::{DEEPEST, Manifest, Parent};
use crate::qcow2;
use crate::work::background::{Background, start};
use crate::work::call_end::within_call;
use crate::work::deadline::bounded;
use crate::work::side_by_side::side_by_side;

/// The number of files that are inspected, or written, at the same time: a NAS answers several questions in the time of one.
pub(super) const AT_ONCE: usize = 8;
const OPEN_STEP: &str = "open the repository";
/// Images that are read ahead; those of one more point at most come to it.
const MOST_AHEAD: usize = 2_000;

/// A repository that was opened for one virtual machine's backup, locked against others.
#[derive(Debug)]
pub(super) struct OpenedRepository {
    /// The virtual machine's folder in it, locked.
    pub instance: Instance,
    /// By the list of all that it held nothing has the point's name.
    pub is_listed: bool,
    /// The room in the repository.
    pub free: Free,
    /// The bitmaps that the manifests of this virtual machine name.
    pub published: BTreeSet<String>,
    /// The parent that an incremental asks for, or why there is none.
    pub parent: Option<Result<Parent, String>>,
}

impl OpenedRepository {
    /// The host path of the repository's root.
    pub(super) fn root(&self) -> &Path {
        &self.instance.root().path
    }
}

/// A repository that is being opened while something else is done.
pub(super) struct RepositoryOpening(Background<ReadAhead>);

/// An open repository, of which is read ahead what `lock_and_look` is going to read.
#[derive(Debug)]
pub(super) struct ReadAhead {
    session: Session,
    ahead: Option<Background<()>>,
}

/// Begins to open the repository, and to read ahead what `lock_and_look` is going to read, so that the host's memory holds it
/// then. Makes and locks nothing, and trusts nothing of what it reads.
pub(super) fn begin_open(call: &Call<'_>) -> Result<RepositoryOpening> {
    let left = call.time_for(OPEN_STEP, Duration::MAX)?;
    let (checked, config) = (call.checked.clone(), call.config.clone());
    let work = move || {
        let session = Session::open_within(left, checked.export.clone(), config)?;
        let ours = session.clone();
        // `lock_and_look` reads all of it again, and reports errors
        let look = move || {
            look_ahead(&ours, &checked).unwrap_or_else(|error| log::debug!("{}: {error}", checked.vm));
            Ok(())
        };
        Ok(ReadAhead { session, ahead: start("look ahead", look, || ()).ok() })
    };
    start(OPEN_STEP, work, || ()).map(RepositoryOpening)
}

impl ReadAhead {
    fn wait(&self, limit: Duration) {
        self.ahead.as_ref().map(|ahead| ahead.wait(within_call(limit)));
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        // else it would keep a repository mounted that nobody uses
        self.wait(limits::HUNG);
    }
}

impl RepositoryOpening {
    /// Waits for the repository, at most for `time`; where no time is left, the NAS has not failed to answer. An error of what
    /// was done `meanwhile` comes first, and is not kept waiting by a NAS that hangs.
    pub(super) fn with<T>(self, meanwhile: Result<T>, time: Result<Duration>) -> Result<(T, ReadAhead)> {
        let limit = if meanwhile.is_ok() { time.clone().unwrap_or_default() } else { limits::HUNG };
        let opened = self.0.wait(limit);
        let meanwhile = meanwhile?;
        let late = || time.and(Err(Error::new(Code::NasUnresponsive, OPEN_STEP, "it does not open")));
        Ok((meanwhile, opened.unwrap_or_else(late)?))
    }
}

/// Reads the manifests of the points, and the headers and L1 tables of the images that an incremental would stand on.
fn look_ahead(session: &Session, checked: &Checked) -> Result<()> {
    const STEP: &str = "look at the restore points";
    let until = Instant::now() + limits::NAS_PROBE;
    let Mode::Incremental { parent, .. } = &checked.mode else { return Ok(()) };
    let (ours, folder, vm) = (session.clone(), checked.point.instance_folder(), checked.vm.clone());
    let is_point = |name: &OsStr| !name.as_encoded_bytes().starts_with(b".");
    // on NFS the list tells of each name what would be asked for one by one
    let (instance, points) = ours.root().open_and_list(folder.as_str(), is_point)?;
    // nobody waits for the answers after that
    let in_time = || Instant::now() < until;
    let read = |point: &OsStr| if in_time() { manifest(&instance, &vm, point).ok()? } else { None };
    side_by_side(STEP, AT_ONCE, points, |point| drop(read(&point)));
    let images = chain_images(parent.clone(), |point| read(point.name().as_ref()));
    let inspect = |image: RepoPath| ours.root().open_file(&image).map(|file| drop(qcow2::inspect_readable(&file)));
    side_by_side(STEP, AT_ONCE, images, |image| in_time().then(|| inspect(image)));
    Ok(())
}

/// The images of a point and of those that it stands on, as far as their manifests tell: some of them, if there are too many.
fn chain_images(newest: PointPath, mut read: impl FnMut(&PointPath) -> Option<Manifest>) -> Vec<RepoPath> {
    let (mut images, mut seen, mut next) = (Vec::new(), BTreeSet::new(), Some(newest));
    while let Some(point) = next.take() {
        if images.len() >= MOST_AHEAD || seen.len() == DEEPEST || !seen.insert(point.clone()) {
            break;
        }
        let Some(manifest) = read(&point) else { break };
        images.extend(manifest.disks.iter().filter_map(|disk| point.file(&disk.file).ok()));
        let below = manifest.parent.and_then(|parent| PointPath::parse("parent", &parent.backup_path).ok());
        next = below.filter(|below| below.instance() == point.instance());
    }
    images
}

/// Opens the repository, locks the virtual machine's folder and looks at the restore points.
pub(super) fn open(call: &Call<'_>) -> Result<OpenedRepository> {
    let left = call.time_for(OPEN_STEP, Duration::MAX)?;
    let session = Session::open_within(left, call.checked.export.clone(), call.config.clone())?;
    lock_and_look(call, ReadAhead { session, ahead: None })
}

/// Locks the virtual machine's folder in the repository, reads its manifests and looks at the parent.
pub(super) fn lock_and_look(call: &Call<'_>, read_ahead: ReadAhead) -> Result<OpenedRepository> {
    let checked = call.checked;
    let point = checked.point.clone();
    const LOCK: &str = "lock the virtual machine's folder";
    let limit = call.time_for(LOCK, limits::NAS_PROBE + limits::CLAIM_WAIT)?;
    // each step owns the lock: a step that is given up keeps the folder locked as long as it works there
    let session = read_ahead.session.clone();
    let instance = bounded(LOCK, limit, move || Instance::open_within(limit, session, &point, Purpose::Add))?;
    let checked = checked.clone();
    const CLEAR: &str = "remove what backups have left";
    const LOOK: &str = "look at the restore points";
    let own = checked.point.clone();
    let (instance, points) = bounded(CLEAR, call.time_for(CLEAR, limits::STORAGE_LONG_STEP)?, move || {
        let points = list_points(instance.folder())?;
        if points.0.iter().any(|name| name == own.name()) {
            return Err(Error::new(Code::AlreadyExists, OPEN_STEP, format!("'{own}' is there already")));
        }
        Ok((instance, points))
    })?;
    // beside the lock and the list; nothing comes of it but that it need not be read twice
    read_ahead.wait(limits::NAS_PROBE);
    bounded(LOOK, call.time_for(LOOK, limits::STORAGE_STEP)?, move || {
        let until = Instant::now() + limits::STORAGE_STEP / 2;
        let is_listed = !points.1 && has_one_spelling(checked.point.name());
        let published = published_bitmaps(instance.folder(), points, &checked.vm, until)?;
        let parent = match &checked.mode {
            Mode::Incremental { parent, parent_bitmap, .. } => {
                Some(Parent::find(instance.root(), parent, &checked.vm, parent_bitmap))
            }
            _ => None,
        };
        let free = Free::of(instance.session())?;
        Ok(OpenedRepository { instance, is_listed, free, published, parent })
    })
}

/// Names in a machine's folder that are looked at: more than there are restore points of one.
const MOST_POINTS: usize = 50_000;
/// Bytes of the names of bitmaps that are looked at: those of some 20,000 points of many disks.
const MOST_NAMES: usize = 16 << 20;

/// True for a name as CloudStack gives it to points. Of others a server may take several spellings, upper and lower case, for the same.
fn has_one_spelling(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// The names of what may be points, and whether there are more. Removes what backups have left: whoever made it no longer holds the
/// lock of the folder, which is ours.
fn list_points(instance: &Folder) -> Result<(Vec<OsString>, bool)> {
    let is_hidden = |name: &OsStr| name.as_encoded_bytes().starts_with(b".");
    let is_left = |name: &OsStr| name.as_encoded_bytes().starts_with(PARTIAL.as_bytes());
    let (mut names, more) = instance.first_names(MOST_POINTS, |name| !is_hidden(name) || is_left(name))?;
    if !more && !names.iter().any(|name| is_left(name)) {
        return Ok((names, more));
    }
    removal::clear_partials(instance)?;
    if more {
        return instance.first_names(MOST_POINTS, |name| !is_hidden(name));
    }
    names.retain(|name| !is_hidden(name));
    Ok((names, more))
}

/// The bitmaps named by the manifests of `vm` in its folder, of the newest points first. One that can't be read, or is not
/// looked at because there are too many or it takes beyond `until`, names none: what only it named is left alone.
fn published_bitmaps(
    instance: &Folder,
    (points, mut more): (Vec<OsString>, bool),
    vm: &str,
    until: Instant,
) -> Result<BTreeSet<String>> {
    let (mut names, mut bytes) = (BTreeSet::new(), 0);
    for point in points.iter().rev() {
        if bytes > MOST_NAMES || Instant::now() >= until {
            more = true;
            break;
        }
        match manifest(instance, vm, point) {
            Ok(Some(manifest)) if manifest.vm_name == vm => {
                let of_disks = manifest.disks.into_iter().filter_map(|disk| disk.bitmap);
                for name in manifest.bitmap.into_iter().chain(manifest.name).chain(of_disks) {
                    bytes += name.len();
                    names.insert(name);
                }
            }
            Ok(_) => {}
            Err(error) => log::warn!("{vm}: {error}"),
        }
    }
    if more {
        let path = instance.path.display();
        log::warn!(
            "{vm}: '{path}' holds more than is looked at: bitmaps that only the rest of it names are left alone"
        );
    }
    Ok(names)
}

/// The manifest of what may be a point. With a key it is the key that says what is ours: one that it does not vouch for
/// names nothing.
fn manifest(instance: &Folder, vm: &str, name: &OsStr) -> Result<Option<Manifest>> {
    if !instance.kind(name)?.is_some_and(|kind| kind.is_dir()) {
        return Ok(None);
    }
    let folder = instance.open_to_pass(name)?;
    match PointPath::parse("point", &format!("{vm}/{}", name.display())) {
        Ok(point) if config::current().keys.is_some() => Manifest::read_sound(&folder, &point),
        _ => Manifest::read(&folder),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::point::{MANIFEST, ParentPoint};
    use std::fs;

    /// Puts a point there whose manifest names one bitmap.
    fn plant(instance: &Path, name: &str, bitmap: &str) {
        let manifest = serde_json::json!({
            "version": 1, "pointId": "1", "vmName": "i-1", "when": "2026-01-01T00:00:00Z", "kind": "full",
            "engine": "push", "bitmap": bitmap, "parent": null, "disks": [],
        });
        fs::create_dir(instance.join(name)).unwrap();
        fs::write(instance.join(name).join(MANIFEST), manifest.to_string()).unwrap();
    }

    #[test]
    fn what_is_read_ahead_is_one_chain_which_comes_to_an_end() {
        let dir = tempfile::tempdir().unwrap();
        plant(dir.path(), "T1", "one");
        let known = Manifest::read(&Folder::open_root(dir.path().join("T1")).unwrap()).unwrap().unwrap();
        let point = |name: &str| PointPath::parse("point", name).unwrap();
        let below = |point: &PointPath, names: fn(u32) -> String| {
            let backup_path = names(point.name().parse().unwrap());
            Some(Manifest { parent: Some(ParentPoint { backup_path, point_id: String::new() }), ..known.clone() })
        };
        type Row = (fn(u32) -> String, usize);
        let rows: [Row; 3] =
            [(|n| format!("i-1/{}", n + 1), DEEPEST), (|n| format!("i-1/{}", 1 - n), 2), (|_| "i-2/0".into(), 1)];
        for (names, many) in rows {
            let mut reads = 0;
            chain_images(point("i-1/0"), |at| {
                reads += 1;
                below(at, names)
            });
            assert_eq!(reads, many);
        }
    }

    #[test]
    fn more_names_than_are_listed_hold_no_backup_up_and_are_not_ours() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let instance = Folder::open_root(dir.path()).unwrap();
        plant(dir.path(), "T1", "one");
        let later = Instant::now() + Duration::from_secs(3600);
        assert_eq!(
            published_bitmaps(&instance, list_points(&instance).unwrap(), "i-1", later).unwrap(),
            BTreeSet::from(["one".to_owned()])
        );
        fs::write(dir.path().join(".file"), "").unwrap();
        let name = |n: u32| dir.path().join(n.to_string());
        (0..50_001).for_each(|n| fs::hard_link(dir.path().join(".file"), name(n)).unwrap());
        assert!(
            published_bitmaps(&instance, list_points(&instance).unwrap(), "i-1", Instant::now()).unwrap().is_empty(),
            "there is no time"
        );
        let known = published_bitmaps(&instance, list_points(&instance).unwrap(), "i-1", later).unwrap();
        assert!(known.is_subset(&BTreeSet::from(["one".to_owned()])), "{known:?}");
    }

    #[test]
    fn a_list_tells_of_names_that_servers_take_for_no_other() {
        assert!(has_one_spelling("2026.01.31.23.59.59"));
        assert!(["T1", "tag", "2026.01.31.23.59.59é", "2026.01.31 "].iter().all(|name| !has_one_spelling(name)));
    }

    #[test]
    fn what_was_done_meanwhile_fails_first() {
        let opening = || {
            let refused = || Err(Error::new(Code::MountFailed, "mount", "refused"));
            RepositoryOpening(start("open the repository", refused, || ()).unwrap())
        };
        let missing = Err::<(), _>(Error::new(Code::DomainNotFound, "look up the domain", "missing"));
        assert_eq!(opening().with(missing, Ok(limits::STORAGE_STEP)).unwrap_err().code, Code::DomainNotFound);
        assert_eq!(opening().with(Ok(()), Ok(limits::STORAGE_STEP)).unwrap_err().code, Code::MountFailed);
    }

    #[test]
    fn a_nas_that_was_given_no_time_is_none_that_does_not_answer() {
        let none = Error::new(Code::Timeout, "open the repository", "nothing is left");
        for (time, code) in [(Err(none), Code::Timeout), (Ok(Duration::from_millis(20)), Code::NasUnresponsive)] {
            let (release, wait) = std::sync::mpsc::channel::<()>();
            let hangs = move || Err(Error::new(Code::Io, "mount", format!("{:?}", wait.recv())));
            let opening = RepositoryOpening(start("open the repository", hangs, || ()).unwrap());
            assert_eq!(opening.with(Ok(()), time).unwrap_err().code, code);
            drop(release);
        }
    }
}
