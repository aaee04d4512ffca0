//! What happens to servers: restarted when they are to be mounted, no longer exporting, and then again.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use nasbackup::error::Code;
use nasbackup::nas::repository::Repository;
use nasbackup::operation::take_backup::TakeBackupRequest;
use serde_json::{Value, json};

use crate::chain::Chain;
use crate::served::{Alone, ROOT, Stopped, cifs, nfs, use_server};
use crate::support::{
    Agent, Disk, Guest, MIB, Nas, Story, by, folder, own_host, repository_json, run, take, take_and, take_json,
};

/// An export that this test alone has.
struct Export {
    name: String,
}

impl Export {
    fn new() -> (Export, Nas) {
        use_server();
        static MADE: AtomicU32 = AtomicU32::new(100);
        let name = format!("own-{}", MADE.fetch_add(1, Relaxed));
        let root = std::path::Path::new("/srv/root").join(&name);
        fs::create_dir(&root).unwrap();
        let export = Export { name };
        export.begin();
        let address = Some(format!("127.0.0.1:/{}", export.name));
        (export, Nas::served(root, Repository { kind: Some("nfs".into()), address, options: Some(String::new()) }))
    }

    fn begin(&self) {
        let options = format!("rw,sync,no_subtree_check,no_root_squash,fsid={}", &self.name["own-".len()..]);
        run("exportfs", ["-o", &options, &format!("127.0.0.1:/{}", self.name)]);
    }

    fn end(&self) {
        run("exportfs", ["-u", &format!("127.0.0.1:/{}", self.name)]);
        run("exportfs", ["-f"]);
    }
}

#[test]
#[ignore = "make nas"]
fn one_that_exports_it_no_more_says_so_and_all_goes_on_when_it_does_again() {
    let (export, nas) = Export::new();
    let mut chain = Chain::new(nas.same());
    chain.take().unwrap();
    export.end();
    let error = chain.take().unwrap_err();
    assert_eq!((error.code, error.leftovers), (Code::MountFailed, false), "{error}");
    assert!(
        error.cause.contains("access denied by server") && error.cause.contains("export it to this host"),
        "{error}"
    );
    export.begin();
    chain.write(0x31, 4, 1);
    chain.take().unwrap();
    chain.assert_good();

    // in the middle, and by push, which is over before, right after it
    let mut story = Story::new(Guest::new([Disk::root()]), nas.same());
    story.guest.write(0, 0x21, 4 * MIB, 3 * MIB);
    story.accept(by("push", story.request("full"))).assert_full(true);
    story.guest.write(0, 0x51, 8 * MIB, 8 * MIB);
    let request = TakeBackupRequest { rate_limit: Some(MIB), ..by("pull", story.request("incremental")) };
    let error = take_and(request, |_| export.end()).unwrap_err();
    assert!(error.cause.contains("exports it no more"), "{error}");
    story.skip();
    let error = take(by("push", story.request("incremental"))).unwrap_err();
    assert!(error.code == Code::MountFailed && error.cause.contains("export it to this host"), "{error}");
    story.skip();
    export.begin();
    for engine in ["push", "pull"] {
        story.accept(by(engine, story.request("incremental"))).assert_incremental();
        story.guest.write(0, 0x52, 20 * MIB, MIB);
    }
    story.assert_nothing_half_made();
    story.assert_all_restore();
}

/// The server comes back while it is asked for the mount.
#[test]
#[ignore = "make nas"]
fn one_that_is_restarted_is_mounted_when_it_is_back() {
    let alone = Alone::now();
    for options in ["", "vers=4.1", "vers=3", "soft"] {
        let mut chain = Chain::new(nfs("nas", options));
        let stopped = Stopped::now(&alone);
        let back = thread::spawn(move || {
            thread::sleep(Duration::from_secs(8));
            drop(stopped);
        });
        chain.take().unwrap();
        back.join().unwrap();
        chain.assert_good();
    }
    let mut chain = Chain::new(cifs("nas", ROOT));
    let away = Away::now();
    let back = thread::spawn(move || {
        thread::sleep(Duration::from_secs(8));
        drop(away);
    });
    chain.take().unwrap();
    back.join().unwrap();
    chain.assert_good();
}

/// The SMB server as its clients see it while it is restarted, from now until this is dropped. Its process is not of the lab's.
struct Away;

impl Away {
    fn now() -> Away {
        let input = "{ type filter hook input priority 0; }";
        run("nft", [format!("add table ip away; add chain ip away input {input}")]);
        run("nft", ["add rule ip away input tcp dport 445 reject with tcp reset"]);
        Away
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        run("nft", ["delete", "table", "ip", "away"]);
    }
}

/// An SMB server whose connections are reset in the middle: the backup succeeds, or fails and leaves what goes with
/// the next.
#[test]
#[ignore = "make nas"]
fn an_smb_server_that_is_away_in_the_middle_harms_no_point() {
    let _alone = Alone::now();
    let mut story = Story::new(Guest::new([Disk::root()]), cifs("nas", &format!("{ROOT},uid=libvirt-qemu")));
    story.guest.write(0, 0x21, 4 * MIB, 3 * MIB);
    story.accept(by("pull", story.request("full"))).assert_full(true);
    story.guest.write(0, 0x51, 8 * MIB, 8 * MIB);
    let request = TakeBackupRequest { rate_limit: Some(MIB), ..by("pull", story.request("incremental")) };
    let (path, content) = (request.backup_path.clone().unwrap(), story.content());
    let taken = take_and(request, |_| {
        let away = Away::now();
        thread::sleep(Duration::from_secs(5));
        drop(away);
    });
    match taken {
        Ok(_) => story.adopt(path, content),
        Err(error) => {
            println!("{error}");
            story.skip();
        }
    }
    // its client may take minutes until it has told the server of all that was open
    story.take_until_free();
    story.guest.write(0, 0x52, 20 * MIB, MIB);
    story.accept(by("pull", story.request("incremental")));
    story.assert_nothing_half_made();
    story.assert_all_restore();
}

/// With `mountKeepSeconds` 0 each operation unmounts what it has mounted, and finds it busy never.
#[test]
#[ignore = "make nas"]
fn nothing_is_busy_when_it_is_unmounted_after_each_operation() {
    for nas in [nfs("nas", "vers=4.2"), cifs("nas", &format!("{ROOT},uid=libvirt-qemu"))] {
        let mut story = Story::new(Guest::new([Disk::root()]), nas);
        story.guest.write(0, 0x21, 4 * MIB, 3 * MIB);
        let mut host = own_host();
        host["mountKeepSeconds"] = 0.into();
        let run = |calls: &[(&str, Value)]| {
            let said = Agent::new(&host, calls).text_of_success();
            assert!(!["detaching it", "busy"].iter().any(|word| said.contains(word)), "{said}");
        };
        for (at, (engine, mode)) in
            [("pull", "full"), ("push", "incremental"), ("pull", "incremental")].iter().enumerate()
        {
            story.guest.write(0, 0x51, (8 + at as u64) * MIB, MIB);
            let request = by(engine, story.request(mode));
            let (path, content) = (request.backup_path.clone().unwrap(), story.content());
            run(&[("takeBackup", take_json(&request))]);
            story.adopt(path, content);
        }
        let repository = repository_json(&story.nas.repository());
        let disk = &story.points[2].taken.disks[0];
        let of = |point: usize, more: Value| {
            let mut request = json!({"repository": repository, "backupPath": story.points[point].path});
            request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            request
        };
        let output = |name: &str| json!({"path": folder("out").join(name), "format": "raw"});
        run(&[
            ("rebasePoint", of(2, json!({"newParent": story.points[0].path}))),
            ("deleteBackup", of(1, json!({}))),
            ("verifyChain", of(2, json!({}))),
            ("verifyData", of(2, json!({}))),
            ("flatten", of(2, json!({"volume": disk.volume, "output": output("flat")}))),
            ("restorePoint", of(2, json!({"volumes": [{"volume": disk.volume, "output": output("restored")}]}))),
            ("backupStats", json!({"repository": repository})),
        ]);
        story.points.remove(1);
        story.assert_all_restore();
    }
}
