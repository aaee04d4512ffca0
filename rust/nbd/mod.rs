//! A thin safe layer over libnbd, which is opened at run time: one connection to one export over a unix socket, read with
//! several requests in flight. No call waits longer than it is told to.
#![allow(unsafe_code)]

mod api;

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr::{NonNull, null_mut};
use std::time::Duration;

use crate::error::{Code, Error, Result};
use api::{Api, CompletionCallback, ExtentCallback, RawHandle};

/// The context that says where there is data.
pub const ALLOCATION: &str = "base:allocation";
/// Flag of `ALLOCATION`: the range reads as zeroes (NBD protocol, "base:allocation metadata context").
pub const ZERO: u32 = 1 << 1;
/// Flag of QEMU's `qemu:dirty-bitmap:` contexts.
pub const DIRTY: u32 = 1 << 0;

/// Is libnbd there? `INVALID_ARGUMENT`, naming its packages, when it is not.
pub fn available() -> Result<()> {
    api::api().map(drop)
}

/// A range of an export with its flags in one context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes.
    pub length: u64,
    /// The context's flags.
    pub flags: u32,
}

/// What the server said of a range: by context, extents that follow each other from its beginning on.
pub type Status = BTreeMap<String, Vec<Extent>>;

/// A request in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

const CONNECT: &str = "connect to the export";

/// A connection. Dropped, it is closed at once, whatever is in flight.
pub struct Connection {
    api: &'static Api,
    handle: NonNull<RawHandle>,
    size: u64,
    /// What libnbd writes to, until the request is done or the handle is closed.
    buffers: BTreeMap<Ticket, Box<[u8]>>,
    /// The same for a question about extents; null when there is none.
    status: *mut Status,
}

// SAFETY: a libnbd handle may be used by any thread, one at a time (libnbd(3), "MULTI-THREADING"); the error texts, which
// are per thread, are fetched right after the call that failed.
unsafe impl Send for Connection {}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("size", &self.size).field("in_flight", &self.buffers.len()).finish()
    }
}

impl Connection {
    /// One that is not connected yet.
    pub fn new() -> Result<Connection> {
        let api = api::api()?;
        // SAFETY: takes nothing; what it returns is closed on drop.
        let handle = NonNull::new(unsafe { (api.create)() }).ok_or_else(|| last_error(api, CONNECT))?;
        Ok(Connection { api, handle, size: 0, buffers: BTreeMap::new(), status: null_mut() })
    }

    /// Connects to `export` behind the socket, asking for `contexts`; all must be there. `go_on` is asked every `tick`,
    /// and its error ends the wait.
    pub fn connect(
        &mut self,
        socket: &Path,
        export: &str,
        contexts: &[&str],
        tick: Duration,
        go_on: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let Connection { api, handle, .. } = *self;
        let handle = handle.as_ptr();
        let socket =
            socket.to_str().ok_or_else(|| Error::new(Code::Internal, CONNECT, "the socket's path is not UTF-8"))?;
        let (socket, export) = (c_string(socket)?, c_string(export)?);
        let contexts = contexts.iter().map(|context| c_string(context)).collect::<Result<Vec<_>>>()?;
        // SAFETY: the handle is open, and the texts, which the calls copy, are NUL-terminated and outlive them.
        unsafe {
            self.check((api.set_export_name)(handle, export.as_ptr()), CONNECT)?;
            if let Some(set_pread_initialize) = api.set_pread_initialize {
                // a buffer is handed on only when its request has succeeded
                self.check(set_pread_initialize(handle, false), CONNECT)?;
            }
            for context in &contexts {
                self.check((api.add_meta_context)(handle, context.as_ptr()), CONNECT)?;
            }
            self.check((api.aio_connect_unix)(handle, socket.as_ptr()), CONNECT)?;
        }
        // SAFETY: the handle is open.
        while self.check(unsafe { (api.aio_is_ready)(handle) }, CONNECT)? == 0 {
            go_on()?;
            self.wait(tick, CONNECT)?;
        }
        for context in &contexts {
            // SAFETY: as above.
            if self.check(unsafe { (api.can_meta_context)(handle, context.as_ptr()) }, CONNECT)? == 0 {
                let cause = format!("it has no context '{}'", context.to_string_lossy());
                return Err(Error::new(Code::JobFailed, CONNECT, cause));
            }
        }
        // SAFETY: the handle is open and connected.
        let size = unsafe { (api.get_size)(handle) };
        self.size = u64::try_from(size).map_err(|_| last_error(api, CONNECT))?;
        Ok(())
    }

    /// A new one, connected.
    pub fn open(
        socket: &Path,
        export: &str,
        contexts: &[&str],
        tick: Duration,
        go_on: impl Fn() -> Result<()>,
    ) -> Result<Connection> {
        let mut connection = Connection::new()?;
        connection.connect(socket, export, contexts, tick, go_on)?;
        Ok(connection)
    }

    /// The export's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Asks for `length` bytes from `offset` on, for the beginning of `buffer`.
    pub fn read(&mut self, offset: u64, length: usize, mut buffer: Box<[u8]>) -> Result<Ticket> {
        const STEP: &str = "read the export";
        let start = buffer[..length].as_mut_ptr().cast();
        // SAFETY: the buffer stays where it is, in `buffers`, untouched, until libnbd has retired the request or the
        // handle is closed; both come before it is freed or given away.
        let cookie = unsafe { (self.api.aio_pread)(self.handle.as_ptr(), start, length, offset, no_callback(), 0) };
        let ticket = Ticket(u64::try_from(cookie).map_err(|_| last_error(self.api, STEP))?);
        self.buffers.insert(ticket, buffer);
        Ok(ticket)
    }

    /// The bytes of a read, once they are there.
    pub fn take(&mut self, ticket: Ticket) -> Result<Option<Box<[u8]>>> {
        if self.is_done(ticket, "read the export")? { Ok(self.buffers.remove(&ticket)) } else { Ok(None) }
    }

    /// Waits until something arrives, at most for `limit`.
    pub fn poll(&mut self, limit: Duration) -> Result<()> {
        self.wait(limit, "wait for the export")
    }

    /// What the server says of the range; it may end early, but says something in each context. `go_on` as for `open`.
    pub fn status(
        &mut self,
        offset: u64,
        length: u64,
        tick: Duration,
        go_on: impl Fn() -> Result<()>,
    ) -> Result<Status> {
        const STEP: &str = "ask what the export holds";
        if !self.status.is_null() {
            return Err(Error::new(Code::Internal, STEP, "the question before is open"));
        }
        self.status = Box::into_raw(Box::default());
        let callback = ExtentCallback { callback: Some(on_extents), user_data: self.status.cast(), free: None };
        // SAFETY: the map behind the user data lives until libnbd has retired the request, or the handle is closed.
        let cookie =
            unsafe { (self.api.aio_block_status)(self.handle.as_ptr(), length, offset, callback, no_callback(), 0) };
        let ticket = Ticket(u64::try_from(cookie).map_err(|_| last_error(self.api, STEP))?);
        while !self.is_done(ticket, STEP)? {
            go_on()?;
            self.wait(tick, STEP)?;
        }
        // SAFETY: made by `into_raw` above, and the request was retired: libnbd does not know it any more.
        let status = unsafe { Box::from_raw(std::mem::replace(&mut self.status, null_mut())) };
        Ok(*status)
    }

    /// Waits for all replies that are still due, and drops what they bring. `go_on` as for `open`.
    pub fn settle(&mut self, tick: Duration, go_on: impl Fn() -> Result<()>) -> Result<()> {
        const STEP: &str = "fetch the replies that are due";
        // SAFETY: the handle is open.
        while self.check(unsafe { (self.api.aio_in_flight)(self.handle.as_ptr()) }, STEP)? > 0 {
            go_on()?;
            self.wait(tick, STEP)?;
        }
        Ok(())
    }

    fn is_done(&mut self, ticket: Ticket, step: &'static str) -> Result<bool> {
        // SAFETY: the handle is open, the cookie is of one of its requests.
        let done = unsafe { (self.api.aio_command_completed)(self.handle.as_ptr(), ticket.0) };
        self.check(done, step).map(|done| done == 1)
    }

    fn wait(&mut self, limit: Duration, step: &'static str) -> Result<()> {
        let millis = c_int::try_from(limit.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the handle is open; what it has in flight stays valid, as `read` and `status` see to.
        self.check(unsafe { (self.api.poll)(self.handle.as_ptr(), millis) }, step).map(drop)
    }

    fn check(&self, returned: c_int, step: &'static str) -> Result<c_int> {
        if returned < 0 { Err(last_error(self.api, step)) } else { Ok(returned) }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: the handle is open and closed here only. After that libnbd knows neither the buffers, which are freed
        // when the fields are dropped, nor the map, which was made by `into_raw` if it is not null.
        unsafe {
            (self.api.close)(self.handle.as_ptr());
            if !self.status.is_null() {
                drop(Box::from_raw(self.status));
            }
        }
    }
}

/// Takes note of the extents of one context. Runs within `poll`, `aio_pread` and `aio_block_status`, on their thread.
unsafe extern "C" fn on_extents(
    status: *mut c_void,
    context: *const c_char,
    _offset: u64,
    entries: *mut u32,
    count: usize,
    _error: *mut c_int,
) -> c_int {
    // SAFETY: the user data is the map that `status` gave, which nobody else uses before the request is retired; the
    // context is NUL-terminated and the entries are `count` numbers, all alive for the call (nbd_block_status(3)).
    let (status, context, entries) =
        unsafe { (&mut *status.cast::<Status>(), CStr::from_ptr(context), std::slice::from_raw_parts(entries, count)) };
    let (pairs, _) = entries.as_chunks::<2>();
    let extents = pairs.iter().map(|[length, flags]| Extent { length: u64::from(*length), flags: *flags });
    status.entry(context.to_string_lossy().into_owned()).or_default().extend(extents);
    0
}

fn no_callback() -> CompletionCallback {
    CompletionCallback { callback: None, user_data: null_mut(), free: None }
}

/// The error of the call that has just failed on this thread.
fn last_error(api: &Api, step: &'static str) -> Error {
    // SAFETY: the text is the library's own, for this thread, until its next call; it is copied at once.
    let text = unsafe {
        let text = (api.get_error)();
        (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
    };
    Error::new(Code::JobFailed, step, text.unwrap_or_else(|| "libnbd gives no reason".to_owned()))
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::new(Code::Internal, "connect to the export", "a name with a NUL"))
}
