//! A running guest's images in Ceph: snapshots of them are taken with the key that libvirt keeps for the guest.

use std::sync::mpsc::{self, Receiver};

use super::super::call::{Call, ask};
use super::super::plan::DiskPlan;
use super::super::snapshots::{self, DiskImage};
use super::super::take::Attempt;
use super::copy::EngineInput;
use super::guest::Running;
use crate::error::{Code, Result};
use crate::libvirt::{self, CephSource};
use crate::operation::ceph::Rbd;
use crate::work::job::Reporter;

impl Attempt<Running> {
    /// Takes a snapshot of each image that is pulled, and has the engine find out later what has changed in it since the parent's.
    /// What is told of that comes from the channel.
    pub(super) fn take_snapshots(
        &mut self,
        call: &Call<'_>,
        input: &mut EngineInput,
        details: &mut Vec<String>,
        job: &mut Reporter<'_>,
    ) -> Result<Receiver<String>> {
        let (teller, told) = mpsc::channel();
        let EngineInput::Pull(_, disks) = input else { return Ok(told) };
        let Attempt { guest: Running { found, images, .. }, plan, .. } = self;
        for (i, planned) in plan.disks.iter_mut().enumerate().filter(|_| call.checked.mode.bitmap().is_some()) {
            let disk = found.xml.disks.iter().find(|disk| disk.target == planned.facts.target);
            let Some(source) = disk.and_then(|disk| disk.ceph.as_ref()) else { continue };
            match take(i, source, planned, images, call, job) {
                Ok(()) => {}
                Err(error) if error.code == Code::Cancelled => return Err(error),
                Err(error) => {
                    images.pop_if(|image| image.disk == i).iter().for_each(DiskImage::remove);
                    details.push(snapshots::without(&planned.facts.target, &error.cause));
                }
            }
            // an error of the listener's own is none of Ceph's
            job.tell()?;
        }
        for image in images {
            disks[image.disk].late = Some(image.late_changes(call.left(), teller.clone()));
        }
        Ok(told)
    }
}

/// Takes a snapshot of the disk at position `i`.
fn take(
    i: usize,
    source: &CephSource,
    planned: &mut DiskPlan,
    images: &mut Vec<DiskImage>,
    call: &Call<'_>,
    job: &mut Reporter<'_>,
) -> Result<()> {
    let (uri, secret) = (call.config.connection_uri.clone(), source.secret.clone());
    let key = ask("read the disk's secret", move || secret.map(|secret| libvirt::ceph_key(&uri, &secret)).transpose())?;
    let rbd = Rbd::of_domain(source, key.as_deref())?;
    // noted first, because what Ceph does late has to be undone, too
    images.push(DiskImage::new(i, &planned.facts.target, rbd, call));
    images.last_mut().map_or(Ok(()), |image| image.take(true, planned, call, job))
}
