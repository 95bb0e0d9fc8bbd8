//! What may be set about fetching what is missing, and what is counted of it.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::store::{Shared, Store};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

/// How what is missing of layers is fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FetchConfig {
    /// Whether what nobody reads yet is fetched, of images that are in use.
    pub background: Background,
    /// Bytes of blobs that background work may fetch in a second, over all layers; 0 is without a bound.
    pub bandwidth: u64,
    /// How long a read waits for a source that is away, before it fails.
    pub outage_secs: u64,
    /// How far ahead of a file's sequential reader is fetched at most, and how far around what a reader waits for, where the link
    /// carries so much in the time of a round trip; 0 is not at all.
    pub read_ahead_bytes_max: u64,
}

/// When layers are completed that nobody reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Background {
    /// When no reader has waited for some seconds.
    #[default]
    Idle,
    /// At once; readers go first all the same.
    Always,
    /// Never.
    Off,
}

/// Numbers of this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FetchCounts {
    /// Fetches for readers that wait just now for a source that is away.
    pub waiting: u64,
    /// How many have waited for one.
    pub waited: u64,
    /// How often a source was away when a reader wanted it.
    pub outages: u64,
    /// How often it was asked again meanwhile.
    pub outage_tries: u64,
    /// Fills that ran ahead of readers.
    pub read_aheads: u64,
    /// Fills of what lies around what readers waited for.
    pub arounds: u64,
}

/// What is set, counted and noted of fetching.
#[derive(Debug)]
pub(super) struct Fetching {
    config: Mutex<FetchConfig>,
    pub(super) waiting: AtomicU64,
    pub(super) waited: AtomicU64,
    pub(super) outages: AtomicU64,
    pub(super) outage_tries: AtomicU64,
    pub(super) read_aheads: AtomicU64,
    /// Read-aheads under way.
    pub(super) ahead: AtomicU64,
    pub(super) arounds: AtomicU64,
    /// Bytes of blobs around what is read that are under way.
    pub(super) around_bytes: AtomicU64,
    readers: AtomicU64,
    last_reader: Mutex<Option<Instant>>,
}

/// A reader that waits for frames, until it is dropped.
pub(super) struct ReaderWaits<'a>(&'a Fetching);

// === impl FetchConfig ===

impl Default for FetchConfig {
    fn default() -> Self {
        // A registry that is restarted or moved is back within a minute; what waits longer than that has alarms of its own.
        // 16 MiB are on their way at 1 Gbit/s in an eighth of a second: more than any round trip.
        Self { background: Background::default(), bandwidth: 0, outage_secs: 60, read_ahead_bytes_max: 16 << 20 }
    }
}

// === impl Store ===

impl Store {
    /// From now on it is fetched so.
    pub fn set_fetch(&self, config: FetchConfig) {
        *self.inner.shared.fetching.config.lock() = config;
    }

    pub fn fetch_config(&self) -> FetchConfig {
        self.inner.shared.fetching.config()
    }

    pub fn fetch_counts(&self) -> FetchCounts {
        let fetching = &self.inner.shared.fetching;
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        FetchCounts {
            waiting: read(&fetching.waiting),
            waited: read(&fetching.waited),
            outages: read(&fetching.outages),
            outage_tries: read(&fetching.outage_tries),
            read_aheads: read(&fetching.read_aheads),
            arounds: read(&fetching.arounds),
        }
    }

    /// Somebody begins to use layers: readers will come in a moment.
    pub fn expect_readers(&self) {
        *self.inner.shared.fetching.last_reader.lock() = Some(Instant::now());
    }

    /// For how long no reader has waited for frames, or was to be expected; zero while one waits.
    pub fn idle_for(&self) -> Duration {
        self.inner.shared.fetching.idle_for()
    }
}

// === impl Fetching ===

impl Default for Fetching {
    /// Nobody waits for a source that is away before it is said for how long.
    fn default() -> Self {
        Self {
            config: Mutex::new(FetchConfig { outage_secs: 0, ..FetchConfig::default() }),
            waiting: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            outages: AtomicU64::new(0),
            outage_tries: AtomicU64::new(0),
            read_aheads: AtomicU64::new(0),
            ahead: AtomicU64::new(0),
            arounds: AtomicU64::new(0),
            around_bytes: AtomicU64::new(0),
            readers: AtomicU64::new(0),
            last_reader: Mutex::new(None),
        }
    }
}

impl Fetching {
    #[cfg(test)]
    pub(super) fn with(config: FetchConfig) -> Self {
        Self { config: Mutex::new(config), ..Self::default() }
    }

    pub(super) fn config(&self) -> FetchConfig {
        self.config.lock().clone()
    }

    /// How long readers wait for a source that is away.
    pub(super) fn patience(&self) -> Duration {
        Duration::from_secs(self.config.lock().outage_secs)
    }

    fn idle_for(&self) -> Duration {
        if self.readers.load(Ordering::SeqCst) > 0 {
            return Duration::ZERO;
        }
        self.last_reader.lock().map_or(Duration::MAX, |last| last.elapsed())
    }
}

impl Shared {
    /// A reader waits from now on.
    pub(super) fn reader_waits(&self) -> ReaderWaits<'_> {
        self.fetching.readers.fetch_add(1, Ordering::SeqCst);
        ReaderWaits(&self.fetching)
    }
}

impl Drop for ReaderWaits<'_> {
    fn drop(&mut self) {
        *self.0.last_reader.lock() = Some(Instant::now());
        self.0.readers.fetch_sub(1, Ordering::SeqCst);
    }
}
