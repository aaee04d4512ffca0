//! A host's agent: a process of its own with the library, which answers what it is asked on its standard input. It may be killed.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use nasbackup::operation;
use serde_json::{Value, json};

/// In the agent's process: its host's folder.
pub(crate) const HOST: &str = "NASBACKUP_NIGHT_HOST";

/// The agent is gone, and with it the answer.
#[derive(Debug)]
pub(crate) struct Gone;

/// Who waits for the answer of which question.
type Waiting = Arc<Mutex<Option<HashMap<u64, Sender<Value>>>>>;

/// An agent that runs.
pub(crate) struct Agent {
    child: Mutex<Child>,
    questions: Mutex<(ChildStdin, u64)>,
    waiting: Waiting,
}

impl Agent {
    pub(crate) fn start(host: &Path) -> Agent {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let mut child = command.env(HOST, host).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let questions = Mutex::new((child.stdin.take().unwrap(), 0));
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let (answers, whose) = (BufReader::new(child.stdout.take().unwrap()), Arc::clone(&waiting));
        std::thread::spawn(move || {
            for line in answers.lines() {
                let answer: Value = serde_json::from_str(&line.unwrap()).unwrap();
                let asked = whose.lock().unwrap().as_mut().unwrap().remove(&answer["id"].as_u64().unwrap());
                // nobody waits any more once the benchmark fails
                let _told = asked.unwrap().send(answer);
            }
            *whose.lock().unwrap() = None;
        });
        Agent { child: Mutex::new(child), questions, waiting }
    }

    /// Runs an operation there. The answer has `result` or `error`, and what the process has taken so far.
    pub(crate) fn call(&self, operation: &str, request: &Value) -> Result<Value, Gone> {
        let (sender, answer) = channel();
        {
            let mut questions = self.questions.lock().unwrap();
            questions.1 += 1;
            let id = questions.1;
            self.waiting.lock().unwrap().as_mut().ok_or(Gone)?.insert(id, sender);
            let question = json!({"id": id, "operation": operation, "request": request});
            writeln!(questions.0, "{question}").map_err(|_| Gone)?;
        }
        answer.recv().map_err(|_| Gone)
    }

    /// Kills it, whatever it is about.
    pub(crate) fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The other side: answers until nobody asks any more.
pub(crate) fn run(host: PathBuf) {
    let folder = |name: &str| host.join(name);
    // the benchmark itself gives out the places
    let config =
        json!({"stateDir": folder("state"), "mountDir": folder("mounts"), "logLevel": "warn", "parallelBackups": 64});
    ask("init", &config).unwrap();
    for line in std::io::stdin().lines() {
        let question: Value = serde_json::from_str(&line.unwrap()).unwrap();
        std::thread::spawn(move || {
            let answer = match ask(question["operation"].as_str().unwrap(), &question["request"]) {
                Ok(result) => json!({"result": result}),
                Err(error) => json!({"error": error.to_string()}),
            };
            println!("{}", with(answer, json!({"id": question["id"], "taken": taken()})));
        });
    }
}

fn ask(operation: &str, request: &Value) -> nasbackup::error::Result<Value> {
    operation::call(operation, &request.to_string(), &mut |_| Ok(()))
}

/// The fields of both objects.
pub(crate) fn with(mut object: Value, more: Value) -> Value {
    let (Value::Object(fields), Value::Object(more)) = (&mut object, more) else { panic!("no objects") };
    fields.extend(more);
    object
}

/// What this process has taken: KiB of memory now, threads now, seconds of a processor in all.
fn taken() -> Value {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let number = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    json!({"pid": std::process::id(), "kib": number("VmRSS:"), "threads": number("Threads:"),
        "cpu": time.tv_sec as f64 + time.tv_nsec as f64 / 1e9})
}
