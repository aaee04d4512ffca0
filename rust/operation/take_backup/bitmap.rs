//! The bitmaps of a running guest: whether the parent's can be used, and which of ours are left over.

use std::collections::BTreeSet;

use super::decision::ParentBitmap;
use crate::error::{Code, Error, Result};
use crate::libvirt::{Domain, Redefined, checkpoint_xml};

/// The bitmaps that a running guest has, as far as can be seen from outside of QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bitmaps {
    /// The disks' names in the domain.
    pub targets: Vec<String>,
    /// For each disk, the names stored in its top image. Those begun since QEMU started are not among them.
    pub stored: Vec<BTreeSet<String>>,
    /// The disks among them whose images could not be read, and why: what is stored there is not known.
    pub unknown: Vec<String>,
    /// The checkpoints that libvirt knows.
    pub known: BTreeSet<String>,
}

impl Bitmaps {
    /// True if there is a bitmap or checkpoint of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.known.contains(name) || self.stored.iter().any(|names| names.contains(name))
    }

    /// All names that are not `ours`.
    pub(super) fn foreign<'a>(&'a self, ours: &'a BTreeSet<String>) -> BTreeSet<&'a str> {
        let stored = self.stored.iter().flatten();
        self.known.iter().chain(stored).filter(|name| !ours.contains(*name)).map(String::as_str).collect()
    }

    /// Disks with a stored bitmap `name`, and the others.
    fn split(&self, name: &str) -> (Vec<&str>, Vec<&str>) {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for (target, names) in self.targets.iter().zip(&self.stored) {
            if names.contains(name) { with.push(target.as_str()) } else { without.push(target.as_str()) }
        }
        (with, without)
    }

    /// Looks for the bitmap `name` on the disks `on`, making its checkpoint (of the time `created`, in seconds since
    /// 1970) known to libvirt again if need be. What is left of a bitmap that is lost somewhere goes with the clearing up.
    pub(super) fn find_parent(&self, domain: &Domain, name: &str, created: i64, on: &[&str]) -> ParentBitmap {
        // libvirt looks at the bitmaps of a checkpoint that it knows when the job begins
        if self.known.contains(name) {
            return ParentBitmap::Known;
        }
        let found = self.find_stored(domain, name, created, on);
        found.unwrap_or_else(|error| ParentBitmap::Lost(format!("bitmap '{name}' can't be validated: {}", error.cause)))
    }

    /// The guest was restarted or migrated: the bitmap is in the images, libvirt has forgotten the checkpoint.
    fn find_stored(&self, domain: &Domain, name: &str, created: i64, on: &[&str]) -> Result<ParentBitmap> {
        // libvirt would also take a bitmap of an image below the top one, which does not record what was written since.
        let (with, _) = self.split(name);
        let missing: Vec<_> = on.iter().filter(|target| !with.contains(target)).copied().collect();
        if !missing.is_empty() {
            return Ok(lost(name, &missing));
        }
        let without: Vec<_> = self.targets.iter().map(String::as_str).filter(|target| !on.contains(target)).collect();
        match domain.redefine_validated(&checkpoint_xml(name, Some(created), on, &without))? {
            Redefined::Good => Ok(ParentBitmap::Redefined),
            Redefined::Inconsistent => self.blame(domain, name, created, on),
        }
    }

    /// Finds out which disks lost the bitmap: redefines the checkpoint for each disk alone, and forgets it again.
    fn blame(&self, domain: &Domain, name: &str, created: i64, on: &[&str]) -> Result<ParentBitmap> {
        let mut bad = Vec::new();
        for target in on {
            let others: Vec<_> = self.targets.iter().map(String::as_str).filter(|other| other != target).collect();
            match domain.redefine_validated(&checkpoint_xml(name, Some(created), &[target], &others))? {
                Redefined::Good => drop(domain.forget_checkpoint(name)?),
                Redefined::Inconsistent => bad.push(*target),
            }
        }
        Ok(lost(name, &bad))
    }

    /// Removes the bitmap `name` and its checkpoint from all disks. An error when it may be on one that could not be read.
    pub(super) fn remove(&self, domain: &Domain, name: &str) -> Result<()> {
        match domain.delete_checkpoint(name) {
            Ok(true) => return Ok(()),
            Ok(false) => self.remove_stored(domain, name)?,
            Err(error) => {
                log::info!("{}: {error}; bitmap '{name}' is removed disk by disk", domain.name());
                domain.forget_checkpoint(name)?;
                self.remove_stored(domain, name)?;
                self.remove_unstored(domain, name)?;
            }
        }
        self.all_known()
    }

    /// An error that names the disks of which it is not known what bitmaps they have.
    fn all_known(&self) -> Result<()> {
        match self.unknown[..] {
            [] => Ok(()),
            _ => Err(Error::new(Code::Io, "look at the bitmaps", self.unknown.join(", "))),
        }
    }

    /// Removes the bitmap from the disks that have it in their image, in whatever state it is.
    fn remove_stored(&self, domain: &Domain, name: &str) -> Result<()> {
        let (with, without) = self.split(name);
        if !with.is_empty() {
            // the time does not matter: the checkpoint is deleted at once
            domain.redefine(&checkpoint_xml(name, Some(0), &with, &without))?;
            domain.delete_checkpoint(name)?;
        }
        Ok(())
    }

    /// Removes the bitmap from the disks on which only QEMU knows it, because it began after QEMU's start.
    fn remove_unstored(&self, domain: &Domain, name: &str) -> Result<()> {
        for target in self.split(name).1 {
            let others: Vec<_> = self.targets.iter().map(String::as_str).filter(|other| *other != target).collect();
            if domain.redefine_validated(&checkpoint_xml(name, Some(0), &[target], &others))? == Redefined::Good {
                domain.delete_checkpoint(name)?;
            }
        }
        Ok(())
    }
}

fn lost(name: &str, disks: &[&str]) -> ParentBitmap {
    ParentBitmap::Lost(format!("bitmap '{name}' is missing, inconsistent or disabled on disk {}", disks.join(", ")))
}
