//! The bridge to Java: each native of `org.nasbackup.Native` reads its request, runs the operation, makes the result.
//! It is no API of its own: names, nulls and codes are those of `operation`.
#![allow(unsafe_code)]

mod failure;
mod listener;
mod log;
mod read;
#[cfg(feature = "test-hooks")]
mod test_hooks;
mod types;
mod write;

use jni::objects::{JClass, JObjectArray, JString};
use jni::sys::jboolean;
use jni::{Env, NativeMethod, native_method};

use crate::config::Config;
use crate::error::{Code, Error};
use crate::operation;
use failure::{Failure, ThrowNasBackupException};
use listener::with_listener;
use types::{
    JBackupStatsRequest, JBackupStatsResult, JConfiguration, JDeleteBackupRequest, JDeleteBackupResult,
    JFlattenRequest, JFlattenResult, JJobStatus, JProgressListener, JRebaseBackupRequest, JRebasePointRequest,
    JRebaseResult, JRestorePointRequest, JRestorePointResult, JSignPointsRequest, JSignPointsResult,
    JTakeBackupRequest, JTakeBackupResult, JVerifyChainRequest, JVerifyChainResult,
};

const _: &[NativeMethod] = &[
    native_method! {
        java_type = org.nasbackup.Native,
        type_map = { JConfiguration => org.nasbackup.Configuration },
        static extern fn init(version: JString, configuration: JConfiguration),
        error_policy = ThrowNasBackupException,
    },
    native_method! {
        java_type = org.nasbackup.Native,
        type_map = { JConfiguration => org.nasbackup.Configuration },
        static extern fn check(version: JString, configuration: JConfiguration),
        error_policy = ThrowNasBackupException,
    },
    native_method! {
        java_type = org.nasbackup.Native,
        static extern fn version() -> JString,
        error_policy = ThrowNasBackupException,
    },
    native_method! {
        java_type = org.nasbackup.Native,
        static extern fn knows_nosymfollow() -> jboolean,
        error_policy = ThrowNasBackupException,
    },
    native_method! {
        java_type = org.nasbackup.Native,
        type_map = {
            JTakeBackupRequest => org.nasbackup.TakeBackupRequest,
            JProgressListener => org.nasbackup.ProgressListener,
            JTakeBackupResult => org.nasbackup.TakeBackupResult,
        },
        static extern fn take_backup(request: JTakeBackupRequest, listener: JProgressListener) -> JTakeBackupResult,
        error_policy = ThrowNasBackupException,
    },
    native_method! {
        java_type = org.nasbackup.Native,
        type_map = {
            JRebaseBackupRequest => org.nasbackup.RebaseBackupRequest,
            JProgressListener => org.nasbackup.ProgressListener,
            JRebaseResult => org.nasbackup.RebaseResult,
        },
        static extern fn rebase_backup(request: JRebaseBackupRequest, listener: JProgressListener) -> JRebaseResult,
        error_policy = ThrowNasBackupException,
    },
    native_method! {
        java_type = org.nasbackup.Native,
        type_map = {
            JRebasePointRequest => org.nasbackup.RebasePointRequest,
            JProgressListener => org.nasbackup.ProgressListener,
            JRebaseResult => org.nasbackup.RebaseResult,
        },
        static extern fn rebase_point(request: JRebasePointRequest, listener: JProgressListener) -> JRebaseResult,
        error_policy = ThrowNasBackupException,
    },
    native_method! {
        java_type = org.nasbackup.Native,
        type_map = {
            JVerifyChainRequest => org.nasbackup.VerifyChainRequest,
            JProgressListener => org.nasbackup.ProgressListener,
            JVerifyChainResult => org.nasbackup.VerifyChainResult,
        },
        static extern fn verify_chain(request: JVerifyChainRequest, listener: JProgressListener) -> JVerifyChainResult,
        error_policy = ThrowNasBackupException,
    },
    native_method! {
        java_type = org.nasbackup.Native,
        type_map = {
            JVerifyChainRequest => org.nasbackup.VerifyChainRequest,
            JProgressListener => org.nasbackup.ProgressListener,
            JVerifyChainResult => org.nasbackup.VerifyChainResult,
        },
        static extern fn verify_data(request: JVerifyChainRequest, listener: JProgressListener) -> JVerifyChainResult,
        error_policy = ThrowNasBackupException,
    },
    native_method! {
        java_type = org.nasbackup.Native,
        type_map = {
            JFlattenRequest => org.nasbackup.FlattenRequest,
            JProgressListener => org.nasbackup.ProgressListener,
            JFlattenResult => org.nasbackup.FlattenResult,
        },
        static extern fn flatten(request: JFlattenRequest, listener: JProgressListener) -> JFlattenResult,
        error_policy = ThrowNasBackupException,
    },
    native_method! {
        java_type = org.nasbackup.Native,
        type_map = {
            JRestorePointRequest => org.nasbackup.RestorePointRequest,
            JProgressListener => org.nasbackup.ProgressListener,
            JRestorePointResult => org.nasbackup.RestorePointResult,
        },
        static extern fn restore_point(
            request: JRestorePointRequest,
            listener: JProgressListener,
        ) -> JRestorePointResult,
        error_policy = ThrowNasBackupException,
    },
    native_method! {
        java_type = org.nasbackup.Native,
        type_map = {
            JDeleteBackupRequest => org.nasbackup.DeleteBackupRequest,
            JDeleteBackupResult => org.nasbackup.DeleteBackupResult,
        },
        static extern fn delete_backup(request: JDeleteBackupRequest) -> JDeleteBackupResult,
        error_policy = ThrowNasBackupException,
    },
    native_method! {
        java_type = org.nasbackup.Native,
        type_map = {
            JSignPointsRequest => org.nasbackup.SignPointsRequest,
            JProgressListener => org.nasbackup.ProgressListener,
            JSignPointsResult => org.nasbackup.SignPointsResult,
        },
        static extern fn sign_points(request: JSignPointsRequest, listener: JProgressListener) -> JSignPointsResult,
        error_policy = ThrowNasBackupException,
    },
    native_method! {
        java_type = org.nasbackup.Native,
        type_map = {
            JBackupStatsRequest => org.nasbackup.BackupStatsRequest,
            JBackupStatsResult => org.nasbackup.BackupStatsResult,
        },
        static extern fn backup_stats(request: JBackupStatsRequest) -> JBackupStatsResult,
        error_policy = ThrowNasBackupException,
    },
    native_method! {
        java_type = org.nasbackup.Native,
        type_map = { JJobStatus => org.nasbackup.JobStatus },
        static extern fn jobs() -> JJobStatus[],
        error_policy = ThrowNasBackupException,
    },
    native_method! {
        java_type = org.nasbackup.Native,
        static extern fn cancel(job: JString) -> jboolean,
        error_policy = ThrowNasBackupException,
    },
];

fn init<'l>(
    env: &mut Env<'l>,
    class: JClass<'l>,
    version: JString<'l>,
    configuration: JConfiguration<'l>,
) -> Result<(), Failure> {
    let configuration = configured(env, &class, version, &configuration)?;
    Ok(operation::init(configuration, Box::new(log::ToJava))?)
}

fn check<'l>(
    env: &mut Env<'l>,
    class: JClass<'l>,
    version: JString<'l>,
    configuration: JConfiguration<'l>,
) -> Result<(), Failure> {
    let configuration = configured(env, &class, version, &configuration)?;
    Ok(operation::check(configuration)?)
}

/// The versions are compared before anything else of the Java side is looked at; only the signatures of `init` and `check`
/// and the exception's constructor have to stay the same from version to version.
fn configured<'l>(
    env: &mut Env<'l>,
    class: &JClass<'l>,
    version: JString<'l>,
    configuration: &JConfiguration<'l>,
) -> Result<Config, Failure> {
    let java = read::text("version", version, env)?.unwrap_or_else(|| "unknown".to_owned());
    if java != operation::version() {
        let cause = format!(
            "the Java side is {java}, libnasbackup.so is {}; install both of one version and restart the process",
            operation::version()
        );
        return Err(Error::new(Code::VersionMismatch, "start the native library", cause).into());
    }
    types::warm(env, class)?;
    read::configuration(configuration, env)
}

fn version<'l>(env: &mut Env<'l>, _: JClass<'l>) -> Result<JString<'l>, Failure> {
    Ok(JString::from_str(env, operation::version())?)
}

fn take_backup<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    request: JTakeBackupRequest<'l>,
    listener: JProgressListener<'l>,
) -> Result<JTakeBackupResult<'l>, Failure> {
    let request = read::take_backup(&request, env)?;
    let taken = with_listener(env, &listener, |listener| operation::take_backup::run(request, listener))?;
    Ok(write::taken_backup(&taken, env)?)
}

fn rebase_backup<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    request: JRebaseBackupRequest<'l>,
    listener: JProgressListener<'l>,
) -> Result<JRebaseResult<'l>, Failure> {
    let request = read::rebase_backup(&request, env)?;
    let rebased = with_listener(env, &listener, |listener| operation::rebase_backup::run(request, listener))?;
    Ok(write::rebased(&rebased, env)?)
}

fn rebase_point<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    request: JRebasePointRequest<'l>,
    listener: JProgressListener<'l>,
) -> Result<JRebaseResult<'l>, Failure> {
    let request = read::rebase_point(&request, env)?;
    let rebased = with_listener(env, &listener, |listener| operation::rebase_point::run(request, listener))?;
    Ok(write::rebased(&rebased, env)?)
}

fn verify_chain<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    request: JVerifyChainRequest<'l>,
    listener: JProgressListener<'l>,
) -> Result<JVerifyChainResult<'l>, Failure> {
    let request = read::verify_chain(&request, env)?;
    let verified = with_listener(env, &listener, |listener| operation::verify_chain::run(request, listener))?;
    Ok(write::verified(&verified, env)?)
}

fn verify_data<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    request: JVerifyChainRequest<'l>,
    listener: JProgressListener<'l>,
) -> Result<JVerifyChainResult<'l>, Failure> {
    let request = read::verify_chain(&request, env)?;
    let verified = with_listener(env, &listener, |listener| operation::verify_data::run(request, listener))?;
    Ok(write::verified(&verified, env)?)
}

fn flatten<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    request: JFlattenRequest<'l>,
    listener: JProgressListener<'l>,
) -> Result<JFlattenResult<'l>, Failure> {
    let request = read::flatten(&request, env)?;
    let flattened = with_listener(env, &listener, |listener| operation::flatten::run(request, listener))?;
    Ok(write::flattened(flattened, env)?)
}

fn restore_point<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    request: JRestorePointRequest<'l>,
    listener: JProgressListener<'l>,
) -> Result<JRestorePointResult<'l>, Failure> {
    let request = read::restore_point(&request, env)?;
    let restored = with_listener(env, &listener, |listener| operation::restore_point::run(request, listener))?;
    Ok(write::restored(&restored, env)?)
}

fn delete_backup<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    request: JDeleteBackupRequest<'l>,
) -> Result<JDeleteBackupResult<'l>, Failure> {
    let deleted = operation::delete_backup::run(read::delete_backup(&request, env)?)?;
    Ok(JDeleteBackupResult::new(env, write::long(deleted.freed_bytes))?)
}

fn sign_points<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    request: JSignPointsRequest<'l>,
    listener: JProgressListener<'l>,
) -> Result<JSignPointsResult<'l>, Failure> {
    let request = read::sign_points(&request, env)?;
    let signed = with_listener(env, &listener, |listener| operation::sign_points::run(request, listener))?;
    let [anew, kept, refused, busy] = [signed.signed, signed.kept, signed.refused, signed.busy].map(write::long);
    Ok(JSignPointsResult::new(env, anew, kept, refused, busy)?)
}

fn backup_stats<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    request: JBackupStatsRequest<'l>,
) -> Result<JBackupStatsResult<'l>, Failure> {
    let stats = operation::backup_stats::run(read::backup_stats(&request, env)?)?;
    Ok(JBackupStatsResult::new(env, write::long(stats.total_bytes), write::long(stats.used_bytes))?)
}

fn knows_nosymfollow<'l>(_: &mut Env<'l>, _: JClass<'l>) -> Result<jboolean, Failure> {
    Ok(operation::knows_nosymfollow()?)
}

fn jobs<'l>(env: &mut Env<'l>, _: JClass<'l>) -> Result<JObjectArray<'l, JJobStatus<'l>>, Failure> {
    Ok(write::jobs(&operation::jobs(), env)?)
}

fn cancel<'l>(env: &mut Env<'l>, _: JClass<'l>, job: JString<'l>) -> Result<jboolean, Failure> {
    let job = read::text("job", job, env)?.ok_or_else(|| Error::invalid("job", "is missing"))?;
    Ok(operation::cancel(&job).found)
}
