//! What is asked of a stopped guest: of libvirt, and of its disks' own storage.

use std::time::Duration;

use super::super::call::{Call, ask};
use super::super::machine_state::{self, MachineState};
use crate::error::{Code, Error, Result};
use crate::libvirt::Domain;
use crate::work::deadline::bounded_for_guest;

/// Work on the disks' own storage, on a thread that may be given up; `TIMEOUT` when there is no answer.
pub(super) fn answered<T: Send + 'static>(
    step: &'static str,
    limit: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    bounded_for_guest(step, limit, work).map_err(|error| match error.code {
        Code::NasUnresponsive => {
            let late = Error::new(Code::Timeout, step, format!("the disks' own storage: {}", error.cause));
            Error { disk: error.disk, ..late }.with_leftover("what was asked of them")
        }
        _ => error,
    })
}

/// `DOMAIN_STATE`, for this reason, when the guest runs on this host.
pub(super) fn refuse_running(call: &Call<'_>, reason: &'static str) -> Result<()> {
    const STEP: &str = "look at the domain";
    let (uri, vm) = (call.config.connection_uri.clone(), call.checked.vm.clone());
    ask(STEP, move || match Domain::find(&uri, &vm)? {
        Some(domain) if domain.is_active()? => Err(Error::new(Code::DomainState, STEP, reason)),
        _ => Ok(()),
    })
}

/// Reads the state of a machine that libvirt knows although it does not run. Of another, as CloudStack's are, nobody says where it is.
pub(super) fn read_machine_state(call: &Call<'_>) -> MachineState {
    let (uri, vm) = (call.config.connection_uri.clone(), call.checked.vm.clone());
    let known = ask("look at the domain", move || match Domain::find(&uri, &vm)? {
        Some(domain) => Ok(Some((domain.uuid().to_owned(), domain.xml()?.1))),
        None => Ok(None),
    });
    match known {
        Ok(Some((uuid, xml))) => machine_state::read_in_time(&xml, &uuid, false),
        Ok(None) => MachineState::default(),
        Err(error) => MachineState {
            files: Vec::new(),
            details: vec![format!("whether the machine has UEFI variables or a TPM is not known: {}", error.cause)],
        },
    }
}
