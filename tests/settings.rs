//! What the configuration changes. One test at a time: the configuration and the log are the process's own.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

#[path = "attacks/keys.rs"]
mod keys;
mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nasbackup::config::{self, Config, QuiesceFailure};
use nasbackup::nas::repository::Repository;
use nasbackup::operation::{self, take_backup::TakeBackupRequest};
use serde_json::{Value, json};
use support::{Disk, Fs, Guest, Nas, Story, folder, listing, run, take, unmounted_image};

fn alone() -> MutexGuard<'static, ()> {
    static CONFIGURATION: Mutex<()> = Mutex::new(());
    CONFIGURATION.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_guest_that_can_t_be_frozen_is_backed_up_if_a_warning_is_enough() {
    let _alone = alone();
    let mut story = Story::with_full();
    let quiesce = |story: &Story| TakeBackupRequest { quiesce: Some(true), ..story.request("incremental") };
    story.refuse(quiesce(&story), "QUIESCE_FAILED");
    config::set(Config { quiesce_failure: QuiesceFailure::Warn, ..(*config::current()).clone() });
    let request = quiesce(&story);
    let taken = story.accept(request);
    taken.assert_incremental();
    assert!(taken.taken.details.contains("QUIESCE_FAILED"), "{}", taken.taken.details);
    story.assert_all_restore();
}

#[test]
fn what_is_made_in_a_repository_has_the_permissions_that_are_set() {
    let _alone = alone();
    support::init();
    let before = Config::clone(&config::current());
    let modes = Config { file_mode: Some("640".into()), folder_mode: Some("751".into()), ..before.clone() };
    config::set(modes.check().unwrap());
    let mut guest = Guest::stopped([Disk::root(), Disk::new()]);
    guest.os = " firmware='efi'";
    guest.devices = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>".to_owned();
    guest.start();
    let mut story = Story::new(guest, Nas::folder());
    for (engine, mode) in [("push", "full"), ("pull", "incremental"), ("pull", "incremental")] {
        story.guest.write(0, 0x51, 2 << 20, 1 << 20);
        let request = TakeBackupRequest { engine: Some(engine.into()), ..story.request(mode) };
        story.accept(request);
    }
    let repository = json!({"type": "dir", "address": story.nas.root()});
    let (path, parent) = (&story.points[2].path, &story.points[0].path);
    let rebase = json!({"repository": repository, "backupPath": path, "newParent": parent});
    operation::call("rebasePoint", &rebase.to_string(), &mut |_| Ok(())).unwrap();
    config::set(before);
    let made = listing(story.nas.root());
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    // a TPM's state opens disks that lie beside it: that is nobody's but root's
    let is_state = |path: &Path| ["nvram.fd", "tpm2-00.permall"].contains(&name(path).as_str());
    for (path, _) in made.iter().filter(|(path, _)| !name(path).starts_with(".nasbackup")) {
        let metadata = std::fs::metadata(story.nas.root().join(path)).unwrap();
        let expected = if metadata.is_dir() {
            0o751
        } else if is_state(path) {
            0o600
        } else {
            0o640
        };
        assert_eq!(metadata.permissions().mode() & 0o7777, expected, "{}", path.display());
    }
    assert_eq!(made.iter().filter(|(path, _)| is_state(path)).count(), 6, "{made:?}");
    story.assert_all_restore();
}

#[test]
fn a_metrics_file_that_hangs_holds_no_answer_up() {
    let _alone = alone();
    support::init();
    let before = Config::clone(&config::current());
    let (nas, hung) = (Nas::folder(), Nas::folder().through_fuse());
    let metrics = hung.at("nasbackup.prom");
    config::set(Config { metrics_file: Some(metrics.clone()), ..before.clone() });
    let request = json!({"repository": {"type": "dir", "address": nas.root()}}).to_string();
    let list = move || operation::call("listPoints", &request, &mut |_| Ok(()));
    hung.hang();
    let (answers, answered) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        nasbackup::shorten(&["tell what operations have come to"], Duration::from_secs(1));
        // the second one finds the first one's thread in its way
        (0..2).for_each(|_| answers.send(list()).unwrap());
    });
    let answers: Vec<_> = (0..2).map(|_| answered.recv_timeout(Duration::from_secs(60))).collect();
    hung.go_on();
    config::set(before);
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(Result::is_ok)), "{answers:?}");
    support::until("what was told late is there", || metrics.exists());
}

#[test]
fn a_null_is_what_an_absent_key_is() {
    let _alone = alone();
    support::init();
    let before = Config::clone(&config::current());
    let init = |request: &Value| operation::call("init", &request.to_string(), &mut |_| Ok(()));
    let (state_dir, mount_dir) = (folder("state"), folder("mounts"));
    let request = json!({
        "stateDir": state_dir, "mountDir": mount_dir, "connectionUri": null, "mountKeepSeconds": null, "engine": null,
        "logLevel": null, "logConfig": null, "quiesceFailure": null, "rateLimit": null, "fileMode": null,
    });
    let made = init(&request).map(|_| Config::clone(&config::current()));
    let unknown = init(&json!({"statedir": null})).unwrap_err();
    operation::init(before, nasbackup::logging::stderr()).unwrap();
    assert_eq!(made, Ok(Config { state_dir, mount_dir, ..Config::default() }));
    assert!(unknown.code.as_str() == "INVALID_ARGUMENT" && unknown.cause.contains("statedir"), "{unknown}");
}

/// A mount helper for CIFS and CephFS that notes how it was called and what it was given, and mounts `image`. The kernel
/// here knows neither.
struct Helpers {
    folder: PathBuf,
}

impl Helpers {
    fn new(image: &Path) -> Helpers {
        let (own, folder) = (folder("helpers"), folder("seen"));
        let script = format!(
            "#!/bin/bash\ncd '{}'\nprintf '%s\\n' \"$@\" >>arguments\ncat /proc/[0-9]*/cmdline | tr '\\0' ' ' >>processes\n\
             file=$(sed -n 's/.*\\(credentials\\|secretfile\\)=\\([^,]*\\).*/\\2/p' <<<\"$4\")\n\
             stat -c %a \"$file\" >>modes\ncat \"$file\" >>secrets\n\
             [[ $1 != *broken* ]] || {{ echo \"bad options: $4, $(<\"$file\")\" >&2; exit 1; }}\n\
             exec mount -o loop '{}' \"$2\"\n",
            folder.display(),
            image.display()
        );
        for name in ["mount.cifs", "mount.ceph"] {
            std::fs::write(own.join(name), &script).unwrap();
            std::fs::set_permissions(own.join(name), PermissionsExt::from_mode(0o755)).unwrap();
        }
        run("mount", ["-t", "overlay", "none", "-o", &format!("lowerdir={}:/usr/sbin", own.display()), "/usr/sbin"]);
        Helpers { folder }
    }

    fn seen(&self, what: &str) -> String {
        std::fs::read_to_string(self.folder.join(what)).unwrap()
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        run("umount", ["/usr/sbin"]);
    }
}

/// Are these bytes in any file below `root`, or in a name there?
fn holds(root: &Path, secret: &str) -> bool {
    let files = listing(root);
    files.iter().any(|(path, _)| {
        let content = std::fs::read(root.join(path)).unwrap_or_default();
        let named = path.to_str().unwrap().contains(secret);
        named || content.windows(secret.len()).any(|window| window == secret.as_bytes())
    })
}

#[test]
fn a_secret_is_in_no_log_error_command_line_or_file() {
    const SECRET: &str = "hunter2";
    let _alone = alone();
    let mut story = Story::with_full();
    let files = folder("log");
    let (yaml, log) = (files.join("log4rs.yaml"), files.join("log"));
    let text = format!(
        "appenders: {{file: {{kind: file, path: '{}'}}}}\nroot: {{level: trace, appenders: [file]}}\n",
        log.display()
    );
    std::fs::write(&yaml, text).unwrap();
    let config = Config { log_config: Some(yaml), ..(*config::current()).clone() };
    operation::init(config.clone(), nasbackup::logging::stderr()).unwrap();
    let image = unmounted_image(Fs::Ext4, 64);
    let helpers = Helpers::new(&image);
    let repository = |kind: &str, address: &str, options: &str| Repository {
        kind: Some(kind.into()),
        address: Some(address.into()),
        options: Some(options.into()),
    };
    let ext4 = image.to_str().unwrap();
    for repository in [
        repository("ext4", ext4, "loop,username=u,password=hunter2"),
        repository("ext4", ext4, "loop,user_id=hunter2"),
        repository("cifs", "//broken/share", "username=me,password=hunter2"),
        repository("ceph", "broken:/", "name=me,secret=hunter2"),
    ] {
        let request = TakeBackupRequest { repository: Some(repository), ..story.request("legacy") };
        let error = story.refuse(request, "MOUNT_FAILED");
        assert!(!format!("{error} {error:?}").contains(SECRET), "a secret in an error");
    }
    for repository in [
        repository("cifs", "//server/share", "vers=3.0,username=me,password=hunter2"),
        repository("ceph", "mon:/", "name=me,secret=hunter2"),
    ] {
        let request = TakeBackupRequest { repository: Some(repository), ..story.request("legacy") };
        take(request).unwrap();
        story.skip();
    }
    story.take("incremental").assert_incremental();

    assert_eq!(helpers.seen("modes"), "600\n".repeat(4));
    assert_eq!(helpers.seen("secrets").matches(SECRET).count(), 4, "the helpers got it");
    let (arguments, processes) = (helpers.seen("arguments"), helpers.seen("processes"));
    assert!(arguments.contains("vers=3.0") && processes.contains("//server/share"), "{arguments} {processes}");
    // address, mount point, "-o", options
    let options = |address: &str| arguments.split_once(address).unwrap().1.lines().nth(3).unwrap();
    assert!(options("//server/share").split(',').any(|option| option == "nobrl"), "{arguments}");
    assert!(!options("mon:/").contains("nobrl"), "{arguments}");
    assert!(!arguments.contains(SECRET) && !processes.contains(SECRET), "a secret on a command line");
    let lines = std::fs::read_to_string(log).unwrap();
    assert!(lines.contains("MOUNT_FAILED") && lines.contains("backup") && lines.lines().count() > 5, "{lines}");
    assert!(!lines.contains(SECRET), "{lines}");
    let nas = folder("nas");
    run("mount", ["-o", "loop", ext4, nas.to_str().unwrap()]);
    assert!(holds(&nas, "manifest.json") && !holds(&nas, SECRET), "a secret on the NAS");
    run("umount", [&nas]);
    assert!(!holds(&config.state_dir, SECRET), "a secret in the state");
    assert_eq!(listing(&config.mount_dir), [], "nothing is left where it was mounted");
}
