//! The speed of a job, from what it has done in the last seconds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What lies further back says nothing of now.
const WINDOW: Duration = Duration::from_secs(10);
/// Less time than this tells no speed.
const LEAST: Duration = Duration::from_millis(500);
/// What comes sooner after the one before is not kept.
const STEP: Duration = Duration::from_millis(100);

/// Bytes done at some moments, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Speed(VecDeque<(Instant, u64)>);

impl Speed {
    /// By `now` so many bytes are done.
    pub(crate) fn note(&mut self, now: Instant, done: u64) {
        if self.0.back().is_some_and(|(_, before)| *before > done) {
            self.0.clear();
        }
        if self.0.back().is_some_and(|(last, _)| now.duration_since(*last) < STEP) {
            return;
        }
        self.0.push_back((now, done));
        // The first one kept may lie just before the window.
        while self.0.get(1).is_some_and(|(second, _)| now.duration_since(*second) >= WINDOW) {
            self.0.pop_front();
        }
    }

    /// Bytes a second; `None` while too little is known.
    pub(crate) fn bytes_per_second(&self, now: Instant) -> Option<u64> {
        let ((first, had), (last, done)) = (self.0.front()?, self.0.back()?);
        let known = last.duration_since(*first);
        // Since then it may have come to a halt.
        let passed = if now.duration_since(*last) > known.max(LEAST) { now.duration_since(*first) } else { known };
        (known >= LEAST).then(|| ((done - had) as f64 / passed.as_secs_f64()) as u64)
    }
}

/// Milliseconds until all of `total` bytes are done; `None` when that can't be known.
pub(crate) fn remaining_millis(done: u64, total: u64, bytes_per_second: Option<u64>) -> Option<u64> {
    let speed = bytes_per_second.filter(|speed| *speed > 0)?;
    (total > 0).then(|| (u128::from(total.saturating_sub(done)) * 1000 / u128::from(speed)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_that_of_the_last_seconds() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut speed = Speed::default();
        assert_eq!(speed.bytes_per_second(at(0)), None);
        for (millis, done, expected) in [
            (0, 1000, None),
            (250, 1500, None),
            (499, 1998, None),
            (600, 2200, Some(2000)),
            (1000, 3000, Some(2000)),
            // it rests
            (5000, 3000, Some(400)),
            (10_000, 3000, Some(200)),
            // from 1000 ms on there was nothing
            (11_000, 3000, Some(0)),
            (12_000, 3600, Some(54)),
            // begun anew
            (12_500, 0, None),
            (13_000, 50, Some(100)),
        ] {
            speed.note(at(millis), done);
            assert_eq!(speed.bytes_per_second(at(millis)), expected, "at {millis} ms");
        }
        // nobody says anything any more
        assert_eq!(speed.bytes_per_second(at(13_200)), Some(100));
        assert_eq!(speed.bytes_per_second(at(17_500)), Some(10));
    }

    #[test]
    fn what_remains_is_known_when_the_whole_and_the_speed_are() {
        for (done, total, speed, expected) in [
            (10, 100, Some(30), Some(3000)),
            (100, 100, Some(30), Some(0)),
            (110, 100, Some(30), Some(0)),
            (10, 0, Some(30), None),
            (10, 100, Some(0), None),
            (10, 100, None, None),
            (0, u64::MAX / 2, Some(1_000_000_000), Some(9_223_372_036_854)),
        ] {
            assert_eq!(remaining_millis(done, total, speed), expected, "{done} of {total} at {speed:?}");
        }
    }
}
