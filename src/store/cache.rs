//! The bound on what the data files hold, and what goes when it is reached: what was not read for longest, of layers that
//! nobody uses before those in use, and never of a pinned one.
//!
//! Room is taken before a frame is written, by the very task that writes it: a burst of reads cannot run past the bound. What
//! finds no room is served from memory (`unkept`) and not kept.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::digest::LayerDigest;
use crate::index::frames::FrameId;
use crate::store::layer::Layer;
use crate::store::recency;
use crate::store::unkept::Unkept;
use crate::store::{Inner, Store, StoreError};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, Weak};

/// How much of layers' content may be on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheConfig {
    /// Bytes of content in the data files; 0 is without a bound.
    pub max_bytes: u64,
    /// Percent of `max_bytes` above which room is made, and down to which.
    pub high: u8,
    pub low: u8,
}

/// Which layers somebody needs, as the store cannot know.
#[derive(Debug, Default)]
pub struct Uses {
    /// Mounted, claimed, or on their way: they go last.
    pub in_use: HashSet<LayerDigest>,
    /// They do not go.
    pub pinned: HashSet<LayerDigest>,
}

/// Looks up the uses of now.
pub type UsesOf = Arc<dyn Fn() -> Uses + Send + Sync>;

/// What the cache holds and may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheUsage {
    pub used_bytes: u64,
    pub max_bytes: u64,
    pub high_bytes: u64,
    pub low_bytes: u64,
    /// Since the store was opened.
    pub evicted: Evicted,
    /// Frames that were served without being kept, since then.
    pub unkept_frames: u64,
}

/// What went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Evicted {
    pub frames: u64,
    pub bytes: u64,
}

pub(super) struct Cache {
    config: Mutex<CacheConfig>,
    uses: Mutex<Option<UsesOf>>,
    store: OnceLock<Weak<Inner>>,
    /// When layers were last read in earlier processes.
    accesses: HashMap<LayerDigest, u64>,
    /// Bytes in the data files, or more: they are counted anew before anything has to go.
    used: AtomicU64,
    /// Room taken for frames that are being written.
    taken: AtomicU64,
    is_counted: AtomicBool,
    /// Held by who makes room. When there was none to be made, it is not tried again before this.
    making_room: Mutex<Option<Instant>>,
    evicted_frames: AtomicU64,
    evicted_bytes: AtomicU64,
    pub(super) unkept: Unkept,
    unkept_frames: AtomicU64,
    warned: Mutex<Option<Instant>>,
}

/// Room for a frame that is being written. It counts as used once the frame is kept.
pub(super) struct Room<'a> {
    cache: &'a Cache,
    bytes: u64,
}

/// A frame that may go.
struct Candidate {
    is_in_use: bool,
    last_read: u64,
    layer: usize,
    frame: u32,
    bytes: u64,
}

/// What was read within this time does not go: readers that wait for a frame get to read it, however small the cache is.
const JUST_READ: Duration = Duration::from_secs(1);

/// How long all do without where nothing more may go.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// How often it is said that frames are not kept.
const WARN_EVERY: Duration = Duration::from_secs(60);

// === impl CacheConfig ===

impl Default for CacheConfig {
    fn default() -> Self {
        // As wide apart as a node's own image collection has it: making room costs a look at all frames.
        Self { max_bytes: 0, high: 95, low: 85 }
    }
}

impl CacheConfig {
    fn high_bytes(&self) -> u64 {
        percent(self.max_bytes, self.high)
    }

    fn low_bytes(&self) -> u64 {
        percent(self.max_bytes, self.low.min(self.high))
    }
}

fn percent(of: u64, percent: u8) -> u64 {
    u64::try_from(u128::from(of) * u128::from(percent.min(100)) / 100).unwrap_or(u64::MAX)
}

// === impl Store ===

impl Store {
    /// From now on the cache is bounded so.
    pub fn set_cache(&self, config: CacheConfig) {
        *self.inner.shared.cache.config.lock() = config;
    }

    /// From now on this says which layers are used.
    pub fn set_uses(&self, uses: UsesOf) {
        *self.inner.shared.cache.uses.lock() = Some(uses);
    }

    /// What the data files hold, counted. Blocking.
    pub fn cache_usage(&self) -> CacheUsage {
        let cache = &self.inner.shared.cache;
        let config = cache.config.lock().clone();
        CacheUsage {
            used_bytes: self.layers().iter().map(|layer| layer.resident_bytes()).sum(),
            max_bytes: config.max_bytes,
            high_bytes: config.high_bytes(),
            low_bytes: config.low_bytes(),
            evicted: Evicted {
                frames: cache.evicted_frames.load(Ordering::Relaxed),
                bytes: cache.evicted_bytes.load(Ordering::Relaxed),
            },
            unkept_frames: cache.unkept_frames.load(Ordering::Relaxed),
        }
    }

    /// Lets frames go until the data files hold no more than so many bytes, as far as they may. Blocking.
    pub fn evict_to(&self, bytes: u64) -> Result<Evicted, StoreError> {
        let cache = &self.inner.shared.cache;
        let _one_at_a_time = cache.making_room.lock();
        cache.evict(self, bytes, u64::MAX)
    }

    /// Remembers durably that the image's layers stay.
    pub fn put_pin(&self, reference: &str, platform: &str) -> Result<(), StoreError> {
        self.inner.db.put_pin(reference, platform)
    }

    /// Forgets it, durably; says whether it was so.
    pub fn remove_pin(&self, reference: &str, platform: &str) -> Result<bool, StoreError> {
        self.inner.db.remove_pin(reference, platform)
    }

    /// The references and platforms of pinned images.
    pub fn pins(&self) -> Result<Vec<(String, String)>, StoreError> {
        self.inner.db.pins()
    }
}

// === impl Cache ===

impl Cache {
    pub(super) fn new(accesses: HashMap<LayerDigest, u64>) -> Self {
        Self {
            config: Mutex::default(),
            uses: Mutex::new(None),
            store: OnceLock::new(),
            accesses,
            used: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            is_counted: AtomicBool::new(false),
            making_room: Mutex::new(None),
            evicted_frames: AtomicU64::new(0),
            evicted_bytes: AtomicU64::new(0),
            unkept: Unkept::new(),
            unkept_frames: AtomicU64::new(0),
            warned: Mutex::new(None),
        }
    }

    pub(super) fn belongs_to(&self, store: &Arc<Inner>) {
        let _the_first_is_the_only_one = self.store.set(Arc::downgrade(store));
    }

    /// The store that this is part of, unless it is being closed.
    pub(super) fn store(&self) -> Option<Store> {
        Some(Store { inner: self.store.get()?.upgrade()? })
    }

    /// When the layer was last read before the store was opened, in milliseconds since 1970; 0 if nobody knows.
    pub(super) fn last_access(&self, layer: &LayerDigest) -> u64 {
        self.accesses.get(layer).copied().unwrap_or(0)
    }

    /// Room for so many bytes, making some if need be; none if there is none to be made. Blocking.
    pub(super) fn room(&self, bytes: u64) -> Option<Room<'_>> {
        let room = Room { cache: self, bytes };
        self.taken.fetch_add(bytes, Ordering::SeqCst);
        let config = self.config.lock().clone();
        if config.max_bytes == 0 || self.is_within(config.high_bytes()) {
            return Some(room);
        }
        self.make_room(&config);
        self.is_within(config.max_bytes).then_some(room)
    }

    /// Whether so many bytes have room without anything having to go for them, now or soon.
    pub(super) fn has_spare(&self, bytes: u64) -> bool {
        let config = self.config.lock().clone();
        if config.max_bytes == 0 {
            return true;
        }
        let is_counted = self.is_counted(); // which may change what is used
        let taken = self.taken.load(Ordering::SeqCst);
        let used = self.used.load(Ordering::SeqCst).saturating_add(taken).saturating_add(bytes);
        is_counted && used <= config.high_bytes()
    }

    /// Whether it is known how much is used; counts it if not. Blocking the first time.
    fn is_counted(&self) -> bool {
        if self.is_counted.load(Ordering::SeqCst) {
            return true;
        }
        let Some(inner) = self.store.get().and_then(Weak::upgrade) else { return false };
        let _one_at_a_time = self.making_room.lock();
        // Nothing is over a bound that is none.
        self.evict(&Store { inner }, u64::MAX, 0).is_ok()
    }

    /// A layer came that was received whole. Blocking if something must go for it.
    pub(super) fn layer_came(&self, bytes: u64) {
        let config = self.config.lock().clone();
        self.used.fetch_add(bytes, Ordering::SeqCst);
        if config.max_bytes > 0 && !self.is_within(config.high_bytes()) {
            // It is large, and seldom: it does not stay over the bound since there was nothing to be let go of a moment ago.
            *self.making_room.lock() = None;
            self.make_room(&config);
        }
    }

    fn is_within(&self, bytes: u64) -> bool {
        let used = self.used.load(Ordering::SeqCst).saturating_add(self.taken.load(Ordering::SeqCst));
        self.is_counted.load(Ordering::SeqCst) && used <= bytes
    }

    fn make_room(&self, config: &CacheConfig) {
        let mut not_before = self.making_room.lock();
        let is_too_early = not_before.is_some_and(|then| Instant::now() < then);
        if is_too_early || self.is_within(config.high_bytes()) {
            return; // somebody else has tried a moment ago
        }
        let Some(store) = self.store() else { return };
        let taken = self.taken.load(Ordering::SeqCst);
        let just_read = recency::now().saturating_sub(JUST_READ.as_millis() as u64);
        let target = config.low_bytes().saturating_sub(taken);
        if let Err(error) = self.evict(&store, target, just_read) {
            tracing::warn!(%error, "the cache is over its bound, and some of it could not be let go of");
        }
        *not_before = (!self.is_within(config.low_bytes())).then(|| Instant::now() + TRY_AGAIN);
    }

    /// Counts, and lets go of frames that were read before `before` until so many bytes are left. Called with `making_room` held.
    fn evict(&self, store: &Store, left: u64, before: u64) -> Result<Evicted, StoreError> {
        // First: a layer that comes while these are listed is counted twice rather than never.
        let believed = self.used.load(Ordering::SeqCst);
        let layers = store.layers();
        let counted: u64 = layers.iter().map(|layer| layer.resident_bytes()).sum();
        // What was kept since then stays counted, if need be twice.
        self.used.fetch_add(counted.wrapping_sub(believed), Ordering::SeqCst);
        self.is_counted.store(true, Ordering::SeqCst);
        let mut too_much = counted.saturating_sub(left);
        if too_much == 0 {
            return Ok(Evicted::default());
        }
        let uses = self.uses.lock().clone().map(|uses| uses()).unwrap_or_default();
        let mut candidates = candidates(&layers, &uses, before);
        candidates.sort_unstable_by_key(|one| (one.is_in_use, one.last_read, one.layer, one.frame));
        let mut going: Vec<Vec<u32>> = vec![Vec::new(); layers.len()];
        for Candidate { layer, frame, bytes, .. } in candidates {
            if too_much == 0 {
                break;
            }
            too_much = too_much.saturating_sub(bytes);
            if let Some(frames) = going.get_mut(layer) {
                frames.push(frame);
            }
        }
        let (mut evicted, mut failed) = (Evicted::default(), Ok(()));
        for (layer, frames) in layers.iter().zip(going).filter(|(_, frames)| !frames.is_empty()) {
            // One layer that keeps its frames is no reason for all others to keep theirs.
            let gone = match layer.drop_some(frames) {
                Ok(gone) => gone,
                Err(error) => {
                    failed = failed.and(Err(error));
                    continue;
                }
            };
            self.used.fetch_sub(gone.bytes, Ordering::SeqCst);
            self.evicted_frames.fetch_add(gone.frames, Ordering::Relaxed);
            self.evicted_bytes.fetch_add(gone.bytes, Ordering::Relaxed);
            evicted.frames += gone.frames;
            evicted.bytes += gone.bytes;
        }
        tracing::info!(frames = evicted.frames, bytes = evicted.bytes, "frames evicted");
        failed.map(|()| evicted)
    }

    /// Says, once in a while, that a frame was not kept, and counts it.
    pub(super) fn note_unkept(&self, layer: LayerDigest, cause: &dyn std::fmt::Display) {
        self.unkept_frames.fetch_add(1, Ordering::Relaxed);
        let mut warned = self.warned.lock();
        if warned.is_none_or(|then| then.elapsed() >= WARN_EVERY) {
            *warned = Some(Instant::now());
            tracing::warn!(%layer, %cause, "frames are served but not kept; look at the disk, free some space, or let the cache be larger");
        }
    }
}

/// The frames that may go. Those of a layer that cannot be fetched again may not.
fn candidates(layers: &[Arc<Layer>], uses: &Uses, before: u64) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        if uses.pinned.contains(&layer.digest()) || !layer.may_be_had_again() {
            continue;
        }
        let is_in_use = uses.in_use.contains(&layer.digest());
        for frame in (0..layer.frames().len()).filter(|frame| layer.is_resident(*frame)) {
            let Ok(range) = layer.frames().data_range(FrameId(frame)) else { continue };
            let last_read = layer.recency().of(&range);
            if last_read < before {
                let bytes = range.end - range.start;
                candidates.push(Candidate { is_in_use, last_read, layer: number, frame, bytes });
            }
        }
    }
    candidates
}

// === impl Room ===

impl Room<'_> {
    /// The frame is in its place.
    pub(super) fn kept(self) {
        self.cache.used.fetch_add(self.bytes, Ordering::SeqCst);
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.cache.taken.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}
