//! The files of a point on the NAS, from their making until the point is published or nothing of it is left. The steps run as those of
//! `repository` do.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::call::Call;
use super::full;
use super::plan::TargetSpec;
use super::repository::{AT_ONCE, OpenedRepository};
use super::written::{self, TakenOver, WrittenTarget};
use crate::apart::{Apart, Descriptor};
use crate::config::{self, FILE_MODE};
use crate::digest::Digest;
use crate::engine::{self, push};
use crate::error::{Code, Error, Result, called};
use crate::limits;
use crate::nas::access;
use crate::nas::instance::Instance;
use crate::nas::partial::{NewFolder, PartialPoint};
use crate::nas::path::PointPath;
use crate::nas::view::TargetView;
use crate::point::fingerprints::{self, Base};
use crate::point::{DEEPEST, MANIFEST, Manifest, StatePart};
use crate::qcow2::{self, Source};
use crate::work::background::{Background, start};
use crate::work::call_end::within_call;
use crate::work::deadline::{bounded, no_answer};
use crate::work::side_by_side::side_by_side;
use crate::work::steps;

/// What a copied point waits for last.
pub(super) const PUBLISH: &str = "publish the restore point";

/// A point that is durable and visible.
pub(super) struct Published {
    pub manifest: Manifest,
    /// How long that took.
    pub millis: u64,
}

/// Does the work while the instance is given back, for which this then waits. Whatever hinders that changes nothing of the point that
/// was published: a claim that is not given back lapses.
pub(super) fn give_back_during<T>(instance: Instance, work: impl FnOnce() -> T) -> T {
    let path = instance.folder().path.clone();
    drop_during(instance, &path, work)
}

fn drop_during<T>(instance: impl Send + 'static, path: &Path, work: impl FnOnce() -> T) -> T {
    const STEP: &str = "give the instance back";
    let give_back = move || {
        drop(instance);
        Ok(())
    };
    let given_back = start(STEP, give_back, || ());
    let done = work();
    let limit = within_call(limits::STORAGE_STEP);
    let late = || Err(no_answer(Code::NasUnresponsive, STEP, limit));
    if let Err(error) = given_back.and_then(|given| given.wait(limit).unwrap_or_else(late)) {
        log::warn!("'{}': {error}", path.display());
    }
    done
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

/// What describes the machine: names of files, and their texts.
pub(super) type Texts = Vec<(&'static str, Vec<u8>)>;

/// The files of a point whose names and texts are known before the copy, written beside it; and the manifest's, which is made and empty.
#[derive(Debug)]
struct SmallFiles {
    hashes: BTreeMap<String, Digest>,
    /// Gives the manifest's file.
    written: Background<Apart>,
}

impl Drop for SmallFiles {
    fn drop(&mut self) {
        // nobody makes a file in a folder that is being removed, and whoever waits here, like `all_of`, keeps the instance locked
        while !self.written.has_ended() {
            self.written.wait(limits::STORAGE_STEP);
        }
    }
}

impl SmallFiles {
    fn begin(folder: Arc<NewFolder>, texts: Texts) -> Result<SmallFiles> {
        let hashes = hashes(&texts);
        let write = move || {
            let mut works = text_works(&folder, texts);
            works.push(Box::new(move || folder.create_file(MANIFEST, config::current().file_mode()).map(Some)));
            let none =
                || Error::new(Code::Internal, "write what describes the machine", "the manifest's file is not made");
            all_of("write a text", works)?.pop().flatten().ok_or_else(none)
        };
        Ok(SmallFiles { hashes, written: start("write what describes the machine", write, || ())? })
    }
}

fn hashes(texts: &Texts) -> BTreeMap<String, Digest> {
    texts.iter().map(|(name, text)| ((*name).to_owned(), Digest::of(text))).collect()
}

/// The target files of a point that is not published yet; dropped, they are removed.
#[derive(Debug)]
pub(super) struct Targets {
    // in this order: the files are closed before the point ends
    files: Vec<TargetFile>,
    /// What describes the machine; written beside the copy unless QEMU, too, writes in the folder, and could keep it open.
    texts: std::result::Result<SmallFiles, Texts>,
    /// What QEMU sees of them, where it writes them itself.
    view: Option<TargetView>,
    /// Why QEMU follows links there, if it does.
    lack: Option<String>,
    /// When the instance was listed, if that was begun.
    listed: Option<(Instant, Background<()>)>,
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

/// Makes the empty targets with their final backing names, and begins to write the `texts` beside them. This writes to the NAS right
/// before the hypervisor does, and so shows whether the NAS hangs: `NAS_UNRESPONSIVE`.
pub(super) fn make_targets(
    call: &Call<'_>,
    opened: OpenedRepository,
    specs: Vec<TargetSpec>,
    texts: Texts,
) -> Result<Targets> {
    const STEP: &str = "make the targets";
    let point = call.checked.point.clone();
    let limit = call.time_for(STEP, limits::NAS_PROBE)?;
    bounded(STEP, limit, move || {
        let begin = if opened.is_listed { Instance::begin_unlisted } else { Instance::begin };
        let partial = begin(opened.instance, &point)?;
        let (folder, point) = (Arc::new(partial.new_folder()?), Arc::new(point));
        let make = |spec| -> Work<TargetFile> {
            let (folder, point) = (folder.clone(), point.clone());
            Box::new(move || TargetFile::make(spec, &folder, &point))
        };
        let files = all_of("make a target", specs.into_iter().map(make).collect())?;
        let is_qemu = files.iter().any(|target| target.index.is_none());
        let texts = if is_qemu { Err(texts) } else { Ok(SmallFiles::begin(folder, texts)?) };
        Ok(Targets { files, texts, view: None, lack: None, listed: None, partial })
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

    /// Lists the instance beside other work, unless that was done lately: on NFS the list tells of each point of a chain what would be
    /// asked for one by one. Whoever opens the chains meets errors again.
    pub(super) fn list_beside(&mut self) {
        if self.listed.as_ref().is_some_and(|(listed, _)| listed.elapsed() < limits::NAMES_KNOWN) {
            return;
        }
        let instance = self.instance().clone();
        let list = move || instance.folder().first_names(DEEPEST, |_| false).map(drop);
        self.listed = start("list the points", list, || ()).ok().map(|list| (Instant::now(), list));
    }

    /// Waits for the list.
    pub(super) fn wait_listed(&self, limit: Duration) {
        self.listed.as_ref().map(|(_, list)| list.wait(within_call(limit)));
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

    /// Syncs the files, writes more `texts` and the manifest (completed by the files' lengths) beside them and makes the
    /// point visible. On failure nothing of it stays, or the error says what does. The instance is still locked.
    pub(super) fn publish(
        self,
        mut manifest: Manifest,
        texts: Texts,
        limit: Duration,
    ) -> Result<(Published, Instance)> {
        let begun = Instant::now();
        let until = begun + limit;
        let published = bounded(PUBLISH, limit, move || {
            let Targets { files, texts: known, view, partial, .. } = self;
            let written = write_out(&partial, files, known, &mut manifest, texts).and_then(|()| {
                partial.instance().fence()?;
                // the caller has given up: a point published now would belong to nobody
                let late = || Error::new(Code::NasUnresponsive, PUBLISH, "it took too long");
                if Instant::now() < until { Ok(()) } else { Err(late()) }
            });
            drop(view);
            let instance = partial.instance().clone();
            match written {
                Ok(()) => partial.publish().map(|()| (manifest, instance)),
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
        let (manifest, instance) = published.map_err(given_up)?;
        let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok((Published { manifest, millis }, instance))
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
        // it keeps the instance locked as long as it works
        self.wait_listed(limits::HUNG);
        let asked = match writer {
            TargetWriter::Qemu(owner) if error.code == Code::JobFailed => Some(owner),
            _ => None,
        };
        let removed = bounded("remove the unfinished point", limit, move || {
            let Targets { files, texts, view, partial, .. } = self;
            drop(texts);
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

/// Syncs and closes the files, and writes the texts and, completed by the files' lengths, the manifest. All of it is there before the
/// point gets its name.
fn write_out(
    partial: &PartialPoint,
    files: Vec<TargetFile>,
    known: std::result::Result<SmallFiles, Texts>,
    manifest: &mut Manifest,
    texts: Texts,
) -> Result<()> {
    let folder = Arc::new(partial.new_folder()?);
    let small = known.or_else(|known| SmallFiles::begin(folder.clone(), known))?;
    let file = ended(&small.written)?;
    manifest.texts =
        Some(small.hashes.iter().map(|(name, hash)| (name.clone(), *hash)).chain(hashes(&texts)).collect());
    write_texts(&folder, texts)?;
    let ahead = partial.read_ahead();
    let mut works: Vec<Work<Option<Manifest>>> = vec![Box::new(|| ahead().map(|()| None))];
    for (disk, TargetFile { file, index, .. }) in manifest.disks.iter_mut().zip(files) {
        let path = folder.path_of(&disk.file);
        // what is written is known here, durable or not
        disk.size = file.length().map_err(|e| Error::io("look at the target", &path, e).on_disk(&disk.volume))?;
        let volume = disk.volume.clone();
        works.push(Box::new(move || {
            file.sync_all().map(|()| None).map_err(|e| Error::io("sync the target", path, e).on_disk(&volume))
        }));
        if let Some((file, name)) = index {
            let path = folder.path_of(&name);
            works.push(Box::new(move || {
                file.sync_all().map(|()| None).map_err(|e| Error::io("sync the fingerprints", path, e))
            }));
        }
    }
    let (unsealed, path) = (manifest.clone(), folder.path_of(MANIFEST));
    works.push(Box::new(move || {
        let written = file.with(|file| unsealed.write(file));
        written.map(Some).map_err(|e| Error::io("write the manifest", path, e))
    }));
    let sealed = all_of("write the restore point", works)?.pop().flatten();
    *manifest = sealed.ok_or_else(|| Error::new(Code::Internal, PUBLISH, "the manifest is not written"))?;
    // what can take its time is done before it is asked whether anybody still waits
    partial.folder().sync()
}

fn write_texts(folder: &Arc<NewFolder>, texts: Texts) -> Result<()> {
    all_of("write a text", text_works(folder, texts)).map(drop)
}

fn text_works(folder: &Arc<NewFolder>, texts: Texts) -> Vec<Work<Option<Apart>>> {
    let write = |(name, text): (&'static str, Vec<u8>)| -> Work<Option<Apart>> {
        let folder = folder.clone();
        Box::new(move || write_text(&folder, name, &text).map(|()| None))
    };
    texts.into_iter().map(write).collect()
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
fn all_of<T: Send>(step: &'static str, works: Vec<Work<T>>) -> Result<Vec<T>> {
    let failed = AtomicBool::new(false);
    let unless_failed = |work: Work<T>| {
        if failed.load(Relaxed) {
            return None;
        }
        steps::at(step);
        let done = work().inspect_err(|_| failed.store(true, Relaxed));
        steps::done(step);
        Some(done)
    };
    side_by_side(step, AT_ONCE, works, unless_failed).into_iter().flatten().collect()
}

fn ended<T>(work: &Background<T>) -> Result<T> {
    loop {
        if let Some(ended) = work.wait(limits::STORAGE_STEP) {
            return ended;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::config::Config;
    use crate::nas::purpose::Purpose;
    use crate::nas::repository::Repository;
    use crate::nas::session::Session;
    use crate::work::call_end::CallEnds;

    fn take(dir: &Path) -> Result<Instance> {
        let address = Some(dir.to_str().unwrap().to_owned());
        let export = Repository { kind: Some("dir".into()), address, options: None };
        let session = Session::open(&Repository::check(Some(export))?, &Config::default())?;
        Instance::open(session, &PointPath::parse("backupPath", "i-1/T1")?, Purpose::Add)
    }

    fn targets(dir: &Path) -> Targets {
        let partial = take(dir).unwrap().begin(&PointPath::parse("backupPath", "i-1/T1").unwrap()).unwrap();
        Targets { files: Vec::new(), texts: Err(Vec::new()), view: None, lack: None, listed: None, partial }
    }

    fn hung() -> Error {
        limits::shorten(&["remove the unfinished point", "a step after the deadline"], Duration::from_millis(20));
        Error::new(Code::NasUnresponsive, "copy", "the NAS hangs")
    }

    #[test]
    fn who_writes_in_the_folder_keeps_it_locked_and_ends_before_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut targets = targets(dir.path());
        let (release, hangs) = mpsc::channel::<()>();
        let folder = targets.partial.new_folder().unwrap();
        let write = move || {
            _ = hangs.recv();
            folder.create_file(MANIFEST, FILE_MODE)
        };
        let written = start("write", write, || ()).unwrap();
        targets.texts = Ok(SmallFiles { hashes: BTreeMap::new(), written });
        assert!(targets.discard(hung(), TargetWriter::Ours).leftovers);
        let partial = dir.path().join("i-1/.partial-T1");
        assert_eq!((take(dir.path()).unwrap_err().code, partial.exists()), (Code::Busy, true));
        drop(release);
        while partial.exists() || take(dir.path()).is_err() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_list_that_hangs_does_not_keep_the_caller_of_a_failed_backup() {
        let dir = tempfile::tempdir().unwrap();
        let mut targets = targets(dir.path());
        let (release, hangs) = mpsc::channel::<()>();
        let list = start("list the points", move || Ok(_ = hangs.recv()), || ()).unwrap();
        targets.listed = Some((Instant::now(), list));
        let (begun, error) = (Instant::now(), hung());
        let _ends = CallEnds::at(begun);
        targets.discard(error, TargetWriter::Ours);
        assert!(begun.elapsed() < limits::STORAGE_STEP, "it waits for the list");
        drop(release);
    }

    #[test]
    fn an_instance_that_can_not_be_given_back_is_not_waited_for_beyond_the_call() {
        struct Hangs(mpsc::Receiver<()>);
        impl Drop for Hangs {
            fn drop(&mut self) {
                // ends with the test
                _ = self.0.recv();
            }
        }
        let (release, hangs) = mpsc::channel();
        let begun = Instant::now();
        limits::shorten(&["a step after the deadline"], Duration::from_millis(20));
        let _ends = CallEnds::at(begun);
        assert_eq!(drop_during(Hangs(hangs), Path::new("/instance"), || 1), 1);
        assert!(begun.elapsed() < limits::STORAGE_STEP, "the call is over");
        drop(release);
    }
}
