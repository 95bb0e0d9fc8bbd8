//! When which part of a layer was last read: one time for each megabyte of its data file.
//!
//! Readers note it with a relaxed store of a word; there is no list to be kept in order, hence no lock on their way.
//! Order is made when something has to go.

use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::sync::atomic::{AtomicU64, Ordering};

/// About what a frame of a scanned layer holds. A layer of 64 GiB costs half a megabyte.
const PART_BYTES: u64 = 1 << 20;

/// Times in milliseconds since 1970; a part that was not read since the layer was opened has the time of before.
#[derive(Debug)]
pub(super) struct Recency {
    parts: Box<[AtomicU64]>,
}

impl Recency {
    /// Of a data file of so many bytes that was last read then.
    pub(super) fn new(data_bytes: u64, last: u64) -> Self {
        let parts = usize::try_from(data_bytes.div_ceil(PART_BYTES)).unwrap_or(usize::MAX);
        Self { parts: (0..parts).map(|_| AtomicU64::new(last)).collect() }
    }

    pub(super) fn note(&self, range: &Range<u64>, now: u64) {
        self.parts_of(range).for_each(|part| part.store(now, Ordering::Relaxed));
    }

    /// When any of these bytes was last read.
    pub(super) fn of(&self, range: &Range<u64>) -> u64 {
        self.parts_of(range).map(|part| part.load(Ordering::Relaxed)).max().unwrap_or(0)
    }

    /// When anything was.
    pub(super) fn latest(&self) -> u64 {
        self.parts.iter().map(|part| part.load(Ordering::Relaxed)).max().unwrap_or(0)
    }

    fn parts_of(&self, range: &Range<u64>) -> impl Iterator<Item = &AtomicU64> {
        let part = |at: u64| usize::try_from(at / PART_BYTES).unwrap_or(usize::MAX).min(self.parts.len());
        let end = usize::try_from(range.end.div_ceil(PART_BYTES)).unwrap_or(usize::MAX).min(self.parts.len());
        self.parts.get(part(range.start).min(end)..end).unwrap_or_default().iter()
    }
}

/// Milliseconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: u64 = PART_BYTES;

    #[test]
    fn a_part_has_the_time_of_the_last_read_that_touched_it() {
        let recency = Recency::new(4 * PART + 1, 7);
        recency.note(&(PART - 1..PART + 1), 20);
        recency.note(&(4 * PART..4 * PART + 1), 30);
        assert_eq!(recency.of(&(0..1)), 20);
        assert_eq!(recency.of(&(2 * PART..3 * PART)), 7);
        assert_eq!(recency.of(&(3 * PART..4 * PART + 1)), 30, "a frame that lies in two has the later");
        assert_eq!(recency.latest(), 30);
    }

    #[test]
    fn what_lies_outside_has_no_time_and_does_no_harm() {
        let recency = Recency::new(0, 7);
        recency.note(&(0..u64::MAX), 20);
        assert_eq!((recency.of(&(5..10)), recency.latest()), (0, 0));
    }
}
