//! A guest's images as QEMU uses them on this host: which files they are, the lock that guards them, and `qemu-img`.

pub(crate) mod image_file;
pub(crate) mod image_lock;
pub(crate) mod img;
pub(crate) mod layers;
