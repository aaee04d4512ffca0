//! What the operations of this host have come to, as Prometheus' textfile collector reads it. All processes of the host add to one
//! record below `stateDir`, so that none takes back what another has told.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::flock::{Flock, lock_file};
use super::posted::{HostJob, posted};
use crate::error::{Error, Result};
use crate::limits;
use crate::work::watched::Watched;

/// What an error in it names.
pub const STEP: &str = "tell what operations have come to";
const RECORD: &str = "metrics.json";
/// The most pairs of an operation and a machine that are kept; those that ended longest ago go first.
const MOST: usize = 2000;

/// How an operation ended.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// The error's code, if it failed.
    pub failure: Option<&'static str>,
    /// How long it took.
    pub took: Duration,
    /// Threads that this process has left behind.
    pub stuck: usize,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    operations: Vec<Told>,
    stuck: Vec<Stuck>,
}

/// Operations of one kind on one machine.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Told {
    operation: String,
    /// Empty for all machines.
    machine: String,
    results: BTreeMap<String, u64>,
    fallbacks: BTreeMap<String, u64>,
    seconds: f64,
    last_seconds: f64,
    last: i64,
    last_success: Option<i64>,
}

/// Threads that a process has left behind. It is told from a later one of its number by when it began.
#[derive(Debug, Serialize, Deserialize)]
struct Stuck {
    process: u32,
    began: u64,
    threads: usize,
}

/// Adds an operation to the record in `state_dir`, and writes `file` anew.
pub fn tell(state_dir: &Path, file: &Path, watched: &Watched, end: End) -> Result<()> {
    let _lock = lock(state_dir)?;
    let mut record = read(state_dir);
    record.add(watched, end, jiff::Timestamp::now().as_second());
    let json = serde_json::to_string(&record).map_err(|error| Error::io(STEP, RECORD, error))?;
    let at = state_dir.join(RECORD);
    replace(&at, &json, 0o600).map_err(|error| Error::io(STEP, &at, error))?;
    replace(file, &text(&record, &posted(state_dir)?), 0o644).map_err(|error| Error::io(STEP, file, error))
}

fn lock(state_dir: &Path) -> Result<Flock> {
    let until = Instant::now() + limits::METRICS_LOCK;
    loop {
        match Flock::take(lock_file(state_dir, "metrics")?) {
            Err(Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(limits::TOOL_LOOK),
            taken => return taken.map_err(|error| Error::io(STEP, state_dir.join("metrics.lock"), error)),
        }
    }
}

/// One that can't be read is begun anew.
fn read(state_dir: &Path) -> Record {
    let read = || -> io::Result<Record> { Ok(serde_json::from_slice(&fs::read(state_dir.join(RECORD))?)?) };
    read().unwrap_or_else(|error| {
        if error.kind() != ErrorKind::NotFound {
            log::warn!("'{}' is begun anew: {error}", state_dir.join(RECORD).display());
        }
        Record::default()
    })
}

/// By rename, so that nobody reads half of it. Nothing that somebody has put into the folder is followed or written to.
fn replace(file: &Path, text: &str, mode: u32) -> io::Result<()> {
    let new = PathBuf::from(format!("{}.new", file.display()));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let write = |mut made: File| {
        made.set_permissions(Permissions::from_mode(mode))?;
        made.write_all(text.as_bytes())?;
        fs::rename(&new, file)
    };
    // one that can't be written goes with the next
    write(OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?)
}

impl Record {
    fn add(&mut self, watched: &Watched, end: End, now: i64) {
        let machine = watched.machine.as_deref().unwrap_or_default();
        let is_it = |told: &Told| told.operation == watched.operation && told.machine == machine;
        let at = self.operations.iter().position(is_it).unwrap_or_else(|| {
            let (operation, machine) = (watched.operation.to_owned(), machine.to_owned());
            self.operations.push(Told { operation, machine, ..Told::default() });
            self.operations.len() - 1
        });
        let told = &mut self.operations[at];
        let result = end.failure.or(watched.found);
        *told.results.entry(result.unwrap_or("OK").to_owned()).or_default() += 1;
        watched.fallbacks.iter().for_each(|to| *told.fallbacks.entry((*to).to_owned()).or_default() += 1);
        told.last_seconds = end.took.as_secs_f64();
        told.seconds += told.last_seconds;
        told.last = now;
        if result.is_none() {
            told.last_success = Some(now);
        }
        if self.operations.len() > MOST {
            self.operations.sort_by_key(|told| std::cmp::Reverse(told.last));
            self.operations.truncate(MOST);
        }
        self.stuck.retain(|stuck| stuck.process != std::process::id() && began(stuck.process) == Some(stuck.began));
        if let Some(began) = began(std::process::id()).filter(|_| end.stuck > 0) {
            self.stuck.push(Stuck { process: std::process::id(), began, threads: end.stuck });
        }
    }
}

/// When a process began, in ticks since the host's start (proc_pid_stat(5)); none if it is gone.
fn began(process: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// A metric's name, its type, what it tells, and the samples of an operation on a machine: a label more, and a value.
type Metric = (&'static str, &'static str, &'static str, fn(&Told) -> Vec<(String, f64)>);

const METRICS: [Metric; 6] = [
    ("operations_total", "counter", "Operations that have ended.", |told| labelled("result", &told.results)),
    ("fallbacks_total", "counter", "Backups that became another than they were to be.", |told| {
        labelled("to", &told.fallbacks)
    }),
    ("operation_seconds_total", "counter", "How long they took together.", |told| vec![(String::new(), told.seconds)]),
    ("operation_last_seconds", "gauge", "How long the last one took.", |told| vec![(String::new(), told.last_seconds)]),
    ("operation_last_timestamp_seconds", "gauge", "When the last one ended.", |told| {
        vec![(String::new(), told.last as f64)]
    }),
    ("operation_last_success_timestamp_seconds", "gauge", "When the last one ended that succeeded.", |told| {
        told.last_success.iter().map(|last| (String::new(), *last as f64)).collect()
    }),
];

fn labelled(label: &str, counts: &BTreeMap<String, u64>) -> Vec<(String, f64)> {
    counts.iter().map(|(value, count)| (format!(",{label}=\"{}\"", escaped(value)), *count as f64)).collect()
}

fn text(record: &Record, jobs: &[HostJob]) -> String {
    let mut text = String::new();
    for (name, kind, help, samples) in METRICS {
        text += &head(name, kind, help);
        for told in &record.operations {
            let labels = format!("operation=\"{}\",machine=\"{}\"", escaped(&told.operation), escaped(&told.machine));
            for (more, value) in samples(told) {
                text += &format!("nasbackup_{name}{{{labels}{more}}} {value}\n");
            }
        }
    }
    text += &head("stuck_threads", "gauge", "Threads that wait for what does not answer, and for which nobody waits.");
    text += &format!("nasbackup_stuck_threads {}\n", record.stuck.iter().map(|stuck| stuck.threads).sum::<usize>());
    text += &head("jobs", "gauge", "What ran on this host when this was written.");
    text += &format!("nasbackup_jobs {}\n", jobs.len());
    text
}

/// What stands above a metric's samples.
pub fn head(name: &str, kind: &str, help: &str) -> String {
    format!("# HELP nasbackup_{name} {help}\n# TYPE nasbackup_{name} {kind}\n")
}

/// A label's value.
pub fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn backup(machine: &str, fallbacks: &[&'static str]) -> Watched {
        let fallbacks = fallbacks.iter().copied().collect();
        Watched { operation: "takeBackup", machine: Some(machine.to_owned()), found: None, fallbacks }
    }

    fn end(failure: Option<&'static str>, seconds: f64) -> End {
        End { failure, took: Duration::from_secs_f64(seconds), stuck: 0 }
    }

    #[test]
    fn what_ends_is_counted_by_its_result_and_the_last_one_is_told() {
        let mut record = Record::default();
        record.add(&backup("a\"", &["push"]), end(None, 1.5), 100);
        record.add(&backup("a\"", &["push", "full"]), end(Some("NO_SPACE"), 0.5), 200);
        let stuck = End { stuck: 3, ..end(None, 1.0) };
        record.add(&Watched { found: Some("bad"), ..backup("b", &[]) }, stuck, 300);
        // of a process that has ended, and of one that has got its number since
        record.stuck.push(Stuck { process: u32::MAX, began: 0, threads: 5 });
        record.stuck.push(Stuck { process: 1, began: u64::MAX, threads: 5 });
        record.add(&backup("b", &[]), End { stuck: 2, ..end(None, 1.0) }, 400);
        let text = text(&record, &[]);
        let a = r#"operation="takeBackup",machine="a\"""#;
        let b = r#"operation="takeBackup",machine="b""#;
        for sample in [
            format!("operations_total{{{a},result=\"OK\"}} 1"),
            format!("operations_total{{{a},result=\"NO_SPACE\"}} 1"),
            format!("operations_total{{{b},result=\"bad\"}} 1"),
            format!("fallbacks_total{{{a},to=\"full\"}} 1"),
            format!("fallbacks_total{{{a},to=\"push\"}} 2"),
            format!("operation_seconds_total{{{a}}} 2"),
            format!("operation_last_seconds{{{a}}} 0.5"),
            format!("operation_last_timestamp_seconds{{{a}}} 200"),
            format!("operation_last_success_timestamp_seconds{{{a}}} 100"),
            "stuck_threads 2".to_owned(),
            "jobs 0".to_owned(),
        ] {
            assert!(text.lines().any(|line| line == format!("nasbackup_{sample}")), "{sample}: {text}");
        }
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut record = Record::default();
        for n in 0..=MOST {
            record.add(&backup(&n.to_string(), &[]), end(None, 1.0), n as i64);
        }
        assert_eq!(record.operations.len(), MOST);
        assert!(record.operations.iter().all(|told| told.machine != "0"));
    }

    #[test]
    fn what_many_tell_at_once_is_all_counted() {
        let dir = tempfile::tempdir().unwrap();
        let (state, file) = (dir.path().join("state"), dir.path().join("nasbackup.prom"));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| tell(&state, &file, &backup("a", &[]), end(None, 1.0)).unwrap());
            }
        });
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains("result=\"OK\"} 8\n"), "{text}");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
        fs::write(state.join(RECORD), "{").unwrap();
        tell(&state, &file, &backup("a", &[]), end(None, 1.0)).unwrap();
        assert!(fs::read_to_string(&file).unwrap().contains("result=\"OK\"} 1\n"), "it is begun anew");
    }

    #[test]
    fn what_somebody_has_put_there_is_not_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let (state, file, victim) = (dir.path().join("state"), dir.path().join("a.prom"), dir.path().join("victim"));
        fs::write(&victim, "x").unwrap();
        symlink(&victim, &file).unwrap();
        symlink(&victim, dir.path().join("a.prom.new")).unwrap();
        tell(&state, &file, &backup("a", &[]), end(None, 1.0)).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "x");
        assert!(!file.is_symlink() && fs::read_dir(dir.path()).unwrap().count() == 3);
        let none = dir.path().join("none/a.prom");
        assert!(tell(&state, &none, &backup("a", &[]), end(None, 1.0)).is_err());
    }
}
