//! The storage that a disk is restored to does not answer: that is told as what it is, and nothing of it is the NAS's.

use std::fs::{self, File};
use std::path::Path;

use nasbackup::error::{Code, Error};
use nasbackup::nas::deadline::stuck;
use nasbackup::nas::repository::Repository;
use nasbackup::operation::call;
use nasbackup::qcow2::Stream;
use serde_json::{Value, json};

use crate::run;
use crate::support::{MIB, Nas, until};

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
        if status.phase == "open the outputs" {
            pool.hang();
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
