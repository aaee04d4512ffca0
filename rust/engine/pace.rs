//! How hard a pull may pull. A guest that writes to a cluster not copied yet waits until QEMU has put the old one into
//! the scratch, and that waits its turn among our requests.

use std::time::{Duration, Instant};

/// What may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Demand {
    /// Requests in flight at most.
    pub(super) requests: usize,
    /// Bytes of one request at most.
    pub(super) bytes: usize,
}

/// More requests are no quicker; larger ones cost QEMU more, whose heap gives their memory back after each.
pub(super) const FULL: Demand = Demand { requests: 4, bytes: 512 << 10 };
/// Half of it leaves the guest little more, and takes the backup of one that writes all the time nearly twice as long.
pub(super) const GENTLE: Demand = Demand { requests: 1, bytes: 128 << 10 };

/// How long the guest must not have written before it counts as quiet.
const QUIET: Duration = Duration::from_millis(100);

/// Sees from the scratch whether the guest is writing.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The most that the scratch has held.
    held: Option<u64>,
    wrote: Option<Instant>,
}

impl Pace {
    /// What may be asked for, now that the scratch holds `held` bytes.
    pub(super) fn observe(&mut self, now: Instant, held: u64) -> Demand {
        // At the first look it holds what QEMU made it with.
        if self.held.is_some_and(|before| held > before) {
            self.wrote = Some(now);
        }
        self.held = self.held.max(Some(held));
        let writes = self.wrote.is_some_and(|wrote| now.duration_since(wrote) < QUIET);
        if writes { GENTLE } else { FULL }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reader_steps_back_while_the_guest_writes() {
        // milliseconds, bytes in the scratch, what may be asked for
        let looks = [
            (0, 196_608, FULL),
            (2, 196_608, FULL),
            (4, 262_144, GENTLE),
            (6, 262_144, GENTLE),
            (50, 327_680, GENTLE),
            (104, 327_680, GENTLE),
            (149, 327_680, GENTLE),
            (150, 327_680, FULL),
            (200, 131_072, FULL),
            (201, 327_680, FULL),
            (202, 327_681, GENTLE),
        ];
        let (start, mut pace) = (Instant::now(), Pace::default());
        for (millis, held, expected) in looks {
            assert_eq!(pace.observe(start + Duration::from_millis(millis), held), expected, "at {millis} ms");
        }
    }
}
