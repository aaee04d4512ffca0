//! A thin safe layer over libnbd, which is opened at run time: one connection to one export over a socket that is connected,
//! read with several requests in flight, or written to. No call waits longer than it is told to.
//!
//! Who serves the export may be anybody's by now. libnbd sees to it that a reply is one to a request, and fits it; what it
//! leaves to its caller is bounded here: how long a handshake may take, how much an answer about extents may hold, and how long
//! replies may go on that complete no request. A connection that exceeds these is not read any more.
#![allow(unsafe_code)]

mod api;
mod question;

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::net::Shutdown;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::ptr::{NonNull, null_mut};
use std::time::Duration;

use crate::error::{Code, Error, Result};
use api::{Api, CompletionCallback, DebugCallback, ExtentCallback, RawHandle};
pub use question::{Extent, Question, Status};

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

/// Pieces of replies that may arrive while no request is completed: more than there are sectors in all that is ever asked
/// for at a time.
const MOST_PIECES: u32 = 1 << 17;

/// A request in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

const CONNECT: &str = "connect to the export";
const WRITE: &str = "write to the export";

/// A connection. Dropped, it is closed at once, whatever is in flight.
pub struct Connection {
    api: &'static Api,
    handle: NonNull<RawHandle>,
    size: u64,
    /// What libnbd writes to, or reads from, until the request is done or the handle is closed.
    buffers: BTreeMap<Ticket, Box<[u8]>>,
    /// The same for a question about extents; null when there is none.
    question: *mut Question,
    /// Ends the handshake if that has no end; null before it begins.
    handshake: *mut Handshake,
    /// The contexts that were asked for.
    contexts: Vec<String>,
    /// Pieces of replies since the last request was completed.
    pieces: u32,
    /// Why it is not read any more.
    refused: Option<Box<Error>>,
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
        let (buffers, contexts) = (BTreeMap::new(), Vec::new());
        Ok(Connection {
            api,
            handle,
            size: 0,
            buffers,
            question: null_mut(),
            handshake: null_mut(),
            contexts,
            pieces: 0,
            refused: None,
        })
    }

    /// Connects to `export` over a connected socket, asking for `contexts`; all must be there. `go_on` is asked every `tick`,
    /// and its error ends the wait.
    pub fn connect(
        &mut self,
        socket: OwnedFd,
        export: &str,
        contexts: &[&str],
        tick: Duration,
        go_on: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let Connection { api, handle, .. } = *self;
        let handle = handle.as_ptr();
        let export = c_string(export)?;
        self.contexts = contexts.iter().map(|context| (*context).to_owned()).collect();
        let contexts = contexts.iter().map(|context| c_string(context)).collect::<Result<Vec<_>>>()?;
        if let Err(error) = self.shake_hands(socket, &export, &contexts, tick, go_on) {
            self.hang_up();
            return Err(error);
        }
        // SAFETY: the handle is open.
        self.check(unsafe { (api.set_debug)(handle, false) }, CONNECT)?;
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
        socket: OwnedFd,
        export: &str,
        contexts: &[&str],
        tick: Duration,
        go_on: impl Fn() -> Result<()>,
    ) -> Result<Connection> {
        let mut connection = Connection::new()?;
        connection.connect(socket, export, contexts, tick, go_on)?;
        Ok(connection)
    }

    fn shake_hands(
        &mut self,
        socket: OwnedFd,
        export: &CStr,
        contexts: &[CString],
        tick: Duration,
        go_on: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let Connection { api, handle, .. } = *self;
        let handle = handle.as_ptr();
        // SAFETY: the handle is open, and the texts, which the calls copy, are NUL-terminated and outlive them. The socket is
        // the library's from now on, whatever it returns: it closes it with the handle.
        unsafe {
            self.check((api.set_export_name)(handle, export.as_ptr()), CONNECT)?;
            if let Some(set_pread_initialize) = api.set_pread_initialize {
                // a buffer is handed on only when its request has succeeded
                self.check(set_pread_initialize(handle, false), CONNECT)?;
            }
            for context in contexts {
                self.check((api.add_meta_context)(handle, context.as_ptr()), CONNECT)?;
            }
            self.watch_handshake(&socket)?;
            let begun = self.check((api.aio_connect_socket)(handle, socket.into_raw_fd()), CONNECT);
            self.shaken(begun)?;
        }
        loop {
            // SAFETY: the handle is open.
            let ready = self.check(unsafe { (api.aio_is_ready)(handle) }, CONNECT);
            if self.shaken(ready)? == 1 {
                return Ok(());
            }
            go_on()?;
            let waited = self.wait(tick, CONNECT);
            self.shaken(waited)?;
        }
    }

    /// Closes a connection whose handshake is given up. A QEMU that stops its server meanwhile may wait for such a client without end,
    /// and its guest and libvirt with it.
    fn hang_up(&self) {
        if let Some(handshake) = self.handshake() {
            handshake.close();
        }
    }

    fn handshake(&self) -> Option<&Handshake> {
        // SAFETY: made by `into_raw`; the callback that writes to it runs within calls of this thread, and none is under way.
        unsafe { self.handshake.as_ref() }
    }

    /// Bounds the handshake. libnbd takes as much of it as there is within one call, keeps what a server says of contexts, and
    /// has no bound of its own; but it tells of each step that it makes.
    fn watch_handshake(&mut self, socket: &OwnedFd) -> Result<()> {
        let socket = socket.try_clone().map_err(|e| Error::new(Code::Io, CONNECT, e))?;
        if !self.handshake.is_null() {
            return Err(Error::new(Code::Internal, CONNECT, "it was connected before"));
        }
        self.handshake = Box::into_raw(Box::new(Handshake { socket: socket.into(), left: MOST_STEPS }));
        let callback = DebugCallback { callback: Some(on_step), user_data: self.handshake.cast(), free: None };
        // SAFETY: the handle is open, and what is behind the user data lives until it is closed.
        unsafe {
            self.check((self.api.set_debug_callback)(self.handle.as_ptr(), callback), CONNECT)?;
            self.check((self.api.set_debug)(self.handle.as_ptr(), true), CONNECT).map(drop)
        }
    }

    /// Says of what failed that the handshake had no end, if that is why.
    fn shaken<T>(&mut self, result: Result<T>) -> Result<T> {
        let endless = self.handshake().is_some_and(|handshake| handshake.left == 0);
        result.map_err(|error| if endless { self.refuse(CONNECT, "its handshake has no end") } else { error })
    }

    /// The export's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Asks for `length` bytes from `offset` on, for the beginning of `buffer`.
    pub fn read(&mut self, offset: u64, length: usize, mut buffer: Box<[u8]>) -> Result<Ticket> {
        const STEP: &str = "read the export";
        self.check_not_refused()?;
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

    /// Writes at `offset`.
    pub fn write(&mut self, offset: u64, data: Box<[u8]>) -> Result<Ticket> {
        self.check_not_refused()?;
        let start = data.as_ptr().cast();
        // SAFETY: the data stay where they are, in `buffers`, unchanged, until libnbd has retired the request or the handle is
        // closed; both come before they are freed.
        let cookie =
            unsafe { (self.api.aio_pwrite)(self.handle.as_ptr(), start, data.len(), offset, no_callback(), 0) };
        let ticket = Ticket(u64::try_from(cookie).map_err(|_| last_error(self.api, WRITE))?);
        self.buffers.insert(ticket, data);
        Ok(ticket)
    }

    /// Makes `length` bytes from `offset` on zero, which then need no room.
    pub fn zero(&mut self, offset: u64, length: u64) -> Result<Ticket> {
        self.check_not_refused()?;
        // SAFETY: the handle is open, and the call takes no pointer.
        let cookie = unsafe { (self.api.aio_zero)(self.handle.as_ptr(), length, offset, no_callback(), 0) };
        Ok(Ticket(u64::try_from(cookie).map_err(|_| last_error(self.api, WRITE))?))
    }

    /// Makes durable what was written, by whichever connection, and answered.
    pub fn flush(&mut self) -> Result<Ticket> {
        self.check_not_refused()?;
        // SAFETY: as above.
        let cookie = unsafe { (self.api.aio_flush)(self.handle.as_ptr(), no_callback(), 0) };
        Ok(Ticket(u64::try_from(cookie).map_err(|_| last_error(self.api, WRITE))?))
    }

    /// Was what was to be written, or made zero, or durable? `NO_SPACE` when the server says so.
    pub fn written(&mut self, ticket: Ticket) -> Result<bool> {
        let done = self.is_done(ticket, WRITE).map_err(|error| {
            // SAFETY: the call takes nothing, and tells of the one that has just failed on this thread.
            let full = matches!(unsafe { (self.api.get_errno)() }, libc::ENOSPC | libc::EDQUOT);
            Error { code: if full { Code::NoSpace } else { Code::Io }, ..error }
        })?;
        if done {
            self.buffers.remove(&ticket);
        }
        Ok(done)
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
        self.check_not_refused()?;
        if !self.question.is_null() {
            return Err(Error::new(Code::Internal, STEP, "the question before is open"));
        }
        let beyond = self.size.saturating_sub(offset);
        self.question = Box::into_raw(Box::new(Question::new(self.contexts.clone(), length, beyond)));
        let callback = ExtentCallback { callback: Some(on_extents), user_data: self.question.cast(), free: None };
        // SAFETY: the question behind the user data lives until libnbd has retired the request, or the handle is closed.
        let cookie =
            unsafe { (self.api.aio_block_status)(self.handle.as_ptr(), length, offset, callback, no_callback(), 0) };
        let ticket = Ticket(u64::try_from(cookie).map_err(|_| last_error(self.api, STEP))?);
        loop {
            let done = self.is_done(ticket, STEP);
            self.fail_if_refused(STEP)?;
            if done? {
                break;
            }
            go_on()?;
            self.wait(tick, STEP)?;
        }
        // SAFETY: made by `into_raw` above, and the request was retired: libnbd does not know it any more.
        let question = unsafe { Box::from_raw(std::mem::replace(&mut self.question, null_mut())) };
        question.answer().map_err(|why| self.refuse(STEP, why))
    }

    /// Waits for all replies that are still due, and drops what they bring. `go_on` as for `open`.
    pub fn settle(&mut self, tick: Duration, go_on: impl Fn() -> Result<()>) -> Result<()> {
        const STEP: &str = "fetch the replies that are due";
        self.check_not_refused()?;
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
        let done = self.check(done, step)? == 1;
        if done {
            self.pieces = 0;
        }
        Ok(done)
    }

    /// Ends with the question when its answer is not to be believed: what follows may have no end.
    fn fail_if_refused(&mut self, step: &'static str) -> Result<()> {
        // SAFETY: made by `into_raw`; the callback that writes to it runs within calls of this thread, and none is under way.
        let refused = unsafe { self.question.as_ref() }.and_then(Question::refused).map(str::to_owned);
        refused.map_or(Ok(()), |why| Err(self.refuse(step, why)))
    }

    fn refuse(&mut self, step: &'static str, why: impl std::fmt::Display) -> Error {
        let error = Error::new(Code::JobFailed, step, format!("what serves the export is not to be believed: {why}"));
        *self.refused.get_or_insert(Box::new(error)).clone()
    }

    fn check_not_refused(&self) -> Result<()> {
        self.refused.as_deref().map_or(Ok(()), |refused| Err(refused.clone()))
    }

    fn wait(&mut self, limit: Duration, step: &'static str) -> Result<()> {
        self.check_not_refused()?;
        let millis = c_int::try_from(limit.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the handle is open; what it has in flight stays valid, as `read` and `status` see to. The call returns after
        // one piece of a reply at the latest (libnbd's state READY).
        let came = self.check(unsafe { (self.api.poll)(self.handle.as_ptr(), millis) }, step)?;
        self.pieces += u32::from(came > 0);
        if self.pieces > MOST_PIECES {
            return Err(self.refuse(step, "its replies go on, and complete no request"));
        }
        Ok(())
    }

    fn check(&self, returned: c_int, step: &'static str) -> Result<c_int> {
        if returned < 0 { Err(last_error(self.api, step)) } else { Ok(returned) }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: the handle is open and closed here only. After that libnbd knows neither the buffers, which are freed
        // when the fields are dropped, nor the question and the handshake, which were made by `into_raw` if they are not null.
        unsafe {
            (self.api.close)(self.handle.as_ptr());
            if !self.question.is_null() {
                drop(Box::from_raw(self.question));
            }
            if !self.handshake.is_null() {
                drop(Box::from_raw(self.handshake));
            }
        }
    }
}

/// Takes note of the extents of one context, or of why they are refused: that fails the request, too, should it ever be
/// completed. Runs within `poll`, `aio_pread` and `aio_block_status`, on their thread.
unsafe extern "C" fn on_extents(
    question: *mut c_void,
    context: *const c_char,
    _offset: u64,
    entries: *mut u32,
    count: usize,
    _error: *mut c_int,
) -> c_int {
    // SAFETY: the user data is the question that `status` gave, which nobody else uses during the call; the context is
    // NUL-terminated and the entries are `count` numbers, all alive for the call (nbd_block_status(3)).
    let (question, context, entries) = unsafe {
        (&mut *question.cast::<Question>(), CStr::from_ptr(context), std::slice::from_raw_parts(entries, count))
    };
    if question.take(context.to_bytes(), entries) { 0 } else { -1 }
}

/// Steps of libnbd's that a handshake may take: a hundred times as many as with QEMU.
const MOST_STEPS: u32 = 10_000;

/// A handshake, and how many steps it may still take.
struct Handshake {
    socket: UnixStream,
    left: u32,
}

impl Handshake {
    fn close(&self) {
        // one that is closed already has ended
        _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// Counts a step of the handshake. Beyond the last the connection ends: libnbd reads what has arrived, and no more.
unsafe extern "C" fn on_step(handshake: *mut c_void, _context: *const c_char, _message: *const c_char) -> c_int {
    // SAFETY: the user data is what `watch_handshake` gave, which nobody else uses during the call.
    let handshake = unsafe { &mut *handshake.cast::<Handshake>() };
    handshake.left = handshake.left.saturating_sub(1);
    if handshake.left == 0 {
        handshake.close();
    }
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
