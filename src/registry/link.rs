//! What is known of the way to a host, from its recent answers: how long a round trip takes, and how much comes in that time.

use std::collections::VecDeque;
use std::time::Duration;

/// So many answers are recent.
const RECENT: usize = 16;

/// A body that is shorter says nothing of the rate: what it takes is mostly the round trip.
const BODY_BYTES_MIN: u64 = 128 << 10;

/// Who is nearer makes nobody wait for a round trip that could be felt.
const ROUND_TRIP_MIN: Duration = Duration::from_millis(3);

/// Recent answers of one host.
#[derive(Debug, Default)]
pub(super) struct Link {
    first_bytes: VecDeque<Duration>,
    rates: VecDeque<f64>,
}

// === impl Link ===

impl Link {
    /// The first byte of an answer came so long after it was asked for.
    pub(super) fn answered(&mut self, after: Duration) {
        note(&mut self.first_bytes, after);
    }

    /// All bytes of an answer had come so long after they were asked for.
    pub(super) fn came(&mut self, bytes: u64, after: Duration) {
        let Some(round_trip) = self.round_trip().filter(|_| bytes >= BODY_BYTES_MIN) else { return };
        // Whatever else delayed it makes the link look slower than it is, never faster.
        let transfer = after.saturating_sub(round_trip);
        if !transfer.is_zero() {
            note(&mut self.rates, bytes as f64 / transfer.as_secs_f64());
        }
    }

    /// Bytes that come in the time of a round trip; 0 if that is not known, or not worth speaking of.
    pub(super) fn carries(&self) -> u64 {
        let Some(round_trip) = self.round_trip().filter(|round_trip| *round_trip >= ROUND_TRIP_MIN) else { return 0 };
        // Answers share the link: the fastest had most of it to itself.
        let rate = self.rates.iter().copied().fold(0.0, f64::max);
        (rate * round_trip.as_secs_f64()) as u64
    }

    /// The others had to wait for a connection, or for the server.
    fn round_trip(&self) -> Option<Duration> {
        self.first_bytes.iter().min().copied()
    }
}

fn note<T>(recent: &mut VecDeque<T>, one: T) {
    if recent.len() >= RECENT {
        recent.pop_front();
    }
    recent.push_back(one);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// After answers of so many bytes over a link of this rate and round trip.
    fn link(bytes: &[u64], bytes_per_second: f64, round_trip: Duration) -> Link {
        let mut link = Link::default();
        for bytes in bytes {
            link.answered(round_trip);
            link.came(*bytes, round_trip + Duration::from_secs_f64(*bytes as f64 / bytes_per_second));
        }
        link
    }

    #[test]
    fn a_link_carries_its_rate_times_the_round_trip() {
        for (megabits, trip, carries) in
            [(100.0, 5, 62_500), (100.0, 30, 375_000), (1000.0, 5, 625_000), (1000.0, 30, 3_750_000)]
        {
            let link = link(&[500, 300_000, MIB], megabits * 1e6 / 8.0, millis(trip));
            assert!(link.carries().abs_diff(carries) < 10, "{megabits} Mbit/s, {trip} ms: {}", link.carries());
        }
    }

    #[test]
    fn nothing_is_said_of_a_link_that_nobody_has_used_or_that_is_short() {
        assert_eq!(Link::default().carries(), 0);
        assert_eq!(link(&[500, 100_000], 1e8, millis(30)).carries(), 0, "small answers");
        assert_eq!(link(&[MIB], 1e9, millis(1)).carries(), 0, "this machine");
        let mut link = Link::default();
        link.came(MIB, millis(10));
        assert_eq!(link.carries(), 0);
    }

    #[test]
    fn what_waits_for_something_else_makes_no_link_look_larger() {
        let mut link = link(&[MIB], 12.5e6, millis(5));
        let before = link.carries();
        for late in 1..10 {
            link.answered(millis(5 + late));
            link.came(MIB, millis(89 + 20 * late));
        }
        assert_eq!(link.carries(), before);
    }

    #[test]
    fn what_was_long_ago_does_not_count() {
        let mut link = link(&[MIB], 125e6, millis(30));
        for _ in 0..RECENT {
            link.answered(millis(5));
            link.came(MIB, millis(5) + Duration::from_secs_f64(MIB as f64 / 12.5e6));
        }
        assert!(link.carries().abs_diff(62_500) < 10, "{}", link.carries());
    }
}
