//! The C ABI, from outside: a C program compiled against the header, a C++ compiler's view of it, the export table.
// clippy.toml allows it in functions marked as tests only.
#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use support::{Disk, Guest, MIB, Nas, assert_holds};

/// `cargo test` leaves the cdylib beside the test executables.
fn library_folder() -> PathBuf {
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    assert!(folder.join("libnasbackup.so").exists(), "no libnasbackup.so in {}", folder.display());
    folder
}

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn build(folder: &Path) -> PathBuf {
    let program = folder.join("capi");
    let library = library_folder();
    let output = run(Command::new("cc")
        .args(["-std=c11", "-pedantic", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(source("tests/c/capi.c"))
        .arg("-I")
        .arg(source("include"))
        .arg("-L")
        .arg(&library)
        .arg("-lnasbackup")
        .arg(format!("-Wl,-rpath,{}", library.display())));
    assert!(output.status.success(), "cc: {}", output.status);
    program
}

#[test]
fn a_c_program_gets_the_replies_of_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(Command::new(build(folder.path())).arg("check"));
    assert!(output.status.success(), "{}", output.status);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("version {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_c_program_runs_a_request_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let program = build(folder.path());
    let (request, init) = (folder.path().join("request.json"), folder.path().join("init.json"));
    std::fs::write(&request, r#"{"job":"none"}"#).unwrap();
    std::fs::write(&init, r#"{"logLevel":"error"}"#).unwrap();
    let output = run(Command::new(&program).arg("cancel").arg(&request).arg("init").arg(&init));
    assert!(output.status.success());
    let replies = String::from_utf8(output.stdout).unwrap();
    assert_eq!(replies, "{\"ok\":true,\"result\":null}\n{\"ok\":true,\"result\":{\"found\":false}}\n");
    let refused = run(Command::new(&program).arg("jobs").arg(&request));
    assert_eq!(refused.status.code(), Some(1));
}

#[test]
fn libvirt_prints_nothing_beside_what_doctor_tells() {
    let folder = tempfile::tempdir().unwrap();
    let request = folder.path().join("request.json");
    std::fs::write(&request, r#"{"connectionUri":"qemu+unix:///system?socket=/none"}"#).unwrap();
    let output = run(Command::new(build(folder.path())).arg("doctor").arg(&request));
    let (told, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("'/none'") && complaint.is_empty(), "{told}{complaint}");
}

#[test]
fn the_header_is_good_c_plus_plus() {
    let output = run(Command::new("c++")
        .args(["-std=c++11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-x", "c++"])
        .arg(source("include/nasbackup.h")));
    assert!(output.status.success(), "c++: {}", output.status);
}

/// Whatever else a crate exports could clash with another library in the host process.
#[test]
fn the_library_exports_java_and_c_and_nothing_else() {
    let output = run(Command::new("nm").args(["-D", "--defined-only"]).arg(library_folder().join("libnasbackup.so")));
    assert!(output.status.success(), "nm: {}", output.status);
    let table = String::from_utf8(output.stdout).unwrap();
    let (c, others): (Vec<_>, Vec<_>) = table
        .lines()
        .filter_map(|line| line.split_whitespace().last())
        .filter(|name| !name.starts_with("Java_org_nasbackup_"))
        .partition(|name| name.starts_with("nasbackup_"));
    assert_eq!(c, ["nasbackup_call", "nasbackup_free", "nasbackup_version"]);
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(table.contains("Java_org_nasbackup_TestHooks"), cfg!(feature = "test-hooks"));
}

/// A C program that takes backups of a guest, for which the library finds the host's tools in `tools` alone.
struct Program {
    program: PathBuf,
    folder: PathBuf,
    tools: PathBuf,
    nas: Nas,
}

impl Program {
    fn new(tools: PathBuf) -> Program {
        let folder = support::folder("capi");
        let init = json!({"stateDir": folder, "mountDir": folder, "logLevel": "error"});
        std::fs::write(folder.join("init.json"), init.to_string()).unwrap();
        Program { program: build(&folder), folder, tools, nas: Nas::folder() }
    }

    /// A full, or an incremental on `parent`; the result, when it holds what the disks hold.
    fn take(&self, guest: &Guest, number: usize, parent: &Value) -> Value {
        let path = format!("{}/2026.01.02.03.04.{number:02}", guest.name);
        let mode = if parent.is_null() { "full" } else { "incremental" };
        let stopped = guest.stopped_disks().into_iter().map(|disk| json!({"path": disk.path, "format": disk.format}));
        let wanted = json!({"vmName": guest.name, "backupPath": path, "mode": mode,
                            "bitmapNew": format!("backup-{number}"), "bitmapParent": parent["parentName"],
                            "parentPaths": parent["volumes"].as_object().map(|files| Vec::from_iter(files.values())),
                            "disks": (guest.state() == "gone").then(|| Vec::from_iter(stopped)),
                            "repository": {"type": "dir", "address": self.nas.root()}});
        let request = self.folder.join("request.json");
        std::fs::write(&request, wanted.to_string()).unwrap();
        let copies = guest.copies();
        let mut command = Command::new(&self.program);
        command
            .env("NASBACKUP_TOOLS", &self.tools)
            .arg("takeBackup")
            .arg(&request)
            .arg("init")
            .arg(self.folder.join("init.json"));
        let output = run(&mut command);
        let replies = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{replies}");
        let reply: Value = serde_json::from_str(replies.lines().last().unwrap()).unwrap();
        let disks = reply["result"]["disks"].as_array().unwrap();
        assert_eq!(disks.len(), copies.len());
        for (disk, copy) in disks.iter().zip(&copies) {
            assert_holds(&self.nas.at(disk["file"].as_str().unwrap()), copy);
        }
        reply["result"].clone()
    }
}

#[test]
fn a_c_program_backs_a_guest_up_and_starts_no_process() {
    let mut guest = Guest::ordinary();
    let program = Program::new("/nonexistent".into());
    let full = program.take(&guest, 1, &Value::Null);
    guest.write(0, 0x51, 5 * MIB, MIB);
    let incremental = program.take(&guest, 2, &full);
    assert_eq!(incremental["kind"], "incremental");
    guest.restart();
    let recreated = program.take(&guest, 3, &incremental);
    assert_eq!(recreated["bitmapRecreated"], "backup-2");
    assert_eq!(guest.checkpoints(), ["backup-3"]);
}

#[test]
fn a_stopped_guest_is_saved_without_qemu_img_and_says_that_it_is_not_seeded() {
    let mut guest = Guest::ordinary();
    guest.stop();
    let program = Program::new("/nonexistent".into());
    let full = program.take(&guest, 1, &Value::Null);
    assert_eq!((&full["kind"], &full["bitmapCreated"]), (&json!("full"), &Value::Null));
    let details = full["details"].as_str().unwrap();
    assert_eq!(details.matches("not seeded").count(), 2, "{details}");
    guest.start();
    guest.write(0, 0x51, 5 * MIB, MIB);
    let compared = program.take(&guest, 2, &full);
    assert_eq!((&compared["kind"], &compared["bitmapCreated"]), (&json!("incremental"), &json!("backup-2")));
}

#[test]
fn a_stopped_guest_one_of_whose_disks_gets_no_bitmap_is_saved_whole() {
    let mut guest = Guest::ordinary();
    guest.stop();
    let (refused, tools) = (guest.stopped_disks().swap_remove(1).path.unwrap(), support::folder("bin"));
    let qemu_img = tools.join("qemu-img");
    let inode = std::fs::metadata(&refused).unwrap().ino();
    let script = format!("#!/bin/bash\n[[ $(stat --format=%i /image) != {inode} ]] && exec /usr/bin/qemu-img \"$@\"\n");
    std::fs::write(&qemu_img, script).unwrap();
    std::fs::set_permissions(&qemu_img, PermissionsExt::from_mode(0o755)).unwrap();
    let program = Program::new(tools);
    let full = program.take(&guest, 1, &Value::Null);
    let bitmaps = [&full["bitmapCreated"], &full["disks"][0]["bitmap"], &full["disks"][1]["bitmap"]];
    assert_eq!(bitmaps, [&json!("backup-1"), &json!("backup-1"), &Value::Null]);
    let details = full["details"].as_str().unwrap();
    assert!(details.contains(&format!("disk {refused}: not seeded: ")), "{details}");
    assert_eq!(details.matches("not seeded").count(), 1, "{details}");
    guest.start();
    guest.write(0, 0x51, 5 * MIB, MIB);
    guest.write(1, 0x52, 7 * MIB, MIB);
    let next = program.take(&guest, 2, &full);
    assert_eq!((&next["kind"], &next["bitmapCreated"]), (&json!("incremental"), &json!("backup-2")));
    assert_eq!(guest.checkpoints(), ["backup-2"]);
}

/// The Python of the manual, in order.
fn examples() -> Vec<String> {
    let manual = std::fs::read_to_string(source("docs/c-abi.md")).unwrap();
    let blocks = manual.split("```python\n").skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

fn python(program: &str) -> String {
    let output = run(Command::new("python3").arg("-c").arg(program).env("LD_LIBRARY_PATH", library_folder()));
    assert!(output.status.success(), "python3: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_python_of_the_manual_runs() {
    let example = &examples()[0];
    assert!(example.trim().lines().count() <= 10);
    assert_eq!(python(example), format!("{} []\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_python_of_the_manual_backs_a_guest_up_and_restores_it() {
    let mut guest = Guest::named("i-2-10-VM", [Disk::root()]);
    guest.start();
    guest.write(0, 0x61, 0, support::MIB);
    let nas = Nas::folder();
    let folder = support::folder("python");
    let keys = folder.join("keys");
    std::fs::write(&keys, "5a".repeat(32)).unwrap();
    std::fs::set_permissions(&keys, std::fs::Permissions::from_mode(0o600)).unwrap();
    let folders = format!("logLevel=\"error\", stateDir={folder:?}, mountDir={folder:?}, keyFile={keys:?}");
    let program = examples().concat().replace("logLevel=\"error\"", &folders);
    let program = program.replace("/mnt/nas", nas.root().to_str().unwrap());
    let program = program.replace("/mnt/primary", folder.to_str().unwrap());
    let program = program.replace("0a1b2c3d-0000-4000-8000-00000000000a", guest.disks[0].volume());
    let copy = guest.copy(0);
    let said = python(&program);
    let signed = "{'busy': 0, 'kept': 1, 'refused': 0, 'signed': 0}";
    assert!(said.ends_with(&format!("\nfull\n[]\nrestored\n{signed}\n")), "{said}");
    let file = format!("i-2-10-VM/2026.11.22.01.00.00/root.{}.qcow2", guest.disks[0].volume());
    assert_holds(&nas.at(&file), &copy);
    assert_holds(&folder.join("restored"), &copy);
}
