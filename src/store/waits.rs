//! Who waits for something, and since when: for those who ask why nothing moves.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::sync::{Arc, Mutex};

/// Those who wait for one thing. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Waits {
    waiting: Arc<Mutex<Waiters>>,
}

#[derive(Debug, Default)]
struct Waiters {
    last: u64,
    /// Who came first has the lowest number.
    since: BTreeMap<u64, (Instant, Range<u32>)>,
}

/// Somebody waits for as long as this is kept.
#[derive(Debug)]
#[must_use = "who waits is counted for as long as this is kept"]
pub struct Waiter {
    waits: Waits,
    number: u64,
}

/// What there is to say of those who wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub count: usize,
    /// The first of them, for so long.
    pub longest: Duration,
    /// What that one waits for; empty where it is for no single frames.
    pub frames: Range<u32>,
}

// === impl Waits ===

impl Waits {
    /// One more waits, for these frames.
    pub fn begin(&self, frames: Range<u32>) -> Waiter {
        let mut waiting = self.waiting.lock();
        waiting.last += 1;
        let number = waiting.last;
        waiting.since.insert(number, (Instant::now(), frames));
        Waiter { waits: self.clone(), number }
    }

    /// Those who wait now, if somebody does.
    pub fn now(&self) -> Option<Waiting> {
        let waiting = self.waiting.lock();
        let (since, frames) = waiting.since.values().next()?;
        Some(Waiting { count: waiting.since.len(), longest: since.elapsed(), frames: frames.clone() })
    }
}

// === impl Waiter ===

impl Drop for Waiter {
    fn drop(&mut self) {
        self.waits.waiting.lock().since.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_who_waits_speaks_for_all_until_it_leaves() {
        let waits = Waits::default();
        assert_eq!(waits.now(), None);
        let (first, second) = (waits.begin(3..5), waits.begin(9..10));
        let of = |waits: &Waits| waits.now().map(|waiting| (waiting.count, waiting.frames));
        assert_eq!(of(&waits), Some((2, 3..5)));
        drop(first);
        assert_eq!(of(&waits), Some((1, 9..10)));
        drop(second);
        assert_eq!(waits.now(), None);
    }
}
