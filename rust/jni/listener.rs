//! Calls the progress listener, on the caller's own thread, which is inside the native for as long as the job runs.

use jni::Env;
use jni::errors::Error as JniError;
use jni::objects::JString;

use super::failure::{Failure, caught};
use super::types::{JNative, JProgressListener};
use crate::error::{Code, Error, Result};
use crate::work::job::Listener;

const STEP: &str = "tell the progress listener";

/// Room for the local references of one report.
const FRAME: usize = 16;

/// Runs `run` with a listener that reports to the Java `listener`, which may be null. An exception that the Java listener
/// throws ends the job, and becomes the cause of the error.
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
        let json = serde_json::to_string(status).map_err(|e| Error::new(Code::Internal, STEP, e))?;
        let told = env.with_local_frame(FRAME, |env| {
            let status = JString::from_str(env, json)?;
            JNative::progress(env, listener, &status)
        });
        match told {
            Err(JniError::JavaException) => {
                let (exception, says) = caught(env).map_err(broken)?;
                thrown = Some(exception);
                Err(Error::new(Code::Cancelled, STEP, format!("it threw {says}")))
            }
            told => told.map_err(broken),
        }
    });
    match (result, thrown) {
        (Err(error), Some(cause)) => Err(Failure::Listener(error, cause)),
        (result, _) => result.map_err(Failure::Operation),
    }
}

fn broken(error: JniError) -> Error {
    Error::new(Code::Internal, STEP, error)
}
