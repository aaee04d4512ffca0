//! A volume as it was before it is restored.

use std::sync::Arc;

use crate::operation::ceph::CephImage;
use crate::qcow2::{self, View};

/// What a copier reads of the volume that the restore replaces.
#[derive(Debug)]
pub(super) enum OldVolume {
    /// A file or a device, with the images that it stands on.
    Layers(View),
    /// An image in Ceph.
    Image(Arc<CephImage>),
}

impl OldVolume {
    /// Size that a guest sees, in bytes.
    pub(super) fn size(&self) -> u64 {
        match self {
            OldVolume::Layers(view) => view.size(),
            OldVolume::Image(image) => image.size(),
        }
    }

    pub(super) fn read(&mut self, at: u64, buffer: &mut [u8]) -> Result<(), qcow2::Error> {
        match self {
            OldVolume::Layers(view) => view.read(at, buffer),
            OldVolume::Image(image) => Ok(image.read(buffer, at)?),
        }
    }
}
