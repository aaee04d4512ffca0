//! A server that stops answering in the middle of everything that can be done there: for 20 s, and until all have given up.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Component, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use nasbackup::config::{self, Config};
use nasbackup::error::{Code, Error, Result};
use nasbackup::nas::repository::{Export, Repository};
use nasbackup::nas::session::Session;
use nasbackup::operation::take_backup::{self, TakeBackupRequest};
use nasbackup::operation::{call, cancel, jobs};
use nasbackup::shorten;
use nasbackup::work::job::{JobStatus, Listener};
use nasbackup::work::phase::Phase;
use nasbackup::work::stuck::stuck;
use serde_json::{Value, json};

use crate::chain::Chain;
use crate::served::{Alone, ROOT, Stopped, cifs, mount, nfs};
use crate::support::{
    Disk, Guest, MIB, Nas, PATIENCE, Story, by, folder, init, listing, mounted_at, repository_json, until,
};

/// Where an operation waits, once, until the server has stopped.
struct Middle {
    there: Option<Sender<()>>,
    go_on: Receiver<()>,
}

impl Middle {
    fn reached(&mut self) {
        if let Some(there) = self.there.take() {
            there.send(()).unwrap();
            self.go_on.recv().unwrap();
        }
    }

    /// Is told of progress, and waits when that phase has begun to do something.
    fn of(mut self, phase: Phase) -> impl FnMut(&JobStatus) -> Result<()> {
        move |status| {
            if status.phase == phase && (status.done_bytes > 0 || phase != Phase::Copy) {
                self.reached();
            }
            Ok(())
        }
    }
}

/// What is under way when the server stops.
trait Operation: Send {
    fn name(&self) -> String;
    /// The repository.
    fn nas(&self) -> &Nas;
    fn run(&mut self, middle: Middle) -> Result<()>;
    /// It has succeeded: what it has made is right.
    fn assert_right(&mut self);
    /// It was given up, or cancelled, and the server answers again: nothing is left of it, and the next one is right.
    fn assert_goes_on(&mut self);
    /// How it ends if the server never answers.
    fn given_up(&self) -> Option<Code> {
        Some(Code::NasUnresponsive)
    }
    /// What it waits for then can't be ended, as `mount` can.
    fn leaves_threads(&self) -> bool {
        true
    }
    /// Nothing half-made is there, and nobody has anything open.
    fn assert_nothing_left(&self) {
        let there = listing(self.nas().root()).into_iter().map(|(path, _)| path);
        let half: Vec<_> = there.filter(|path| path.components().any(is_half_made)).collect();
        assert!(half.is_empty(), "{}: {half:?}", self.name());
        assert_eq!(stuck(export(self.nas())), 0, "{}", self.name());
    }
}

/// On the newest point of a machine that does not run.
struct OnChain {
    chain: Chain,
    /// Keeps it mounted until the server stops, however long the others take to be there.
    _mounted: Session,
    operation: &'static str,
    wait_seconds: Option<u64>,
}

impl OnChain {
    fn new(operation: &'static str, wait_seconds: Option<u64>) -> OnChain {
        let mut chain = Chain::new(nfs("nas", ""));
        if ["deleteBackup", "rebasePoint"].contains(&operation) {
            chain.take().unwrap();
        }
        chain.write(0x31, 8, 24);
        chain.take().unwrap();
        chain.write(0x32, 4, 24);
        let _mounted = mounted(&chain.nas);
        OnChain { chain, _mounted, operation, wait_seconds }
    }

    fn ask(&self, more: Value, listener: Listener<'_>) -> Result<Value> {
        self.chain.ask_and(self.operation, self.chain.newest(), more, listener)
    }
}

impl Operation for OnChain {
    fn name(&self) -> String {
        self.operation.into()
    }

    fn nas(&self) -> &Nas {
        &self.chain.nas
    }

    fn run(&mut self, mut middle: Middle) -> Result<()> {
        match self.operation {
            "takeBackup" => {
                let slowly = |request| TakeBackupRequest {
                    rate_limit: Some(2 * MIB),
                    wait_seconds: self.wait_seconds,
                    ..request
                };
                self.chain.take_and(slowly, &mut middle.of(Phase::Copy)).map(drop)
            }
            "rebasePoint" => {
                // a sync of all that was written may take its time
                if let Some(seconds) = self.wait_seconds {
                    shorten(
                        &["absorb", "look for what to absorb", "name the new backing file"],
                        Duration::from_secs(seconds),
                    );
                }
                self.ask(json!({"newParent": null}), &mut middle.of(Phase::Absorb)).map(drop)
            }
            "verifyData" => {
                let verified = self.ask(json!({}), &mut middle.of(Phase::CompareData))?;
                match verified["verdict"].as_str() {
                    Some("good") => Ok(()),
                    // what it has told until then stays so
                    Some("aborted") => Err(Error::new(Code::NasUnresponsive, "verifyData", verified)),
                    _ => panic!("{verified}"),
                }
            }
            "restorePoint" => {
                // which is waited for longest
                if let Some(seconds) = self.wait_seconds {
                    shorten(&["copy", "sync"], Duration::from_secs(seconds));
                }
                let volumes = self.chain.restored_to(self.chain.newest(), &folder("restored").join("disk"));
                self.ask(json!({"volumes": volumes}), &mut middle.of(Phase::Copy)).map(drop)
            }
            // without a listener, but in the kernel soon
            _ => {
                middle.reached();
                self.ask(json!({}), &mut |_| Ok(())).map(drop)
            }
        }
    }

    fn assert_right(&mut self) {
        match self.operation {
            "deleteBackup" => self.chain.forget(1),
            "rebasePoint" => self.chain.delete(0).unwrap(),
            _ => {}
        }
        self.chain.take().unwrap();
        self.chain.assert_good();
    }

    fn assert_goes_on(&mut self) {
        // a rebase or delete that was cut short is finished by the same call, or by its thread when the server was back
        match self.operation {
            "deleteBackup" => _ = self.ask(json!({}), &mut |_| Ok(())).unwrap(),
            "rebasePoint" => {
                self.ask(json!({"newParent": null}), &mut |_| Ok(())).unwrap();
                self.chain.delete(0).unwrap();
                self.chain.take().unwrap();
                // one that was given up when the image had begun to change has lost its fingerprints
                return self.chain.assert_restores();
            }
            _ => {}
        }
        self.assert_right();
    }
}

/// A backup of a running guest.
struct OnGuest {
    story: Story,
    engine: &'static str,
    wait_seconds: Option<u64>,
    /// It is cancelled when the server has stopped.
    cancelled: bool,
    /// Of its disks when it began, by volume.
    content: BTreeMap<String, PathBuf>,
}

impl OnGuest {
    fn new(engine: &'static str, wait_seconds: Option<u64>, cancelled: bool) -> OnGuest {
        let mut story = Story::new(Guest::new([Disk::root()]), nfs("nas", ""));
        story.accept(by(engine, story.request("full"))).assert_full(true);
        story.guest.write(0, 0x51, 2 * MIB, 48 * MIB);
        OnGuest { story, engine, wait_seconds, cancelled, content: BTreeMap::new() }
    }

    fn request(&self) -> TakeBackupRequest {
        by(self.engine, self.story.request("incremental"))
    }
}

impl Operation for OnGuest {
    fn name(&self) -> String {
        format!("{}, cancelled: {}", self.engine, self.cancelled)
    }

    fn nas(&self) -> &Nas {
        &self.story.nas
    }

    fn run(&mut self, mut middle: Middle) -> Result<()> {
        let job = self.story.guest.name.clone();
        for _ in 0..10 {
            self.content = self.story.content();
            let request = TakeBackupRequest {
                job: Some(job.clone()),
                rate_limit: Some(4 * MIB),
                wait_seconds: self.wait_seconds,
                ..self.request()
            };
            let mut reached = false;
            let mut listen = |status: &JobStatus| {
                if status.phase == Phase::Copy && status.done_bytes > 0 {
                    reached = true;
                    middle.reached();
                    if self.cancelled {
                        cancel(&job);
                    }
                }
                Ok(())
            };
            let taken = take_backup::run(request, &mut listen);
            if reached || taken.is_err() {
                return taken.map(drop);
            }
            // by push it may be done before its speed is limited
            self.story.adopt(self.request().backup_path.unwrap(), std::mem::take(&mut self.content));
            self.story.guest.write(0, 0x51, 2 * MIB, 48 * MIB);
        }
        Ok(())
    }

    fn assert_right(&mut self) {
        let path = self.request().backup_path.unwrap();
        self.story.adopt(path, std::mem::take(&mut self.content));
        assert_eq!(self.story.guest.state(), "running");
        self.assert_next_is_right();
    }

    fn assert_goes_on(&mut self) {
        assert_eq!(self.story.guest.state(), "running");
        self.story.skip();
        self.story.take_until_free();
        self.story.assert_nothing_half_made();
        self.story.guest.assert_no_job();
        self.assert_next_is_right();
    }

    fn given_up(&self) -> Option<Code> {
        Some(if self.cancelled { Code::Cancelled } else { Code::NasUnresponsive })
    }
}

impl OnGuest {
    fn assert_next_is_right(&mut self) {
        self.story.guest.write(0, 0x52, 8 * MIB, MIB);
        self.story.accept(self.request()).assert_incremental();
        self.story.assert_all_restore();
    }
}

/// A question to the repository.
struct Asking {
    nas: Nas,
    /// Keeps it mounted; else it has to be mounted first.
    mounted: Option<Session>,
}

impl Asking {
    fn new(is_mounted: bool) -> Asking {
        let nas = nfs("nas", "");
        init();
        let mounted = is_mounted.then(|| mounted(&nas));
        Asking { nas, mounted }
    }
}

impl Operation for Asking {
    fn name(&self) -> String {
        if self.mounted.is_some() { "backupStats" } else { "a mount" }.into()
    }

    fn nas(&self) -> &Nas {
        &self.nas
    }

    fn run(&mut self, mut middle: Middle) -> Result<()> {
        middle.reached();
        stats(&self.nas).map(drop)
    }

    fn assert_right(&mut self) {
        assert!(stats(&self.nas).unwrap()["totalBytes"].as_u64().unwrap() > 0);
    }

    fn assert_goes_on(&mut self) {
        self.assert_right();
    }

    fn leaves_threads(&self) -> bool {
        self.mounted.is_some()
    }
}

/// What nobody uses any more, and is not kept.
struct Unmounting {
    nas: Nas,
    session: Option<Session>,
    point: PathBuf,
}

impl Unmounting {
    fn new() -> Unmounting {
        let nas = nfs("nas", "");
        let config = Config { mount_keep_seconds: 0, ..Config::clone(&config::current()) };
        let session = Session::open_bounded(export(&nas), Arc::new(config)).unwrap();
        let point = session.root().path.clone();
        Unmounting { nas, session: Some(session), point }
    }
}

impl Operation for Unmounting {
    fn name(&self) -> String {
        "an unmount".into()
    }

    fn nas(&self) -> &Nas {
        &self.nas
    }

    fn run(&mut self, mut middle: Middle) -> Result<()> {
        middle.reached();
        drop(self.session.take());
        assert!(!mounted_at(&self.point) && !self.point.parent().unwrap().exists());
        Ok(())
    }

    fn assert_right(&mut self) {
        stats(&self.nas).unwrap();
    }

    fn assert_goes_on(&mut self) {
        self.assert_right();
    }

    fn given_up(&self) -> Option<Code> {
        None
    }
}

fn is_half_made(part: Component<'_>) -> bool {
    let name = part.as_os_str().as_encoded_bytes();
    name.starts_with(b".partial-") || name.starts_with(b".deleted-") || name.starts_with(b".removed-")
}

fn export(nas: &Nas) -> Export {
    Repository::check(Some(nas.repository())).unwrap()
}

fn mounted(nas: &Nas) -> Session {
    Session::open_bounded(export(nas), config::current()).unwrap()
}

fn stats(nas: &Nas) -> Result<Value> {
    call("backupStats", &json!({"repository": repository_json(&nas.repository())}).to_string(), &mut |_| Ok(()))
}

/// All that can be under way but pushes, on a NAS that is to be waited for as long as that.
fn operations(wait_seconds: Option<u64>) -> Vec<Box<dyn Operation>> {
    let mut all: Vec<Box<dyn Operation>> =
        vec![Box::new(Asking::new(true)), Box::new(Asking::new(false)), Box::new(Unmounting::new())];
    for operation in ["deleteBackup", "rebasePoint", "verifyData", "restorePoint", "takeBackup"] {
        all.push(Box::new(OnChain::new(operation, wait_seconds)));
    }
    all.push(Box::new(OnGuest::new("pull", wait_seconds, false)));
    all
}

/// How an operation ended.
type Ended = (Box<dyn Operation>, Result<()>);

/// Begins them one after the other, as soon as the one before waits in its middle; stops the server; has them go on. They come as
/// they end.
fn stop_in_the_middle(alone: &Alone, operations: Vec<Box<dyn Operation>>) -> (Stopped, Receiver<Ended>) {
    let (end, ends) = mpsc::channel();
    let mut waiting = Vec::new();
    for mut operation in operations {
        let ((there, reached), (go_on, wait)) = (mpsc::channel(), mpsc::channel());
        let (middle, end) = (Middle { there: Some(there), go_on: wait }, end.clone());
        let name = operation.name();
        std::thread::spawn(move || {
            let ended = operation.run(middle);
            drop(end.send((operation, ended)));
        });
        if reached.recv().is_err() {
            let (_, ended) = ends.recv().unwrap();
            panic!("{name} has never been in its middle: {ended:?}");
        }
        waiting.push(go_on);
    }
    let stopped = Stopped::now(alone);
    waiting.iter().for_each(|go_on| go_on.send(()).unwrap());
    (stopped, ends)
}

#[test]
#[ignore = "make soak: minutes"]
fn what_is_under_way_goes_on_when_the_server_is_back_after_20_s() {
    let alone = Alone::now();
    let mut operations = operations(None);
    operations.push(Box::new(OnGuest::new("push", None, false)));
    let many = operations.len();
    let (stopped, ends) = stop_in_the_middle(&alone, operations);
    std::thread::sleep(Duration::from_secs(20));
    drop(stopped);
    let ended: Vec<Ended> = (0..many).map(|_| ends.recv_timeout(PATIENCE).expect("all of them end")).collect();
    for (mut operation, ended) in ended {
        ended.unwrap_or_else(|error| panic!("{}: {error}", operation.name()));
        operation.assert_right();
        operation.assert_nothing_left();
    }
}

/// Tells what this process holds: memory, threads, and open files, in both tables.
fn tell(when: &str) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    let open = |table: PathBuf| std::fs::read_dir(table.join("fd")).map_or(0, Iterator::count);
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let is_apart =
        |task: &PathBuf| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.contains("the NAS's f"));
    let (here, apart) = (open("/proc/self".into()), tasks.into_iter().find(is_apart).map_or(0, open));
    println!("{when}: {}, {} threads, {here} and {apart} descriptors", of("VmRSS:"), of("Threads:"));
}

/// All of them, each with the answer that it has to have, while the server is away.
fn given_up(ends: &Receiver<Ended>, many: usize) -> Vec<Box<dyn Operation>> {
    let end = |_| {
        let (operation, ended) = ends.recv_timeout(PATIENCE).expect("each of them has an answer");
        let code = ended.as_ref().err().map(|error| error.code);
        assert_eq!(code, operation.given_up(), "{}: {ended:?}", operation.name());
        operation
    };
    let given_up: Vec<_> = (0..many).map(end).collect();
    assert_eq!(jobs(), []);
    for operation in given_up.iter().filter(|operation| operation.given_up() == Some(Code::NasUnresponsive)) {
        let error = stats(operation.nas()).unwrap_err();
        assert!(error.cause.contains("has not answered for"), "{}: {error}", operation.name());
        assert!(stuck(export(operation.nas())) > 0 || !operation.leaves_threads(), "{}", operation.name());
    }
    given_up
}

/// The server answers again: all is cleared, and whatever was asked can be done.
fn assert_all_go_on(given_up: Vec<Box<dyn Operation>>) {
    for mut operation in given_up {
        until("the threads that waited end", || stuck(export(operation.nas())) == 0);
        until("it is used again", || stats(operation.nas()).is_ok());
        operation.assert_goes_on();
        operation.assert_nothing_left();
    }
}

#[test]
#[ignore = "make soak: minutes"]
fn whoever_waits_for_a_server_that_never_comes_back_is_told_and_leaves_counted_threads_alone() {
    let alone = Alone::now();
    let mut others = Story::new(Guest::new([Disk::root()]), cifs("nas", ROOT));
    others.accept(by("pull", others.request("full"))).assert_full(true);
    others.guest.write(0, 0x61, 8 * MIB, 8 * MIB);
    let operations = operations(Some(60));
    let many = operations.len();
    tell("before");
    let (stopped, ends) = stop_in_the_middle(&alone, operations);
    // while they all wait
    others.accept(by("pull", others.request("incremental"))).assert_incremental();
    tell("while they wait");
    let given_up = given_up(&ends, many);
    tell("given up");
    // and when they have given up
    others.guest.write(0, 0x62, 16 * MIB, MIB);
    others.accept(by("pull", others.request("incremental"))).assert_incremental();
    drop(stopped);
    assert_all_go_on(given_up);
    tell("cleared");
    others.assert_all_restore();
}

/// QEMU and libvirt wait for the server as well: nothing is asked of them meanwhile, not for other guests either.
#[test]
#[ignore = "make soak: minutes"]
fn pushes_to_a_server_that_never_comes_back_end_in_their_time_and_all_is_cleared_once_it_does() {
    let alone = Alone::now();
    let push = |cancelled| Box::new(OnGuest::new("push", Some(60), cancelled)) as Box<dyn Operation>;
    let pushes = vec![push(false), push(true)];
    tell("before");
    let (stopped, ends) = stop_in_the_middle(&alone, pushes);
    tell("while they wait");
    let given_up = given_up(&ends, 2);
    tell("given up");
    drop(stopped);
    assert_all_go_on(given_up);
    tell("cleared");
}

#[test]
#[ignore = "make soak: minutes"]
fn another_repository_is_mounted_while_data_wait_for_one_that_hangs() {
    init();
    let alone = Alone::now();
    let (hung, other) = (nfs("nas", ""), cifs("nas", ROOT));
    let seen = mount(&hung);
    let mut file = File::create(seen.path.join("file")).unwrap();
    let stopped = Stopped::now(&alone);
    file.write_all(&vec![1; MIB as usize]).unwrap();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send(stats(&other)));
    let stats = told.recv_timeout(PATIENCE);
    drop(stopped);
    stats.unwrap().unwrap();
    file.sync_all().unwrap();
}
