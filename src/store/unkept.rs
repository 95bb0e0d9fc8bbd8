//! Frames that were fetched and checked and could not be kept, since the disk or the cache is full: held in memory for
//! those who wait for them, and a little longer.

use std::collections::HashMap;

use lru::LruCache;

use crate::digest::Checked;
use crate::sync::{Arc, Mutex};

/// What is held at most: some frames for each of the readers that may wait. Of more, those that were not asked for go.
const BYTES_MAX: usize = 64 << 20;

/// By the layer's slot and the frame.
type Key = (u32, u32);

#[derive(Debug)]
pub(super) struct Unkept {
    held: Mutex<Held>,
    /// Frames that are held though they are kept, and for how many readers.
    wanted: Mutex<HashMap<Key, usize>>,
}

#[derive(Debug)]
struct Held {
    frames: LruCache<Key, Arc<Checked<Vec<u8>>>>,
    bytes: usize,
}

// === impl Unkept ===

impl Unkept {
    pub(super) fn new() -> Self {
        Self { held: Mutex::new(Held { frames: LruCache::unbounded(), bytes: 0 }), wanted: Mutex::default() }
    }

    pub(super) fn put(&self, key: Key, bytes: Checked<Vec<u8>>) {
        let mut held = self.held.lock();
        held.take(key);
        held.bytes += bytes.get().len();
        held.frames.put(key, Arc::new(bytes));
        while held.bytes > BYTES_MAX {
            let Some((oldest, _)) = held.frames.peek_lru().map(|(key, frame)| (*key, frame.clone())) else { break };
            held.take(oldest);
        }
    }

    pub(super) fn get(&self, key: Key) -> Option<Arc<Checked<Vec<u8>>>> {
        self.held.lock().frames.get(&key).cloned()
    }

    pub(super) fn has(&self, key: Key) -> bool {
        self.held.lock().frames.contains(&key)
    }

    pub(super) fn remove(&self, key: Key) {
        self.held.lock().take(key);
    }

    pub(super) fn want(&self, key: Key) {
        *self.wanted.lock().entry(key).or_default() += 1;
    }

    pub(super) fn want_no_more(&self, key: Key) {
        let mut wanted = self.wanted.lock();
        match wanted.get_mut(&key) {
            Some(readers) if *readers > 1 => *readers -= 1,
            _ => drop(wanted.remove(&key)),
        }
    }

    pub(super) fn is_wanted(&self, key: Key) -> bool {
        self.wanted.lock().contains_key(&key)
    }
}

// === impl Held ===

impl Held {
    fn take(&mut self, key: Key) {
        if let Some(frame) = self.frames.pop(&key) {
            self.bytes -= frame.get().len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{FrameDigest, check_frame};

    fn checked(len: usize) -> Checked<Vec<u8>> {
        let bytes = vec![1; len];
        let digest = FrameDigest::of(&bytes);
        check_frame(bytes, &digest).unwrap()
    }

    #[test]
    fn what_two_want_is_wanted_until_both_have_it() {
        let unkept = Unkept::new();
        unkept.want((1, 2));
        unkept.want((1, 2));
        unkept.want_no_more((1, 2));
        assert!(unkept.is_wanted((1, 2)) && !unkept.is_wanted((2, 1)));
        unkept.want_no_more((1, 2));
        assert!(!unkept.is_wanted((1, 2)) && unkept.wanted.lock().is_empty());
    }

    #[test]
    fn it_holds_no_more_than_its_bound_and_what_was_asked_for_longest() {
        let unkept = Unkept::new();
        for frame in 0..4 {
            unkept.put((1, frame), checked(BYTES_MAX / 4));
        }
        assert!(unkept.get((1, 0)).is_some());
        unkept.put((1, 4), checked(1));
        assert!(unkept.has((1, 0)) && !unkept.has((1, 1)) && unkept.has((1, 4)));
        unkept.put((1, 4), checked(2));
        unkept.remove((1, 0));
        assert_eq!(unkept.held.lock().bytes, BYTES_MAX / 2 + 2);
    }
}
