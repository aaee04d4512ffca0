//! One connection for the whole process, opened at first use and again when it was lost.

use std::sync::{Mutex, PoisonError};

use virt::connect::Connect;
use virt_sys as sys;

use super::{at, event};
use crate::error::Result;

struct Open {
    uri: String,
    connection: Connect,
}

static CURRENT: Mutex<Option<Open>> = Mutex::new(None);

/// Seconds between two keepalive questions, and how many may stay unanswered: a daemon that hangs is noticed.
const KEEPALIVE: (i32, u32) = (5, 6);

extern "C" fn ignore(_data: *mut libc::c_void, _error: sys::virErrorPtr) {}

/// The connection to `uri`, kept open between calls. Errors: `LIBVIRT` when the daemon can't be reached.
pub fn connect(uri: &str) -> Result<Connect> {
    let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(open) = current.as_ref()
        && open.uri == uri
        && open.connection.is_alive().unwrap_or(false)
    {
        return Ok(open.connection.clone());
    }
    event::start_loop()?;
    let connection = Connect::open(Some(uri)).map_err(at("connect to libvirt"))?;
    // SAFETY: the connection is open and `ignore` matches virErrorFunc; only this connection's errors are silenced on
    // standard error (each is returned as a value), never those of others in the process.
    unsafe { sys::virConnSetErrorFunc(connection.as_ptr(), std::ptr::null_mut(), Some(ignore)) };
    connection.set_keep_alive(KEEPALIVE.0, KEEPALIVE.1).map_err(at("watch the connection to libvirt"))?;
    event::register(&connection)?;
    *current = Some(Open { uri: uri.to_owned(), connection: connection.clone() });
    Ok(connection)
}

/// Versions of libvirt's library and of the hypervisor at `uri`, as major * 1,000,000 + minor * 1,000 + release.
pub fn versions(uri: &str) -> Result<(u32, u32)> {
    let connection = connect(uri)?;
    let library = connection.lib_version().map_err(at("ask libvirt's version"))?;
    let hypervisor = connection.hyp_version().map_err(at("ask QEMU's version"))?;
    Ok((library, hypervisor))
}
