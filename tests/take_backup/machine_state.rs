//! What a machine remembers beside its disks, UEFI variables and a TPM, in its points and back from them.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::PathBuf;

use nasbackup::config::Engine;
use nasbackup::error::{Code, Result};
use nasbackup::operation::call;
use nasbackup::operation::take_backup::TakenBackup;
use serde_json::{Value, json};

use crate::support::{Disk, Guest, Nas, Story, backup_path, by, certificate, details, folder, run, secret, take};

const NVRAM: &str = "nvram.fd";
const TPM: &str = "tpm2-00.permall";

/// A guest with UEFI, and these devices besides, that is stopped in its first steps: nobody writes its variables.
fn guest(devices: &str) -> Guest {
    let mut guest = Guest::stopped([Disk::root()]);
    guest.os = " firmware='efi'";
    guest.devices = devices.to_owned();
    guest.start();
    guest.suspend();
    guest
}

fn story(devices: &str) -> Story {
    Story::new(guest(devices), Nas::folder())
}

/// Where libvirt keeps the UEFI variables.
fn variables(guest: &Guest) -> PathBuf {
    format!("/var/lib/libvirt/qemu/nvram/{}_VARS.fd", guest.name).into()
}

/// Where libvirt keeps the TPM's state.
fn tpm_state(guest: &Guest) -> PathBuf {
    format!("/var/lib/libvirt/swtpm/{}/tpm2/{TPM}", guest.virsh(&["domuuid"]).trim()).into()
}

/// What a point of the story holds under this name.
fn held(story: &Story, point: usize, name: &str) -> Vec<u8> {
    fs::read(story.nas.at(&story.points[point].path).join(name)).unwrap()
}

fn ask(story: &Story, operation: &str, point: usize, more: Value) -> Result<Value> {
    let mut request = json!({
        "repository": {"type": "dir", "address": story.nas.root()},
        "backupPath": story.points[point].path,
    });
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    call(operation, &request.to_string(), &mut |_| Ok(()))
}

/// The verdict on the file `name` of a point, and the reasons; none if the answer has no word of it.
fn verdict(story: &Story, operation: &str, point: usize, name: &str) -> Option<(String, String)> {
    let file = format!("{}/{name}", story.points[point].path);
    let verified = ask(story, operation, point, json!({})).unwrap();
    let told = verified["files"].as_array().unwrap().iter().find(|told| told["file"] == file.as_str())?.clone();
    Some((told["verdict"].as_str().unwrap().to_owned(), told["reasons"].to_string()))
}

/// Restores a point's disk, and what is asked for besides, into a folder.
fn restore(story: &Story, point: usize, wanted: &[(&str, &str)]) -> (PathBuf, Result<Value>) {
    let out = folder("restored");
    let volume = story.guest.disks[0].volume();
    let mut more = json!({"volumes": [{"volume": volume, "output": {"path": out.join("disk"), "format": "raw"}}]});
    for (field, name) in wanted {
        more[field] = json!(out.join(name));
    }
    let restored = ask(story, "restorePoint", point, more);
    (out, restored)
}

#[test]
fn each_point_has_the_uefi_variables_of_its_own_time_and_gives_them_back() {
    let mut story = story("");
    let file = variables(&story.guest);
    story.take("full").assert_full(true);
    assert_eq!(details(&story.last().taken), "");
    let first = fs::read(&file).unwrap();
    assert!(first.len() > 100_000 && held(&story, 0, NVRAM) == first);
    let shown = ask(&story, "showPoint", 0, json!({})).unwrap();
    let [size, disk] =
        [&shown["point"]["size"], &shown["point"]["disks"][0]["size"]].map(|size| size.as_u64().unwrap());
    assert!(size >= disk + 100_000 && shown["point"]["chainSize"] == size, "{shown}");
    story.guest.stop();
    fs::File::options().write(true).open(&file).unwrap().write_at(b"changed", 70_000).unwrap();
    story.guest.start();
    story.guest.suspend();
    let parent = story.bitmap();
    let by_pull = by("pull", story.request("incremental"));
    story.accept(by_pull).assert_recreated(&parent);
    assert_eq!((story.last().taken.engine, details(&story.last().taken).as_str()), (Engine::Pull, ""));
    let second = fs::read(&file).unwrap();
    assert!(second != first && held(&story, 1, NVRAM) == second && held(&story, 0, NVRAM) == first);
    assert_eq!(verdict(&story, "verifyData", 1, NVRAM), Some(("good".to_owned(), "[]".to_owned())));
    for (point, expected) in [(0, &first), (1, &second)] {
        let (out, restored) = restore(&story, point, &[("nvramPath", "vars")]);
        let told = restored.unwrap();
        assert_eq!(told["state"], json!([{"file": NVRAM, "output": out.join("vars"), "kept": null}]));
        assert!(fs::read(out.join("vars")).unwrap() == *expected, "{point}");
    }
    let (out, restored) = restore(&story, 0, &[]);
    assert_eq!((restored.unwrap()["state"].clone(), fs::read_dir(out).unwrap().count()), (json!([]), 1));
    // the point that the other stands on goes, and with it nothing that is the other's
    ask(&story, "rebasePoint", 1, json!({})).unwrap();
    ask(&story, "deleteBackup", 0, json!({})).unwrap();
    assert!(!story.nas.at(&story.points[0].path).exists() && held(&story, 1, NVRAM) == second);
    assert_eq!(verdict(&story, "verifyData", 1, NVRAM), Some(("good".to_owned(), "[]".to_owned())));
}

#[test]
fn uefi_variables_that_were_changed_on_the_nas_are_found_and_not_given_back() {
    let mut story = story("");
    story.take("full");
    let file = story.nas.at(&story.points[0].path).join(NVRAM);
    let whole = fs::read(&file).unwrap();
    let refused = |code| {
        let (out, restored) = restore(&story, 0, &[("nvramPath", "vars")]);
        let error = restored.unwrap_err();
        assert_eq!((error.code, fs::read_dir(out).unwrap().count()), (code, 0), "{error}");
    };
    let mut changed = whole.clone();
    changed[70_000] ^= 1;
    fs::write(&file, &changed).unwrap();
    assert_eq!(verdict(&story, "verifyData", 0, NVRAM).unwrap().0, "bad");
    refused(Code::CorruptImage);
    fs::remove_file(&file).unwrap();
    for operation in ["verifyChain", "verifyData"] {
        assert_eq!(verdict(&story, operation, 0, NVRAM), Some(("bad".to_owned(), r#"["is not there"]"#.to_owned())));
    }
    refused(Code::NotFound);
    let aside = folder("aside").join("vars");
    fs::write(&aside, &whole).unwrap();
    symlink(&aside, &file).unwrap();
    assert_eq!(verdict(&story, "verifyChain", 0, NVRAM).unwrap().0, "bad");
    refused(Code::Io);
    fs::remove_file(&file).unwrap();
    fs::write(&file, &whole).unwrap();
    assert_eq!(verdict(&story, "verifyChain", 0, NVRAM), None);
    let (out, restored) = restore(&story, 0, &[("nvramPath", "vars")]);
    restored.unwrap();
    assert!(fs::read(out.join("vars")).unwrap() == whole);
}

#[test]
fn a_backup_goes_on_without_uefi_variables_and_says_so() {
    let mut story = story("");
    fs::remove_file(variables(&story.guest)).unwrap();
    story.take("full").assert_full(true);
    let told = details(&story.last().taken);
    assert!(told.starts_with("the point holds no UEFI variables: '") && told.contains("_VARS.fd"), "{told}");
    assert_eq!(story.manifest(&story.points[0].path)["texts"][NVRAM], Value::Null);
    let (out, restored) = restore(&story, 0, &[("nvramPath", "vars")]);
    let error = restored.unwrap_err();
    assert!(error.code == Code::NotFound && error.cause.contains("holds no UEFI variables"), "{error}");
    assert_eq!(fs::read_dir(out).unwrap().count(), 0);
    restore(&story, 0, &[]).1.unwrap();
}

#[test]
fn what_a_restore_replaces_is_kept_where_that_is_asked_and_is_in_no_use() {
    let mut story = story("");
    story.take("full");
    let (out, used) = (folder("restored"), variables(&story.guest));
    fs::write(out.join("vars"), "as it was").unwrap();
    let to = |vars: PathBuf, keep: bool| {
        let volume = story.guest.disks[0].volume();
        let output = json!({"path": out.join("disk"), "format": "raw"});
        let more = json!({
            "volumes": [{"volume": volume, "output": output}],
            "nvramPath": vars,
            "keepOld": keep,
        });
        ask(&story, "restorePoint", 0, more)
    };
    let told = to(out.join("vars"), true).unwrap();
    let kept = told["state"][0]["kept"].as_str().unwrap();
    assert_eq!(fs::read(kept).unwrap(), b"as it was");
    assert!(fs::read(out.join("vars")).unwrap() == held(&story, 0, NVRAM));
    let before = fs::read(&used).unwrap();
    assert_eq!(to(used.clone(), false).unwrap_err().code, Code::DomainState);
    assert!(fs::read(used).unwrap() == before);
    assert_eq!(to(out.join("disk"), false).unwrap_err().code, Code::InvalidArgument);
}

/// Has libvirt know the guest by this XML although it does not run, as CloudStack never does, while `work` runs.
fn defined<T>(guest: &Guest, xml: &str, work: impl FnOnce() -> T) -> T {
    let file = folder("xml").join("domain");
    fs::write(&file, xml).unwrap();
    run("virsh", ["define", file.to_str().unwrap()]);
    let result = work();
    run("virsh", ["undefine", "--nvram", &guest.name]);
    result
}

fn take_stopped(story: &Story, number: usize) -> TakenBackup {
    let mut request = story.stopped_request("legacy");
    request.backup_path = Some(backup_path(&story.guest, number));
    take(request).unwrap()
}

#[test]
fn of_a_stopped_guest_that_libvirt_knows_the_uefi_variables_are_in_the_point() {
    let story = story("");
    let file = variables(&story.guest);
    let xml = story.guest.virsh(&["dumpxml", "--inactive"]);
    story.guest.stop();
    let at = |number: usize| story.nas.at(&backup_path(&story.guest, number)).join(NVRAM);
    // libvirt knows nothing of it, and no file is guessed
    assert_eq!((take_stopped(&story, 0).details.as_str(), at(0).exists()), ("", false));
    let expected = fs::read(&file).unwrap();
    let details = defined(&story.guest, &xml, || {
        let taken = take_stopped(&story, 1);
        fs::remove_file(&file).unwrap();
        [taken.details, take_stopped(&story, 2).details]
    });
    let unnamed = defined(&story.guest, &story.guest.xml(), || take_stopped(&story, 3).details);
    let told = |text: &str| text.starts_with("the point holds no UEFI variables: ");
    assert!(details[0].is_empty() && told(&details[1]) && told(&unnamed), "{details:?} {unnamed}");
    assert!(fs::read(at(1)).unwrap() == expected && !at(2).exists() && !at(3).exists());
}

#[test]
fn the_state_of_a_tpm_comes_back_and_a_tpm_takes_it() {
    let mut story = story("<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>");
    let file = tpm_state(&story.guest);
    story.take("full").assert_full(true);
    assert_eq!(details(&story.last().taken), "");
    let expected = fs::read(&file).unwrap();
    assert!(expected.len() > 1000 && held(&story, 0, TPM) == expected);
    assert_eq!(verdict(&story, "verifyData", 0, TPM).unwrap().0, "good");
    let (out, restored) = restore(&story, 0, &[("nvramPath", "vars"), ("tpmPath", TPM)]);
    let names: Vec<_> = restored.unwrap()["state"].as_array().unwrap().iter().map(|of| of["file"].clone()).collect();
    assert_eq!(names, [NVRAM, TPM]);
    assert!(fs::read(out.join(TPM)).unwrap() == expected);
    // libvirt has removed the state of a guest that it forgets, which then has another TPM
    story.guest.restart();
    story.guest.suspend();
    assert_ne!(certificate(&fs::read(&file).unwrap()), certificate(&expected));
    story.guest.stop();
    assert!(!file.exists());
    // an operator puts the restored one there
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::copy(out.join(TPM), &file).unwrap();
    story.guest.start();
    story.guest.suspend();
    assert_eq!(certificate(&fs::read(&file).unwrap()), certificate(&expected));
}

#[test]
fn a_tpm_s_state_is_encrypted_as_it_is_and_the_point_says_by_which_secret() {
    let uuid = secret("<usage type='vtpm'><name>of-the-test</name></usage>", "c2VjcmV0");
    let encryption = format!("<encryption secret='{uuid}'/>");
    let mut story = story(&format!("<tpm model='tpm-crb'><backend type='emulator'>{encryption}</backend></tpm>"));
    story.take("full").assert_full(true);
    let told = details(&story.last().taken);
    assert_eq!(told, format!("the TPM's state is encrypted by libvirt's secret '{uuid}', which is not copied"));
    let state = held(&story, 0, TPM);
    assert!(state == fs::read(tpm_state(&story.guest)).unwrap() && state[5] & 1 == 1, "it is not encrypted");
}
