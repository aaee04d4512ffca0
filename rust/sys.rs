//! The few system calls that no safe library wraps.
#![allow(unsafe_code)]

mod confinement;
mod loop_device;

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::LazyLock;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, mount_change};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{UnshareFlags, unshare_unsafe};

pub use confinement::{Confinement, Root, with_own_processes};
pub use loop_device::LoopDevice;

/// Takes a shared lock on one byte of an open file description (fcntl F_OFD_SETLK), without waiting. It goes when the
/// last duplicate of `file` is closed.
pub fn share_byte(file: &File, byte: i64) -> io::Result<()> {
    fcntl_lock(file, libc::F_OFD_SETLK, libc::F_RDLCK, byte).map(drop)
}

/// Does another open file description hold a lock on the byte (fcntl F_OFD_GETLK)?
pub fn byte_is_locked(file: &File, byte: i64) -> io::Result<bool> {
    let found = fcntl_lock(file, libc::F_OFD_GETLK, libc::F_WRLCK, byte)?;
    Ok(i32::from(found) != libc::F_UNLCK)
}

/// Lets `length` bytes of `target` at `to` share the blocks of `source` at `from` (ioctl FICLONERANGE).
pub fn clone_range(target: &File, to: u64, source: &File, from: u64, length: u64) -> io::Result<()> {
    let range = libc::file_clone_range {
        src_fd: i64::from(source.as_raw_fd()),
        src_offset: from,
        src_length: length,
        dest_offset: to,
    };
    // SAFETY: both descriptors are open for the call, and the kernel only reads `range`.
    if unsafe { libc::ioctl(target.as_raw_fd(), libc::FICLONERANGE, &range) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// By what the file system itself knows the file `name` in a folder, or with an empty name the file that is open as `at`: no other
/// file has it, not even one that gets its number later (name_to_handle_at). No link is followed.
pub fn handle_of(at: BorrowedFd<'_>, name: &CStr) -> io::Result<Vec<u8>> {
    #[repr(C)]
    struct Handle {
        length: libc::c_uint,
        kind: libc::c_int,
        bytes: [u8; MOST as usize],
    }
    /// MAX_HANDLE_SZ
    const MOST: libc::c_uint = 128;
    let (mut handle, mut mount) = (Handle { length: MOST, kind: 0, bytes: [0; MOST as usize] }, 0_i32);
    let (at, name, filled) = (at.as_raw_fd(), name.as_ptr(), (&raw mut handle).cast());
    // SAFETY: the descriptor is open and the name ends with a zero for the call, and the kernel writes to `mount` and as many bytes of
    // `handle` as it is told there are.
    if unsafe { libc::name_to_handle_at(at, name, filled, &raw mut mount, libc::AT_EMPTY_PATH) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(handle.bytes[..handle.length.min(MOST) as usize].to_vec())
}

/// Lets the kernel begin to write `length` bytes at `from` to the disk, and does not wait for it (sync_file_range with
/// SYNC_FILE_RANGE_WRITE).
pub fn begin_writeback(file: &File, from: u64, length: u64) -> io::Result<()> {
    let range = i64::try_from(from).and_then(|from| Ok((from, i64::try_from(length)?)));
    let (from, length) = range.map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: the descriptor is open for the call, which takes no pointer.
    if unsafe { libc::sync_file_range(file.as_raw_fd(), from, length, libc::SYNC_FILE_RANGE_WRITE) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Did all that was written to the file reach the disk, as far as it was sent there since `file` was opened or last asked
/// (sync_file_range with SYNC_FILE_RANGE_WAIT_BEFORE)? It waits for no more than the first byte.
pub fn check_writeback(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for the call, which takes no pointer.
    if unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 1, libc::SYNC_FILE_RANGE_WAIT_BEFORE) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // a kernel that lacks the call says nothing of the file
    if error.raw_os_error() == Some(libc::ENOSYS) { Ok(()) } else { Err(error) }
}

/// Gives all mounts of a tree that is attached nowhere the attributes, and has no change of them reach others, nor others'
/// reach them (mount_setattr).
pub fn make_mounts_private(tree: BorrowedFd<'_>, attributes: MountAttrFlags) -> rustix::io::Result<()> {
    let set = libc::mount_attr {
        attr_set: attributes.bits().into(),
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the descriptor is open for the call, the path is a C string, and the kernel only reads it and `set`, of whose
    // size it is told.
    let done = unsafe {
        libc::syscall(libc::SYS_mount_setattr, tree.as_raw_fd(), c"".as_ptr(), flags, &set, size_of_val(&set))
    };
    if done == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
}

/// Gives this thread, and those that it starts, mounts of their own: what they mount nobody else sees, and what others mount or
/// unmount from now on they see, too (unshare with CLONE_NEWNS).
pub fn part_with_mounts() -> rustix::io::Result<()> {
    // SAFETY: the descriptors stay shared as they are.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change(c"/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
}

/// Has the kernel check this thread's access to files as if it were the user's, and no other thread's (setfsuid).
pub fn access_files_as(user: u32) -> io::Result<()> {
    // SAFETY: the call takes no pointer.
    unsafe { libc::setfsuid(user) };
    // it tells no error, but who it was before; that no user has is refused
    // SAFETY: as above.
    let now = unsafe { libc::setfsuid(u32::MAX) };
    if now.cast_unsigned() == user { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

/// The process that listens, or did, at the other end of a connected unix socket (unix(7), SO_PEERCRED); 0 if it is none that
/// this process could name.
pub fn peer_of(socket: &OwnedFd) -> io::Result<u32> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_PEERCRED);
    // SAFETY: the descriptor is open for the call, which writes no more than `length` bytes, all of `peer`.
    if unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut peer).cast(), &mut length) } == -1 {
        return Err(io::Error::last_os_error());
    }
    u32::try_from(peer.pid).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The process that made the other end of a unix socket listen, if that very process, and no other of its number, lives still
/// (`SO_PEERPIDFD`, Linux 6.5); none where the kernel does not tell.
pub fn living_peer_of(socket: &impl AsFd) -> io::Result<Option<u32>> {
    const SO_PEERPIDFD: libc::c_int = 77;
    let mut process: libc::c_int = -1;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    let (socket, level) = (socket.as_fd().as_raw_fd(), libc::SOL_SOCKET);
    // SAFETY: the descriptor is open for the call, which writes no more than `length` bytes, all of `process`.
    if unsafe { libc::getsockopt(socket, level, SO_PEERPIDFD, (&raw mut process).cast(), &mut length) } == -1 {
        return match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(None),
            // the second one before Linux 6.15
            error if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)) => Err(ended()),
            error => Err(error),
        };
    }
    // SAFETY: the kernel has just opened it for this call, and nobody else knows it.
    let process = unsafe { OwnedFd::from_raw_fd(process) };
    let told = std::fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", process.as_raw_fd()))?;
    let number = told.lines().find_map(|line| line.strip_prefix("Pid:"));
    // -1 of one that has ended, 0 of one that this process can't see
    number.and_then(|number| number.trim().parse().ok()).filter(|number| *number > 0).map(Some).ok_or_else(ended)
}

fn ended() -> io::Error {
    io::Error::other("the process that made it listen has ended")
}

/// Has `work` run when the process exits in order, or before this library is unloaded from it (atexit).
pub fn at_exit(work: extern "C" fn()) -> io::Result<()> {
    // SAFETY: the handler is a function of this library, and the C library runs it before it unmaps that.
    if unsafe { libc::atexit(work) } == 0 { Ok(()) } else { Err(io::ErrorKind::OutOfMemory.into()) }
}

type Work = Box<dyn FnOnce() + Send>;

/// The thread that has none of this process's descriptors; what it begins has those that it has.
static APART: LazyLock<Option<Sender<Work>>> = LazyLock::new(|| begin_apart().ok());

/// Begins that thread. Once files on a NAS are open that may hang it is too late, for to leave them it has to close them.
pub fn keep_a_thread_apart() {
    LazyLock::force(&APART);
}

fn begin_apart() -> io::Result<Sender<Work>> {
    let (sender, all) = mpsc::channel::<Work>();
    let (tell, told) = mpsc::channel();
    thread::Builder::new().name("processes".to_owned()).spawn(move || {
        let left = leave_descriptors_above(libc::STDERR_FILENO);
        if tell.send(left).is_ok() {
            all.iter().for_each(|work| work());
        }
    })?;
    told.recv().map_err(io::Error::other)??;
    Ok(sender)
}

/// Runs `work`, and waits for it, on a thread that has none of this process's descriptors but the standard ones, unless the
/// kernel refuses that. Whatever `work` opens or closes is of that thread and its like, so that
/// neither it nor its result has descriptors in it.
pub fn without_descriptors<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (tell, told) = mpsc::channel();
    let begin = move || {
        let refused = tell.clone();
        let begun = thread::Builder::new().name(name.to_owned()).spawn(move || tell.send(Ok(work())));
        if let Err(error) = begun {
            // whoever waits hears of it
            let _ = refused.send(Err(error));
        }
    };
    match &*APART {
        Some(apart) => apart.send(Box::new(begin)).map_err(|_| io::Error::other("no process can be started"))?,
        None => begin(),
    }
    told.recv().map_err(io::Error::other)?
}

/// Has the kernel kill what `command` starts when the thread that starts it ends, in whatever way (prctl
/// PR_SET_PDEATHSIG).
pub fn end_with_thread(command: &mut Command) {
    let ask = || Ok(set_parent_process_death_signal(Some(Signal::KILL))?);
    // SAFETY: between fork and exec it makes one system call, and neither allocates nor takes a lock.
    unsafe { command.pre_exec(ask) };
}

/// Gives this thread, and those that it starts, a table of descriptors of their own, a copy of the one that it had as far as this
/// number: what they open and close from now on is their own (close_range with CLOSE_RANGE_UNSHARE).
pub fn leave_descriptors_above(last: RawFd) -> io::Result<()> {
    let (first, how) = ((last + 1).cast_unsigned(), libc::CLOSE_RANGE_UNSHARE);
    // SAFETY: the call takes no pointer, and closes nothing in the table that other threads have.
    if unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, how) } == 0 {
        return Ok(());
    }
    // before Linux 5.9
    unshare_descriptors()?;
    close_descriptors(last + 1..=RawFd::MAX)
}

fn unshare_descriptors() -> io::Result<()> {
    // SAFETY: the call takes no pointer. Each descriptor stays what it is in the table that the others go on to use.
    if unsafe { libc::unshare(libc::CLONE_FILES) } == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Closes all descriptors of this thread's table that have these numbers. Only in a table that was just made: no owner of a
/// descriptor knows of these copies.
pub fn close_descriptors(numbers: RangeInclusive<RawFd>) -> io::Result<()> {
    let (first, last) = (numbers.start().cast_unsigned(), numbers.end().cast_unsigned());
    // SAFETY: the call takes no pointer, and what it closes nobody uses by this table.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } == 0 {
        return Ok(());
    }
    close_listed(&numbers)
}

/// The same before Linux 5.9.
fn close_listed(numbers: &RangeInclusive<RawFd>) -> io::Result<()> {
    let listed = std::fs::read_dir("/proc/thread-self/fd")?;
    let open: Vec<RawFd> = listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| numbers.contains(fd)) {
        // SAFETY: as above; that of the listing is closed by now, which is an error that nobody minds.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// Work that another thread is to do.
pub type Job = Box<dyn FnOnce() + Send>;

/// Has `hand_over` give the work to another thread, and waits until it is done there.
pub fn elsewhere<'a, T: Send + 'a>(work: impl FnOnce() -> T + Send + 'a, hand_over: impl FnOnce(Job)) -> T {
    let (done, end) = mpsc::channel();
    let end = End(end);
    let errand = Errand { work, done };
    let job: Box<dyn FnOnce() + Send + 'a> = Box::new(move || errand.run());
    // SAFETY: the two types differ in the lifetime alone. What the work borrows outlives this function, which is not left, not by
    // a panic either, before `End` has heard that the work is done, or was dropped: `Errand` drops it before the sender.
    let job = unsafe { std::mem::transmute::<Box<dyn FnOnce() + Send + 'a>, Job>(job) };
    hand_over(job);
    match end.0.recv() {
        Ok(done) => done,
        Err(_) => panic!("the work was not done"),
    }
}

/// Some work, and where its result goes.
struct Errand<W, T> {
    // in this order: who waits for the other is told once there is no work left
    work: W,
    done: Sender<T>,
}

impl<T, W: FnOnce() -> T> Errand<W, T> {
    fn run(self) {
        let Errand { work, done } = self;
        // who waits can't be gone
        let _ = done.send(work());
    }
}

/// Waits for the end before it is gone itself.
struct End<T>(Receiver<T>);

impl<T> Drop for End<T> {
    fn drop(&mut self) {
        // nothing comes after the one result
        let _ = self.0.recv();
    }
}

/// One lock operation; returns the kind of lock that the kernel left in the description.
fn fcntl_lock(file: &File, command: i32, kind: i32, byte: i64) -> io::Result<i16> {
    // SAFETY: an all-zero flock is a valid value of the plain C struct.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    (lock.l_type, lock.l_whence, lock.l_start, lock.l_len) = (kind as i16, libc::SEEK_SET as i16, byte, 1);
    // SAFETY: the descriptor is open for the call, and the kernel only reads and writes `lock`.
    if unsafe { libc::fcntl(file.as_raw_fd(), command, &mut lock) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(lock.l_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_no_range_can_be_closed_each_descriptor_is() {
        let ours = File::open("/dev/null").unwrap();
        let number = ours.as_raw_fd();
        let left = thread::spawn(move || {
            unshare_descriptors().unwrap();
            close_listed(&(libc::STDERR_FILENO + 1..=RawFd::MAX)).unwrap();
            let listed = std::fs::read_dir("/proc/thread-self/fd").unwrap();
            listed.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
        });
        // that of the listing is one of them
        assert!(left.join().unwrap().len() <= 4);
        assert!(rustix::io::fcntl_getfd(&ours).is_ok() && ours.as_raw_fd() == number);
    }
}
