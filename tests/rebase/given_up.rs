//! A rebase that hangs in one of its calls is given up: nobody else changes the chain before its thread has ended, and the same
//! call finishes what that has left.
#![cfg(feature = "test-hooks")]

use std::collections::BTreeSet;
use std::fs;
use std::sync::Mutex;
use std::time::Duration;

use nasbackup::error::Code;
use nasbackup::nas::repository::{Export, Repository};
use nasbackup::operation::call;
use nasbackup::shorten;
use nasbackup::work::stuck::stuck;
use serde_json::json;

use crate::fingerprints::{KEPT, LOST};
use crate::restore::{FILES, Points, content};
use crate::restore_faults::{each, refusal};
use crate::support::{GO_ON, HANG, refusing, until};

const SIZE: u64 = 2 << 20;
/// How long it is waited for here: no call takes as long that does not hang.
const SOON: Duration = Duration::from_secs(5);
/// All that a rebase does once it has its worker.
const PHASES: [&str; 9] = [
    "follow the chains",
    "check the images",
    "take back what nothing uses",
    "look for what to absorb",
    "absorb",
    "name the new backing file",
    "sync",
    "merge the fingerprints",
    "write the manifest",
];

impl Points {
    fn export(&self) -> Export {
        let address = Some(self.dir.path().to_str().unwrap().to_owned());
        Repository::check(Some(Repository { kind: Some("dir".into()), address, options: None })).unwrap()
    }

    fn of_point(&self, point: u32) -> [Vec<u8>; 2] {
        FILES.map(|file| fs::read(self.dir.path().join(format!("i-1/T{point}")).join(file)).unwrap())
    }

    /// The newest point reads as ever, in QEMU's eyes.
    fn assert_reads(&self, case: &str) {
        for (file, disk) in FILES.iter().zip(&self.disks) {
            assert!(content(&self.dir.path().join(self.last()).join(file), "qcow2") == *disk, "{case}: {file}");
        }
    }
}

/// What was under way when the call was given up that hung in the `nth` call of this name.
fn given_up_in(name: &str, nth: usize) -> &'static str {
    let case = format!("{name} {nth}");
    let points = Points::make(3, SIZE);
    let first = points.of_point(1);
    let errnos: Vec<_> = std::iter::repeat_n(GO_ON, nth).chain([HANG]).collect();
    let (error, _) = refusing(points.dir.path(), &[refusal(name, &errnos)], || {
        shorten(&PHASES, SOON);
        let error = points.rebase(Some(1)).unwrap_err();
        assert_eq!(error.code, Code::NasUnresponsive, "{case}: {error}");
        assert!(stuck(points.export()) > 0, "{case}");
        // all else is answered, so that the repository is not refused for long
        until("somebody else comes as far as its lock", || {
            let next = points.rebase(Some(1)).unwrap_err();
            assert!(matches!(next.code, Code::NasUnresponsive | Code::Busy), "{case}: {next}");
            next.code == Code::Busy
        });
        error
    });
    until("its thread has ended", || stuck(points.export()) == 0);
    points.assert_reads(&case);
    points.rebase(Some(1)).unwrap();
    let delete = json!({"repository": {"type": "dir", "address": points.dir.path()}, "backupPath": "i-1/T2"});
    call("deleteBackup", &delete.to_string(), &mut |_| Ok(())).unwrap();
    let told = points.told();
    assert!(told.iter().all(|told| [KEPT, LOST].contains(told)), "{case}: {told:?}");
    points.assert_reads(&case);
    let out = tempfile::tempdir().unwrap();
    points.restore(out.path(), "raw").unwrap();
    points.assert_restored(out.path(), "raw");
    assert!(points.of_point(1) == first, "{case}");
    error.step
}

#[test]
fn a_rebase_that_was_given_up_keeps_others_out_and_is_finished_by_the_same_call() {
    let calls = ["fdatasync", "fsync", "FICLONERANGE"];
    let points = Points::make(3, SIZE);
    let (rebased, met) =
        refusing(points.dir.path(), &calls.map(|name| refusal(name, &[GO_ON])), || points.rebase(Some(1)));
    rebased.unwrap();
    let cases: Vec<_> = met.into_iter().flat_map(|(name, times)| (0..times).map(move |nth| (name, nth))).collect();
    let phases = Mutex::new(BTreeSet::new());
    each(&cases, |(name, nth)| {
        let phase = given_up_in(name, *nth);
        phases.lock().unwrap().insert(phase);
    });
    let phases = phases.into_inner().unwrap();
    let met = |phase: &&str| phases.contains(phase);
    assert!(
        ["absorb", "name the new backing file", "merge the fingerprints", "write the manifest"].iter().all(met),
        "{phases:?}"
    );
}
