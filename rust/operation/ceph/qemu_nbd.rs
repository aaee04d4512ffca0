//! Exports an image that only QEMU knows how to open, by `qemu-nbd` on a socket of the library's. That program runs as a user of its
//! own, without privileges.

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
/// Connections of an export that is written to.
const CONNECTIONS: u32 = 32;

/// How the image is accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::operation) enum Access {
    /// One client reads.
    Read,
    /// Several connections write. Clusters that are made zero take no space.
    Write,
}

/// An export, under the image's name. It ends in an orderly way when its last client goes or when this is dropped, because Ceph makes
/// the next writer wait for a client that was killed. So the program is killed only if it does not end, or with the thread that has
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
    /// Exports `image`, a disk of the guest `vm`, which does not run. The export is killed when this thread ends.
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
        // the change of the user resets this, so it is set afterwards
        sys::end_with_thread(&mut command);
        let process = QEMU_NBD.start(&mut command)?.ends_within(limits::QEMU_NBD_END);
        let socket = Arc::new(place.served_by(process.id()));
        let mut server = Server { process, socket, _folder: folder, name: image.name.clone() };
        let failed = |process: &mut Process| process.ended()?.map_or(Ok(None), |ended| Err(ended.failed()));
        // the program writes this file when it has the image open and listens
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
