//! The progress listener: called on the caller's own thread, which is inside the native for as long as the job runs.

use jni::Env;
use jni::errors::Error as JniError;
use jni::objects::JThrowable;
use jni::refs::Global;

use super::failure::Failure;
use super::types::JProgressListener;
use super::write;
use crate::error::{Code, Error, Result};
use crate::job::{JobStatus, Listener};

/// Room for the local references of one report.
const FRAME: usize = 16;

/// Runs `run` with a listener that tells `listener`, which may be null. What that one throws ends the job and stays
/// with the error as its cause.
pub(super) fn with_listener<T>(
    env: &mut Env<'_>,
    listener: &JProgressListener<'_>,
    run: impl FnOnce(Listener<'_>) -> Result<T>,
) -> Result<T, Failure> {
    let mut thrown = None;
    let result = run(&mut |status| {
        if listener.is_null() {
            return Ok(());
        }
        tell(env, listener, status).map_err(|failed| {
            let (error, exception) = cancelled_by(failed);
            thrown = exception;
            error
        })
    });
    match (result, thrown) {
        (Err(error), Some(cause)) => Err(Failure::Listener(error, cause)),
        (result, _) => result.map_err(Failure::Operation),
    }
}

fn tell(env: &mut Env<'_>, listener: &JProgressListener<'_>, status: &JobStatus) -> jni::errors::Result<()> {
    let told = env.with_local_frame(FRAME, |env| {
        let status = write::status(status, env)?;
        listener.progress(env, &status)
    });
    match told {
        Err(JniError::JavaException) => env.exception_catch(),
        told => told,
    }
}

fn cancelled_by(failed: JniError) -> (Error, Option<Global<JThrowable<'static>>>) {
    let step = "tell the progress listener";
    match failed {
        JniError::CaughtJavaException { exception, name, msg, .. } => {
            let exception = Some(exception).filter(|exception| !exception.is_null());
            (Error::new(Code::Cancelled, step, format!("it threw {name}: {msg}")), exception)
        }
        other => (Error::new(Code::Internal, step, other), None),
    }
}
