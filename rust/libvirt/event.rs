//! libvirt's event loop on one thread, and the events of a domain as values on a channel.
//!
//! Another user of libvirt in the same process (libvirt-java) may run the default loop too: libvirt keeps the first
//! registration, and its loop may be run by several threads, which take turns.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::transmute;
use std::ptr::null_mut;
use std::sync::mpsc::Sender;
use std::sync::{Mutex, OnceLock, PoisonError};

use virt::connect::Connect;
use virt::error::Error as VirtError;
use virt_sys as sys;

use super::at;
use crate::error::{Code, Error, Result};

/// What happened to a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Its backup job ended.
    JobCompleted {
        /// libvirt's word; an aborted pull job has it too.
        success: bool,
        /// Why it failed, if libvirt says so.
        error: Option<String>,
    },
    /// The block job of one disk's backup ended, and QEMU has closed that disk's target.
    DiskClosed {
        /// The disk's target name.
        disk: String,
        /// Did the block job complete?
        completed: bool,
    },
    /// A read or write of the guest's failed.
    IoError(IoError),
    /// The domain stopped, crashed or began to shut down.
    Gone,
}

/// A read or write of the guest's that failed, as libvirt tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IoError {
    /// The path of the disk's source; empty where libvirt does not know which disk it was.
    pub path: String,
    /// The alias of the disk in the domain; empty likewise.
    pub alias: String,
    /// What QEMU did about it.
    pub action: Action,
    /// Why it failed, in a word, if libvirt says so: `enospc`.
    pub reason: Option<String>,
}

/// What QEMU does about an error of the storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It takes the write for done.
    Ignore,
    /// It pauses the guest, which tries again when it goes on.
    Pause,
    /// It tells the guest.
    Report,
}

struct Subscriber {
    id: u64,
    domain: String,
    deliver: Box<dyn Fn(Event) + Send>,
}

struct Table {
    next: u64,
    subscribers: Vec<Subscriber>,
}

static TABLE: Mutex<Table> = Mutex::new(Table { next: 0, subscribers: Vec::new() });

fn table() -> std::sync::MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the delivery of events when dropped.
#[derive(Debug)]
pub struct Subscription(u64);

impl Drop for Subscription {
    fn drop(&mut self) {
        table().subscribers.retain(|s| s.id != self.0);
    }
}

/// Delivers the events of the domain with this UUID to `sender`, wrapped by `wrap`, until the subscription is dropped.
pub fn subscribe<T: Send + 'static>(uuid: &str, sender: Sender<T>, wrap: fn(Event) -> T) -> Subscription {
    let mut table = table();
    let id = table.next;
    table.next += 1;
    // A receiver that is gone wants no more events: nothing to do about a failed send.
    let deliver = Box::new(move |event| drop(sender.send(wrap(event))));
    table.subscribers.push(Subscriber { id, domain: uuid.to_owned(), deliver });
    Subscription(id)
}

/// Starts the event loop once per process. Must precede the first connection.
pub(super) fn start_loop() -> Result<()> {
    static STARTED: OnceLock<Result<()>> = OnceLock::new();
    let start = || {
        virt::event::event_register_default_impl().map_err(at("register the event loop"))?;
        let thread = std::thread::Builder::new().name("nasbackup-event".to_owned()).spawn(run_loop);
        thread.map(drop).map_err(|e| Error::new(Code::Internal, "start the event loop", e))
    };
    STARTED.get_or_init(start).clone()
}

fn run_loop() {
    loop {
        if let Err(error) = virt::event::event_run_default_impl() {
            log::warn!("libvirt's event loop: {error}");
            // A loop that fails at once would burn a core; jobs notice their end from the statistics meanwhile.
            std::thread::sleep(crate::limits::LONG_LOOK);
        }
    }
}

/// A callback of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Callback(c_int);

/// Ends a callback, and so its hold on the connection.
pub(super) fn deregister(connection: &Connect, watch: Callback) {
    // SAFETY: the connection is live and the callback was registered on it.
    if unsafe { sys::virConnectDomainEventDeregisterAny(connection.as_ptr(), watch.0) } < 0 {
        // Usual for a connection that was lost: the daemon can't be told, and libvirt's own record is gone already.
        log::debug!("a callback could not be taken back: {}", VirtError::last_error());
    }
}

/// Asks a connection for the events of all its domains; the callbacks that were registered go into `watches`.
pub(super) fn register(connection: &Connect, watches: &mut Vec<Callback>) -> Result<()> {
    type Generic = sys::virConnectDomainEventGenericCallback;
    type Lifecycle = sys::virConnectDomainEventCallback;
    type JobCompleted = sys::virConnectDomainEventJobCompletedCallback;
    type BlockJob = sys::virConnectDomainEventBlockJobCallback;
    type IoError = sys::virConnectDomainEventIOErrorReasonCallback;
    // SAFETY: libvirt takes every callback under the generic type and calls it with the arguments of its event id.
    let callbacks = unsafe {
        [
            (sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, transmute::<Lifecycle, Generic>(Some(on_lifecycle))),
            (sys::VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, transmute::<JobCompleted, Generic>(Some(on_job_completed))),
            (sys::VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, transmute::<BlockJob, Generic>(Some(on_block_job))),
            (sys::VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON, transmute::<IoError, Generic>(Some(on_io_error))),
        ]
    };
    for (id, callback) in callbacks {
        // SAFETY: the connection is open, the callbacks keep nothing that they are passed, no opaque value is given.
        let watch = unsafe {
            let (any, none) = (null_mut(), null_mut());
            sys::virConnectDomainEventRegisterAny(connection.as_ptr(), any, id as c_int, callback, none, None)
        };
        if watch < 0 {
            return Err(at("ask for events")(VirtError::last_error()));
        }
        watches.push(Callback(watch));
    }
    Ok(())
}

/// Hands an event to the subscribers of its domain. Runs on libvirt's loop: no panic may leave it.
fn deliver(domain: sys::virDomainPtr, event: impl FnOnce() -> Option<Event>) {
    let delivered = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let (Some(uuid), Some(event)) = (uuid_of(domain), event()) else { return };
        for subscriber in table().subscribers.iter().filter(|s| s.domain == uuid) {
            (subscriber.deliver)(event.clone());
        }
    }));
    if delivered.is_err() {
        log::error!("a domain's event was lost: its handler panicked");
    }
}

fn uuid_of(domain: sys::virDomainPtr) -> Option<String> {
    let mut text = [0 as c_char; sys::VIR_UUID_STRING_BUFLEN as usize];
    // SAFETY: libvirt passes a live domain for the time of the callback; the buffer has the documented length and is
    // NUL-terminated on success.
    unsafe {
        (sys::virDomainGetUUIDString(domain, text.as_mut_ptr()) == 0)
            .then(|| CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned())
    }
}

/// A C string as text, if there is one.
///
/// # Safety
/// `text` is null or a NUL-terminated string that lives for the call.
unsafe fn text(text: *const c_char) -> Option<String> {
    // SAFETY: as the caller promises.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

unsafe extern "C" fn on_lifecycle(
    _connection: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    _detail: c_int,
    _opaque: *mut c_void,
) -> c_int {
    deliver(domain, || {
        let gone = [sys::VIR_DOMAIN_EVENT_STOPPED, sys::VIR_DOMAIN_EVENT_SHUTDOWN, sys::VIR_DOMAIN_EVENT_CRASHED];
        gone.map(|e| e as c_int).contains(&event).then_some(Event::Gone)
    });
    0
}

unsafe extern "C" fn on_job_completed(
    _connection: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    params: sys::virTypedParameterPtr,
    count: c_int,
    _opaque: *mut c_void,
) {
    deliver(domain, || {
        // SAFETY: libvirt passes `count` parameters that live for the time of the callback.
        let params = unsafe { Params::new(params, count) };
        let ours = params.int(sys::VIR_DOMAIN_JOB_OPERATION) == Some(sys::VIR_DOMAIN_JOB_OPERATION_BACKUP as c_int);
        ours.then(|| Event::JobCompleted {
            success: params.boolean(sys::VIR_DOMAIN_JOB_SUCCESS).unwrap_or(false),
            error: params.string(sys::VIR_DOMAIN_JOB_ERRMSG),
        })
    });
}

unsafe extern "C" fn on_block_job(
    _connection: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    disk: *const c_char,
    kind: c_int,
    status: c_int,
    _opaque: *mut c_void,
) {
    deliver(domain, || {
        let backup = kind == sys::VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP as c_int;
        let ended = status != sys::VIR_DOMAIN_BLOCK_JOB_READY as c_int;
        // SAFETY: libvirt passes the disk's target name, alive for the time of the callback.
        let disk = unsafe { text(disk) }.filter(|_| backup && ended)?;
        Some(Event::DiskClosed { disk, completed: status == sys::VIR_DOMAIN_BLOCK_JOB_COMPLETED as c_int })
    });
}

unsafe extern "C" fn on_io_error(
    _connection: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    path: *const c_char,
    alias: *const c_char,
    action: c_int,
    reason: *const c_char,
    _opaque: *mut c_void,
) {
    deliver(domain, || {
        // SAFETY: libvirt passes strings that live for the time of the callback.
        let [path, alias, reason] = unsafe { [text(path), text(alias), text(reason)] };
        let action = match u32::try_from(action) {
            Ok(sys::VIR_DOMAIN_EVENT_IO_ERROR_NONE) => Action::Ignore,
            Ok(sys::VIR_DOMAIN_EVENT_IO_ERROR_PAUSE) => Action::Pause,
            _ => Action::Report,
        };
        let reason = reason.filter(|reason| !reason.is_empty());
        Some(Event::IoError(IoError {
            path: path.unwrap_or_default(),
            alias: alias.unwrap_or_default(),
            action,
            reason,
        }))
    });
}

/// libvirt's typed parameters, borrowed.
pub(super) struct Params<'a> {
    first: sys::virTypedParameterPtr,
    count: c_int,
    _lives: std::marker::PhantomData<&'a ()>,
}

impl Params<'_> {
    /// # Safety
    /// `first` points to `count` parameters that live as long as the value.
    pub(super) unsafe fn new(first: sys::virTypedParameterPtr, count: c_int) -> Self {
        Params { first, count, _lives: std::marker::PhantomData }
    }

    pub(super) fn int(&self, name: &CStr) -> Option<c_int> {
        let mut value = 0;
        // SAFETY: as promised at `new`; the call only writes `value`, and only on success.
        let found = unsafe { sys::virTypedParamsGetInt(self.first, self.count, name.as_ptr(), &mut value) };
        (found == 1).then_some(value)
    }

    pub(super) fn boolean(&self, name: &CStr) -> Option<bool> {
        let mut value = 0;
        // SAFETY: as above.
        let found = unsafe { sys::virTypedParamsGetBoolean(self.first, self.count, name.as_ptr(), &mut value) };
        (found == 1).then_some(value != 0)
    }

    pub(super) fn ulong(&self, name: &CStr) -> Option<u64> {
        let mut value = 0;
        // SAFETY: as above.
        let found = unsafe { sys::virTypedParamsGetULLong(self.first, self.count, name.as_ptr(), &mut value) };
        (found == 1).then_some(value)
    }

    pub(super) fn string(&self, name: &CStr) -> Option<String> {
        let mut value = std::ptr::null();
        // SAFETY: as above; the string belongs to the parameters and is copied at once.
        unsafe {
            let found = sys::virTypedParamsGetString(self.first, self.count, name.as_ptr(), &mut value);
            if found == 1 { text(value) } else { None }
        }
    }
}
