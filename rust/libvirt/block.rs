//! What libvirt and QEMU tell of a disk without its XML.

/// What libvirt and QEMU know of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The size that the guest sees, in bytes.
    pub capacity: Option<u64>,
    /// Host path of its top image, if that is a file or a device: of a pool's volume, too.
    pub path: Option<String>,
}
