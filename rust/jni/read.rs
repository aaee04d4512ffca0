//! From Java's requests to the plain ones. A null field is `None`; what a field may hold is checked by the core.

use jni::Env;
use jni::objects::{JList, JObject, JString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::failure::Failure;
use super::types::{
    JBackingFile, JBackupStatsRequest, JConfiguration, JDeleteBackupRequest, JFlattenRequest, JOutput,
    JRebaseBackupRequest, JRebasePointRequest, JRepository, JRestoreOutput, JRestorePointRequest, JRestoreVolume,
    JSignPointsRequest, JStoppedDisk, JTakeBackupRequest, JVerifyChainRequest,
};
use crate::config::Config;
use crate::error::Error;
use crate::nas::repository::Repository;
use crate::operation::backup_stats::BackupStatsRequest;
use crate::operation::delete_backup::DeleteBackupRequest;
use crate::operation::flatten::{FlattenRequest, OutputRequest};
use crate::operation::rebase_backup::RebaseBackupRequest;
use crate::operation::rebase_point::RebasePointRequest;
use crate::operation::restore_point::{RestoreOutput, RestorePointRequest, VolumeRequest};
use crate::operation::sign_points::SignPointsRequest;
use crate::operation::take_backup::{BackingFile, StoppedDisk, TakeBackupRequest};
use crate::operation::verify_chain::VerifyChainRequest;

/// Room for the local references of one request without its lists.
const FRAME: usize = 32;

type Result<T> = std::result::Result<T, Failure>;

/// A text, or `None` for null. Half a surrogate pair is refused: the name meant by it would silently be another.
pub(super) fn text(field: &str, value: JString<'_>, env: &Env<'_>) -> Result<Option<String>> {
    if value.is_null() {
        return Ok(None);
    }
    let text = value.try_to_string(env)?;
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return Err(Error::invalid(field, "holds half a surrogate pair or U+FFFD").into());
    }
    Ok(Some(text))
}

pub(super) fn take_backup(request: &JTakeBackupRequest<'_>, env: &Env<'_>) -> Result<TakeBackupRequest> {
    given(request)?;
    env.with_local_frame(FRAME, |env| {
        let mode = request.mode(env)?;
        let engine = request.engine(env)?;
        Ok(TakeBackupRequest {
            job: text("job", request.job(env)?, env)?,
            vm_name: text("vmName", request.vm_name(env)?, env)?,
            backup_path: text("backupPath", request.backup_path(env)?, env)?,
            repository: repository(request.repository(env)?, env)?,
            mode: if mode.is_null() { None } else { text("mode", mode.text(env)?, env)? },
            bitmap_new: text("bitmapNew", request.bitmap_new(env)?, env)?,
            bitmap_parent: text("bitmapParent", request.bitmap_parent(env)?, env)?,
            parent_paths: list("parentPaths", request.parent_paths(env)?, env, string)?,
            disks: list("disks", request.disks(env)?, env, stopped_disk)?,
            quiesce: Some(request.quiesce(env)?),
            wait_seconds: Some(unsigned("waitSeconds", request.wait_seconds(env)?)?),
            engine: if engine.is_null() { None } else { text("engine", engine.text(env)?, env)? },
            rate_limit: Some(unsigned("rateLimit", request.rate_limit(env)?)?),
            exclude_disks: list("excludeDisks", request.exclude_disks(env)?, env, string)?,
        })
    })
}

pub(super) fn rebase_backup(request: &JRebaseBackupRequest<'_>, env: &Env<'_>) -> Result<RebaseBackupRequest> {
    given(request)?;
    env.with_local_frame(FRAME, |env| {
        Ok(RebaseBackupRequest {
            job: text("job", request.job(env)?, env)?,
            repository: repository(request.repository(env)?, env)?,
            target: text("target", request.target(env)?, env)?,
            new_backing: text("newBacking", request.new_backing(env)?, env)?,
        })
    })
}

pub(super) fn rebase_point(request: &JRebasePointRequest<'_>, env: &Env<'_>) -> Result<RebasePointRequest> {
    given(request)?;
    env.with_local_frame(FRAME, |env| {
        Ok(RebasePointRequest {
            job: text("job", request.job(env)?, env)?,
            repository: repository(request.repository(env)?, env)?,
            backup_path: text("backupPath", request.backup_path(env)?, env)?,
            new_parent: text("newParent", request.new_parent(env)?, env)?,
        })
    })
}

pub(super) fn verify_chain(request: &JVerifyChainRequest<'_>, env: &Env<'_>) -> Result<VerifyChainRequest> {
    given(request)?;
    env.with_local_frame(FRAME, |env| {
        Ok(VerifyChainRequest {
            job: text("job", request.job(env)?, env)?,
            repository: repository(request.repository(env)?, env)?,
            backup_path: text("backupPath", request.backup_path(env)?, env)?,
            point_id: text("pointId", request.point_id(env)?, env)?,
        })
    })
}

pub(super) fn flatten(request: &JFlattenRequest<'_>, env: &Env<'_>) -> Result<FlattenRequest> {
    given(request)?;
    env.with_local_frame(FRAME, |env| {
        Ok(FlattenRequest {
            job: text("job", request.job(env)?, env)?,
            repository: repository(request.repository(env)?, env)?,
            backup_path: text("backupPath", request.backup_path(env)?, env)?,
            point_id: text("pointId", request.point_id(env)?, env)?,
            volume: text("volume", request.volume(env)?, env)?,
            output: output(&request.output(env)?, env)?,
        })
    })
}

pub(super) fn restore_point(request: &JRestorePointRequest<'_>, env: &Env<'_>) -> Result<RestorePointRequest> {
    given(request)?;
    env.with_local_frame(FRAME, |env| {
        let verify = request.verify(env)?;
        let verify = if verify.is_null() { None } else { text("verify", verify.text(env)?, env)? };
        Ok(RestorePointRequest {
            job: text("job", request.job(env)?, env)?,
            repository: repository(request.repository(env)?, env)?,
            backup_path: text("backupPath", request.backup_path(env)?, env)?,
            point_id: text("pointId", request.point_id(env)?, env)?,
            volumes: list("volumes", request.volumes(env)?, env, restore_volume)?,
            verify: constant("verify", verify)?,
            keep_old: Some(request.keep_old(env)?),
            keep_old_in: text("keepOldIn", request.keep_old_in(env)?, env)?,
            rate_limit: Some(unsigned("rateLimit", request.rate_limit(env)?)?),
        })
    })
}

fn restore_volume<'l>(element: JObject<'l>, field: &str, env: &mut Env<'l>) -> Result<VolumeRequest> {
    let volume = env.cast_local::<JRestoreVolume>(element)?;
    Ok(VolumeRequest {
        volume: text(&format!("{field}.volume"), volume.volume(env)?, env)?,
        serial: text(&format!("{field}.serial"), volume.serial(env)?, env)?,
        file: text(&format!("{field}.file"), volume.file(env)?, env)?,
        output: restore_output(&volume.output(env)?, &format!("{field}.output"), env)?,
    })
}

fn restore_output(java: &JRestoreOutput<'_>, field: &str, env: &mut Env<'_>) -> Result<Option<RestoreOutput>> {
    if java.is_null() {
        return Ok(None);
    }
    let field = |name: &str| format!("{field}.{name}");
    let format = java.format(env)?;
    let format = if format.is_null() { None } else { text(&field("format"), format.text(env)?, env)? };
    let room = java.preallocation(env)?;
    let room = if room.is_null() { None } else { text(&field("preallocation"), room.text(env)?, env)? };
    Ok(Some(RestoreOutput {
        path: text(&field("path"), java.path(env)?, env)?,
        format: constant(&field("format"), format)?,
        size: Some(unsigned(&field("size"), java.size(env)?)?),
        cluster_size: Some(unsigned(&field("clusterSize"), java.cluster_size(env)?)?),
        preallocation: constant(&field("preallocation"), room)?,
    }))
}

/// The constant of a plain enum that has this text, as the C ABI takes it.
fn constant<T: DeserializeOwned>(field: &str, text: Option<String>) -> Result<Option<T>> {
    let constant = text.map(|text| serde_json::from_value(Value::String(text))).transpose();
    constant.map_err(|error| Error::invalid(field, error).into())
}

fn output(java: &JOutput<'_>, env: &mut Env<'_>) -> Result<Option<OutputRequest>> {
    if java.is_null() {
        return Ok(None);
    }
    let format = java.format(env)?;
    let format = if format.is_null() { None } else { text("output.format", format.text(env)?, env)? };
    Ok(Some(OutputRequest {
        path: text("output.path", java.path(env)?, env)?,
        format: constant("output.format", format)?,
    }))
}

pub(super) fn delete_backup(request: &JDeleteBackupRequest<'_>, env: &Env<'_>) -> Result<DeleteBackupRequest> {
    given(request)?;
    env.with_local_frame(FRAME, |env| {
        Ok(DeleteBackupRequest {
            job: text("job", request.job(env)?, env)?,
            repository: repository(request.repository(env)?, env)?,
            backup_path: text("backupPath", request.backup_path(env)?, env)?,
        })
    })
}

pub(super) fn backup_stats(request: &JBackupStatsRequest<'_>, env: &Env<'_>) -> Result<BackupStatsRequest> {
    given(request)?;
    env.with_local_frame(FRAME, |env| {
        Ok(BackupStatsRequest {
            job: text("job", request.job(env)?, env)?,
            repository: repository(request.repository(env)?, env)?,
        })
    })
}

pub(super) fn sign_points(request: &JSignPointsRequest<'_>, env: &Env<'_>) -> Result<SignPointsRequest> {
    given(request)?;
    env.with_local_frame(FRAME, |env| {
        Ok(SignPointsRequest {
            job: text("job", request.job(env)?, env)?,
            repository: repository(request.repository(env)?, env)?,
            instance: text("instance", request.instance(env)?, env)?,
            trust_unsigned: Some(request.trust_unsigned(env)?),
        })
    })
}

/// Goes the way of the C ABI, which knows the defaults and the texts of the enums.
pub(super) fn configuration(java: &JConfiguration<'_>, env: &Env<'_>) -> Result<Config> {
    if java.is_null() {
        return Ok(Config::default());
    }
    let mut keys = Map::new();
    env.with_local_frame(FRAME, |env| {
        let engine = java.engine(env)?;
        let engine = if engine.is_null() { JString::null() } else { engine.text(env)? };
        let quiesce_failure = java.quiesce_failure(env)?;
        let quiesce_failure = if quiesce_failure.is_null() { JString::null() } else { quiesce_failure.text(env)? };
        for (key, value) in [
            ("connectionUri", java.connection_uri(env)?),
            ("stateDir", java.state_dir(env)?),
            ("mountDir", java.mount_dir(env)?),
            ("scratchDir", java.scratch_dir(env)?),
            ("engine", engine),
            ("logConfig", java.log_config(env)?),
            ("logLevel", java.log_level(env)?),
            ("quiesceFailure", quiesce_failure),
            ("fileMode", java.file_mode(env)?),
            ("folderMode", java.folder_mode(env)?),
            ("keyFile", java.key_file(env)?),
        ] {
            if let Some(value) = text(key, value, env)? {
                keys.insert(key.to_owned(), Value::String(value));
            }
        }
        for (key, value) in [
            ("rateLimit", java.rate_limit(env)?),
            ("hostRateLimit", java.host_rate_limit(env)?),
            ("parallelBackups", java.parallel_backups(env)?),
            ("scratchPerVm", java.scratch_per_vm(env)?),
            ("scratchPerHost", java.scratch_per_host(env)?),
            ("freezeSeconds", java.freeze_seconds(env)?),
            ("mountKeepSeconds", java.mount_keep_seconds(env)?),
        ] {
            keys.insert(key.to_owned(), unsigned(key, value)?.into());
        }
        if let Some(points) = list("freezeMountPoints", java.freeze_mount_points(env)?, env, string)? {
            keys.insert("freezeMountPoints".to_owned(), points.into());
        }
        Ok::<_, Failure>(())
    })?;
    Config::deserialize(Value::Object(keys)).map_err(|e| Error::invalid("configuration", e).into())
}

fn given(request: &JObject<'_>) -> Result<()> {
    if request.is_null() { Err(Error::invalid("request", "is missing").into()) } else { Ok(()) }
}

fn repository(java: JRepository<'_>, env: &mut Env<'_>) -> Result<Option<Repository>> {
    if java.is_null() {
        return Ok(None);
    }
    Ok(Some(Repository {
        kind: text("repository.type", java.kind(env)?, env)?,
        address: text("repository.address", java.address(env)?, env)?,
        options: text("repository.options", java.options(env)?, env)?,
    }))
}

fn string<'l>(element: JObject<'l>, field: &str, env: &mut Env<'l>) -> Result<String> {
    let string = env.cast_local::<JString>(element)?;
    Ok(text(field, string, env)?.unwrap_or_default())
}

fn stopped_disk<'l>(element: JObject<'l>, field: &str, env: &mut Env<'l>) -> Result<StoppedDisk> {
    let disk = env.cast_local::<JStoppedDisk>(element)?;
    Ok(StoppedDisk {
        path: text(&format!("{field}.path"), disk.path(env)?, env)?,
        format: text(&format!("{field}.format"), disk.format(env)?, env)?,
        backing: list(&format!("{field}.backing"), disk.backing(env)?, env, backing_file)?,
    })
}

fn backing_file<'l>(element: JObject<'l>, field: &str, env: &mut Env<'l>) -> Result<BackingFile> {
    let file = env.cast_local::<JBackingFile>(element)?;
    Ok(BackingFile {
        path: text(&format!("{field}.path"), file.path(env)?, env)?,
        format: text(&format!("{field}.format"), file.format(env)?, env)?,
    })
}

/// Each element in a frame of its own, so that a long list does not pile up local references. `read` gets no null.
fn list<T>(
    field: &str,
    java: JList<'_>,
    env: &mut Env<'_>,
    read: impl for<'e> Fn(JObject<'e>, &str, &mut Env<'e>) -> Result<T>,
) -> Result<Option<Vec<T>>> {
    if java.is_null() {
        return Ok(None);
    }
    let mut elements = Vec::new();
    for index in 0..java.size(env)? {
        let field = format!("{field}[{index}]");
        elements.push(env.with_local_frame(FRAME, |env| {
            let element = java.get(env, index)?;
            if element.is_null() {
                return Err(Failure::from(Error::invalid(&field, "is null")));
            }
            read(element, &field, env)
        })?);
    }
    Ok(Some(elements))
}

fn unsigned(field: &str, value: i64) -> Result<u64> {
    u64::try_from(value).map_err(|_| Error::invalid(field, "is negative").into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

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

    /// The compiler sees to it that what Java is asked for is a field of the plain request, and all of them: this here
    /// that Java has no field which nobody asks it for.
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
