//! A chain is rebased, points of it are deleted and it is restored, all at once: each waits or is refused, and what comes out
//! is right.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use nasbackup::error::{Code, Result};
use nasbackup::operation::call;
use serde_json::{Value, json};

use crate::restore::{FILES, Points, QUICK, all, restore};
use crate::support::PATIENCE;

/// Until it is not refused as busy; how often it was.
fn insist(act: impl Fn() -> Result<Value>) -> usize {
    let begun = std::time::Instant::now();
    for times in 0.. {
        match act() {
            Err(error) if error.code == Code::Busy && begun.elapsed() < PATIENCE => std::thread::yield_now(),
            ended => {
                ended.unwrap();
                return times;
            }
        }
    }
    unreachable!()
}

fn change(points: &Points, operation: &str, mut request: Value) -> Result<Value> {
    request["repository"] = json!({"type": "dir", "address": points.dir.path()});
    call(operation, &request.to_string(), &mut |_| Ok(()))
}

#[test]
fn a_chain_that_is_rebased_and_deleted_from_meanwhile_is_restored_as_it_was() {
    let busy = AtomicUsize::new(0);
    for round in 0..12 {
        let points = Points::make(5, 1 << 20);
        let outs = [(); 2].map(|()| tempfile::tempdir_in(QUICK).unwrap());
        std::thread::scope(|scope| {
            for (i, out) in outs.iter().enumerate() {
                let (points, busy) = (&points, &busy);
                let mut request = points.request(out.path(), "raw");
                request["job"] = json!(null);
                request["verify"] = json!(if (round + i) % 2 == 0 { "data" } else { "chain" });
                scope.spawn(move || {
                    for _ in 0..4 {
                        busy.fetch_add(insist(|| restore(&request)), Relaxed);
                        points.assert_restored(out.path(), "raw");
                        FILES.iter().for_each(|file| fs::remove_file(out.path().join(file)).unwrap());
                    }
                });
            }
            // the middle goes, and then the full
            scope.spawn(|| {
                for (onto, gone, of) in [(Some("i-1/T2"), "i-1/T3", "i-1/T4"), (None, "i-1/T1", "i-1/T2")] {
                    let rebase = || change(&points, "rebasePoint", json!({"backupPath": of, "newParent": onto}));
                    busy.fetch_add(insist(rebase), Relaxed);
                    let delete = || change(&points, "deleteBackup", json!({"backupPath": gone}));
                    busy.fetch_add(insist(delete), Relaxed);
                }
            });
        });
        for out in &outs {
            assert!(all(out.path()).is_empty());
        }
        let left = |point: &str| points.dir.path().join("i-1").join(point).exists();
        assert_eq!(["T1", "T2", "T3", "T4", "T5"].map(left), [false, true, false, true, true]);
        points.restore(outs[0].path(), "qcow2").unwrap();
        points.assert_restored(outs[0].path(), "qcow2");
    }
    println!("{} times busy", busy.load(Relaxed));
}
