//! Who reads a chain holds up no backup, and nobody changes what is read.

use nasbackup::error::Code;
use nasbackup::operation::{self, take_backup};
use nasbackup::work::phase::Phase;
use serde_json::json;

use crate::run;
use crate::support::{Fs, Guest, Nas, Story, folder};

/// Runs a reading operation, and `meanwhile` once while it is at work.
fn while_reading(story: &mut Story, operation: &str, more: serde_json::Value, meanwhile: impl FnOnce(&mut Story)) {
    let mut request = more;
    request["repository"] = json!({"type": "dir", "address": story.nas.root()});
    let mut meanwhile = Some(meanwhile);
    let mut error = None;
    let result = operation::call(operation, &request.to_string(), &mut |status| {
        if !matches!(status.phase, Phase::Start | Phase::OpenRepository)
            && let Some(meanwhile) = meanwhile.take()
        {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| meanwhile(&mut *story)));
            error = done.err();
        }
        Ok(())
    });
    if let Some(panic) = error {
        std::panic::resume_unwind(panic);
    }
    assert!(meanwhile.is_none(), "it was never at work: {result:?}");
    result.unwrap();
}

#[test]
fn a_full_repository_is_read_and_emptied() {
    for fs in [Fs::Ext4, Fs::Xfs] {
        let mut story = Story::new(Guest::ordinary(), Nas::image(fs, 320));
        story.take("full").assert_full(true);
        story.guest.write(0, 0x51, 5 << 20, 1 << 20);
        story.take("incremental").assert_incremental();
        story.nas.fill();
        let (path, volume) = (story.last().path.clone(), story.last().taken.disks[0].volume.clone());
        let out = folder("flat").join("disk.raw");
        let verified = run(&story.nas, "verifyChain", json!({"backupPath": path})).unwrap();
        assert_eq!(verified["verdict"], "good", "{fs:?}");
        let output = json!({"path": out, "format": "raw"});
        run(&story.nas, "flatten", json!({"backupPath": path, "volume": volume, "output": output})).unwrap();
        run(&story.nas, "deleteBackup", json!({"backupPath": path})).unwrap();
        story.points.pop();
        let left = std::fs::read_dir(story.nas.at(&story.guest.name)).unwrap();
        let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert!(!left.into_iter().any(|name| name.contains("reader") || name.contains("lease")), "{fs:?}");
        story.assert_all_restore();
    }
}

#[test]
fn backups_go_on_and_deletes_and_rebases_wait_while_a_chain_is_read() {
    let mut story = Story::with_full();
    story.guest.write(0, 0x51, 5 << 20, 1 << 20);
    story.take("incremental").assert_incremental();
    let (path, volume) = (story.last().path.clone(), story.last().taken.disks[0].volume.clone());
    let (out, restored) = (folder("flat").join("disk.raw"), folder("restored"));
    let content = story.content();
    let disk = |disk: &nasbackup::operation::take_backup::TakenDisk| json!({"volume": disk.volume, "output": {"path": restored.join(&disk.volume), "format": "raw"}});
    let disks: Vec<_> = story.last().taken.disks.iter().map(disk).collect();
    for (operation, request) in [
        ("verifyChain", json!({"backupPath": path})),
        ("restorePoint", json!({"backupPath": path, "volumes": disks})),
        ("flatten", json!({"backupPath": path, "volume": volume, "output": {"path": out, "format": "raw"}})),
    ] {
        while_reading(&mut story, operation, request, |story| {
            let busy = |operation, request| {
                let error = run(&story.nas, operation, request).unwrap_err();
                assert_eq!(error.code, Code::Busy, "{operation}: {error}");
                assert!(error.cause.contains("being verified, restored or mounted"), "{error}");
            };
            busy("deleteBackup", json!({"backupPath": path}));
            busy("rebasePoint", json!({"backupPath": path}));
            run(&story.nas, "verifyChain", json!({"backupPath": path})).unwrap();
            story.guest.write(0, 0x52, 7 << 20, 1 << 20);
            story.take("incremental").assert_incremental();
        });
    }
    story.assert_all_restore();
    for (volume, was) in content {
        assert!(std::fs::read(restored.join(&volume)).unwrap() == std::fs::read(was).unwrap(), "{volume}");
    }
    // and the other way round: the chain is read while a backup runs
    let (request, repository) = (story.request("incremental"), story.nas.repository());
    story.accept_with(request, |request| {
        let mut verified = None;
        let taken = take_backup::run(request, &mut |status| {
            if status.phase == Phase::Begin {
                let address = repository.address.as_deref().unwrap();
                let request = json!({"backupPath": path, "repository": {"type": "dir", "address": address}});
                verified = Some(operation::call("verifyChain", &request.to_string(), &mut |_| Ok(())).unwrap());
            }
            Ok(())
        });
        assert_eq!(verified.unwrap()["verdict"], "good");
        taken
    });
    story.assert_all_restore();
}
