//! Nights of backups: many guests of two hosts, each with a NAS of its own, each night with changes as they are found (most guests
//! hardly any, a few much), by so many backups at once; then nights in which guests were restarted, an agent is killed, the NAS is slow
//! for a while, and no more than seven points are kept. What ten drawn guests held is read back from all their points at the end.
//! `NIGHT_GUESTS`: how many, 40 unless given, 4 at least.

#![allow(clippy::unwrap_used, reason = "a failure here ends the benchmark")]

mod agent;
mod probe;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use agent::{Agent, Gone, with};
use probe::Probe;
use serde_json::{Value, json};
use support::{Disk, Fs, Guest, MIB, Nas, assert_holds, folder, repository_json, run, until};

/// What a host's NAS is: one that shares blocks, and one that does not, where a merge writes over the older image.
const HOSTS: [Fs; 2] = [Fs::Xfs, Fs::Ext4];
/// Bytes of data on each guest's two disks.
const DATA: [u64; 2] = [32 * MIB, 16 * MIB];
/// Points that are kept of a guest.
const KEPT: usize = 7;
/// Of eight guests these are read back at the end: one of each host.
const DRAWN: [usize; 2] = [0, 3];
/// A call that fails because of what was killed is made again, so often.
const TRIES: usize = 6;

/// What the next night is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Full,
    Changes,
    /// Guests are restarted before it, old points go, and a tenth is verified.
    Restarts,
    /// The same, and a host's agent is killed in the middle.
    KilledAgent,
    /// The same as after restarts, and the NAS answers only now and then for a third of the night.
    SlowNas,
}

const NIGHTS: [(Kind, usize); 10] = [
    (Kind::Full, 2),
    (Kind::Changes, 1),
    (Kind::Changes, 2),
    (Kind::Changes, 4),
    (Kind::Changes, 8),
    (Kind::Changes, 4),
    (Kind::Changes, 2),
    (Kind::Restarts, 4),
    (Kind::KilledAgent, 4),
    (Kind::SlowNas, 4),
];

/// A host, of which the benchmark has but the agent, and where its guests are backed up to.
struct Host {
    folder: PathBuf,
    agent: RwLock<Arc<Agent>>,
    nas: Nas,
    repository: Value,
}

impl Host {
    fn new(nas: Nas) -> Host {
        let folder = folder("host");
        for part in ["state", "mounts"] {
            std::fs::create_dir(folder.join(part)).unwrap();
        }
        let agent = RwLock::new(Arc::new(Agent::start(&folder)));
        let repository = repository_json(&nas.repository());
        Host { folder, agent, nas, repository }
    }

    fn agent(&self) -> Arc<Agent> {
        Arc::clone(&self.agent.read().unwrap())
    }

    /// Kills the agent and starts another, as systemd does.
    fn kill_agent(&self) {
        let mut agent = self.agent.write().unwrap();
        agent.kill();
        *agent = Arc::new(Agent::start(&self.folder));
    }
}

/// A point of a guest, and copies of what it has to hold where the guest was drawn.
struct Point {
    path: String,
    name: Option<String>,
    files: Vec<String>,
    content: Vec<PathBuf>,
}

/// A guest and what CloudStack's database has of it.
struct Machine {
    guest: Guest,
    host: usize,
    socket: PathBuf,
    points: Vec<Point>,
    calls: usize,
}

impl Machine {
    fn new(number: usize) -> Machine {
        let monitor = folder("monitor");
        // QEMU itself makes the socket
        run("chmod", ["777", monitor.to_str().unwrap()]);
        let socket = monitor.join("socket");
        let mut guest = Guest::stopped([Disk::root().size(256 * MIB), Disk::new()]);
        let arguments = format!(
            "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><qemu:arg value='-qmp'/>\
             <qemu:arg value='unix:{},server=on,wait=off'/></qemu:commandline>",
            socket.display()
        );
        guest.elements = arguments.leak();
        guest.start();
        for (disk, length) in DATA.into_iter().enumerate() {
            guest.write(disk, 0x11, 0, length);
        }
        guest.write(0, probe::PATTERN, probe::BEGIN, probe::LENGTH);
        Machine { guest, host: number % HOSTS.len(), socket, points: Vec::new(), calls: 0 }
    }

    /// Changes so many of a thousand bytes of its data.
    fn change(&mut self, permille: u64, pattern: u8, places: &mut Places) {
        for (disk, length) in DATA.into_iter().enumerate() {
            let piece = if permille == 1000 { MIB } else { 64 << 10 };
            for n in 0..(length * permille / 1000).div_ceil(piece) {
                let at = if permille == 1000 { n } else { places.draw(length / piece) };
                self.guest.write(disk, pattern, at * piece, piece);
            }
        }
    }

    /// Backs it up; again if the agent was killed meanwhile.
    fn back_up(&mut self, kind: Kind, content: Vec<PathBuf>, night: &Night<'_>) {
        let answer = night.insist(self.host, "takeBackup", || {
            self.calls += 1;
            let parent = self.points.iter().rfind(|point| point.name.is_some());
            let mode = if kind == Kind::Full { "full" } else { "incremental" };
            json!({
                "repository": night.repository(self.host), "vmName": self.guest.name, "mode": mode,
                "backupPath": format!("{}/2026.01.{:02}.00.00.00", self.guest.name, self.calls),
                "bitmapNew": format!("backup-{}", 1_700_000_000 + self.calls),
                "bitmapParent": parent.map(|parent| &parent.name), "parentPaths": parent.map(|parent| &parent.files),
            })
        });
        let files = answer["disks"].as_array().unwrap().iter().map(|disk| disk["file"].as_str().unwrap().to_owned());
        let path = format!("{}/2026.01.{:02}.00.00.00", self.guest.name, self.calls);
        let name = answer["parentName"].as_str().map(str::to_owned);
        self.points.push(Point { path, name, files: files.collect(), content });
        night.note(|notes| {
            notes.bytes += answer["size"].as_u64().unwrap();
            notes.fallbacks += usize::from(answer["incrementalFallback"] == true);
        });
    }

    /// Takes the oldest points away: what stands on them takes over what it needs.
    fn thin_out(&mut self, night: &Night<'_>) {
        while self.points.len() > KEPT {
            let (repository, oldest) = (night.repository(self.host), &self.points[0]);
            let rebase =
                || json!({"repository": repository, "backupPath": self.points[1].path, "goingPoint": oldest.path});
            night.insist(self.host, "rebasePoint", rebase);
            let is_used_up = |file: &String| !night.hosts[self.host].nas.at(file).exists();
            let committed = oldest.files.iter().filter(|file| is_used_up(file)).count();
            night.insist(self.host, "deleteBackup", || json!({"repository": repository, "backupPath": oldest.path}));
            for copy in self.points.remove(0).content {
                std::fs::remove_file(copy).unwrap();
            }
            night.note(|notes| {
                notes.merges += 1;
                notes.committed += committed;
            });
        }
    }

    fn verify(&self, night: &Night<'_>) {
        let newest = self.points.last().unwrap();
        let request = || json!({"repository": night.repository(self.host), "backupPath": newest.path});
        let answer = night.insist(self.host, "verifyData", request);
        assert_eq!(answer["verdict"], "good", "{answer}");
        night.note(|notes| notes.verified += 1);
    }
}

/// Numbers that look random, the same in each run.
struct Places(u64);

impl Places {
    fn new() -> Places {
        Places(1)
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// What a night has come to.
#[derive(Default)]
struct Notes {
    bytes: u64,
    fallbacks: usize,
    merges: usize,
    /// Images of the older points that have taken the newer ones' place.
    committed: usize,
    verified: usize,
    /// Calls whose agent was killed.
    gone: usize,
    errors: Vec<String>,
    /// The most memory and threads of an agent, and by its process id the seconds it has taken.
    kib: u64,
    threads: u64,
    cpu: HashMap<u64, f64>,
}

/// A night that goes on.
struct Night<'a> {
    hosts: &'a [Host],
    notes: Mutex<Notes>,
}

impl Night<'_> {
    fn repository(&self, host: usize) -> &Value {
        &self.hosts[host].repository
    }

    fn note(&self, change: impl FnOnce(&mut Notes)) {
        change(&mut self.notes.lock().unwrap());
    }

    /// Asks the host's agent until it has done it, with a request made anew for each try.
    fn insist(&self, host: usize, operation: &str, mut request: impl FnMut() -> Value) -> Value {
        for _ in 0..TRIES {
            match self.hosts[host].agent().call(operation, &request()) {
                Ok(answer) => {
                    let taken = &answer["taken"];
                    let number = |name: &str| taken[name].as_u64().unwrap();
                    self.note(|notes| {
                        notes.kib = notes.kib.max(number("kib"));
                        notes.threads = notes.threads.max(number("threads"));
                        notes.cpu.insert(number("pid"), taken["cpu"].as_f64().unwrap());
                    });
                    if answer["result"].is_object() {
                        return answer["result"].clone();
                    }
                    self.note(|notes| notes.errors.push(answer["error"].to_string()));
                }
                Err(Gone) => self.note(|notes| notes.gone += 1),
            }
        }
        panic!("{operation}: {:?}", self.notes.lock().unwrap().errors)
    }
}

/// The whole lab.
struct Lab {
    hosts: Vec<Host>,
    machines: Vec<Mutex<Machine>>,
    places: Places,
    /// Seconds of a processor that each agent had taken when a night ended.
    cpu: HashMap<u64, f64>,
    /// Calls whose agent was killed.
    gone: usize,
}

impl Lab {
    fn new(guests: usize) -> Lab {
        let machines = (0..guests).map(|number| Mutex::new(Machine::new(number))).collect();
        let hosts = HOSTS.map(|fs| Host::new(Nas::image(fs, 4096 + 160 * guests as u64))).into();
        Lab { hosts, machines, places: Places::new(), cpu: HashMap::new(), gone: 0 }
    }

    /// What the day did: of 40 guests one is rewritten, six change by 20 %, and all others by less than 1 %; others each day.
    fn day(&mut self, number: usize) {
        for (i, machine) in self.machines.iter_mut().enumerate() {
            let permille = match (i + 7 * number) % 40 {
                0 => 1000,
                1..=6 => 200,
                other => other as u64 % 9 + 1,
            };
            machine.get_mut().unwrap().change(permille, 0x20 + number as u8, &mut self.places);
        }
    }

    /// Times the guests' writes while nothing is backed up.
    fn quiet(&mut self, length: Duration) -> Vec<Vec<f64>> {
        let start = Instant::now();
        let mut probes = self.probes();
        std::thread::scope(|scope| {
            let probes = probes.iter_mut().map(|probe| scope.spawn(|| probe.run(|| start.elapsed() > length)));
            probes.collect::<Vec<_>>().into_iter().map(|probe| probe.join().unwrap()).collect()
        })
    }

    fn probes(&mut self) -> Vec<Probe> {
        let connect = |machine: &mut Mutex<Machine>| {
            let machine = machine.get_mut().unwrap();
            Probe::connect(&machine.socket, machine.guest.device(0))
        };
        self.machines.iter_mut().map(connect).collect()
    }

    fn night(&mut self, number: usize, kind: Kind, slots: usize) -> Value {
        let retains = matches!(kind, Kind::Restarts | Kind::KilledAgent | Kind::SlowNas);
        if retains {
            for machine in self.machines.iter_mut().step_by(5) {
                machine.get_mut().unwrap().guest.restart();
            }
        }
        let drawn = |(i, machine): (usize, &mut Mutex<Machine>)| match DRAWN.contains(&(i % 8)) {
            true => machine.get_mut().unwrap().guest.copies(),
            false => Vec::new(),
        };
        let contents: Vec<_> = self.machines.iter_mut().enumerate().map(drawn).map(Mutex::new).collect();
        let mut probes = self.probes();
        let qemu = qemu_seconds();
        let night = Night { hosts: &self.hosts, notes: Mutex::default() };
        let machines = &self.machines;
        let freeze = |how: &str| self.hosts.iter().for_each(|host| _ = run("fsfreeze", [how, host.nas.path()]));
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (slow, over) = (AtomicBool::new(false), AtomicBool::new(false));
        let start = Instant::now();
        let (times, seconds) = std::thread::scope(|scope| {
            let probes: Vec<_> =
                probes.iter_mut().map(|probe| scope.spawn(|| probe.run(|| over.load(SeqCst)))).collect();
            let work = || {
                while let Some(i) = Some(next.fetch_add(1, SeqCst)).filter(|i| *i < machines.len()) {
                    let mut machine = machines[i].lock().unwrap();
                    machine.back_up(kind, std::mem::take(&mut contents[i].lock().unwrap()), &night);
                    if retains {
                        machine.thin_out(&night);
                    }
                    if retains && i % 10 == number % 10 {
                        machine.verify(&night);
                    }
                    let share = 6 * (done.fetch_add(1, SeqCst) + 1) / machines.len();
                    slow.store(kind == Kind::SlowNas && (2..4).contains(&share), SeqCst);
                }
            };
            let workers: Vec<_> = (0..slots).map(|_| scope.spawn(work)).collect();
            if kind == Kind::KilledAgent {
                until("half of the night is over", || 2 * done.load(SeqCst) >= machines.len());
                self.hosts[0].kill_agent();
            }
            while kind == Kind::SlowNas && next.load(SeqCst) < machines.len() {
                std::thread::sleep(Duration::from_millis(100));
                if slow.load(SeqCst) {
                    freeze("--freeze");
                    std::thread::sleep(Duration::from_millis(400));
                    freeze("--unfreeze");
                }
            }
            workers.into_iter().for_each(|worker| worker.join().unwrap());
            let seconds = start.elapsed().as_secs_f64();
            over.store(true, SeqCst);
            (probes.into_iter().map(|probe| probe.join().unwrap()).collect::<Vec<_>>(), seconds)
        });
        let notes = night.notes.into_inner().unwrap();
        let cpu: f64 = notes.cpu.iter().map(|(pid, seconds)| seconds - self.cpu.get(pid).unwrap_or(&0.0)).sum();
        self.cpu.extend(&notes.cpu);
        self.gone += notes.gone;
        let sample = json!({
            "section": "night", "night": number, "kind": format!("{kind:?}"), "slots": slots, "guests": machines.len(),
            "seconds": seconds, "bytes": notes.bytes, "cpu": cpu, "qemu_cpu": qemu_seconds() - qemu, "kib": notes.kib,
            "threads": notes.threads, "fallbacks": notes.fallbacks, "merges": notes.merges, "committed": notes.committed,
            "verified": notes.verified,
            "gone": notes.gone, "errors": notes.errors,
        });
        with(sample, latency(times))
    }

    /// All that is kept of each guest is there, and what was drawn reads as it has to. Returns how many images were read back, and
    /// how many points nobody was told of: their agent was killed after it had published them.
    fn read_back(&mut self) -> (usize, usize) {
        let (mut read, mut untold) = ([0; HOSTS.len()], 0);
        for machine in &mut self.machines {
            let machine = machine.get_mut().unwrap();
            let host = &self.hosts[machine.host];
            let request = json!({"repository": host.repository, "instance": machine.guest.name});
            let answer = host.agent().call("listPoints", &request).unwrap();
            let listed = answer["result"]["machines"][0]["points"].as_array().unwrap();
            let listed: Vec<_> = listed.iter().map(|point| point["backupPath"].as_str().unwrap()).collect();
            let lost = machine.points.iter().find(|point| !listed.contains(&&*point.path));
            assert!(lost.is_none(), "{} is not in {listed:?}", lost.unwrap().path);
            untold += listed.len() - machine.points.len();
            for point in &machine.points {
                for (file, content) in point.files.iter().zip(&point.content) {
                    assert_holds(&host.nas.at(file), content);
                    read[machine.host] += 1;
                }
            }
        }
        assert!(!read.contains(&0), "{read:?} images were read back of the hosts");
        (read.iter().sum(), untold)
    }
}

/// Seconds of a processor that the guests have taken.
fn qemu_seconds() -> f64 {
    let processes = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path().join("stat"));
    let texts = processes.filter_map(|path| std::fs::read_to_string(path).ok());
    let ticks = texts.filter_map(|text| {
        let (name, rest) = text.split_once(") ")?;
        let of = |n: usize| rest.split(' ').nth(n).unwrap().parse::<f64>().unwrap();
        name.contains("(qemu-system").then(|| of(11) + of(12))
    });
    // USER_HZ (proc(5)): 100 on every platform that CloudStack has
    ticks.sum::<f64>() / 100.0
}

/// Of all guests' writes the time that 99 of 100 take no more than, the worst guest's of these, and the longest, in ms.
fn latency(times: Vec<Vec<f64>>) -> Value {
    let p99 = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times.get((times.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0.0)
    };
    let all = times.concat();
    let (writes, longest) = (all.len(), all.iter().copied().fold(0.0, f64::max));
    let worst = times.into_iter().map(p99).fold(0.0, f64::max);
    json!({"writes": writes, "p99": p99(all), "worst_p99": worst, "longest": longest})
}

fn main() {
    if let Some(host) = std::env::var_os(agent::HOST) {
        return agent::run(host.into());
    }
    let guests = std::env::var("NIGHT_GUESTS").map_or(40, |text| text.parse().unwrap());
    let mut lab = Lab::new(guests);
    let quiet = lab.quiet(Duration::from_secs(20));
    println!("{}", with(json!({"section": "night", "kind": "Quiet", "guests": guests}), latency(quiet)));
    for (number, (kind, slots)) in NIGHTS.into_iter().enumerate() {
        lab.day(number);
        println!("{}", lab.night(number, kind, slots));
    }
    let (images, untold) = lab.read_back();
    println!("{}", json!({"section": "night", "kind": "ReadBack", "images": images, "untold": untold}));
    assert!(untold <= lab.gone, "{untold} points of {} lost calls", lab.gone);
}
