//! Sends each log line through the façade to Java's `System.Logger`, under the name of the module that wrote it.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::anyhow;
use jni::errors::Error as JniError;
use jni::objects::JString;
use jni::vm::AttachConfig;
use jni::{JavaVM, jni_str};
use log::Record;
use log4rs::append::Append;

use super::failure::caught;
use super::types::JNative;
use crate::panics;

/// Room for the local references of one line.
const FRAME: usize = 4;

/// The appender, which a log4rs file can't name.
#[derive(Debug)]
pub(super) struct ToJava;

thread_local! {
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

impl Append for ToJava {
    /// Drops a line that the bridge, or a Java logger that calls this library, writes while another line is on its way to Java:
    /// it would cause the next one, without end.
    fn append(&self, record: &Record<'_>) -> anyhow::Result<()> {
        if BUSY.replace(true) {
            return Ok(());
        }
        let sent = catch_unwind(AssertUnwindSafe(|| send(record)));
        BUSY.set(false);
        sent.unwrap_or_else(|payload| Err(panics::error_of(payload).into()))
    }

    fn flush(&self) {}
}

/// Attaches a native thread for this line only: a thread that stays attached keeps the JVM from exiting. Puts a pending
/// exception aside meanwhile.
fn send(record: &Record<'_>) -> anyhow::Result<()> {
    let config = || AttachConfig::new().scoped(true).thread_name(jni_str!("nasbackup"));
    JavaVM::singleton()?.attach_current_thread_with_config(config, Some(FRAME), |env| {
        let logger = JString::from_str(env, record.target().replace("::", "."))?;
        let line = JString::from_str(env, record.args().to_string())?;
        match JNative::log(env, record.level() as i32, &logger, &line) {
            Err(JniError::JavaException) => Err(anyhow!("the logger threw {}", caught(env)?.1)),
            sent => Ok(sent?),
        }
    })
}
