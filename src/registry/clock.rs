//! How far this machine's clock is from a registry's: what is far off has certificates and tokens refused.

use std::time::{SystemTime, UNIX_EPOCH};

use reqwest::header::{DATE, HeaderMap};

use crate::sync::atomic::{AtomicI64, Ordering};

/// By the answer that came last.
pub(super) struct Clock(AtomicI64);

const UNKNOWN: i64 = i64::MIN;

// === impl Clock ===

impl Clock {
    pub(super) fn new() -> Self {
        Self(AtomicI64::new(UNKNOWN))
    }

    /// An answer with these headers came now.
    pub(super) fn note(&self, headers: &HeaderMap) {
        let date = headers.get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
        if let Some(date) = date {
            self.0.store(seconds(SystemTime::now()).saturating_sub(seconds(date)), Ordering::Relaxed);
        }
    }

    /// Seconds by which ours is ahead.
    pub(super) fn ahead_secs(&self) -> Option<i64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|ahead| *ahead != UNKNOWN)
    }
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_last_date_that_is_one_counts() {
        let clock = Clock::new();
        assert_eq!(clock.ahead_secs(), None);
        let mut headers = HeaderMap::new();
        let date = httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(3600));
        headers.insert(DATE, date.parse().unwrap());
        clock.note(&headers);
        headers.insert(DATE, "tomorrow".parse().unwrap());
        clock.note(&headers);
        assert!(clock.ahead_secs().is_some_and(|ahead| (3600..3700).contains(&ahead)));
    }
}
