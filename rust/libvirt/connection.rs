//! One connection for the whole process, opened at first use and again when it was lost.

use std::sync::{Mutex, PoisonError};

use virt::connect::Connect;
use virt_sys as sys;

use super::{at, event};
use crate::error::Result;
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

/// Keeps libvirt from printing errors of this process on standard error, those of connections that could not be opened among them.
/// For processes that nobody else calls libvirt in.
pub fn be_silent() {
    virt::error::clear_error_callback();
}

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
