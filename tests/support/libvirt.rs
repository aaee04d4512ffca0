//! What the tests ask libvirt for most often, in this process: a `virsh` takes its linker 20 ms, some hundred times a test.

#![allow(unsafe_code, reason = "the bindings lack QEMU's monitor")]

use std::ffi::{CStr, CString, c_char, c_int, c_uint};
use std::ptr::null_mut;
use std::sync::{LazyLock, Mutex};

use virt::connect::Connect;
use virt::domain::{Domain, DomainState};
use virt::enumutil::Enum;
use virt::error::Error;

/// A connection of the tests' own, beside that of the library.
static CONNECTION: Mutex<Option<Connect>> = Mutex::new(None);

/// The connection; another one if the daemon has gone since.
fn connection() -> Result<Connect, Error> {
    let mut current = CONNECTION.lock().unwrap();
    if let Some(open) = current.as_ref().filter(|open| open.is_alive().unwrap_or(false)) {
        return Ok(open.clone());
    }
    virt::error::clear_error_callback(); // it prints every error, also those that tests wait for
    let open = Connect::open(None)?;
    *current = Some(open.clone());
    Ok(open)
}

/// Asks libvirt. That the daemon has gone may be found out only by asking: then once more.
fn ask<T>(question: impl Fn(&Connect) -> Result<T, Error>) -> Result<T, Error> {
    let open = connection()?;
    match question(&open) {
        Err(_) if !open.is_alive().unwrap_or(false) => question(&connection()?),
        answer => answer,
    }
}

fn ask_domain<T>(name: &str, question: impl Fn(&Domain) -> Result<T, Error>) -> Result<T, Error> {
    ask(|open| question(&open.lookup_domain_by_name(name)?))
}

/// Starts a transient domain.
pub fn create(xml: &str) -> Result<(), Error> {
    ask(|open| open.create_domain_xml(xml, 0).map(drop))
}

pub fn destroy(name: &str) -> Result<(), Error> {
    ask_domain(name, Domain::destroy)
}

/// The domain's state, as `virsh domstate` names it.
pub fn state(name: &str) -> Result<String, Error> {
    ask_domain(name, |domain| match domain.state()?.0 {
        Enum::Known(DomainState::Shutoff) => Ok("shut off".to_owned()),
        Enum::Known(other) => Ok(format!("{other:?}").to_lowercase()),
        // the bindings drop the error of a domain that has gone since
        Enum::Unknown(_) => Err(Error::last_error()),
    })
}

/// What `virsh dumpxml` prints of it.
pub fn xml(name: &str) -> Result<String, Error> {
    ask_domain(name, |domain| domain.xml_desc(0))
}

/// Does it have a job?
pub fn has_job(name: &str) -> Result<bool, Error> {
    Ok(ask_domain(name, Domain::job_info)?.r#type != virt_sys::VIR_DOMAIN_JOB_NONE as c_int)
}

/// The names of its checkpoints.
pub fn checkpoints(name: &str) -> Result<Vec<String>, Error> {
    ask_domain(name, |domain| {
        let mut list = null_mut();
        // SAFETY: the domain is live; on success the list and what is in it are ours, each freed once.
        unsafe {
            let count = virt_sys::virDomainListAllCheckpoints(domain.as_ptr(), &mut list, 0);
            let count = usize::try_from(count).map_err(|_| Error::last_error())?;
            let names = (0..count).map(|i| {
                let checkpoint = *list.add(i);
                let name =
                    CStr::from_ptr(virt_sys::virDomainCheckpointGetName(checkpoint)).to_str().unwrap().to_owned();
                virt_sys::virDomainCheckpointFree(checkpoint);
                name
            });
            let names = names.collect();
            libc::free(list.cast());
            Ok(names)
        }
    })
}

/// How QEMU's monitor is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Monitor {
    Json = 0,
    /// In a human's words.
    Hmp = 1,
}

/// `virDomainQemuMonitorCommand`.
type Command = unsafe extern "C" fn(virt_sys::virDomainPtr, *const c_char, *mut *mut c_char, c_uint) -> c_int;

/// Asks the monitor of its QEMU.
pub fn monitor(name: &str, how: Monitor, command: &str) -> Result<String, Error> {
    // SAFETY: libvirt's own library, whose initializers have run in libvirt.so already.
    static LIBRARY: LazyLock<libloading::Library> =
        LazyLock::new(|| unsafe { libloading::Library::new("libvirt-qemu.so.0").unwrap() });
    let command = CString::new(command).unwrap();
    ask_domain(name, |domain| {
        let mut reply = null_mut();
        // SAFETY: the function is of that type; the domain is live; on success the reply is a string of ours.
        unsafe {
            let call = LIBRARY.get::<Command>(b"virDomainQemuMonitorCommand\0").unwrap();
            if call(domain.as_ptr(), command.as_ptr(), &mut reply, how as c_uint) < 0 {
                return Err(Error::last_error());
            }
            let text = CStr::from_ptr(reply).to_str().unwrap().to_owned();
            libc::free(reply.cast());
            Ok(text)
        }
    })
}
