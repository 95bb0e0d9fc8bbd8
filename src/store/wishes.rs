//! Who wants which frame how urgently, while it is being filled: background work that a reader joins becomes the reader's.

use std::collections::HashMap;

use crate::gate::Urgency;
use crate::sync::{Arc, Mutex};

/// By the layer's slot and the frame.
type Key = (u32, u32);

/// What fills are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Somebody waits for the bytes.
    Reader,
    /// Nobody does yet: it takes what readers leave.
    Background,
}

/// All frames that somebody wants just now. Clones share them.
#[derive(Debug, Default, Clone)]
pub(super) struct Wishes {
    wanted: Arc<Mutex<HashMap<Key, Wanted>>>,
}

#[derive(Debug, Default)]
struct Wanted {
    wishes: usize,
    has_reader: bool,
    /// Of the work on it: of its flight, and of the request that brings it; of two flights only if one ended and its successor has begun.
    works: Vec<Urgency>,
}

/// That somebody wants a frame, until it is dropped.
#[derive(Debug)]
pub(super) struct Wish {
    all: Wishes,
    key: Key,
}

// === impl Wishes ===

impl Wishes {
    /// A reader's makes work on the frame that is under way a reader's.
    pub(super) fn wish(&self, key: Key, priority: Priority) -> Wish {
        let raised = {
            let mut all = self.wanted.lock();
            let wanted = all.entry(key).or_default();
            wanted.wishes += 1;
            wanted.has_reader |= priority == Priority::Reader;
            if priority == Priority::Reader { wanted.works.clone() } else { Vec::new() }
        };
        raised.iter().for_each(Urgency::raise);
        Wish { all: self.clone(), key }
    }

    /// Whether somebody wants the frame just now.
    pub(super) fn is_wished(&self, key: Key) -> bool {
        self.wanted.lock().contains_key(&key)
    }
}

// === impl Wish ===

impl Wish {
    /// Work on the frame begins, and is as urgent as the most urgent wish for it.
    pub(super) fn works(&self, urgency: &Urgency) {
        let has_reader = {
            let mut all = self.all.wanted.lock();
            let Some(wanted) = all.get_mut(&self.key) else { return };
            wanted.works.push(urgency.clone());
            wanted.has_reader
        };
        if has_reader {
            urgency.raise();
        }
    }
}

impl Drop for Wish {
    fn drop(&mut self) {
        let mut all = self.all.wanted.lock();
        let Some(wanted) = all.get_mut(&self.key) else { return };
        wanted.wishes -= 1;
        if wanted.wishes == 0 {
            all.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_a_readers_if_one_came_before_or_comes_after_it_began() {
        let wishes = Wishes::default();
        let (before, after) = (Urgency::background(), Urgency::background());
        let background = wishes.wish((1, 1), Priority::Background);
        background.works(&before);
        assert!(!before.is_reader());
        let other = wishes.wish((1, 2), Priority::Reader);
        assert!(!before.is_reader());
        let reader = wishes.wish((1, 1), Priority::Reader);
        assert!(before.is_reader());
        reader.works(&after);
        assert!(after.is_reader());
        drop((background, other, reader));
        assert!(wishes.wanted.lock().is_empty());
    }
}
