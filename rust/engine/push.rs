//! The push engine: QEMU writes the targets itself, and may never return from a NAS that hangs. Nobody can limit how much a
//! QEMU writes that somebody has taken over, but the library watches the targets' sizes.

use std::collections::BTreeSet;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, StatxFlags};

use super::incident::Incident;
use super::job::{BackupJob, COPY, Signal};
use super::nas_probe::NasProbe;
use crate::apart::{Apart, Descriptor};
use crate::error::{Code, Error, Result};
use crate::libvirt::{Domain, Event, JobPicture, JobState, State};
use crate::limits;
use crate::work::background;
use crate::work::background::{Background, start_for_the_guest};
use crate::work::call_end::within_call;
use crate::work::deadline::{self, ask};
use crate::work::job::Reporter;

const WATCH: &str = "watch the targets";
/// The most that a file system allocates beyond what was written, in bytes: XFS does so.
const AHEAD: u64 = 8 << 30;

/// A file that QEMU writes.
#[derive(Debug)]
pub struct PushTarget {
    /// The disk's name in the domain.
    pub disk: String,
    /// Size that the guest sees, in bytes.
    pub size: u64,
    /// The file, open since the library made it.
    pub file: Apart,
}

/// An upper bound, in bytes, of the length of an image's file: its tables take a thousandth of what the image holds.
pub fn longest_file(virtual_size: u64) -> u64 {
    virtual_size.saturating_add(virtual_size / 256).saturating_add(64 << 20)
}

/// `JOB_FAILED` when the file of an image is longer, or takes more room, than an image of that size can: a QEMU that somebody
/// has taken over could fill the NAS so.
pub fn check_growth(file: &Apart, virtual_size: u64) -> Result<()> {
    // an NFS client writes nothing back for these two fields, as it would for the times
    let mask = StatxFlags::SIZE | StatxFlags::BLOCKS;
    let found = file.with(|file| rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, mask));
    let found = found.map_err(|e| Error::io(WATCH, "the target", e))?;
    match describe_overgrowth(found.stx_size, found.stx_blocks.saturating_mul(512), virtual_size) {
        Some(cause) => Err(Error::new(Code::JobFailed, WATCH, cause)),
        None => Ok(()),
    }
}

/// Says in which way a file of `length` bytes, which takes `room` bytes, is too large; `None` if it is not. Some servers count
/// copies and parity as the file's room: four times the length is allowed.
fn describe_overgrowth(length: u64, room: u64, virtual_size: u64) -> Option<String> {
    let most = longest_file(virtual_size);
    let most_room = most.saturating_mul(4).saturating_add(AHEAD);
    let tell = |has: String| {
        format!("its target {has}, more than an image of {virtual_size} bytes: QEMU wrote what is not the disk's")
    };
    match () {
        () if length > most => Some(tell(format!("is {length} bytes long"))),
        () if room > most_room => Some(tell(format!("takes {room} bytes"))),
        () => None,
    }
}

/// Watches the targets' sizes until the sender of `ended` is dropped. Errors of the NAS are only logged: the job reports them,
/// too, with what the guest met, and the sizes are checked again before the point is published.
fn watch(targets: &[PushTarget], ended: &Receiver<()>) -> Result<()> {
    loop {
        for target in targets {
            match check_growth(&target.file, target.size) {
                Err(error) if error.code != Code::JobFailed => log::debug!("{}: {error}", target.disk),
                looked => looked.map_err(|error| error.on_disk(&target.disk))?,
            }
        }
        if ended.recv_timeout(limits::JOB_LOOK) != Err(RecvTimeoutError::Timeout) {
            return Ok(());
        }
    }
}

/// Waits until QEMU has written and closed each of the `targets`, at `rate` bytes a second at most; returns why QEMU took no
/// such limit, if so. On an error, or when a target gets larger than its image can be, the library aborts the job.
pub fn copy(
    backup: &mut BackupJob,
    targets: Vec<PushTarget>,
    rate: Option<u64>,
    job: &mut Reporter<'_>,
    deadline: Instant,
) -> Result<Option<Error>> {
    let disks = targets.iter().map(|target| target.disk.clone()).collect();
    let probe = targets.first().and_then(open_probe);
    let (watching, ended) = mpsc::channel();
    let sender = backup.sender();
    let watch = background::start(WATCH, move || watch(&targets, &ended), move || drop(sender.send(Signal::Ended)));
    let watch = watch.map_err(|error| backup.abort(error))?;
    let mut push = Push { backup, disks, rate, watch, closed: BTreeSet::new(), failed_disk: None };
    let limited = push.limit_speed();
    let outcome = push.wait_completed(job, deadline).and_then(|()| push.wait_closed(job, deadline));
    drop(watching);
    push.watch.wait(limits::TARGETS_LOOK);
    outcome.map(|()| limited.err()).map_err(|error| give_up(backup, probe, error))
}

/// A probe of the NAS, if the NAS answers.
fn open_probe(target: &PushTarget) -> Option<NasProbe> {
    let file = target.file.clone();
    deadline::bounded("look at the targets", limits::NAS_PROBE, move || NasProbe::open(&file))
        .inspect_err(|error| log::debug!("{error}"))
        .ok()
}

/// Corrects the error of a begin that was given up. The begin waits for the guest's own storage as well as for the NAS, so the
/// library asks the NAS: if that answers, the error is `LIBVIRT`.
pub fn explain_begin(error: Error, targets: &[PushTarget]) -> Error {
    let answers = |target| open_probe(target).is_some_and(|probe| !probe.hangs(limits::NAS_PROBE));
    match error.code {
        Code::NasUnresponsive if targets.first().is_some_and(answers) => Error { code: Code::Libvirt, ..error },
        _ => error,
    }
}

/// Ends the job because of `error`. After a timeout or a cancel the library asks the NAS itself, by one of the targets, whether
/// it answers: libvirt's answers tell nothing, because libvirt works on the NAS, too, and may hang there.
fn give_up(backup: &mut BackupJob, probe: Option<NasProbe>, error: Error) -> Error {
    let hangs = |patience| probe.map(|probe| probe.hangs(patience));
    let hangs = match error.code {
        Code::Timeout => hangs(limits::NAS_PROBE),
        Code::Cancelled => hangs(limits::NAS_AFTER_CANCEL),
        // QEMU hangs in the close of a target, which waits for the NAS or for the guest's own storage
        Code::NasUnresponsive => hangs(limits::NAS_PROBE).or(Some(true)),
        _ => None,
    };
    match hangs {
        Some(false) if error.code == Code::NasUnresponsive => {
            backup.abort_without_wait();
            Error { code: Code::Libvirt, ..error }
        }
        Some(true) => {
            backup.abort_without_wait();
            if error.code == Code::Timeout { Error { code: Code::NasUnresponsive, ..error } } else { error }
        }
        // the NAS answers, so something else keeps QEMU from ending the job
        Some(false) => {
            backup.end();
            error
        }
        None => backup.abort(error),
    }
}

/// A push job that runs.
struct Push<'a> {
    backup: &'a mut BackupJob,
    disks: BTreeSet<String>,
    /// The limit of all disks together, in bytes a second.
    rate: Option<u64>,
    /// The thread that watches the targets' sizes; ends early when one gets too large.
    watch: Background<()>,
    /// Disks whose block job has ended, which closes their targets.
    closed: BTreeSet<String>,
    /// The first disk whose block job failed.
    failed_disk: Option<String>,
}

impl Push<'_> {
    fn wait_completed(&mut self, job: &mut Reporter<'_>, deadline: Instant) -> Result<()> {
        loop {
            match self.backup.next(job, deadline)? {
                Some(Signal::Event(Event::JobCompleted { success: true, .. })) => break,
                Some(Signal::Event(Event::JobCompleted { error, .. })) => return Err(self.failed(error)),
                Some(Signal::Over(JobPicture { state: JobState::Completed, backup: true, .. })) => break,
                Some(Signal::Over(picture)) => return Err(self.failed(picture.error)),
                Some(Signal::Event(Event::DiskClosed { disk, completed })) => {
                    self.disk_closed(disk, completed);
                    // fails if another disk's block job has ended, too
                    let _ = self.limit_speed().inspect_err(|error| log::debug!("{error}"));
                }
                Some(Signal::Ended) => self.watch.wait(Duration::ZERO).unwrap_or(Ok(()))?,
                Some(Signal::Running(picture)) => {
                    job.progress(picture.done, picture.total);
                    job.tell()?;
                }
                _ => {}
            }
            if let Some(incident) = self.backup.incident().cloned() {
                return Err(self.harmed(&incident));
            }
        }
        self.backup.ended = true;
        Ok(())
    }

    fn disk_closed(&mut self, disk: String, completed: bool) {
        if !completed {
            self.failed_disk.get_or_insert_with(|| disk.clone());
        }
        self.closed.insert(disk);
    }

    /// Divides the limit among the disks whose block jobs still run.
    fn limit_speed(&self) -> Result<()> {
        let open: Vec<String> = self.disks.difference(&self.closed).cloned().collect();
        let Some(rate) = self.rate.filter(|_| !open.is_empty()) else { return Ok(()) };
        let (domain, share) = (self.backup.domain().clone(), (rate / open.len() as u64).max(1));
        ask("limit the job's speed", limits::LIBVIRT_CALL, move || {
            let domain = domain.again()?;
            open.iter().try_for_each(|disk| domain.as_ref().map_or(Ok(()), |d| d.limit_block_job(disk, share)))
        })
    }

    /// The error of a job during which the guest met `incident`, with the reason of the job's own failure if libvirt reports
    /// that soon: a NAS that refuses an old block refuses the rest, too.
    fn harmed(&mut self, incident: &Incident) -> Error {
        let until = Instant::now() + limits::FAULTY_DISK;
        let mut error = Error::new(Code::JobFailed, COPY, incident);
        while let Some(signal) = self.backup.signal(until.saturating_duration_since(Instant::now())) {
            let text = match signal {
                Signal::Event(Event::DiskClosed { disk, completed }) => {
                    self.disk_closed(disk, completed);
                    continue;
                }
                Signal::Event(Event::JobCompleted { error, .. }) => error,
                Signal::Over(picture) => picture.error,
                _ => continue,
            };
            self.backup.ended = true;
            error.cause.extend(text.map(|text| format!(" ({text})")));
            break;
        }
        match incident.disk.as_ref().or(self.failed_disk.as_ref()) {
            Some(disk) => error.on_disk(disk),
            None => error,
        }
    }

    /// The error of a job that failed by libvirt's report. The error names the disk if an event does.
    fn failed(&mut self, text: Option<String>) -> Error {
        self.backup.ended = true;
        let until = Instant::now() + limits::FAULTY_DISK;
        while self.failed_disk.is_none()
            && let Some(signal) = self.backup.signal(until.saturating_duration_since(Instant::now()))
        {
            if let Signal::Event(Event::DiskClosed { disk, completed }) = signal {
                self.disk_closed(disk, completed);
            }
        }
        let cause = text.unwrap_or_else(|| match self.backup.state() {
            Ok(State::Other) => "the guest stopped during the backup".to_owned(),
            _ => "libvirt gives no reason".to_owned(),
        });
        let error = Error::new(Code::JobFailed, COPY, cause);
        match &self.failed_disk {
            Some(disk) => error.on_disk(disk),
            None => error,
        }
    }

    /// Waits until all targets are closed: QEMU writes a target's last tables in its close, after the job has completed.
    fn wait_closed(&mut self, job: &Reporter<'_>, deadline: Instant) -> Result<()> {
        const STEP: &str = "close the target";
        let until = Instant::now() + limits::TARGETS_CLOSED;
        while !self.disks.is_subset(&self.closed) {
            match self.backup.signal(until.saturating_duration_since(Instant::now())) {
                Some(Signal::Event(Event::DiskClosed { disk, completed })) => self.disk_closed(disk, completed),
                Some(Signal::Event(Event::Gone) | Signal::Gone) if self.backup.state()? == State::Other => {
                    return Err(Error::new(Code::JobFailed, STEP, "the guest stopped before its targets were closed"));
                }
                Some(_) => {}
                None => {
                    self.wait_for_close(job, deadline)?;
                    break;
                }
            }
        }
        match &self.failed_disk {
            Some(disk) => Err(Error::new(Code::JobFailed, STEP, "QEMU says that it failed").on_disk(disk)),
            None => Ok(()),
        }
    }

    /// Waits for the targets' close by asking libvirt, because an event did not come. Meanwhile a cancel is heard.
    fn wait_for_close(&mut self, job: &Reporter<'_>, deadline: Instant) -> Result<()> {
        const STEP: &str = "wait for the targets' close";
        let domain = self.backup.domain().clone();
        let until =
            Instant::now() + within_call(deadline.saturating_duration_since(Instant::now()).max(limits::LIBVIRT_CALL));
        let settling = start_for_the_guest(STEP, move || settle(&domain, until), || ())?;
        while Instant::now() < until {
            job.check_cancelled()?;
            match settling.wait(limits::CALLER_LOOK) {
                None => {}
                Some(Err(error)) if error.code == Code::Busy => break,
                Some(settled) => {
                    self.backup.ended = true;
                    return settled;
                }
            }
        }
        // a QEMU that hangs in the close must not be asked anything more, so the job counts as running
        Err(Error::new(Code::NasUnresponsive, STEP, "QEMU does not close the targets"))
    }
}

/// Returns once QEMU has closed what it closes for the domain's job. libvirt answers `BUSY` after a time of its own, and a NAS may
/// hang for longer, so it is asked again, but not after `until`: each question takes one of its few places.
fn settle(domain: &Domain, until: Instant) -> Result<()> {
    loop {
        match domain.again()? {
            Some(domain) if domain.state()? != State::Other => match domain.settle() {
                Err(error) if error.code == Code::Busy && Instant::now() < until => {
                    log::debug!("{}: {error}", domain.name());
                }
                settled => return settled,
            },
            _ => {
                let cause = "the guest stopped before its targets were closed";
                return Err(Error::new(Code::JobFailed, "close the target", cause));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::FILE_MODE;
    use crate::nas::folder::Folder;
    use crate::qcow2::Storage;

    #[test]
    fn the_watch_ends_with_the_job_or_when_a_target_is_too_large() {
        let dir = tempfile::tempdir().unwrap();
        let file = Folder::open_root(dir.path()).unwrap().create_file("target", FILE_MODE).unwrap();
        let target = PushTarget { disk: "vda".into(), size: 1 << 20, file: file.clone() };
        let targets = [target];
        let (watching, ended) = mpsc::channel();
        file.set_length(2 << 20).unwrap();
        drop(watching);
        watch(&targets, &ended).unwrap();
        let (_watching, ended) = mpsc::channel();
        file.set_length(1 << 30).unwrap();
        let error = watch(&targets, &ended).unwrap_err();
        assert_eq!((error.code, error.disk.as_deref()), (Code::JobFailed, Some("vda")), "{error}");
    }

    #[test]
    fn a_target_may_be_as_large_as_its_image_can_and_no_larger() {
        const GIB: u64 = 1 << 30;
        for (length, room, size, too_much) in [
            (GIB, GIB, GIB, false),
            // all of it written, with its tables; what XFS takes ahead, and three copies of it
            (GIB + (1 << 20), GIB + (1 << 20), GIB, false),
            (GIB + (1 << 20), 9 * GIB, GIB, false),
            (100 * GIB, 300 * GIB, 100 * GIB, false),
            // nothing is written there, but it could be
            (2 * GIB, 0, GIB, true),
            (u64::MAX, 0, u64::MAX, false),
            // beyond its end
            (1 << 20, 13 * GIB, GIB, true),
        ] {
            assert_eq!(describe_overgrowth(length, room, size).is_some(), too_much, "{length} {room} {size}");
        }
    }
}
