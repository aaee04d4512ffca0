//! An agent of its own: another process of this very test binary that runs one operation, and may be killed. The binary
//! has a test `agent` that calls `run_as_agent`.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nasbackup::error::{Code, Error};
use nasbackup::nas::repository::Repository;
use nasbackup::operation::{self, take_backup::TakeBackupRequest};
use nasbackup::work::job::JobStatus;
use nasbackup::work::phase::Phase;
use serde_json::{Value, json};

use super::{Refusal, refusing};

const CALL: &str = "NASBACKUP_TEST_CALL";
const CANCEL: &str = "NASBACKUP_TEST_CANCEL";
const REFUSALS: &str = "NASBACKUP_TEST_REFUSALS";

/// How an agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Its operation succeeded.
    Done,
    /// It failed.
    Failed,
    /// It was killed.
    Killed,
}

/// An agent that is to run.
pub struct Agent {
    command: Command,
    output: PathBuf,
}

/// The folders of a host, as `init` gets them.
pub fn host(state: &Path, mounts: &Path) -> Value {
    json!({"stateDir": state, "mountDir": mounts, "logLevel": "warn"})
}

/// This process's own.
pub fn own_host() -> Value {
    let config = nasbackup::config::current();
    host(&config.state_dir, &config.mount_dir)
}

impl Agent {
    /// Runs the operations one after the other, after `init`.
    pub fn new(host: &Value, calls: &[(&str, Value)]) -> Agent {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let output = super::folder("agent").join("output");
        let file = File::create(&output).unwrap();
        command.args(["--exact", "agent", "--nocapture"]).stdin(Stdio::null());
        command.stdout(file.try_clone().unwrap()).stderr(file);
        command.env(CALL, json!({"host": host, "calls": calls}).to_string());
        Agent { command, output }
    }

    /// The same, writing the steps that it passes into `log`.
    pub fn logging(mut self, log: &Path) -> Agent {
        self.command.env("NASBACKUP_STEP_LOG", log);
        self
    }

    /// The same, killed at `step`, which is `NAME:N`.
    pub fn killed_at(mut self, step: &str) -> Agent {
        self.command.env("NASBACKUP_KILL_AT", step);
        self
    }

    /// The same, which waits for some steps no longer than `limits` tells, as `NASBACKUP_LIMITS` does.
    pub fn waiting(mut self, limits: &str) -> Agent {
        self.command.env("NASBACKUP_LIMITS", limits);
        self
    }

    /// The same, which pulls from disks with iothreads, too.
    pub fn daring(mut self) -> Agent {
        self.command.env("NASBACKUP_DARE_IOTHREADS", "");
        self
    }

    /// The same, on a repository whose file system, below `root`, has these refusals. What it says ends with how often it
    /// has met which.
    pub fn refused(mut self, root: &Path, refusals: &[Refusal]) -> Agent {
        let refusals: Vec<_> = refusals.iter().map(|refusal| json!([refusal.call, refusal.errnos])).collect();
        self.command.env(REFUSALS, json!({"root": root, "refusals": refusals}).to_string());
        self
    }

    /// The same on a host that has no other tools than those in this folder.
    pub fn with_tools(mut self, folder: &Path) -> Agent {
        self.command.env("NASBACKUP_TOOLS", folder);
        self
    }

    /// The same, cancelled by its listener in the middle of a copy.
    pub fn cancelled_in_copy(mut self) -> Agent {
        self.command.env(CANCEL, "");
        self
    }

    /// The file that gets what it says.
    pub fn output(&self) -> &Path {
        &self.output
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Ended {
        let status = self.command.status().unwrap();
        match status.signal() {
            Some(libc::SIGKILL) => Ended::Killed,
            None if status.success() => Ended::Done,
            _ => {
                println!("{}", self.text());
                Ended::Failed
            }
        }
    }

    /// Begins it.
    pub fn spawn(mut self) -> Child {
        self.command.spawn().unwrap()
    }

    /// Runs an operation that has to succeed.
    pub fn succeed(mut self) {
        let status = self.command.status().unwrap();
        println!("{}", self.text());
        assert!(status.success(), "{status}");
    }

    /// Runs operations that have to succeed, and returns what it says.
    pub fn text_of_success(mut self) -> String {
        let status = self.command.status().unwrap();
        let text = self.text();
        assert!(status.success(), "{status}: {text}");
        text
    }

    /// Runs an operation that has to fail with this code.
    pub fn fail_with(mut self, code: &str) {
        let status = self.command.status().unwrap();
        let text = self.text();
        assert!(!status.success() && text.contains(&format!(": {code}: ")), "{status}: {text}");
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.output).unwrap()).into_owned()
    }
}

/// The other side: does what this process was begun for, and nothing in the process of the tests.
pub fn run_as_agent() {
    let Ok(call) = std::env::var(CALL) else { return };
    let call: Value = serde_json::from_str(&call).unwrap();
    let cancel = std::env::var_os(CANCEL).is_some();
    let listen = |status: &JobStatus| match cancel && status.phase == Phase::Copy && status.total_bytes > 0 {
        true => Err(Error::new(Code::Cancelled, "listen", "in the middle of the copy")),
        false => Ok(()),
    };
    let run = |name: &str, request: &Value| {
        operation::call(name, &request.to_string(), &mut { listen }).unwrap_or_else(|error| panic!("{name}: {error}"));
    };
    run("init", &call["host"]);
    let run_all = || call["calls"].as_array().unwrap().iter().for_each(|call| run(call[0].as_str().unwrap(), &call[1]));
    let Ok(given) = std::env::var(REFUSALS) else { return run_all() };
    let given: Value = serde_json::from_str(&given).unwrap();
    let refusal = |given: &Value| Refusal {
        call: given[0].as_str().unwrap().to_owned(),
        errnos: given[1].as_array().unwrap().iter().map(|errno| errno.as_i64().unwrap() as i32).collect(),
    };
    let refusals: Vec<_> = given["refusals"].as_array().unwrap().iter().map(refusal).collect();
    let ((), met) = refusing(Path::new(given["root"].as_str().unwrap()), &refusals, run_all);
    println!("met: {}", json!(met));
}

/// A repository as JSON.
pub fn repository_json(repository: &Repository) -> Value {
    json!({"type": repository.kind, "address": repository.address, "options": repository.options})
}

/// A request as JSON.
pub fn take_json(request: &TakeBackupRequest) -> Value {
    let disks = request
        .disks
        .as_ref()
        .map(|disks| disks.iter().map(|disk| json!({"path": disk.path, "format": disk.format})).collect::<Vec<_>>());
    json!({
        "vmName": request.vm_name, "backupPath": request.backup_path, "mode": request.mode, "engine": request.engine,
        "repository": request.repository.as_ref().map(repository_json), "bitmapNew": request.bitmap_new,
        "bitmapParent": request.bitmap_parent, "parentPaths": request.parent_paths, "disks": disks,
        "quiesce": request.quiesce, "waitSeconds": request.wait_seconds,
    })
}
