//! A second table of descriptors, in which no process is started, and the threads that have this table.
//!
//! A new process gets a copy of each descriptor of the table of the thread that starts it, and closes the copies when it execs.
//! On NFS and CIFS the close of a file that is open for writing waits until the server has all that was written; on FUSE any
//! close waits. So while a NAS hangs, no thread whose table holds such a file could start a process. The library opens these
//! files in a second table, and the threads that have it, which start no process, do all work on them; the caller waits for
//! that work, or gives it up.
//!
//! A descriptor of one table means nothing in the other: work for the second table uses only files that are open there, and
//! gives no descriptor away. Descriptors of the second table have large numbers, which the first table uses only when half of
//! all numbers are taken, so that a mistake causes an error and not access to another file.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use log::{Level, Record};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use rustix::process::{Resource, getrlimit};

use crate::limits;
use crate::sys::{self, Job};

/// The least number of a descriptor in the second table; half of all numbers if that is less.
const FIRST: u64 = 1 << 16;

/// The threads that have the second table: as many as there are jobs at the same time, because each may wait for a NAS for
/// ever. The table lives as long as the process.
pub(crate) struct Pool {
    work: Mutex<JobQueue>,
    /// Wakes up idle threads.
    more: Condvar,
    /// Wakes up the thread that starts the others.
    too_few: Condvar,
    /// The socket that sends descriptors into the second table.
    sender: OwnedFd,
    /// The number of the next descriptor that is sent.
    sent: AtomicU64,
    arrivals: Mutex<Arrivals>,
}

#[derive(Default)]
struct JobQueue {
    jobs: VecDeque<Job>,
    /// The number of threads that wait for a job.
    idle: usize,
    /// The number of threads that are starting.
    starting: usize,
    /// Why a thread could not be started. The next caller logs this, because the second table's threads have no log.
    refused: Option<io::Error>,
}

/// The receiving socket, in the second table, and the descriptors that have arrived and were not taken.
struct Arrivals {
    end: OwnedFd,
    come: BTreeMap<u64, rustix::io::Result<OwnedFd>>,
}

static POOL: Mutex<TableState> = Mutex::new(TableState::Unknown);

/// Whether there is a second table.
enum TableState {
    Unknown,
    /// The first thread was started. Only the first caller waits for it.
    Begun(Receiver<Made>, Duration),
    Two(&'static Pool),
    /// The kernel, or a filter of system calls, refuses a second table.
    One,
}

/// The pool, or why there is none, and descriptors for the first table to close.
type Made = (rustix::io::Result<&'static Pool>, Vec<OwnedFd>);

/// A line of the log: level, target, text.
type LogLine = (Level, String, String);

thread_local! {
    static IS_APART: Cell<bool> = const { Cell::new(false) };
    static LINES: RefCell<Vec<LogLine>> = const { RefCell::new(Vec::new()) };
}

/// True if this thread has the second table. It must start no process, and other threads only through `of_this_table`.
pub fn is_here() -> bool {
    IS_APART.get()
}

/// Wraps `work` for a thread that this one starts and waits for. What the work logs there is lost.
pub(crate) fn of_this_table<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let is_apart = is_here();
    move || {
        IS_APART.set(is_apart);
        work()
    }
}

/// Runs `work` on a thread that has the second table, if there is one, for files that are opened and closed there.
pub(crate) fn run_there<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    match pool() {
        Ok(Some(pool)) => pool.run(work),
        _ => work(),
    }
}

/// Makes the second table early. Otherwise the first open of a file for writing makes it.
pub fn prepare() {
    if let Err(error) = pool() {
        log::warn!("unable to make the second table of descriptors, trying again later: {error}");
    }
}

#[cfg(any(test, feature = "test-hooks"))]
pub(crate) use hooks::of_the_same_pool;
#[cfg(any(test, feature = "test-hooks"))]
pub use hooks::use_own_pool;

/// For tests in which the kernel refuses system calls of their own threads: they need a pool of their own.
#[cfg(any(test, feature = "test-hooks"))]
mod hooks {
    use std::cell::Cell;

    use super::{Errno, Pool};

    thread_local! {
        pub(super) static OWN: Cell<Option<&'static Pool>> = const { Cell::new(None) };
    }

    /// Gives this thread, and those that work for it, a new pool.
    pub fn use_own_pool() -> rustix::io::Result<()> {
        let (pool, _) = Pool::begin()?.recv().map_err(|_| Errno::IO)?;
        OWN.set(Some(pool?));
        Ok(())
    }

    pub(crate) fn of_the_same_pool<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
        let own = OWN.get();
        move || {
            OWN.set(own);
            work()
        }
    }
}

/// Keeps a line of the log for the thread that waits for this one's work: a logger may open files, which must not be in the
/// second table. False if this thread may log itself.
pub(crate) fn keep_line(record: &Record<'_>) -> bool {
    if !is_here() {
        return false;
    }
    // formatted first, because the formatting itself may log
    let line = (record.level(), record.target().to_owned(), record.args().to_string());
    LINES.try_with(|lines| lines.borrow_mut().push(line)).is_ok()
}

/// The threads that have the second table; `None` if there is only one table.
pub(crate) fn pool() -> rustix::io::Result<Option<&'static Pool>> {
    #[cfg(any(test, feature = "test-hooks"))]
    if let Some(own) = hooks::OWN.get() {
        return Ok(Some(own));
    }
    let made = POOL.lock().unwrap_or_else(PoisonError::into_inner).try_made();
    made.map(|(pool, refused)| {
        if let Some(refused) = refused {
            log::warn!("while a NAS hangs this process may be unable to start others: no second table - {refused}");
        }
        pool
    })
}

impl TableState {
    /// The pool, and, if it has just turned out that there is none, why. Failures that may pass are errors.
    fn try_made(&mut self) -> rustix::io::Result<(Option<&'static Pool>, Option<Errno>)> {
        if let TableState::Unknown = self {
            *self = TableState::Begun(Pool::begin()?, limits::SECOND_TABLE);
        }
        let (made, waited) = match self {
            TableState::Two(pool) => return Ok((Some(pool), None)),
            TableState::Begun(begun, wait) => {
                let wait = std::mem::take(wait);
                (begun.recv_timeout(wait), !wait.is_zero())
            }
            _ => return Ok((None, None)),
        };
        let (now, told) = match made {
            // files are opened in the first table until the second is there
            Err(RecvTimeoutError::Timeout) => return Ok((None, waited.then_some(Errno::TIMEDOUT))),
            Err(RecvTimeoutError::Disconnected) => (TableState::Unknown, Err(Errno::IO)),
            Ok((Ok(pool), _)) => (TableState::Two(pool), Ok((Some(pool), None))),
            Ok((Err(error), _)) if may_pass(error) => (TableState::Unknown, Err(error)),
            Ok((Err(refused), _)) => (TableState::One, Ok((None, Some(refused)))),
        };
        *self = now;
        told
    }
}

/// True for an error that may pass, such as a lack of memory.
fn may_pass(error: Errno) -> bool {
    matches!(error, Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN | Errno::INTR)
}

/// The least number of a descriptor in the second table.
pub(crate) fn first_number() -> RawFd {
    let all = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    i32::try_from(FIRST.min(all / 2)).unwrap_or(i32::MAX)
}

impl Pool {
    /// Starts the first thread, which makes the table.
    fn begin() -> rustix::io::Result<Receiver<Made>> {
        let errno = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN);
        let kind = (AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (ours, theirs) = rustix::net::socketpair(kind.0, kind.1, kind.2, None)?;
        let (tell, told) = mpsc::channel();
        let keep = move || {
            let (pool, done) = match own_table(&theirs) {
                Ok(end) => (Ok(&*Box::leak(Box::new(Pool::new(ours, end)))), vec![theirs]),
                Err(error) => (Err(errno(error)), vec![ours, theirs]),
            };
            // can't fail: the receiver is kept
            let _ = tell.send((pool, done));
            pool.map(Pool::start_workers)
        };
        thread::Builder::new().name("keep the NAS's files".to_owned()).spawn(keep).map_err(errno)?;
        Ok(told)
    }

    fn new(sender: OwnedFd, end: OwnedFd) -> Pool {
        Pool {
            work: Mutex::default(),
            more: Condvar::new(),
            too_few: Condvar::new(),
            sender,
            sent: AtomicU64::new(0),
            arrivals: Mutex::new(Arrivals { end, come: BTreeMap::new() }),
        }
    }

    /// Runs the last work on a file, which closes it, and waits for that as long as `FILE_CLOSE`; none if it was not done by then.
    pub(crate) fn close<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        if is_here() {
            return Some(work());
        }
        let (tell, closed) = mpsc::channel();
        self.enqueue(Box::new(move || {
            // fails when nobody waits any more
            let _ = tell.send(work());
        }));
        let late = |_: &RecvTimeoutError| log::debug!("a file is closed when its NAS answers");
        closed.recv_timeout(limits::FILE_CLOSE).inspect_err(late).ok()
    }

    /// Runs the work on a thread that has the second table, and waits for it.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        if is_here() {
            return work();
        }
        let (done, lines) = sys::elsewhere(
            || {
                let done = catch_unwind(AssertUnwindSafe(work));
                (done, LINES.take())
            },
            |job| self.enqueue(job),
        );
        for (level, target, line) in lines {
            log::log!(target: &target, level, "{line}");
        }
        done.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Like `run`, with a copy of the descriptor in the second table.
    pub(crate) fn lend<T: Send, E: From<Errno> + Send>(
        &self,
        fd: BorrowedFd<'_>,
        work: impl FnOnce(OwnedFd) -> Result<T, E> + Send,
    ) -> Result<T, E> {
        if is_here() {
            return work(rustix::io::fcntl_dupfd_cloexec(fd, first_number())?);
        }
        let serial = self.sent.fetch_add(1, Relaxed);
        send(&self.sender, serial, fd)?;
        self.run(|| {
            // on FUSE the close waits for the server: without the arrivals' lock it delays only this work
            let come = self.take_arrived(serial)?;
            let number = rustix::io::fcntl_dupfd_cloexec(&come, first_number())?;
            drop(come);
            work(number)
        })
    }

    /// Takes the descriptor that was sent with this number. Closes none, because others wait for the lock.
    fn take_arrived(&self, serial: u64) -> rustix::io::Result<OwnedFd> {
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(come) = arrivals.come.remove(&serial) {
                return come;
            }
            let (serial, come) = receive(&arrivals.end)?;
            arrivals.come.insert(serial, come);
        }
    }

    /// The loop of the first thread, which starts a thread for each job that waits. It runs no job, so that nothing blocks it.
    fn start_workers(&'static self) {
        let mut work = self.lock();
        loop {
            let enough = |work: &mut JobQueue| work.jobs.len() <= work.idle + work.starting;
            work = self.too_few.wait_while(work, enough).unwrap_or_else(PoisonError::into_inner);
            work.starting += 1;
            drop(work);
            let started = thread::Builder::new().name("use the NAS's files".to_owned()).spawn(|| self.run_jobs());
            work = self.lock();
            if let Err(error) = started {
                work.refused = Some(error);
                work.starting -= 1;
                // meanwhile the other threads take the waiting jobs
                (work, _) =
                    self.too_few.wait_timeout(work, limits::SECOND_TABLE_PAUSE).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, JobQueue> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enqueue(&self, job: Job) {
        let mut work = self.lock();
        work.jobs.push_back(job);
        if work.jobs.len() <= work.idle {
            self.more.notify_one();
        } else {
            self.too_few.notify_one();
        }
        let refused = work.refused.take();
        drop(work);
        if let Some(error) = refused {
            log::warn!("unable to start a thread for files of the NAS, waiting for another: {error}");
        }
    }

    /// The loop of the other threads: runs jobs until there has been none for `SECOND_TABLE_IDLE`.
    fn run_jobs(&self) {
        IS_APART.set(true);
        let mut work = self.lock();
        work.starting -= 1;
        loop {
            work.idle += 1;
            let nothing = |work: &mut JobQueue| work.jobs.is_empty();
            (work, _) = self
                .more
                .wait_timeout_while(work, limits::SECOND_TABLE_IDLE, nothing)
                .unwrap_or_else(PoisonError::into_inner);
            work.idle -= 1;
            let Some(job) = work.jobs.pop_front() else { return };
            drop(work);
            job();
            work = self.lock();
        }
    }
}

/// Sends a copy of the descriptor with this number.
fn send(sender: &OwnedFd, serial: u64, fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let (fds, mut space) = ([fd], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
    let mut message = SendAncillaryBuffer::new(&mut space);
    message.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::net::sendmsg(sender, &[IoSlice::new(&serial.to_ne_bytes())], &mut message, SendFlags::NOSIGNAL).map(drop)
}

/// Receives the next descriptor and its number.
fn receive(end: &OwnedFd) -> rustix::io::Result<(u64, rustix::io::Result<OwnedFd>)> {
    let (mut serial, mut space) = ([0; 8], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
    let mut message = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    rustix::net::recvmsg(end, &mut [IoSliceMut::new(&mut serial)], &mut message, flags)?;
    let come = message.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    // the kernel drops a descriptor that gets no number
    Ok((u64::from_ne_bytes(serial), come.ok_or(Errno::MFILE)))
}

/// Gives this thread, and those that it starts, a table of their own, with only the standard streams and `end`.
fn own_table(end: &OwnedFd) -> io::Result<OwnedFd> {
    sys::leave_descriptors_above(end.as_raw_fd())?;
    IS_APART.set(true);
    // closes all other copies, of which their owners don't know
    let end = rustix::io::fcntl_dupfd_cloexec(end, first_number().max(end.as_raw_fd() + 1))?;
    sys::close_descriptors(libc::STDERR_FILENO + 1..=end.as_raw_fd() - 1)?;
    // occupies free numbers of standard streams: a file with such a number would get what is written to that stream
    loop {
        let null = File::open("/dev/null")?;
        if null.as_raw_fd() > libc::STDERR_FILENO {
            return Ok(end);
        }
        std::mem::forget(null);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::io::Write;
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command};
    use std::time::Instant;

    use rustix::fs::OFlags;
    use rustix::process::{Pid, Signal, kill_process};

    use super::*;
    use crate::apart::Descriptor;
    use crate::config::FILE_MODE;
    use crate::lacking;
    use crate::nas::folder::Folder;
    use crate::qcow2::Storage;
    use crate::user::with_rights_of;

    /// For what a test can't go on without.
    const PATIENCE: Duration = Duration::from_secs(180);

    /// A folder through FUSE, which can hang.
    struct Fuse {
        at: PathBuf,
        server: Child,
        folders: [tempfile::TempDir; 2],
    }

    impl Fuse {
        fn mount(options: &[&str]) -> Fuse {
            let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
            let at = folders[1].path().to_owned();
            let server =
                Command::new("bindfs").arg("-f").args(options).arg(folders[0].path()).arg(&at).spawn().unwrap();
            let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
            while !mounts().contains(at.to_str().unwrap()) {
                thread::sleep(Duration::from_millis(10));
            }
            Fuse { at, server, folders }
        }

        fn tell(&self, signal: Signal) {
            kill_process(Pid::from_child(&self.server), signal).unwrap();
        }
    }

    impl Drop for Fuse {
        fn drop(&mut self) {
            self.tell(Signal::CONT);
            // a process that another test starts may have a copy of a descriptor for a moment
            assert!(Command::new("umount").arg("--lazy").arg(&self.at).status().unwrap().success());
            self.server.wait().unwrap();
        }
    }

    /// Starts a process while somebody else waits in vain.
    fn start_a_process() {
        let (ended, end) = mpsc::channel();
        thread::spawn(move || ended.send(Command::new("true").status().unwrap().success()));
        assert_eq!(end.recv_timeout(PATIENCE), Ok(true), "no process starts");
    }

    fn open_on(table: &str, at: &Path) -> BTreeSet<PathBuf> {
        let listed = fs::read_dir(table).unwrap().filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        listed.filter(|target| target.starts_with(at)).collect()
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn processes_are_started_while_a_write_hangs_and_other_files_are_written_to() {
        let nas = Fuse::mount(&[]);
        let other = tempfile::tempdir().unwrap();
        let folder = Folder::open_root(&nas.at).unwrap();
        let file = folder.create_file("image", FILE_MODE).unwrap();
        file.write_at(&[1; 1 << 20], 0).unwrap();
        nas.tell(Signal::STOP);
        let hanging: Vec<_> = (0..3)
            .map(|at| {
                let file = file.clone();
                thread::spawn(move || file.write_at(&[2; 1 << 20], at << 20))
            })
            .collect();
        let closed = thread::spawn(move || drop(file));
        start_a_process();
        let file = Folder::open_root(other.path()).unwrap().create_file("image", FILE_MODE).unwrap();
        file.write_at(b"written", 0).unwrap();
        start_a_process();
        assert!(hanging.iter().any(|write| !write.is_finished()), "it did not hang");
        nas.tell(Signal::CONT);
        hanging.into_iter().for_each(|write| write.join().unwrap().unwrap());
        closed.join().unwrap();
    }

    #[test]
    fn a_file_that_is_apart_is_open_only_in_the_second_table() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open_root(dir.path()).unwrap();
        let there = || {
            let seen = folder.create_file("probe", FILE_MODE).unwrap();
            fs::remove_file(dir.path().join("probe")).unwrap();
            seen.with(|_| {
                open_on("/proc/thread-self/fd", dir.path()).into_iter().filter(|at| at.ends_with("image")).count()
            })
        };
        let here = || open_on("/proc/self/fd", dir.path()).iter().filter(|at| at.ends_with("image")).count();
        let file = folder.create_file("image", FILE_MODE).unwrap();
        assert_eq!((here(), there()), (0, 1));
        for file in [&file, &file.open_again(OFlags::PATH).unwrap()] {
            let number = file.with(AsRawFd::as_raw_fd);
            assert!(number >= first_number() && fs::read_link(format!("/proc/self/fd/{number}")).is_err(), "{number}");
        }
        let same = file.clone();
        drop(file);
        assert_eq!((here(), there()), (0, 1));
        drop(same);
        assert_eq!((here(), there()), (0, 0));
        for _ in 0..2_000 {
            let file = folder.open_for_writing("image").unwrap();
            file.with_lent(&File::open("/dev/null").unwrap(), |_, _| Ok(())).unwrap();
            file.clone_from(0, &File::open("/dev/null").unwrap(), 0, 4096).unwrap_err();
        }
        assert_eq!((here(), there()), (0, 0));
        let null = folder.open_for_writing("image").unwrap();
        let lent = null.with(|_| open_on("/proc/thread-self/fd", Path::new("/dev/null")).len());
        assert!(lent <= 1, "{lent}");
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_file_system_without_modes_is_logged_once_by_name() {
        let nas = Fuse::mount(&["--chmod-deny"]);
        let folder = Folder::open_root(&nas.at).unwrap();
        // other than what the umask leaves
        folder.create_file("image", 0o666).unwrap();
        assert!(lacking::is_told(&folder, "chmod"));
    }

    #[test]
    fn a_thread_with_other_rights_has_its_parent_s_table() {
        let dir = tempfile::tempdir().unwrap();
        let file = Folder::open_root(dir.path()).unwrap().create_file("image", FILE_MODE).unwrap();
        let same = file.clone();
        let ask = |file: &File| with_rights_of((65534, 65534), "ask", || (is_here(), file.stat(), same.stat()));
        let (is_apart, stat, again) = file.with(ask).unwrap().unwrap();
        assert!(is_apart);
        assert_eq!(
            (stat.unwrap().st_ino, again.unwrap().st_ino),
            (file.stat().unwrap().st_ino, file.stat().unwrap().st_ino)
        );
    }

    #[test]
    fn a_passing_lack_of_the_kernel_s_is_no_final_refusal() {
        let of = |error| {
            let (tell, told) = mpsc::channel();
            tell.send((Err(error), vec![])).unwrap();
            TableState::Begun(told, limits::SECOND_TABLE)
        };
        let made = |tables: &mut TableState| tables.try_made().map(|(pool, refused)| (pool.is_some(), refused));
        for passing in [Errno::MFILE, Errno::NOMEM, Errno::AGAIN] {
            let mut tables = of(passing);
            assert_eq!(made(&mut tables), Err(passing));
            assert_eq!([made(&mut tables), made(&mut tables)], [Ok((true, None)); 2]);
        }
        for refused in [Errno::PERM, Errno::NOSYS, Errno::INVAL, Errno::ACCESS, Errno::NOENT] {
            let mut tables = of(refused);
            assert_eq!([made(&mut tables), made(&mut tables)], [Ok((false, Some(refused))), Ok((false, None))]);
        }
        let (_still_at_it, told) = mpsc::channel();
        let mut tables = TableState::Begun(told, Duration::from_millis(1));
        let waited = Ok((false, Some(Errno::TIMEDOUT)));
        assert_eq!([made(&mut tables), made(&mut tables)], [waited, Ok((false, None))]);
    }

    /// Lends a file of a NAS that hangs, and others meanwhile; did closing what was lent hang? A server that has once said that
    /// it has no use for it is not asked, and processes that other tests start close copies.
    fn lends_while_a_close_hangs() -> bool {
        let (nas, other) = (Fuse::mount(&[]), tempfile::tempdir().unwrap());
        fs::write(nas.folders[0].path().join("source"), "source").unwrap();
        let folder = Folder::open_root(other.path()).unwrap();
        let file = folder.create_file("image", FILE_MODE).unwrap();
        let source = File::open(nas.at.join("source")).unwrap();
        nas.tell(Signal::STOP);
        let hanging = thread::spawn(move || file.with_lent(&source, |_, _| Ok(())));
        let (tell, told) = mpsc::channel();
        let others = thread::spawn(move || {
            let begun = Instant::now();
            // long enough for the first to get to where it hangs
            while begun.elapsed() < Duration::from_millis(300) {
                folder.open_for_writing("image").unwrap();
            }
            tell.send(!hanging.is_finished()).unwrap();
            hanging
        });
        let hung = told.recv_timeout(PATIENCE).expect("what is lent waits for a close of somebody else's");
        nas.tell(Signal::CONT);
        others.join().unwrap().join().unwrap().unwrap();
        hung
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_hanging_close_does_not_stop_other_files_from_being_lent() {
        assert!((0..20).any(|_| lends_while_a_close_hangs()), "no close has hung");
    }

    #[test]
    fn no_file_that_was_open_before_stays_in_the_second_table() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        // beyond the numbers of which the second table has none
        let far = rustix::io::fcntl_dupfd_cloexec(&theirs, first_number() + 100).unwrap();
        let end = rustix::io::fcntl_dupfd_cloexec(File::open("/dev/null").unwrap(), first_number() + 200).unwrap();
        let in_it = || {
            let own = own_table(&end).unwrap();
            let listed = fs::read_dir("/proc/thread-self/fd").unwrap();
            let numbers = listed.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse::<RawFd>().unwrap());
            numbers.filter(|number| *number > libc::STDERR_FILENO && *number != own.as_raw_fd()).count()
        };
        // that of the listing
        assert!(thread::scope(|scope| scope.spawn(in_it).join().unwrap()) <= 1);
        drop((far, theirs));
        assert_eq!(std::io::Read::read(&mut &ours, &mut [0]).unwrap(), 0, "a copy is open somewhere");
    }

    #[test]
    fn each_caller_gets_the_copy_of_its_own_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let file = Folder::open_root(dir.path()).unwrap().create_file("image", FILE_MODE).unwrap();
        thread::scope(|scope| {
            for at in 0..4 {
                let (own, file) = (File::create(dir.path().join(at.to_string())).unwrap(), &file);
                scope.spawn(move || {
                    for _ in 0..500 {
                        let ino = file.with_lent(&own, |_, lent| Ok(lent.stat()?.st_ino)).unwrap();
                        assert_eq!(ino, own.stat().unwrap().st_ino);
                    }
                });
            }
        });
    }

    #[test]
    fn a_line_that_logs_when_it_is_written_is_kept() {
        struct Loud;
        impl std::fmt::Display for Loud {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                assert!(keep_line(&Record::builder().args(format_args!("within")).build()));
                f.write_str("line")
            }
        }
        let kept = thread::spawn(|| {
            IS_APART.set(true);
            assert!(keep_line(&Record::builder().args(format_args!("{Loud}")).build()));
            LINES.take().into_iter().map(|(_, _, text)| text).collect::<Vec<_>>()
        });
        assert_eq!(kept.join().unwrap(), ["within", "line"]);
    }

    #[test]
    fn a_panic_continues_in_the_caller() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = Folder::open_root(dir.path()).unwrap().create_file("image", FILE_MODE).unwrap();
        let panics = || {
            file.with(|_| {
                if is_here() {
                    panic!("in the work")
                }
            })
        };
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"in the work"));
        assert!(!is_here());
        file.write_all(b"goes on").unwrap();
        assert_eq!(fs::read(dir.path().join("image")).unwrap(), b"goes on");
    }
}
