//! Directories and listings looked at lately. Everything here can be found again from a node id alone: losing an entry
//! costs time, never an answer.
//!
//! Bounded by bytes and not by count, since directories of 100,000 names exist beside ones of three.

use lru::LruCache;

use crate::sync::{Arc, Mutex};
use crate::view::listing::Listing;
use crate::view::merge::{Part, Parts};
use crate::view::node::NodeId;

/// A merged directory.
#[derive(Debug)]
pub(super) struct Dir {
    /// What it is merged from, top down ([`Parts::shown`]); of a view without layers nothing.
    pub(super) parts: Box<[Part]>,
    /// Whose attributes it has ([`Parts::named`]).
    pub(super) named: Option<Part>,
    /// The directory above; of the root itself.
    pub(super) parent: NodeId,
}

/// What the views of a node share.
#[derive(Debug)]
pub struct Cache {
    dirs: Mutex<Recent<Arc<Dir>>>,
    listings: Mutex<Recent<Arc<Listing>>>,
}

/// Bytes a cache may hold: 20 listings of 100,000 names, or some 100,000 directories.
pub const CACHE_BYTES: usize = 64 << 20;

/// A quarter is for directories, which come first: a listing is rebuilt from them.
const DIRS_SHARE: usize = 4;

/// What the map itself needs for an entry, about: key, value, two links, hash table.
const ENTRY_BYTES: usize = 96;

/// The most recently used, as many as fit.
#[derive(Debug)]
struct Recent<V> {
    map: LruCache<NodeId, V>,
    bytes: usize,
    bytes_max: usize,
}

/// How much memory something holds.
trait Weigh {
    fn bytes(&self) -> usize;
}

// === impl Dir ===

impl Dir {
    pub(super) fn new(parts: Parts, parent: NodeId) -> Self {
        Self { parts: parts.shown.into_boxed_slice(), named: parts.named, parent }
    }
}

// === impl Cache ===

impl Default for Cache {
    fn default() -> Self {
        Self::new(CACHE_BYTES)
    }
}

impl Cache {
    pub fn new(bytes_max: usize) -> Self {
        let dirs = bytes_max / DIRS_SHARE;
        Self { dirs: Mutex::new(Recent::new(dirs)), listings: Mutex::new(Recent::new(bytes_max - dirs)) }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.dirs.lock().clear();
        self.listings.lock().clear();
    }

    /// Bytes held now.
    pub fn bytes(&self) -> usize {
        self.dirs.lock().bytes + self.listings.lock().bytes
    }

    pub(super) fn has_dir(&self, id: NodeId) -> bool {
        self.dirs.lock().get(id).is_some()
    }

    pub(super) fn dir(&self, id: NodeId) -> Option<Arc<Dir>> {
        self.dirs.lock().get(id)
    }

    pub(super) fn put_dir(&self, id: NodeId, dir: Arc<Dir>) {
        self.dirs.lock().put(id, dir);
    }

    pub(super) fn listing(&self, id: NodeId) -> Option<Arc<Listing>> {
        self.listings.lock().get(id)
    }

    pub(super) fn put_listing(&self, id: NodeId, listing: Arc<Listing>) {
        self.listings.lock().put(id, listing);
    }
}

// === impl Recent ===

impl<V: Weigh + Clone> Recent<V> {
    fn new(bytes_max: usize) -> Self {
        Self { map: LruCache::unbounded(), bytes: 0, bytes_max }
    }

    fn clear(&mut self) {
        self.map.clear();
        self.bytes = 0;
    }

    fn get(&mut self, id: NodeId) -> Option<V> {
        self.map.get(&id).cloned()
    }

    /// Keeps `value` and makes room for it. The newest stays even if it alone is too large: whoever reads it in
    /// pieces would have it built for each.
    fn put(&mut self, id: NodeId, value: V) {
        self.bytes += value.bytes() + ENTRY_BYTES;
        let mut gone = self.map.put(id, value);
        loop {
            if let Some(gone) = gone {
                self.bytes -= gone.bytes() + ENTRY_BYTES;
            }
            if self.bytes <= self.bytes_max || self.map.len() <= 1 {
                return;
            }
            gone = self.map.pop_lru().map(|(_, gone)| gone);
        }
    }
}

// === impl Weigh ===

impl Weigh for Arc<Dir> {
    fn bytes(&self) -> usize {
        size_of::<Dir>() + size_of_val(&*self.parts)
    }
}

impl Weigh for Arc<Listing> {
    fn bytes(&self) -> usize {
        Listing::bytes(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::tree::Nid;

    impl Weigh for usize {
        fn bytes(&self) -> usize {
            *self
        }
    }

    #[test]
    fn what_was_used_longest_ago_makes_room() {
        let mut recent = Recent::new(3 * (100 + ENTRY_BYTES));
        for id in 1..=3 {
            recent.put(NodeId(id), 100);
        }
        assert_eq!(recent.get(NodeId(1)), Some(100));
        recent.put(NodeId(4), 100);
        assert_eq!(recent.get(NodeId(2)), None);
        assert_eq!([1, 3, 4].map(|id| recent.get(NodeId(id))), [Some(100); 3]);
        assert_eq!(recent.bytes, 3 * (100 + ENTRY_BYTES));
    }

    #[test]
    fn a_value_put_again_is_counted_once_and_a_giant_is_kept_alone() {
        let mut recent = Recent::new(1000);
        recent.put(NodeId(1), 300);
        recent.put(NodeId(1), 200);
        assert_eq!(recent.bytes, 200 + ENTRY_BYTES);
        recent.put(NodeId(2), 5000);
        assert_eq!((recent.get(NodeId(1)), recent.get(NodeId(2))), (None, Some(5000)));
        recent.put(NodeId(3), 10);
        assert_eq!((recent.map.len(), recent.bytes), (1, 10 + ENTRY_BYTES));
    }

    #[test]
    fn many_directories_stay_within_the_bytes() {
        let cache = Cache::new(1 << 20);
        for id in 0..100_000 {
            let parts = Parts { shown: vec![Part { layer: 0, nid: Nid(id) }; 3], named: None };
            cache.put_dir(NodeId(id.into()), Arc::new(Dir::new(parts, NodeId(1))));
        }
        assert!(cache.bytes() <= 1 << 20);
        assert!(cache.has_dir(NodeId(99_999)) && !cache.has_dir(NodeId(0)));
        cache.clear();
        assert_eq!(cache.bytes(), 0);
    }
}
