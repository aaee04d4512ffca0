//! A file system that refuses system calls, as NASes do: whatever asks it through a thread that runs in `refusing`, or one
//! that was begun there, gets an error in place of an answer, and all else goes on as it is.
//!
//! The kernel asks about each of these calls (seccomp_unotify(2)); a thread without the filter looks at which file it is.

#![allow(unsafe_code, reason = "seccomp has no safe wrapper")]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};

/// A system call that a file system refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its name in `CALLS`.
    pub call: String,
    /// The error numbers, in turn; 0: it succeeds, and all that it tells is 0.
    pub errnos: Vec<i32>,
}

/// In place of an error number: the call goes on as it is.
pub const GO_ON: i32 = -1;
/// It is not answered before `refusing` ends, and neither is any that comes after it; then they go on.
pub const HANG: i32 = -2;

/// linux/seccomp.h: SECCOMP_IOCTL_NOTIF_RECV and SECCOMP_IOCTL_NOTIF_SEND.
const NOTIF_RECV: u64 = 0xc050_2100;
const NOTIF_SEND: u64 = 0xc018_2101;

/// How the kernel is told which file a call is about.
#[derive(Debug, Clone, Copy)]
enum About {
    /// A descriptor, the argument of this number.
    Fd(usize),
    /// A folder's descriptor and a path in it, the arguments from this number on.
    At(usize),
}

/// A name for a call, its number, what it is about, and which of its kind are meant.
type Call = (&'static str, libc::c_long, About, fn(&[u64; 6], &Path) -> bool);

/// A rename that the server makes, and whose answer is an error.
const LOST: &str = "answer of a rename";

const CALLS: &[Call] = &[
    ("flock", libc::SYS_flock, About::Fd(0), any),
    ("chmod", libc::SYS_fchmod, About::Fd(0), any),
    ("chmod", libc::SYS_fchmodat, About::At(0), any),
    ("chown", libc::SYS_fchown, About::Fd(0), any),
    ("chown", libc::SYS_fchownat, About::At(0), any),
    ("folder fsync", libc::SYS_fsync, About::Fd(0), |_, path| path.is_dir()),
    ("fsync", libc::SYS_fsync, About::Fd(0), |_, path| !path.is_dir()),
    ("fdatasync", libc::SYS_fdatasync, About::Fd(0), |_, path| !path.is_dir()),
    ("FICLONERANGE", libc::SYS_ioctl, About::Fd(0), |args, _| args[1] == libc::FICLONERANGE),
    ("copy_file_range", libc::SYS_copy_file_range, About::Fd(2), any),
    ("copy_file_range from", libc::SYS_copy_file_range, About::Fd(0), any),
    ("SEEK_DATA", libc::SYS_lseek, About::Fd(0), |args, _| args[2] == libc::SEEK_DATA as u64),
    ("SEEK_HOLE", libc::SYS_lseek, About::Fd(0), |args, _| args[2] == libc::SEEK_HOLE as u64),
    ("fallocate", libc::SYS_fallocate, About::Fd(0), any),
    ("fadvise", libc::SYS_fadvise64, About::Fd(0), any),
    ("sync_file_range", libc::SYS_sync_file_range, About::Fd(0), any),
    ("statfs", libc::SYS_fstatfs, About::Fd(0), any),
    ("RENAME_NOREPLACE", libc::SYS_renameat2, About::At(0), |args, _| args[4] != 0),
    ("rename", libc::SYS_renameat2, About::At(0), any),
    (LOST, libc::SYS_renameat2, About::At(0), any),
    ("rename", libc::SYS_renameat, About::At(0), any),
    ("link", libc::SYS_linkat, About::At(0), any),
    ("openat2", libc::SYS_openat2, About::At(0), any),
    // of what is there already: the second of the two calls that open a file
    ("open", libc::SYS_openat, About::At(0), |args, path| !makes(args) && path.is_file() && is_content(args, path)),
    ("create", libc::SYS_openat, About::At(0), |args, path| makes(args) && is_content(args, path)),
    ("stat", libc::SYS_newfstatat, About::At(0), is_content),
    ("stat", libc::SYS_statx, About::At(0), |args, path| !is_of_descriptor(args) && is_content(args, path)),
    ("mkdir", libc::SYS_mkdirat, About::At(0), any),
    ("unlink", libc::SYS_unlinkat, About::At(0), is_content),
    ("getdents", libc::SYS_getdents64, About::Fd(0), any),
    ("ftruncate", libc::SYS_ftruncate, About::Fd(0), any),
    ("read", libc::SYS_read, About::Fd(0), is_content),
    ("pread", libc::SYS_pread64, About::Fd(0), is_content),
    ("write", libc::SYS_write, About::Fd(0), is_content),
    ("pwrite", libc::SYS_pwrite64, About::Fd(0), is_content),
    ("close", libc::SYS_close, About::Fd(0), |args, path| is_content(args, path) && waits_in_close(path)),
    ("claim", libc::SYS_pwrite64, About::Fd(0), |args, path| !is_content(args, path)),
];

fn any(_: &[u64; 6], _: &Path) -> bool {
    true
}

/// Of `statx`: what it is about is open.
fn is_of_descriptor(args: &[u64; 6]) -> bool {
    args[2] & libc::AT_EMPTY_PATH as u64 != 0
}

fn makes(args: &[u64; 6]) -> bool {
    args[2] & libc::O_CREAT as u64 != 0
}

/// A folder above it holds one of this name: from then on a close waits.
pub const CLOSES_WAIT: &str = "closes-wait";

/// That of a folder never does.
fn waits_in_close(path: &Path) -> bool {
    path.is_file() && path.ancestors().any(|folder| folder.join(CLOSES_WAIT).exists())
}

/// It is neither a lock nor a claim: an operation that can't have these gets no further.
fn is_content(_: &[u64; 6], path: &Path) -> bool {
    !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".nasbackup."))
}

/// What the thread that answers the kernel knows.
struct State {
    root: PathBuf,
    refusals: Vec<Refusal>,
    /// How often each of these was met.
    met: BTreeMap<&'static str, usize>,
    /// Calls that were not answered.
    hung: Vec<u64>,
}

/// Where calls wait for an answer, and how many.
static HANGING: Mutex<BTreeMap<PathBuf, usize>> = Mutex::new(BTreeMap::new());

/// Does a call hang below this root, by the refusals of one that runs?
pub fn hangs(root: &Path) -> bool {
    HANGING.lock().unwrap().contains_key(&root.canonicalize().unwrap())
}

/// Runs `work` while everything below `root` meets these refusals; how often each of them was met, too.
pub fn refusing<T: Send>(
    root: &Path,
    refusals: &[Refusal],
    work: impl FnOnce() -> T + Send,
) -> (T, BTreeMap<&'static str, usize>) {
    let root = root.canonicalize().unwrap();
    let state =
        Arc::new(Mutex::new(State { root, refusals: refusals.to_vec(), met: BTreeMap::new(), hung: Vec::new() }));
    let (told, heard) = mpsc::channel::<OwnedFd>();
    let answering = state.clone();
    // it ends with the last thread that has the filter, which may be one that is left behind
    std::thread::spawn(move || answer(&heard.recv().unwrap(), &answering));
    let result = std::thread::scope(|scope| {
        let run = move || {
            told.send(install(refusals)).unwrap();
            // without it the tests that use this don't hold, but fuzzing and benchmarks are built
            #[cfg(feature = "test-hooks")]
            nasbackup::second_table::use_own_pool().unwrap();
            work()
        };
        scope.spawn(run).join()
    });
    let mut state = state.lock().unwrap();
    state.refusals.clear();
    let met = std::mem::take(&mut state.met);
    drop(state);
    (result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)), met)
}

/// Has the kernel ask about these calls of this thread, and of those that it begins.
fn install(refusals: &[Refusal]) -> OwnedFd {
    let mut numbers: Vec<_> = refusals
        .iter()
        .flat_map(|refusal| {
            let found: Vec<_> = CALLS.iter().filter(|call| call.0 == refusal.call).map(|call| call.1 as u32).collect();
            assert!(!found.is_empty(), "{} is no call", refusal.call);
            found
        })
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    let statement = |code: u32, k: u32, jt: usize| libc::sock_filter { code: code as u16, jt: jt as u8, jf: 0, k };
    // the number lies at the begin of what the filter sees
    let mut program = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0)];
    let count = numbers.len();
    for (i, number) in numbers.into_iter().enumerate() {
        program.push(statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number, count - i));
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0));
    program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_USER_NOTIF, 0));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies the program, which outlives the call, and returns a new descriptor.
    unsafe {
        let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        let fd = libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &filter);
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd as i32)
    }
}

/// Answers the kernel until nobody has the filter any more.
fn answer(listener: &OwnedFd, state: &Mutex<State>) {
    let fd = listener.as_raw_fd();
    loop {
        let (over, hung) = {
            let state = state.lock().unwrap();
            (state.refusals.is_empty(), !state.hung.is_empty())
        };
        if over {
            let mut state = state.lock().unwrap();
            HANGING.lock().unwrap().remove(&state.root);
            state.hung.drain(..).for_each(|id| respond(fd, id, GO_ON));
        }
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: each call gets one plain C struct that outlives it, zeroed as the kernel demands.
        let asked = unsafe {
            libc::poll(&mut poll, 1, if hung { 20 } else { -1 });
            if poll.revents & libc::POLLIN == 0 {
                if poll.revents & libc::POLLHUP != 0 {
                    return;
                }
                continue;
            }
            let mut asked: libc::seccomp_notif = std::mem::zeroed();
            if libc::ioctl(fd, NOTIF_RECV, &mut asked) != 0 {
                // whoever asked is gone
                continue;
            }
            asked
        };
        match decide(&asked, state) {
            HANG => {
                let mut state = state.lock().unwrap();
                *HANGING.lock().unwrap().entry(state.root.clone()).or_default() += 1;
                state.hung.push(asked.id);
            }
            errno => respond(fd, asked.id, errno),
        }
    }
}

fn respond(listener: i32, id: u64, errno: i32) {
    // SAFETY: the call gets one plain C struct that outlives it, zeroed as the kernel demands.
    unsafe {
        let mut response: libc::seccomp_notif_resp = std::mem::zeroed();
        response.id = id;
        match errno {
            0 => {}
            GO_ON => response.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
            errno => response.error = -errno,
        }
        libc::ioctl(listener, NOTIF_SEND, &mut response);
    }
}

/// The error number that the call gets.
fn decide(asked: &libc::seccomp_notif, state: &Mutex<State>) -> i32 {
    let mut state = state.lock().unwrap();
    let args = &asked.data.args;
    for (name, _, about, is_meant) in CALLS.iter().filter(|call| call.1 == libc::c_long::from(asked.data.nr)) {
        let Some(refusal) = state.refusals.iter().find(|refusal| refusal.call == *name).cloned() else { continue };
        let Some(path) = subject(asked.pid, args, *about) else { continue };
        if !path.starts_with(&state.root) || !is_meant(args, &path) {
            continue;
        }
        let met = state.met.entry(name).or_default();
        let errno = refusal.errnos[*met % refusal.errnos.len()];
        if errno == HANG {
            return HANG;
        }
        *met += 1;
        if *name == LOST {
            std::fs::rename(&path, subject(asked.pid, args, About::At(2)).unwrap()).unwrap();
        }
        if errno == 0 {
            memory(asked.pid, true).write_all_at(&[0; size_of::<libc::statfs>()], args[1]).unwrap();
        }
        return errno;
    }
    GO_ON
}

/// The file that a call is about.
fn subject(thread: u32, args: &[u64; 6], about: About) -> Option<PathBuf> {
    let open = |fd: u64| std::fs::read_link(format!("/proc/{thread}/fd/{}", fd as i32)).ok();
    let first = match about {
        About::Fd(argument) => return open(args[argument]),
        About::At(first) => first,
    };
    let mut text = [0; 4096];
    let read = memory(thread, false).read_at(&mut text, args[first + 1]).ok()?;
    let path = std::str::from_utf8(text[..read].split(|byte| *byte == 0).next()?).ok()?;
    if let Some(fd) = path.strip_prefix("/proc/thread-self/fd/") {
        return open(fd.parse().ok()?);
    }
    if path.starts_with('/') { Some(path.into()) } else { Some(open(args[first])?.join(path)) }
}

fn memory(thread: u32, write: bool) -> File {
    File::options().read(true).write(write).open(format!("/proc/{thread}/mem")).unwrap()
}
