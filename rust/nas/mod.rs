//! The repository: sessions on it, paths that can't leave it, locks, and publishing.

pub(crate) mod access;
pub(crate) mod beneath;
mod claim;
mod claim_text;
pub(crate) mod denied;
pub mod files;
pub mod folder;
mod fstab;
pub mod health;
pub mod instance;
mod lease;
pub mod lock;
mod mount;
mod mount_failure;
mod mount_folder;
mod mounts;
pub mod options;
pub mod partial;
pub mod path;
pub mod purpose;
pub mod removal;
mod rename;
pub mod repository;
pub mod session;
pub mod tree;
mod tree_removal;
pub mod view;
