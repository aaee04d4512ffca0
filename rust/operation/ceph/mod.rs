//! Disks that are images in Ceph. Only QEMU knows how to open these, so separate programs talk to Ceph.

mod clients;
mod image;
mod qemu_nbd;
mod rbd;
mod snapshots;
mod tool;

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rustix::process::Resource;

use crate::sys::Confinement;

pub(super) use clients::{can_be_asked, clients};
pub(super) use image::CephImage;
pub(super) use qemu_nbd::{Access, Server};
pub(super) use rbd::Rbd;
pub(super) use snapshots::{ListedSnapshot, changes, info, list, remove, take};

/// Bytes of memory that such a program may have, with the stacks of its many threads.
const MEMORY: u64 = 4 << 30;
/// Bytes that such a program may write to a file: its process id, and perhaps Ceph's log.
const WRITTEN: u64 = 64 << 20;
/// The first of the user ids of the programs. No distribution, no container and nothing of systemd's has one from here on
/// (systemd's "Users, Groups, UIDs and GIDs").
const USERS: u32 = 0x7000_0000;
/// Number of user ids: up to so many programs of one process have different ones.
const PROGRAMS: u32 = 32;

/// Confines a program that talks to Ceph: it gets a user and a group that no other process of this host has, without privileges.
fn confinement() -> Confinement {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    // Linux has 2^22 process ids at most
    let process = std::process::id() % (1 << 22);
    let user = USERS + process * PROGRAMS + STARTED.fetch_add(1, Relaxed) % PROGRAMS;
    let limits = vec![(Resource::Data, MEMORY), (Resource::Fsize, WRITTEN), (Resource::Core, 0)];
    Confinement { owner: (user, user), limits, root: None }
}
