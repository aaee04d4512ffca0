//! The Java types that the bridge reads, makes and calls. Looked up once, at the start: a member that is missing or of
//! another signature fails there, and threads that know no class loader find them later.
// Constructors have as many arguments as their results have fields.
#![allow(clippy::too_many_arguments)]

use jni::objects::JClass;
use jni::refs::LoaderContext;
use jni::{Env, bind_java_type};

bind_java_type! {
    pub(super) JNative => org.nasbackup.Native,
    methods { static fn log(level: jint, logger: JString, line: JString), },
}

bind_java_type! {
    pub(super) JNasBackupException => org.nasbackup.NasBackupException,
    is_instance_of = { JThrowable },
    constructors {
        fn new(code: JString, step: JString, disk: JString, message: JString, leftovers: jboolean, cause: JThrowable),
    },
}

bind_java_type! {
    pub(super) JProgressListener => org.nasbackup.ProgressListener,
    type_map = { JJobStatus => org.nasbackup.JobStatus },
    methods { fn progress(status: JJobStatus), },
}

bind_java_type! {
    pub(super) JConfiguration => org.nasbackup.Configuration,
    type_map = { JEngine => org.nasbackup.Engine, JQuiesceFailure => org.nasbackup.QuiesceFailure },
    methods {
        fn connection_uri() -> JString,
        fn state_dir() -> JString,
        fn mount_dir() -> JString,
        fn scratch_dir() -> JString,
        fn engine() -> JEngine,
        fn rate_limit() -> jlong,
        fn host_rate_limit() -> jlong,
        fn parallel_backups() -> jlong,
        fn scratch_per_vm() -> jlong,
        fn scratch_per_host() -> jlong,
        fn log_config() -> JString,
        fn log_level() -> JString,
        fn quiesce_failure() -> JQuiesceFailure,
        fn freeze_seconds() -> jlong,
        fn freeze_mount_points() -> JList,
        fn mount_keep_seconds() -> jlong,
        fn file_mode() -> JString,
        fn folder_mode() -> JString,
        fn key_file() -> JString,
    },
}

bind_java_type! {
    pub(super) JRepository => org.nasbackup.Repository,
    methods {
        fn kind { sig = () -> JString, name = "type" },
        fn address() -> JString,
        fn options() -> JString,
    },
}

bind_java_type! {
    pub(super) JStoppedDisk => org.nasbackup.StoppedDisk,
    methods {
        fn path() -> JString,
        fn format() -> JString,
        fn backing() -> JList,
    },
}

bind_java_type! {
    pub(super) JBackingFile => org.nasbackup.BackingFile,
    methods {
        fn path() -> JString,
        fn format() -> JString,
    },
}

bind_java_type! {
    pub(super) JTakeBackupRequest => org.nasbackup.TakeBackupRequest,
    type_map = {
        JRepository => org.nasbackup.Repository,
        JMode => org.nasbackup.Mode,
        JEngine => org.nasbackup.Engine,
    },
    methods {
        fn job() -> JString,
        fn vm_name() -> JString,
        fn backup_path() -> JString,
        fn repository() -> JRepository,
        fn mode() -> JMode,
        fn bitmap_new() -> JString,
        fn bitmap_parent() -> JString,
        fn parent_paths() -> JList,
        fn disks() -> JList,
        fn quiesce() -> jboolean,
        fn wait_seconds() -> jlong,
        fn engine() -> JEngine,
        fn rate_limit() -> jlong,
        fn exclude_disks() -> JList,
    },
}

bind_java_type! {
    pub(super) JDeleteBackupRequest => org.nasbackup.DeleteBackupRequest,
    type_map = { JRepository => org.nasbackup.Repository },
    methods {
        fn job() -> JString,
        fn repository() -> JRepository,
        fn backup_path() -> JString,
    },
}

bind_java_type! {
    pub(super) JRebaseBackupRequest => org.nasbackup.RebaseBackupRequest,
    type_map = { JRepository => org.nasbackup.Repository },
    methods {
        fn job() -> JString,
        fn repository() -> JRepository,
        fn target() -> JString,
        fn new_backing() -> JString,
    },
}

bind_java_type! {
    pub(super) JRebasePointRequest => org.nasbackup.RebasePointRequest,
    type_map = { JRepository => org.nasbackup.Repository },
    methods {
        fn job() -> JString,
        fn repository() -> JRepository,
        fn backup_path() -> JString,
        fn new_parent() -> JString,
    },
}

bind_java_type! {
    pub(super) JVerifyChainRequest => org.nasbackup.VerifyChainRequest,
    type_map = { JRepository => org.nasbackup.Repository },
    methods {
        fn job() -> JString,
        fn repository() -> JRepository,
        fn backup_path() -> JString,
        fn point_id() -> JString,
    },
}

bind_java_type! {
    pub(super) JOutput => org.nasbackup.Output,
    type_map = { JOutputFormat => org.nasbackup.OutputFormat },
    methods {
        fn path() -> JString,
        fn format() -> JOutputFormat,
    },
}

bind_java_type! {
    pub(super) JFlattenRequest => org.nasbackup.FlattenRequest,
    type_map = { JRepository => org.nasbackup.Repository, JOutput => org.nasbackup.Output },
    methods {
        fn job() -> JString,
        fn repository() -> JRepository,
        fn backup_path() -> JString,
        fn point_id() -> JString,
        fn volume() -> JString,
        fn output() -> JOutput,
    },
}

bind_java_type! {
    pub(super) JRestorePointRequest => org.nasbackup.RestorePointRequest,
    type_map = { JRepository => org.nasbackup.Repository, JVerify => org.nasbackup.Verify },
    methods {
        fn job() -> JString,
        fn repository() -> JRepository,
        fn backup_path() -> JString,
        fn point_id() -> JString,
        fn volumes() -> JList,
        fn verify() -> JVerify,
        fn keep_old() -> jboolean,
        fn keep_old_in() -> JString,
        fn rate_limit() -> jlong,
    },
}

bind_java_type! {
    pub(super) JRestoreVolume => org.nasbackup.RestoreVolume,
    type_map = { JRestoreOutput => org.nasbackup.RestoreOutput },
    methods {
        fn volume() -> JString,
        fn serial() -> JString,
        fn file() -> JString,
        fn output() -> JRestoreOutput,
    },
}

bind_java_type! {
    pub(super) JRestoreOutput => org.nasbackup.RestoreOutput,
    type_map = { JOutputFormat => org.nasbackup.OutputFormat, JPreallocation => org.nasbackup.Preallocation },
    methods {
        fn path() -> JString,
        fn format() -> JOutputFormat,
        fn size() -> jlong,
        fn cluster_size() -> jlong,
        fn preallocation() -> JPreallocation,
    },
}

bind_java_type! {
    pub(super) JVerify => org.nasbackup.Verify,
    methods { fn text() -> JString, },
}

bind_java_type! {
    pub(super) JPreallocation => org.nasbackup.Preallocation,
    methods { fn text() -> JString, },
}

bind_java_type! {
    pub(super) JSignPointsRequest => org.nasbackup.SignPointsRequest,
    type_map = { JRepository => org.nasbackup.Repository },
    methods {
        fn job() -> JString,
        fn repository() -> JRepository,
        fn instance() -> JString,
        fn trust_unsigned() -> jboolean,
    },
}

bind_java_type! {
    pub(super) JBackupStatsRequest => org.nasbackup.BackupStatsRequest,
    type_map = { JRepository => org.nasbackup.Repository },
    methods {
        fn job() -> JString,
        fn repository() -> JRepository,
    },
}

bind_java_type! {
    pub(super) JMode => org.nasbackup.Mode,
    methods { fn text() -> JString, },
}

bind_java_type! {
    pub(super) JEngine => org.nasbackup.Engine,
    methods { fn text() -> JString, },
}

bind_java_type! {
    pub(super) JOutputFormat => org.nasbackup.OutputFormat,
    methods { fn text() -> JString, },
}

bind_java_type! {
    pub(super) JQuiesceFailure => org.nasbackup.QuiesceFailure,
    methods { fn text() -> JString, },
}

bind_java_type! {
    pub(super) JTakeBackupResult => org.nasbackup.TakeBackupResult,
    type_map = { JDiskResult => org.nasbackup.DiskResult },
    constructors {
        fn new(
            point_id: JString,
            mac: JString,
            kind: JString,
            size: jlong,
            virtual_size: jlong,
            volumes: JString[],
            files: JString[],
            bitmap_created: JString,
            parent_name: JString,
            bitmap_recreated: JString,
            incremental_fallback: jboolean,
            details: JString,
            engine: JString,
            job_millis: jlong,
            sync_millis: jlong,
            total_millis: jlong,
            disks: JDiskResult[]
        ),
    },
}

bind_java_type! {
    pub(super) JDiskResult => org.nasbackup.DiskResult,
    constructors {
        fn new(
            target: JString,
            volume: JString,
            serial: JString,
            file: JString,
            kind: JString,
            parent: JString,
            size: jlong,
            virtual_size: jlong,
            bitmap: JString
        ),
    },
}

bind_java_type! {
    pub(super) JRebaseResult => org.nasbackup.RebaseResult,
    constructors { fn new(size: jlong, bytes_cloned: jlong, bytes_copied: jlong, mac: JString, total_millis: jlong), },
}

bind_java_type! {
    pub(super) JVerifyChainResult => org.nasbackup.VerifyChainResult,
    type_map = { JVerifiedFile => org.nasbackup.VerifiedFile },
    constructors { fn new(verdict: JString, files: JVerifiedFile[]), },
}

bind_java_type! {
    pub(super) JVerifiedFile => org.nasbackup.VerifiedFile,
    constructors { fn new(file: JString, verdict: JString, reasons: JString[]), },
}

bind_java_type! {
    pub(super) JFlattenResult => org.nasbackup.FlattenResult,
    constructors { fn new(bytes_cloned: jlong, bytes_copied: jlong, total_millis: jlong), },
}

bind_java_type! {
    pub(super) JRestorePointResult => org.nasbackup.RestorePointResult,
    type_map = { JRestoredVolume => org.nasbackup.RestoredVolume },
    constructors {
        fn new(
            bytes_read: jlong,
            bytes_kept: jlong,
            bytes_cloned: jlong,
            volumes: JRestoredVolume[],
            total_millis: jlong,
            details: JString,
        ),
    },
}

bind_java_type! {
    pub(super) JRestoredVolume => org.nasbackup.RestoredVolume,
    constructors {
        fn new(
            file: JString,
            volume: JString,
            output: JString,
            verified: JString,
            bytes_read: jlong,
            bytes_kept: jlong,
            bytes_cloned: jlong,
            kept: JString,
            millis: jlong,
        ),
    },
}

bind_java_type! {
    pub(super) JDeleteBackupResult => org.nasbackup.DeleteBackupResult,
    constructors { fn new(freed_bytes: jlong), },
}

bind_java_type! {
    pub(super) JSignPointsResult => org.nasbackup.SignPointsResult,
    constructors { fn new(signed: jlong, kept: jlong, refused: jlong, busy: jlong), },
}

bind_java_type! {
    pub(super) JBackupStatsResult => org.nasbackup.BackupStatsResult,
    constructors { fn new(total_bytes: jlong, used_bytes: jlong), },
}

bind_java_type! {
    pub(super) JJobStatus => org.nasbackup.JobStatus,
    constructors {
        fn new(
            job: JString,
            operation: JString,
            vm_name: JString,
            phase: JString,
            done_bytes: jlong,
            total_bytes: jlong,
            elapsed_millis: jlong,
            bytes_per_second: jlong,
            remaining_millis: jlong
        ),
    },
}

/// Looks everything up through the class loader of `class`.
pub(super) fn warm(env: &mut Env<'_>, class: &JClass<'_>) -> jni::errors::Result<()> {
    let loader = class.get_class_loader(env)?;
    let context = if loader.is_null() { LoaderContext::None } else { LoaderContext::Loader(&loader) };
    JNasBackupExceptionAPI::get(env, &context)?;
    JNativeAPI::get(env, &context)?;
    JProgressListenerAPI::get(env, &context)?;
    JConfigurationAPI::get(env, &context)?;
    JRepositoryAPI::get(env, &context)?;
    JStoppedDiskAPI::get(env, &context)?;
    JBackingFileAPI::get(env, &context)?;
    JOutputAPI::get(env, &context)?;
    JTakeBackupRequestAPI::get(env, &context)?;
    JRebaseBackupRequestAPI::get(env, &context)?;
    JRebasePointRequestAPI::get(env, &context)?;
    JVerifyChainRequestAPI::get(env, &context)?;
    JFlattenRequestAPI::get(env, &context)?;
    JRestorePointRequestAPI::get(env, &context)?;
    JRestoreVolumeAPI::get(env, &context)?;
    JRestoreOutputAPI::get(env, &context)?;
    JVerifyAPI::get(env, &context)?;
    JPreallocationAPI::get(env, &context)?;
    JDeleteBackupRequestAPI::get(env, &context)?;
    JSignPointsRequestAPI::get(env, &context)?;
    JBackupStatsRequestAPI::get(env, &context)?;
    JModeAPI::get(env, &context)?;
    JEngineAPI::get(env, &context)?;
    JOutputFormatAPI::get(env, &context)?;
    JQuiesceFailureAPI::get(env, &context)?;
    JTakeBackupResultAPI::get(env, &context)?;
    JDiskResultAPI::get(env, &context)?;
    JRebaseResultAPI::get(env, &context)?;
    JVerifyChainResultAPI::get(env, &context)?;
    JVerifiedFileAPI::get(env, &context)?;
    JFlattenResultAPI::get(env, &context)?;
    JRestorePointResultAPI::get(env, &context)?;
    JRestoredVolumeAPI::get(env, &context)?;
    JDeleteBackupResultAPI::get(env, &context)?;
    JSignPointsResultAPI::get(env, &context)?;
    JBackupStatsResultAPI::get(env, &context)?;
    JJobStatusAPI::get(env, &context)?;
    Ok(())
}
