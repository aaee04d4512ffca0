//! A safe layer over libvirt: `virt` where it has what is needed, `virt-sys` for checkpoints, backups, events and
//! the calls whose wrapper in `virt` 0.5 is unsound on failure (block information, job statistics).
//!
//! libvirt's texts are translated by the daemon, so nothing here or above reads them: decisions are made on codes.
#![allow(unsafe_code)]

mod backup_xml;
mod block;
mod boot_xml;
mod capabilities;
mod checkpoint;
mod connection;
mod disk_xml;
mod domain;
mod domain_xml;
mod emulator;
mod event;
mod machine_xml;
mod saved_xml;
mod secret;
mod xml;

pub use backup_xml::{BackupDisk, BackupMode, backup_xml, checkpoint_xml};
pub use block::Block;
pub use boot_xml::{BootDisk, BootDomain, WRITES, WRITTEN_BYTES, boot_xml};
pub use capabilities::{Capabilities, Hypervisor, KnownEmulator, hypervisor, loaders};
pub use checkpoint::{Checkpoint, Redefined};
pub use connection::{be_silent, connect};
pub use disk_xml::{CephSource, Device, Disk, SecretName, Source};
pub use domain::{Domain, JobPicture, JobState, State};
pub use domain_xml::{DomainXml, Interface};
pub use emulator::Emulator;
pub use event::{Action, Event, IoError, Subscription, subscribe};
pub use machine_xml::{Nvram, TPM_FOLDERS, Tpm};
pub use saved_xml::{SavedDisk, SavedDomain, Uefi};
pub use secret::ceph_key;

use virt::error::Error as VirtError;
use virt_sys as sys;

use crate::error::{Code, Error};

/// libvirt's number of an error, the `VIR_ERR_*` constants of virterror.h.
pub(crate) fn number(error: &VirtError) -> u32 {
    error.code().to_raw()
}

/// Makes an error of ours out of a libvirt error at `step`.
pub(crate) fn at(step: &'static str) -> impl Fn(VirtError) -> Error {
    move |error| {
        let code = match number(&error) {
            sys::VIR_ERR_NO_DOMAIN => Code::DomainNotFound,
            sys::VIR_ERR_OPERATION_TIMEOUT => Code::Busy,
            _ => Code::Libvirt,
        };
        Error::new(code, step, format!("{} (libvirt error {})", error.message(), number(&error)))
    }
}
