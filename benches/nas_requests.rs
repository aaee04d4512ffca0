//! What operations ask of an NFS server, by the client's own count (`/proc/self/mountstats`): in `tests/vm/run`, NFS 4.2, two small
//! disks, by push and by pull, a chain that grows to nine points and is then thinned out. A count has no spread: once is enough.
//! Then how long an incremental takes with a server that is some milliseconds away, and a rebase and a merge, against `qemu-img`, also by
//! protocols and on file systems that share no blocks: `cargo bench --bench nas_requests rebase` for these alone.
//!
//! `NASBACKUP_SHOW_REQUESTS="incremental by pull"` shows instead each request of this operation, in order, with the name of its file, and when
//! it was sent and answered; `"incremental 20 ms away by pull"` from afar.

#![allow(clippy::unwrap_used, reason = "a failure here ends the benchmark")]

mod absorbed;
#[path = "../tests/real_nas/served.rs"]
#[allow(dead_code, reason = "the tests use the rest of it")]
mod served;
#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use absorbed::{Shape, shell};
use nasbackup::nas::repository::Repository;
use nasbackup::nas::session::Session;
use nasbackup::operation::call;
use nasbackup::operation::take_backup::TakeBackupRequest;
use serde_json::{Value, json};

use served::{Asked, Counts, ROOT, cifs, nfs};
use support::{Guest, MIB, Nas, Story, by, repository_json, run, take};

const POINTS: usize = 9;
/// What a schedule keeps of a guest.
const KEPT: u64 = 7;
/// How much later the server's answers come, in milliseconds, and how often each is tried.
const DELAYS: [u64; 4] = [0, 1, 5, 20];
const RUNS: u64 = 5;
/// What a rebase moves, in MiB.
const ABSORBED: u64 = 128;

/// What the kernel tells of the client's requests: when each was sent and answered; if they are shown, also for which files they are.
struct Trace {
    shown: bool,
}

/// A request, in seconds of the kernel's clock.
struct Request {
    sent: f64,
    answered: f64,
    kind: String,
}

impl Trace {
    const AT: &str = "/sys/kernel/tracing";
    const TIMES: [&str; 3] = ["sunrpc/xprt_transmit", "sunrpc/xprt_lookup_rqst", "sunrpc/rpc_stats_latency"];
    const SHOWN: [&str; 2] = ["sunrpc/rpc_request", "nfs4"];
    const NOISE: [&str; 5] = [
        "nfs4_setup_sequence",
        "nfs4_sequence_done",
        "nfs4_map_name_to_uid",
        "nfs4_map_group_to_gid",
        "nfs4_xdr_status",
    ];

    fn begin(shown: bool) -> Trace {
        let trace = |file: &str, text: &str| std::fs::write(format!("{}/{file}", Trace::AT), text).unwrap();
        if !Path::new(Trace::AT).join("trace").exists() {
            run("mount", ["-t", "tracefs", "tracefs", Trace::AT]);
        }
        trace("buffer_size_kb", "8192");
        trace("trace_clock", "mono");
        trace("trace", "");
        let events = Trace::TIMES.iter().chain(Trace::SHOWN.iter().filter(|_| shown));
        events.for_each(|event| trace(&format!("events/{event}/enable"), "1"));
        Trace::NOISE.iter().for_each(|event| trace(&format!("events/nfs4/{event}/enable"), "0"));
        Trace { shown }
    }

    /// How many of the requests followed one another.
    fn end(self) -> usize {
        std::fs::write(format!("{}/events/enable", Trace::AT), "0").unwrap();
        let text = std::fs::read_to_string(format!("{}/trace", Trace::AT)).unwrap();
        let requests = Request::all(&text);
        let in_a_row = Request::in_a_row(&requests);
        if self.shown {
            TO_SHOW.lock().unwrap().push(text.clone());
            let begun = requests.iter().map(|request| request.sent).fold(f64::INFINITY, f64::min);
            for request in &requests {
                let [sent, answered] = [request.sent, request.answered].map(|at| (at - begun) * 1000.0);
                let mark = if in_a_row.iter().any(|other| std::ptr::eq(*other, request)) { "*" } else { " " };
                println!("{mark} {sent:9.2} {answered:9.2} {}", request.kind);
            }
        }
        in_a_row.len()
    }
}

/// Traces that are shown once nothing more is measured: the server notes when folders are listed, and its clients see that.
static TO_SHOW: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Shows a trace; files are named by their numbers, as the server has them now.
fn show(text: &str) {
    let found = std::process::Command::new("find")
        .args(["/srv/root/nas", "/srv/root/ext4", "-printf", "%i %P\n"])
        .output()
        .unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    let names: BTreeMap<_, _> = found.lines().filter_map(|line| line.split_once(' ')).collect();
    let is_time = |line: &str| line.contains(": xprt_");
    for line in text.lines().filter(|line| !line.starts_with('#') && !is_time(line)) {
        let words = line.split_whitespace().map(|word| {
            let number = word.rsplit(':').next().unwrap();
            names.get(number).filter(|_| word.contains(':')).map_or(word.to_owned(), |name| format!("'{name}'"))
        });
        println!("{}", words.collect::<Vec<_>>().join(" "));
    }
}

impl Request {
    /// Those of a trace in the order of their answers, without what keeps the client's lease.
    fn all(text: &str) -> Vec<Request> {
        let (mut sent, mut answered, mut requests) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for line in text.lines() {
            let Some((event, xid)) = line.split_once(" xid=") else { continue };
            let mut words = xid.split_whitespace();
            let xid = words.next().unwrap();
            let at = || event.split_whitespace().find_map(|word| word.strip_suffix(':')?.parse::<f64>().ok()).unwrap();
            if event.contains("xprt_transmit:") {
                sent.entry(xid).or_insert_with(at);
            } else if event.contains("xprt_lookup_rqst:") {
                answered.insert(xid, at());
            } else if let (Some("nfsv4"), Some(kind)) = (words.next(), words.next())
                && !["SEQUENCE", "RENEW"].contains(&kind)
                && let (Some(sent), Some(answered)) = (sent.remove(xid), answered.remove(xid))
            {
                requests.push(Request { sent, answered, kind: kind.to_owned() });
            }
        }
        requests.sort_by(|one, other| one.answered.total_cmp(&other.answered));
        requests
    }

    /// As many as there are of which each was sent when the one before was answered.
    fn in_a_row(requests: &[Request]) -> Vec<&Request> {
        let mut chosen: Vec<&Request> = Vec::new();
        for request in requests {
            if chosen.last().is_none_or(|last| last.answered <= request.sent) {
                chosen.push(request);
            }
        }
        chosen
    }
}

/// What is to be shown, and nothing else.
fn shown() -> Option<String> {
    std::env::var("NASBACKUP_SHOW_REQUESTS").ok()
}

fn is_shown(operation: &str, engine: &str) -> bool {
    shown().is_some_and(|shown| shown == format!("{operation} by {engine}"))
}

/// Runs something on a repository that is mounted, and prints what it asked.
fn counted<T>(nas: &Value, operation: &str, engine: &str, chain: usize, act: impl FnOnce() -> T) -> T {
    ask("backupStats", &json!({"repository": nas}));
    let address = nas["address"].as_str().unwrap();
    let trace = is_shown(operation, engine).then(|| Trace::begin(true));
    let before = Counts::of(address);
    let done = act();
    trace.map(Trace::end);
    let Asked { asked, background, again } = Counts::of(address).since(&before);
    let counts = json!({"section": "nas", "operation": operation, "engine": engine, "chain": chain,
        "asked": asked, "background": background, "again": again});
    println!("{counts}");
    done
}

fn ask(operation: &str, request: &Value) -> Value {
    call(operation, &request.to_string(), &mut |_| Ok(())).unwrap_or_else(|error| panic!("{operation}: {error}"))
}

/// A guest's chain, of which each operation is counted.
struct Chain {
    /// What its operations' names end with.
    named: &'static str,
    engine: &'static str,
    story: Story,
    nas: Value,
}

impl Chain {
    fn begin(named: &'static str, engine: &'static str, export: &str) -> Chain {
        let story = Story::new(Guest::ordinary(), served::nfs(export, "vers=4.2"));
        let nas = repository_json(&story.nas.repository());
        Chain { named, engine, story, nas }
    }

    fn take(&mut self, operation: &str, request: TakeBackupRequest) {
        let (nas, engine, chain) = (&self.nas, self.engine, self.story.points.len());
        let operation = format!("{operation}{}", self.named);
        // what the story checks it reads from the server's own files
        self.story.accept_with(request, |request| counted(nas, &operation, engine, chain, || take(request)));
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
        let named = format!("{operation}{}", self.named);
        counted(&self.nas, &named, self.engine, self.story.points.len(), || ask(operation, &request));
    }

    fn path(&self, point: usize) -> &str {
        &self.story.points[point].path
    }

    /// Nights of a schedule that keeps seven points, the oldest merged into the next. Since the day before nobody has looked at the
    /// machine's folder.
    fn keep(&mut self, nights: u64) {
        self.story.accept(by(self.engine, self.story.request("full")));
        for night in 1..KEPT + nights {
            self.story.guest.write(0, 0x30 + night as u8, night % 8 * MIB, MIB);
            let request = by(self.engine, self.story.request("incremental"));
            if night < KEPT {
                self.story.accept(request);
                continue;
            }
            shell(Path::new("/"), "sync; echo 3 > /proc/sys/vm/drop_caches").unwrap();
            self.take("incremental", request);
            let (next, oldest) = (self.path(1), self.path(0));
            self.ask("rebasePoint", json!({"backupPath": next, "goingPoint": oldest}));
            self.ask("deleteBackup", json!({"backupPath": oldest}));
            self.story.points.remove(0);
        }
    }

    /// Takes a point out of the middle until two are left.
    fn thin_out(&mut self) {
        while self.story.points.len() > 2 {
            let (point, parent, going) = (self.path(2), self.path(0), self.path(1));
            self.ask("rebasePoint", json!({"backupPath": point, "newParent": parent, "goingPoint": going}));
            self.ask("deleteBackup", json!({"backupPath": self.path(1)}));
            drop(self.story.points.remove(1));
        }
    }
}

/// Has all that goes over the loopback wait, there and back so many milliseconds.
fn delay_network(millis: u64) {
    let one_way = format!("{}us", millis * 500);
    run("tc", ["qdisc", "replace", "dev", "lo", "root", "netem", "delay", &one_way, "limit", "100000"]);
}

/// How long incrementals of 5 MiB take, each delay in its turn.
fn time_incrementals(engine: &str) {
    let mut story = Story::new(Guest::ordinary(), served::nfs("nas", "vers=4.2"));
    let nas = repository_json(&story.nas.repository());
    run("modprobe", ["sch_netem"]);
    story.accept(by(engine, story.request("full")));
    for (turn, delay) in (0..RUNS).flat_map(|turn| DELAYS.map(|delay| (turn, delay))) {
        story.guest.write(0, 0x40 + turn as u8, (turn + delay) % 8 * MIB, 5 * MIB);
        let request = by(engine, story.request("incremental"));
        story.accept_with(request, |request| {
            delay_network(delay);
            ask("backupStats", &json!({"repository": nas}));
            let trace = Trace::begin(is_shown(&format!("incremental {delay} ms away"), engine));
            let begun = Instant::now();
            let taken = take(request);
            let seconds = begun.elapsed().as_secs_f64();
            let in_a_row = trace.end();
            delay_network(0);
            println!("{}", json!({"section": "nas away", "engine": engine, "delay": delay, "seconds": seconds, "in_a_row": in_a_row}));
            taken
        });
    }
    run("tc", ["qdisc", "del", "dev", "lo", "root"]);
}

/// How a machine's points come back.
const PUT_BACK: &str = "rm -rf i-1; mkdir i-1; cp -rl points/T0 i-1; cp -r points/T1 points/T2 i-1";

/// Whether a merge has made the same.
const COMPARE_MERGED: &str =
    "qemu-img compare -q -f qcow2 -F qcow2 theirs i-1/T2/x.qcow2; qemu-img check -q i-1/T2/x.qcow2";

/// Makes points of the three images, with manifests as those of older versions are, without checksums.
fn make_points(server: &Path, virtual_size: u64) {
    const IMAGES: [&str; 3] = ["base", "middle", "target"];
    for (at, image) in IMAGES.into_iter().enumerate() {
        let below = at.checked_sub(1);
        let (kind, put, stand) = match below {
            None => ("full", "ln", "true".into()),
            Some(below) => {
                ("incremental", "cp", format!("qemu-img rebase -u -f qcow2 -F qcow2 -b ../T{below}/x.qcow2 x.qcow2"))
            }
        };
        let folder = format!("points/T{at}");
        shell(server, &format!("mkdir -p {folder}; {put} {image}.qcow2 {folder}/x.qcow2; cd {folder}; {stand}"))
            .unwrap();
        let size = std::fs::metadata(server.join(&folder).join("x.qcow2")).unwrap().len();
        let disk = json!({"volume": "x", "file": "x.qcow2", "kind": kind, "size": size, "virtualSize": virtual_size});
        let parent = below.map(|below| json!({"backupPath": format!("i-1/T{below}"), "pointId": IMAGES[below]}));
        let manifest = json!({"version": 1, "pointId": image, "vmName": "i-1", "when": "2026-01-02T03:04:05Z",
            "kind": kind, "engine": "pull", "parent": parent, "disks": [disk]});
        std::fs::write(server.join(&folder).join("manifest.json"), manifest.to_string()).unwrap();
    }
}

/// How long a rebase takes by `qemu-img` and by us, also as a deletion of the parent asks for it, cold and synced, in turns.
fn time_rebases(what: &str, nas: Nas, runs: u64, delays: &[u64]) {
    support::init();
    let export = Repository::check(Some(nas.repository())).unwrap();
    let session = Session::open(&export, &nasbackup::config::current()).unwrap();
    let (server, client) = (nas.root(), &session.root().path);
    let shape = Shape { disk: 2 << 30, absorbed: ABSORBED * MIB, runs: ABSORBED, base: 640 };
    absorbed::make(server, &shape).unwrap();
    make_points(server, shape.disk);
    let merge = json!({"repository": repository_json(&nas.repository()), "backupPath": "i-1/T2", "newParent": "i-1/T0",
        "goingPoint": "i-1/T1"});
    run("modprobe", ["sch_netem"]);
    let time = |run: u64, delay: u64, who: &str, before: &str, act: &dyn Fn()| {
        shell(server, &format!("{before}; sync; echo 3 > /proc/sys/vm/drop_caches")).unwrap();
        delay_network(delay);
        let begun = Instant::now();
        act();
        let seconds = begun.elapsed().as_secs_f64();
        delay_network(0);
        println!(
            "{}",
            json!({"section": "nas rebase", "nas": what, "delay": delay, "run": run, "who": who, "seconds": seconds})
        );
    };
    for (run, delay) in (0..runs).flat_map(|run| delays.iter().map(move |delay| (run, *delay))) {
        time(run, delay, "theirs", "cp target.qcow2 theirs", &|| _ = shell(client, absorbed::BY_QEMU).unwrap());
        time(run, delay, "ours", "cp target.qcow2 ours", &|| _ = absorbed::absorb(client).unwrap());
        time(run, delay, "merge", PUT_BACK, &|| _ = ask("rebasePoint", &merge));
        let stays = what.contains("XFS") || what.contains("CIFS");
        assert_eq!(server.join("i-1/T1/x.qcow2").exists(), stays, "the parent's image takes the place of its child's");
        if run == 0 {
            shell(server, absorbed::COMPARE).unwrap();
            shell(server, COMPARE_MERGED).unwrap();
        }
        shell(server, "rm theirs ours").unwrap();
    }
    run("tc", ["qdisc", "del", "dev", "lo", "root"]);
    shell(server, "rm -r *").unwrap();
}

/// By a protocol with a copy on the server, and by one without.
fn without_clones() -> [(&'static str, Nas); 2] {
    [("NFS 4.2, ext4", nfs("ext4", "vers=4.2")), ("NFS 3, ext4", nfs("ext4", "vers=3"))]
}

fn main() {
    if std::env::args().any(|arg| arg == "rebase") {
        let all = [("NFS 4.2, XFS", nfs("nas", "vers=4.2")), ("CIFS, ext4", cifs("ext4", ROOT))];
        return all.into_iter().chain(without_clones()).for_each(|(what, nas)| time_rebases(what, nas, 7, &[0, 1, 5]));
    }
    let shown = shown();
    let engines = || ["push", "pull"].into_iter().filter(|engine| shown.iter().all(|shown| shown.ends_with(engine)));
    let is_far = |shown: &String| shown.contains(" ms away ");
    if !shown.as_ref().is_some_and(is_far) {
        for engine in engines() {
            let mut chain = Chain::begin("", engine, "nas");
            chain.grow();
            chain.ask("backupStats", json!({}));
            chain.ask("verifyChain", json!({"backupPath": chain.path(POINTS - 1)}));
            chain.thin_out();
            chain.story.assert_all_restore();
        }
        if engines().any(|engine| engine == "pull") {
            let mut chain = Chain::begin(" of a night", "pull", "ext4");
            chain.keep(2);
            chain.story.assert_all_restore();
        }
    }
    if shown.as_ref().is_none_or(is_far) {
        engines().for_each(time_incrementals);
    }
    if shown.is_none() {
        without_clones().into_iter().for_each(|(what, nas)| time_rebases(what, nas, 3, &[0, 5]));
    }
    TO_SHOW.lock().unwrap().iter().for_each(|text| show(text));
}
