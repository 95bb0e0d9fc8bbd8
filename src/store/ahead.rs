//! Read-ahead: who reads a file on and on finds what comes next here already.
//!
//! The kernel opens no file with us, so what is known of a reader is where it read last. It is kept for some files of each layer
//! that is not complete, or not compared with its digests, those read last; of another nobody asks. What runs ahead is background work, which a
//! reader joins when it gets there.

use std::num::NonZeroUsize;
use std::ops::Range;

use lru::LruCache;

use crate::errors::with_causes;
use crate::store::layer::Layer;
use crate::store::recency;
use crate::store::wishes::Priority;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Mutex, spawn};

/// Files of one layer that are read on and on at the same time.
const FILES_MAX: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// The first step ahead; each further one is twice as far.
const FIRST_BYTES: u64 = 1 << 20;

/// Reads of one stretch come in any order from the kernel's threads: this far from where it was is still on and on.
const SLACK_BYTES: u64 = 2 << 20;

/// Fills ahead of readers under way at once, over all layers; beyond that readers go without.
const AHEAD_MAX: u64 = 64;

/// Where files of a layer were read last.
pub(super) struct Ahead {
    files: Mutex<LruCache<u64, Reader>>,
}

/// One file's reader; of several that are apart in one file none is taken for one that goes on and on.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Reader {
    /// The end of what was read.
    end: u64,
    /// How far ahead it is fetched now; 0 before it was seen to go on.
    window: u64,
    /// Up to where it has been asked for.
    asked: u64,
}

// === impl Reader ===

impl Reader {
    /// Takes note of a read. Gives what to fetch of a file of `size` bytes, if it is time to.
    fn reads(&mut self, read: &Range<u64>, size: u64, max: u64) -> Option<Range<u64>> {
        let near = self.end.saturating_sub(SLACK_BYTES.max(self.window))..=self.end.saturating_add(SLACK_BYTES);
        if !near.contains(&read.start) {
            *self = Self { end: read.end, window: 0, asked: read.end };
            return None;
        }
        if read.end <= self.end {
            return None; // it came late
        }
        let is_first = self.end == 0;
        self.end = read.end;
        // Half of what was fetched is still ahead: the rest can wait.
        if is_first || (self.window > 0 && self.asked.saturating_sub(self.end) > self.window / 2) {
            return None;
        }
        self.window = (self.window * 2).max(FIRST_BYTES).min(max);
        let ahead = self.asked.max(self.end)..self.end.saturating_add(self.window).min(size);
        if ahead.is_empty() {
            return None;
        }
        self.asked = ahead.end;
        Some(ahead)
    }
}

// === impl Ahead ===

impl Default for Ahead {
    fn default() -> Self {
        Self { files: Mutex::new(LruCache::new(FILES_MAX)) }
    }
}

// === impl Layer ===

impl Layer {
    /// Whether no reader has to wait: all is here, and compared with its digests where that is wanted.
    pub fn is_all_at_hand(&self) -> bool {
        self.is_complete() && self.resident().is_proven()
    }

    /// Takes note that this much of a file of `size` bytes was read, and says what of it to fetch ahead, if anything. Waits for
    /// nobody.
    pub fn reads_on(&self, file: u64, read: &Range<u64>, size: u64) -> Option<Range<u64>> {
        if read.is_empty() || self.is_all_at_hand() {
            return None;
        }
        let max = self.shared.fetching.config().read_ahead_bytes_max;
        let ahead = self.ahead.files.lock().get_or_insert_mut(file, Reader::default).reads(read, size, max);
        ahead.filter(|_| max > 0 && self.shared.fetching.ahead.load(Ordering::Relaxed) < AHEAD_MAX)
    }

    /// Fetches what is missing of these stretches of the data file, which nobody waits for yet. Must be called inside a runtime.
    pub fn fetch_ahead(self: &Arc<Self>, stretches: Vec<Range<u64>>) {
        let mut frames: Vec<Range<u32>> = Vec::new();
        for stretch in stretches {
            let covering = self.frames().covering(stretch.clone());
            match frames.last_mut() {
                Some(last) if covering.start <= last.end && covering.start >= last.start => {
                    last.end = last.end.max(covering.end);
                }
                _ => frames.push(covering),
            }
            // What is fetched for a reader should not be the first to go.
            self.recency().note(&stretch, recency::now());
        }
        // To compare it with its digest takes time too: who reads on and on should not wait for that, where there is another processor.
        let is_at_hand = |frame| self.is_at_hand(frame) && self.resident().unproven(frame..frame + 1).is_none();
        frames.retain(|frames| !frames.clone().all(is_at_hand));
        if frames.is_empty() {
            return;
        }
        let layer = self.clone();
        self.shared.fetching.ahead.fetch_add(1, Ordering::Relaxed);
        self.shared.fetching.read_aheads.fetch_add(1, Ordering::Relaxed);
        spawn(async move {
            for frames in frames {
                if let Err(error) = layer.fill_for(frames, Priority::Background).await {
                    // The reader gets here, and is told.
                    tracing::debug!(layer = %layer.digest(), error = with_causes(&error), "nothing was read ahead");
                    break;
                }
            }
            layer.shared.fetching.ahead.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STEP: u64 = 128 << 10;
    const MAX: u64 = 16 << 20;
    const SIZE: u64 = 1 << 30;

    /// What is fetched when these stretches are read.
    fn fetched(reader: &mut Reader, starts: impl IntoIterator<Item = u64>) -> Vec<Range<u64>> {
        starts.into_iter().filter_map(|at| reader.reads(&(at..at + STEP), SIZE, MAX)).collect()
    }

    #[test]
    fn what_is_fetched_ahead_doubles_up_to_its_bound() {
        let mut reader = Reader::default();
        let fetched = fetched(&mut reader, (0..2000).map(|n| n * STEP));
        assert_eq!(fetched[0], 2 * STEP..2 * STEP + FIRST_BYTES);
        assert!(fetched.windows(2).all(|pair| pair[0].end == pair[1].start), "no gap, and nothing twice");
        assert_eq!(reader.window, MAX);
        let reached = fetched.last().unwrap().end - 2000 * STEP;
        assert!((MAX / 2..=MAX).contains(&reached), "{reached}");
    }

    #[test]
    fn a_jump_begins_anew_and_one_read_is_nothing() {
        let mut reader = Reader::default();
        assert!(fetched(&mut reader, [0]).is_empty());
        assert!(fetched(&mut reader, [500 << 20, 100 << 20, 300 << 20]).is_empty());
        assert_eq!(fetched(&mut reader, [(300 << 20) + STEP])[0].end - (300 << 20) - 2 * STEP, FIRST_BYTES);
    }

    #[test]
    fn reads_that_come_in_another_order_are_one_reader() {
        let mut reader = Reader::default();
        let shuffled = (0..400u64).map(|n| (n ^ 3) * STEP);
        let ahead = fetched(&mut reader, shuffled);
        assert!(ahead.len() > 4 && reader.window == MAX, "{ahead:?}");
    }

    #[test]
    fn the_end_of_the_file_is_the_end() {
        let mut reader = Reader::default();
        let (size, mut all) = (3 << 20, Vec::new());
        for at in (0..size).step_by(STEP as usize) {
            all.extend(reader.reads(&(at..at + STEP), size, MAX));
        }
        assert_eq!(all.last().unwrap().end, size);
    }

    proptest! {
        #[test]
        fn it_never_asks_beyond_the_file_or_its_bound_or_behind_the_reader(
            reads in prop::collection::vec((0u64..8 << 20, 1u64..2 << 20), 0..100), size in 0u64..10 << 20
        ) {
            let mut reader = Reader::default();
            for (at, len) in reads {
                if let Some(ahead) = reader.reads(&(at..at + len), size, 4 << 20) {
                    prop_assert!(ahead.end <= size && ahead.start >= at + len);
                    prop_assert!(ahead.end - (at + len) <= 4 << 20);
                }
            }
        }
    }
}
