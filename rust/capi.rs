//! The C ABI: one call for all operations, JSON in and out. `include/nasbackup.h` is made from this file.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::plain::plain;
use crate::{operation, panics};

/// The version of the library, e.g. "0.1.0". Never NULL; not to be freed.
#[unsafe(no_mangle)]
pub extern "C" fn nasbackup_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// Runs an operation on a JSON request and returns when it is done. Safe to call from any thread.
///
/// `operation` and `request_json` are NUL-terminated UTF-8. The reply is JSON on one line, UTF-8 too:
/// `{"ok":true,"result":...}` or
/// `{"ok":false,"error":{"code":...,"message":...,"step":...,"disk":...,"leftovers":...}}`.
/// It is never NULL, whatever the arguments; give it to `nasbackup_free`.
///
/// # Safety
/// Each argument is NULL or points to a NUL-terminated string that nobody changes during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nasbackup_call(operation: *const c_char, request_json: *const c_char) -> *mut c_char {
    let result = panics::caught(|| {
        // SAFETY: the caller keeps the promise above.
        let operation = unsafe { text("operation", operation) }?;
        // SAFETY: as above.
        let request = unsafe { text("request", request_json) }?;
        operation::call(operation, request, &mut |_| Ok(()))
    });
    // JSON writes a NUL character as \u0000, so that the text has no NUL byte.
    CString::new(reply(result).to_string()).unwrap_or_default().into_raw()
}

/// Frees a reply of `nasbackup_call`. NULL is allowed.
///
/// # Safety
/// `reply` is NULL or came from `nasbackup_call` and was not freed yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nasbackup_free(reply: *mut c_char) {
    if !reply.is_null() {
        // SAFETY: by the promise above it came from `CString::into_raw` and is ours again.
        drop(unsafe { CString::from_raw(reply) });
    }
}

/// # Safety
/// `pointer` is NULL or points to a NUL-terminated string that lives as long as `'a`.
unsafe fn text<'a>(name: &str, pointer: *const c_char) -> Result<&'a str> {
    if pointer.is_null() {
        return Err(Error::invalid(name, "is NULL"));
    }
    // SAFETY: not NULL, and the caller keeps the rest of the promise above.
    unsafe { CStr::from_ptr(pointer) }.to_str().map_err(|e| Error::invalid(name, format!("is not UTF-8: {e}")))
}

fn reply(result: Result<Value>) -> Value {
    match result {
        Ok(result) => json!({"ok": true, "result": result}),
        Err(error) => json!({"ok": false, "error": {
            "code": error.code,
            "message": error.to_string(),
            "step": error.step,
            "disk": error.disk.as_deref().map(plain),
            "leftovers": error.leftovers,
        }}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(operation: *const c_char, request: *const c_char) -> Value {
        // SAFETY: the tests give NULL or literals, and the reply is freed once.
        unsafe {
            let reply = nasbackup_call(operation, request);
            let value = serde_json::from_slice(CStr::from_ptr(reply).to_bytes()).unwrap();
            nasbackup_free(reply);
            value
        }
    }

    #[test]
    fn every_argument_gets_a_reply() {
        let null = std::ptr::null();
        for (operation, request, says) in [
            (null, c"{}".as_ptr(), "operation: is NULL"),
            (c"jobs".as_ptr(), null, "request: is NULL"),
            (c"jobs".as_ptr(), c"\xff".as_ptr(), "request: is not UTF-8"),
            (c"j\xc3".as_ptr(), c"{}".as_ptr(), "operation: is not UTF-8"),
            (c"jobs".as_ptr(), c"".as_ptr(), "EOF"),
            (c"no\xc3\xb6".as_ptr(), c"{}".as_ptr(), "'noö' is not known"),
        ] {
            let reply = call(operation, request);
            assert_eq!((&reply["ok"], &reply["error"]["code"]), (&json!(false), &json!("INVALID_ARGUMENT")), "{reply}");
            assert!(reply["error"]["message"].as_str().unwrap().contains(says), "{reply}");
        }
        assert_eq!(call(c"cancel".as_ptr(), c"{\"job\":\"\\u0000\"}".as_ptr())["result"], json!({"found": false}));
    }

    #[test]
    fn an_error_is_told_whole() {
        let error = Error::new(crate::error::Code::Io, "copy", "why").on_disk("vda").with_leftover("x");
        assert_eq!(
            reply(Err(error)),
            json!({"ok": false, "error": {"code": "IO", "message": "IO: copy, disk 'vda': why; left behind: x",
                "step": "copy", "disk": "vda", "leftovers": true}})
        );
    }
}
