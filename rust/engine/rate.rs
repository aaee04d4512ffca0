//! Limits on the bytes a second that backups read: one for each backup, and one that all backups of this process share.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::limits;
use crate::qcow2::CLUSTER;

/// The queue of all backups of this process.
static HOST: RateQueue = RateQueue::new();

/// The limits of one backup, in bytes a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate {
    /// The limit of this backup.
    pub own: Option<u64>,
    /// The limit of all backups of this host together.
    pub host: Option<u64>,
}

impl Rate {
    /// The limit for one of `backups` that run at the same time and don't know how much the others read.
    pub fn share_of(self, backups: u64) -> Option<u64> {
        let host = self.host.map(|rate| (rate / backups.max(1)).max(1));
        [self.own, host].into_iter().flatten().min()
    }
}

/// Applies the limits of one backup.
#[derive(Debug)]
pub struct Limiter {
    rate: Rate,
    own: RateQueue,
}

impl Limiter {
    /// A limiter of a backup that has read nothing yet.
    pub fn new(rate: Rate) -> Limiter {
        Limiter { rate, own: RateQueue::new() }
    }

    /// The most bytes of one request: what the limit allows in a tenth of a second, in whole clusters.
    pub(super) fn most(&self) -> usize {
        let rate = [self.rate.own, self.rate.host].into_iter().flatten().min();
        rate.map_or(usize::MAX, |rate| ((rate / 10 / CLUSTER).max(1) * CLUSTER) as usize)
    }

    /// Reserves the next place in the queue for a request of so many bytes, and returns when the request may be sent.
    pub(super) fn reserve(&self, now: Instant, bytes: u64) -> Instant {
        let own = self.rate.own.map(|rate| self.own.reserve(rate, now, bytes));
        let host = self.rate.host.map(|rate| HOST.reserve(rate, now, bytes));
        own.max(host).unwrap_or(now)
    }

    /// Waits until so many bytes may be read. Calls `go_on` several times a second; its error ends the wait.
    pub fn wait<E>(&self, bytes: u64, go_on: impl Fn() -> Result<(), E>) -> Result<(), E> {
        let at = self.reserve(Instant::now(), bytes);
        loop {
            go_on()?;
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(limits::CALLER_LOOK));
        }
    }
}

/// Requests that follow each other at a rate; holds when the next may be sent.
#[derive(Debug)]
struct RateQueue(Mutex<Option<Instant>>);

impl RateQueue {
    const fn new() -> RateQueue {
        RateQueue(Mutex::new(None))
    }

    fn reserve(&self, rate: u64, now: Instant, bytes: u64) -> Instant {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(limits::RATE_SLACK).unwrap_or(now);
        let at = free.map_or(now, |free| free.max(earliest));
        *free = Some(at + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64));
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn requests_follow_each_other_at_the_rate() {
        let (start, queue) = (Instant::now(), RateQueue::new());
        let millis = Duration::from_millis;
        // asked at, bytes, may be sent at
        for (asked, bytes, goes) in [
            (0, MIB, 0),
            (0, 2 * MIB, 100),
            (1, MIB, 300),
            // late by 50 ms, which the next one catches up on
            (450, MIB, 400),
            (450, MIB, 500),
            // after a rest a reader may catch up on half a second only
            (5000, MIB, 4500),
            (5000, MIB, 4600),
        ] {
            let at = queue.reserve(10 * MIB, start + millis(asked), bytes);
            assert_eq!(at, start + millis(goes), "asked at {asked} ms");
        }
    }

    #[test]
    fn the_stricter_limit_counts() {
        let limiter = |own, host| Limiter::new(Rate { own, host });
        for (own, host, most) in [
            (None, None, usize::MAX),
            (Some(100 * MIB), None, 10 << 20),
            (Some(100 * MIB), Some(10 * MIB), 1 << 20),
            (Some(MIB / 2), Some(10 * MIB), 1 << 16),
        ] {
            assert_eq!(limiter(own, host).most(), most);
        }
        let (now, none) = (Instant::now(), limiter(None, None));
        assert_eq!((none.reserve(now, MIB), none.reserve(now, MIB)), (now, now));
        for (own, host, share) in [
            (None, None, None),
            (Some(5), None, Some(5)),
            (None, Some(8), Some(2)),
            (Some(1), Some(8), Some(1)),
            (Some(5), Some(8), Some(2)),
        ] {
            assert_eq!(Rate { own, host }.share_of(4), share);
        }
    }

    #[test]
    fn two_backups_share_the_host_s_limit() {
        let rate = Rate { own: None, host: Some(10 * MIB) };
        let (one, other, now) = (Limiter::new(rate), Limiter::new(rate), Instant::now());
        let first = one.reserve(now, MIB);
        let second = other.reserve(now, MIB);
        assert_eq!(second, first + Duration::from_millis(100));
    }
}
