//! The pull engine: QEMU exports the disks' state at the begin of the job over NBD, and keeps the blocks that the guest
//! overwrites in scratch files. A reader fetches the data, a writer writes it to the NAS; neither the guest nor the caller's
//! thread waits for the NAS.
//!
//! The job ends by our abort, once everything was read. Each end keeps this order: the reader fetches all replies, because QEMU
//! holds the guest until it does; the library aborts the job; the connections are closed.

use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use super::incident::Incident;
use super::job::{BackupJob, COPY, Signal};
use super::rate::Rate;
use super::reader::{self, Changes, DiskExport, LateChanges, ReadResult};
use super::reserve::{self, GrowthSpeed, Reserve};
use super::scratch::Scratch;
use super::shared::CopyState;
use super::writer::{CopyTarget, Writer, Written};
use crate::config::LEAST_SCRATCH;
use crate::error::{Code, Error, Result};
use crate::libvirt::{Event, State};
use crate::limits;
use crate::nas::session::Session;
use crate::work::background;
use crate::work::background::Background;
use crate::work::call_end::within_call;
use crate::work::deadline::{self, bounded_for_host};
use crate::work::job::Reporter;

/// A backup ends when the scratch has less room left, in bytes.
const LEAST_LEFT: u64 = LEAST_SCRATCH / 2;

/// One disk of a pull.
#[derive(Debug)]
pub struct PullDisk {
    /// The file that the disk's data goes to.
    pub target: CopyTarget,
    /// What of it is copied.
    pub changes: Changes,
    /// What of it is copied, where that is known only once the job has begun.
    pub late: Option<LateChanges>,
}

/// Refuses a scratch folder with less than `LEAST_SCRATCH` bytes of room.
pub fn check_scratch(scratch: &mut Scratch) -> Result<()> {
    let mut room = scratch.room()?;
    if room < LEAST_SCRATCH {
        scratch.sync_file_system()?;
        room = scratch.room()?;
    }
    if room < LEAST_SCRATCH { Err(scratch_full(format!("there is room for {room} bytes"))) } else { Ok(()) }
}

/// Copies all disks of the job, which has begun with the socket and files of `scratch`, ends the job, and returns the
/// fingerprints of each disk. The targets and the fingerprints are complete, not synced. On an error the reader has ended, and
/// the job is aborted if libvirt could do so. The error says if a writer was left behind that the NAS does not answer.
pub fn copy(
    backup: &mut BackupJob,
    scratch: &Scratch,
    disks: Vec<PullDisk>,
    rate: Rate,
    session: Session,
    job: &mut Reporter<'_>,
    deadline: Instant,
) -> Result<Written> {
    let mut pull = match Pull::start(backup, scratch, disks, rate, session) {
        Ok(pull) => pull,
        Err(error) => return Err(backup.abort(error)),
    };
    let (mut read, mut written) = (None, None);
    let followed = pull.follow(backup, scratch, &mut read, &mut written, job, deadline);
    if followed.is_err() {
        pull.shared.stop();
    }
    let connections = read.or_else(|| pull.read(limits::REPLIES));
    // the job ends, whatever happens on the NAS; a libvirt out of reach gets less time
    if followed.as_ref().is_err_and(|error| error.code == Code::Libvirt) {
        backup.end()
    } else {
        backup.end_completed()
    }
    pull.shared.forget_replies();
    drop(connections);
    let outcome = match followed.and_then(|()| pull.check_kept(scratch)) {
        Ok(()) if !backup.ended => Err(Error::new(Code::JobFailed, "end the job", "libvirt does not tell its end")),
        Ok(()) => pull.wait_written(backup, written, job, deadline),
        Err(error) => Err(error),
    };
    outcome.map_err(|error| pull.writer.give_up(&pull.shared, error))
}

/// The threads of a pull that runs.
struct Pull {
    shared: Arc<CopyState>,
    reader: Background<ReadResult>,
    writer: Writer,
    /// Takes room in the scratch ahead of QEMU.
    keeper: Background<()>,
    /// Its drop ends the keeper.
    keeping: Option<Sender<()>>,
}

impl Pull {
    fn start(
        backup: &BackupJob,
        scratch: &Scratch,
        mut disks: Vec<PullDisk>,
        rate: Rate,
        session: Session,
    ) -> Result<Pull> {
        let shared = Arc::new(CopyState::default());
        let export = |disk: &PullDisk| DiskExport {
            disk: disk.target.disk.clone(),
            size: disk.target.size,
            changes: disk.changes.clone(),
            scratch: Some(scratch.file(&disk.target.disk).into()),
        };
        let exports = disks.iter_mut().map(|disk| (export(disk), disk.late.take())).collect();
        let targets = disks.into_iter().map(|disk| disk.target).collect();
        let sender = backup.sender();
        let ended = move || drop(sender.send(Signal::Ended));
        let (writer, ends) = Writer::start(targets, session, &shared, ended)?;
        let (keeping, ended) = mpsc::channel();
        let (sender, reserve, bounds) = (backup.sender(), scratch.reserve()?, scratch.bounds());
        let work = move || reserve.keep_ahead(&ended, || bounds.allowed());
        let keeper = background::start_for_the_guest(reserve::STEP, work, move || drop(sender.send(Signal::Ended)))?;
        let (sender, ours) = (backup.sender(), shared.clone());
        let socket = scratch.socket()?;
        let work = move || Ok(reader::read(socket, exports, rate, &ends, &ours));
        let reader =
            background::start_for_the_guest("read the exports", work, move || drop(sender.send(Signal::Ended)))?;
        Ok(Pull { shared, reader, writer, keeper, keeping: Some(keeping) })
    }

    /// The reader's result, if it ends within `limit`.
    fn read(&self, limit: Duration) -> Option<ReadResult> {
        self.reader.wait(limit).map(|read| read.unwrap_or_else(ReadResult::failed))
    }

    /// Waits until everything was read, and fails as soon as the guest suffers from the backup. `read` and `written` receive
    /// the results of a reader and a writer that end meanwhile.
    fn follow(
        &self,
        backup: &mut BackupJob,
        scratch: &Scratch,
        read: &mut Option<ReadResult>,
        written: &mut Option<Result<Written>>,
        job: &mut Reporter<'_>,
        deadline: Instant,
    ) -> Result<()> {
        let mut watch = RoomWatch::default();
        loop {
            *read = read.take().or_else(|| self.read(Duration::ZERO));
            *written = written.take().or_else(|| self.writer.result());
            // a thread that ends because the other one did fails with CANCELLED: the other's error tells the reason
            match (read.as_ref().map(|read| &read.outcome), &*written) {
                (Some(Ok(())), _) => return Ok(()),
                (Some(Err(error)), _) if error.code != Code::Cancelled => {
                    return Err(explain_end(backup, error.clone()));
                }
                (_, Some(Err(error))) if error.code != Code::Cancelled => return Err(error.clone()),
                _ => {}
            }
            if let Some(Err(error)) = self.keeper.wait(Duration::ZERO) {
                return Err(error);
            }
            if let Some(Signal::Event(Event::JobCompleted { .. }) | Signal::Over(_)) = backup.next(job, deadline)? {
                backup.ended = true;
                return Err(explain_end(backup, Error::new(Code::JobFailed, COPY, "the job ended before its time")));
            }
            if let Some(incident) = backup.incident() {
                return Err(explain_incident(incident, scratch));
            }
            let now = Instant::now();
            if watch.is_due(now) {
                watch.check_room(now, scratch.used(), scratch.room().map_err(scratch_unusable)?)?;
                self.shared.report(job)?;
            }
        }
    }

    /// Fails unless the scratch has kept all old blocks that QEMU wrote to it: otherwise the copy is wrong.
    fn check_kept(&mut self, scratch: &Scratch) -> Result<()> {
        self.keeping = None;
        let (limit, reserve) = (within_call(limits::STORAGE_STEP), scratch.reserve()?);
        let until = Instant::now() + limit;
        // the keeper's own error does not matter any more: no more room is needed
        if self.keeper.wait(limit).is_none() {
            return Err(scratch_unusable(deadline::no_answer(Code::Io, reserve::STEP, limit)));
        }
        let rest = until.saturating_duration_since(Instant::now()).max(limits::SCRATCH_CHECK);
        bounded_for_host(reserve::STEP, rest, move || reserve.check_kept())
            .map_err(|error| if error.code == Code::Io { scratch_unusable(error) } else { error })
    }

    /// Waits until everything is written. The job has ended, so the guest does not wait.
    fn wait_written(
        &self,
        backup: &mut BackupJob,
        mut written: Option<Result<Written>>,
        job: &mut Reporter<'_>,
        deadline: Instant,
    ) -> Result<Written> {
        loop {
            let written = written.take().or_else(|| self.writer.result());
            self.shared.report(job)?;
            if let Some(written) = written {
                return written;
            }
            if Instant::now() >= deadline {
                return Err(Error::new(Code::Timeout, COPY, "not done within waitSeconds"));
            }
            // wakes up when the writer ends
            let _ = backup.signal(limits::CALLER_LOOK);
        }
    }
}

/// Says in the error of a job or an export that ended early whether the guest's own end is the cause.
fn explain_end(backup: &mut BackupJob, error: Error) -> Error {
    let until = Instant::now() + limits::GUEST_STOPPED;
    while let Some(signal) = backup.signal(until.saturating_duration_since(Instant::now())) {
        match signal {
            Signal::Event(Event::JobCompleted { .. }) | Signal::Over(_) => backup.ended = true,
            Signal::Event(Event::Gone) | Signal::Gone => break,
            _ => {}
        }
    }
    if backup.state() != Ok(State::Other) {
        return error;
    }
    backup.ended = true;
    Error::new(Code::JobFailed, COPY, format!("the guest stopped during the backup ({})", error.cause))
}

/// The error of a job during which the guest met `incident`, with what is wrong with the scratch, the likely cause.
fn explain_incident(incident: &Incident, scratch: &Scratch) -> Error {
    let why = scratch.room().map_err(scratch_unusable).and_then(|room| match room {
        LEAST_LEFT.. => scratch.reserve().and_then(check_scratch_is_sound),
        _ => Err(scratch_full(format!("there is room for {room} bytes"))),
    });
    let error = match why {
        Ok(()) => Error::new(Code::JobFailed, COPY, incident),
        Err(error) => incident.add_to(error),
    };
    match &incident.disk {
        Some(disk) => error.on_disk(disk),
        None => error,
    }
}

/// Fails unless QEMU's user can write to the scratch and the scratch has kept what QEMU wrote.
fn check_scratch_is_sound(scratch: Arc<Reserve>) -> Result<()> {
    bounded_for_host(reserve::STEP, limits::SCRATCH_CHECK, move || scratch.check()).map_err(|error| match error.code {
        Code::NoSpace => error,
        _ => scratch_unusable(error),
    })
}

/// The error of a scratch that failed.
fn scratch_unusable(error: Error) -> Error {
    Error { code: Code::JobFailed, cause: format!("the scratch can't be used: {}", error.cause), ..error }
}

fn scratch_full(cause: String) -> Error {
    Error::new(Code::NoSpace, reserve::STEP, format!("the scratch folder is too small: {cause}"))
}

/// Watches whether the scratch has room for what the guest may overwrite next.
#[derive(Debug, Default)]
struct RoomWatch {
    last: Option<Instant>,
    /// The speed at which the scratch fills.
    speed: GrowthSpeed,
}

impl RoomWatch {
    fn is_due(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now.duration_since(last) >= limits::JOB_LOOK)
    }

    /// `NO_SPACE` when the scratch, of which the guest has used `used` bytes, has less `room` than the guest's speed asks for.
    fn check_room(&mut self, now: Instant, used: u64, room: u64) -> Result<()> {
        self.last = Some(now);
        self.speed.observe(now, used);
        if room >= LEAST_LEFT.max(self.speed.ahead()) {
            return Ok(());
        }
        let most = self.speed.most();
        let cause = format!("{used} bytes are used, there is room for {room}, the guest overwrites {most} a second");
        Err(scratch_full(cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_scratch_that_will_be_full_soon_is_refused_before_it_is_full() {
        let start = Instant::now();
        let after = |watch: &mut RoomWatch, quarters: u32, used, free| {
            watch.check_room(start + quarters * Duration::from_millis(250), used * MIB, free * MIB)
        };
        let mut watch = RoomWatch::default();
        after(&mut watch, 0, 0, 1000).unwrap();
        after(&mut watch, 1, 25, 975).unwrap();
        // 100 MiB a second: three times that for 1.25 s
        after(&mut watch, 2, 50, 376).unwrap();
        let error = after(&mut watch, 3, 75, 374).unwrap_err();
        assert_eq!(error.code, Code::NoSpace);
        assert!(error.cause.contains(&format!("{} a second", 100 * MIB)), "{error}");
        // a guest that rests now may go on at that speed
        after(&mut watch, 40, 75, 374).unwrap_err();

        let mut idle = RoomWatch::default();
        after(&mut idle, 0, 5, 33).unwrap();
        after(&mut idle, 1, 5, 33).unwrap();
        after(&mut idle, 2, 5, 31).unwrap_err();
    }
}
