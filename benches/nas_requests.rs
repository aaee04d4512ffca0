//! What operations ask of an NFS server, by the client's own count (`/proc/self/mountstats`): in `tests/vm/run`, NFS 4.2, two small
//! disks, by push and by pull, a chain that grows to nine points and is then thinned out. A count has no spread: once is enough.

#![allow(clippy::unwrap_used, reason = "a failure here ends the benchmark")]

#[path = "../tests/real_nas/served.rs"]
#[allow(dead_code, reason = "the tests use the rest of it")]
mod served;
#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;

use jiff::Timestamp;
use nasbackup::operation::call;
use nasbackup::operation::take_backup::TakeBackupRequest;
use serde_json::{Value, json};

use support::{Guest, MIB, Story, by, repository_json, take};

const POINTS: usize = 9;
/// What a client sends of itself, whatever an operation asks: a lease that is kept, and what the server has asked back.
const BACKGROUND: [&str; 5] = ["SEQUENCE", "RENEW", "DELEGRETURN", "TEST_STATEID", "LAYOUTRETURN"];

/// The requests of a mount so far: by kind, and how many were sent again.
#[derive(Default)]
struct Counts {
    kinds: BTreeMap<String, u64>,
    again: u64,
}

impl Counts {
    /// Of the NFS mount of this address.
    fn of(address: &str) -> Counts {
        let text = std::fs::read_to_string("/proc/self/mountstats").unwrap();
        let mut mounts = text.split("device ");
        let mount = mounts.find(|mount| mount.starts_with(&format!("{address} mounted on "))).expect("it is mounted");
        let mut counts = Counts::default();
        for line in mount.split("per-op statistics").nth(1).unwrap().lines() {
            let Some((kind, numbers)) = line.trim().split_once(": ") else { continue };
            let mut numbers = numbers.split(' ').map(|number| number.parse::<u64>().unwrap());
            // operations, transmissions, ...
            let (asked, sent) = (numbers.next().unwrap(), numbers.next().unwrap());
            counts.kinds.insert(kind.to_owned(), asked);
            counts.again += sent.saturating_sub(asked);
        }
        counts
    }

    /// What came on top of `before`, as a sample has it.
    fn since(self, before: &Counts) -> Value {
        let more = |(kind, count): (String, u64)| (count - before.kinds.get(&kind).unwrap_or(&0), kind);
        let kinds = self.kinds.into_iter().map(more).filter(|(count, _)| *count > 0);
        let (apart, asked): (Vec<_>, Vec<_>) = kinds.partition(|(_, kind)| BACKGROUND.contains(&kind.as_str()));
        let map = |counts: Vec<(u64, String)>| {
            counts.into_iter().map(|(count, kind)| (kind, count)).collect::<BTreeMap<_, _>>()
        };
        json!({"asked": map(asked), "background": map(apart), "again": self.again - before.again})
    }
}

/// Runs something on a repository that is mounted, and prints what it asked.
fn counted<T>(nas: &Value, operation: &str, engine: &str, chain: usize, act: impl FnOnce() -> T) -> T {
    ask("backupStats", &json!({"repository": nas}));
    let address = nas["address"].as_str().unwrap();
    let before = Counts::of(address);
    let done = act();
    let mut sample = Counts::of(address).since(&before);
    let about = json!({"section": "nas", "operation": operation, "engine": engine, "chain": chain});
    sample.as_object_mut().unwrap().extend(about.as_object().unwrap().clone());
    println!("{sample}");
    done
}

fn ask(operation: &str, request: &Value) -> Value {
    call(operation, &request.to_string(), &mut |_| Ok(())).unwrap_or_else(|error| panic!("{operation}: {error}"))
}

/// A guest's chain, of which each operation is counted.
struct Chain {
    engine: &'static str,
    story: Story,
    nas: Value,
}

impl Chain {
    fn take(&mut self, operation: &str, request: TakeBackupRequest) {
        let (nas, engine, chain) = (&self.nas, self.engine, self.story.points.len());
        // what the story checks it reads from the server's own files
        self.story.accept_with(request, |request| counted(nas, operation, engine, chain, || take(request)));
    }

    fn grow(&mut self) {
        self.take("full", by(self.engine, self.story.request("full")));
        for at in 1..POINTS as u64 - 2 {
            self.story.guest.write(0, 0x30 + at as u8, at * MIB, MIB);
            self.take("incremental", by(self.engine, self.story.request("incremental")));
        }
        self.story.guest.stop();
        for _ in 0..2 {
            self.take("incremental of a stopped guest", self.story.stopped_request("incremental"));
        }
    }

    fn ask(&self, operation: &str, more: Value) {
        let mut request = json!({"repository": self.nas});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        counted(&self.nas, operation, self.engine, self.story.points.len(), || ask(operation, &request));
    }

    fn path(&self, point: usize) -> &str {
        &self.story.points[point].path
    }

    /// Takes a point out of the middle until two are left.
    fn thin_out(&mut self) {
        while self.story.points.len() > 2 {
            self.ask("rebasePoint", json!({"backupPath": self.path(2), "newParent": self.path(0)}));
            self.ask("deleteBackup", json!({"backupPath": self.path(1)}));
            self.story.points.remove(1).discard();
        }
    }
}

fn main() {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    let load: f64 = load.split(' ').next().unwrap().parse().unwrap();
    println!("{}", json!({"section": "machine", "load": load, "when": Timestamp::now().to_string()}));
    for engine in ["push", "pull"] {
        let story = Story::new(Guest::ordinary(), served::nfs("nas", "vers=4.2"));
        let nas = repository_json(&story.nas.repository());
        let mut chain = Chain { engine, story, nas };
        chain.grow();
        chain.ask("backupStats", json!({}));
        chain.ask("verifyChain", json!({"backupPath": chain.path(POINTS - 1)}));
        chain.thin_out();
        chain.story.assert_all_restore();
    }
}
