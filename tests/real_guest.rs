//! `takeBackup` of a guest with Linux, ext4 and the guest agent in it.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod support;

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Instant;

use nasbackup::config::{self, Config};
use nasbackup::error::{Code, Result};
use nasbackup::host::HostState;
use nasbackup::nas::health;
use nasbackup::nas::repository::Repository;
use nasbackup::operation;
use nasbackup::operation::take_backup::{TakeBackupRequest, TakenBackup};
use nasbackup::point::Kind;
use serde_json::{Value, json};
use support::{
    Agent, Disk, Image, Nas, PATIENCE, RealGuest, Restored, backup_path, begin_foreign_backup, by, folder, listing,
    own_host, run_as_agent, take, take_and, take_json, until,
};

/// Not a test: what a process of its own does.
#[test]
fn agent() {
    run_as_agent();
}

fn restored(nas: &Nas, taken: &TakenBackup) -> Restored {
    Restored::from(&nas.at(&taken.disks[0].file))
}

/// What lies in restore points, finished or not.
fn files(nas: &Nas) -> Vec<PathBuf> {
    let paths = listing(nas.root()).into_iter().map(|(path, _)| path);
    paths.filter(|path| path.components().count() > 2).collect()
}

/// The log lines about a guest, from now on of level info.
fn log_of(linux: &RealGuest) -> impl Fn() -> Vec<String> + use<> {
    static LOG: LazyLock<PathBuf> = LazyLock::new(|| {
        let files = folder("log");
        let (yaml, log) = (files.join("log4rs.yaml"), files.join("log"));
        let text = format!(
            "appenders: {{file: {{kind: file, path: '{}'}}}}\nroot: {{level: info, appenders: [file]}}\n",
            log.display()
        );
        std::fs::write(&yaml, text).unwrap();
        let config = Config { log_config: Some(yaml), ..(*config::current()).clone() };
        operation::init(config, nasbackup::logging::stderr()).unwrap();
        log
    });
    let (log, name) = (&*LOG, format!("{}: ", linux.guest.name));
    move || std::fs::read_to_string(log).unwrap().lines().filter(|l| l.contains(&name)).map(str::to_owned).collect()
}

/// Milliseconds that a log line tells behind `text`.
fn millis(line: &str, text: &str) -> u64 {
    let (_, rest) = line.split_once(text).unwrap_or_else(|| panic!("no '{text}': {line}"));
    rest.split_once(" ms").unwrap().0.parse().unwrap()
}

#[test]
fn a_frozen_guest_s_files_are_whole_and_its_journal_clean() {
    let linux = RealGuest::boot_on_iothread(16, "w=256");
    let nas = Nas::folder();
    linux.wait_for_files(4);
    // On a busy machine the guest's kernel tells of lockups at any time.
    assert_eq!(linux.run("echo '<0>noise' >/dev/kmsg; echo the answer"), "the answer");
    let log = log_of(&linux);
    let quiesced = TakeBackupRequest { quiesce: Some(true), ..linux.request(&nas, 0) };
    let full = take(quiesced).unwrap();
    let lines = log();
    let line = lines.iter().find(|line| line.contains("thawed")).unwrap_or_else(|| panic!("{lines:?}"));
    let (freeze, thaw) = (millis(line, "frozen within "), millis(line, "thawed within "));
    assert!(freeze + thaw <= millis(line, "thawed after "), "{line}");
    linux.assert_writes();
    linux.wait_for_files(8);
    let incremental = TakeBackupRequest {
        quiesce: Some(true),
        mode: Some("incremental".into()),
        bitmap_parent: full.bitmap_created.clone(),
        parent_paths: Some(full.volumes.values().cloned().collect()),
        ..linux.request(&nas, 1)
    };
    let incremental = take(incremental).unwrap();
    assert_eq!(incremental.kind, Kind::Incremental);
    let torn = take(linux.request(&nas, 2)).unwrap();
    boots_from_what_is_restored(&nas, &linux, &incremental, 8);

    for (taken, frozen, files) in [(&full, true, 4), (&incremental, true, 8), (&torn, false, 8)] {
        let restored = restored(&nas, taken);
        assert_eq!(restored.was_frozen(), frozen, "{taken:?}");
        let verified = restored.verified_files(!frozen);
        assert!(verified > files, "{verified} files");
    }
}

#[test]
fn the_state_of_a_frozen_guest_s_tpm_is_in_its_point() {
    let mut linux = RealGuest::boot(4, "");
    linux.guest.stop();
    linux.guest.devices += "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>";
    linux.guest.start();
    linux.wait_for_agent();
    let state = format!("/var/lib/libvirt/swtpm/{}/tpm2/tpm2-00.permall", linux.guest.virsh(&["domuuid"]).trim());
    let (nas, log) = (Nas::folder(), log_of(&linux));
    for (n, engine) in ["push", "pull"].into_iter().enumerate() {
        let request = TakeBackupRequest { quiesce: Some(true), ..by(engine, linux.request(&nas, n)) };
        let taken = take(request).unwrap();
        let held = nas.at(&backup_path(&linux.guest, n)).join("tpm2-00.permall");
        assert!(std::fs::read(held).unwrap() == std::fs::read(&state).unwrap(), "{engine}");
        assert!(restored(&nas, &taken).was_frozen() && !linux.is_frozen(), "{engine}");
    }
    assert_eq!(log().iter().filter(|line| line.contains("thawed after ")).count(), 2, "{:?}", log());
}

/// The point as a qcow2 and as a raw file: Linux has the one as its own disk, and the other beside it.
fn boots_from_what_is_restored(nas: &Nas, linux: &RealGuest, taken: &TakenBackup, files: u64) {
    let out = folder("restored");
    let paths = ["qcow2", "raw"].map(|format| (out.join(format), format));
    for (path, format) in &paths {
        let volume = json!({"volume": taken.disks[0].volume, "output": {"path": path, "format": format}});
        let request = json!({
            "repository": {"type": "dir", "address": nas.root()},
            "backupPath": backup_path(&linux.guest, 1),
            "volumes": [volume],
        });
        operation::call("restorePoint", &request.to_string(), &mut |_| Ok(())).unwrap();
    }
    let [qcow2, raw] =
        paths.map(|(path, format)| Disk::existing(path, if format == "raw" { Image::Raw } else { Image::Qcow2 }));
    let restored = RealGuest::boot_from("", [qcow2, raw]);
    restored.run("mkdir /tmp/raw; mount -t ext4 -o ro /dev/vdb /tmp/raw");
    let sums = |folder: &str| restored.run(&format!("cd {folder} && cat ballast.sum s[0-9]* | sha256sum -c"));
    let (of_qcow2, of_raw) = (sums("/mnt"), sums("/tmp/raw"));
    assert_eq!(of_qcow2, of_raw);
    assert!(
        of_qcow2.lines().count() as u64 > files && of_qcow2.lines().all(|line| line.ends_with(": OK")),
        "{of_qcow2}"
    );
    restored.assert_writes();
}

#[test]
fn an_agent_that_hangs_fails_the_backup_and_never_leaves_the_guest_frozen() {
    let linux = RealGuest::boot(1, "w=64");
    let nas = Nas::folder();
    // The agent has worked before: libvirt trusts it, and waits for it.
    take(TakeBackupRequest { quiesce: Some(true), ..linux.request(&nas, 0) }).unwrap();
    let before = listing(nas.root());
    let log = log_of(&linux);
    linux.hold_freeze();
    let start = Instant::now();
    let error = take(TakeBackupRequest { quiesce: Some(true), ..linux.request(&nas, 1) }).unwrap_err();
    assert_eq!(error.code, Code::QuiesceFailed, "{error}");
    let lines = log();
    let line = lines.iter().find(|line| line.contains("not frozen")).unwrap_or_else(|| panic!("{lines:?}"));
    assert!(u128::from(millis(line, "not frozen, after ")) <= start.elapsed().as_millis(), "{line}");
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    assert_eq!(listing(nas.root()), before);
    linux.assert_writes();
    // Only now does it carry out the freeze that it was asked for.
    linux.release_freeze();
    linux.assert_writes();
    assert_eq!(linux.guest.checkpoints(), ["backup-0"]);
    // Until the agent has answered the thaw that is due, nobody asks it to freeze again; a call that has failed may be clearing up.
    let mut next = None;
    until("the agent answers the thaw", || {
        match take(TakeBackupRequest { quiesce: Some(true), ..linux.request(&nas, 2) }) {
            Err(error) if matches!(error.code, Code::QuiesceFailed | Code::Busy) => false,
            taken => next.replace(taken.unwrap()).is_none(),
        }
    });
    linux.assert_writes();
    assert!(restored(&nas, &next.expect("it was taken")).was_frozen());
}

#[test]
fn only_what_we_froze_is_thawed() {
    let linux = RealGuest::boot(1, "");
    let nas = Nas::folder();
    let quiesced = |n| TakeBackupRequest { quiesce: Some(true), ..linux.request(&nas, n) };
    let by = |setting: &str, value: Value, n| {
        let mut host = own_host();
        host[setting] = value;
        Agent::new(&host, &[("takeBackup", take_json(&quiesced(n)))])
    };
    let record = config::current().state_dir.join(format!("{}.json", linux.guest.name));
    let on_record = || std::fs::read_to_string(&record).unwrap_or_default().contains(r#""frozen":"i-"#);
    let was_frozen = |n| {
        let file = format!("{}/root.{}.qcow2", backup_path(&linux.guest, n), linux.guest.disks[0].volume());
        Restored::from(&nas.at(&file)).was_frozen()
    };

    linux.guest.virsh(&["domfsfreeze"]);
    let error = take(quiesced(0)).unwrap_err();
    assert!(error.code == Code::QuiesceFailed && error.cause.contains("somebody else"), "{error}");
    assert!(!on_record());
    Agent::new(&own_host(), &[]).succeed();
    by("quiesceFailure", json!("warn"), 1).succeed();
    assert!(linux.is_frozen(), "theirs to thaw");
    assert!(was_frozen(1));
    linux.guest.virsh(&["domfsthaw"]);

    // Of an agent that does not answer at all, no freeze is asked.
    linux.stop_agent();
    by("freezeSeconds", json!(2), 2).fail_with("QUIESCE_FAILED");
    assert!(!on_record());
    // Nor is its answer waited for when the call has no more time.
    let mut patient = own_host();
    patient["freezeSeconds"] = json!(300);
    let hurried = TakeBackupRequest { wait_seconds: Some(5), ..quiesced(2) };
    let asked = Instant::now();
    Agent::new(&patient, &[("takeBackup", take_json(&hurried))]).fail_with("QUIESCE_FAILED");
    assert!(asked.elapsed() < PATIENCE, "{:?}", asked.elapsed());
    linux.wake_agent();
    assert!(!linux.is_frozen());

    by("freezeMountPoints", json!(["/nowhere", "/neither"]), 3).fail_with("QUIESCE_FAILED");
    by("freezeMountPoints", json!(["/nowhere", "/mnt"]), 4).succeed();
    assert!(was_frozen(4));
    assert!(!linux.is_frozen() && !on_record());
    linux.assert_writes();

    // A guest that a killed agent has left frozen waits for no NAS.
    let hung = Nas::folder().through_fuse();
    hung.hang();
    health::mark(&Repository::check(Some(hung.repository())).unwrap());
    HostState::lock(&config::current().state_dir, &linux.guest.name).unwrap().set_frozen(true).unwrap();
    linux.guest.virsh(&["domfsfreeze"]);
    let error = take(linux.request(&hung, 5)).unwrap_err();
    assert!(error.code == Code::NasUnresponsive && !linux.is_frozen() && !on_record(), "{error}");
    linux.assert_writes();
}

/// The guest's agent takes its time, and meanwhile somebody begins a backup of their own.
#[test]
fn somebody_else_s_backup_that_begins_during_the_freeze_is_left_alone() {
    let linux = RealGuest::boot(1, "");
    let nas = Nas::folder();
    take(TakeBackupRequest { quiesce: Some(true), ..linux.request(&nas, 0) }).unwrap();
    linux.hold_freeze();
    let error = std::thread::scope(|scope| {
        let ours = scope.spawn(|| take(TakeBackupRequest { quiesce: Some(true), ..linux.request(&nas, 1) }));
        let record = config::current().state_dir.join(format!("{}.json", linux.guest.name));
        until("the freeze begins", || std::fs::read_to_string(&record).unwrap_or_default().contains(r#""frozen":"i-"#));
        begin_foreign_backup(&linux.guest);
        linux.release_freeze();
        ours.join().unwrap().unwrap_err()
    });
    assert_eq!(error.code, Code::Busy, "{error}");
    // Nothing of ours goes on behind it that could end their job.
    assert!(!error.leftovers, "{error}");
    linux.guest.virsh(&["backup-dumpxml"]);
    linux.assert_writes();
    linux.guest.virsh(&["domjobabort"]);
    until("their job ends", || linux.guest.virsh(&["domjobinfo"]).contains("None"));
    take(TakeBackupRequest { quiesce: Some(true), ..linux.request(&nas, 2) }).unwrap();
    linux.guest.assert_no_job();
}

/// Backs up to a slow repository while `act` happens in the guest.
fn take_while(linux: &RealGuest, nas: &Nas, act: impl FnOnce()) -> Result<TakenBackup> {
    take_and(linux.request(nas, 0), |_| act())
}

#[test]
fn a_reboot_in_the_middle_does_no_harm() {
    let linux = RealGuest::boot(64, "");
    let nas = Nas::folder().slow(8);
    let taken = take_while(&linux, &nas, || linux.reboot()).unwrap();
    assert_eq!(linux.guest.state(), "running");
    assert!(restored(&nas, &taken).verified_files(true) >= 1);
    linux.wait_for_agent();
    linux.assert_writes();
}

#[test]
fn power_off_in_the_middle_fails_the_backup() {
    // More than QEMU has under way at once, so that the job can't end by itself, where it is held still within 12 s.
    let linux = RealGuest::boot(160, "");
    let nas = Nas::folder().slow(8);
    let mut asked = Instant::now();
    let error = take_while(&linux, &nas, || {
        linux.guest.hold_job_still();
        linux.power_off();
        asked = Instant::now();
    })
    .unwrap_err();
    assert_eq!(error.code, Code::JobFailed, "{error}");
    assert!(asked.elapsed() < PATIENCE, "{:?}", asked.elapsed());
    until("the domain goes", || linux.guest.state() == "gone");
    until("what the job held back goes", || files(&nas).is_empty());
}
