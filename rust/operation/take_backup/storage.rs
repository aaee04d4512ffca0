//! The NAS's side of a backup. Each step runs on a thread that may be given up, so that a hung NAS fails the call and does not
//! block the agent. Should such a step ever return, its guards remove what it made.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::call::Call;
use super::full;
use super::plan::TargetSpec;
use super::request::{Checked, Mode};
use super::space::Free;
use super::written::{self, TakenOver, WrittenTarget};
use crate::apart::{Apart, Descriptor};
use crate::config::{self, FILE_MODE};
use crate::digest::Digest;
use crate::engine::{self, push};
use crate::error::{Code, Error, Result, called};
use crate::limits;
use crate::nas::access;
use crate::nas::denied;
use crate::nas::folder::Folder;
use crate::nas::instance::Instance;
use crate::nas::partial::{NewFolder, PartialPoint};
use crate::nas::path::{PARTIAL, PointPath, RepoPath};
use crate::nas::purpose::Purpose;
use crate::nas::removal;
use crate::nas::session::Session;
use crate::nas::view::TargetView;
use crate::point::fingerprints::{self, Base};
use crate::point::{DEEPEST, MANIFEST, Manifest, Parent, StatePart};
use crate::qcow2::{self, Source};
use crate::work::deadline::{Background, bounded, start};

/// What a copied point waits for last.
pub(super) const PUBLISH: &str = "publish the restore point";
const OPEN_STEP: &str = "open the repository";
/// The number of files that are inspected, or written, at the same time: a NAS answers several questions in the time of one.
const AT_ONCE: usize = 8;
/// Images that are read ahead; those of one more point at most come to it.
const MOST_AHEAD: usize = 2_000;

/// A repository that was opened for one virtual machine's backup, locked against others.
#[derive(Debug)]
pub(super) struct OpenedRepository {
    instance: Instance,
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
pub(super) struct RepositoryOpening(Background<Session>);

/// Begins to open the repository, and reads ahead what `lock_and_look` is going to read, so that the host's memory holds it
/// then. Makes and locks nothing, and trusts nothing of what it reads.
pub(super) fn begin_open(call: &Call<'_>) -> Result<RepositoryOpening> {
    let left = call.time_for(OPEN_STEP, Duration::MAX)?;
    let (checked, config) = (call.checked.clone(), call.config.clone());
    let work = move || {
        let session = Session::open_within(left, checked.export.clone(), config)?;
        // `lock_and_look` reads all of it again, and reports errors
        if let Err(error) = look_ahead(&session, &checked) {
            log::debug!("{}: {error}", checked.vm);
        }
        Ok(session)
    };
    start(OPEN_STEP, work, || ()).map(RepositoryOpening)
}

impl RepositoryOpening {
    /// Waits for the repository, at most for `time`; where no time is left, the NAS has not failed to answer. An error of what
    /// was done `meanwhile` comes first, and is not kept waiting by a NAS that hangs.
    pub(super) fn with<T>(self, meanwhile: Result<T>, time: Result<Duration>) -> Result<(T, Session)> {
        let limit = if meanwhile.is_ok() { time.clone().unwrap_or_default() } else { limits::HUNG };
        let session = self.0.wait(limit);
        let meanwhile = meanwhile?;
        let late = || time.and(Err(Error::new(Code::NasUnresponsive, OPEN_STEP, "it does not open")));
        Ok((meanwhile, session.unwrap_or_else(late)?))
    }
}

/// Reads the manifests of the points that an incremental would stand on, and the headers and L1 tables of their images.
fn look_ahead(session: &Session, checked: &Checked) -> Result<()> {
    const STEP: &str = "look at the restore points";
    let until = Instant::now() + limits::NAS_PROBE;
    let Mode::Incremental { parent, .. } = &checked.mode else { return Ok(()) };
    let (ours, folder, vm) = (session.clone(), checked.point.instance_folder(), checked.vm.clone());
    let parent = parent.clone();
    let images = bounded(STEP, limits::NAS_PROBE, move || {
        let instance = ours.root().open_dir(&folder)?;
        // on NFS the list tells of each name what would be asked for one by one
        instance.first_names(MOST_POINTS, |_| false)?;
        // nobody waits for the answer after that
        let is_late = || Instant::now() >= until;
        let read =
            |point: &PointPath| if is_late() { Ok(None) } else { manifest(&instance, &vm, point.name().as_ref()) };
        Ok(Arc::new(chain_images(parent, |point| read(point).ok()?)))
    })?;
    let look = |first: usize| {
        let (ours, images) = (session.clone(), images.clone());
        let inspect = move |image: &RepoPath| ours.root().open_file(image).map(|file| qcow2::inspect_readable(&file));
        let look = move || {
            let own = images.iter().skip(first).step_by(AT_ONCE).take_while(|_| Instant::now() < until);
            own.for_each(|image| drop(inspect(image)));
            Ok(())
        };
        start(STEP, look, || ())
    };
    let looks: Vec<_> = (0..AT_ONCE.min(images.len())).map(look).collect::<Result<_>>()?;
    for look in looks {
        look.wait(until.saturating_duration_since(Instant::now()));
    }
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
    lock_and_look(call, Session::open_within(left, call.checked.export.clone(), call.config.clone())?)
}

/// Locks the virtual machine's folder in the repository, reads its manifests and looks at the parent.
pub(super) fn lock_and_look(call: &Call<'_>, session: Session) -> Result<OpenedRepository> {
    let checked = call.checked;
    let point = checked.point.clone();
    const LOCK: &str = "lock the virtual machine's folder";
    let limit = call.time_for(LOCK, limits::NAS_PROBE + limits::CLAIM_WAIT)?;
    // each step owns the lock: a step that is given up keeps the folder locked as long as it works there
    let instance = bounded(LOCK, limit, move || {
        refuse_existing(session.root(), &point)?;
        // once more by who makes the point's folder, under the lock
        Instance::open_within(limit, session, &point, Purpose::Add)
    })?;
    let checked = checked.clone();
    const CLEAR: &str = "remove what backups have left";
    const LOOK: &str = "look at the restore points";
    let (instance, points) = bounded(CLEAR, call.time_for(CLEAR, limits::STORAGE_LONG_STEP)?, move || {
        let points = list_points(instance.folder())?;
        Ok((instance, points))
    })?;
    bounded(LOOK, call.time_for(LOOK, limits::STORAGE_STEP)?, move || {
        let until = Instant::now() + limits::STORAGE_STEP / 2;
        let published = published_bitmaps(instance.folder(), points, &checked.vm, until)?;
        let parent = match &checked.mode {
            Mode::Incremental { parent, parent_bitmap, .. } => {
                Some(Parent::find(instance.root(), parent, &checked.vm, parent_bitmap))
            }
            _ => None,
        };
        let free = Free::of(instance.session())?;
        Ok(OpenedRepository { instance, free, published, parent })
    })
}

fn refuse_existing(root: &Folder, point: &PointPath) -> Result<()> {
    let there = match root.open_to_pass(point.instance()) {
        Ok(instance) => instance.kind(point.name())?.is_some(),
        Err(error) if error.code == Code::NotFound => false,
        Err(error) => return Err(denied::explain_reading(error, &root.path)),
    };
    if there {
        Err(Error::new(Code::AlreadyExists, "open the repository", format!("'{point}' is there already")))
    } else {
        Ok(())
    }
}

/// Names in a machine's folder that are looked at: more than there are restore points of one.
const MOST_POINTS: usize = 50_000;
/// Bytes of the names of bitmaps that are looked at: those of some 20,000 points of many disks.
const MOST_NAMES: usize = 16 << 20;

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

/// Writes a file that describes the machine, durably.
fn write_text(folder: &NewFolder, name: &str, text: &[u8]) -> Result<()> {
    // whoever may read the disks, too, may not have what opens them where the guest encrypts them
    let mode = if StatePart::of(name).is_some() { FILE_MODE } else { config::current().file_mode() };
    let mut file = folder.create_file(name, mode)?;
    let written = file.write_all(text).map_err(called("write"));
    let written = written.and_then(|()| file.sync_all().map_err(called("fsync")));
    written.map_err(|e| Error::io("write what describes the machine", folder.path_of(name), e))
}

/// Work on one file of a point.
type Work<T> = Box<dyn FnOnce() -> Result<T> + Send>;

/// Does all the works, `AT_ONCE` at a time, and fails with the first error. By then all have ended, because what they have made is
/// removed then. On a NAS that hangs none does: the caller is given up, and keeps the folder locked and the repository open till then.
fn side_by_side<T: Send + 'static>(step: &'static str, works: Vec<Work<T>>) -> Result<Vec<T>> {
    let works = Arc::new(Mutex::new(works.into_iter().enumerate().collect::<VecDeque<_>>()));
    let next = |works: &Mutex<VecDeque<_>>| works.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let hand = |_| {
        let works = works.clone();
        let work = move || {
            let mut done = Vec::new();
            while let Some((i, work)) = next(&works) {
                let work: Work<T> = work;
                done.push((i, work()?));
            }
            Ok(done)
        };
        start(step, work, || ())
    };
    let count = works.lock().unwrap_or_else(PoisonError::into_inner).len();
    let begun: Vec<_> = (0..AT_ONCE.min(count)).map(hand).collect();
    let ended = begun.into_iter().map(|hand| {
        let hand = hand?;
        loop {
            if let Some(ended) = hand.wait(limits::STORAGE_STEP) {
                return ended;
            }
        }
    });
    let ended = ended.collect::<Vec<_>>().into_iter().collect::<Result<Vec<_>>>()?;
    let done: BTreeMap<_, _> = ended.into_iter().flatten().collect();
    Ok(done.into_values().collect())
}

/// A point that is durable and visible.
pub(super) struct Published {
    pub manifest: Manifest,
    /// How long that took.
    pub millis: u64,
}

/// The target of one disk.
#[derive(Debug)]
struct TargetFile {
    spec: TargetSpec,
    file: Apart,
    /// The file of its fingerprints, and its name, if there is one.
    index: Option<(Apart, String)>,
    /// The name of the file that it stands on, relative to its own folder.
    backing: Option<String>,
}

impl TargetFile {
    fn make(spec: TargetSpec, folder: &NewFolder, point: &PointPath) -> Result<TargetFile> {
        let mode = config::current().file_mode();
        let file = folder.create_file(&spec.name, mode)?;
        let backing = spec.parent.as_ref().map(|parent| parent.relative_to(&point.folder()));
        let path = folder.path_of(&spec.name);
        // an engine of ours makes it an image
        let made = if spec.fingerprints {
            qcow2::check_creatable(spec.virtual_size, backing.as_deref())
        } else {
            qcow2::create(&file, spec.virtual_size, backing.as_deref())
        };
        made.map_err(|e| e.at("make the target", path))?;
        let index = spec.fingerprints.then(|| {
            let name = fingerprints::file_name(&spec.name);
            Ok((folder.create_file(&name, mode)?, name))
        });
        Ok(TargetFile { index: index.transpose()?, spec, file, backing })
    }

    fn written(&self) -> WrittenTarget {
        WrittenTarget {
            file: self.file.clone(),
            name: self.spec.name.clone(),
            virtual_size: self.spec.virtual_size,
            backing: self.backing.clone(),
        }
    }
}

/// The target files of a point that is not published yet; dropped, they are removed.
#[derive(Debug)]
pub(super) struct Targets {
    // in this order: the files are closed before the point ends
    files: Vec<TargetFile>,
    /// What QEMU sees of them, where it writes them itself.
    view: Option<TargetView>,
    /// Why QEMU follows links there, if it does.
    lack: Option<String>,
    partial: PartialPoint,
}

/// Who wrote the targets that are discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TargetWriter {
    /// An engine of this library, which tells each error; or a writer that no error has stopped.
    Ours,
    /// QEMU, as this user and group (`None`: ours).
    Qemu(Option<(u32, u32)>),
}

/// Makes the empty targets with their final backing names. This writes to the NAS right before the hypervisor does, and so
/// shows whether the NAS hangs: `NAS_UNRESPONSIVE`.
pub(super) fn make_targets(call: &Call<'_>, opened: OpenedRepository, specs: Vec<TargetSpec>) -> Result<Targets> {
    const STEP: &str = "make the targets";
    let point = call.checked.point.clone();
    let limit = call.time_for(STEP, limits::NAS_PROBE)?;
    bounded(STEP, limit, move || {
        let partial = opened.instance.begin(&point)?;
        let mut targets = Targets { files: Vec::new(), view: None, lack: None, partial };
        let (folder, point) = (Arc::new(targets.partial.new_folder()?), Arc::new(point));
        let make = |spec| -> Work<TargetFile> {
            let (folder, point) = (folder.clone(), point.clone());
            Box::new(move || TargetFile::make(spec, &folder, &point))
        };
        targets.files = side_by_side("make a target", specs.into_iter().map(make).collect())?;
        Ok(targets)
    })
}

/// True if the step that failed with this error may still run, on a NAS that does not answer, and may leave something.
pub(super) fn may_still_run(error: &Error) -> bool {
    error.leftovers || error.code == Code::NasUnresponsive
}

impl Targets {
    /// The virtual machine's folder in the repository, locked.
    pub(super) fn instance(&self) -> &Instance {
        self.partial.instance()
    }

    /// What an engine of ours writes of the disk at this position, with its fingerprints; on top of `base`, what differs from
    /// it.
    pub(super) fn target(&self, i: usize, base: Option<Base<Apart>>) -> Result<engine::CopyTarget> {
        let TargetFile { spec, file, index, backing } = &self.files[i];
        let path = PathBuf::from(self.path(&spec.name)?);
        let none = || Error::new(Code::Internal, "open the target", "it was made without fingerprints");
        let (index, index_name) = index.as_ref().ok_or_else(none)?;
        Ok(engine::CopyTarget {
            file: file.clone(),
            disk: spec.disk.clone(),
            size: spec.virtual_size,
            backing: backing.clone(),
            index: index.clone(),
            index_name: index_name.clone(),
            base,
            path,
        })
    }

    /// Shows the targets by `view` to QEMU, which runs as the user and group `owner`, if that is known. `PERMISSION_DENIED` when
    /// QEMU can't write to them.
    pub(super) fn show_to_qemu(mut self, view: TargetView, owner: Option<(u32, u32)>) -> Result<Targets> {
        bounded("ask whether QEMU can write", limits::NAS_PROBE, move || {
            let shown = view.show(self.partial.folder(), owner)?;
            self.view = shown.at_its_place.then_some(view);
            self.lack = shown.lack;
            if let Some(owner) = owner {
                access::check_qemu(self.partial.folder(), &self.folder(), owner)?;
            }
            Ok(self)
        })
    }

    /// The target of the disk at this position.
    pub(super) fn file(&self, disk: usize) -> Apart {
        self.files[disk].file.clone()
    }

    /// `IO` when one of the disks' targets is no longer what lies under its name: whoever may write on the NAS can put a link
    /// there, and QEMU, which got the path, follows it.
    pub(super) fn check_in_place(&self) -> Result<()> {
        const STEP: &str = "look at the targets again";
        let folder = self.partial.folder().open_again()?;
        let written = self.written();
        bounded(STEP, limits::STORAGE_STEP, move || {
            written.iter().try_for_each(|target| target.check_in_place(&folder))
        })
    }

    /// Takes over what QEMU has written and closed, so that it can be published: checks that it is what was to be written, and
    /// clones it into files that QEMU can't reach, if the repository can. Returns what the repository or the kernel lacks.
    pub(super) fn take_over(&mut self, call: &Call<'_>) -> Result<Vec<String>> {
        let limit = call.time_to_publish(written::STEP)?;
        let folder = self.partial.folder().open_again()?;
        let (written, aside) = (self.written(), self.partial.aside()?);
        let (taken, aside) = bounded(written::STEP, limit, move || {
            let taken = written.into_iter().map(|target| target.take_over(&folder, &aside)).collect::<Result<Vec<_>>>();
            Ok((taken?, aside))
        })?;
        let mut told = None;
        for (target, taken) in self.files.iter_mut().zip(taken) {
            match taken {
                TakenOver::Own(own) => target.file = own,
                TakenOver::Shared(why) => told = Some(why),
            }
        }
        // not before: this process had the replaced files open, too
        if let Err(error) = bounded("remove what was replaced", limits::STORAGE_STEP, move || aside.clear()) {
            let folder = self.partial.folder().path.display();
            log::warn!("'{folder}': unable to remove the replaced targets, leaving them to the next backup: {error}");
        }
        Ok(self.lack.take().into_iter().chain(told).collect())
    }

    fn written(&self) -> Vec<WrittenTarget> {
        self.files.iter().map(TargetFile::written).collect()
    }

    /// The target of each of the disks, for whoever has QEMU write them.
    pub(super) fn for_qemu(&self) -> Vec<push::PushTarget> {
        let target = |TargetFile { spec, file, .. }: &TargetFile| push::PushTarget {
            disk: spec.disk.clone(),
            size: spec.virtual_size,
            file: file.clone(),
        };
        self.files.iter().map(target).collect()
    }

    /// The host path of each of the disks' targets, for QEMU.
    pub(super) fn paths(&self) -> Result<Vec<String>> {
        self.files.iter().map(|target| self.path(&target.spec.name)).collect()
    }

    /// Empties the targets, because a QEMU that still has them open would keep their room after they are removed.
    pub(super) fn give_room_back(&self) {
        let files: Vec<_> = self.files.iter().map(|target| target.file.clone()).collect();
        let path = self.folder();
        let emptied = bounded("empty the targets", limits::HUNG, move || {
            files.iter().for_each(|file| written::give_room_back(file, &path));
            Ok(())
        });
        if let Err(error) = emptied {
            log::warn!("'{}': unable to give the targets' room back: {error}", self.partial.folder().path.display());
        }
    }

    /// The host path of the targets' folder, as QEMU sees it.
    pub(super) fn folder(&self) -> PathBuf {
        self.view.as_ref().map_or_else(|| self.partial.folder().path.clone(), TargetView::path)
    }

    /// The host path of the target `name`, for QEMU. `UNSUPPORTED_IMAGE` when it is not UTF-8, which libvirt needs.
    fn path(&self, name: &str) -> Result<String> {
        self.folder().join(name).into_os_string().into_string().map_err(|path| {
            Error::new(Code::UnsupportedImage, "name the target", format!("'{}' is not UTF-8", path.display()))
        })
    }

    /// Syncs the files, writes `texts` and the manifest (completed by the files' lengths) beside them and makes the
    /// point visible. On failure nothing of it stays, or the error says what does.
    pub(super) fn publish(
        self,
        mut manifest: Manifest,
        texts: Vec<(&'static str, Vec<u8>)>,
        limit: Duration,
    ) -> Result<Published> {
        let begun = Instant::now();
        let until = begun + limit;
        let published = bounded(PUBLISH, limit, move || {
            let written = self.write_out(&mut manifest, texts).and_then(|()| {
                self.instance().fence()?;
                // the caller has given up: a point published now would belong to nobody
                let late = || Error::new(Code::NasUnresponsive, PUBLISH, "it took too long");
                if Instant::now() < until { Ok(()) } else { Err(late()) }
            });
            let Targets { files, view, partial, .. } = self;
            drop((files, view));
            match written {
                Ok(()) => partial.publish().map(|()| manifest),
                Err(error) => Err(match partial.discard() {
                    Ok(()) => error,
                    Err(kept) => error.with_leftover(kept.cause),
                }),
            }
        });
        let given_up = |error: Error| match error.code {
            Code::NasUnresponsive if !error.leftovers => error.with_leftover("the files written so far"),
            _ => error,
        };
        let manifest = published.map_err(given_up)?;
        Ok(Published { manifest, millis: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX) })
    }

    fn write_out(&self, manifest: &mut Manifest, texts: Vec<(&'static str, Vec<u8>)>) -> Result<()> {
        let hash = |(name, text): &(&str, Vec<u8>)| ((*name).to_owned(), Digest::of(text));
        manifest.texts = Some(texts.iter().map(hash).collect());
        self.write_files(manifest, texts)?;
        let folder = self.partial.folder();
        for (disk, target) in manifest.disks.iter_mut().zip(&self.files) {
            let length = target.file.length();
            disk.size = length.map_err(|e| Error::io("sync the target", folder.path.join(&disk.file), e))?;
        }
        let file = self.partial.create_file(MANIFEST)?;
        let written = file.with(|file| manifest.write(file));
        *manifest = written.map_err(|e| Error::io("write the manifest", folder.path.join(MANIFEST), e))?;
        // what can take its time is done before it is asked whether anybody still waits
        folder.sync()
    }

    /// Syncs the disks' files, and writes the texts.
    fn write_files(&self, manifest: &Manifest, texts: Vec<(&'static str, Vec<u8>)>) -> Result<()> {
        let folder = Arc::new(self.partial.new_folder()?);
        let mut works: Vec<Work<()>> = Vec::new();
        for (disk, target) in manifest.disks.iter().zip(&self.files) {
            let (file, path, volume) = (target.file.clone(), folder.path_of(&disk.file), disk.volume.clone());
            works.push(Box::new(move || {
                file.sync_all().map_err(|e| Error::io("sync the target", path, e).on_disk(&volume))
            }));
        }
        for (file, name) in self.files.iter().filter_map(|target| target.index.clone()) {
            let path = folder.path_of(&name);
            works.push(Box::new(move || file.sync_all().map_err(|e| Error::io("sync the fingerprints", path, e))));
        }
        for (name, text) in texts {
            let folder = folder.clone();
            works.push(Box::new(move || write_text(&folder, name, &text)));
        }
        drop(folder);
        side_by_side("write the restore point", works).map(drop)
    }

    /// Removes the point after the failure `error`, and adds to the error what stays behind, and that the NAS is full: QEMU, if it
    /// is the `writer`, does not tell that.
    pub(super) fn discard(self, error: Error, writer: TargetWriter) -> Error {
        // A NAS that hangs is not waited for again; when it comes back the thread that was left removes the point.
        let limit = match error.code {
            _ if error.leftovers => limits::HUNG,
            Code::NasUnresponsive => limits::HUNG,
            Code::Timeout => limits::NAS_PROBE,
            _ => limits::STORAGE_STEP,
        };
        let asked = match writer {
            TargetWriter::Qemu(owner) if error.code == Code::JobFailed => Some(owner),
            _ => None,
        };
        let removed = bounded("remove the unfinished point", limit, move || {
            let Targets { files, view, partial, .. } = self;
            let files: Vec<_> = files.into_iter().map(|target| target.file).collect();
            let full = asked.map(|owner| full::refusal(partial.folder(), &files, owner));
            files.iter().for_each(|file| written::give_room_back(file, &partial.folder().path));
            drop((files, view));
            Ok((full.transpose(), partial.discard()))
        });
        match removed {
            Ok((full, removed)) => {
                let full = full.unwrap_or_else(|unknown| {
                    log::warn!("{unknown}");
                    None
                });
                let error = match full.flatten() {
                    Some(full) => {
                        let cause = format!("{}; nothing more can be written: {}", error.cause, full.cause);
                        Error { code: full.code, cause, ..error }
                    }
                    None => error,
                };
                if let Err(kept) = removed { error.with_leftover(kept.cause) } else { error }
            }
            // the NAS does not answer, which explains the timeout
            Err(late) if error.code == Code::Timeout => Error { code: late.code, ..error }.with_leftover(late.cause),
            Err(late) => error.with_leftover(late.cause),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::point::ParentPoint;
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
