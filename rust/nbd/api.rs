//! The functions of libnbd that are used, found at run time: a host without the library backs up by push.

use std::ffi::{c_char, c_int, c_void};
use std::sync::OnceLock;

use libloading::Library;

use crate::error::{Error, Result};

/// `struct nbd_handle`, known to the library only.
pub(super) enum RawHandle {}

/// `nbd_completion_callback`; all null: none is wanted.
#[repr(C)]
pub(super) struct CompletionCallback {
    pub(super) callback: Option<unsafe extern "C" fn(*mut c_void, *mut c_int) -> c_int>,
    pub(super) user_data: *mut c_void,
    pub(super) free: Option<unsafe extern "C" fn(*mut c_void)>,
}

/// What `nbd_extent_callback` calls: user data, context, offset, entries (length and flags in turn) and how many numbers
/// they are, an error to set.
pub(super) type OnExtents = unsafe extern "C" fn(*mut c_void, *const c_char, u64, *mut u32, usize, *mut c_int) -> c_int;

/// `nbd_extent_callback`.
#[repr(C)]
pub(super) struct ExtentCallback {
    pub(super) callback: Option<OnExtents>,
    pub(super) user_data: *mut c_void,
    pub(super) free: Option<unsafe extern "C" fn(*mut c_void)>,
}

/// `nbd_debug_callback`: user data, context, message.
#[repr(C)]
pub(super) struct DebugCallback {
    pub(super) callback: Option<unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char) -> c_int>,
    pub(super) user_data: *mut c_void,
    pub(super) free: Option<unsafe extern "C" fn(*mut c_void)>,
}

pub(super) type SetPreadInitialize = unsafe extern "C" fn(*mut RawHandle, bool) -> c_int;

macro_rules! api {
    ($($name:ident: $signature:ty = $symbol:literal;)*) => {
        /// The functions, by their names in libnbd(3) without `nbd_`.
        pub(super) struct Api {
            $(pub(super) $name: $signature,)*
            /// Since libnbd 1.12.
            pub(super) set_pread_initialize: Option<SetPreadInitialize>,
            _library: Library,
        }

        impl Api {
            fn find(library: Library) -> Result<Api, libloading::Error> {
                // SAFETY: the signatures below are those of libnbd.h, which its ABI 0 keeps; the pointers live as long
                // as the library, which the value holds.
                unsafe {
                    let set_pread_initialize = library.get::<SetPreadInitialize>(b"nbd_set_pread_initialize\0");
                    let set_pread_initialize = set_pread_initialize.ok().map(|found| *found);
                    Ok(Api {
                        $($name: *library.get::<$signature>($symbol)?,)*
                        set_pread_initialize,
                        _library: library,
                    })
                }
            }
        }
    };
}

api! {
    create: unsafe extern "C" fn() -> *mut RawHandle = b"nbd_create\0";
    close: unsafe extern "C" fn(*mut RawHandle) = b"nbd_close\0";
    get_error: unsafe extern "C" fn() -> *const c_char = b"nbd_get_error\0";
    get_errno: unsafe extern "C" fn() -> c_int = b"nbd_get_errno\0";
    set_debug: unsafe extern "C" fn(*mut RawHandle, bool) -> c_int = b"nbd_set_debug\0";
    set_debug_callback: unsafe extern "C" fn(*mut RawHandle, DebugCallback) -> c_int = b"nbd_set_debug_callback\0";
    set_export_name: unsafe extern "C" fn(*mut RawHandle, *const c_char) -> c_int = b"nbd_set_export_name\0";
    add_meta_context: unsafe extern "C" fn(*mut RawHandle, *const c_char) -> c_int = b"nbd_add_meta_context\0";
    can_meta_context: unsafe extern "C" fn(*mut RawHandle, *const c_char) -> c_int = b"nbd_can_meta_context\0";
    get_size: unsafe extern "C" fn(*mut RawHandle) -> i64 = b"nbd_get_size\0";
    poll: unsafe extern "C" fn(*mut RawHandle, c_int) -> c_int = b"nbd_poll\0";
    aio_connect_socket: unsafe extern "C" fn(*mut RawHandle, c_int) -> c_int = b"nbd_aio_connect_socket\0";
    aio_is_ready: unsafe extern "C" fn(*mut RawHandle) -> c_int = b"nbd_aio_is_ready\0";
    aio_pread: unsafe extern "C" fn(*mut RawHandle, *mut c_void, usize, u64, CompletionCallback, u32) -> i64
        = b"nbd_aio_pread\0";
    aio_pwrite: unsafe extern "C" fn(*mut RawHandle, *const c_void, usize, u64, CompletionCallback, u32) -> i64
        = b"nbd_aio_pwrite\0";
    aio_zero: unsafe extern "C" fn(*mut RawHandle, u64, u64, CompletionCallback, u32) -> i64 = b"nbd_aio_zero\0";
    aio_flush: unsafe extern "C" fn(*mut RawHandle, CompletionCallback, u32) -> i64 = b"nbd_aio_flush\0";
    aio_block_status: unsafe extern "C" fn(*mut RawHandle, u64, u64, ExtentCallback, CompletionCallback, u32) -> i64
        = b"nbd_aio_block_status\0";
    aio_in_flight: unsafe extern "C" fn(*mut RawHandle) -> c_int = b"nbd_aio_in_flight\0";
    aio_command_completed: unsafe extern "C" fn(*mut RawHandle, u64) -> c_int = b"nbd_aio_command_completed\0";
}

/// The library, opened at its first use and kept. `INVALID_ARGUMENT` on the engine when this host does not have it.
pub(super) fn api() -> Result<&'static Api> {
    static API: OnceLock<Api> = OnceLock::new();
    match API.get() {
        Some(api) => Ok(api),
        // Asked again each time: it may have been installed meanwhile.
        None => open("libnbd.so.0").map(|api| API.get_or_init(|| api)),
    }
}

fn open(name: &str) -> Result<Api> {
    // SAFETY: libnbd has no initializers or finalizers that ask anything of the process.
    let library = unsafe { Library::new(name) };
    library.and_then(Api::find).map_err(|e| {
        let help = "install package libnbd0 (Debian, Ubuntu) or libnbd (Enterprise Linux), or use push";
        Error::invalid("engine", format!("pull needs {name}, which this host lacks: {help} - {e}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_names_its_packages() {
        let error = open("libnbd-that-is-not-there.so.0").err().unwrap();
        assert_eq!(error.code, crate::error::Code::InvalidArgument);
        for part in ["engine: pull", "libnbd0 (Debian", "libnbd (Enterprise", "not-there"] {
            assert!(error.cause.contains(part), "{error}");
        }
    }

    #[test]
    fn a_library_without_the_functions_is_refused() {
        assert!(open("libc.so.6").err().unwrap().cause.contains("nbd_create"));
    }
}
