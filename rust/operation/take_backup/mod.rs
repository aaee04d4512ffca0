//! `takeBackup`: one restore point of one virtual machine.

mod access;
mod attempt;
mod base;
mod bitmap;
mod decision;
mod describe;
mod found;
mod full;
pub(in crate::operation) mod image_file;
mod image_lock;
pub(in crate::operation) mod layers;
mod qemu_img;
mod quiesce;
pub(crate) mod recover;
mod regrown;
mod request;
mod running;
mod selection;
mod space;
mod stopped;
mod storage;
mod written;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::config::{self, Config};
use crate::engine::Engine;
use crate::error::{Code, Error, Result};
use crate::host::{Begun, HostState};
use crate::job::{self, Job, Listener, Reporter};
use crate::nas::deadline::{self, CallEnds};
use crate::nas::health;
use crate::nas::path::PointPath;
use crate::places::{self, Place};
use crate::plain::plain_lines;
use crate::point::fingerprints::Digest;

use crate::point::{Kind, LeftOut, Manifest, ManifestDisk, Parent, ParentPoint};

use request::Checked;
pub use request::{BackingFile, StoppedDisk, TakeBackupRequest};
use storage::Published;

/// What `takeBackup` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TakenBackup {
    /// The point's random id, by which whoever remembers it tells the point from any other.
    pub point_id: String,
    /// What vouches for the point's manifest; null where no key is configured.
    pub mac: Option<Digest>,
    /// Incremental if any disk is.
    pub kind: Kind,
    /// Sum of the published disk files' lengths, in bytes.
    pub size: u64,
    /// Sum of the disks' virtual sizes, in bytes.
    pub virtual_size: u64,
    /// The file of each volume, relative to the repository's root.
    pub volumes: BTreeMap<String, String>,
    /// The new bitmap, when at least one disk carries it.
    pub bitmap_created: Option<String>,
    /// The name by which a later request can call this point its parent (`bitmapParent`): the new bitmap's, or, if no disk
    /// carries one and all have fingerprints, the one that was asked for.
    pub parent_name: Option<String>,
    /// The parent's bitmap, when its checkpoint was lost: made again from it, or the disks compared instead.
    pub bitmap_recreated: Option<String>,
    /// An incremental was asked for and a full was made.
    pub incremental_fallback: bool,
    /// A line for each thing that was not ordinary.
    pub details: String,
    /// The engine that moved the data.
    pub engine: Engine,
    /// Milliseconds of the hypervisor's job, from begin to the last target's close.
    pub job_millis: u64,
    /// Milliseconds until the files and folders of the point were durable and it was published.
    pub sync_millis: u64,
    /// Milliseconds of the whole call.
    pub total_millis: u64,
    /// The disks, in the order of the domain or the request.
    pub disks: Vec<TakenDisk>,
}

/// One disk of a restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TakenDisk {
    /// The domain's name for it (`vda`); null for a stopped guest.
    pub target: Option<String>,
    /// The last component of its source path.
    pub volume: String,
    /// Its serial, if it has one.
    pub serial: Option<String>,
    /// Its file, relative to the repository's root.
    pub file: String,
    /// Full or incremental.
    pub kind: Kind,
    /// The file that an incremental stands on, relative to the repository's root.
    pub parent: Option<String>,
    /// Length of its file, in bytes.
    pub size: u64,
    /// Size that the guest sees, in bytes.
    pub virtual_size: u64,
    /// The bitmap that the disk carries from now on.
    pub bitmap: Option<String>,
}

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
    let host = recover::thaw_left(&config, HostState::lock(&config.state_dir, &checked.vm)?)?;
    // what is left there is not looked for where nothing answers
    health::admit(&checked.export)?;
    // the other half is this call's own
    let host = recover::undo(&config, host, recover::Look::Within(checked.wait / 2))?;
    let point_id = Manifest::new_point_id()?;
    let call = Call { checked: &checked, config: &config, deadline, point_id };
    log::info!("{}: backup to '{}' begins", checked.vm, checked.point);
    let taken = match &checked.stopped {
        None => running::run(&call, host, &mut job),
        Some(sources) => stopped::run(&call, sources, host, &mut job),
    };
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
            health::note(&checked.export, error);
            log::error!("{}: backup to '{}' failed: {error}", checked.vm, checked.point);
        }
    }
    taken
}

/// `BUSY` at once when as many backups run as may: whoever asked knows better than to wait here, in a thread that others need.
/// Callers tell it from other reasons for `BUSY` by its step.
fn take_place(config: &Config) -> Result<Place<'static>> {
    let places = config.places();
    places::BACKUPS.take(places).ok_or_else(|| {
        let taken = format!("other backups have all {places} (parallelBackups); ask again when one of them has ended");
        Error::new(Code::Busy, "take a place", taken)
    })
}

/// One call of `takeBackup`, as its steps see it.
struct Call<'a> {
    checked: &'a Checked,
    config: &'a Arc<Config>,
    deadline: Instant,
    /// The id of the point that is made.
    point_id: String,
}

impl Call<'_> {
    /// How much of the time that the job may take is left.
    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// As much of `limit` as a step on the NAS may take. `TIMEOUT` when nothing is left of its time: a NAS that was not asked
    /// is none that does not answer.
    fn time_for(&self, step: &'static str, limit: Duration) -> Result<Duration> {
        self.enough(step, self.left()).map(|left| limit.min(left))
    }

    fn enough(&self, step: &'static str, left: Duration) -> Result<Duration> {
        if left >= SHORTEST {
            return Ok(left);
        }
        let cause = format!("nothing is left of the {} s that it may take", self.checked.wait.as_secs());
        Err(Error::new(Code::Timeout, step, cause))
    }

    /// When what was begun has to be a point, or undone. Whoever asked has to hear of it, or it would be nobody's: it is little
    /// later than the job may end.
    fn end(&self) -> Instant {
        self.deadline + PUBLISH.min(self.checked.wait / 2)
    }

    /// How long what was copied may take to become a point. `TIMEOUT` when nothing is left of that.
    fn time_to_publish(&self, step: &'static str) -> Result<Duration> {
        self.enough(step, self.end().saturating_duration_since(Instant::now()))
    }

    /// What comes before there is something to undo ends with the time that the job may take.
    fn prepares(&self) -> CallEnds {
        CallEnds::at(self.deadline)
    }

    /// What comes then has until the call's end.
    fn winds_up(&self) -> CallEnds {
        CallEnds::at(self.end())
    }

    /// What the host has to know of it before its first effect.
    fn begun(&self, root: &Path, bitmap: Option<&str>, job: &Job) -> Begun {
        Begun {
            vm: self.checked.vm.clone(),
            job: job.status().job,
            root: root.to_owned(),
            point: self.checked.point.to_string(),
            bitmap: bitmap.map(str::to_owned),
            may_resume: false,
            disks: Vec::new(),
            view: None,
        }
    }
}

/// What a NAS is not judged by: it may answer in more.
const SHORTEST: Duration = Duration::from_secs(1);

/// How long one question to libvirt may stay open.
const CALL: Duration = Duration::from_secs(60);

/// How long after its time a backup whose data are there may still be published. Who asked waits for twice that.
const PUBLISH: Duration = Duration::from_secs(60);

/// Asks libvirt on a thread that may be given up: a QEMU that hangs, perhaps in its own storage, answers no question.
fn ask<T: Send + 'static>(step: &'static str, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    deadline::ask(step, CALL, work)
}

/// The name of a disk's file: the first disk of the guest is the root disk, whether it is backed up or not.
fn file_name(i: usize, volume: &str) -> String {
    format!("{}.{volume}.qcow2", if i == 0 { "root" } else { "datadisk" })
}

/// The parent as a manifest names it.
fn parent_point(parent: Option<std::result::Result<Parent, String>>) -> Option<ParentPoint> {
    let parent = parent?.ok()?;
    Some(ParentPoint { backup_path: parent.path.to_string(), point_id: parent.manifest.point_id })
}

/// The manifest of a new point; the lengths of its files are not known yet.
fn manifest(
    call: &Call<'_>,
    when: jiff::Timestamp,
    engine: Engine,
    bitmap: Option<&str>,
    parent: Option<ParentPoint>,
    (disks, left_out): (Vec<ManifestDisk>, Vec<LeftOut>),
) -> Manifest {
    let incremental = disks.iter().any(|disk| disk.kind == Kind::Incremental);
    let comparable = disks.iter().all(|disk| disk.fingerprints.is_some());
    Manifest {
        version: Manifest::VERSION,
        point_id: call.point_id.clone(),
        backup_path: Some(call.checked.point.to_string()),
        vm_name: call.checked.vm.clone(),
        when,
        kind: if incremental { Kind::Incremental } else { Kind::Full },
        bitmap: bitmap.map(str::to_owned),
        name: bitmap.or(call.checked.mode.bitmap().filter(|_| comparable)).map(str::to_owned),
        engine,
        parent: parent.filter(|_| incremental),
        disks,
        left_out,
        texts: None,
        mac: None,
        checksum: None,
    }
}

/// A published point, with what its manifest does not say.
struct Outcome {
    published: Published,
    /// The disks' names in the domain.
    targets: Vec<Option<String>>,
    /// The files that the incremental disks stand on.
    parents: Vec<Option<String>>,
    recreated: Option<String>,
    fallback: bool,
    details: Vec<String>,
    job_millis: u64,
}

impl Outcome {
    fn answer(self, point: &PointPath, job: &Job) -> TakenBackup {
        let manifest = self.published.manifest;
        let with = self.targets.into_iter().zip(self.parents);
        let disks = manifest.disks.into_iter().zip(with).map(|(disk, (target, parent))| TakenDisk {
            target,
            file: format!("{point}/{}", disk.file),
            volume: disk.volume,
            serial: disk.serial,
            kind: disk.kind,
            parent,
            size: disk.size,
            virtual_size: disk.virtual_size,
            bitmap: disk.bitmap,
        });
        let disks: Vec<TakenDisk> = disks.collect();
        TakenBackup {
            point_id: manifest.point_id,
            mac: manifest.mac,
            kind: manifest.kind,
            size: disks.iter().map(|disk| disk.size).sum(),
            virtual_size: disks.iter().map(|disk| disk.virtual_size).sum(),
            volumes: disks.iter().map(|disk| (disk.volume.clone(), disk.file.clone())).collect(),
            bitmap_created: manifest.bitmap,
            parent_name: manifest.name,
            bitmap_recreated: self.recreated,
            incremental_fallback: self.fallback,
            details: plain_lines(&self.details),
            engine: manifest.engine,
            job_millis: self.job_millis,
            sync_millis: self.published.millis,
            total_millis: job.elapsed_millis(),
            disks,
        }
    }
}
