//! `takeBackup`: one restore point of one virtual machine.

mod base;
mod bitmap;
mod call;
mod constraints;
mod decision;
mod describe;
mod found;
mod full;
mod machine_state;
mod plan;
mod quiesce;
pub(crate) mod recover;
mod repository;
mod request;
mod running;
mod selection;
mod shrink_check;
mod snapshots;
mod space;
mod stopped;
mod take;
mod taken;
mod targets;
mod written;

use std::thread;
use std::time::Instant;

use crate::config::{self, Config, Engine};
use crate::error::{Code, Error, Result};
use crate::host::HostState;
use crate::limits;
use crate::logging::ANSWERED;
use crate::nas::health;
use crate::nbd;
use crate::places::{self, BackupPlace};
use crate::point::Manifest;
use crate::work::call_end::CallEnds;
use crate::work::job::{self, Listener, Reporter};
use crate::work::owner::WorkFor;
use crate::work::watched;

use call::Call;
use request::Checked;
pub use request::{BackingFile, StoppedDisk, TakeBackupRequest};
use running::Running;
use stopped::Stopped;
pub use taken::{TakenBackup, TakenDisk};

/// Runs `takeBackup`. `listener` is told of progress on this thread.
pub fn run(request: TakeBackupRequest, listener: Listener<'_>) -> Result<TakenBackup> {
    let config = config::current();
    let checked = request.check(&config)?;
    let job = job::start(checked.job.clone(), "takeBackup", &checked.export, Some(checked.vm.clone()))?;
    let mut job = Reporter::new(job, listener)?;
    let deadline = Instant::now() + checked.wait;
    let _place = take_place(&config)?;
    let _ends = CallEnds::at(deadline);
    // a guest that is still frozen waits for no NAS
    let host = recover::thaw_left(&config, lock(&config, &checked, &mut job)?)?;
    // what is left there is not looked for where nothing answers
    health::check_responsive(&checked.export)?;
    // the other half is this call's own
    let left = deadline.saturating_duration_since(Instant::now());
    let host = recover::undo(&config, host, recover::PointLookup::Within(left / 2))?;
    let point_id = Manifest::new_point_id()?;
    let call = Call { checked: &checked, config: &config, deadline, point_id };
    log::info!("{}: backup to '{}' begins", checked.vm, checked.point);
    let taken = match &checked.stopped {
        None => take::take::<Running>(&call, &(), host, &mut job),
        Some(sources) => take::take::<Stopped>(&call, sources, host, &mut job),
    };
    if let Ok(taken) = &taken {
        note_fallbacks(&checked, taken);
    }
    match &taken {
        Ok(taken) => log::info!(
            "{}: {:?} backup '{}' of {} bytes done in {} ms, {} ms of it the job, {} ms to make it durable",
            checked.vm,
            taken.kind,
            checked.point,
            taken.size,
            taken.total_millis,
            taken.job_millis,
            taken.sync_millis
        ),
        Err(error) => {
            health::note_failure(&checked.export, error);
            log::error!(target: ANSWERED, "{}: backup to '{}' failed: {error}", checked.vm, checked.point);
        }
    }
    taken
}

/// Refuses what `run` would refuse before it looks at the repository, and has no effect.
pub fn check(request: TakeBackupRequest) -> Result<()> {
    let config = config::current();
    let checked = request.check(&config)?;
    if checked.engine == Engine::Pull {
        nbd::available()?;
    }
    let _for = WorkFor::guest(&checked.vm);
    call::ask("look at the domain", move || found::find(&checked, &config).map(drop))
}

fn note_fallbacks(checked: &Checked, taken: &TakenBackup) {
    if checked.stopped.is_none() && checked.engine == Engine::Auto && taken.engine == Engine::Push {
        watched::has_fallen_back("push");
    }
    if taken.incremental_fallback {
        watched::has_fallen_back("full");
    }
}

/// Locks the machine. What an earlier backup has left of it may just be undone behind the library's load, which the caller knows
/// nothing of: that is waited for, as long as the load itself waits.
fn lock(config: &Config, checked: &Checked, job: &mut Reporter<'_>) -> Result<HostState> {
    const STEP: &str = "wait until the machine is free";
    let vm = &checked.vm;
    let limit = limits::within(STEP, limits::RECOVERY.min(checked.wait / 2));
    let began = Instant::now();
    let mut waits = false;
    HostState::lock_when_undone(&config.state_dir, vm, || {
        if began.elapsed() >= limit {
            let cause = format!("what an earlier backup of '{vm}' has left is still being undone");
            return Err(Error::new(Code::Busy, STEP, cause));
        }
        if !std::mem::replace(&mut waits, true) {
            log::warn!("{vm}: the backup to '{}' waits until what an earlier one has left is undone", checked.point);
        }
        thread::sleep(limits::CALLER_LOOK);
        job.tell()
    })
}

/// `BUSY` at once when as many backups run as may: the caller queues, for this thread must not wait.
/// Callers tell it from other reasons for `BUSY` by its step.
fn take_place(config: &Config) -> Result<BackupPlace<'static>> {
    let places = config.places();
    places::BACKUPS.take(places).ok_or_else(|| {
        let taken = format!("other backups have all {places} (parallelBackups); ask again when one of them has ended");
        Error::new(Code::Busy, "take a place", taken)
    })
}
