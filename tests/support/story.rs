//! A guest's life with its backups: each point's true content is kept aside when it is taken, and every result is
//! checked against what lies on the NAS and in the guest's disks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nasbackup::config::Engine;
use nasbackup::error::{Code, Error, Result};
use nasbackup::operation::take_backup::{self, TakeBackupRequest, TakenBackup, TakenDisk};
use nasbackup::point::{Kind, Manifest};
use nasbackup::work::job::JobStatus;
use nasbackup::work::phase::Phase;
use serde_json::Value;

use super::{Disk, Guest, MIB, Nas, PATIENCE, engine, image, init};

/// The request, by this engine.
pub fn by(engine: &str, request: TakeBackupRequest) -> TakeBackupRequest {
    TakeBackupRequest { engine: Some(engine.into()), ..request }
}

/// Runs `takeBackup` without listening.
pub fn take(request: TakeBackupRequest) -> Result<TakenBackup> {
    take_backup::run(request, &mut |_| Ok(()))
}

/// Its details, but for what is told of each push to a repository that clones no files: it depends on the machine.
pub fn details(taken: &TakenBackup) -> String {
    let lines = taken.details.lines().filter(|line| !line.starts_with("the repository can't clone files"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Runs `takeBackup` and acts once, on this thread, when data has begun to flow.
pub fn take_and(request: TakeBackupRequest, act: impl FnOnce(&JobStatus)) -> Result<TakenBackup> {
    take_and_when(request, |status| status.phase == Phase::Copy, act)
}

/// Runs `takeBackup` and acts once, on this thread, when `reached` holds. On a busy machine the request's time may be over before: the
/// next call gets more of it.
pub fn take_and_when(
    mut request: TakeBackupRequest,
    reached: impl Fn(&JobStatus) -> bool,
    act: impl FnOnce(&JobStatus),
) -> Result<TakenBackup> {
    let mut act = Some(act);
    loop {
        let result = take_backup::run(request.clone(), &mut |status| {
            if reached(status)
                && let Some(act) = act.take()
            {
                act(status);
            }
            Ok(())
        });
        if act.is_none() {
            return result;
        }
        let too_late = matches!(&result, Err(error) if error.code == Code::Timeout && !error.leftovers);
        request.wait_seconds = request.wait_seconds.map(|seconds| 2 * seconds);
        assert!(
            too_late && request.wait_seconds.is_some_and(|seconds| seconds < 60),
            "the copy was never under way: {result:?}"
        );
    }
}

/// Runs a backup that has all data at its targets when nothing is left of its time.
pub fn take_too_late(request: TakeBackupRequest) -> Result<TakenBackup> {
    take_backup::run(TakeBackupRequest { wait_seconds: Some(6), ..request }, &mut |status| {
        if status.phase == Phase::Publish {
            // what it may take, and half of that
            std::thread::sleep(Duration::from_secs(9));
        }
        Ok(())
    })
}

/// Runs a backup whose storage, or QEMU, hangs on a thread of its own, which waits a second where the library has 10 after the
/// call's deadline: nothing answers in either.
pub fn hurried<T: Send>(backup: impl FnOnce() -> T + Send) -> T {
    let hurry = || {
        #[cfg(feature = "test-hooks")]
        nasbackup::shorten(&[AFTER_DEADLINE], Duration::from_secs(1));
        backup()
    };
    std::thread::scope(|scope| scope.spawn(hurry).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// The name of that wait.
pub const AFTER_DEADLINE: &str = "a step after the deadline";

/// A guest with a full point whose next incremental has much to write, to a repository that takes it slowly.
pub fn slow_story_on(nas: Nas) -> Story {
    slow_story_of(Guest::full_of_data(1), nas)
}

/// The same with a guest of the test's, whose first disk is like that one's.
pub fn slow_story_of(guest: Guest, nas: Nas) -> Story {
    let mut story = Story::new(guest, nas.slow(16));
    story.guest.resize(0, 80 * MIB);
    story.take("full").assert_full(true);
    story.guest.write(0, 0x51, 2 * MIB, 48 * MIB);
    story
}

/// Runs an incremental that fails with `code` because of what `act` does while it runs; nothing of it stays on the NAS.
/// Returns how long the call went on after that.
pub fn fails_after(story: &mut Story, code: &str, act: impl FnOnce(&Guest, &Nas)) -> Duration {
    let mut acted = Instant::now();
    story.refuse_with(story.request("incremental"), code, |story, request| {
        take_and(request, |_| {
            act(&story.guest, &story.nas);
            acted = Instant::now();
        })
    });
    acted.elapsed()
}

/// QEMU hangs, and `hung` is called, when an incremental's job begins. The call fails, and nothing keeps the next one out once QEMU
/// goes on, which it does after `meanwhile`.
pub fn fails_as_begin_hangs<T>(story: &mut Story, hung: impl Fn() + Sync, meanwhile: impl FnOnce(&Story) -> T) -> T {
    let request = story.request("incremental");
    let guest = &story.guest;
    // on a thread of its own: what comes after it is not hurried
    let error = std::thread::scope(|scope| {
        let take = || {
            take_backup::run(request, &mut |status| {
                if status.phase == Phase::Begin {
                    guest.signal_qemu("-STOP");
                    hung();
                }
                Ok(())
            })
        };
        scope.spawn(take).join().unwrap()
    });
    let result = meanwhile(story);
    story.guest.signal_qemu("-CONT");
    let error = error.unwrap_err();
    assert!(error.code == Code::Libvirt && error.leftovers, "{error}");
    story.skip();
    story.take_until_free();
    story.guest.assert_no_job();
    result
}

/// The name of the guest's `n`th restore point.
pub fn backup_path(guest: &Guest, n: usize) -> String {
    format!("{}/2026.01.02.03.{:02}.{:02}", guest.name, n / 60, n % 60)
}

/// A restore point and what it has to hold.
pub struct Point {
    pub path: String,
    pub taken: TakenBackup,
    /// By volume: a raw copy of the disk at that moment.
    content: BTreeMap<String, PathBuf>,
}

impl Point {
    /// Its files, as a later request names them.
    pub fn files(&self) -> Vec<String> {
        self.taken.disks.iter().map(|disk| disk.file.clone()).collect()
    }

    /// A raw copy of what it has to hold of this volume.
    pub fn content(&self, volume: &str) -> &Path {
        &self.content[volume]
    }

    /// It reads back what it has to hold, from the repository that is seen at `root`.
    pub fn assert_restores_from(&self, root: &Path) {
        for disk in &self.taken.disks {
            image::assert_holds(&root.join(&disk.file), &self.content[&disk.volume]);
        }
    }

    /// The kind of each disk, in order.
    pub fn kinds(&self) -> Vec<Kind> {
        self.taken.disks.iter().map(|disk| disk.kind).collect()
    }

    /// A full that was asked for, beginning `bitmap_created` unless it is `None`.
    pub fn assert_full(&self, bitmap: bool) {
        self.assert_row(Kind::Full, bitmap, None, false);
    }

    /// An incremental on a bitmap that libvirt knew.
    pub fn assert_incremental(&self) {
        self.assert_row(Kind::Incremental, true, None, false);
    }

    /// An incremental whose parent's checkpoint was made again.
    pub fn assert_recreated(&self, parent: &str) {
        self.assert_row(Kind::Incremental, true, Some(parent), false);
    }

    /// A full in place of an incremental, with the reason.
    pub fn assert_fallback(&self) {
        self.assert_row(Kind::Full, true, None, true);
        assert!(!self.taken.details.is_empty(), "a fallback says why");
        assert!(self.kinds().iter().all(|kind| *kind == Kind::Full), "{:?}", self.taken);
    }

    /// What an incremental becomes whose bitmap is lost: a full by push, and by pull what differs from the fingerprints.
    pub fn assert_without_bitmap(&self, parent: &str) {
        if self.taken.engine == Engine::Push {
            return self.assert_fallback();
        }
        self.assert_recreated(parent);
        assert!(self.taken.details.contains("fingerprints"), "{:?}", self.taken);
    }

    fn assert_row(&self, kind: Kind, bitmap: bool, recreated: Option<&str>, fallback: bool) {
        let taken = &self.taken;
        assert_eq!(
            (taken.kind, taken.bitmap_created.is_some(), taken.bitmap_recreated.as_deref(), taken.incremental_fallback),
            (kind, bitmap, recreated, fallback),
            "kind, bitmap created, bitmap recreated, fallback of {taken:?}"
        );
    }
}

/// What it had to hold takes no room any more, but is there to look at where a test fails.
impl Drop for Point {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.content.values().for_each(|copy| std::fs::remove_file(copy).unwrap());
        }
    }
}

/// A guest, a repository, and the points taken so far.
pub struct Story {
    pub guest: Guest,
    pub nas: Nas,
    pub points: Vec<Point>,
    /// Checkpoints and bitmaps that are not ours and have to stay.
    pub foreign: Vec<String>,
    taken: usize,
}

impl Story {
    pub fn new(guest: Guest, nas: Nas) -> Story {
        init();
        Story { guest, nas, points: Vec::new(), foreign: Vec::new(), taken: 0 }
    }

    /// An ordinary running guest, a plain folder, and a first full point.
    pub fn with_full() -> Story {
        let mut story = Story::new(Guest::ordinary(), Nas::folder());
        story.take("full").assert_full(true);
        story
    }

    /// A request for the running guest that continues the story.
    pub fn request(&self, mode: &str) -> TakeBackupRequest {
        let mut request = TakeBackupRequest {
            vm_name: Some(self.guest.name.clone()),
            backup_path: Some(backup_path(&self.guest, self.taken)),
            repository: Some(self.nas.repository()),
            mode: Some(mode.to_owned()),
            // what hangs then says where
            wait_seconds: Some(2 * PATIENCE.as_secs()),
            ..Default::default()
        };
        if mode != "legacy" {
            request.bitmap_new = Some(format!("backup-{}", 1_700_000_000 + self.taken));
        }
        if mode == "incremental" {
            let parent = self.points.iter().rfind(|point| point.taken.parent_name.is_some());
            let parent = parent.expect("an incremental needs a point that can be a parent");
            request.bitmap_parent = parent.taken.parent_name.clone();
            request.parent_paths = Some(parent.files());
        }
        request
    }

    /// The same for the stopped guest.
    pub fn stopped_request(&self, mode: &str) -> TakeBackupRequest {
        TakeBackupRequest { disks: Some(self.guest.stopped_disks()), ..self.request(mode) }
    }

    /// Backs up the running guest.
    pub fn take(&mut self, mode: &str) -> &Point {
        self.accept(self.request(mode))
    }

    /// Backs up the stopped guest.
    pub fn take_stopped(&mut self, mode: &str) -> &Point {
        self.accept(self.stopped_request(mode))
    }

    /// Runs a request that has to succeed and checks everything around it.
    pub fn accept(&mut self, request: TakeBackupRequest) -> &Point {
        self.accept_with(request, take)
    }

    /// The same, with the way to run it given.
    pub fn accept_with(
        &mut self,
        request: TakeBackupRequest,
        take: impl FnOnce(TakeBackupRequest) -> Result<TakenBackup>,
    ) -> &Point {
        let state = self.guest.state();
        let content = self.content();
        let path = request.backup_path.clone().unwrap();
        let created = request.bitmap_new.clone();
        let expected = match request.engine.as_deref() {
            _ if state == "gone" => Some(Engine::Push),
            Some("push") => Some(Engine::Push),
            Some("pull") => Some(Engine::Pull),
            Some(_) => None,
            None => Some(engine()),
        };
        let taken = take(request).unwrap_or_else(|error| panic!("{error}"));
        assert!(expected.is_none_or(|expected| taken.engine == expected), "{taken:?}");
        self.taken += 1;
        assert_eq!(self.guest.state(), state, "the guest's state after the backup");
        self.points.push(Point { path, taken, content });
        self.assert_published(self.points.last().unwrap(), state != "gone");
        self.assert_bitmaps(created.as_deref());
        self.points.last().unwrap()
    }

    /// Copies of what the disks hold now, by volume.
    pub fn content(&self) -> BTreeMap<String, PathBuf> {
        let disks = self.guest.disks.iter().enumerate().filter(|(_, disk)| disk.is_backed_up());
        disks.map(|(i, disk)| (disk.volume().to_owned(), self.guest.copy(i))).collect()
    }

    /// Takes up a point that another process has published, and that has to hold `content`.
    pub fn adopt(&mut self, path: String, content: BTreeMap<String, PathBuf>) {
        let manifest: Manifest = serde_json::from_value(self.manifest(&path)).unwrap();
        let disks = manifest.disks.iter().map(|disk| TakenDisk {
            target: None,
            volume: disk.volume.clone(),
            serial: disk.serial.clone(),
            file: format!("{path}/{}", disk.file),
            kind: disk.kind,
            parent: None,
            size: disk.size,
            virtual_size: disk.virtual_size,
            bitmap: disk.bitmap.clone(),
        });
        let taken = TakenBackup {
            point_id: manifest.point_id.clone(),
            mac: manifest.mac,
            kind: manifest.kind,
            size: 0,
            virtual_size: 0,
            volumes: BTreeMap::new(),
            bitmap_created: manifest.bitmap.clone(),
            parent_name: manifest.name.clone(),
            bitmap_recreated: None,
            incremental_fallback: false,
            details: String::new(),
            engine: manifest.engine,
            job_millis: 0,
            sync_millis: 0,
            total_millis: 0,
            disks: disks.collect(),
        };
        self.taken += 1;
        self.points.push(Point { path, taken, content });
    }

    /// Runs a request that has to fail with `code`; nothing of it stays and the earlier points are untouched.
    pub fn refuse(&mut self, request: TakeBackupRequest, code: &str) -> Error {
        self.refuse_with(request, code, |_, request| take(request))
    }

    /// The same, with the way to run it given.
    pub fn refuse_with(
        &mut self,
        request: TakeBackupRequest,
        code: &str,
        take: impl FnOnce(&Story, TakeBackupRequest) -> Result<TakenBackup>,
    ) -> Error {
        let before = self.published();
        let error = take(self, request).expect_err("this can't succeed");
        self.skip();
        assert_eq!(error.code.as_str(), code, "{error}");
        assert!(!error.leftovers, "{error}");
        self.assert_nothing_half_made();
        assert_eq!(self.published(), before, "files on the NAS");
        error
    }

    /// Takes legacy backups until one is not refused as busy: what a call has left behind has let go.
    pub fn take_until_free(&mut self) {
        super::until("the virtual machine's lock is free", || match take(self.request("legacy")) {
            Err(error) if matches!(error.code, Code::Busy | Code::NasUnresponsive) => false,
            Err(error) => panic!("{error}"),
            Ok(_) => true,
        });
        self.skip();
    }

    /// The backup that failed and was left behind lets go in the end, nothing of it stays, and the next incremental is right.
    pub fn assert_goes_on(&mut self) {
        self.skip();
        self.take_until_free();
        self.assert_nothing_half_made();
        self.assert_guest_untouched();
        self.take("incremental").assert_incremental();
        self.assert_all_restore();
    }

    /// Every file in a restore point, with its length. The instance's own folder and its lock may come and stay.
    pub fn published(&self) -> Vec<(PathBuf, u64)> {
        let mut files = super::listing(self.nas.root());
        files.retain(|(path, _)| path.components().count() > 2);
        files
    }

    /// A failed backup left the guest as it was: no job, no checkpoint of its own, the newest bitmap in place.
    pub fn assert_guest_untouched(&self) {
        self.assert_bitmaps(None);
        let newest = self.points.iter().rev().find_map(|point| point.taken.bitmap_created.clone());
        assert_eq!(self.our_checkpoints(), Vec::from_iter(newest));
    }

    fn our_checkpoints(&self) -> Vec<String> {
        let mut names = self.guest.checkpoints();
        names.retain(|name| !self.foreign.contains(name));
        names
    }

    /// What the answer says is what lies on the NAS.
    fn assert_published(&self, point: &Point, running: bool) {
        let taken = &point.taken;
        let guest = &self.guest;
        let expected: Vec<_> = (0..guest.disks.len()).filter(|i| guest.disks[*i].is_backed_up()).collect();
        assert_eq!(taken.disks.len(), expected.len(), "{taken:?}");
        for (disk, index) in taken.disks.iter().zip(expected) {
            let source = &guest.disks[index];
            let prefix = if index == 0 { "root" } else { "datadisk" };
            assert_eq!(disk.target, running.then(|| guest.target(index)));
            assert_eq!(disk.volume, source.volume());
            assert!(!running || disk.serial == source.serial, "{disk:?}");
            assert_eq!(disk.file, format!("{}/{prefix}.{}.qcow2", point.path, source.volume()));
            assert_eq!(disk.virtual_size, guest.virtual_size(index));
            assert_eq!(disk.bitmap, taken.bitmap_created.clone().filter(|_| source.takes_bitmaps()), "{disk:?}");
            self.assert_file(disk);
        }
        let sum = |size: fn(&TakenDisk) -> u64| taken.disks.iter().map(size).sum::<u64>();
        assert_eq!((taken.size, taken.virtual_size), (sum(|disk| disk.size), sum(|disk| disk.virtual_size)));
        let volumes: BTreeMap<_, _> = taken.disks.iter().map(|d| (d.volume.clone(), d.file.clone())).collect();
        assert_eq!(taken.volumes, volumes);
        assert!(taken.job_millis <= taken.total_millis, "{taken:?}");
        let incremental = taken.disks.iter().any(|disk| disk.kind == Kind::Incremental);
        assert_eq!(taken.kind == Kind::Incremental, incremental);
        let manifest = self.manifest(&point.path);
        assert_eq!(manifest["vmName"], guest.name.as_str());
        assert_eq!(manifest["bitmap"].as_str(), taken.bitmap_created.as_deref());
        assert!(taken.bitmap_created.is_none() || taken.parent_name == taken.bitmap_created, "{taken:?}");
        for file in ["domain-config.xml", "dominfo.xml", "domiflist.xml", "domblklist.xml"] {
            assert_eq!(self.nas.at(&point.path).join(file).exists(), running, "{file}");
        }
        self.assert_nothing_half_made();
    }

    fn assert_file(&self, disk: &TakenDisk) {
        let file = self.nas.at(&disk.file);
        assert_eq!(disk.size, file.metadata().unwrap().len());
        let backing = image::backing(&file);
        // Both are <instance>/<timestamp>/<file>.
        let parent = disk.parent.as_deref().map(|parent| format!("../{}", parent.split_once('/').unwrap().1));
        assert_eq!(backing, parent);
        assert_eq!(disk.kind == Kind::Incremental, parent.is_some(), "{disk:?}");
    }

    /// No partial folder is left in the repository.
    pub fn assert_nothing_half_made(&self) {
        assert_eq!(self.half_made(), [] as [PathBuf; 0]);
    }

    /// What an unfinished backup of the guest has left in the repository, where others may be at work.
    pub fn half_made(&self) -> Vec<PathBuf> {
        let paths = super::listing(&self.nas.at(&self.guest.name)).into_iter().map(|(path, _)| path);
        paths.filter(|path| path.to_string_lossy().contains(".partial-")).collect()
    }

    /// The next request gets other names: this one's are used up.
    pub fn skip(&mut self) {
        self.taken += 1;
    }

    /// Exactly the newest bitmap of ours and the foreign ones are in the disks; libvirt knows their checkpoints.
    fn assert_bitmaps(&self, created: Option<&str>) {
        let newest = self.points.iter().rev().find_map(|point| point.taken.bitmap_created.clone());
        if created.is_some() && self.guest.disks.iter().any(|disk| disk.is_backed_up() && disk.takes_bitmaps()) {
            assert_eq!(newest.as_deref(), created);
        }
        let mut expected: Vec<String> = self.foreign.iter().cloned().chain(newest.clone()).collect();
        expected.sort();
        for (i, disk) in self.guest.disks.iter().enumerate() {
            if disk.takes_bitmaps() && disk.is_backed_up() {
                assert_eq!(self.guest.bitmaps(i), expected, "bitmaps of disk {i}");
            }
        }
        if self.guest.state() != "gone" {
            // A run that keeps no bitmap leaves libvirt as ignorant as it was.
            let known = self.our_checkpoints();
            assert!(created.is_none() || newest.is_none_or(|newest| known == [newest]), "{known:?}");
            self.guest.assert_no_job();
        }
    }

    /// The manifest of a point.
    pub fn manifest(&self, path: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.nas.at(path).join("manifest.json")).unwrap()).unwrap()
    }

    /// Replaces the manifest of a point by a changed one.
    pub fn change_manifest(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut manifest = self.manifest(path);
        change(&mut manifest);
        std::fs::write(self.nas.at(path).join("manifest.json"), manifest.to_string()).unwrap();
    }

    /// Every point reads back, byte for byte, what the disks held when it was taken.
    pub fn assert_all_restore(&self) {
        self.points.iter().for_each(|point| self.assert_restores(point));
    }

    /// The same of one point.
    pub fn assert_restores(&self, point: &Point) {
        point.assert_restores_from(self.nas.root());
    }

    /// The newest point.
    pub fn last(&self) -> &Point {
        self.points.last().unwrap()
    }

    /// The bitmap of the newest point that has one.
    pub fn bitmap(&self) -> String {
        self.points.iter().rev().find_map(|point| point.taken.bitmap_created.clone()).unwrap()
    }

    /// A disk of the guest.
    pub fn disk(&mut self, index: usize) -> &mut Disk {
        &mut self.guest.disks[index]
    }
}
