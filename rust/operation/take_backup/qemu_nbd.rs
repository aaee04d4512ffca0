//! An image that QEMU alone knows how to open, exported by `qemu-nbd` on a socket of ours. It is opened for reading, its
//! contents are not changed. What talks to Ceph is a user that nobody else is, and has no privileges.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::Resource;

use super::Call;
use super::process::Process;
use super::rbd::Rbd;
use crate::engine::scratch::Scratch;
use crate::engine::socket::Socket;
use crate::error::{Code, Error, Result};
use crate::helpers;
use crate::job::Reporter;
use crate::nbd::{ALLOCATION, Connection};
use crate::sys::{self, Confinement};

const PROGRAM: &str = "qemu-nbd";
const STEP: &str = "open the image in Ceph";
/// How long that may take. CloudStack gives Ceph 30 s.
const OPEN: Duration = Duration::from_secs(60);
/// How long its end may take, which is milliseconds if Ceph answers.
const END: Duration = Duration::from_secs(3);
/// What it may hold in memory, in bytes, the stacks of its many threads among it.
const MEMORY: u64 = 4 << 30;
/// What it may write of a file, in bytes: it writes its process id, and Ceph perhaps a log.
const WRITTEN: u64 = 64 << 20;
/// The first of the user ids of the exports. No distribution, no container and nothing of systemd's has one from here on
/// (systemd's "Users, Groups, UIDs and GIDs").
const USERS: u32 = 0x7000_0000;
/// As many exports of one process have different ones.
const EXPORTS: u32 = 32;
/// Between two looks at whether it is done.
const TICK: Duration = Duration::from_millis(10);

/// An export, under the image's name. It ends when its first client goes or when it is dropped, and in order: Ceph lets the
/// next one who writes wait for a client that was killed. So it is killed only if it does not end, or with the thread that
/// started it.
pub(super) struct Server {
    process: Process,
    /// It is the process's.
    socket: Arc<Socket>,
    _folder: Scratch,
    /// Of the export.
    name: String,
}

impl Server {
    /// Exports `image`, a disk of the stopped guest.
    pub(super) fn start(image: &Rbd, call: &Call<'_>, job: &mut Reporter<'_>) -> Result<Server> {
        let owner = own_user();
        let folder = Scratch::make(call.config, &call.checked.vm, Some(owner))?;
        let place = folder.own_place()?;
        let ready = Path::new(place.path()).with_file_name("pid");
        let key = image.key_file().map_err(|e| Error::io(STEP, "the key", e))?;
        let mut command = helpers::command(PROGRAM).map_err(|e| Error::io(STEP, PROGRAM, e))?;
        command.args(["--read-only", "--format=raw"]).arg(format!("--export-name={}", image.name));
        command.arg(format!("--socket={}", place.path())).arg(format!("--pid-file={}", ready.display()));
        command.arg("--").arg(&image.location).stdin(key);
        let limits = vec![(Resource::Data, MEMORY), (Resource::Fsize, WRITTEN), (Resource::Core, 0)];
        Confinement { owner, limits, root: None }.put_on(&mut command);
        // after the change of the user, which forgets that
        sys::end_with_thread(&mut command);
        let process = Process::start(PROGRAM, STEP, &mut command)?;
        let socket = Arc::new(place.served_by(process.id()));
        let mut server = Server { process, socket, _folder: folder, name: image.name.clone() };
        let until = Instant::now() + OPEN.min(call.left());
        // It is written when the image is open and clients are welcome.
        while !ready.exists() {
            if let Some(status) = server.process.ended()? {
                return Err(server.process.failed(status)?);
            }
            if Instant::now() > until {
                return Err(Error::new(Code::Timeout, STEP, "Ceph does not answer"));
            }
            job.tell()?;
            std::thread::sleep(TICK);
        }
        Ok(server)
    }

    /// The image's size in bytes, for its only client.
    pub(super) fn size(self) -> Result<u64> {
        let until = Instant::now() + OPEN;
        let late = || Error::new(Code::Timeout, STEP, "qemu-nbd does not answer");
        let go_on = || if Instant::now() < until { Ok(()) } else { Err(late()) };
        let socket = self.socket.connect(go_on)?;
        Ok(Connection::open(socket, &self.name, &[ALLOCATION], TICK, go_on)?.size())
    }

    pub(super) fn socket(&self) -> Arc<Socket> {
        self.socket.clone()
    }
}

/// A user and a group that no other process of this host has.
fn own_user() -> (u32, u32) {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    // Linux has 2^22 process ids at most
    let process = std::process::id() % (1 << 22);
    let user = USERS + process * EXPORTS + STARTED.fetch_add(1, Relaxed) % EXPORTS;
    (user, user)
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.end(END);
    }
}
