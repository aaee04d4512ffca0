//! The lab's libvirtd, which is everybody's.

use super::{run, succeeds, until};

const PID_FILE: &str = "/run/libvirt/libvirtd.pid";

/// Sends it a signal; its process.
pub fn signal_libvirtd(signal: &str) -> String {
    let pid = std::fs::read_to_string(PID_FILE).unwrap().trim().to_owned();
    run("kill", [signal, &pid]);
    pid
}

/// Kills it.
pub fn kill_libvirtd() {
    let pid = signal_libvirtd("-KILL");
    until("libvirtd is gone", || !succeeds("kill", ["-0", &pid]));
}

/// Starts it again.
pub fn start_libvirtd() {
    run("libvirtd", ["--daemon", "--pid-file", PID_FILE]);
    until("libvirtd answers", || succeeds("virsh", ["list"]));
}

/// Kills it, and starts it again.
pub fn restart_libvirtd() {
    kill_libvirtd();
    start_libvirtd();
}

/// libvirtd is stopped until this is dropped, also where a test fails.
pub struct Stopped;

impl Stopped {
    pub fn libvirtd() -> Stopped {
        signal_libvirtd("-STOP");
        Stopped
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal_libvirtd("-CONT");
    }
}
