//! Where log lines go: to the appender of the caller's language, or where a log4rs file says.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use log::{LevelFilter, Log, Metadata, Record};
use log4rs::append::Append;
use log4rs::append::console::{ConsoleAppender, Target};
use log4rs::config::{Appender, Config as Log4rs, Deserializers, Logger, RawConfig, Root};
use log4rs::encode::pattern::PatternEncoder;

use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::panics;
use crate::plain::plain;
use crate::second_table;

/// The target of lines that say what a call's answer or error says, too: whoever shows these may leave such lines out.
pub const ANSWERED: &str = "nasbackup::answered";

static HANDLE: Mutex<Option<log4rs::Handle>> = Mutex::new(None);

/// Puts the configured logging into force; may be called again. After an error the former one stays in force.
pub fn init(config: &Config, default: Box<dyn Append>) -> Result<()> {
    let log4rs = match &config.log_config {
        Some(file) => from_file(file)?,
        None => from_level(&config.log_level, default)?,
    };
    let mut handle = HANDLE.lock().unwrap_or_else(PoisonError::into_inner);
    match &*handle {
        Some(handle) => handle.set_config(log4rs),
        None => *handle = Some(first(log4rs)?),
    }
    panics::log_them();
    Ok(())
}

fn first(log4rs: Log4rs) -> Result<log4rs::Handle> {
    let logger = log4rs::Logger::new(log4rs);
    let (handle, level) = (logger.handle(), logger.max_log_level());
    log::set_boxed_logger(Box::new(Plain(logger))).map_err(refused)?;
    log::set_max_level(level);
    Ok(handle)
}

/// Every line, whoever wrote it and wherever it goes, is one line of plain text.
struct Plain(log4rs::Logger);

impl Log for Plain {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) && !second_table::keep_line(record) {
            let line = record.args().to_string();
            let mut plain_record = Record::builder();
            plain_record.metadata(record.metadata().clone()).file(record.file()).line(record.line());
            plain_record.module_path(record.module_path());
            self.0.log(&plain_record.args(format_args!("{}", plain(&line))).build());
        }
    }

    fn flush(&self) {
        Log::flush(&self.0);
    }
}

/// An appender that writes to standard error.
pub fn stderr() -> Box<dyn Append> {
    let line = PatternEncoder::new("{d(%Y-%m-%dT%H:%M:%S%.3fZ)(utc)} {l} {t} {m}{n}");
    Box::new(ConsoleAppender::builder().target(Target::Stderr).encoder(Box::new(line)).build())
}

fn refused(cause: impl std::fmt::Display) -> Error {
    Error::new(Code::Internal, "set up logging", cause)
}

fn from_level(level: &str, appender: Box<dyn Append>) -> Result<Log4rs> {
    let level = level.parse::<LevelFilter>().map_err(|e| Error::invalid("logLevel", e))?;
    Log4rs::builder()
        .appender(Appender::builder().build("default", appender))
        // At `debug` this crate reports each thread that it attaches, which is each line of a native thread.
        .logger(Logger::builder().build("jni", level.min(LevelFilter::Warn)))
        .build(Root::builder().appender("default").build(level))
        .map_err(refused)
}

/// log4rs' own reader prints what it can't use and goes on without it; an operator should hear of it instead.
fn from_file(path: &Path) -> Result<Log4rs> {
    let wrong = |cause: String| {
        let cause = cause.split_whitespace().collect::<Vec<_>>().join(" ");
        Error::invalid("logConfig", format!("'{}': {cause}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    let raw = serde_yaml::from_str::<RawConfig>(&text).map_err(|e| wrong(e.to_string()))?;
    if raw.refresh_rate().is_some() {
        return Err(wrong("refresh_rate is not supported; call init again instead".to_owned()));
    }
    let (appenders, errors) = raw.appenders_lossy(&Deserializers::default());
    if !errors.is_empty() {
        return Err(wrong(errors.to_string()));
    }
    Log4rs::builder().appenders(appenders).loggers(raw.loggers()).build(raw.root()).map_err(|e| wrong(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, Config) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log4rs.yaml");
        std::fs::write(&path, text.replace("FOLDER", folder.path().to_str().unwrap())).unwrap();
        (folder, Config { log_config: Some(path), ..Config::default() })
    }

    fn refusal(text: &str) -> String {
        let (_folder, config) = file(text);
        let error = init(&config, stderr()).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{error}");
        assert!(error.cause.starts_with("logConfig: '") && error.cause.contains("log4rs.yaml"), "{error}");
        assert!(!error.cause.contains('\n'));
        error.cause
    }

    #[test]
    fn a_wrong_file_is_refused_with_the_problem() {
        assert!(refusal("root: [").contains("line 1"));
        assert!(refusal("rooot: {}").contains("rooot"));
        assert!(refusal("refresh_rate: 5 seconds").contains("refresh_rate"));
        assert!(refusal("appenders: {a: {kind: carrier_pigeon}}").contains("carrier_pigeon"));
        let unwritable = refusal("appenders: {spool: {kind: file, path: /proc/none/x.log}}");
        assert!(unwritable.contains("spool") && unwritable.contains("No such file"), "{unwritable}");
        assert!(refusal("root: {level: info, appenders: [nowhere]}").contains("nowhere"));
        let absent = Config { log_config: Some("/nowhere/log4rs.yaml".into()), ..Config::default() };
        assert!(init(&absent, stderr()).unwrap_err().cause.contains("/nowhere/log4rs.yaml"));
    }

    #[test]
    fn a_file_replaces_the_default_and_may_be_replaced() {
        let rolling = "
            appenders:
              file:
                kind: rolling_file
                path: FOLDER/out.log
                encoder: {pattern: '{l} {t} {m}{n}'}
                policy:
                  trigger: {kind: size, limit: 1 mb}
                  roller: {kind: fixed_window, pattern: 'FOLDER/out.{}.gz', count: 2}
            root: {level: debug, appenders: [file]}";
        for _ in 0..2 {
            let (folder, config) = file(rolling);
            init(&config, stderr()).unwrap();
            log::debug!(target: "logging_test", "one line");
            let text = std::fs::read_to_string(folder.path().join("out.log")).unwrap();
            assert!(text.contains("DEBUG logging_test one line\n"), "{text}");
            log::warn!(target: "logging_test", "unable to open '{}'", "T1\nERROR forged\u{1b}[2J\u{202e}\0");
            let text = std::fs::read_to_string(folder.path().join("out.log")).unwrap();
            let line = "WARN logging_test unable to open 'T1\\nERROR forged\\u{1b}[2J\\u{202e}\\u{0}'\n";
            assert!(text.contains(line), "{text}");
        }
        init(&Config { log_level: "warn".to_owned(), ..Config::default() }, stderr()).unwrap();
        assert_eq!(log::max_level(), LevelFilter::Warn);
    }
}
