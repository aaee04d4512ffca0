//! The socket of an export. QEMU's user may write to its folder, and so may whoever has taken over a process of that user: the
//! library trusts a socket only once it knows the process at the other end.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::time::{ClockId, clock_gettime};

use crate::error::{Code, Error, Result};
use crate::limits;
use crate::{random, sys};

const PLACE: &str = "find a place for the export's socket";
const CONNECT: &str = "connect to the export";
const REMOVE: &str = "remove the export's socket";
/// The unix sockets of this network namespace, with the paths that they, or the sockets that accepted them, are bound to.
const SOCKETS: &str = "/proc/net/unix";
/// The flag of a socket that waits for clients (`__SO_ACCEPTCON`).
const LISTENS: u32 = 1 << 16;
/// The length of the longest path of a unix socket: `sockaddr_un` without its NUL.
const LONGEST: usize = 107;

/// Where a server is to make its socket. Its drop removes the socket's name.
#[derive(Debug)]
pub struct SocketPlace {
    folder: OwnedFd,
    name: String,
    path: String,
    /// A socket made before this time is not the server's. Seconds and nanoseconds of the clock of files; `None` where the file
    /// system does not tell when a file was made.
    since: Option<(i64, i64)>,
    /// The device and inode of the socket that the library connected to.
    opened: Mutex<Option<(u64, u64)>>,
}

/// The socket of an export, and the process that has to serve it.
#[derive(Debug)]
pub struct Socket {
    place: SocketPlace,
    server: u32,
}

impl SocketPlace {
    /// A place in the folder that libvirt has made for a guest's QEMU. The folder has to belong to root or to QEMU's `user`.
    pub fn of_libvirt(folder: &Path, user: Option<u32>) -> Result<SocketPlace> {
        SocketPlace::within(folder, format!("nasbackup-{}", random::hex(PLACE)?), user)
    }

    /// A place in a folder that the library made for it, under a path that nobody can guess.
    pub fn of_ours(folder: &Path, user: Option<u32>) -> Result<SocketPlace> {
        SocketPlace::within(folder, "nbd".to_owned(), user)
    }

    fn within(folder: &Path, name: String, user: Option<u32>) -> Result<SocketPlace> {
        let path = folder.join(&name).into_os_string().into_string();
        let path = path.ok().filter(|path| path.len() <= LONGEST).ok_or_else(|| {
            let cause = format!("'{}' is too long, or not UTF-8, for the path of a socket in it", folder.display());
            Error::new(Code::InvalidArgument, PLACE, cause)
        })?;
        let io = |e: Errno| Error::io(PLACE, folder, e);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(CWD, folder, flags, Mode::empty()).map_err(io)?;
        let found = rustix::fs::fstat(&opened).map_err(io)?;
        if found.st_uid != 0 && Some(found.st_uid) != user {
            let cause = format!("'{}' belongs to user {}", folder.display(), found.st_uid);
            return Err(Error::new(Code::PermissionDenied, PLACE, cause));
        }
        let tells_births = birth_time(&opened).map_err(io)?.is_some();
        if !tells_births && !kernel_tells_maker() {
            let cause = format!(
                "the file system of '{}' does not tell when a file was made, as ext4 with inodes of 256 bytes, XFS of \
                 version 5 and Btrfs do, nor does this kernel tell who has made a socket, as Linux 6.5 does",
                folder.display()
            );
            return Err(Error::new(Code::Io, PLACE, cause));
        }
        let now = clock_gettime(ClockId::RealtimeCoarse);
        let since = tells_births.then_some((now.tv_sec, now.tv_nsec));
        Ok(SocketPlace { folder: opened, name, path, since, opened: Mutex::default() })
    }

    /// The socket's path, for the server.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The socket in this place, which only the process `server` may have made.
    pub fn served_by(self, server: u32) -> Socket {
        Socket { place: self, server }
    }

    /// Opens the socket itself, so that an exchange of its name afterwards has no effect. Follows no link.
    fn open(&self) -> Result<OwnedFd> {
        let io = |e: Errno| Error::new(Code::JobFailed, CONNECT, format!("'{}': {e}", self.path));
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::openat(&self.folder, &self.name, flags, Mode::empty()).map_err(io)?;
        let stat = rustix::fs::fstat(&found).map_err(io)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
            return Err(self.exchanged("it is no socket"));
        }
        // the process that made an older socket may have ended, and its number may be the server's now
        if let Some(since) = self.since
            && birth_time(&found).map_err(io)?.is_none_or(|born| born < since)
        {
            return Err(self.exchanged("it was made before the export"));
        }
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = Some((stat.st_dev, stat.st_ino));
        Ok(found)
    }

    fn exchanged(&self, why: impl std::fmt::Display) -> Error {
        let cause = format!("'{}' is not the socket that the guest's export was given: {why}", self.path);
        Error::new(Code::JobFailed, CONNECT, cause)
    }

    /// Removes the socket's name, if it still names the socket that the library connected to.
    pub fn remove(&self) {
        let opened = *self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = || -> rustix::io::Result<bool> {
            let found = rustix::fs::statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW)?;
            let is_socket = FileType::from_raw_mode(found.st_mode) == FileType::Socket;
            Ok(is_socket && opened.is_none_or(|opened| opened == (found.st_dev, found.st_ino)))
        };
        let removed = ours().and_then(|ours| {
            let unlink = || rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty());
            if ours { unlink().map(|()| true) } else { Ok(false) }
        });
        match removed {
            Ok(true) | Err(Errno::NOENT) => {}
            Ok(false) => log::error!("{REMOVE}: leaving '{}' alone: somebody has exchanged it", self.path),
            Err(error) => log::error!("{}", Error::io(REMOVE, &self.path, error)),
        }
    }
}

impl Drop for SocketPlace {
    fn drop(&mut self) {
        self.remove();
    }
}

impl Socket {
    /// The socket's path, for the server.
    pub fn path(&self) -> &str {
        self.place.path()
    }

    /// Removes the socket's name, once all connections are made.
    pub fn remove(&self) {
        self.place.remove();
    }

    /// Fails when the server has more clients than our `own`: another process of QEMU's user has connected while the name was
    /// there, which AppArmor does not prevent, and reads the guest's data.
    pub fn check_alone(&self, own: usize) -> Result<()> {
        let sockets = fs::read(SOCKETS).map_err(|e| Error::io(CONNECT, SOCKETS, e))?;
        let found = clients(&sockets, self.path());
        if found > own {
            let cause =
                format!("'{}' has {} clients that are not ours: they read the guest's disks", self.path(), found - own);
            return Err(Error::new(Code::JobFailed, CONNECT, cause));
        }
        if found < own {
            log::warn!(
                "whether others read from '{}' is not known: its server is in another network namespace",
                self.path()
            );
        }
        Ok(())
    }

    /// Connects to the server. Calls `go_on` while the server's backlog is full; its error ends the wait.
    pub fn connect(&self, go_on: impl Fn() -> Result<()>) -> Result<OwnedFd> {
        let io = |e: std::io::Error| Error::new(Code::JobFailed, CONNECT, format!("'{}': {e}", self.path()));
        let found = self.place.open()?;
        let address =
            SocketAddrUnix::new(format!("/proc/thread-self/fd/{}", found.as_raw_fd())).map_err(|e| io(e.into()))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(|e| io(e.into()))?;
        loop {
            match rustix::net::connect(&socket, &address) {
                Err(Errno::AGAIN) => {
                    go_on()?;
                    std::thread::sleep(limits::TOOL_LOOK);
                }
                connected => break connected.map_err(|e| io(e.into()))?,
            }
        }
        let peer = sys::peer_of(&socket).map_err(io)?;
        if peer != self.server {
            let name = fs::read_to_string(format!("/proc/{peer}/comm")).unwrap_or_default();
            let why = format!("process {peer} ({:?}) serves it, and not {}", name.trim(), self.server);
            return Err(self.place.exchanged(why));
        }
        match sys::living_peer_of(&socket).map_err(|why| self.place.exchanged(why))? {
            Some(peer) if peer != self.server => Err(self.place.exchanged(format!("process {peer} serves it"))),
            None if self.place.since.is_none() => Err(self.place.exchanged("who has made it is not known")),
            _ => Ok(socket),
        }
    }
}

/// The number of clients of the server at `path`, accepted or not (proc(5), "/proc/net/unix").
fn clients(sockets: &[u8], path: &str) -> usize {
    let is_client = |line: &&[u8]| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').filter(|field| !field.is_empty()).take(7).collect();
        let flags = fields.get(3).and_then(|flags| u32::from_str_radix(str::from_utf8(flags).ok()?, 16).ok());
        line.ends_with(&[b" ", path.as_bytes()].concat()) && flags.is_some_and(|flags| flags & LISTENS == 0)
    };
    sockets.split(|byte| *byte == b'\n').filter(is_client).count()
}

/// True if the kernel tells whether the process that made a socket still lives.
fn kernel_tells_maker() -> bool {
    UnixStream::pair().is_ok_and(|(socket, _other)| sys::living_peer_of(&socket).is_ok_and(|peer| peer.is_some()))
}

/// When the file was made, which nobody can forge; `None` where the file system does not tell.
fn birth_time(file: impl AsFd) -> rustix::io::Result<Option<(i64, i64)>> {
    let found = match rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME) {
        Err(Errno::NOSYS) => return Ok(None),
        found => found?,
    };
    let told = found.stx_mask & StatxFlags::BTIME.bits() != 0;
    Ok(told.then(|| (found.stx_btime.tv_sec, i64::from(found.stx_btime.tv_nsec))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::fs::{MetadataExt, chown, symlink};
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use rustix::fs::RenameFlags;

    const LISTEN: &str = "NASBACKUP_TEST_LISTEN";
    const HAND_ON: &str = "NASBACKUP_TEST_HAND_ON";

    /// Tells each client whose the server is.
    fn serve(listener: &UnixListener, whose: u8) {
        for client in listener.incoming() {
            // it may have gone
            client.and_then(|mut client| client.write_all(&[whose])).ok();
        }
    }

    /// A foreign process that serves a socket.
    struct Foreign(Child);

    impl Foreign {
        fn serves(path: &Path) -> Foreign {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child
                .args(["--exact", "engine::socket::tests::the_foreign_process"])
                .env(LISTEN, path)
                .stdout(Stdio::null());
            let child = Foreign(child.spawn().unwrap());
            while UnixStream::connect(path).is_err() {
                std::thread::yield_now();
            }
            child
        }
    }

    impl Drop for Foreign {
        fn drop(&mut self) {
            self.0.kill().and_then(|()| self.0.wait()).ok();
        }
    }

    /// Not a test: what another process of this binary runs.
    #[test]
    #[expect(clippy::zombie_processes, reason = "it is to outlive this process")]
    fn the_foreign_process() {
        if let Some(path) = std::env::var_os(HAND_ON) {
            let listener = UnixListener::bind(path).unwrap();
            rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
            // until nobody writes to it any more
            Command::new("cat").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        } else if let Some(path) = std::env::var_os(LISTEN) {
            serve(&UnixListener::bind(path).unwrap(), b'B');
        }
    }

    /// A folder of QEMU's user with a place in it, which this process serves.
    struct Own {
        folder: tempfile::TempDir,
        socket: Socket,
    }

    impl Own {
        fn new() -> Own {
            Own::within(tempfile::tempdir().unwrap())
        }

        fn within(folder: tempfile::TempDir) -> Own {
            chown(folder.path(), Some(65534), Some(65534)).unwrap();
            let place = SocketPlace::of_libvirt(folder.path(), Some(65534)).unwrap();
            Own { folder, socket: place.served_by(std::process::id()) }
        }

        fn listen(&self) {
            let listener = UnixListener::bind(self.socket.path()).unwrap();
            std::thread::spawn(move || serve(&listener, b'A'));
        }

        fn at(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        /// Whose server has answered.
        fn connect(&self) -> Result<u8> {
            let connected = UnixStream::from(self.socket.connect(|| Ok(()))?);
            connected.set_nonblocking(false).unwrap();
            let mut whose = [0];
            (&connected).read_exact(&mut whose).unwrap();
            Ok(whose[0])
        }

        fn assert_refused(&self, why: &str) {
            let error = self.socket.connect(|| Ok(())).unwrap_err();
            assert_eq!((error.code, error.step), (Code::JobFailed, CONNECT), "{error}");
            assert!(error.cause.contains(self.socket.path()) && error.cause.contains(why), "{error}");
        }
    }

    #[test]
    fn the_server_s_own_socket_is_connected_to_and_its_name_goes() {
        let own = Own::new();
        own.assert_refused("No such file");
        own.listen();
        assert_eq!((own.connect(), own.connect()), (Ok(b'A'), Ok(b'A')));
        own.socket.remove();
        assert_eq!(fs::read_dir(own.folder.path()).unwrap().count(), 0);
        own.socket.remove();
        own.assert_refused("No such file");
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_name_can_not_be_guessed() {
        let folder = tempfile::tempdir().unwrap();
        let place = || SocketPlace::of_libvirt(folder.path(), None).unwrap();
        let (one, other) = (place(), place());
        assert_ne!(one.path(), other.path());
        assert_eq!(Path::new(one.path()).file_name().unwrap().len(), "nasbackup-".len() + 32);
    }

    #[test]
    fn a_foreign_process_s_socket_is_refused_by_rename_symlink_and_hard_link() {
        let own = Own::new();
        let path = Path::new(own.socket.path());
        let foreign = Foreign::serves(path);
        own.assert_refused(&format!("process {} ", foreign.0.id()));
        // of another guest, in whose place it is put
        let other = own.at("other");
        fs::rename(path, &other).unwrap();
        symlink(&other, path).unwrap();
        own.assert_refused("it is no socket");
        fs::remove_file(path).unwrap();
        fs::hard_link(&other, path).unwrap();
        own.assert_refused(&format!("process {} ", foreign.0.id()));
    }

    #[test]
    fn a_client_that_is_not_ours_is_noticed() {
        let own = Own::new();
        let _listener = UnixListener::bind(own.socket.path()).unwrap();
        let ours: Vec<_> = (0..2).map(|_| own.socket.connect(|| Ok(())).unwrap()).collect();
        own.socket.check_alone(ours.len()).unwrap();
        // through a second name, when the first has gone
        fs::hard_link(own.socket.path(), own.at("second")).unwrap();
        own.socket.remove();
        own.socket.check_alone(ours.len()).unwrap();
        let other = UnixStream::connect(own.at("second")).unwrap();
        let error = own.socket.check_alone(ours.len()).unwrap_err();
        assert!(error.code == Code::JobFailed && error.cause.contains("has 1 clients that are not ours"), "{error}");
        drop(other);
    }

    #[test]
    fn accepted_and_waiting_clients_of_exactly_this_path_are_counted() {
        let all = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 11 /d/a\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 12 /d/a\n\
            0000000000000000: 00000002 00000000 00000000 0001 02 0 /d/a\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 13 /d/ab\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 14 /e/d/a\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 15\n";
        assert_eq!(clients(all, "/d/a"), 2);
        assert_eq!(clients(all, "/d/c"), 0);
    }

    #[test]
    fn what_is_no_socket_is_not_opened() {
        let own = Own::new();
        let path = Path::new(own.socket.path());
        fs::write(path, "x").unwrap();
        own.assert_refused("it is no socket");
        fs::remove_file(path).unwrap();
        rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        own.assert_refused("it is no socket");
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
        own.assert_refused("it is no socket");
    }

    /// An ext4 that does not tell when a file was made; gone on drop.
    struct Timeless(tempfile::TempDir);

    impl Timeless {
        fn new() -> Timeless {
            let (at, image) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
            image.as_file().set_len(8 << 20).unwrap();
            let run = |program: &str, arguments: &[&str]| {
                assert!(Command::new(program).args(arguments).status().unwrap().success(), "{program}");
            };
            run("mkfs.ext4", &["-q", "-F", "-I", "128", image.path().to_str().unwrap()]);
            run("mount", &["-o", "loop", image.path().to_str().unwrap(), at.path().to_str().unwrap()]);
            Timeless(at)
        }
    }

    impl Drop for Timeless {
        fn drop(&mut self) {
            rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
        }
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_file_system_without_birth_times_needs_a_kernel_that_tells_a_socket_s_maker() {
        let timeless = Timeless::new();
        let within = tempfile::tempdir_in(timeless.0.path()).unwrap();
        if !kernel_tells_maker() {
            let error = SocketPlace::of_libvirt(within.path(), None).unwrap_err();
            assert!(error.cause.contains("nor does this kernel tell"), "{error}");
            return;
        }
        let own = Own::within(within);
        assert!(own.socket.place.since.is_none());
        own.listen();
        assert_eq!(own.connect(), Ok(b'A'));
        own.socket.remove();
        let foreign = Foreign::serves(Path::new(own.socket.path()));
        own.assert_refused(&format!("process {} ", foreign.0.id()));
    }

    /// Its number may be the guest's QEMU's by now.
    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_socket_of_a_process_that_has_ended_is_refused_whoever_has_its_number() {
        if !kernel_tells_maker() {
            return;
        }
        let timeless = Timeless::new();
        for folder in [tempfile::tempdir().unwrap(), tempfile::tempdir_in(timeless.0.path()).unwrap()] {
            let place = SocketPlace::of_libvirt(folder.path(), None).unwrap();
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "engine::socket::tests::the_foreign_process"])
                .env(HAND_ON, place.path())
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let _kept = child.stdin.take();
            assert!(child.wait().unwrap().success());
            let socket = place.served_by(child.id());
            let error = socket.connect(|| Ok(())).unwrap_err();
            assert!(error.code == Code::JobFailed && error.cause.ends_with("has ended"), "{error}");
        }
    }

    /// The process that listened has ended, and another has its number by now: the guest's QEMU.
    #[test]
    fn a_socket_of_an_earlier_time_is_refused_whoever_has_its_process_s_number() {
        let folder = tempfile::tempdir().unwrap();
        let early = folder.path().join("early");
        let _listener = UnixListener::bind(&early).unwrap();
        let made = fs::metadata(&early).unwrap();
        let now = || clock_gettime(ClockId::RealtimeCoarse);
        while (now().tv_sec, now().tv_nsec) <= (made.ctime(), made.ctime_nsec()) {
            std::thread::yield_now();
        }
        let own = Own::new();
        fs::rename(early, own.socket.path()).unwrap();
        own.assert_refused("it was made before the export");
    }

    /// As fast as it can, QEMU's user puts the socket of another guest in the place of its own, and back.
    #[test]
    fn names_that_are_exchanged_never_lead_to_another_guest_s_data() {
        let own = Own::new();
        own.listen();
        let _foreign = Foreign::serves(&own.at("other"));
        let (path, stop) = (own.socket.path().to_owned(), AtomicBool::new(false));
        let begun = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let exchange = || {
                    while !stop.load(Relaxed) {
                        let (one, other) = (Path::new(&path), own.at("other"));
                        rustix::fs::renameat_with(CWD, one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
                        begun.store(true, Relaxed);
                    }
                };
                crate::user::with_rights_of((65534, 65534), "exchange", exchange).unwrap().unwrap();
            });
            while !begun.load(Relaxed) {
                std::thread::yield_now();
            }
            for _ in 0..5000 {
                let whose = own.connect();
                if whose.is_ok_and(|whose| whose != b'A') {
                    stop.store(true, Relaxed);
                    panic!("the other guest's server was believed");
                }
            }
            stop.store(true, Relaxed);
        });
    }

    #[test]
    fn a_name_that_names_another_file_by_now_is_not_removed() {
        let own = Own::new();
        own.listen();
        own.connect().unwrap();
        let path = Path::new(own.socket.path()).to_owned();
        fs::rename(&path, own.at("moved")).unwrap();
        fs::write(&path, "x").unwrap();
        own.socket.remove();
        assert!(path.exists());
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        own.socket.remove();
        assert!(path.exists());
    }

    #[test]
    fn the_drop_removes_a_socket_that_was_never_connected_to() {
        let own = Own::new();
        let _listener = UnixListener::bind(own.socket.path()).unwrap();
        let Own { folder, socket } = own;
        drop(socket);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_server_with_a_full_backlog_is_waited_for_until_go_on_fails() {
        let own = Own::new();
        let _listener = UnixListener::bind(own.socket.path()).unwrap();
        let asked = std::cell::Cell::new(0);
        let go_on = || {
            asked.set(asked.get() + 1);
            if asked.get() < 3 { Ok(()) } else { Err(Error::new(Code::Cancelled, CONNECT, "enough")) }
        };
        let mut waiting = Vec::new();
        let error = loop {
            match own.socket.connect(go_on) {
                Ok(connected) => waiting.push(connected),
                Err(error) => break error,
            }
        };
        assert_eq!((error.code, asked.get()), (Code::Cancelled, 3));
    }
}
