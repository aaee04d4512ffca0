//! The backup of a stopped guest: its bitmaps are seeded, then its disks are read, all of them under QEMU's image lock.
//! What is written between the two is in the copy and in the bitmap, so nothing is lost.

use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::image_lock::ImageLock;
use super::request::{Mode, StoppedSource};
use super::storage::{self, TargetSpec, Targets};
use super::{Call, Outcome, TakenBackup, ask, file_name, manifest};
use crate::engine::Engine;
use crate::error::{Code, Error, Result};
use crate::host::HostState;
use crate::job::{Job, Reporter};
use crate::libvirt::Domain;
use crate::point::{Kind, ManifestDisk};
use crate::qcow2;

/// How long `qemu-img bitmap` may take: it writes a few clusters.
const BITMAP: Duration = Duration::from_secs(120);
/// Between two looks at a process.
const TICK: Duration = Duration::from_millis(50);
/// How long the files may take to reach the NAS, at least.
const SYNC: Duration = Duration::from_secs(600);

/// A disk as it was found.
struct Found {
    source: StoppedSource,
    virtual_size: u64,
    /// The bitmaps stored in it.
    bitmaps: BTreeSet<String>,
    /// Why it can't carry a bitmap, if so.
    cannot_carry: Option<String>,
}

/// Runs the backup of a guest that must not run.
pub(super) fn run(
    call: &Call<'_>,
    sources: &[StoppedSource],
    mut host: HostState,
    job: &mut Reporter<'_>,
) -> Result<TakenBackup> {
    let Call { checked, config, .. } = *call;
    job.begin("look at the disks")?;
    let (uri, vm, sources) = (config.connection_uri.clone(), checked.vm.clone(), sources.to_vec());
    let found = ask("look at the disks", move || {
        refuse_running(&uri, &vm)?;
        sources.into_iter().map(look_at).collect::<Result<Vec<_>>>()
    })?;
    job.begin("open the repository")?;
    let opened = storage::open(checked, config)?;
    let ours = super::running::ours(checked, &opened, &host)?;
    job.begin("make the targets")?;
    let specs = found.iter().enumerate().map(|(i, disk)| TargetSpec {
        name: file_name(i, &disk.source.volume),
        virtual_size: disk.virtual_size,
        parent: None,
        fingerprints: false,
    });
    let specs: Vec<_> = specs.collect();
    let targets = storage::make_targets(opened, &checked.point, specs.clone(), storage::PROBE)?;
    let mut attempt = Attempt { found, targets, seeded: Vec::new(), details: Vec::new() };
    let bitmap = checked.mode.bitmap();
    let copied =
        bitmap.map_or(Ok(()), |bitmap| attempt.seed(bitmap, &mut host)).and_then(|()| attempt.copy(call, &specs, job));
    match copied {
        Ok(copied) => attempt.publish(call, copied, &ours, host, job),
        Err(error) => Err(attempt.abandon(error, bitmap, &mut host)),
    }
}

/// What the reading of the disks has shown.
struct Copied {
    /// The instant that the copies show.
    when: jiff::Timestamp,
    millis: u64,
}

fn refuse_running(uri: &str, vm: &str) -> Result<()> {
    match Domain::find(uri, vm)? {
        Some(domain) if domain.is_active()? => Err(Error::new(
            Code::DomainState,
            "look at the domain",
            "it runs, but the request names disks as for a stopped one",
        )),
        _ => Ok(()),
    }
}

/// Looks at a disk under its lock: nobody may be writing to it.
fn look_at(source: StoppedSource) -> Result<Found> {
    let on_disk = |error: Error| error.on_disk(&source.path);
    let lock = ImageLock::take(&source.path).map_err(on_disk)?;
    let (virtual_size, bitmaps, cannot_carry) = read(&source, &lock).map_err(on_disk)?;
    Ok(Found { source, virtual_size, bitmaps, cannot_carry })
}

/// The disk's size, the bitmaps stored in it, and why it can't carry one, if so.
fn read(source: &StoppedSource, lock: &ImageLock) -> Result<(u64, BTreeSet<String>, Option<String>)> {
    const STEP: &str = "look at the disk";
    if !source.qcow2 {
        let size = lock.file().seek(SeekFrom::End(0)).map_err(|e| Error::io(STEP, &source.path, e))?;
        return Ok((size, BTreeSet::new(), Some("its format is raw".to_owned())));
    }
    let info = qcow2::inspect(lock.file()).map_err(|e| e.at(STEP, &source.path))?;
    if info.encrypted {
        return Err(Error::new(
            Code::UnsupportedImage,
            STEP,
            "it is encrypted, and would be written to the NAS in plain text",
        ));
    }
    let old = info.version < 3;
    let cannot_carry = old.then(|| "its image is qcow2 version 2; 'qemu-img amend -o compat=1.1' helps".to_owned());
    Ok((info.virtual_size, info.bitmaps.into_iter().map(|bitmap| bitmap.name).collect(), cannot_carry))
}

/// A backup from the making of its targets to its publication.
struct Attempt {
    found: Vec<Found>,
    targets: Targets,
    /// For each disk, whether it got the new bitmap.
    seeded: Vec<bool>,
    details: Vec<String>,
}

impl Attempt {
    /// Adds the bitmap to each disk that can carry it. One that can't is told, and backed up all the same.
    fn seed(&mut self, bitmap: &str, host: &mut HostState) -> Result<()> {
        host.remember(bitmap)?;
        for disk in &self.found {
            let path = &disk.source.path;
            let outcome = match &disk.cannot_carry {
                Some(reason) => Err(reason.clone()),
                None => {
                    let stale =
                        if disk.bitmaps.contains(bitmap) { qemu_bitmap("--remove", path, bitmap) } else { Ok(()) };
                    stale.and_then(|()| qemu_bitmap("--add", path, bitmap)).map_err(|e| e.cause)
                }
            };
            self.seeded.push(outcome.is_ok());
            self.details.extend(outcome.err().map(|reason| format!("disk {path}: not seeded: {reason}")));
        }
        Ok(())
    }

    /// Reads the disks, all under their locks.
    fn copy(&mut self, call: &Call<'_>, specs: &[TargetSpec], job: &mut Reporter<'_>) -> Result<Copied> {
        job.begin("copy")?;
        let begun = Instant::now();
        let paths: Vec<_> = self.found.iter().map(|disk| disk.source.path.clone()).collect();
        let lock = |path: &String| ImageLock::take(path).map_err(|e| e.on_disk(path));
        let locks = ask("lock the disks", move || paths.iter().map(lock).collect::<Result<Vec<_>>>())?;
        let when = jiff::Timestamp::now();
        let total = self.found.iter().map(|disk| disk.virtual_size).sum();
        let mut before = 0;
        for (disk, spec) in self.found.iter().zip(specs) {
            let copied =
                self.convert(call, disk, &spec.name, job, |read| (before + read.min(disk.virtual_size), total));
            copied.map_err(|e| e.on_disk(&disk.source.path))?;
            before += disk.virtual_size;
        }
        drop(locks);
        job.begin("publish")?;
        Ok(Copied { when, millis: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX) })
    }

    /// Copies one disk. `progress` makes bytes done and bytes to do out of the bytes that were read of it.
    fn convert(
        &self,
        call: &Call<'_>,
        disk: &Found,
        target: &str,
        job: &mut Reporter<'_>,
        progress: impl Fn(u64) -> (u64, u64),
    ) -> Result<()> {
        let format = if disk.source.qcow2 { "qcow2" } else { "raw" };
        let target = self.targets.path(target)?;
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-n", "--target-is-zero", "-f", format, "-O", "qcow2", &disk.source.path, &target]);
        let mut process = Process::start("copy the disk", &mut command)?;
        loop {
            if let Some(status) = process.ended()? {
                return process.result(status);
            }
            let (done, total) = progress(process.bytes_read());
            job.progress(done, total);
            job.tell().map_err(|error| process.kill(error))?;
            if call.left().is_zero() {
                return Err(process.kill(Error::new(Code::Timeout, "copy the disk", "not done within waitSeconds")));
            }
            std::thread::sleep(TICK);
        }
    }

    fn publish(
        mut self,
        call: &Call<'_>,
        copied: Copied,
        ours: &BTreeSet<String>,
        mut host: HostState,
        job: &Job,
    ) -> Result<TakenBackup> {
        let checked = call.checked;
        let new = checked.mode.bitmap();
        let bitmap = new.filter(|_| self.seeded.contains(&true));
        let manifest = manifest(call, copied.when, Engine::Push, bitmap, None, self.manifest_disks(bitmap));
        let published = match self.targets.publish(manifest, Vec::new(), SYNC.max(call.left())) {
            Ok(published) => published,
            Err(error) => {
                unseed(&self.found, &self.seeded, new, &mut host);
                return Err(error);
            }
        };
        let fallback = matches!(checked.mode, Mode::Incremental { .. });
        if fallback {
            self.details.push("full instead of incremental: the guest is stopped".to_owned());
        }
        match (bitmap, new) {
            (Some(bitmap), _) => self.details.extend(clear_up(&self.found, ours, bitmap, &mut host)),
            // No disk got it.
            (None, Some(new)) => self.details.extend(host.forget(new).err().map(|error| error.to_string())),
            (None, None) => {}
        }
        let outcome = Outcome {
            targets: self.found.iter().map(|_| None).collect(),
            parents: self.found.iter().map(|_| None).collect(),
            published,
            recreated: None,
            fallback,
            details: self.details,
            job_millis: copied.millis,
        };
        Ok(outcome.answer(&checked.point, job))
    }

    fn manifest_disks(&self, bitmap: Option<&str>) -> Vec<ManifestDisk> {
        let disk = |(i, found): (usize, &Found)| ManifestDisk {
            volume: found.source.volume.clone(),
            serial: None,
            file: file_name(i, &found.source.volume),
            kind: Kind::Full,
            size: 0,
            virtual_size: found.virtual_size,
            bitmap: bitmap.filter(|_| self.seeded[i]).map(str::to_owned),
            fingerprints: None,
        };
        self.found.iter().enumerate().map(disk).collect()
    }

    /// Drops the seeds and the targets.
    fn abandon(self, error: Error, bitmap: Option<&str>, host: &mut HostState) -> Error {
        unseed(&self.found, &self.seeded, bitmap, host);
        self.targets.discard(error)
    }
}

/// Removes the new bitmap from the disks that got it. Where that can't be done (the guest was started), it stays in this
/// host's record for the next run.
fn unseed(found: &[Found], seeded: &[bool], bitmap: Option<&str>, host: &mut HostState) {
    let Some(bitmap) = bitmap else { return };
    let seeded = found.iter().zip(seeded).filter(|(_, seeded)| **seeded);
    let removed = remove_bitmap(seeded.map(|(disk, _)| disk), bitmap);
    if let Err(error) = removed.and_then(|()| host.forget(bitmap)) {
        log::warn!("bitmap '{bitmap}' stays until the next backup: {error}");
    }
}

/// Removes a bitmap from each of the disks, whatever happens on the others; the first failure.
fn remove_bitmap<'a>(disks: impl Iterator<Item = &'a Found>, bitmap: &str) -> Result<()> {
    disks.map(|disk| qemu_bitmap("--remove", &disk.source.path, bitmap)).fold(Ok(()), Result::and)
}

/// Removes the other bitmaps of ours; what could not be done is told, and done by the next run.
fn clear_up(found: &[Found], ours: &BTreeSet<String>, bitmap: &str, host: &mut HostState) -> Vec<String> {
    let mut details = Vec::new();
    for name in ours.iter().filter(|name| *name != bitmap) {
        let there = found.iter().filter(|disk| disk.bitmaps.contains(name));
        if let Err(error) = remove_bitmap(there, name).and_then(|()| host.forget(name)) {
            details.push(format!("bitmap '{name}' stays until the next backup: {error}"));
        }
    }
    let foreign =
        found.iter().flat_map(|disk| &disk.bitmaps).filter(|name| !ours.contains(*name)).collect::<BTreeSet<_>>();
    details.extend(foreign.iter().map(|name| format!("bitmap '{name}' is not ours and is left alone")));
    details
}

/// Adds or removes a bitmap. QEMU itself writes to the guest's disk, under its lock.
fn qemu_bitmap(what: &str, path: &str, bitmap: &str) -> Result<()> {
    let mut command = Command::new("qemu-img");
    command.args(["bitmap", what, "-f", "qcow2", "--", path, bitmap]);
    let mut process = Process::start("change the disk's bitmaps", &mut command)?;
    let until = Instant::now() + BITMAP;
    loop {
        match process.ended()? {
            Some(status) => return process.result(status),
            None if Instant::now() > until => {
                let late = Error::new(Code::Timeout, "change the disk's bitmaps", "qemu-img did not end");
                return Err(process.kill(late));
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// A process of qemu-img; dropped, it is killed.
struct Process {
    step: &'static str,
    child: Child,
}

impl Process {
    fn start(step: &'static str, command: &mut Command) -> Result<Process> {
        let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let child = started.map_err(|e| Error::io(step, "qemu-img", e))?;
        Ok(Process { step, child })
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().map_err(|e| Error::io(self.step, "qemu-img", e))
    }

    /// Bytes that it has read so far (proc(5), "/proc/pid/io"); 0 once it has ended. Asking the kernel about the process
    /// can't hang, asking a NAS about the file could.
    fn bytes_read(&self) -> u64 {
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.child.id())).unwrap_or_default();
        io.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse().ok()).unwrap_or(0)
    }

    /// What the process that ended says.
    fn result(&mut self, status: ExitStatus) -> Result<()> {
        if status.success() {
            return Ok(());
        }
        let mut text = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            stderr.take(4096).read_to_string(&mut text).map_err(|e| Error::io(self.step, "qemu-img", e))?;
        }
        Err(Error::new(Code::JobFailed, self.step, format!("qemu-img: {} ({status})", text.trim())))
    }

    /// Kills the process because of `error`. One that hangs in the NAS does not die before the NAS answers: it is left
    /// behind, and the guest can't be started as long as it holds the disk's lock.
    fn kill(&mut self, error: Error) -> Error {
        if let Err(failed) = self.child.kill() {
            log::warn!("qemu-img could not be killed: {failed}");
        }
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            if let Ok(Some(_)) = self.child.try_wait() {
                return error;
            }
            std::thread::sleep(TICK);
        }
        let code = if error.code == Code::Timeout { Code::NasUnresponsive } else { error.code };
        Error { code, ..error }.with_leftover("a process of qemu-img that hangs and holds the disk's lock")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // It has ended meanwhile, or it hangs: `kill` has told of that. It is reaped whenever it ends.
            let _ = self.child.kill();
            let pid = rustix::process::Pid::from_child(&self.child);
            let reap = move || {
                if let Err(error) = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()) {
                    log::warn!("qemu-img could not be reaped: {error}");
                }
            };
            if let Err(error) = std::thread::Builder::new().name("nasbackup-reap".to_owned()).spawn(reap) {
                log::warn!("the thread that reaps qemu-img could not be started: {error}");
            }
        }
    }
}
