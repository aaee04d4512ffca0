//! What a process leaves that ends while a mount is kept.

use std::path::Path;
use std::process::Command;

use nasbackup::config::{self, Config};
use nasbackup::nas::repository::Repository;
use nasbackup::nas::session;
use nasbackup::operation::call;
use serde_json::{Value, json};

use crate::machine::Machine;
use crate::support::{Agent, Fs, Nas, folder, listing, own_host, repository_json, take_json, unmounted_image};

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

/// Whoever unmounts has closed all that was open there: no file keeps the mount busy, so that it is only detached.
#[test]
fn no_operation_has_anything_open_when_it_unmounts() {
    let image = unmounted_image(Fs::Ext4, 64);
    let export = Repository {
        kind: Some("ext4".into()),
        address: Some(image.to_str().unwrap().into()),
        options: Some("loop".into()),
    };
    let mut machine = Machine::new("i-2-70-VM", Nas::served(folder("unseen"), export), 1);
    for number in 1..=3 {
        machine.back_up(number).unwrap();
    }
    let repository = repository_json(&machine.nas.repository());
    let ask = |number: u32, more: Value| {
        let mut request = json!({"repository": repository, "backupPath": machine.point(number)});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        request
    };
    let output = |name: &str| json!({"path": folder("out").join(name), "format": "raw"});
    let mut host = own_host();
    host["mountKeepSeconds"] = 0.into();
    let said = Agent::new(
        &host,
        &[
            ("takeBackup", take_json(&machine.request(4))),
            ("rebasePoint", ask(3, json!({"newParent": machine.point(1)}))),
            ("deleteBackup", ask(2, json!({}))),
            ("verifyChain", ask(4, json!({}))),
            ("verifyData", ask(4, json!({}))),
            ("flatten", ask(4, json!({"volume": "one", "output": output("flat")}))),
            ("restorePoint", ask(4, json!({"volumes": [{"volume": "two", "output": output("restored")}]}))),
            ("backupStats", json!({"repository": repository})),
        ],
    );
    let said = said.text_of_success();
    assert!(!said.contains("detaching it"), "{said}");
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
