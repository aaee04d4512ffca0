//! The bridge to Java: each native of `org.nasbackup.Native` hands texts to `operation`, as the C ABI does. It is no API of
//! its own: names, nulls and codes are those of `operation`.
#![allow(unsafe_code)]

mod failure;
mod listener;
mod log;
#[cfg(feature = "test-hooks")]
mod test_hooks;
mod text;
mod types;

use jni::objects::{JClass, JString};
use jni::sys::jboolean;
use jni::{Env, NativeMethod, native_method};

use crate::config::Config;
use crate::error::{Code, Error};
use crate::operation;
use failure::{Failure, ThrowNasBackupException};
use listener::with_listener;
use types::JProgressListener;

const _: &[NativeMethod] = &[
    native_method! {
        java_type = org.nasbackup.Native,
        static extern fn init(version: JString, configuration: JString),
        error_policy = ThrowNasBackupException,
    },
    native_method! {
        java_type = org.nasbackup.Native,
        static extern fn check(version: JString, configuration: JString),
        error_policy = ThrowNasBackupException,
    },
    native_method! {
        java_type = org.nasbackup.Native,
        static extern fn version() -> JString,
        error_policy = ThrowNasBackupException,
    },
    native_method! {
        java_type = org.nasbackup.Native,
        type_map = { JProgressListener => org.nasbackup.ProgressListener },
        static extern fn call(operation: JString, request: JString, listener: JProgressListener) -> JString,
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
    configuration: JString<'l>,
) -> Result<(), Failure> {
    let configuration = configured(env, &class, version, configuration)?;
    Ok(operation::init(configuration, Box::new(log::ToJava))?)
}

fn check<'l>(
    env: &mut Env<'l>,
    class: JClass<'l>,
    version: JString<'l>,
    configuration: JString<'l>,
) -> Result<(), Failure> {
    let configuration = configured(env, &class, version, configuration)?;
    Ok(operation::check(configuration)?)
}

/// Compares the versions before it looks at anything else of the Java side. Only the signatures of `init` and `check` and the
/// exception's constructor have to stay the same from version to version. A null configuration has the defaults.
fn configured<'l>(
    env: &mut Env<'l>,
    class: &JClass<'l>,
    version: JString<'l>,
    configuration: JString<'l>,
) -> Result<Config, Failure> {
    let java = text::read("version", version, env)?.unwrap_or_else(|| "unknown".to_owned());
    if java != operation::version() {
        let cause = format!(
            "the Java side is {java}, libnasbackup.so is {}; install both of one version and restart the process",
            operation::version()
        );
        return Err(Error::new(Code::VersionMismatch, "start the native library", cause).into());
    }
    types::warm(env, class)?;
    let configuration = text::read("configuration", configuration, env)?;
    Ok(operation::configuration(configuration.as_deref().unwrap_or("{}"))?)
}

fn version<'l>(env: &mut Env<'l>, _: JClass<'l>) -> Result<JString<'l>, Failure> {
    Ok(JString::from_str(env, operation::version())?)
}

fn call<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    operation: JString<'l>,
    request: JString<'l>,
    listener: JProgressListener<'l>,
) -> Result<JString<'l>, Failure> {
    let operation = text::given("operation", operation, env)?;
    let request = text::given("request", request, env)?;
    let reply = with_listener(env, &listener, |listener| operation::call(&operation, &request, listener))?;
    Ok(JString::from_str(env, reply.to_string())?)
}

fn cancel<'l>(env: &mut Env<'l>, _: JClass<'l>, job: JString<'l>) -> Result<jboolean, Failure> {
    Ok(operation::cancel(&text::given("job", job, env)?).found)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use serde::de::DeserializeOwned;

    use crate::config::Config;
    use crate::nas::repository::Repository;
    use crate::operation::backup_stats::BackupStatsRequest;
    use crate::operation::delete_backup::DeleteBackupRequest;
    use crate::operation::flatten::{FlattenRequest, OutputRequest};
    use crate::operation::rebase::{RebaseBackupRequest, RebasePointRequest};
    use crate::operation::restore_point::{RestoreOutput, RestorePointRequest, VolumeRequest};
    use crate::operation::sign_points::SignPointsRequest;
    use crate::operation::take_backup::{BackingFile, StoppedDisk, TakeBackupRequest};
    use crate::operation::verify_chain::VerifyChainRequest;

    /// The fields that C may name, as serde lists them when it refuses another.
    fn fields_of_c<T: DeserializeOwned>() -> BTreeSet<String> {
        let refusal = serde_json::from_str::<T>(r#"{"?":0}"#).err().unwrap().to_string();
        refusal.split('`').skip(3).step_by(2).map(str::to_owned).collect()
    }

    /// The getters of a class of the facade, but for those that every class has.
    fn getters_of_java(class: &str) -> BTreeSet<String> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("java/nasbackup/src/main/java/org/nasbackup");
        let source = std::fs::read_to_string(file.join(class).with_extension("java")).unwrap();
        let getters = source.lines().filter_map(|line| line.trim().strip_prefix("public ")?.strip_suffix("() {"));
        let names =
            getters.filter(|getter| !getter.starts_with("static ")).filter_map(|getter| getter.split(' ').next_back());
        names.filter(|name| !["toBuilder", "toString", "build"].contains(name)).map(str::to_owned).collect()
    }

    /// Java writes all of its fields, and the library refuses one that it does not know: this finds it before a call does, and a
    /// field that Java lacks.
    #[test]
    fn java_and_c_have_the_same_fields() {
        for (class, fields) in [
            ("BackingFile", fields_of_c::<BackingFile>()),
            ("BackupStatsRequest", fields_of_c::<BackupStatsRequest>()),
            ("Configuration", fields_of_c::<Config>()),
            ("DeleteBackupRequest", fields_of_c::<DeleteBackupRequest>()),
            ("FlattenRequest", fields_of_c::<FlattenRequest>()),
            ("Output", fields_of_c::<OutputRequest>()),
            ("RebaseBackupRequest", fields_of_c::<RebaseBackupRequest>()),
            ("RebasePointRequest", fields_of_c::<RebasePointRequest>()),
            ("Repository", fields_of_c::<Repository>()),
            ("RestoreOutput", fields_of_c::<RestoreOutput>()),
            ("RestorePointRequest", fields_of_c::<RestorePointRequest>()),
            ("RestoreVolume", fields_of_c::<VolumeRequest>()),
            ("SignPointsRequest", fields_of_c::<SignPointsRequest>()),
            ("StoppedDisk", fields_of_c::<StoppedDisk>()),
            ("TakeBackupRequest", fields_of_c::<TakeBackupRequest>()),
            ("VerifyChainRequest", fields_of_c::<VerifyChainRequest>()),
        ] {
            assert_eq!(getters_of_java(class), fields, "{class}");
        }
    }
}
