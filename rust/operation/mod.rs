//! The operations of the contract, one file or folder each: request, check, run. Java and C reach them here.

pub mod backup_stats;
pub mod boot_point;
mod ceph;
mod checked_chain;
pub mod delete_backup;
pub mod doctor;
pub mod flatten;
pub mod free;
pub mod list_points;
pub mod mount_point;
mod observed;
pub mod point_files;
mod reading;
pub mod rebase;
pub mod restore_point;
pub mod show_point;
pub mod sign_points;
pub mod take_backup;
pub mod verified;
pub mod verify_chain;
pub mod verify_data;

use std::sync::Arc;

use log4rs::append::Append;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::{self, Config};
use crate::error::{Error, Result};
use crate::nas::session;
use crate::second_table;
use crate::work::job::{self, JobStatus, Listener};
use crate::{host, libvirt, logging, sys};
pub use observed::observed;
use rebase::{RebaseBackupRequest, RebasePointRequest};

/// Result of `cancel`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cancelled {
    /// A job of that id was running and has been asked to stop.
    pub found: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CancelRequest {
    job: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoFields {}

/// The version of this library, which the Java side has to share.
pub fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Checks a configuration and puts it, and its logging, into force. Lines go to `default` unless it names a log4rs file. Clears
/// what killed processes have left on this host.
pub fn init(config: Config, default: Box<dyn Append>) -> Result<()> {
    prepare(config, default)?;
    take_backup::recover::at_load(config::current());
    boot_point::clear_left(config::current());
    // not before: what is looked for lies on the mounts that were left
    session::clear_left(&config::current());
    host::sweep_posted(&config::current().state_dir);
    Ok(())
}

/// Like `init`, but leaves what killed processes left alone: for the command, which works beside an agent.
pub fn prepare(config: Config, default: Box<dyn Append>) -> Result<()> {
    let config = config.check()?;
    config.check_folders()?;
    sys::keep_a_thread_apart();
    logging::init(&config, default)?;
    second_table::prepare();
    log::info!("nasbackup {}, {}, state in '{}'", version(), config.connection_uri, config.state_dir.display());
    config::set(config);
    host::post_jobs();
    Ok(())
}

/// Refuses what [`init`] would refuse, a log4rs file apart, and has no effect: for who only looks at a host.
pub fn check(config: Config) -> Result<()> {
    config.check()?.check_folders()
}

/// The running jobs.
pub fn jobs() -> Vec<JobStatus> {
    job::running()
}

/// Asks a running job to stop.
pub fn cancel(job: &str) -> Cancelled {
    Cancelled { found: job::cancel(job) }
}

/// The settings that `init` and `check` are given as JSON.
pub fn configuration(json: &str) -> Result<Config> {
    parse(&config::given(parse(json)?)?.to_string())
}

/// Runs the operation `name` on a JSON request; the way in for C and Java.
pub fn call(name: &str, request: &str, listener: Listener<'_>) -> Result<serde_json::Value> {
    observed(|| dispatch(name, request, listener))
}

fn dispatch(name: &str, request: &str, listener: Listener<'_>) -> Result<serde_json::Value> {
    match name {
        "init" => reply(&init(configuration(request)?, logging::stderr())?),
        "takeBackup" => reply(&take_backup::run(parse(request)?, listener)?),
        "rebaseBackup" => reply(&rebase::run(parse::<RebaseBackupRequest>(request)?.check()?, listener)?),
        "rebasePoint" => reply(&rebase::run(parse::<RebasePointRequest>(request)?.check()?, listener)?),
        "flatten" => reply(&flatten::run(parse(request)?, listener)?),
        "restorePoint" => reply(&restore_point::run(parse(request)?, listener)?),
        "verifyChain" => reply(&verify_chain::run(parse(request)?, listener)?),
        "verifyData" => reply(&verify_data::run(parse(request)?, listener)?),
        "deleteBackup" => reply(&delete_backup::run(parse(request)?)?),
        "listPoints" => reply(&list_points::run(parse(request)?, listener)?),
        "showPoint" => reply(&show_point::run(parse(request)?, listener)?),
        "bootPoint" => reply(&boot_point::run(parse(request)?, listener)?),
        "signPoints" => reply(&sign_points::run(parse(request)?, listener)?),
        "backupStats" => reply(&backup_stats::run(parse(request)?)?),
        "doctor" => {
            // these settings do not come into force
            let config = Arc::new(configuration(request)?.check()?);
            // what libvirt answers is in what doctor tells, and its caller asks libvirt for nothing else
            libvirt::be_silent();
            reply(&doctor::host(&config))
        }
        "jobs" => parse::<NoFields>(request).and_then(|_| reply(&jobs())),
        "cancel" => reply(&cancel(&parse::<CancelRequest>(request)?.job)),
        _ => Err(Error::invalid("operation", format!("'{name}' is not known"))),
    }
}

fn parse<T: DeserializeOwned>(json: &str) -> Result<T> {
    let mut from = serde_json::Deserializer::from_str(json);
    let value = serde_path_to_error::deserialize(&mut from).map_err(refused)?;
    from.end().map_err(|e| Error::invalid("request", e))?;
    Ok(value)
}

/// Names the field and what is wrong with it; below `repository` and `disks` not by value, which may be a secret.
fn refused(error: serde_path_to_error::Error<serde_json::Error>) -> Error {
    let field = error.path().to_string();
    let secret = ["repository", "disks"].iter().any(|holder| field.starts_with(holder));
    let known = !secret || error.inner().is_syntax() || error.inner().to_string().starts_with("unknown field");
    if known { Error::invalid(&field, error.inner()) } else { Error::invalid(&field, "is of another type") }
}

fn reply<T: Serialize>(result: &T) -> Result<serde_json::Value> {
    serde_json::to_value(result).map_err(|e| Error::new(crate::error::Code::Internal, "write the reply", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(operation: &str, request: &str) -> String {
        let error = call(operation, request, &mut |_| Ok(())).unwrap_err();
        assert_eq!(error.code, crate::error::Code::InvalidArgument, "{error}");
        error.cause
    }

    #[test]
    fn a_wrong_request_is_refused_by_field() {
        assert!(refused("takeBackup", r#"{"quiesce":"perhaps"}"#).starts_with("quiesce:"));
        assert!(refused("takeBackup", r#"{"repository":{"type":7}}"#).starts_with("repository.type:"));
        assert!(refused("takeBackup", r#"{"vmname":"x"}"#).contains("vmname"));
        assert!(refused("cancel", "{}").contains("job"));
        assert!(refused("jobs", r#"{"x":1}"#).contains('x'));
        assert!(refused("backup", "{}").contains("backup"));
        assert!(refused("jobs", "{} {}").starts_with("request:"));
        assert!(!refused("takeBackup", r#"{"repository":"nfs password=secret"}"#).contains("secret"));
        assert!(refused("takeBackup", r#"{"repository":{"address":"secret\ud83d"}}"#).contains("hex escape"));
        assert!(!refused("takeBackup", r#"{"disks":["rbd:p/i:key=secret"]}"#).contains("secret"));
    }

    #[test]
    fn jobs_and_cancel_answer_without_a_job() {
        assert_eq!(call("cancel", r#"{"job":"none"}"#, &mut |_| Ok(())).unwrap(), serde_json::json!({"found": false}));
        assert!(call("jobs", "{}", &mut |_| Ok(())).unwrap().is_array());
    }
}
