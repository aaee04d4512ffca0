//! Moves data from a file to a target by reading and writing, several parts at once: a server that is milliseconds away does all that
//! it is asked for in about the time of one request.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::direct::{Buffer, Direct};
use super::storage::{Storage, read_padded};
use crate::work::side_by_side::begin_threads;

/// Bytes of a part.
const PART: u64 = 2 << 20;
/// Parts in memory, and threads that read and write them.
const AT_ONCE: usize = 8;

/// The file is at fault, and not the target; with the error.
pub type Fault = (bool, io::Error);

/// What a thread is to do, and then has done, with the part at an offset.
enum Work {
    Read(u64, Buffer),
    Write(u64, Buffer),
}

/// What is copied, and to where.
struct Copy<'a, T> {
    target: &'a T,
    to: u64,
    source: &'a Direct,
    from: u64,
    length: u64,
}

/// Reads and writes for as long as it goes on, which is asked between two writes. How many bytes, without a gap.
pub(super) fn copy<T: Storage>(
    target: &T,
    to: u64,
    (source, from): (&Direct, u64),
    length: u64,
    buffer: &mut Buffer,
    goes_on: &mut dyn FnMut() -> bool,
) -> Result<u64, Fault> {
    let copy = &Copy { target, to, source, from, length };
    if length <= PART {
        return copy.first_part(buffer);
    }
    let (ask, asked) = mpsc::channel();
    let (tell, told) = mpsc::channel();
    let (asked, tell) = (&Mutex::new(asked), &tell);
    thread::scope(move |scope| {
        let most = AT_ONCE.min(usize::try_from(length.div_ceil(PART)).unwrap_or(AT_ONCE));
        let begun = begin_threads(scope, "copy", most, move |_| copy.work(asked, tell));
        let Ok(threads) = begun.inspect_err(|error| log::debug!("{error}")) else { return copy.first_part(buffer) };
        let answer = || match told.recv() {
            Ok(done) => done.unwrap_or_else(|panic| resume_unwind(panic)),
            Err(_) => Err((true, io::Error::other("the threads that copy have ended"))),
        };
        have_copied((length, threads), &|work| _ = ask.send(work), &answer, goes_on)
    })
}

/// Has the parts read, and written in their order. Nothing waits for a thread, so that a write begins right after the question.
fn have_copied(
    (length, threads): (u64, usize),
    ask: &dyn Fn(Work),
    answer: &dyn Fn() -> Result<Work, Fault>,
    goes_on: &mut dyn FnMut() -> bool,
) -> Result<u64, Fault> {
    let mut free: Vec<_> = (0..threads).map(|_| Buffer::default()).collect();
    let (mut read, mut to_read, mut to_write) = (BTreeMap::<_, Buffer>::new(), 0, 0);
    let (mut unanswered, mut ended, mut failed) = (0, false, None);
    loop {
        while !ended && let Some(buffer) = read.remove(&to_write) {
            ended = to_write > 0 && !goes_on();
            if !ended {
                let at = to_write;
                to_write += buffer.len() as u64;
                ask(Work::Write(at, buffer));
                unanswered += 1;
            }
        }
        while !ended
            && to_read < length
            && let Some(buffer) = free.pop()
        {
            ask(Work::Read(to_read, buffer));
            to_read += PART;
            unanswered += 1;
        }
        if unanswered == 0 {
            return failed.map_or(Ok(to_write), Err);
        }
        unanswered -= 1;
        match answer() {
            Ok(Work::Read(at, buffer)) => _ = read.insert(at, buffer),
            Ok(Work::Write(_, buffer)) => free.push(buffer),
            Err(fault) => {
                failed.get_or_insert(fault);
                ended = true;
            }
        }
    }
}

impl<T: Storage> Copy<'_, T> {
    /// Little is written by the kernel, which does it while the next is read, and joins what lies together in the target.
    fn first_part(&self, buffer: &mut Buffer) -> Result<u64, Fault> {
        self.read(0, buffer)?;
        self.target.write_at(buffer, self.to).map(|()| buffer.len() as u64).map_err(|error| (false, error))
    }

    fn read(&self, at: u64, buffer: &mut Buffer) -> Result<(), Fault> {
        let made = buffer.resize(usize::try_from((self.length - at).min(PART)).unwrap_or(0));
        made.and_then(|()| read_padded(self.source, buffer, self.from + at)).map_err(|error| (true, error))
    }

    /// Does what is asked for, until nobody can ask any more.
    fn work(&self, asked: &Mutex<Receiver<Work>>, tell: &Sender<thread::Result<Result<Work, Fault>>>) {
        let next = || asked.lock().unwrap_or_else(PoisonError::into_inner).recv();
        while let Ok(work) = next() {
            let done = || match work {
                Work::Read(at, mut buffer) => self.read(at, &mut buffer).map(|()| Work::Read(at, buffer)),
                Work::Write(at, buffer) => {
                    let written = self.target.write_past_cache(&buffer, self.to + at);
                    written.map(|()| Work::Write(at, buffer)).map_err(|error| (false, error))
                }
            };
            // an answer is waited for, whatever happens
            _ = tell.send(catch_unwind(AssertUnwindSafe(done)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::VecDeque;
    use std::fs::File;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use rustix::io::Errno;

    use super::*;
    use crate::error::errno;
    use crate::qcow2::storage::Source;
    use crate::qcow2::transfer::Route;

    /// A target that takes so many bytes, and counts those that were to go past the page cache, which each do something before.
    struct Small(Direct, u64, AtomicU64, fn());

    impl Small {
        fn new(most: u64) -> Small {
            Small(Direct::new(file()), most, AtomicU64::new(0), || ())
        }

        fn has_room(&self, data: &[u8], offset: u64) -> io::Result<()> {
            if offset + data.len() as u64 <= self.1 { Ok(()) } else { Err(Errno::NOSPC.into()) }
        }
    }

    impl Source for Small {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            self.0.read_at(buffer, offset)
        }

        fn length(&self) -> io::Result<u64> {
            self.0.length()
        }
    }

    impl Storage for Small {
        fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
            self.has_room(data, offset)?;
            self.0.write_at(data, offset)
        }

        fn write_past_cache(&self, data: &[u8], offset: u64) -> io::Result<()> {
            self.3();
            self.has_room(data, offset)?;
            self.2.fetch_add(data.len() as u64, Relaxed);
            self.0.write_past_cache(data, offset)
        }

        fn set_length(&self, length: u64) -> io::Result<()> {
            self.0.set_length(length)
        }

        fn sync(&self) -> io::Result<()> {
            self.0.sync()
        }

        fn clone_from(&self, _: u64, _: &File, _: u64, _: u64) -> io::Result<()> {
            Err(Errno::OPNOTSUPP.into())
        }

        fn copy_from(&self, _: u64, _: &File, _: u64, _: u64) -> io::Result<u64> {
            Err(Errno::OPNOTSUPP.into())
        }
    }

    /// In a folder of the build, which lies on a disk.
    fn file() -> File {
        tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap()
    }

    /// Copies that many bytes from the beginning of the one to that of the other.
    fn copy_first(target: &Small, source: &Direct, length: u64) -> Result<u64, Fault> {
        copy(target, 0, (source, 0), length, &mut Buffer::default(), &mut || true)
    }

    /// A source of that many bytes, none of its blocks like another, and what it holds.
    fn source(length: u64) -> (File, Vec<u8>) {
        let content: Vec<u8> =
            (0..length / 8).flat_map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
        let file = file();
        file.write_at(&content, 0).unwrap();
        (file, content)
    }

    #[test]
    fn what_the_kernel_does_not_copy_is_read_and_written_byte_for_byte() {
        let (source, content) = source(7 * PART + 4096);
        for (from, to, length) in [
            (0, 0, 8),
            (4096, 1 << 16, PART),
            (512, 100, PART + 1),
            (0, 1 << 16, 7 * PART + 4096),
            (3 * PART, 0, 4 * PART + 4000),
            // behind the source's end are zeroes
            (6 * PART, 4096, 3 * PART),
        ] {
            let target = Small::new(u64::MAX);
            let (mut route, mut done) = (Route::new(content.len() as u64), 0);
            while done < length {
                let moved = route
                    .step(&target, to + done, (&source, from + done), (length - done, false), &mut || true)
                    .unwrap();
                assert!(moved.cloned == 0 && moved.copied > 0);
                done += moved.copied;
            }
            let mut read = vec![1; usize::try_from(length).unwrap()];
            read_padded(&target, &mut read, to).unwrap();
            let mut expected = content[usize::try_from(from).unwrap()..].to_vec();
            expected.resize(read.len(), 0);
            assert!(read == expected, "{length} bytes from {from} to {to}");
            assert_eq!(target.2.load(Relaxed), if length > PART { length } else { 0 });
        }
    }

    #[test]
    fn nothing_is_written_once_the_work_is_to_end() {
        let (source, content) = source(9 * PART);
        for writes in 1..=9 {
            let (target, mut asked) = (Small::new(u64::MAX), 0);
            let mut goes_on = || {
                asked += 1;
                asked < writes
            };
            let mut route = Route::new(9 * PART);
            let moved = route.step(&target, 0, (&source, 0), (9 * PART, false), &mut goes_on).unwrap();
            assert_eq!((moved.copied, target.length().unwrap()), (writes * PART, writes * PART));
            let mut read = vec![0; usize::try_from(writes * PART).unwrap()];
            read_padded(&target, &mut read, 0).unwrap();
            assert!(read == content[..read.len()], "{writes}");
        }
    }

    #[test]
    fn as_many_parts_are_written_at_once_as_there_are_threads() {
        static ALL: Barrier = Barrier::new(AT_ONCE);
        let (source, content) = source(AT_ONCE as u64 * PART);
        // one alone would wait for the others for ever
        let meet = || _ = ALL.wait();
        let target = Small(Direct::new(file()), u64::MAX, AtomicU64::new(0), meet);
        let copied = copy_first(&target, &Direct::new(source), AT_ONCE as u64 * PART).unwrap();
        let mut read = vec![0; content.len()];
        read_padded(&target, &mut read, 0).unwrap();
        assert!(copied == AT_ONCE as u64 * PART && read == content);
    }

    #[test]
    fn no_more_is_asked_for_than_there_are_threads() {
        for threads in [1, 3, 8] {
            let (asked, written) = (RefCell::new(VecDeque::new()), Cell::new(0));
            let ask = |work| {
                asked.borrow_mut().push_back(work);
                assert!(asked.borrow().len() <= threads);
            };
            let answer = || match asked.borrow_mut().pop_front().unwrap() {
                Work::Read(at, mut buffer) => {
                    buffer.resize(usize::try_from(PART).unwrap()).unwrap();
                    Ok(Work::Read(at, buffer))
                }
                Work::Write(at, buffer) => {
                    assert_eq!(at, written.replace(at + PART));
                    Ok(Work::Write(at, buffer))
                }
            };
            let copied = have_copied((20 * PART, threads), &ask, &answer, &mut || true).unwrap();
            assert_eq!((copied, written.get()), (20 * PART, 20 * PART), "{threads}");
        }
    }

    #[test]
    fn a_panic_of_one_thread_is_the_panic_of_all() {
        let (source, _) = source(9 * PART);
        let target = Small(Direct::new(file()), u64::MAX, AtomicU64::new(0), || panic!("of a part"));
        let copied = catch_unwind(AssertUnwindSafe(|| copy_first(&target, &Direct::new(source), 9 * PART)));
        assert_eq!(copied.unwrap_err().downcast_ref(), Some(&"of a part"));
    }

    #[test]
    fn a_file_at_fault_ends_the_copy_and_is_told() {
        let (source, _) = source(9 * PART);
        for taken in [0, PART, 5 * PART + 1] {
            let target = Small::new(taken);
            let failed = copy_first(&target, &Direct::new(source.try_clone().unwrap()), 9 * PART).unwrap_err();
            assert!(!failed.0 && errno(&failed.1) == Some(Errno::NOSPC), "{taken}: {failed:?}");
        }
        let target = Small::new(u64::MAX);
        let folder = File::open(env!("CARGO_MANIFEST_DIR")).unwrap();
        for length in [PART, 9 * PART] {
            let folder = Direct::new(folder.try_clone().unwrap());
            let failed = copy_first(&target, &folder, length).unwrap_err();
            assert!(failed.0 && errno(&failed.1) == Some(Errno::ISDIR), "{length}: {failed:?}");
        }
    }
}
