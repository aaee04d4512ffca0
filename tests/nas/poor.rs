//! A NAS that lacks what it need not have, call by call and error by error: all operations go on, each thing is told once,
//! and all points read back identical. What a NAS must have fails an operation with an error that names the call.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use nasbackup::error::{Code, Result};
use nasbackup::nas::folder::Folder;
use nasbackup::nas::lock::InstanceLock;
use nasbackup::nas::purpose::Purpose;
use nasbackup::operation::take_backup::TakeBackupRequest;
use serde_json::{Value, json};

use crate::run;
use crate::support::{
    self, Agent, Disk, Fs, Guest, MIB, Nas, Refusal, Story, folder, listing, own_host, refusing, repository_json, take,
    take_json,
};

/// What a NAS need not have: as the log calls it, if it does, the system call, what NASes answer to it, and the calls that
/// have to be refused, too, so that it is made.
type Needless = (&'static str, &'static str, &'static [i32], &'static [&'static str]);
const NEEDLESS: &[Needless] = &[
    ("flock", "flock", &[libc::ENOLCK, libc::EBADF, libc::EOPNOTSUPP, libc::ENOSYS, libc::EINVAL], &[]),
    ("chmod", "chmod", &[libc::EPERM, libc::EOPNOTSUPP, libc::EACCES, libc::ENOSYS, libc::EINVAL, ENOTSUPP], &[]),
    ("chown", "chown", &[libc::EPERM], &[]),
    ("fsync of a folder", "folder fsync", &[libc::EINVAL, libc::EOPNOTSUPP, libc::ENOSYS, libc::EBADF], &[]),
    ("RENAME_NOREPLACE", "RENAME_NOREPLACE", &[libc::EINVAL, libc::ENOSYS, libc::EOPNOTSUPP], &[]),
    ("openat2", "openat2", &[libc::ENOSYS, libc::EPERM, libc::EINVAL, libc::EOPNOTSUPP], &[]),
    ("a size", "statfs", &[0], &[]),
    ("a size", "statfs", &[libc::ENOSYS, libc::EOPNOTSUPP], &[]),
    ("FICLONERANGE", "FICLONERANGE", &[libc::EOPNOTSUPP, libc::EXDEV, libc::EINVAL], &[]),
    ("FICLONERANGE", "FICLONERANGE", &[libc::ENOTTY, libc::EIO], &[]),
    ("copy_file_range", "copy_file_range", &[libc::EXDEV, libc::EOPNOTSUPP, libc::EINVAL], &["FICLONERANGE"]),
    ("copy_file_range", "copy_file_range", &[libc::ENOSYS, libc::EIO], &["FICLONERANGE"]),
    ("SEEK_DATA", "SEEK_DATA", &[libc::EIO, libc::EINVAL, libc::EOPNOTSUPP], &["FICLONERANGE"]),
    ("SEEK_HOLE", "SEEK_HOLE", &[libc::EIO, libc::EINVAL, libc::EOPNOTSUPP], &["FICLONERANGE"]),
    ("", "answer of a rename", &[libc::EIO, libc::ETIMEDOUT, libc::ENOENT], &[]),
    ("", "fadvise", &[libc::EINVAL, libc::ENOSYS, libc::ESPIPE], &[]),
];
/// The kernel's own number, which NFS and CIFS let through.
const ENOTSUPP: i32 = 524;

fn refusal(call: &str, errnos: &[i32]) -> Refusal {
    Refusal { call: call.to_owned(), errnos: errnos.to_vec() }
}

/// A guest that does not run, with a full point and an incremental.
fn story_on(nas: Nas) -> Story {
    let mut story = Story::new(Guest::stopped([Disk::new().size(24 * MIB)]), nas);
    write(&story, 0x20);
    story.take_stopped("full").assert_full(true);
    write(&story, 0x31);
    story.take_stopped("incremental").assert_incremental();
    story
}

/// Its disk gets something new.
fn write(story: &Story, pattern: u8) {
    let write = format!("write -q -P {pattern} {}M 200k", 8 + pattern % 8);
    support::run("qemu-io", ["-f", "qcow2", "-c", &write, story.guest.disks[0].path.to_str().unwrap()]);
}

/// Takes an incremental, verifies and flattens it, puts it onto the first point, and deletes the one between: all by an
/// agent that meets these refusals. What the agent said.
fn all_operations(story: &mut Story, refusals: &[Refusal]) -> String {
    let request = story.stopped_request("incremental");
    let (path, content) = (request.backup_path.clone().unwrap(), story.content());
    let (first, between) = (story.points[0].path.clone(), story.points[1].path.clone());
    let repository = repository_json(&story.nas.repository());
    let on = |mut request: Value| {
        request["repository"] = repository.clone();
        request
    };
    let volume = story.guest.disks[0].volume().to_owned();
    // beside the points: an output, too, may lie on such a NAS, and may take the place of another
    let out = story.nas.at("disk.raw");
    fs::write(&out, "old").unwrap();
    let calls = [
        ("takeBackup", take_json(&request)),
        ("verifyChain", on(json!({"backupPath": path}))),
        ("verifyData", on(json!({"backupPath": path}))),
        ("flatten", on(json!({"backupPath": path, "volume": volume, "output": {"path": out, "format": "raw"}}))),
        ("rebasePoint", on(json!({"backupPath": path, "newParent": first}))),
        ("deleteBackup", on(json!({"backupPath": between}))),
        ("backupStats", on(json!({}))),
    ];
    let mut host = own_host();
    host["logLevel"] = json!("info");
    // not what the umask leaves
    host["fileMode"] = json!("0660");
    let text = Agent::new(&host, &calls).refused(story.nas.root(), refusals).text_of_success();
    assert!(fs::read(&out).unwrap() == fs::read(&content[&volume]).unwrap(), "{refusals:?}: the flattened disk");
    fs::remove_file(out).unwrap();
    story.adopt(path, content);
    drop(story.points.remove(1));
    story.assert_restores(story.last());
    story.assert_nothing_half_made();
    text
}

#[test]
fn what_a_nas_need_not_have_is_done_without_and_told_once() {
    let mut story = story_on(Nas::image(Fs::Btrfs, 320));
    for (pattern, (what, call, errnos, also)) in (0x41..).zip(NEEDLESS) {
        write(&story, pattern);
        let refusals = also.iter().map(|call| refusal(call, &[libc::EOPNOTSUPP])).chain([refusal(call, errnos)]);
        let text = all_operations(&mut story, &refusals.collect::<Vec<_>>());
        let met = text.lines().find_map(|line| line.strip_prefix("met: ")).unwrap();
        let met: Value = serde_json::from_str(met).unwrap();
        assert!(met[call].as_u64().is_some_and(|times| times >= errnos.len() as u64), "{call}: met {met}, {text}");
        // once of the NAS; of the host's own, from whose root an output's folder is reached, it may be told, too
        let told: Vec<_> = text.lines().filter(|line| line.contains(&format!(" lacks {what}, "))).collect();
        let of = |kind: &str| told.iter().filter(|line| line.contains(&format!("::lacking {kind} '"))).count();
        let (of_nas, of_all) = (of("btrfs"), told.len());
        assert!(of_nas == usize::from(!what.is_empty()) && of_all <= of_nas + 1, "{what}: {text}");
    }
    story.assert_all_restore();
}

#[test]
fn a_running_guest_is_backed_up_by_both_engines_where_all_of_it_is_lacking() {
    let mut story = Story::new(Guest::new([Disk::new().size(48 * MIB)]), Nas::image(Fs::Ext4, 320));
    let root = story.nas.root().to_owned();
    let refusals = |with_chown: bool| {
        let meant = NEEDLESS.iter().filter(|(_, call, ..)| with_chown || *call != "chown");
        meant.map(|(_, call, errnos, _)| refusal(call, errnos)).collect::<Vec<_>>()
    };
    // what is made belongs to root alone there, and QEMU is another user
    let request = TakeBackupRequest { engine: Some("push".into()), ..story.request("full") };
    let (refused, _) = refusing(&root, &refusals(true), || take(request));
    let error = refused.unwrap_err();
    assert!(error.code == Code::PermissionDenied && error.cause.contains("export with no_root_squash"), "{error}");
    story.assert_nothing_half_made();
    for (pattern, (engine, mode)) in
        (0x61..).zip([("push", "full"), ("push", "incremental"), ("pull", "full"), ("pull", "incremental")])
    {
        // with more than the kernel is let begin to write at once
        story.guest.write(0, pattern, MIB, 20 * MIB);
        let request = TakeBackupRequest { engine: Some(engine.into()), ..story.request(mode) };
        let refusals = refusals(engine == "pull");
        story.accept_with(request, |request| refusing(&root, &refusals, || take(request)).0);
    }
    story.assert_all_restore();
}

/// Modes and owners that can't be changed are no refusal: ACLs may give everybody, and QEMU, all that is needed.
#[test]
fn one_whose_acls_rule_takes_a_push_if_they_let_qemu_write() {
    let ruled = Nas::folder().view_with(&["--chmod-deny", "--chown-deny", "--perms=a+rwX"]);
    let mut story = Story::new(Guest::new([Disk::new()]), ruled);
    for (pattern, mode) in (0x71..).zip(["full", "incremental"]) {
        story.guest.write(0, pattern, MIB, MIB);
        story.accept(TakeBackupRequest { engine: Some("push".into()), ..story.request(mode) });
    }
    story.assert_all_restore();
    run(&story.nas, "rebasePoint", json!({"backupPath": story.points[1].path})).unwrap();
    run(&story.nas, "deleteBackup", json!({"backupPath": story.points[0].path})).unwrap();
    drop(story.points.remove(0));
    story.assert_all_restore();
}

/// Where the repository has no `flock`, this host's own locks keep apart what runs on it, whatever becomes of the claims.
#[test]
fn without_flock_one_host_s_calls_and_processes_are_kept_apart() {
    use Purpose::{Add, Change, Read};
    support::init();
    let nas = Nas::folder();
    let instance = nas.at("i-1");
    fs::create_dir_all(instance.join("T1")).unwrap();
    let flock = [refusal("flock", &[libc::ENOLCK])];
    let take = |purpose| InstanceLock::take(&Folder::open_root(&instance).unwrap(), purpose);
    for (first, second, together) in [
        (Add, Add, false),
        (Add, Change, false),
        (Change, Change, false),
        (Change, Read, false),
        (Read, Change, false),
        (Read, Read, true),
        (Read, Add, true),
        (Add, Read, true),
    ] {
        let (other, _) = refusing(nas.root(), &flock, || {
            let _held = take(first).unwrap();
            nas.without_claims();
            take(second).map(drop)
        });
        assert_eq!(
            other.as_ref().err().map(|error| error.code),
            (!together).then_some(Code::Busy),
            "{first:?}, {second:?}"
        );
    }
    // with no room for a claim nothing keeps other hosts out, and who reads does no harm
    let full = [flock[0].clone(), refusal("claim", &[libc::ENOSPC])];
    for (purpose, free) in [(Add, false), (Change, false), (Read, true)] {
        let (taken, _) = refusing(nas.root(), &full, || take(purpose).map(drop));
        let refused = taken.as_ref().is_err_and(|e| e.code == Code::NoSpace && e.cause.contains("without flock"));
        assert!(taken.is_ok() == free && refused != free, "{purpose:?}: {taken:?}");
    }
    let delete = json!({"repository": repository_json(&nas.repository()), "backupPath": "i-1/T1"});
    let agent = || Agent::new(&own_host(), &[("deleteBackup", delete.clone())]).refused(nas.root(), &flock);
    let (held, _) = refusing(nas.root(), &flock, || take(Read).unwrap());
    nas.without_claims();
    agent().fail_with("BUSY");
    drop(held);
    agent().succeed();
    assert!(!instance.join("T1").exists());
}

#[test]
fn one_that_is_read_only_and_has_no_flock_can_be_restored_from() {
    let story = story_on(Nas::image(Fs::Ext4, 64));
    story.nas.read_only(true);
    let (path, volume) = (story.last().path.clone(), story.last().taken.disks[0].volume.clone());
    let out = folder("flat").join("disk.raw");
    refusing(story.nas.root(), &[refusal("flock", &[libc::EBADF])], || {
        for operation in ["verifyChain", "verifyData"] {
            let verified = run(&story.nas, operation, json!({"backupPath": path})).unwrap();
            assert_eq!(verified["verdict"], "good", "{operation}: {verified}");
        }
        let output = json!({"path": out, "format": "raw"});
        run(&story.nas, "flatten", json!({"backupPath": path, "volume": volume, "output": output})).unwrap();
    });
    assert!(fs::read(&out).unwrap() == fs::read(&story.content()[&volume]).unwrap());
}

/// What a NAS must have: the system call, what it answers, the code of the failure, and how the failure may name the call.
const NEEDED: &[(&str, i32, Code, &[&str])] = &[
    ("openat2", libc::EIO, Code::Io, &["open the "]),
    ("flock", libc::EIO, Code::Io, &["flock: "]),
    ("claim", libc::EIO, Code::Io, &["claim the instance: "]),
    ("open", libc::EACCES, Code::PermissionDenied, &["open the "]),
    ("create", libc::EROFS, Code::PermissionDenied, &["create the file: ", "open the output: "]),
    ("mkdir", libc::EDQUOT, Code::NoSpace, &["make the folder: "]),
    ("getdents", libc::EIO, Code::Io, &["list the folder: "]),
    ("stat", libc::EIO, Code::Io, &["look up: ", "remove: ", "rename: "]),
    ("read", libc::EIO, Code::Io, &["read: "]),
    ("pread", libc::ESTALE, Code::Io, &["read: "]),
    ("ftruncate", libc::EIO, Code::Io, &["ftruncate: "]),
    ("write", libc::ENOSPC, Code::NoSpace, &["write: "]),
    ("pwrite", libc::EDQUOT, Code::NoSpace, &["write: "]),
    ("fsync", libc::EIO, Code::Io, &["fsync: ", "sync the "]),
    ("fdatasync", libc::EIO, Code::Io, &["fdatasync: "]),
    ("folder fsync", libc::EIO, Code::Io, &["sync the folder: "]),
    ("rename", libc::EIO, Code::Io, &["rename: "]),
    ("unlink", libc::EIO, Code::Io, &["remove: "]),
];

/// What an operation may come to where the NAS lacks what it needs.
fn assert_named(cell: &str, ended: Result<Value>, errno: i32, code: Code, names: &[&str]) {
    let text = match &ended {
        // a reader needs no claim where nobody can have one; what can't be read is no verdict
        Ok(told) if told["verdict"] != "aborted" => return,
        Ok(told) => told.to_string(),
        Err(error) => {
            assert_eq!(error.code, code, "{cell}: {error}");
            error.to_string()
        }
    };
    assert!(text.contains(&format!("(os error {errno})")) && text.contains("i-"), "{cell}: {text}");
    assert!(names.iter().any(|name| text.contains(name)), "{cell}: {text}");
}

/// The names, and of what no rebase changes the lengths, too; without locks and claims.
fn contents(nas: &Nas, operation: &str) -> Vec<(PathBuf, u64)> {
    let is_lock = |path: &Path| path.file_name().unwrap().to_string_lossy().starts_with(".nasbackup.");
    let length = |length| if operation == "rebasePoint" { 0 } else { length };
    let found = listing(nas.root()).into_iter().filter(|(path, _)| !is_lock(path));
    found.map(|(path, bytes)| (path, length(bytes))).collect()
}

#[test]
fn what_a_nas_must_have_fails_by_name_and_leaves_nothing_half_made() {
    let mut story = story_on(Nas::folder());
    write(&story, 0x52);
    story.take_stopped("incremental").assert_incremental();
    let (first, last, volume) = (&story.points[0].path, &story.last().path, story.guest.disks[0].volume().to_owned());
    let content = fs::read(&story.content()[&volume]).unwrap();
    let output = |name: &str| json!({"path": folder("flat").join(name), "format": "raw"});
    let flatten = |output: Value| json!({"backupPath": last, "volume": volume, "output": output});
    let mut met_by = BTreeMap::<_, Vec<_>>::new();
    for (call, errno, code, names) in NEEDED {
        for (operation, request) in [
            ("takeBackup", take_json(&story.stopped_request("full"))),
            ("verifyChain", json!({"backupPath": last})),
            ("verifyData", json!({"backupPath": last})),
            ("flatten", flatten(output("disk.raw"))),
            ("rebasePoint", json!({"backupPath": last, "newParent": first})),
            ("deleteBackup", json!({"backupPath": last})),
        ] {
            let cell = format!("{operation}, {call} {errno}");
            let nas = story.nas.copy();
            let before = contents(&nas, operation);
            let (ended, met) = refusing(nas.root(), &[refusal(call, &[*errno])], || run(&nas, operation, request));
            if met.is_empty() {
                ended.unwrap_or_else(|error| panic!("{cell}: {error}"));
                continue;
            }
            met_by.entry(*call).or_default().push(operation);
            // its names come back, even where the NAS does not say that it keeps them
            if (operation, *call) == ("deleteBackup", "folder fsync") {
                assert!(nas.at(last).join("manifest.json").exists(), "{cell}");
            }
            let (failed, told) = (ended.is_err(), ended.as_ref().is_err_and(|error| error.leftovers));
            assert_named(&cell, ended, *errno, *code, names);
            if failed && !told {
                // of an image that could not be made again what it was they are lost, and its manifest says so
                let manifest = fs::read_to_string(nas.at(last).join("manifest.json")).unwrap();
                let has_lost = manifest.contains("\"lostFingerprints\": true");
                let is_kept = |(path, _): &(PathBuf, u64)| {
                    !has_lost || !path.starts_with(last) || path.extension().is_none_or(|end| end != "fingerprints")
                };
                let kept: Vec<_> = before.into_iter().filter(is_kept).collect();
                assert_eq!(contents(&nas, operation), kept, "{cell}");
                // with a claim that could not be given back nobody else works there for a while
                nas.without_claims();
                let output = output("after.raw");
                run(&nas, "flatten", flatten(output.clone())).unwrap_or_else(|error| panic!("{cell}: {error}"));
                assert!(fs::read(output["path"].as_str().unwrap()).unwrap() == content, "{cell}");
            }
        }
        assert!(met_by.contains_key(call), "{call} was never made");
    }
    story.take_stopped("full").assert_full(true);
    story.assert_all_restore();
}
