//! Two hosts on one repository, each of which mounts it as it likes, one that is the server itself, and one whose clock is an hour
//! off. The other host is another process with folders of its own.

use std::fs;
use std::os::unix::fs::MetadataExt;

use nasbackup::error::Code;
use nasbackup::nas::instance::Instance;
use nasbackup::nas::path::PointPath;
use nasbackup::nas::purpose::Purpose;
use nasbackup::nas::repository::Repository;
use nasbackup::nas::session::Session;
use nasbackup::operation::take_backup::TakeBackupRequest;
use serde_json::{Value, json};

use crate::chain::Chain;
use crate::served::{Alone, ROOT, cifs, mount, nfs, own};
use crate::support::{
    Agent, Disk, Ended, Guest, MIB, Nas, Story, by, folder, host, listing, repository_json, run, take_and, take_json,
};

/// Another host, and how it names the repository.
struct Other {
    host: Value,
    repository: Repository,
}

impl Other {
    fn new(repository: Repository) -> Other {
        Other { host: host(&folder("state"), &folder("mounts")), repository }
    }

    fn agent(&self, operation: &str, mut request: Value) -> Agent {
        request["repository"] = repository_json(&self.repository);
        Agent::new(&self.host, &[(operation, request)])
    }

    /// Goes on with the story of the guest, which has moved to this host.
    fn take(&self, story: &mut Story, engine: &str) {
        let request = by(engine, story.request("incremental"));
        let (path, content) = (request.backup_path.clone().unwrap(), story.content());
        self.agent("takeBackup", take_json(&request)).succeed();
        story.adopt(path, content);
    }
}

/// The same folder of the server's, mounted with other options.
fn with(nas: &Nas, options: &str) -> Repository {
    Repository { options: Some(options.into()), ..nas.repository() }
}

/// The same folder, on the server itself.
fn on_server(nas: &Nas) -> Repository {
    Repository { kind: Some("dir".into()), address: Some(nas.path().into()), options: None }
}

fn of(point: &str) -> Value {
    json!({"backupPath": point})
}

fn begun(nas: Nas) -> Story {
    let mut story = Story::new(Guest::new([Disk::root()]), nas);
    story.guest.write(0, 0x21, 4 * MIB, 3 * MIB);
    story.accept(by("pull", story.request("full"))).assert_full(true);
    story
}

/// While this host backs up, the other one reads and changes nothing; then it goes on with the chain, and repairs it.
fn keep_apart(nas: Nas, repository: Repository) {
    println!("{:?} and {repository:?}", nas.repository());
    let (mut story, other) = (begun(nas), Other::new(repository));
    story.guest.write(0, 0x51, 8 * MIB, 2 * MIB);
    let first = story.points[0].path.clone();
    story
        .accept_with(by("pull", story.request("incremental")), |request| {
            take_and(request, |_| {
                other.agent("deleteBackup", of(&first)).fail_with("BUSY");
                other.agent("verifyChain", of(&first)).succeed();
            })
        })
        .assert_incremental();
    story.guest.write(0, 0x52, 9 * MIB, MIB);
    other.take(&mut story, "pull");
    other.agent("verifyData", of(&story.points[2].path)).succeed();
    other.agent("rebasePoint", json!({"backupPath": story.points[2].path, "newParent": first})).succeed();
    other.agent("deleteBackup", of(&story.points[1].path)).succeed();
    story.points.remove(1);
    story.guest.write(0, 0x53, 3 * MIB, MIB);
    story.accept(by("pull", story.request("incremental"))).assert_incremental();
    story.assert_all_restore();
}

#[test]
#[ignore = "make nas"]
fn two_that_mount_it_differently_keep_apart() {
    for (mine, others) in [
        ("vers=4.2", "vers=4.2,nosharecache"),
        ("vers=4.2", "vers=3,nolock"),
        ("vers=3,nolock", "vers=3,nolock,nosharecache"),
    ] {
        let nas = nfs("nas", mine);
        let repository = with(&nas, others);
        keep_apart(nas, repository);
    }
    let nas = cifs("nas", ROOT);
    let repository = with(&nas, &format!("{ROOT},nosharesock"));
    keep_apart(nas, repository);
}

/// Where locks end at the host: its claim says that there was one, and nothing else does.
#[test]
#[ignore = "make nas"]
fn what_a_dead_host_has_claimed_is_taken_over_in_seconds() {
    for (nas, others) in [
        (nfs("nas", "vers=3,nolock"), "vers=3,nolock,nosharecache".to_owned()),
        (cifs("nas", ROOT), format!("{ROOT},nosharesock")),
    ] {
        println!("{:?}", nas.repository());
        let other = Other::new(with(&nas, &others));
        let mut chain = Chain::new(nas);
        chain.take().unwrap();
        chain.write(0x31, 4, 1);
        let killed = other.agent("takeBackup", take_json(&chain.request())).killed_at("publish:1");
        assert_eq!(killed.run(), Ended::Killed);
        let instance = chain.nas.at(chain.path(0).split_once('/').unwrap().0);
        let claim = instance.join(".nasbackup.lease");
        let text = fs::read_to_string(&claim).unwrap();
        // its process would be looked for on the host on which it ran, and this is another
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        assert!(text.contains(boot.trim()), "{text}");
        fs::write(&claim, text.replace(boot.trim(), "another boot")).unwrap();

        let hurried = |request| TakeBackupRequest { wait_seconds: Some(8), ..request };
        let error = chain.take_and(hurried, &mut |_| Ok(())).unwrap_err();
        assert!(error.code == Code::Busy && error.cause.contains("another boot"), "{error}");
        chain.take().unwrap();
        chain.assert_good();
        let left = listing(&instance);
        let left = left.iter().map(|(path, _)| path.to_str().unwrap());
        assert!(left.clone().all(|path| !path.contains(".partial") && !path.contains(".lease")), "{left:?}");
    }
}

/// What a client of NFS 4 has read it may have a delegation of, of which the server's own open waits, or is told to come again.
#[test]
#[ignore = "make nas"]
fn one_of_them_is_the_server_itself() {
    let nas = nfs("nas", "vers=4.2");
    let repository = on_server(&nas);
    keep_apart(nas, repository);

    let nas = nfs("nas", "vers=4.2");
    let (mut story, server) = (begun(nas.same()), Other::new(on_server(&nas)));
    for at in 1..=2 {
        story.guest.write(0, 0x50 + at, (8 + u64::from(at)) * MIB, MIB);
        story.accept(by("pull", story.request("incremental"))).assert_incremental();
    }
    let paths: Vec<_> = story.points.iter().map(|point| point.path.clone()).collect();
    let read = || {
        for path in &paths {
            let request = json!({"repository": repository_json(&nas.repository()), "backupPath": path});
            nasbackup::operation::call("verifyData", &request.to_string(), &mut |_| Ok(())).unwrap();
        }
    };
    read();
    assert!(delegations() > 0, "or the test says nothing");
    server.agent("rebasePoint", json!({"backupPath": paths[2], "newParent": paths[0]})).succeed();
    server.agent("deleteBackup", of(&paths[1])).succeed();
    story.points.remove(1);
    story.guest.write(0, 0x57, 20 * MIB, MIB);
    server.take(&mut story, "push");
    story.assert_all_restore();
}

/// How many the server has given.
fn delegations() -> usize {
    let clients = fs::read_dir(own("clients")).unwrap();
    let states = clients.map(|client| fs::read_to_string(client.unwrap().path().join("states")).unwrap_or_default());
    states.map(|states| states.matches("type: deleg").count()).sum()
}

/// The machine's clock, put right on drop. Nobody else runs meanwhile.
struct Clock {
    ahead: i64,
    _alone: Alone,
}

impl Clock {
    fn put(&mut self, ahead: i64) {
        run("date", ["-s", &format!("{} seconds", ahead - self.ahead)]);
        self.ahead = ahead;
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.put(0);
    }
}

#[test]
#[ignore = "make nas"]
fn clocks_that_differ_by_an_hour_make_no_difference() {
    const HOUR: i64 = 3600;
    let mut clock = Clock { ahead: 0, _alone: Alone::now() };
    let nas = nfs("nas", "vers=4.2");
    let other = Other::new(with(&nas, "vers=4.2,nosharecache"));
    let mut story = begun(nas);
    clock.put(HOUR);
    story.guest.write(0, 0x51, 8 * MIB, 2 * MIB);
    other.take(&mut story, "push");
    clock.put(-HOUR);
    story.guest.write(0, 0x52, 9 * MIB, MIB);
    story.accept(by("pull", story.request("incremental"))).assert_incremental();
    // by its time the other one's claim, of a host that has died, is of the future
    let claim = story.nas.at(&format!("{}/.nasbackup.lease", story.guest.name));
    fs::write(&claim, "00000000000000000007\nanother boot\n77 1\nid\nnode7\nadds\n").unwrap();
    run("touch", ["-d", "2 hours", claim.to_str().unwrap()]);
    story.guest.write(0, 0x53, 3 * MIB, MIB);
    story.accept(by("push", story.request("incremental"))).assert_incremental();
    clock.put(HOUR);
    let paths: Vec<_> = story.points.iter().map(|point| point.path.clone()).collect();
    other.agent("rebasePoint", json!({"backupPath": paths[2], "newParent": paths[0]})).succeed();
    clock.put(-HOUR);
    other.agent("deleteBackup", of(&paths[1])).succeed();
    story.points.remove(1);
    story.assert_all_restore();
}

/// Another host has waited for a claim to expire while this one hung, and works on the points: what comes next here changes nothing. A
/// server keeps a removed file as long as an NFS 4 client has it open; one of NFS 3 may give its number to the next file.
#[test]
fn a_claim_that_another_host_has_taken_over_is_missed_at_the_next_look() {
    for (export, options) in [("nas", "vers=4.2"), ("nas", "vers=3"), ("ext4", "vers=4.2")] {
        miss_a_claim(&nfs(export, &format!("{options},nosharecache")));
    }
    // other tests make files there, too
    let gets_the_number = || miss_a_claim(&nfs("ext4", "vers=3,nolock,nosharecache"));
    assert!((0..20).any(|_| gets_the_number()), "or a half of the test says nothing");
}

/// True if the other host's claim has got the number of the file that it has removed.
fn miss_a_claim(nas: &Nas) -> bool {
    let instance = nas.at("i-1");
    fs::create_dir_all(instance.join("T1")).unwrap();
    let export = Repository::check(Some(nas.repository())).unwrap();
    let session = Session::open(&export, &nasbackup::config::current()).unwrap();
    let point = PointPath::parse("backupPath", "i-1/T1").unwrap();
    let held = Instance::open(session, &point, Purpose::Change).unwrap();
    held.fence().unwrap();
    let other = mount(nas);
    let [claim, aside] = [".nasbackup.lease", ".nasbackup.lease-0"].map(|name| other.path.join("i-1").join(name));
    let (text, number) = (fs::read_to_string(&claim).unwrap(), fs::metadata(&claim).unwrap().ino());
    fs::rename(&claim, &aside).unwrap();
    fs::remove_file(&aside).unwrap();
    let theirs = text.replace('0', "1");
    fs::write(&claim, &theirs).unwrap();
    let same_number = fs::metadata(&claim).unwrap().ino() == number;
    let looked = held.fence();
    assert_eq!(looked.err().map(|error| error.code), Some(Code::Busy), "{:?}, {same_number}", nas.repository());
    drop(held);
    assert_eq!(fs::read_to_string(&claim).unwrap(), theirs);
    same_number
}
