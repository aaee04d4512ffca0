//! The storage that a disk is restored to does not answer: that is told as what it is, and nothing of it is the NAS's.
#![cfg(feature = "test-hooks")]

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use nasbackup::error::{Code, Error};
use nasbackup::nas::repository::Repository;
use nasbackup::operation::{call, cancel};
use nasbackup::qcow2::Stream;
use nasbackup::shorten;
use nasbackup::work::phase::Phase;
use nasbackup::work::stuck::stuck;
use serde_json::{Value, json};

use crate::run;
use crate::support::{MIB, Nas, until};

/// How long what hangs is waited for here: it never answers while it is.
const SOON: Duration = Duration::from_secs(1);
const OPERATIONS: [&str; 2] = ["flatten", "restorePoint"];

/// A repository with a point `i-1/T1` of one disk.
fn repository() -> Nas {
    let nas = Nas::folder();
    fs::create_dir_all(nas.at("i-1/T1")).unwrap();
    let image = File::options().read(true).write(true).create_new(true).open(nas.at("i-1/T1/root.x.qcow2")).unwrap();
    let mut stream = Stream::begin(image, 32 * MIB, None).unwrap();
    stream.data(0, &vec![7; 32 * MIB as usize]).unwrap();
    stream.finish().unwrap();
    nas
}

fn request(nas: &Nas, operation: &str, out: &Path) -> Value {
    let output = json!({"path": out, "format": "raw"});
    let mut request = json!({"job": out, "repository": {"type": "dir", "address": nas.root()}, "backupPath": "i-1/T1"});
    match operation {
        "flatten" => (request["volume"], request["output"]) = (json!("x"), output),
        _ => request["volumes"] = json!([{"volume": "x", "output": output}]),
    }
    request
}

fn left_behind(nas: &Nas) -> usize {
    stuck(Repository::check(Some(nas.repository())).unwrap())
}

/// Whatever was told of the restore, the NAS is used as ever, and what was made goes once the storage answers.
fn assert_nas_is_well(nas: &Nas, pool: &Nas) {
    assert_eq!(left_behind(nas), 0);
    run(nas, "backupStats", json!({})).unwrap();
    pool.go_on();
    until("what was made is gone", || fs::read_dir(pool.root()).unwrap().next().is_none());
}

fn hung_when_outputs_are_opened(operation: &str) -> Error {
    let (nas, pool) = (repository(), Nas::folder().through_fuse());
    let request = request(&nas, operation, &pool.at("volume"));
    let error = call(operation, &request.to_string(), &mut |status| {
        if status.phase == Phase::OpenOutputs {
            pool.hang();
            shorten(&["open the outputs"], SOON);
        }
        Ok(())
    });
    assert_nas_is_well(&nas, &pool);
    error.unwrap_err()
}

#[test]
fn one_that_hangs_when_outputs_are_opened_is_not_the_nas() {
    // at once: each waits for its limit
    std::thread::scope(|scope| {
        for operation in OPERATIONS {
            scope.spawn(move || {
                let error = hung_when_outputs_are_opened(operation);
                assert_eq!((error.code, error.step), (Code::Io, "open the outputs"), "{operation}: {error}");
            });
        }
    });
}

/// Is a thread within this call to the kernel, on a file of `on`?
fn is_within(call: libc::c_long, on: &Nas) -> bool {
    let is = |task: &Path| {
        let text = fs::read_to_string(task.join("syscall")).unwrap_or_default();
        let mut words = text.split(' ');
        let fd = |word: &str| u32::from_str_radix(word.trim_start_matches("0x"), 16).ok();
        words.next() == Some(&call.to_string())
            && words.next().and_then(fd).is_some_and(|fd| {
                fs::read_link(task.join(format!("fd/{fd}"))).is_ok_and(|path| path.starts_with(on.root()))
            })
    };
    fs::read_dir("/proc/self/task").unwrap().any(|task| is(&task.unwrap().path()))
}

/// The call is cancelled once `hung` does not answer a thread that is within `syscall`.
fn hung_when_data_are_copied(operation: &str, request: &Value, hung: &Nas, syscall: libc::c_long) -> Error {
    let error = call(operation, &request.to_string(), &mut |status| {
        // not before, so that what hangs is a call that moves data
        if status.phase == Phase::Copy && status.done_bytes > 0 {
            hung.hang();
            if is_within(syscall, hung) {
                assert!(cancel(&status.job).found);
                // not before: a busy machine takes longer to get there
                shorten(&["copy", "remove the partial outputs", "ask the repository"], SOON);
            }
        }
        Ok(())
    });
    let error = error.unwrap_err();
    assert_eq!((error.code, error.leftovers), (Code::Cancelled, true), "{operation}: {error}");
    error
}

#[test]
fn one_that_hangs_when_data_are_written_is_not_the_nas() {
    let hang = |operation| {
        let (nas, pool) = (repository(), Nas::folder().slow(8));
        let request = request(&nas, operation, &pool.at("volume"));
        let error = hung_when_data_are_copied(operation, &request, &pool, libc::SYS_pwrite64);
        assert!(error.cause.contains("the outputs' storage does not answer"), "{operation}: {error}");
        assert_nas_is_well(&nas, &pool);
    };
    std::thread::scope(|scope| OPERATIONS.iter().for_each(|operation| drop(scope.spawn(|| hang(operation)))));
}

#[test]
fn a_nas_that_hangs_when_data_are_read_is_counted_as_such() {
    let (nas, pool) = (repository().through_fuse(), Nas::folder());
    let mut request = request(&nas, "restorePoint", &pool.at("volume"));
    request["rateLimit"] = json!(8 * MIB);
    let error = hung_when_data_are_copied("restorePoint", &request, &nas, libc::SYS_pread64);
    assert!(error.cause.contains("a read that the NAS does not answer"), "{error}");
    assert!(left_behind(&nas) > 0);
    assert!(fs::read_dir(pool.root()).unwrap().next().is_none());
    nas.go_on();
    until("nothing is left behind", || left_behind(&nas) == 0);
}
