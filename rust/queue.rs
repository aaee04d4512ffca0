//! Places for the backups that run at the same time, given in the order in which they were asked for.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::Result;

/// Between two looks at whether to go on waiting.
const TICK: Duration = Duration::from_millis(100);

/// The places of this host's backups.
pub(crate) static BACKUPS: Queue = Queue::new();

/// A number of places and those who wait for one.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    taken: usize,
    asked: u64,
    waiting: VecDeque<u64>,
}

/// A place; dropped, it is the next one's.
#[derive(Debug)]
pub(crate) struct Place<'a>(&'a Queue);

/// A turn that has not come yet; dropped, it is given up.
struct Turn<'a> {
    queue: &'a Queue,
    number: u64,
}

impl Queue {
    const fn new() -> Queue {
        let state = State { taken: 0, asked: 0, waiting: VecDeque::new() };
        Queue { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Waits for one of `places`. While it waits `go_on` is asked several times a second, and its error ends that.
    pub(crate) fn enter(&self, places: usize, mut go_on: impl FnMut() -> Result<()>) -> Result<Place<'_>> {
        let turn = self.ask();
        loop {
            if let Some(place) = turn.take(places) {
                return Ok(place);
            }
            go_on()?;
        }
    }

    fn ask(&self) -> Turn<'_> {
        let mut state = self.lock();
        state.asked += 1;
        let number = state.asked;
        state.waiting.push_back(number);
        Turn { queue: self, number }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Turn<'a> {
    /// Waits a little for a place. The first try does not wait at all for one that is free.
    fn take(&self, places: usize) -> Option<Place<'a>> {
        let mine = |state: &State| state.taken < places && state.waiting.front() == Some(&self.number);
        let (state, waits) = (self.queue.lock(), |state: &mut State| !mine(state));
        let waited = self.queue.changed.wait_timeout_while(state, TICK, waits);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        mine(&state).then(|| {
            state.waiting.pop_front();
            state.taken += 1;
            Place(self.queue)
        })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.queue.lock().waiting.retain(|number| *number != self.number);
        self.queue.changed.notify_all();
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.lock().taken -= 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Code, Error};
    use std::sync::mpsc;

    fn stop() -> Result<()> {
        Err(Error::new(Code::Cancelled, "wait", "enough"))
    }

    #[test]
    fn places_are_given_in_the_order_of_asking() {
        let queue = Queue::new();
        let places = [queue.enter(2, stop).unwrap(), queue.enter(2, stop).unwrap()];
        let (got, order) = mpsc::channel();
        std::thread::scope(|scope| {
            for number in 0..3 {
                let (queue, got) = (&queue, got.clone());
                scope.spawn(move || {
                    let place = queue.enter(2, || Ok(())).unwrap();
                    got.send(number).unwrap();
                    drop(place);
                });
                while queue.lock().waiting.len() <= number {
                    std::thread::yield_now();
                }
            }
            assert!(order.try_recv().is_err());
            // One place: whoever has it gives it to the next.
            let [first, _second] = places;
            drop(first);
            assert_eq!(order.iter().take(3).collect::<Vec<_>>(), [0, 1, 2]);
        });
    }

    #[test]
    fn who_gives_up_holds_nobody_up() {
        let queue = Queue::new();
        let place = queue.enter(1, stop).unwrap();
        assert_eq!(queue.enter(1, stop).unwrap_err().code, Code::Cancelled);
        drop(place);
        queue.enter(1, stop).unwrap();
    }

    #[test]
    fn more_places_let_more_in() {
        let queue = Queue::new();
        let _one = queue.enter(1, stop).unwrap();
        let _other = queue.enter(2, stop).unwrap();
        queue.enter(1, stop).unwrap_err();
    }
}
