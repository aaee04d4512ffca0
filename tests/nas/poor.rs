//! A NAS that lacks what it need not have, call by call and error by error: all operations go on, each thing is told once,
//! and all points read back identical. What a NAS must have fails an operation with an error that names the call.

use std::fs;

use nasbackup::error::Code;
use nasbackup::nas::folder::Folder;
use nasbackup::nas::lock::{InstanceLock, Purpose};
use serde_json::{Value, json};

use crate::run;
use crate::support::{
    self, Agent, Disk, Fs, Guest, MIB, Nas, Refusal, Story, folder, own_host, refusing, repository_json, take_json,
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
    ("", "fadvise", &[libc::EINVAL, libc::ENOSYS, libc::ESPIPE], &[]),
];
/// The kernel's own number, which NFS and CIFS let through.
const ENOTSUPP: i32 = 524;

fn refusal(call: &str, errnos: &[i32]) -> Refusal {
    Refusal { call: call.to_owned(), errnos: errnos.to_vec() }
}

/// A stopped guest with a full point and an incremental.
fn story_on(nas: Nas) -> Story {
    let mut guest = Guest::new([Disk::new().size(24 * MIB)]);
    guest.write(0, 0x21, 4 * MIB, 3 * MIB);
    guest.stop();
    let mut story = Story::new(guest, nas);
    story.take_stopped("full").assert_full(true);
    write(&story, 0x31);
    story.take_stopped("incremental").assert_incremental();
    story
}

/// The disk of the stopped guest gets something new.
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
    story.points.remove(1).discard();
    story.assert_restores(story.last());
    story.assert_nothing_half_made();
    text
}

#[test]
fn what_a_nas_need_not_have_is_done_without_and_told_once() {
    let mut story = story_on(Nas::image(Fs::Xfs, 320));
    for (pattern, (what, call, errnos, also)) in (0x41..).zip(NEEDLESS) {
        write(&story, pattern);
        let refusals = also.iter().map(|call| refusal(call, &[libc::EOPNOTSUPP])).chain([refusal(call, errnos)]);
        let text = all_operations(&mut story, &refusals.collect::<Vec<_>>());
        let met = text.lines().find_map(|line| line.strip_prefix("met: ")).unwrap();
        let met: Value = serde_json::from_str(met).unwrap();
        println!("{call}: {met}");
        assert!(met[call].as_u64().is_some_and(|times| times >= errnos.len() as u64), "{call}: met {met}, {text}");
        let lines = text.lines().filter(|line| line.contains(&format!(" lacks {what}, "))).count();
        assert_eq!(lines, usize::from(!what.is_empty()), "{what}: {text}");
    }
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
    let without_claims = || {
        for entry in fs::read_dir(&instance).unwrap().map(Result::unwrap) {
            if entry.file_name().to_string_lossy().starts_with(".nasbackup.") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    };
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
            without_claims();
            take(second).map(drop)
        });
        assert_eq!(
            other.as_ref().err().map(|error| error.code),
            (!together).then_some(Code::Busy),
            "{first:?}, {second:?}"
        );
    }
    let delete = json!({"repository": repository_json(&nas.repository()), "backupPath": "i-1/T1"});
    let agent = || Agent::new(&own_host(), &[("deleteBackup", delete.clone())]).refused(nas.root(), &flock);
    let (held, _) = refusing(nas.root(), &flock, || take(Read).unwrap());
    without_claims();
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
