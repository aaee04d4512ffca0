//! A safe layer over libvirt: `virt` where it has what is needed, `virt-sys` for checkpoints, backups, events and
//! the calls whose wrapper in `virt` 0.5 is unsound on failure (block information, job statistics).
//!
//! libvirt's texts are translated by the daemon, so nothing here or above reads them: decisions are made on codes.
#![allow(unsafe_code)]

mod checkpoint;
mod connection;
mod domain;
mod emulator;
mod event;
mod xml;

pub use checkpoint::{Checkpoint, Redefined};
pub use connection::connect;
pub use domain::{Block, Domain, JobPicture, JobState, State};
pub use emulator::Emulator;
pub use event::{Action, Event, IoError, Subscription, subscribe};
pub use xml::{BackupDisk, BackupMode, Device, Disk, DomainXml, Interface, Source, backup_xml, checkpoint_xml};

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
