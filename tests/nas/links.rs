//! Symbolic links that somebody planted on the NAS, at each level and for each operation: none is followed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nasbackup::operation::take_backup;
use nasbackup::qcow2;
use nasbackup::work::phase::Phase;
use serde_json::{Value, json};

use crate::run;
use crate::support::{Guest, Nas, Refusal, Story, folder, refusing, take};

const IMAGE: &str = "root.x.qcow2";

/// Every file below a folder with its content; links are not followed.
fn contents(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = crate::support::listing(root).into_iter().map(|(path, _)| path);
    paths.map(|path| (path.clone(), fs::read(root.join(&path)).unwrap_or_default())).collect()
}

/// A repository with the points `T1` and, on top of it, `T2`.
fn repository() -> Nas {
    let nas = Nas::folder();
    for (point, backing) in [("T1", None), ("T2", Some("../T1/root.x.qcow2"))] {
        let folder = nas.at("i-1").join(point);
        fs::create_dir_all(&folder).unwrap();
        qcow2::create(&fs::File::create_new(folder.join(IMAGE)).unwrap(), 1 << 20, backing).unwrap();
    }
    nas
}

/// Moves `path` of the repository out of it and leaves a link in its place; what is not there is not made either.
fn plant(nas: &Nas, path: &str) -> PathBuf {
    let outside = folder("outside");
    let (from, to) = (nas.at(path), outside.join("moved"));
    if from.exists() {
        fs::rename(&from, &to).unwrap();
    }
    symlink(&to, &from).unwrap();
    outside
}

#[test]
fn no_operation_follows_one_at_any_level() {
    let out = folder("flat").join("disk.raw");
    let image = format!("i-1/T2/{IMAGE}");
    let requests = || {
        [
            ("verifyChain", json!({"backupPath": "i-1/T2"})),
            ("flatten", json!({"backupPath": "i-1/T2", "volume": "x", "output": {"path": out, "format": "raw"}})),
            ("rebasePoint", json!({"backupPath": "i-1/T2"})),
            ("rebaseBackup", json!({"target": image})),
            ("deleteBackup", json!({"backupPath": "i-1/T2"})),
        ]
    };
    for (operation, request) in requests() {
        let nas = repository();
        assert!(good(run(&nas, operation, request)), "{operation} without a link");
    }
    // what a delete takes away as a link, and what an operation has no need of
    let harmless = [
        ("deleteBackup", "i-1/T2/root.x.qcow2"),
        ("deleteBackup", "i-1/T2/manifest.json"),
        ("deleteBackup", "i-1/T1"),
        ("deleteBackup", "i-1/T1/root.x.qcow2"),
        ("verifyChain", "i-1/.nasbackup.lock"),
        ("flatten", "i-1/.nasbackup.lock"),
    ];
    for level in [
        "i-1",
        "i-1/T2",
        "i-1/T2/root.x.qcow2",
        "i-1/T2/manifest.json",
        "i-1/T1",
        "i-1/T1/root.x.qcow2",
        "i-1/.nasbackup.lock",
        "i-1/.nasbackup.chains.lock",
    ] {
        // in the kernel's own confinement, and without
        for openat2 in [&[][..], &[libc::ENOSYS], &[libc::EPERM]] {
            for (operation, request) in requests() {
                let nas = repository();
                let outside = plant(&nas, level);
                let before = contents(&outside);
                let refused = Refusal { call: "openat2".to_owned(), errnos: openat2.to_vec() };
                let refusals = if openat2.is_empty() { vec![] } else { vec![refused] };
                let (result, _) = refusing(nas.root(), &refusals, || run(&nas, operation, request));
                let cell = format!("{operation} through '{level}', openat2 {openat2:?}");
                assert_eq!(contents(&outside), before, "{cell}");
                let expected = harmless.contains(&(operation, level));
                assert_eq!(good(result.clone()), expected, "{cell}: {result:?}");
            }
        }
    }
}

fn good(result: nasbackup::error::Result<Value>) -> bool {
    result.is_ok_and(|result| result.get("verdict").is_none_or(|verdict| verdict == "good"))
}

#[test]
fn no_backup_follows_one_at_any_level() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    story.take("full").assert_full(true);
    type Level = fn(&Story) -> String;
    let levels: [(Level, Option<&str>); 7] = [
        (|story| story.guest.name.clone(), Some("IO")),
        (|story| story.request("incremental").backup_path.unwrap(), Some("ALREADY_EXISTS")),
        (|story| format!("{}/.nasbackup.lock", story.guest.name), Some("IO")),
        // a parent that is not where it should be is no parent
        (|story| story.last().path.clone(), None),
        (|story| story.last().files()[0].clone(), None),
        (|story| format!("{}/manifest.json", story.last().path), None),
        // a leftover that is a link goes as a link
        (|story| story.request("incremental").backup_path.unwrap().replace('/', "/.partial-"), None),
    ];
    for (level, code) in levels {
        let level = level(&story);
        if level.ends_with(".lock") {
            fs::remove_file(story.nas.at(&level)).unwrap();
        }
        let outside = plant(&story.nas, &level);
        let before = contents(&outside);
        let mut request = story.request("incremental");
        request.engine = Some("push".into());
        let taken = take(request);
        assert_eq!(contents(&outside), before, "through '{level}'");
        match (code, taken) {
            (Some(code), taken) => assert_eq!(taken.unwrap_err().code.as_str(), code, "through '{level}'"),
            (None, Ok(taken)) => assert!(level.contains(".partial-") || taken.incremental_fallback, "{taken:?}"),
            (None, Err(error)) => panic!("through '{level}': {error}"),
        }
        // as it was
        fs::remove_file(story.nas.at(&level)).ok();
        if outside.join("moved").exists() {
            fs::rename(outside.join("moved"), story.nas.at(&level)).unwrap();
        }
        story.skip();
        story.take("full").assert_full(true);
    }
}

/// libvirt and QEMU get the targets' paths: a link that came in between is noticed when the job has begun.
#[test]
fn a_push_whose_target_became_a_link_ends() {
    let story = Story::new(Guest::ordinary(), Nas::folder());
    let mut request = story.request("full");
    request.engine = Some("push".into());
    let partial = request.backup_path.clone().unwrap().replace('/', "/.partial-");
    let error = take_backup::run(request, &mut |status| {
        if status.phase == Phase::Begin {
            let names = fs::read_dir(story.nas.at(&partial)).unwrap().map(|entry| entry.unwrap().file_name());
            let root = names.into_iter().find(|name| name.to_str().unwrap().starts_with("root.")).unwrap();
            plant(&story.nas, &format!("{partial}/{}", root.to_str().unwrap()));
        }
        Ok(())
    });
    let error = error.unwrap_err();
    assert!(error.code.as_str() == "IO" && error.cause.contains("was exchanged"), "{error}");
    story.guest.assert_no_job();
    story.assert_nothing_half_made();
}
