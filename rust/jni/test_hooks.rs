//! Natives of `org.nasbackup.TestHooks`: what a test of the bridge needs and no guest gives at will.

#[cfg(not(debug_assertions))]
compile_error!("test-hooks is for tests: build a release without it");

use std::time::Duration;

use jni::objects::{JClass, JString};
use jni::sys::{jint, jlong};
use jni::{Env, NativeMethod, jni_str, native_method};

use super::failure::{Failure, ThrowNasBackupException};
use super::listener::with_listener;
use super::text;
use super::types::JProgressListener;
use crate::config::Engine;
use crate::digest::Digest;
use crate::nas::repository::Repository;
use crate::operation::take_backup::{TakenBackup, TakenDisk};
use crate::point::Kind;
use crate::work::job;

const _: &[NativeMethod] = &[
    native_method! {
        java_type = org.nasbackup.TestHooks,
        static extern fn panic(text: JString),
        error_policy = ThrowNasBackupException,
    },
    native_method! {
        java_type = org.nasbackup.TestHooks,
        type_map = { JProgressListener => org.nasbackup.ProgressListener },
        static extern fn run_job(job: JString, reports: jint, listener: JProgressListener) -> jlong,
        error_policy = ThrowNasBackupException,
    },
    native_method! {
        java_type = org.nasbackup.TestHooks,
        static extern fn reply(disks: jint) -> JString,
        error_policy = ThrowNasBackupException,
    },
    native_method! {
        java_type = org.nasbackup.TestHooks,
        static extern fn log_on_native_thread(line: JString),
        error_policy = ThrowNasBackupException,
    },
    native_method! {
        java_type = org.nasbackup.TestHooks,
        static extern fn log_with_pending_exception(line: JString),
        error_policy = ThrowNasBackupException,
    },
    native_method! {
        java_type = org.nasbackup.TestHooks,
        static extern fn keep_native_thread(),
        error_policy = ThrowNasBackupException,
    },
    native_method! {
        java_type = org.nasbackup.TestHooks,
        static extern fn provoke_check_jni(),
        error_policy = ThrowNasBackupException,
    },
];

fn panic<'l>(env: &mut Env<'l>, _: JClass<'l>, why: JString<'l>) -> Result<(), Failure> {
    panic!("{}", text::read("text", why, env)?.unwrap_or_default());
}

/// A job that reports so many times, as `takeBackup` would; returns how often.
fn run_job<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    id: JString<'l>,
    reports: jint,
    listener: JProgressListener<'l>,
) -> Result<jlong, Failure> {
    let id = text::read("job", id, env)?;
    with_listener(env, &listener, |tell| {
        let nas =
            Repository { kind: Some("dir".to_owned()), address: Some("/nas".to_owned()), ..Repository::default() };
        let job = job::start(id, "takeBackup", Repository::check(Some(nas))?, Some("i-2-10-VM".to_owned()))?;
        let total = u64::try_from(reports).unwrap_or(0);
        for done in 1..=total {
            job.progress(done, total);
            tell(&job.status())?;
            job.check_cancelled()?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(jlong::from(reports))
    })
}

/// The reply of a backup in which every field has a value of its own; the disks take turns at having and lacking what may be null.
fn reply<'l>(env: &mut Env<'l>, _: JClass<'l>, disks: jint) -> Result<JString<'l>, Failure> {
    let disks = (0..u64::try_from(disks).unwrap_or(0)).map(|n| {
        let some = |text: &str| (n % 2 == 0).then(|| format!("{text}{n}"));
        TakenDisk {
            target: some("vd"),
            volume: format!("volume{n}"),
            serial: some("serial"),
            file: format!("file{n}"),
            kind: if n % 2 == 0 { Kind::Incremental } else { Kind::Full },
            parent: some("parent"),
            size: n,
            virtual_size: u64::MAX - n,
            bitmap: some("bitmap"),
        }
    });
    let disks: Vec<_> = disks.collect();
    let taken = TakenBackup {
        point_id: "id".to_owned(),
        mac: Some(Digest::of(b"mac")),
        kind: Kind::Incremental,
        size: 1,
        virtual_size: 2,
        volumes: disks.iter().map(|disk| (disk.volume.clone(), disk.file.clone())).collect(),
        bitmap_created: Some("created".to_owned()),
        parent_name: Some("name".to_owned()),
        bitmap_recreated: None,
        incremental_fallback: true,
        details: "one\ntwo".to_owned(),
        engine: Engine::Push,
        job_millis: 3,
        sync_millis: 4,
        total_millis: 8,
        disks,
    };
    let reply = serde_json::to_string(&taken).expect("a result is JSON");
    Ok(JString::from_str(env, reply)?)
}

fn log_on_native_thread<'l>(env: &mut Env<'l>, _: JClass<'l>, line: JString<'l>) -> Result<(), Failure> {
    let line = text::read("line", line, env)?.unwrap_or_default();
    let thread = std::thread::spawn(move || log::warn!(target: "nasbackup::test::thread", "{line}"));
    thread.join().expect("a log line does not panic");
    Ok(())
}

fn log_with_pending_exception<'l>(env: &mut Env<'l>, _: JClass<'l>, line: JString<'l>) -> Result<(), Failure> {
    let line = text::read("line", line, env)?.unwrap_or_default();
    let thrown = env.throw_new(jni_str!("java/lang/ArithmeticException"), jni_str!("pending"));
    log::error!(target: "nasbackup::test::pending", "{line}");
    Ok(thrown?)
}

/// A thread that has logged and goes on for ever: the JVM must be able to exit all the same.
fn keep_native_thread<'l>(_: &mut Env<'l>, _: JClass<'l>) -> Result<(), Failure> {
    let (sender, logged) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        log::info!(target: "nasbackup::test::thread", "kept");
        sender.send(()).expect("the receiver waits");
        loop {
            std::thread::park();
        }
    });
    logged.recv().expect("the sender sends once");
    Ok(())
}

/// Piles up local references, of which -Xcheck:jni warns.
fn provoke_check_jni<'l>(env: &mut Env<'l>, _: JClass<'l>) -> Result<(), Failure> {
    for _ in 0..200 {
        JString::from_str(env, "one more")?;
    }
    Ok(())
}
