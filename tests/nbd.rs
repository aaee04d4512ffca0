//! The NBD client against real servers, `qemu-nbd` and a guest's QEMU.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod support;

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use nasbackup::error::{Code, Error, Result};
use nasbackup::nbd::{ALLOCATION, Connection, DIRTY, Extent, ZERO};
use serde_json::json;
use support::{Guest, MIB, PATIENCE, folder, is_served, run, until};

const TICK: Duration = Duration::from_millis(20);
const BITMAP: &str = "qemu:dirty-bitmap:changes";

/// A server of an image of 8 MiB with 1 MiB of data at 2 MiB, of which the second half changed, and zeroes at 5 MiB.
struct Server {
    process: Child,
    socket: PathBuf,
}

impl Server {
    fn start() -> Server {
        let folder = folder("nbd");
        let image = folder.join("image");
        let path = image.to_str().unwrap();
        run("qemu-img", ["create", "-q", "-f", "qcow2", path, "8M"]);
        run("qemu-io", ["-f", "qcow2", "-c", "write -P 0x41 2M 512k", path]);
        run("qemu-img", ["bitmap", "--add", "-f", "qcow2", path, "changes"]);
        run("qemu-io", ["-f", "qcow2", "-c", "write -P 0x42 2560k 512k", "-c", "write -z 5M 1M", path]);
        let socket = folder.join("socket");
        let process = Command::new("qemu-nbd")
            .args(["--read-only", "--persistent", "--format=qcow2", "--bitmap=changes", "--export-name=disk"])
            .arg(format!("--socket={}", socket.to_str().unwrap()))
            .arg(image)
            .spawn()
            .unwrap();
        until("qemu-nbd listens", || is_served(&socket));
        Server { process, socket }
    }

    fn connect(&self) -> Result<Connection> {
        Connection::open(self.stream(), "disk", &[ALLOCATION, BITMAP], TICK, || Ok(()))
    }

    fn stream(&self) -> OwnedFd {
        UnixStream::connect(&self.socket).unwrap().into()
    }

    fn signal(&self, signal: &str) {
        run("kill", [signal, &self.process.id().to_string()]);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().and_then(|()| self.process.wait()).ok();
    }
}

fn read(connection: &mut Connection, offset: u64, length: usize) -> Result<Box<[u8]>> {
    let ticket = connection.read(offset, length, vec![0; length].into())?;
    loop {
        match connection.take(ticket)? {
            Some(bytes) => return Ok(bytes),
            None => connection.poll(TICK)?,
        }
    }
}

/// Where, among `extents`, those with `flag` lie.
fn with(extents: &[Extent], flag: u32) -> Vec<(u64, u64)> {
    let mut found: Vec<(u64, u64)> = Vec::new();
    let mut at = 0;
    for extent in extents {
        if extent.flags & flag != 0 {
            match found.last_mut() {
                Some((from, length)) if *from + *length == at => *length += extent.length,
                _ => found.push((at, extent.length)),
            }
        }
        at += extent.length;
    }
    found
}

#[test]
fn what_the_server_holds_is_read_and_told() {
    let server = Server::start();
    let mut connection = server.connect().unwrap();
    assert_eq!(connection.size(), 8 * MIB);
    let status = connection.status(0, 8 * MIB, TICK, || Ok(())).unwrap();
    assert_eq!(with(&status[ALLOCATION], ZERO), [(0, 2 * MIB), (3 * MIB, 5 * MIB)]);
    assert_eq!(with(&status[BITMAP], DIRTY), [(5 * MIB / 2, MIB / 2), (5 * MIB, MIB)]);
    // several at once, taken in another order
    let tickets: Vec<_> =
        (0..8).map(|i| connection.read(i * MIB, MIB as usize, vec![0xee; MIB as usize].into()).unwrap()).collect();
    for (i, ticket) in tickets.into_iter().enumerate().rev() {
        let bytes = loop {
            match connection.take(ticket).unwrap() {
                Some(bytes) => break bytes,
                None => connection.poll(TICK).unwrap(),
            }
        };
        let (first, last) = if i == 2 { (0x41, 0x42) } else { (0, 0) };
        assert_eq!((bytes[0], bytes[bytes.len() - 1]), (first, last), "at {i} MiB");
    }
}

#[test]
fn what_is_not_there_is_an_error() {
    let server = Server::start();
    let open = |export: &str, contexts: &[&str]| {
        Connection::open(server.stream(), export, contexts, TICK, || Ok(())).unwrap_err()
    };
    for error in [open("other", &[ALLOCATION]), open("disk", &[ALLOCATION, "qemu:dirty-bitmap:none"])] {
        assert_eq!(error.code, Code::JobFailed, "{error}");
    }
    let error = read(&mut server.connect().unwrap(), 8 * MIB - 512, 1024).unwrap_err();
    assert_eq!(error.code, Code::JobFailed, "{error}");
}

#[test]
fn a_server_that_dies_ends_the_requests_in_flight() {
    let mut server = Server::start();
    let mut connection = server.connect().unwrap();
    server.signal("-STOP");
    let ticket = connection.read(2 * MIB, MIB as usize, vec![0; MIB as usize].into()).unwrap();
    server.process.kill().unwrap();
    let start = Instant::now();
    let error = loop {
        match connection.take(ticket).and_then(|taken| {
            assert!(taken.is_none(), "nobody can have answered");
            connection.poll(TICK)
        }) {
            Ok(()) => assert!(start.elapsed() < PATIENCE),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code, Code::JobFailed, "{error}");
}

#[test]
fn a_server_that_hangs_is_not_waited_for() {
    let server = Server::start();
    let mut connection = server.connect().unwrap();
    server.signal("-STOP");
    let own = Error::new(Code::Cancelled, "wait", "enough");
    let start = Instant::now();
    let late = || if start.elapsed() < 5 * TICK { Ok(()) } else { Err(own.clone()) };
    assert_eq!(connection.status(0, 8 * MIB, TICK, late).unwrap_err(), own);
    let open = Connection::open(server.stream(), "disk", &[ALLOCATION], TICK, late);
    assert_eq!(open.unwrap_err(), own);
    // with a request and a question open
    connection.read(0, MIB as usize, vec![0; MIB as usize].into()).unwrap();
    drop(connection);
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
}

/// QEMU 7.2 of Debian 12 waits for a client in the middle of its handshake when its server stops, and the guest waits with it.
#[test]
fn a_handshake_that_is_given_up_does_not_keep_a_guest_s_server_from_stopping() {
    let guest = Guest::ordinary();
    let folder = folder("nbd");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    let socket = folder.join("socket");
    let address = json!({"type": "unix", "data": {"path": socket}});
    guest.qmp(json!({"execute": "nbd-server-start", "arguments": {"addr": address}}));
    let stopped = Error::new(Code::Cancelled, "copy", "it was stopped");
    // as the reader of a backup that is cancelled, which keeps its connections until the job has ended
    let mut connection = Connection::new().unwrap();
    let stream = UnixStream::connect(&socket).unwrap().into();
    let error = connection.connect(stream, "disk", &[ALLOCATION], TICK, || Err(stopped.clone())).unwrap_err();
    assert_eq!(error, stopped);
    // QEMU's main loop has been round since, as it has when libvirt ends an aborted job
    guest.qmp(json!({"execute": "query-status"}));
    guest.qmp(json!({"execute": "query-status"}));
    std::thread::scope(|scope| {
        let (ended, ends) = mpsc::channel();
        let guest = &guest;
        scope.spawn(move || ended.send(guest.qmp(json!({"execute": "nbd-server-stop"}))));
        if ends.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            guest.kill_qemu();
        }
    });
    assert_eq!(guest.state(), "running");
    drop(connection);
}
