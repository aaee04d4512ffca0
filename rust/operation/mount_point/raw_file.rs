//! A chain as one raw file that nobody can write, which QEMU's storage daemon serves through FUSE. What the daemon reads a hostile
//! guest may have written: it runs as the owner of the images, which has no privileges, in a root folder with these and the
//! system's programs, without a network, can write nothing, and follows none of the names in the images' headers.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};

use rustix::process::Resource;
use serde_json::json;

use super::place::{FuseDevice, MountedFile, Place, STEP, take_away};
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::point::Link;
use crate::process::{Process, Tool};
use crate::sys::{self, Confinement, Root, with_own_processes};
use crate::work::deadline::bounded_and_freed;

const PROGRAM: &str = "qemu-storage-daemon";
const DAEMON: Tool = Tool { program: PROGRAM, step: STEP, late: "qemu-storage-daemon does not answer" };
/// Bytes that it may map.
const MEMORY: u64 = 4 << 30;
/// Bytes that it has of the tables of one image in memory: those of 32 GiB.
const TABLES: u64 = 4 << 20;
/// Bytes that it may write: its complaints.
const WRITTEN: u64 = 1 << 20;
/// Files that it opens beside the images.
const FILES: u64 = 64;
/// What it finds in the mount point's place: libfuse takes that for the descriptor of a device that is mounted already, here its
/// standard input, and QEMU wants a regular file of that name.
const MOUNT_POINT: &str = "dev/fd/0";

/// A disk that is mounted. Its drop unmounts it and ends the daemon.
pub(in crate::operation) struct RawFile {
    /// Unmounted first: then nobody waits for the daemon.
    pub(super) file: MountedFile,
    /// Bytes that the guest sees.
    pub(in crate::operation) size: u64,
    daemon: Daemon,
}

impl RawFile {
    /// Mounts the images of a disk, the newest first, as that of this volume.
    pub(in crate::operation) fn mount(place: &Place, volume: &str, chain: &[Link]) -> Result<RawFile> {
        let (file, fuse) = place.mount(volume)?;
        let daemon = Daemon::start(command(chain, fuse)?)?;
        let path = file.path.clone();
        // answered by the daemon, or by the kernel once that has ended
        let look = move || {
            let found = file.path.metadata().map_err(|e| Error::io(STEP, &file.path, e))?;
            file.hand_over().map(|()| (file, found.len()))
        };
        match bounded_and_freed(STEP, limits::STORAGE_STEP, look, || take_away(&path)) {
            Ok((file, size)) => Ok(RawFile { file, size, daemon }),
            Err(error) => Err(daemon.end().err().unwrap_or(error)),
        }
    }

    /// Its path on the host.
    pub(in crate::operation) fn path(&self) -> PathBuf {
        self.file.path.clone()
    }

    /// The daemon's failure, if it has ended.
    pub(in crate::operation) fn check(&self) -> Result<()> {
        if self.daemon.has_ended() {
            let cause = format!("{PROGRAM} does not serve '{}' any more", self.file.path.display());
            return Err(Error::new(Code::JobFailed, STEP, cause));
        }
        Ok(())
    }
}

/// The daemon, confined, with what it is told of the images and of no others.
fn command(chain: &[Link], fuse: FuseDevice) -> Result<Command> {
    let mut command = DAEMON.command().map_err(|e| Error::io(STEP, PROGRAM, e))?;
    let names: Vec<_> = (0..chain.len()).map(|i| format!("image{i}")).collect();
    // what stands on nothing first: each names the one before
    for (i, name) in names.iter().enumerate().rev() {
        let node = json!({
            "node-name": name, "driver": "qcow2", "read-only": true, "backing": names.get(i + 1), "l2-cache-size": TABLES,
            // nobody changes the images while the instance is locked; a NAS may know no such locks
            "file": {"driver": "file", "read-only": true, "filename": format!("/{name}"), "locking": "off"},
        });
        command.arg("--blockdev").arg(node.to_string());
    }
    let export = json!({
        "type": "fuse", "id": "raw", "node-name": names.first(), "mountpoint": format!("/{MOUNT_POINT}"), "writable": false,
    });
    command.arg("--export").arg(export.to_string()).stdin(fuse.device);
    let confinement = confine(&command, chain, &names, &fuse.below).map_err(|e| Error::io(STEP, PROGRAM, e))?;
    confinement.put_on(&mut command);
    // the change of the user resets this, so it is set afterwards
    sys::end_with_thread(&mut command);
    Ok(command)
}

fn confine(command: &Command, chain: &[Link], names: &[String], below: &File) -> std::io::Result<Confinement> {
    let files = chain.iter().map(|link| &link.file).zip(names.iter().map(String::as_str));
    let files: Vec<_> = files.chain([(below, MOUNT_POINT)]).collect();
    let found = files[0].0.metadata()?;
    let limits = vec![
        (Resource::As, MEMORY),
        (Resource::Fsize, WRITTEN),
        (Resource::Nofile, FILES + names.len() as u64),
        (Resource::Core, 0),
    ];
    let root = Some(Root::new(&files, command)?.read_only());
    Ok(Confinement { owner: (found.uid(), found.gid()), limits, root })
}

/// A daemon, and the thread that has started it and watches it.
struct Daemon {
    /// Dropped, it has the thread kill the daemon.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Daemon {
    fn start(mut command: Command) -> Result<Daemon> {
        let (stop, stopped) = mpsc::channel();
        let watch = move || {
            with_own_processes(move || {
                let process = DAEMON.start(&mut command)?;
                // it has the only duplicate of the device from now on
                drop(command);
                watch(process, &stopped)
            })
        };
        let run = move || watch().map_err(|e| Error::io(STEP, PROGRAM, e))?;
        let thread = thread::Builder::new().name("storage daemon".to_owned()).spawn(run);
        let thread = thread.map_err(|e| Error::io(STEP, "a thread", e))?;
        Ok(Daemon { stop: Some(stop), thread: Some(thread) })
    }

    fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends it; its failure if it had ended before.
    fn end(mut self) -> Result<()> {
        self.stop_and_join()
    }

    fn stop_and_join(&mut self) -> Result<()> {
        self.stop.take();
        let panicked = |_| Err(Error::new(Code::Internal, STEP, "the thread panicked"));
        self.thread.take().map_or(Ok(()), |thread| thread.join().unwrap_or_else(panicked))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.stop_and_join() {
            log::warn!("{error}");
        }
    }
}

/// Waits until the daemon ends, or nobody wants it any more: then the drop of the process kills it.
fn watch(mut process: Process, stopped: &Receiver<()>) -> Result<()> {
    loop {
        if let Some(ended) = process.ended()? {
            return Err(ended.failed());
        }
        if stopped.recv_timeout(limits::CALLER_LOOK) != Err(RecvTimeoutError::Timeout) {
            return Ok(());
        }
    }
}
