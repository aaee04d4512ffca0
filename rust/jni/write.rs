//! From plain results to Java's.

use jni::Env;
use jni::errors::Result;
use jni::objects::{JObjectArray, JString};

use super::types::{
    JDiskResult, JFlattenResult, JJobStatus, JRebaseResult, JRestorePointResult, JRestoredVolume, JTakeBackupResult,
    JVerifiedFile, JVerifyChainResult,
};
use crate::engine::Engine;
use crate::operation::flatten::Flattened;
use crate::operation::rebase_disks::Rebased;
use crate::operation::restore_point::{Restored, Verify};
use crate::operation::take_backup::{TakenBackup, TakenDisk};
use crate::operation::verify_chain::{Verdict, Verified};
use crate::point::Kind;
use crate::point::fingerprints::Digest;
use crate::work::job::JobStatus;

/// Room for the local references of one result or element.
const FRAME: usize = 32;

/// Java has no unsigned type; no size or time comes near the limit.
pub(super) fn long(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A text; null for `None`.
pub(super) fn text<'l>(value: Option<&str>, env: &mut Env<'l>) -> Result<JString<'l>> {
    value.map_or_else(|| Ok(JString::default()), |value| JString::from_str(env, value))
}

fn digest<'l>(value: Option<Digest>, env: &mut Env<'l>) -> Result<JString<'l>> {
    text(value.map(|value| value.to_string()).as_deref(), env)
}

pub(super) fn taken_backup<'l>(taken: &TakenBackup, env: &mut Env<'l>) -> Result<JTakeBackupResult<'l>> {
    env.with_local_frame_returning_local::<_, JTakeBackupResult, _>(FRAME, |env| {
        let point_id = text(Some(&taken.point_id), env)?;
        let mac = digest(taken.mac, env)?;
        let kind = text(Some(kind(taken.kind)), env)?;
        let volumes = texts(taken.volumes.keys(), env)?;
        let files = texts(taken.volumes.values(), env)?;
        let bitmap_created = text(taken.bitmap_created.as_deref(), env)?;
        let parent_name = text(taken.parent_name.as_deref(), env)?;
        let bitmap_recreated = text(taken.bitmap_recreated.as_deref(), env)?;
        let details = text(Some(&taken.details), env)?;
        let engine = text(Some(engine(taken.engine)), env)?;
        let disks = disks(&taken.disks, env)?;
        JTakeBackupResult::new(
            env,
            &point_id,
            &mac,
            &kind,
            long(taken.size),
            long(taken.virtual_size),
            &volumes,
            &files,
            &bitmap_created,
            &parent_name,
            &bitmap_recreated,
            taken.incremental_fallback,
            &details,
            &engine,
            long(taken.job_millis),
            long(taken.sync_millis),
            long(taken.total_millis),
            &disks,
        )
    })
}

pub(super) fn rebased<'l>(rebased: &Rebased, env: &mut Env<'l>) -> Result<JRebaseResult<'l>> {
    env.with_local_frame_returning_local::<_, JRebaseResult, _>(FRAME, |env| {
        let (cloned, copied) = (long(rebased.bytes_cloned), long(rebased.bytes_copied));
        let mac = digest(rebased.mac, env)?;
        JRebaseResult::new(env, long(rebased.size), cloned, copied, &mac, long(rebased.total_millis))
    })
}

pub(super) fn verified<'l>(verified: &Verified, env: &mut Env<'l>) -> Result<JVerifyChainResult<'l>> {
    env.with_local_frame_returning_local::<_, JVerifyChainResult, _>(FRAME, |env| {
        let overall = text(Some(verdict(verified.verdict)), env)?;
        let files = JObjectArray::<JVerifiedFile>::new(env, verified.files.len(), JVerifiedFile::null())?;
        for (index, found) in verified.files.iter().enumerate() {
            env.with_local_frame(FRAME, |env| {
                let file = text(Some(&found.file), env)?;
                let verdict = text(Some(verdict(found.verdict)), env)?;
                let reasons = texts(found.reasons.iter(), env)?;
                let file = JVerifiedFile::new(env, &file, &verdict, &reasons)?;
                files.set_element(env, index, &file)
            })?;
        }
        JVerifyChainResult::new(env, &overall, &files)
    })
}

pub(super) fn flattened<'l>(flattened: Flattened, env: &mut Env<'l>) -> Result<JFlattenResult<'l>> {
    let (cloned, copied) = (long(flattened.bytes_cloned), long(flattened.bytes_copied));
    JFlattenResult::new(env, cloned, copied, long(flattened.total_millis))
}

pub(super) fn restored<'l>(restored: &Restored, env: &mut Env<'l>) -> Result<JRestorePointResult<'l>> {
    env.with_local_frame_returning_local::<_, JRestorePointResult, _>(FRAME, |env| {
        let volumes = JObjectArray::<JRestoredVolume>::new(env, restored.volumes.len(), JRestoredVolume::null())?;
        for (index, volume) in restored.volumes.iter().enumerate() {
            env.with_local_frame(FRAME, |env| {
                let file = text(Some(&volume.file), env)?;
                let name = text(Some(&volume.volume), env)?;
                let output = text(Some(&volume.output), env)?;
                let verified = text(Some(verify(volume.verified)), env)?;
                let kept = text(volume.kept.as_deref(), env)?;
                let [read, old, cloned] = [volume.bytes_read, volume.bytes_kept, volume.bytes_cloned].map(long);
                let millis = long(volume.millis);
                let volume =
                    JRestoredVolume::new(env, &file, &name, &output, &verified, read, old, cloned, &kept, millis)?;
                volumes.set_element(env, index, &volume)
            })?;
        }
        let details = text(Some(&restored.details), env)?;
        let [read, old, cloned] = [restored.bytes_read, restored.bytes_kept, restored.bytes_cloned].map(long);
        JRestorePointResult::new(env, read, old, cloned, &volumes, long(restored.total_millis), &details)
    })
}

pub(super) fn jobs<'l>(jobs: &[JobStatus], env: &mut Env<'l>) -> Result<JObjectArray<'l, JJobStatus<'l>>> {
    let array = JObjectArray::<JJobStatus>::new(env, jobs.len(), JJobStatus::null())?;
    for (index, job) in jobs.iter().enumerate() {
        env.with_local_frame(FRAME, |env| {
            let status = status(job, env)?;
            array.set_element(env, index, &status)
        })?;
    }
    Ok(array)
}

pub(super) fn status<'l>(status: &JobStatus, env: &mut Env<'l>) -> Result<JJobStatus<'l>> {
    let job = text(Some(&status.job), env)?;
    let operation = text(Some(status.operation), env)?;
    let vm_name = text(status.vm_name.as_deref(), env)?;
    let phase = text(Some(status.phase.as_str()), env)?;
    let (done, total, elapsed) = (long(status.done_bytes), long(status.total_bytes), long(status.elapsed_millis));
    let [speed, remaining] = [status.bytes_per_second, status.remaining_millis].map(|known| known.map_or(-1, long));
    JJobStatus::new(env, &job, &operation, &vm_name, &phase, done, total, elapsed, speed, remaining)
}

fn disks<'l>(disks: &[TakenDisk], env: &mut Env<'l>) -> Result<JObjectArray<'l, JDiskResult<'l>>> {
    let array = JObjectArray::<JDiskResult>::new(env, disks.len(), JDiskResult::null())?;
    for (index, taken) in disks.iter().enumerate() {
        env.with_local_frame(FRAME, |env| {
            let disk = disk(taken, env)?;
            array.set_element(env, index, &disk)
        })?;
    }
    Ok(array)
}

fn disk<'l>(disk: &TakenDisk, env: &mut Env<'l>) -> Result<JDiskResult<'l>> {
    let target = text(disk.target.as_deref(), env)?;
    let volume = text(Some(&disk.volume), env)?;
    let serial = text(disk.serial.as_deref(), env)?;
    let file = text(Some(&disk.file), env)?;
    let kind = text(Some(kind(disk.kind)), env)?;
    let parent = text(disk.parent.as_deref(), env)?;
    let bitmap = text(disk.bitmap.as_deref(), env)?;
    let (size, virtual_size) = (long(disk.size), long(disk.virtual_size));
    JDiskResult::new(env, &target, &volume, &serial, &file, &kind, &parent, size, virtual_size, &bitmap)
}

fn texts<'t, 'l>(
    values: impl ExactSizeIterator<Item = &'t String>,
    env: &mut Env<'l>,
) -> Result<JObjectArray<'l, JString<'l>>> {
    let array = JObjectArray::<JString>::new(env, values.len(), JString::null())?;
    for (index, value) in values.enumerate() {
        env.with_local_frame(FRAME, |env| {
            let value = text(Some(value), env)?;
            array.set_element(env, index, &value)
        })?;
    }
    Ok(array)
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Good => "good",
        Verdict::Aborted => "aborted",
        Verdict::Bad => "bad",
    }
}

fn verify(verify: Verify) -> &'static str {
    match verify {
        Verify::Chain => "chain",
        Verify::Data => "data",
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Full => "full",
        Kind::Incremental => "incremental",
    }
}

fn engine(engine: Engine) -> &'static str {
    match engine {
        Engine::Auto => "auto",
        Engine::Push => "push",
        Engine::Pull => "pull",
    }
}
