//! The disks of a stopped guest are copied, all of them under QEMU's image lock.

use std::sync::Arc;
use std::time::Instant;

use super::super::call::Call;
use super::super::constraints::Failed;
use super::super::plan::DiskPlan;
use super::super::shrink_check::{self, OpenImages};
use super::super::snapshots::{self, DiskImage};
use super::super::take::{Attempt, Copied};
use super::super::{base, targets};
use super::disk::{self, DiskToOpen, Stopped};
use super::questions::{answered, read_machine_state, refuse_running};
use crate::apart::Apart;
use crate::engine::offline::{self, Origin};
use crate::error::{Code, Result};
use crate::limits;
use crate::point::fingerprints::{Base, Fingerprints};
use crate::qcow2::Layer;
use crate::qemu::layers::StoppedImage;
use crate::work::job::Reporter;
use crate::work::phase::Phase;

impl Attempt<Stopped> {
    /// Reads the disks, all under their locks. `PARENT_INVALID` when an incremental can't stand on its parent after all.
    pub(super) fn copy_stopped(
        &mut self,
        call: &Call<'_>,
        job: &mut Reporter<'_>,
    ) -> std::result::Result<Copied, Failed> {
        job.begin(Phase::Copy)?;
        let begun = Instant::now();
        self.freeze_images(call, job)?;
        self.refuse_started(call, |_| true)?;
        let mut wanted = disk::wanted(call.checked, &self.guest.found, &self.plan);
        self.read_snapshots(call, &mut wanted, job)?;
        let servers = disk::serve(call, &mut wanted, job)?;
        let locked = answered("lock the disks", limits::STORAGE_STEP, move || {
            wanted.iter().map(|disk| disk.lock().map_err(|e| e.on_disk(&disk.source.path))).collect::<Result<Vec<_>>>()
        });
        self.guest.hangs = locked.as_ref().is_err_and(|error| error.code == Code::Timeout);
        let locked = locked?;
        let _winds_up = call.winds_up();
        let when = jiff::Timestamp::now();
        let state = read_machine_state(call);
        let (mut locks, mut compared, mut origins) = (Vec::new(), Vec::new(), Vec::new());
        for disk in locked {
            locks.extend(disk.images);
            compared.push(disk.compared);
            origins.push(disk.origin);
        }
        let locks = Arc::new(locks);
        let copied = self.copy_locked(call, origins, compared, locks.clone(), job);
        drop(servers);
        self.guest.hangs = Arc::strong_count(&locks) > 1;
        let unlocked = answered("unlock the disks", limits::STORAGE_STEP, move || {
            drop(locks);
            Ok(())
        });
        let fingerprints = copied?;
        unlocked?;
        self.refuse_started(call, |disk| disk.snapshot.is_none())?;
        let shown = |image: &DiskImage| self.plan.disks[image.disk].snapshot.as_ref();
        self.guest.images.iter().try_for_each(|image| image.check_there(shown(image), call, job))?;
        let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        job.begin(Phase::Publish)?;
        let limit = call.time_to_publish(targets::PUBLISH)?;
        Ok(Copied { when, millis, details: state.details, state: state.files, fingerprints, limit })
    }

    /// Takes snapshots of the images in Ceph.
    fn freeze_images(&mut self, call: &Call<'_>, job: &mut Reporter<'_>) -> Result<()> {
        let Attempt { guest, plan, .. } = self;
        for (i, disk) in guest.found.iter().enumerate().filter(|_| call.checked.mode.bitmap().is_some()) {
            let Some(rbd) = &disk.source.rbd else { continue };
            // noted first, because what Ceph does late has to be undone, too
            guest.images.push(DiskImage::new(i, &rbd.name, rbd.clone(), call));
            let image = guest.images.last_mut();
            let taken = image.map_or(Ok(()), |image| image.take(false, &mut plan.disks[i], call, job));
            if let Err(reason) = snapshots::or_refused(taken).map_err(|error| error.on_disk(&rbd.name))? {
                guest.images.pop().iter().for_each(DiskImage::remove);
                plan.details.push(snapshots::without(&rbd.name, &reason));
            }
        }
        Ok(())
    }

    /// Has the snapshots read, and of them what has changed, as far as that is known.
    fn read_snapshots(&mut self, call: &Call<'_>, disks: &mut [DiskToOpen], job: &mut Reporter<'_>) -> Result<()> {
        for image in &self.guest.images {
            let disk = &mut disks[image.disk];
            let (changes, told) = image.changes(call, job).map_err(|error| error.on_disk(&disk.source.path))?;
            self.plan.details.extend(told);
            (disk.image, disk.changes) = (Some(image.frozen()), changes);
        }
        Ok(())
    }

    /// `DOMAIN_STATE` when the guest runs, although a disk of it that is in Ceph, where nothing locks it, `has_to_rest`.
    fn refuse_started(&self, call: &Call<'_>, has_to_rest: impl Fn(&DiskPlan) -> bool) -> Result<()> {
        let mut disks = self.guest.found.iter().zip(&self.plan.disks);
        if disks.any(|(found, planned)| found.source.rbd.is_some() && has_to_rest(planned)) {
            refuse_running(call, "it was started while its images in Ceph, which nothing locks, were read")?;
        }
        Ok(())
    }

    /// Copies the disks from their `origins`, and compares them, of which there are the images `compared`, with the parent point.
    fn copy_locked(
        &mut self,
        call: &Call<'_>,
        origins: Vec<Origin>,
        mut compared: Vec<Vec<Layer>>,
        locks: Arc<Vec<StoppedImage>>,
        job: &mut Reporter<'_>,
    ) -> std::result::Result<Vec<Option<Fingerprints>>, Failed> {
        shrink_check::look_ahead(&mut self.targets, &self.plan);
        let bases = base::open(&self.targets, &self.plan)?;
        let disk = |((i, origin), base): ((usize, Origin), Option<Base<Apart>>)| {
            Ok(offline::OfflineDisk { target: self.targets.target(i, base)?, origin })
        };
        let disks = origins.into_iter().enumerate().zip(bases).map(disk).collect::<Result<Vec<_>>>()?;
        let (rate, session) = (call.checked.rate, self.targets.instance().session().clone());
        let fingerprints = offline::copy(disks, rate, session, locks, job, call.deadline)?;
        let images = |i: usize| -> OpenImages {
            let images = std::mem::take(&mut compared[i]);
            Box::new(move || Ok(images))
        };
        shrink_check::check(call, &mut self.targets, &self.plan, images)?;
        Ok(fingerprints.into_iter().map(Some).collect())
    }
}
