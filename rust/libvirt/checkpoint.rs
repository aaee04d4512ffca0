//! Checkpoints: libvirt's records that own a bitmap of the same name.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::ptr::null_mut;

use virt::error::Error as VirtError;
use virt_sys as sys;

use super::backup_xml::dirty_sizes;
use super::domain::{Domain, c_string};
use super::{at, number};
use crate::error::Result;

/// What came of redefining a checkpoint with validation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redefined {
    /// libvirt knows it now, and its bitmap is good on every disk named.
    Good,
    /// The bitmap is missing, inconsistent or disabled on at least one disk; nothing was changed.
    Inconsistent,
}

/// A checkpoint that libvirt knows.
#[derive(Debug)]
pub struct Checkpoint(sys::virDomainCheckpointPtr);

impl Drop for Checkpoint {
    fn drop(&mut self) {
        // SAFETY: the pointer came from libvirt with one reference, which is given back once.
        unsafe { sys::virDomainCheckpointFree(self.0) };
    }
}

impl Domain {
    /// The names of the checkpoints that libvirt knows of this domain.
    pub fn checkpoint_names(&self) -> Result<Vec<String>> {
        let mut list = null_mut();
        // SAFETY: the domain is live; on success `list` holds that many owned checkpoints and is ours to free.
        let count = unsafe { sys::virDomainListAllCheckpoints(self.inner.as_ptr(), &mut list, 0) };
        let count = usize::try_from(count).map_err(|_| at("list the checkpoints")(VirtError::last_error()))?;
        // SAFETY: as above; each checkpoint is wrapped, and so freed, once, and its name is copied before that.
        let names = unsafe {
            let names = (0..count).map(|i| Checkpoint(*list.add(i))).map(|checkpoint| {
                CStr::from_ptr(sys::virDomainCheckpointGetName(checkpoint.0)).to_string_lossy().into_owned()
            });
            let names = names.collect();
            libc::free(list.cast());
            names
        };
        Ok(names)
    }

    /// The bytes that changed on each disk since the checkpoint `name`; a disk whose bitmap is not good is left out.
    /// `None` when libvirt does not know the checkpoint. QEMU merges bitmaps to tell.
    pub fn dirty(&self, name: &str) -> Result<Option<BTreeMap<String, u64>>> {
        let Some(checkpoint) = self.find_checkpoint(name)? else { return Ok(None) };
        let flags = sys::VIR_DOMAIN_CHECKPOINT_XML_SIZE | sys::VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN;
        // SAFETY: the checkpoint is live; the text that comes back is ours, NUL-terminated, and freed after its copy.
        let xml = unsafe {
            let text = sys::virDomainCheckpointGetXMLDesc(checkpoint.0, flags);
            if text.is_null() {
                return Err(at("read the checkpoint")(VirtError::last_error()));
            }
            let copy = CStr::from_ptr(text).to_string_lossy().into_owned();
            libc::free(text.cast());
            copy
        };
        dirty_sizes(&xml).map(Some)
    }

    /// Redefines a checkpoint, asking libvirt to validate its bitmap on the disks that `xml` names.
    pub fn redefine_validated(&self, xml: &str) -> Result<Redefined> {
        let flags = sys::VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE | sys::VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE;
        match self.create_checkpoint(xml, flags)? {
            Ok(_) => Ok(Redefined::Good),
            Err(error) if number(&error) == sys::VIR_ERR_CHECKPOINT_INCONSISTENT => Ok(Redefined::Inconsistent),
            Err(error) => Err(at("redefine the checkpoint")(error)),
        }
    }

    /// Redefines a checkpoint without looking at its bitmap, to be able to delete both.
    pub fn redefine(&self, xml: &str) -> Result<()> {
        let created = self.create_checkpoint(xml, sys::VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE)?;
        created.map(drop).map_err(at("redefine the checkpoint"))
    }

    fn create_checkpoint(&self, xml: &str, flags: u32) -> Result<Result<Checkpoint, VirtError>> {
        let xml = c_string(xml)?;
        // SAFETY: the domain is live and the text is NUL-terminated; a checkpoint that comes back is ours.
        let made = unsafe { sys::virDomainCheckpointCreateXML(self.inner.as_ptr(), xml.as_ptr(), flags) };
        Ok(if made.is_null() { Err(VirtError::last_error()) } else { Ok(Checkpoint(made)) })
    }

    /// Deletes a checkpoint and its bitmap. False when libvirt does not know it. An error when its bitmap is not on every
    /// disk that it names.
    pub fn delete_checkpoint(&self, name: &str) -> Result<bool> {
        let Some(checkpoint) = self.find_checkpoint(name)? else { return Ok(false) };
        self.delete(&checkpoint, 0).map_err(at("delete the checkpoint"))?;
        Ok(true)
    }

    /// Makes libvirt forget a checkpoint and leaves its bitmap alone. False when libvirt does not know it.
    pub fn forget_checkpoint(&self, name: &str) -> Result<bool> {
        let Some(checkpoint) = self.find_checkpoint(name)? else { return Ok(false) };
        self.delete(&checkpoint, sys::VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
            .map_err(at("forget the checkpoint"))?;
        Ok(true)
    }

    fn find_checkpoint(&self, name: &str) -> Result<Option<Checkpoint>> {
        let name = c_string(name)?;
        // SAFETY: the domain is live and the name is NUL-terminated.
        let found = unsafe { sys::virDomainCheckpointLookupByName(self.inner.as_ptr(), name.as_ptr(), 0) };
        if !found.is_null() {
            return Ok(Some(Checkpoint(found)));
        }
        let error = VirtError::last_error();
        if number(&error) == sys::VIR_ERR_NO_DOMAIN_CHECKPOINT {
            Ok(None)
        } else {
            Err(at("look up the checkpoint")(error))
        }
    }

    fn delete(&self, checkpoint: &Checkpoint, flags: u32) -> Result<(), VirtError> {
        // SAFETY: the checkpoint is live.
        if unsafe { sys::virDomainCheckpointDelete(checkpoint.0, flags) } < 0 {
            Err(VirtError::last_error())
        } else {
            Ok(())
        }
    }
}
