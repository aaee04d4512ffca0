//! Every duration that the library waits for or by: what comes of a wait when it is over, and why it has this length. Those that
//! an operator meets stand in docs/operate.md, too.
//!
//! A test shortens waits by the names of their steps (`shorten`), for an agent of its own by `NASBACKUP_LIMITS`, which reads
//! `STEP=MILLISECONDS`, with a semicolon between two. In a library without `test-hooks` there are constants alone.

use std::time::Duration;

/// How long `step` is waited for, which is `limit` unless a test has less time.
#[cfg(not(any(test, feature = "test-hooks")))]
#[inline(always)]
pub(crate) fn within(_: &str, limit: Duration) -> Duration {
    limit
}

#[cfg(any(test, feature = "test-hooks"))]
pub use hooks::shorten;
#[cfg(any(test, feature = "test-hooks"))]
pub(crate) use hooks::{inherited, within};

#[cfg(any(test, feature = "test-hooks"))]
mod hooks {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::sync::LazyLock;
    use std::time::Duration;

    type Limits = BTreeMap<String, Duration>;

    static OF_PROCESS: LazyLock<Limits> = LazyLock::new(|| {
        let text = std::env::var("NASBACKUP_LIMITS").unwrap_or_default();
        let limit = |part: &str| {
            let (step, millis) = part.rsplit_once('=').expect("STEP=MILLISECONDS");
            (step.to_owned(), Duration::from_millis(millis.parse().expect("STEP=MILLISECONDS")))
        };
        text.split_terminator(';').map(limit).collect()
    });

    thread_local! {
        static OF_THREAD: RefCell<Limits> = RefCell::new(OF_PROCESS.clone());
    }

    /// From now on this thread, and those that the library begins for it, wait for these steps no longer than `limit`.
    pub fn shorten(steps: &[&str], limit: Duration) {
        OF_THREAD.with_borrow_mut(|limits| limits.extend(steps.iter().map(|step| ((*step).to_owned(), limit))));
    }

    pub(crate) fn within(step: &str, limit: Duration) -> Duration {
        OF_THREAD.with_borrow(|limits| limits.get(step).map_or(limit, |shorter| limit.min(*shorter)))
    }

    /// Wraps `work` for another thread, which waits as this one does.
    pub(crate) fn inherited<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
        let limits = OF_THREAD.with_borrow(Limits::clone);
        move || {
            OF_THREAD.set(limits);
            work()
        }
    }
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

// The NAS, and the guest's own storage

/// A step of ordinary work on storage fails after it, and work that tells how far it is, when it has said nothing for so long.
/// Storage that answers needs a second; a server that is started again, most of a minute.
pub(crate) const STORAGE_STEP: Duration = seconds(60);
/// The same for what syncs or frees much: some file systems need minutes for a terabyte.
pub(crate) const STORAGE_LONG_STEP: Duration = seconds(600);
/// A step that is begun or awaited after its call's deadline is left to its thread: storage that answers does so within it, on a
/// busy host, too.
pub(crate) const STORAGE_STEP_AFTER_DEADLINE: Duration = seconds(10);
/// A NAS that has not done a few small things by then is refused, before the guest is touched.
pub(crate) const NAS_PROBE: Duration = seconds(20);
/// A look at a lock, or whether the NAS answers at all, is given up.
pub(crate) const NAS_LOOK: Duration = seconds(10);
/// A NAS that hung is refused again if it has not answered by then: one that has recovered answers at once.
pub(crate) const NAS_RECOVERED: Duration = seconds(1);
/// What has shown that it hangs, a NAS or libvirt with it, is left.
pub(crate) const HUNG: Duration = seconds(2);
/// A cancelled push, or look at points, is reported whatever the NAS says: the caller waits, and the error's code does not depend on
/// the answer.
pub(crate) const NAS_AFTER_CANCEL: Duration = seconds(5);
/// The drop of a file leaves its close to a thread: on a NAS that hangs it never ends.
pub(crate) const FILE_CLOSE: Duration = seconds(2);

/// An NFS client that has listed a folder so lately asks for none of its names: half of its `acdirmin`, unless an option changes that.
pub(crate) const NAMES_KNOWN: Duration = seconds(15);

/// The last try to mount ends.
pub(crate) const MOUNT: Duration = seconds(60);
/// A mount and the open of its folder are given up: longer than `MOUNT`.
pub(crate) const MOUNT_AND_OPEN: Duration = seconds(75);
/// The opening of the repository, side by side with the looks at the guest, is given up: longer than `MOUNT_AND_OPEN`.
pub(crate) const OPEN_AND_PROBE: Duration = seconds(100);
/// With less time than this left no further try to mount is begun.
pub(crate) const MOUNT_TRY: Duration = seconds(2);
/// Until the next try to mount: the first time, and at most.
pub(crate) const MOUNT_PAUSES: (Duration, Duration) = (seconds(1), seconds(5));
/// A mount that can't be unmounted is detached.
pub(crate) const UNMOUNT: Duration = seconds(30);
/// Until the next try to unmount what is busy. Its users are closing.
pub(crate) const UNMOUNT_PAUSE: Duration = millis(25);
/// Until the next try to get a loop device: somebody else has locked the one that is free, and is about to take it.
pub(crate) const LOOP_DEVICE_PAUSE: Duration = millis(100);
/// Until the next try to remove a folder that does not get empty: NFS and FUSE keep an open file under another name until it is
/// closed.
pub(crate) const REMOVAL_PAUSE: Duration = millis(250);

/// A claim on an instance whose counter stood still for so long has expired.
pub(crate) const CLAIM: Duration = seconds(30);
/// A lock that stale claims of other hosts delay is given up: first a writer's claim, then those of readers.
pub(crate) const CLAIM_WAIT: Duration = CLAIM.saturating_mul(2);
/// Until a claim is renewed: often enough that several in a row may fail.
pub(crate) const CLAIM_RENEWAL: Duration = seconds(5);
/// A claim that could not be removed is left to the thread that renews it, which hangs with the NAS, or to expire.
pub(crate) const CLAIM_REMOVAL: Duration = seconds(5);

/// The first user of the second table of descriptors goes on without it: before Linux 5.9 it closes a copy of each open file.
pub(crate) const SECOND_TABLE: Duration = seconds(10);
/// An idle thread of the second table ends: the next file is seldom later.
pub(crate) const SECOND_TABLE_IDLE: Duration = seconds(30);
/// Until the next try to start a thread there.
pub(crate) const SECOND_TABLE_PAUSE: Duration = millis(100);

// libvirt and its jobs

/// A question to libvirt, or to begin or abort a job, is given up: QEMU answers in a second, or hangs.
pub(crate) const LIBVIRT_CALL: Duration = seconds(60);
/// Until the next question whether libvirt's daemon is alive: the connection to one that has left six unanswered is closed.
pub(crate) const LIBVIRT_KEEPALIVE: Duration = seconds(5);
/// A question for a domain's state, or of a job's speed, is given up.
pub(crate) const LIBVIRT_STATE: Duration = seconds(10);
/// A backup under way fails when libvirt was out of reach for so long. A restart takes less.
pub(crate) const LIBVIRT_RECONNECT: Duration = seconds(120);
/// A QEMU that has not answered a question for so long hangs. Others in the agent ask QEMU for statistics, too.
pub(crate) const QEMU_MONITOR: Duration = seconds(10);
/// An aborted job that has not ended on storage that answers is left behind.
pub(crate) const JOB_ABORT: Duration = seconds(20);
/// A job that a killed process has left behind, aborted, is left for the next call: less than `LIBVIRT_CALL`, in which that is done.
pub(crate) const LEFT_JOB_ABORT: Duration = seconds(50);
/// A job that nothing keeps from ending, and whose end libvirt does not report, is left behind. One thread of libvirt handles the
/// ends of all jobs on the host, and waits 30 s for each guest that crashes during its backup.
pub(crate) const JOB_END: Duration = seconds(180);
/// The files of a machine's state (UEFI variables, TPM) are left out of its point: its guest may be frozen until they are read.
pub(crate) const MACHINE_STATE: Duration = seconds(5);
/// A domain that has not shown by then, after its shutdown event, that it only restarted, has stopped.
pub(crate) const RESTART: Duration = millis(500);
/// libvirt is asked instead of QEMU whether the targets are closed.
pub(crate) const TARGETS_CLOSED: Duration = seconds(5);
/// The last look at the sizes of a push's targets is left out. It is for the progress alone.
pub(crate) const TARGETS_LOOK: Duration = seconds(2);
/// A failed push is reported though no event has named the disk.
pub(crate) const FAULTY_DISK: Duration = millis(300);
/// The guest whose export is gone runs, if libvirt has not said by then that it stopped.
pub(crate) const GUEST_STOPPED: Duration = seconds(1);
/// An abort waits no longer for the reader to fetch what is due: a guest that runs out of scratch can't wait.
pub(crate) const REPLIES: Duration = seconds(1);
/// A reader or writer that was told to stop, and does not, hangs with its storage.
pub(crate) const COPY_STOP: Duration = millis(500);
/// The same of a restore, in which a sync may be under way.
pub(crate) const RESTORE_STOP: Duration = seconds(10);
/// The check of the scratch is given up, while the guest suffers.
pub(crate) const SCRATCH_CHECK: Duration = seconds(5);
/// After an abort QEMU may write to the scratch for so long.
pub(crate) const SCRATCH_ABORT: Duration = seconds(1);
/// A guest that has not written for so long is quiet, and the reader goes at full speed again.
pub(crate) const GUEST_QUIET: Duration = millis(100);
/// As much as a reader that is late may catch up.
pub(crate) const RATE_SLACK: Duration = millis(500);

// The guest's file systems

/// The call goes on, and the thread that thaws goes on trying.
pub(crate) const THAW: Duration = seconds(20);
/// The thread gives up to thaw.
pub(crate) const THAW_PATIENCE: Duration = seconds(3600);
/// Until the next try to thaw.
pub(crate) const THAW_PAUSE: Duration = seconds(2);
/// Until the next look at a guest that does not run, and so can't be thawed.
pub(crate) const THAW_IDLE_PAUSE: Duration = seconds(10);
/// The agent in the guest gets no less for an answer: libvirt knows no bound of zero.
pub(crate) const AGENT_LEAST: Duration = seconds(1);

// A call

/// A copied backup that is not published by then, after its deadline, fails. The caller waits for twice that.
pub(crate) const PUBLICATION: Duration = seconds(60);
/// With less time left a step on the NAS is not begun: a NAS that answers may need more.
pub(crate) const STEP_LEAST: Duration = seconds(1);
/// The library's load goes on, and what killed processes have left is undone behind it. A backup of a machine of which something
/// is still being undone is given up.
pub(crate) const RECOVERY: Duration = seconds(60);

/// A guest that boots and has not shown by then what is waited for is bad. An old one on a slow NAS takes minutes.
pub(crate) const BOOT: Duration = seconds(600);
/// The agent of a guest that boots is asked again.
pub(crate) const BOOT_AGENT: Duration = seconds(5);

// Tools

/// `qemu-img` is killed: it writes a few clusters.
pub(crate) const QEMU_IMG: Duration = seconds(120);
/// `rbd`, or the open of an image in Ceph by `qemu-nbd`, is given up. CloudStack gives Ceph 30 s.
pub(crate) const CEPH: Duration = seconds(60);
/// `qemu-nbd` is killed. Its end takes milliseconds if Ceph answers.
pub(crate) const QEMU_NBD_END: Duration = seconds(3);
/// A killed process that is not gone by then hangs in its storage, and is left behind.
pub(crate) const KILLED: Duration = seconds(5);

// What is told of operations

/// An operation is not told of while another process of this host tells of its own: that takes milliseconds.
pub(crate) const METRICS_LOCK: Duration = seconds(5);
/// An operation that has ended is answered, and what tells of it is left to its thread: longer than `METRICS_LOCK`.
pub(crate) const METRICS: Duration = seconds(10);

// Between two looks

/// Whether a process that has little left to do has ended.
pub(crate) const SHORT_LOOK: Duration = millis(2);
/// Whether a tool has ended, whether a server's backlog has room again.
pub(crate) const TOOL_LOOK: Duration = millis(5);
/// Whether somebody still has an output open.
pub(crate) const HOLDER_LOOK: Duration = millis(20);
/// Whether a copy is to stop, how full the scratch is.
pub(crate) const COPY_LOOK: Duration = millis(50);
/// Whether the caller has cancelled, its deadline has passed, or an aborted job has ended.
pub(crate) const CALLER_LOOK: Duration = millis(100);
/// At how far a job is, of which the listener is told, and whether the lock is still ours.
pub(crate) const JOB_LOOK: Duration = millis(250);
/// At what may last: a job that nobody can end, an event loop that fails at once.
pub(crate) const LONG_LOOK: Duration = seconds(1);
/// libnbd waits for whole milliseconds.
pub(crate) const NBD_LEAST: Duration = millis(1);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// What the operator reads is what is waited: each row names its constant, and no long wait is left out.
    #[test]
    fn the_table_of_the_limits_says_what_holds() {
        let source = include_str!("limits.rs");
        let constants = source.lines().filter_map(|line| {
            let (name, value) = line.strip_prefix("pub(crate) const ")?.split_once(": Duration = seconds(")?;
            Some((name, value.strip_suffix(");")?))
        });
        let section = include_str!("../docs/operate.md")
            .split("\n## ")
            .find(|text| text.starts_with("How long the library waits"));
        let rows = section.unwrap().lines().filter_map(|line| {
            let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
            let seconds = rest.split(" | ").next()?;
            (name.len() > 2
                && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
                && seconds.bytes().all(|byte| byte.is_ascii_digit()))
            .then_some((name, seconds))
        });
        let all: BTreeMap<_, _> = constants.collect();
        let told: Vec<_> = rows.collect();
        for (name, seconds) in &told {
            assert_eq!(all.get(name), Some(seconds), "{name} in docs/operate.md");
        }
        // what nobody meets is shorter, but for an idle thread's end
        let met = |name: &str, seconds: &str| seconds.parse::<u64>().unwrap() >= 20 && !name.ends_with("_IDLE");
        let long = all.iter().filter(|(name, seconds)| met(name, seconds));
        for (name, _) in long {
            assert!(told.iter().any(|(row, _)| row == name), "{name} is not in docs/operate.md");
        }
    }

    #[test]
    fn what_is_shortened_is_so_for_this_thread_and_those_it_begins() {
        let (long, short) = (seconds(60), millis(5));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                shorten(&["one"], short);
                assert_eq!(
                    [within("one", long), within("other", long), within("one", millis(1))],
                    [short, long, millis(1)]
                );
                let work = inherited(|| within("one", long));
                assert_eq!(scope.spawn(work).join().unwrap(), short);
            });
        });
        assert_eq!(within("one", long), long);
    }
}
