//! The bitmaps of a running guest: is the parent's good, and which of ours are left over.

use std::collections::BTreeSet;

use super::decision::BitmapFound;
use crate::error::Result;
use crate::libvirt::{Domain, Redefined, checkpoint_xml};

/// The bitmaps that a running guest has, as far as can be seen from outside of QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bitmaps {
    /// The disks' names in the domain.
    pub targets: Vec<String>,
    /// For each disk, the names stored in its top image. Those begun since QEMU started are not among them.
    pub stored: Vec<BTreeSet<String>>,
    /// The checkpoints that libvirt knows.
    pub known: BTreeSet<String>,
}

impl Bitmaps {
    /// Is there a bitmap or checkpoint of this name?
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
    /// 1970) known to libvirt again if need be. What is left of a bitmap that is lost somewhere is removed.
    pub(super) fn find_parent(&self, domain: &Domain, name: &str, created: i64, on: &[&str]) -> BitmapFound {
        let known = self.known.contains(name);
        // A bitmap that came with an image below the top one does not record what was written since.
        if let Some(lost) = on.iter().find(|target| !known && !self.split(name).0.contains(target)) {
            return BitmapFound::Lost(format!("disk {lost}: its image has no bitmap '{name}'"));
        }
        let without: Vec<_> = self.targets.iter().map(String::as_str).filter(|target| !on.contains(target)).collect();
        match domain.redefine_validated(&checkpoint_xml(name, Some(created), on, &without)) {
            Ok(Redefined::Good) if known => BitmapFound::Known,
            Ok(Redefined::Good) => BitmapFound::Redefined,
            Ok(Redefined::Inconsistent) => {
                let disks = self.blame(domain, name, created, on).unwrap_or_else(|e| e.cause);
                BitmapFound::Lost(format!("bitmap '{name}' is missing, inconsistent or disabled: {disks}"))
            }
            Err(error) => BitmapFound::Lost(format!("bitmap '{name}' can't be validated: {}", error.cause)),
        }
    }

    /// Which disks lost the bitmap. It is removed from the others: no backup can use it any more.
    fn blame(&self, domain: &Domain, name: &str, created: i64, on: &[&str]) -> Result<String> {
        domain.forget_checkpoint(name)?;
        let mut lost = Vec::new();
        for target in on {
            let others: Vec<_> = self.targets.iter().map(String::as_str).filter(|other| other != target).collect();
            match domain.redefine_validated(&checkpoint_xml(name, Some(created), &[target], &others))? {
                Redefined::Good => drop(domain.delete_checkpoint(name)?),
                Redefined::Inconsistent => lost.push(format!("disk {target}")),
            }
        }
        Ok(lost.join(", "))
    }

    /// Removes the bitmap `name` and its checkpoint from all disks.
    pub(super) fn remove(&self, domain: &Domain, name: &str) -> Result<()> {
        if domain.delete_checkpoint(name)? {
            return Ok(());
        }
        let (with, without) = self.split(name);
        if !with.is_empty() {
            // The time is of no matter: the checkpoint is deleted at once.
            domain.redefine(&checkpoint_xml(name, Some(0), &with, &without))?;
            domain.delete_checkpoint(name)?;
        }
        Ok(())
    }
}
