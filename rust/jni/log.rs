//! Log lines to Java: each goes to `System.Logger` through the façade, named after the module that wrote it.

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

/// The appender. Not configurable from a log4rs file.
#[derive(Debug)]
pub(super) struct ToJava;

thread_local! {
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

impl Append for ToJava {
    /// A line that is written while another is on its way to Java, by the bridge itself or by a logger that calls
    /// this library, is dropped: it would go round for ever.
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

/// A native thread is attached for this line only: an attached thread would keep the JVM from exiting. An exception
/// that is pending is put aside meanwhile.
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
