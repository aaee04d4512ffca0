//! A guest's own writes while its backup runs, each timed: by a monitor of its own, since libvirt's waits for libvirt.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Places;

/// Where the writes go, in bytes: it holds what they write from the begin, so that a disk's content is the same at any time.
pub(crate) const BEGIN: u64 = 56 << 20;
const BLOCKS: u64 = 1024;
pub(crate) const LENGTH: u64 = BLOCKS * BLOCK;
const BLOCK: u64 = 4096;
pub(crate) const PATTERN: u8 = 0x99;
/// Between two writes of a guest.
const PAUSE: Duration = Duration::from_millis(100);

/// A guest's monitor.
pub(crate) struct Probe {
    answers: BufReader<UnixStream>,
    device: String,
    places: Places,
}

impl Probe {
    pub(crate) fn connect(socket: &Path, device: String) -> Probe {
        let stream = UnixStream::connect(socket).unwrap();
        let mut probe = Probe { answers: BufReader::new(stream), device, places: Places::new() };
        let mut greeting = String::new();
        probe.answers.read_line(&mut greeting).unwrap();
        probe.ask(&json!({"execute": "qmp_capabilities"}));
        probe
    }

    /// Milliseconds of each write, until it is `over`.
    pub(crate) fn run(&mut self, over: impl Fn() -> bool) -> Vec<f64> {
        let mut times = Vec::new();
        while !over() {
            times.push(self.write());
            std::thread::sleep(PAUSE);
        }
        times
    }

    /// One write to a place that looks random.
    fn write(&mut self) -> f64 {
        let at = BEGIN + self.places.draw(BLOCKS) * BLOCK;
        let line = format!("qemu-io -d {} \"write -q -P {PATTERN} {at} {BLOCK}\"", self.device);
        let start = Instant::now();
        let answer = self.ask(&json!({"execute": "human-monitor-command", "arguments": {"command-line": line}}));
        assert_eq!(answer["return"], "", "{line}");
        start.elapsed().as_secs_f64() * 1000.0
    }

    fn ask(&mut self, command: &Value) -> Value {
        writeln!(self.answers.get_mut(), "{command}").unwrap();
        loop {
            let mut line = String::new();
            assert!(self.answers.read_line(&mut line).unwrap() > 0, "QEMU is gone");
            let answer: Value = serde_json::from_str(&line).unwrap();
            // events come in between
            if answer.get("event").is_none() {
                return answer;
            }
        }
    }
}
