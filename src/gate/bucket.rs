//! A token bucket: how long what comes must wait, for so much to pass in a second.

use std::time::{Duration, Instant};

/// What has passed counts as a debt that is paid off with time; up to a burst it is paid at once.
#[derive(Debug)]
pub struct Bucket {
    per_second: f64,
    burst: f64,
    /// What may pass now; negative is what has passed too early.
    level: f64,
    at: Instant,
}

/// A wait is never longer, however slow the bucket: what is set so low is meant to crawl, not to stop.
const WAIT_MAX: Duration = Duration::from_secs(3600);

impl Bucket {
    /// Full at `now`. `per_second` and `burst` above 0.
    pub fn new(per_second: f64, burst: f64, now: Instant) -> Self {
        let per_second = per_second.max(f64::MIN_POSITIVE);
        Self { per_second, burst: burst.max(0.0), level: burst.max(0.0), at: now }
    }

    /// Lets `amount` pass after the time that this returns. Who comes later waits for it, too.
    pub fn take(&mut self, amount: f64, now: Instant) -> Duration {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now.max(self.at);
        self.level = (self.level + since * self.per_second).min(self.burst) - amount;
        let wait = (-self.level / self.per_second).max(0.0);
        Duration::try_from_secs_f64(wait).unwrap_or(WAIT_MAX).min(WAIT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secs(secs: f64) -> Duration {
        Duration::from_secs_f64(secs)
    }

    #[test]
    fn a_burst_passes_at_once_and_the_rest_at_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10.0, 2.0, start);
        let waits: Vec<_> = (0..4).map(|_| bucket.take(1.0, start)).collect();
        assert_eq!(waits, [0.0, 0.0, 0.1, 0.2].map(secs));
        assert_eq!(bucket.take(1.0, start + secs(10.0)), Duration::ZERO);
    }

    proptest! {
        /// Who waits as it says: in no stretch of time more passes than the rate allows, and the burst.
        #[test]
        fn no_more_passes_than_the_rate(
            rate in 1.0f64..1000.0, burst in 0.0f64..100.0, taken in prop::collection::vec((0.0f64..50.0, 0u64..2000), 1..60)
        ) {
            let start = Instant::now();
            let (mut bucket, mut now, mut passed) = (Bucket::new(rate, burst, start), start, Vec::new());
            for (amount, pause) in taken {
                now += Duration::from_millis(pause);
                now += bucket.take(amount, now);
                passed.push((now, amount));
            }
            for (first, (from, _)) in passed.iter().enumerate() {
                let mut sum = 0.0;
                for (at, amount) in &passed[first..] {
                    sum += amount;
                    let seconds = at.duration_since(*from).as_secs_f64();
                    // The first of a stretch may have waited before it began.
                    prop_assert!(sum <= burst + seconds * rate + passed[first].1 + 0.001, "{sum} in {seconds}");
                }
            }
        }
    }
}
