//! How much a pull asks of QEMU at a time. A guest that writes to a cluster not copied yet waits until QEMU has copied the old
//! cluster to the scratch, and QEMU serves that copy in turn with our requests.

use std::time::Instant;

use crate::limits;

/// How much the reader may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Demand {
    /// The most requests in flight.
    pub(super) requests: usize,
    /// The most bytes of one request.
    pub(super) bytes: usize,
}

/// The demand while the guest is quiet. More requests are no quicker; larger ones cost QEMU more, because its heap returns
/// their memory after each.
pub(super) const FULL: Demand = Demand { requests: 4, bytes: 512 << 10 };
/// The demand while the guest writes. Half of this helps the guest little, and nearly doubles the time of a backup of a guest
/// that writes all the time.
pub(super) const GENTLE: Demand = Demand { requests: 1, bytes: 128 << 10 };

/// Infers from the growth of the scratch whether the guest writes.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The most bytes that the scratch has held.
    held: Option<u64>,
    wrote: Option<Instant>,
}

impl Pace {
    /// The demand at `now`, when the scratch holds `held` bytes.
    pub(super) fn observe(&mut self, now: Instant, held: u64) -> Demand {
        // the first look finds what QEMU wrote when it opened the file, not what the guest overwrote
        if self.held.is_some_and(|before| held > before) {
            self.wrote = Some(now);
        }
        self.held = self.held.max(Some(held));
        let writes = self.wrote.is_some_and(|wrote| now.duration_since(wrote) < limits::GUEST_QUIET);
        if writes { GENTLE } else { FULL }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_reader_steps_back_while_the_guest_writes() {
        // milliseconds, bytes in the scratch, the demand
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
