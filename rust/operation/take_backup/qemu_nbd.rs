//! An image that QEMU alone knows how to open, exported by `qemu-nbd` on a socket of ours. It is opened for reading, its
//! contents are not changed.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Call;
use super::process::Process;
use super::rbd::Rbd;
use crate::engine::scratch::Scratch;
use crate::engine::socket::Socket;
use crate::error::{Code, Error, Result};
use crate::job::Reporter;
use crate::nbd::{ALLOCATION, Connection};
use crate::sys;

const PROGRAM: &str = "qemu-nbd";
const STEP: &str = "open the image in Ceph";
/// How long that may take. CloudStack gives Ceph 30 s.
const OPEN: Duration = Duration::from_secs(60);
/// How long its end may take, which is milliseconds if Ceph answers.
const END: Duration = Duration::from_secs(3);
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
        let folder = Scratch::make(call.config, &call.checked.vm, None)?;
        let (place, ready) = (folder.own_place()?, folder.path("pid"));
        let key = image.key_file().map_err(|e| Error::io(STEP, "the key", e))?;
        let mut command = Command::new(PROGRAM);
        command.args(["--read-only", "--format=raw"]).arg(format!("--export-name={}", image.name));
        command.arg(format!("--socket={}", place.path())).arg(format!("--pid-file={ready}"));
        command.arg("--").arg(&image.location).stdin(key);
        sys::end_with_thread(&mut command);
        let process = Process::start(PROGRAM, STEP, &mut command)?;
        let socket = Arc::new(place.served_by(process.id()));
        let mut server = Server { process, socket, _folder: folder, name: image.name.clone() };
        let until = Instant::now() + OPEN.min(call.left());
        // It is written when the image is open and clients are welcome.
        while !Path::new(&ready).exists() {
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

impl Drop for Server {
    fn drop(&mut self) {
        self.process.end(END);
    }
}
