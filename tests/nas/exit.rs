//! What a process leaves that ends while a mount is kept.

use std::path::Path;
use std::process::Command;

use nasbackup::config::{self, Config};
use nasbackup::nas::session;
use nasbackup::operation::call;
use serde_json::json;

use crate::support::{Fs, folder, listing, unmounted_image};

const MOUNTS: &str = "NASBACKUP_TEST_MOUNTS";
const IMAGE: &str = "NASBACKUP_TEST_IMAGE";
const KILL: &str = "NASBACKUP_TEST_KILL";

fn config(mounts: &Path) -> Config {
    Config { mount_dir: mounts.to_owned(), mount_keep_seconds: 3600, ..Default::default() }
}

fn mounted_below(path: &Path) -> usize {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter(|line| line.contains(path.to_str().unwrap())).count()
}

#[test]
fn an_ordinary_end_takes_the_mount_along_and_a_killed_process_s_goes_with_the_next() {
    let (mounts, image) = (folder("kept"), unmounted_image(Fs::Ext4, 16));
    let run = |kill: &str| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "exit::another_process"]);
        command.env(MOUNTS, &mounts).env(IMAGE, &image).env(KILL, kill).status().unwrap()
    };
    assert!(run("no").success());
    assert_eq!((listing(&mounts), mounted_below(&mounts)), (vec![], 0));
    assert!(!run("yes").success());
    assert_eq!(mounted_below(&mounts), 1);
    session::clear_left(&config(&mounts));
    assert_eq!((listing(&mounts), mounted_below(&mounts)), (vec![], 0));
}

#[test]
#[ignore = "run by the one above"]
fn another_process() {
    let path = |name| std::path::PathBuf::from(std::env::var_os(name).unwrap());
    let (mounts, image) = (path(MOUNTS), path(IMAGE));
    config::set(config(&mounts));
    let repository = json!({"type": "ext4", "address": image, "options": "loop"});
    call("backupStats", &json!({"repository": repository}).to_string(), &mut |_| Ok(())).unwrap();
    assert_eq!(mounted_below(&mounts), 1);
    if std::env::var(KILL).unwrap() == "yes" {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
    }
}
