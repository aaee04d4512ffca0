//! What the configuration changes. One test at a time: the configuration and the log are the process's own.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};

use nasbackup::config::{self, Config, QuiesceFailure};
use nasbackup::nas::repository::Repository;
use nasbackup::operation::{self, take_backup::TakeBackupRequest};
use support::{Fs, Story, folder, unmounted_image};

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
fn no_line_of_the_log_holds_a_secret() {
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
    operation::init(config, nasbackup::logging::stderr()).unwrap();
    let image = unmounted_image(Fs::Ext4, 64);
    for (options, code) in
        [("loop,username=u,password=hunter2", "MOUNT_FAILED"), ("loop,user_id=hunter2", "MOUNT_FAILED")]
    {
        let repository = Repository {
            kind: Some("ext4".into()),
            address: Some(image.to_str().unwrap().into()),
            options: Some(options.into()),
        };
        let request = TakeBackupRequest { repository: Some(repository), ..story.request("legacy") };
        let error = story.refuse(request, code);
        assert!(!format!("{error} {error:?}").contains("hunter2"), "a secret in an error");
    }
    story.take("incremental").assert_incremental();
    let lines = std::fs::read_to_string(log).unwrap();
    assert!(lines.contains("MOUNT_FAILED") && lines.contains("backup") && lines.lines().count() > 5, "{lines}");
    assert!(!lines.contains("hunter2"), "{lines}");
}
