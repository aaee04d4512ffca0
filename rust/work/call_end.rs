//! The end of a call, which no step of it is waited for beyond.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::limits;

thread_local! {
    static END: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Until the drop of this value, this thread waits for no step beyond the call's end, whatever the step's own limit.
#[derive(Debug)]
#[must_use]
pub struct CallEnds {
    before: Option<Instant>,
    // the drop has to run on this thread
    _not_send: std::marker::PhantomData<*const ()>,
}

impl CallEnds {
    /// The call ends at this moment.
    pub fn at(end: Instant) -> CallEnds {
        CallEnds { before: END.replace(Some(end)), _not_send: std::marker::PhantomData }
    }
}

impl Drop for CallEnds {
    fn drop(&mut self) {
        END.set(self.before);
    }
}

/// How long this thread waits for a step with this `limit`, within the call that the thread serves.
pub fn within_call(limit: Duration) -> Duration {
    END.get().map_or(limit, |end| {
        let least = limits::within("a step after the deadline", limits::STORAGE_STEP_AFTER_DEADLINE);
        limit.min(end.saturating_duration_since(Instant::now()).max(least))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::deadline::bounded;

    #[test]
    fn no_step_outlasts_its_call_and_each_gets_the_least() {
        let hour = Duration::from_secs(3600);
        assert_eq!(within_call(hour), hour);
        {
            let _ends = CallEnds::at(Instant::now() + 2 * limits::STORAGE_STEP);
            assert_eq!(within_call(limits::STORAGE_STEP), limits::STORAGE_STEP);
            assert!((limits::STORAGE_STEP..=2 * limits::STORAGE_STEP).contains(&within_call(hour)));
            {
                let _over = CallEnds::at(Instant::now());
                assert_eq!(
                    (within_call(hour), within_call(Duration::ZERO)),
                    (limits::STORAGE_STEP_AFTER_DEADLINE, Duration::ZERO)
                );
                // what it begins has a limit of its own, and may clear up when the call is over
                assert_eq!(bounded("deeper", hour, move || Ok(within_call(hour))).unwrap(), hour);
            }
            assert!(within_call(hour) >= limits::STORAGE_STEP);
        }
        assert_eq!(within_call(hour), hour);
    }
}
