//! Panics: caught at the edges, reported as errors, and logged with the place where they began.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::error::{Code, Error, Result};

/// Runs `f`; a panic in it becomes an `INTERNAL` error with its text.
pub(crate) fn caught<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|payload| Err(error_of(payload)))
}

/// The error for a caught panic.
pub(crate) fn error_of(payload: Box<dyn Any + Send>) -> Error {
    let text = if let Some(text) = payload.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "no text"
    };
    let error = Error::new(Code::Internal, "run the call", format!("panic: {text}"));
    // Dropping a payload may panic again, and this is where panics end.
    std::mem::forget(payload);
    error
}

/// From now on panics are log lines instead of text on standard error: the error has no room for file and line.
pub(crate) fn log_them() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(|info| log::error!("{}", info.to_string().replace('\n', " ")))));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_keeps_its_text() {
        let number = 7;
        assert_eq!(caught::<()>(|| panic!("plain")).unwrap_err().cause, "panic: plain");
        let error = caught::<()>(|| panic!("formatted {number}")).unwrap_err();
        assert_eq!((error.code, error.cause.as_str()), (Code::Internal, "panic: formatted 7"));
        assert_eq!(caught::<()>(|| std::panic::panic_any(number)).unwrap_err().cause, "panic: no text");
        assert_eq!(caught(|| Ok(number)), Ok(7));
    }
}
