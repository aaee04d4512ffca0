//! The repository: sessions on it, paths that can't leave it, locks, and publishing.

pub mod deadline;
pub mod folder;
mod mount;
mod options;
pub mod path;
pub mod repository;
pub mod session;
