//! What a NAS does not let go: a delete that is refused leaves the point as it was, and what can't be removed is in nobody's
//! way.

use std::fs;
use std::path::{Path, PathBuf};

use nasbackup::error::{Code, Result};
use nasbackup::nas::folder::Folder;
use nasbackup::point::Kind;
use serde_json::{Value, json};

use crate::machine::Machine;
use crate::run;
use crate::support::{Fs, Nas, listing, run as command};

impl Machine {
    /// On a repository in which files can be made to stay, with a full point.
    fn with_full(vm: &'static str) -> Machine {
        let mut machine = Machine::new(vm, Nas::image(Fs::Ext4, 64), 1);
        assert_eq!(machine.back_up(1).unwrap().kind, Kind::Full);
        machine
    }

    /// Every file in the repository, with its content, but for locks, which come and go.
    fn contents(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let paths = listing(self.nas.root()).into_iter().map(|(path, _)| path);
        let paths = paths.filter(|path| !path.to_str().unwrap().contains("/.nasbackup."));
        paths.map(|path| (path.clone(), fs::read(self.nas.root().join(&path)).unwrap_or_default())).collect()
    }

    /// The delete of point 2 is refused, says by what, and has changed nothing.
    fn assert_refused(&self, why: &str, nas: &Nas) {
        self.assert_unchanged(why, || self.delete_by(nas, 2));
    }

    fn assert_unchanged(&self, why: &str, refused: impl FnOnce() -> Result<Value>) {
        let before = self.contents();
        let error = refused().unwrap_err();
        assert_eq!(error.code, Code::PermissionDenied, "{why}: {error}");
        assert!(!error.leftovers && error.cause.contains("(os error "), "{why}: {error}");
        assert!(self.contents() == before, "{why}: {error}");
    }

    fn assert_good(&self, why: &str) {
        let verified = run(&self.nas, "verifyChain", json!({"backupPath": self.point(2)})).unwrap();
        assert_eq!(verified["verdict"], "good", "{why}: {verified}");
    }

    /// What is hidden in the machine's folder, but for locks.
    fn hidden(&self) -> Vec<String> {
        let names = fs::read_dir(self.nas.at(self.vm)).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let hidden = names.filter(|name| name.starts_with('.') && !name.starts_with(".nasbackup."));
        let mut hidden: Vec<_> = hidden.collect();
        hidden.sort();
        hidden
    }
}

fn chattr(change: &str, path: &Path) {
    command("chattr", [change, path.to_str().unwrap()]);
}

#[test]
fn a_delete_that_is_refused_leaves_the_point_as_it_was() {
    let mut machine = Machine::with_full("i-2-64-VM");
    assert_eq!(machine.back_up(2).unwrap().kind, Kind::Incremental);
    let (point, instance) = (machine.nas.at(&machine.point(2)), machine.nas.at(machine.vm));
    let [one, two] = ["root.one", "datadisk.two"].map(|image| point.join(format!("{image}.qcow2")));
    for (attribute, path) in [
        ('i', &one),
        ('i', &two),
        ('a', &two),
        ('i', &point.join("manifest.json")),
        ('i', &two.with_extension("fingerprints")),
        ('i', &point),
        ('a', &point),
        ('i', &instance),
    ] {
        let why = format!("chattr +{attribute} {}", path.display());
        chattr(&format!("+{attribute}"), path);
        machine.assert_refused(&why, &machine.nas);
        // nor is a part of it rebased
        if attribute == 'i' && path.extension().is_some_and(|extension| extension != "fingerprints") {
            machine
                .assert_unchanged(&why, || run(&machine.nas, "rebasePoint", json!({"backupPath": machine.point(2)})));
        }
        chattr(&format!("-{attribute}"), path);
        machine.assert_good(&why);
    }
    machine.nas.read_only(true);
    machine.assert_refused("read-only", &machine.nas);
    machine.nas.read_only(false);
    for option in ["--rename-deny", "--delete-deny"] {
        let view = machine.nas.same().view_with(&[option]);
        machine.assert_refused(option, &view);
        drop(view);
        machine.assert_good(option);
    }
    // what somebody has put into a folder of the point is not ours to ask, and goes first
    let theirs = point.join("theirs/file");
    fs::create_dir(theirs.parent().unwrap()).unwrap();
    fs::write(&theirs, "x").unwrap();
    chattr("+i", &theirs);
    machine.assert_refused("a file of somebody else's", &machine.nas);
    chattr("-i", &theirs);
    machine.delete(2).unwrap();
    machine.delete(1).unwrap();
    let left: Vec<_> = machine.contents().into_iter().map(|(path, _)| path).collect();
    assert_eq!(left, [PathBuf::from(machine.vm), "lost+found".into()]);
}

#[test]
fn what_is_noted_of_a_point_holds_up_no_delete() {
    let machine = Machine::with_full("i-2-66-VM");
    let verify = || run(&machine.nas, "verifyChain", json!({"backupPath": machine.point(1)})).unwrap();
    assert_eq!(verify()["verdict"], "good");
    let noted = || listing(machine.nas.root()).into_iter().map(|(path, _)| path);
    let note = noted().find(|path| path.to_str().unwrap().contains("/.nasbackup.verified")).unwrap();
    chattr("+i", &machine.nas.at(note.to_str().unwrap()));
    assert_eq!(verify()["verdict"], "good", "it can't be noted");
    machine.delete(1).unwrap();
    assert!(!machine.nas.at(&machine.point(1)).exists());
    assert_eq!(noted().filter(|path| path.to_str().unwrap().contains("verified")).collect::<Vec<_>>(), [note]);
}

#[test]
fn what_can_not_be_removed_is_in_nobody_s_way() {
    let mut machine = Machine::with_full("i-2-65-VM");
    for lock in [".nasbackup.lock", ".nasbackup.chains.lock"] {
        chattr("+i", &machine.nas.at(machine.vm).join(lock));
    }
    let parent = format!("../{}", machine.parent.as_ref().unwrap().1[0].split_once('/').unwrap().1);
    for killed in [".partial-2026.01.02.03.04.02", ".deleted-2026.01.02.03.04.02"] {
        let image = machine.nas.at(machine.vm).join(killed).join("root.one.qcow2");
        fs::create_dir(image.parent().unwrap()).unwrap();
        let backing = ["-u", "-f", "qcow2", "-F", "qcow2", "-b", &parent];
        command("qemu-img", ["create", "-q"].iter().chain(&backing).chain(&[image.to_str().unwrap(), "4M"]));
        chattr("+i", &image);
        fs::write(image.with_file_name(".removed-domain.xml"), "").unwrap();
        fs::write(image.with_file_name("manifest.json"), "").unwrap();
    }
    // a delete was killed before it was refused: nothing of what it hid is removed
    let killed = machine.nas.at(machine.vm).join(".deleted-2026.01.02.03.04.02");
    let of_killed = || {
        let files = Folder::open_root(&killed).unwrap();
        assert_eq!(files.names().unwrap(), ["domain.xml", "manifest.json", "root.one.qcow2"]);
    };
    assert_eq!(machine.back_up(2).unwrap().kind, Kind::Incremental);
    let aside = [".deleted-2026.01.02.03.04.02", ".deleted-2026.01.02.03.04.02.1"];
    assert_eq!(machine.hidden(), aside);
    machine.delete(2).unwrap();
    of_killed();
    // all that is left of it stays, and a delete of just that says so
    let error = machine.delete(2).unwrap_err();
    assert!(error.code == Code::PermissionDenied && error.leftovers, "{error}");
    assert_eq!(machine.hidden(), aside);
    of_killed();
    for folder in aside {
        chattr("-i", &machine.nas.at(machine.vm).join(folder).join("root.one.qcow2"));
    }
    // which they name and which is no longer held by them
    machine.delete(1).unwrap();
    assert_eq!(machine.hidden(), [] as [&str; 0]);
}
