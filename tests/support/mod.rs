//! What the integration tests share: guests, repositories, stories of backups, and the checks that go with them.
//! Everything here is real; a step that fails panics with the command and its output.

#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test binary uses its part of it")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod agent;
mod bootable;
mod ceph;
mod configured;
mod daemon;
mod guest;
mod image;
mod leaks;
mod libvirt;
mod nas;
mod real_guest;
mod refusals;
mod story;
mod writer;

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use nasbackup::config::Engine;
use rustix::process::{Pid, Signal, kill_process_group};

pub use agent::{Agent, Ended, host, own_host, repository_json, run_as_agent, take_json};
pub use bootable::{READY, Then, bootable_guest};
pub use ceph::{Ceph, ceph};
pub use configured::configured;
pub use daemon::{Stopped, kill_libvirtd, restart_libvirtd, signal_libvirtd, start_libvirtd};
pub use guest::{Bus, Disk, Guest, begin_foreign_backup, certificate, hmp, secret};
pub use image::{Image, MIB, assert_holds, assert_same, forget_format};
pub use leaks::{Leaks, mounted_at};
pub use nas::{Fs, Nas, unmounted_image};
pub use real_guest::{RealGuest, Restored};
pub use refusals::{CLOSES_WAIT, GO_ON, HANG, Refusal, hangs, refusing};
pub use story::{
    AFTER_DEADLINE, Point, Story, backup_path, by, details, fails_after, fails_as_begin_hangs, hurried, slow_story_of,
    slow_story_on, take, take_and, take_and_when, take_too_late,
};
pub use writer::Writer;

/// The lab's folder, or a clear failure outside of one.
fn lab() -> PathBuf {
    std::env::var_os("NASBACKUP_LAB").expect("these tests run inside a lab: tests/lab/run").into()
}

static MADE: AtomicU32 = AtomicU32::new(0);

/// A number that no other test of this lab gets.
fn unique() -> String {
    format!("{}-{}", std::process::id(), MADE.fetch_add(1, Relaxed))
}

/// A fresh folder that QEMU's user can pass through.
pub fn folder(what: &str) -> PathBuf {
    let path = lab().join(format!("{what}-{}", unique()));
    std::fs::create_dir(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o711)).unwrap();
    path
}

/// Puts a configuration into force whose folders lie inside the lab. The first thing a test does.
pub fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let config = nasbackup::config::Config {
            state_dir: folder("state"),
            mount_dir: folder("mounts"),
            log_level: "warn".to_owned(),
            engine: engine(),
            // a mount takes a second where everything is emulated
            mount_keep_seconds: if ["real_nas", "nas_requests"].contains(&env!("CARGO_CRATE_NAME")) { 60 } else { 0 },
            // as many as there are tests at once
            parallel_backups: Some(64),
            ..Default::default()
        };
        nasbackup::operation::init(config, nasbackup::logging::stderr()).unwrap();
        // The library makes a log line of a panic: what a test says belongs to its own output as well.
        let log = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            log(info);
            eprintln!("{info}");
        }));
    });
}

/// The engine that the binary's tests are about.
pub fn engine() -> Engine {
    if env!("CARGO_CRATE_NAME").starts_with("pull") { Engine::Pull } else { Engine::Push }
}

/// Runs a program and returns what it printed; panics when it fails, and when it hangs.
pub fn run<I: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = I>) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    let output = output(&mut command);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Does the program end with status 0?
pub fn succeeds<I: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = I>) -> bool {
    output(Command::new(program).args(arguments)).status.success()
}

/// Runs it to its end. One that hangs is killed with what it has started: by a thread, for a process to do so takes each of thousands
/// of runs a millisecond of a core.
fn output(command: &mut Command) -> Output {
    let piped = command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = piped.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let group = Pid::from_child(&child);
    let (ended, ends) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let watch = scope.spawn(move || {
            if ends.recv_timeout(2 * PATIENCE) == Err(RecvTimeoutError::Timeout) {
                kill_process_group(group, Signal::KILL).ok();
            }
        });
        let output = child.wait_with_output().unwrap();
        drop(ended);
        watch.join().unwrap();
        output
    })
}

/// What is waited for on a machine however busy, before it is taken for never.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Waits until `condition` holds; panics after [`PATIENCE`], naming what was waited for.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Does somebody listen at this Unix socket? There is a moment when it is there and nobody does.
pub fn is_served(socket: &Path) -> bool {
    const LISTENS: &str = " 00010000 "; // __SO_ACCEPTCON, of `Flags` in proc(5)
    let path = socket.to_str().unwrap();
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    sockets.lines().any(|line| line.ends_with(path) && line.contains(LISTENS))
}

/// Every path below `root`, relative, with a file's length: equal before and after means untouched. What goes while it is
/// listed is not there.
pub fn listing(root: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in there(std::fs::read_dir(&folder)).into_iter().flatten() {
            let Some(entry) = there(entry) else { continue };
            let Some(metadata) = there(entry.metadata()) else { continue };
            let length = if metadata.is_dir() { 0 } else { metadata.len() };
            found.push((entry.path().strip_prefix(root).unwrap().to_owned(), length));
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// What was found, or nothing if it is gone by now.
fn there<T>(found: std::io::Result<T>) -> Option<T> {
    match found {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        found => Some(found.unwrap()),
    }
}

/// Text inside an XML element or attribute.
fn xml(text: impl AsRef<Path>) -> String {
    quick_xml::escape::escape(text.as_ref().to_str().unwrap()).into_owned()
}
