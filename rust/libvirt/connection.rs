//! One connection for the whole process, opened at first use and again when it was lost.

use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use virt::connect::Connect;
use virt_sys as sys;

use super::{at, event};
use crate::error::{Code, Error, Result};
use crate::limits;

/// An open connection with its event callbacks, each of which holds a reference to it until it is deregistered.
struct Open {
    uri: String,
    connection: Connect,
    watches: Vec<event::Callback>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.watches.iter().for_each(|watch| event::deregister(&self.connection, *watch));
    }
}

static CURRENT: Mutex<Option<Open>> = Mutex::new(None);

/// So many keepalive questions may stay unanswered: a daemon that hangs is noticed.
const UNANSWERED: u32 = 6;

extern "C" fn ignore(_data: *mut libc::c_void, _error: sys::virErrorPtr) {}

/// The connection to `uri`, kept open between calls. Errors: `LIBVIRT` when the daemon can't be reached. It may wait for
/// a daemon that hangs, but nobody waits for whoever waits.
pub fn connect(uri: &str) -> Result<Connect> {
    if let Some(connection) = current(uri) {
        return Ok(connection);
    }
    let opened = open(uri)?;
    let connection = opened.connection.clone();
    let replaced = CURRENT.lock().unwrap_or_else(PoisonError::into_inner).replace(opened);
    drop(replaced);
    Ok(connection)
}

/// What runs a host's guests. Versions count as libvirt does: 9.0.0 is 9,000,000.
#[derive(Debug, Clone)]
pub struct Hypervisor {
    /// libvirt's version.
    pub libvirt: u64,
    /// QEMU's version; an error where the host has none.
    pub qemu: Result<u64>,
    /// What guests are confined by, such as `apparmor`.
    pub models: Result<Vec<String>>,
}

#[derive(Deserialize)]
struct Capabilities {
    host: HostElement,
}

#[derive(Deserialize)]
struct HostElement {
    #[serde(rename = "secmodel", default)]
    models: Vec<ModelElement>,
}

#[derive(Deserialize)]
struct ModelElement {
    model: String,
}

/// Asks the libvirt at `uri` what it is.
pub fn hypervisor(uri: &str) -> Result<Hypervisor> {
    const STEP: &str = "ask libvirt for versions";
    let connection = connect(uri)?;
    let libvirt = connection.lib_version().map_err(at(STEP))?;
    let models = connection.capabilities().map_err(at(STEP)).and_then(|xml| models(&xml));
    Ok(Hypervisor { libvirt: libvirt.into(), qemu: connection.hyp_version().map(u64::from).map_err(at(STEP)), models })
}

fn models(capabilities: &str) -> Result<Vec<String>> {
    let read = quick_xml::de::from_str(capabilities);
    let read: Capabilities = read.map_err(|e| Error::new(Code::Libvirt, "read libvirt's capabilities", e))?;
    Ok(read.host.models.into_iter().map(|element| element.model).collect())
}

/// The connection that is open already, if the daemon still answers.
fn current(uri: &str) -> Option<Connect> {
    let current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
    let open = current.as_ref().filter(|open| open.uri == uri)?;
    open.connection.is_alive().unwrap_or(false).then(|| open.connection.clone())
}

fn open(uri: &str) -> Result<Open> {
    event::start_loop()?;
    let connection = Connect::open(Some(uri)).map_err(at("connect to libvirt"))?;
    // SAFETY: the connection is open and `ignore` matches virErrorFunc; only this connection's errors are silenced on
    // standard error (each is returned as a value), never those of others in the process.
    unsafe { sys::virConnSetErrorFunc(connection.as_ptr(), std::ptr::null_mut(), Some(ignore)) };
    connection
        .set_keep_alive(limits::LIBVIRT_KEEPALIVE.as_secs() as i32, UNANSWERED)
        .map_err(at("watch the connection to libvirt"))?;
    let mut open = Open { uri: uri.to_owned(), connection, watches: Vec::new() };
    event::register(&open.connection, &mut open.watches)?;
    Ok(open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_guests_are_confined_by_is_read_of_the_capabilities() {
        let xml = |models: &str| {
            format!("<capabilities><host><uuid>x</uuid><cpu><arch>x</arch></cpu>{models}</host><guest/></capabilities>")
        };
        let model = |name: &str| {
            format!("<secmodel><model>{name}</model><doi>0</doi><baselabel type='kvm'>x</baselabel></secmodel>")
        };
        assert_eq!(models(&xml("")).unwrap(), [] as [&str; 0]);
        assert_eq!(models(&xml(&(model("apparmor") + &model("dac")))).unwrap(), ["apparmor", "dac"]);
        assert!(models("<capabilities/>").is_err());
    }
}
