//! Several works of one kind, some at a time, by threads that another one waits for.

use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};

use super::owner::keep_owner;
use crate::error::{Code, Error, Result};

/// Does the works, `at_once` at a time, on this thread and on others that are called `step`. What became of each, in their order; by then
/// all have ended. Where no more threads can be started, fewer do all of it.
pub(crate) fn side_by_side<W: Send, T: Send>(
    step: &str,
    at_once: usize,
    works: impl IntoIterator<Item = W>,
    work: impl Fn(W) -> T + Sync,
) -> Vec<T> {
    let works: Vec<_> = works.into_iter().enumerate().collect();
    let at_once = at_once.min(works.len());
    let works = Mutex::new(works.into_iter());
    let next = || works.lock().unwrap_or_else(PoisonError::into_inner).next();
    let some = || {
        let mut done = Vec::new();
        while let Some((i, one)) = next() {
            done.push((i, work(one)));
        }
        done
    };
    let mut done = thread::scope(|scope| {
        let begin = |_| thread::Builder::new().name(step.to_owned()).spawn_scoped(scope, keep_owner(some));
        let begin = |i| begin(i).inspect_err(|error| log::info!("{step}: fewer threads do it: {error}")).ok();
        let begun: Vec<_> = (1..at_once).map_while(begin).collect();
        let end = |thread: ScopedJoinHandle<'_, _>| thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        let own = some();
        begun.into_iter().flat_map(end).chain(own).collect::<Vec<_>>()
    });
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, done)| done).collect()
}

/// Begins `count` threads that do `work` together, each with its number, for whom this one works. Those that can be started do all of it:
/// returns how many; `IO` if none can.
pub(crate) fn begin_threads<'scope>(
    scope: &'scope Scope<'scope, '_>,
    step: &'static str,
    count: usize,
    work: impl Fn(usize) + Copy + Send + 'scope,
) -> Result<usize> {
    for number in 0..count {
        let work = keep_owner(move || work(number));
        let begun = thread::Builder::new().name(format!("{step} {number}")).spawn_scoped(scope, work);
        match begun {
            Ok(_) => {}
            Err(error) if number == 0 => {
                return Err(Error::new(Code::Io, step, format!("unable to start a thread - {error}")));
            }
            Err(error) => {
                log::warn!("{step}: unable to start more than {number} threads, going on with these: {error}");
                return Ok(number);
            }
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;
    use crate::work::owner::{Cancel, WorkFor};

    #[test]
    fn so_many_are_done_at_a_time_and_answered_in_their_order() {
        let (at_once, running) = (Barrier::new(3), AtomicUsize::new(0));
        let work = |i: usize| {
            let others = running.fetch_add(1, SeqCst);
            at_once.wait();
            running.fetch_sub(1, SeqCst);
            (i, others < 3)
        };
        assert_eq!(side_by_side("meet", 3, 0..9, work), (0..9).map(|i| (i, true)).collect::<Vec<_>>());
        assert!(side_by_side("do nothing", 3, Vec::new(), work).is_empty());
    }

    #[test]
    fn its_threads_work_for_whom_this_one_does() {
        let cancel = Cancel::default();
        let _on = WorkFor::job("nfs 'side:/'", "", cancel.clone());
        cancel.set();
        let both = Barrier::new(2);
        let ask = |_| {
            both.wait();
            Cancel::of_job().is_set()
        };
        assert_eq!(side_by_side("ask", 2, 0..2, ask), [true, true]);
    }
}
