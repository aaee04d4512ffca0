//! The repository: sessions on it, paths that can't leave it, locks, and publishing.

pub mod repository;
