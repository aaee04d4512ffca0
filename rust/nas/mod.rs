//! The repository: sessions on it, paths that can't leave it, locks, and publishing.

pub mod deadline;
pub mod folder;
mod lease;
pub mod lock;
mod mount;
mod options;
pub mod partial;
pub mod path;
pub mod repository;
pub mod session;
