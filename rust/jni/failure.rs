//! Makes a `NasBackupException` of each error and each panic of a native.

use std::any::Any;

use jni::errors::{Error as JniError, ErrorPolicy};
use jni::objects::{JString, JThrowable};
use jni::refs::Global;
use jni::strings::JNIString;
use jni::{Env, jni_str};

use super::types::JNasBackupException;
use crate::error::{Code, Error};
use crate::panics;
use crate::plain::plain;

/// Room for the local references of one exception.
const FRAME: usize = 16;

/// Why a native can't return a result.
#[derive(Debug)]
pub(super) enum Failure {
    /// The operation failed.
    Operation(Error),
    /// The operation failed because the listener threw this exception.
    Listener(Error, Global<JThrowable<'static>>),
    /// A call of the JVM failed; often an exception is pending, which then says why.
    Jvm(JniError),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Operation(error)
    }
}

impl From<JniError> for Failure {
    fn from(error: JniError) -> Failure {
        Failure::Jvm(error)
    }
}

/// The policy of every native.
pub(super) enum ThrowNasBackupException {}

impl<T: Default> ErrorPolicy<T, Failure> for ThrowNasBackupException {
    type Captures<'env: 'call, 'call> = ();

    fn on_error<'env: 'call, 'call>(
        env: &mut Env<'env>,
        _: &mut Self::Captures<'env, 'call>,
        failure: Failure,
    ) -> jni::errors::Result<T> {
        match failure {
            Failure::Operation(error) => throw(env, &error, &JThrowable::null())?,
            Failure::Listener(error, cause) => throw(env, &error, &cause)?,
            Failure::Jvm(error) => throw(env, &Error::new(Code::Internal, "talk to Java", error), &JThrowable::null())?,
        }
        Ok(T::default())
    }

    fn on_panic<'env: 'call, 'call>(
        env: &mut Env<'env>,
        _: &mut Self::Captures<'env, 'call>,
        payload: Box<dyn Any + Send>,
    ) -> jni::errors::Result<T> {
        throw(env, &panics::error_of(payload), &JThrowable::null())?;
        Ok(T::default())
    }
}

/// Makes `error` the pending exception. An exception that is pending already stays: it came first and is the reason.
fn throw(env: &mut Env<'_>, error: &Error, cause: &JThrowable<'_>) -> jni::errors::Result<()> {
    if env.exception_check() {
        return Ok(());
    }
    let thrown = env.with_local_frame(FRAME, |env| {
        let code = text(Some(error.code.as_str()), env)?;
        let step = text(Some(error.step), env)?;
        let disk = text(error.disk.as_deref().map(plain).as_deref(), env)?;
        let message = text(Some(&error.to_string()), env)?;
        let exception = JNasBackupException::new(env, &code, &step, &disk, &message, error.leftovers, cause)?;
        env.throw(JThrowable::from(exception))
    });
    match thrown {
        // The jni crate reports a successful throw like this, and an exception in the constructor too.
        Err(JniError::JavaException) | Ok(()) => Ok(()),
        // The Java side is so foreign that its exception can't be made. Without any exception the call would look like a success.
        Err(_) => {
            match env.throw_new(jni_str!("java/lang/IllegalStateException"), JNIString::from(error.to_string())) {
                Err(JniError::JavaException) => Ok(()),
                other => other,
            }
        }
    }
}

/// A text; null for `None`.
fn text<'l>(value: Option<&str>, env: &mut Env<'l>) -> jni::errors::Result<JString<'l>> {
    value.map_or_else(|| Ok(JString::default()), |value| JString::from_str(env, value))
}

/// Takes the pending exception away, and gives it with a text: its class and, if `getMessage` works, its message. (`exception_catch` of
/// the jni crate also reads the whole stack trace, more local references than any frame has room for.)
pub(super) fn caught(env: &mut Env<'_>) -> jni::errors::Result<(Global<JThrowable<'static>>, String)> {
    env.with_local_frame(FRAME, |env| {
        let thrown = env.exception_occurred().ok_or(JniError::JavaException)?;
        env.exception_clear();
        let class = env.get_object_class(&thrown)?.get_name(env)?.try_to_string(env)?;
        let says = match thrown.get_message(env) {
            Ok(message) if message.is_null() => class,
            Ok(message) => format!("{class}: {}", message.try_to_string(env)?),
            // `getMessage` may be the caller's own code and throw too.
            Err(_) => {
                env.exception_clear();
                class
            }
        };
        Ok((env.new_global_ref(&thrown)?, says))
    })
}
