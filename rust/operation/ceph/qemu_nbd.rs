//! An image that QEMU alone knows how to open, exported by `qemu-nbd` on a socket of ours. What talks to Ceph is a user that
//! nobody else is, and has no privileges.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Rbd, confinement};
use crate::config::Config;
use crate::engine::scratch::Scratch;
use crate::engine::socket::Socket;
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::nbd::{ALLOCATION, Connection};
use crate::process::{Process, Tool};
use crate::sys;
use crate::work::job::Reporter;

const PROGRAM: &str = "qemu-nbd";
const STEP: &str = "open the image in Ceph";
const QEMU_NBD: Tool = Tool { program: PROGRAM, step: STEP, late: "Ceph does not answer" };
/// What writes may have so many connections.
const CONNECTIONS: u32 = 32;

/// What is done with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::operation) enum Access {
    /// By one client; its content is not changed.
    Read,
    /// By many. What is made zero takes no room.
    Write,
}

/// An export, under the image's name. It ends when its last client goes or when it is dropped, and in order: Ceph lets the
/// next one who writes wait for a client that was killed. So it is killed only if it does not end, or with the thread that
/// started it.
#[derive(Debug)]
pub(in crate::operation) struct Server {
    process: Process,
    /// It is the process's.
    socket: Arc<Socket>,
    _folder: Scratch,
    /// Of the export.
    name: String,
}

impl Server {
    /// Exports `image`, a disk of the guest `vm`, which does not run. It is killed with this thread.
    pub(in crate::operation) fn start(
        image: &Rbd,
        access: Access,
        (config, vm): (&Config, &str),
        limit: Duration,
        job: &mut Reporter<'_>,
    ) -> Result<Server> {
        let confinement = confinement();
        let folder = Scratch::make(config, vm, Some(confinement.owner))?;
        let place = folder.make_own_place()?;
        let ready = Path::new(place.path()).with_file_name("pid");
        let key = image.key_file().map_err(|e| Error::io(STEP, "the key", e))?;
        let mut command = QEMU_NBD.command().map_err(|e| Error::io(STEP, PROGRAM, e))?;
        match access {
            Access::Read => command.arg("--read-only"),
            Access::Write => command.arg("--discard=unmap").arg(format!("--shared={CONNECTIONS}")),
        };
        command.arg("--format=raw").arg(format!("--export-name={}", image.name));
        command.arg(format!("--socket={}", place.path())).arg(format!("--pid-file={}", ready.display()));
        command.arg("--").arg(&image.location).stdin(key);
        confinement.put_on(&mut command);
        // after the change of the user, which forgets that
        sys::end_with_thread(&mut command);
        let process = QEMU_NBD.start(&mut command)?;
        let socket = Arc::new(place.served_by(process.id()));
        let mut server = Server { process, socket, _folder: folder, name: image.name.clone() };
        let failed = |process: &mut Process| process.ended()?.map_or(Ok(None), |ended| Err(ended.failed()));
        // It is written when the image is open and clients are welcome.
        let look = |process: &mut Process| if ready.exists() { Ok(Some(())) } else { failed(process) };
        server.process.wait(limits::CEPH.min(limit), || job.tell(), look)?;
        Ok(server)
    }

    /// The image's size in bytes, for its only client.
    pub(in crate::operation) fn size(self) -> Result<u64> {
        let until = Instant::now() + limits::CEPH;
        let late = || Error::new(Code::Timeout, STEP, "qemu-nbd does not answer");
        let go_on = || if Instant::now() < until { Ok(()) } else { Err(late()) };
        let socket = self.socket.connect(go_on)?;
        Ok(Connection::open(socket, &self.name, &[ALLOCATION], limits::TOOL_LOOK, go_on)?.size())
    }

    /// The export's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(in crate::operation) fn socket(&self) -> Arc<Socket> {
        self.socket.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.end(limits::QEMU_NBD_END);
    }
}
