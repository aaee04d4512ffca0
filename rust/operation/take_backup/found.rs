//! A running guest as a backup finds it: its disks, their bitmaps, and whether it can be backed up at all.

use std::collections::BTreeSet;

use super::bitmap::Bitmaps;
use super::plan::DiskFacts;
use super::request::Checked;
use super::selection::{self, Chosen};
use crate::config::Config;
use crate::engine::choice;
use crate::engine::incident::JobDisk;
use crate::error::{Code, Error, Result};
use crate::libvirt::{Disk, Domain, DomainXml, JobState, Source, State};
use crate::limits;
use crate::point::LeftOut;
use crate::qcow2;
use crate::qemu::image_file::open_named;
use crate::qemu::layers::HELP;

/// A running guest as it was found.
pub(super) struct FoundGuest {
    pub domain: Domain,
    /// The domain's state when the library looked.
    pub state: State,
    pub xml_text: String,
    pub xml: DomainXml,
    pub disks: Vec<DiskFacts>,
    /// The disks that the backup leaves out, and tells of.
    pub left_out: Vec<LeftOut>,
    pub bitmaps: Bitmaps,
    pub details: Vec<String>,
}

impl FoundGuest {
    /// Follows the domain onto a new connection, should the daemon have been restarted.
    pub(super) fn refresh(&mut self) {
        match self.domain.again() {
            Ok(Some(domain)) => self.domain = domain,
            Ok(None) => log::info!("{}: the domain is gone", self.domain.name()),
            Err(error) => log::debug!("{}: {error}", self.domain.name()),
        }
    }
}

impl FoundGuest {
    /// The disks, as the choice of the engine sees them.
    pub(super) fn engine_disks(&self) -> Vec<choice::DiskToPull> {
        let with = |target: &str| self.xml.disks.iter().any(|disk| disk.target == target && disk.iothread);
        let disk = |disk: &DiskFacts| choice::DiskToPull {
            target: disk.target.clone(),
            bytes: disk.virtual_size,
            iothread: with(&disk.target),
        };
        self.disks.iter().map(disk).collect()
    }

    /// The names in the domain of all disks and drives that are not backed up.
    pub(super) fn others(&self) -> impl Iterator<Item = &str> {
        let all = self.xml.disks.iter().chain(&self.xml.others).map(|disk| disk.target.as_str());
        all.filter(|target| self.disks.iter().all(|disk| disk.target != *target))
    }

    /// The disks, by all their names.
    pub(super) fn job_disks(&self) -> Vec<JobDisk> {
        let disk = |facts: &DiskFacts| {
            let disk = self.xml.disks.iter().find(|disk| disk.target == facts.target);
            JobDisk {
                target: facts.target.clone(),
                alias: disk.and_then(|disk| disk.alias.clone()),
                source: disk.and_then(|disk| disk.source.path().map(str::to_owned)),
            }
        };
        self.disks.iter().map(disk).collect()
    }

    /// Fails if a disk is not what it was when the library inspected it. Called once the job has begun, because the job copies
    /// the domain's current disks.
    pub(super) fn check_unchanged(&self, now: &DomainXml) -> Result<()> {
        let disk = |xml: &DomainXml, target: &str| {
            let disk = xml.disks.iter().find(|disk| disk.target == target);
            disk.map(|disk| (disk.source.clone(), disk.serial.clone(), disk.iothread))
        };
        match self.disks.iter().find(|facts| disk(&self.xml, &facts.target) != disk(now, &facts.target)) {
            None => Ok(()),
            Some(facts) => {
                let cause = "it was exchanged while the backup was being prepared";
                Err(Error::new(Code::DomainState, "look at the disks again", cause).on_disk(&facts.target))
            }
        }
    }
}

/// Looks at the domain and its disks, and refuses what can't be backed up.
pub(super) fn find(checked: &Checked, config: &Config) -> Result<FoundGuest> {
    let missing =
        || Error::new(Code::DomainNotFound, "look up the domain", format!("libvirt has no domain '{}'", checked.vm));
    let domain = Domain::find(&config.connection_uri, &checked.vm)?.ok_or_else(missing)?;
    let state = domain.state()?;
    if state == State::Other {
        let cause = "it is shutting down or shut off, and no disks are given";
        return Err(Error::new(Code::DomainState, "look at the domain", cause));
    }
    if domain.monitor_hangs(limits::QEMU_MONITOR)? || domain.job()?.state == JobState::Running {
        return Err(Error::new(
            Code::Busy,
            "look at the domain",
            "another job (backup, migration, save) runs on it, or QEMU does not answer",
        ));
    }
    let (xml_text, mut xml) = domain.xml()?;
    let blocks = domain.blocks()?;
    xml.locate(&blocks);
    xml.owner = xml.owner.or_else(|| owner(&domain));
    let (chosen, left_out) = selection::of_domain(&xml, &checked.exclude)?;
    let told = left_out.iter().map(|disk| selection::told(disk.target.as_deref().unwrap_or("?"), &disk.reason));
    let details = told.collect();
    let mut disks = Vec::new();
    for chosen in chosen {
        let size = blocks.get(&chosen.disk.target).and_then(|block| block.capacity);
        disks.push(inspect_disk(&domain, &xml, &chosen, size).map_err(|e| e.on_disk(&chosen.disk.target))?);
    }
    let bitmaps = bitmaps_of(&domain, &xml)?;
    Ok(FoundGuest { domain, state, xml_text, xml, disks, left_out, bitmaps, details })
}

/// User and group of the domain's QEMU by its process: libvirt's label tells them, and not each guest has one.
fn owner(domain: &Domain) -> Option<(u32, u32)> {
    let found = domain.emulator().and_then(|emulator| emulator.owner());
    found.inspect_err(|error| log::debug!("{}: {error}", domain.name())).ok()
}

/// The bitmaps that a domain has now. The volumes of pools are where they were found `before`; without that libvirt is
/// asked, unless a job runs.
pub(super) fn bitmaps(domain: &Domain, before: Option<&DomainXml>) -> Result<Bitmaps> {
    let (_, mut xml) = domain.xml()?;
    match before {
        Some(before) => xml.locate_as(before),
        None if xml.has_volumes() && domain.job()?.state != JobState::Running => xml.locate(&domain.blocks()?),
        None => {}
    }
    bitmaps_of(domain, &xml)
}

/// The bitmaps of the disks that can carry some and that belong to this domain alone.
fn bitmaps_of(domain: &Domain, xml: &DomainXml) -> Result<Bitmaps> {
    let own = xml.disks.iter().filter(|disk| !disk.shareable && !disk.transient);
    let (targets, stored, unknown) = stored_on(own);
    Ok(Bitmaps { targets, stored, unknown, known: domain.checkpoint_names()?.into_iter().collect() })
}

/// The disks that can carry a bitmap, the names stored on each, and those on which they can't be read.
fn stored_on<'a>(disks: impl Iterator<Item = &'a Disk>) -> (Vec<String>, Vec<BTreeSet<String>>, Vec<String>) {
    let (mut targets, mut stored, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for disk in disks {
        let names = match bitmap_home(disk) {
            Ok(names) => names,
            Err(NoBitmaps::Never(_)) => continue,
            Err(NoBitmaps::Unknown(reason)) => {
                unknown.push(format!("disk {}: {reason}", disk.target));
                BTreeSet::new()
            }
        };
        targets.push(disk.target.clone());
        stored.push(names);
    }
    (targets, stored, unknown)
}

/// Removes the bitmap `name` from all disks of the domain, which has `bitmaps` and was `before`. False when a disk could not
/// be read that may have it.
pub(super) fn remove_everywhere(domain: &Domain, before: &DomainXml, bitmaps: &Bitmaps, name: &str) -> Result<bool> {
    if !bitmaps.has(name) {
        return Ok(bitmaps.unknown.is_empty());
    }
    bitmaps.remove(domain, name)?;
    // A checkpoint that was made again has no more disks than those that were incremental by it, and takes the bitmap from
    // these alone.
    let now = self::bitmaps(domain, Some(before))?;
    if now.has(name) {
        now.remove(domain, name)?;
    }
    Ok(now.unknown.is_empty())
}

/// Facts of one disk.
fn inspect_disk(domain: &Domain, xml: &DomainXml, chosen: &Chosen<'_>, size: Option<u64>) -> Result<DiskFacts> {
    const STEP: &str = "look at the disk";
    let Chosen { disk, volume, file } = chosen;
    if disk.encrypted {
        let cause = format!("it is encrypted, and would be written to the NAS in plain text; {HELP}");
        return Err(Error::new(Code::UnsupportedImage, STEP, cause));
    }
    if domain.in_block_job(&disk.target)? {
        return Err(Error::new(Code::Busy, STEP, "a block job runs on it"));
    }
    let with_its_serial = xml.disks.iter().chain(&xml.others).filter(|other| other.serial == disk.serial).count();
    Ok(DiskFacts {
        target: disk.target.clone(),
        volume: (*volume).to_owned(),
        file: file.clone(),
        serial: disk.serial.clone(),
        serial_is_shared: disk.serial.is_some() && with_its_serial > 1,
        virtual_size: size.ok_or_else(|| Error::new(Code::Libvirt, STEP, "its size is not known"))?,
        cannot_carry: bitmap_home(disk).err().map(|(NoBitmaps::Never(reason) | NoBitmaps::Unknown(reason))| reason),
        shrink_check_impossible: None,
    })
}

/// Why no bitmaps of a disk can be named.
#[derive(Debug)]
enum NoBitmaps {
    /// It can't carry any.
    Never(String),
    /// It may, but its image can't be looked at.
    Unknown(String),
}

/// The bitmaps stored in the disk's top image.
fn bitmap_home(disk: &Disk) -> Result<BTreeSet<String>, NoBitmaps> {
    let never = |reason: &str| Err(NoBitmaps::Never(reason.to_owned()));
    if disk.format != "qcow2" {
        return never(&format!("its format is {}", disk.format));
    }
    if disk.read_only {
        return never("it is read-only");
    }
    let path = match (&disk.path, &disk.source) {
        (Some(path), _) => path,
        (None, Source::Volume(_)) => return Err(NoBitmaps::Unknown("where its image is, is not known".to_owned())),
        (None, _) => return never("its image is no file or device of this host"),
    };
    let info = open_named(path).and_then(|file| qcow2::inspect(&file).map_err(|e| e.at("look at the disk", path)));
    let info = info.map_err(|e| NoBitmaps::Unknown(format!("its image can't be read: {}", e.cause)))?;
    if info.version < 3 {
        return never("its image is qcow2 version 2; 'qemu-img amend -o compat=1.1' while the guest is stopped helps");
    }
    Ok(info.bitmaps.into_iter().map(|bitmap| bitmap.name).collect())
}
