//! Layers on disk: their files, which frames of them are there, and the database of what the node knows.
//!
//! One process owns a root. A layer gets in whole, through [`Store::receive`], and is durable before anybody sees it;
//! from then on its bytes may come and go frame by frame ([`Layer::fill`], [`Layer::drop_frames`]), checked each
//! time. Nothing here knows a registry or a mount.

mod ahead;
mod around;
mod cache;
mod check;
mod db;
mod entry;
mod error;
mod fetching;
mod fill;
mod layer;
mod layout;
mod lend;
mod notes;
mod outage;
mod passing;
mod places;
mod proving;
mod receive;
mod recency;
mod recording;
mod records;
mod recover;
mod remembered;
mod resident;
mod slots;
mod source;
mod starts;
mod sums;
mod twins;
mod unkept;
mod verdicts;
mod waits;
mod wishes;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::blob::{Blobs, Origin};
use crate::digest::LayerDigest;
use crate::flight::Flight;
use crate::gate::Gate;
use crate::store::cache::Cache;
use crate::store::db::Db;
use crate::store::entry::Entry;
use crate::store::fetching::Fetching;
use crate::store::layout::Layout;
use crate::store::records::{LayerRecord, VerdictRecord};
use crate::store::twins::Twins;
use crate::store::wishes::Wishes;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex};
use crate::sys::file;

pub use crate::sys::file::Space;
pub use cache::{CacheConfig, CacheUsage, Evicted, Uses, UsesOf};
pub use check::{CheckProgress, CheckReport};
pub use error::StoreError;
pub use fetching::{Background, FetchConfig, FetchCounts};
pub use fill::{FillError, FillFailed};
pub use layer::{Layer, Measure, ReadError};
pub use lend::Insisting;
pub use outage::SourceAway;
pub use passing::Passing;
pub use places::OriginsOf;
pub use receive::Receiving;
pub use recording::{Asked, Recorded, Recording, Touch};
pub use records::ImageRecord;
pub use starts::StartFile;
pub use verdicts::{Finding, Quarantine};
pub use waits::{Waiter, Waiting, Waits};
pub use wishes::Priority;

/// More requests are no faster anywhere.
const FETCHES_MAX: usize = 1024;
/// Each takes a thread that may block for long. One that a pass overhears may go as slowly as it likes: readers have another.
const LARGE_MIN: usize = 2;
const LARGE_MAX: usize = 16;

/// What of the store can be chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Requests for missing frames that may be under way at once; each holds up to 4 MiB in memory.
    pub fetches_at_once: usize,
    /// Whether what an earlier process left on disk is compared with its digest before it is read.
    pub recheck: bool,
}

/// A store, open. Clones share it; the root is free again when the last of them and of its layers is dropped.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    db: Db,
    entries: Mutex<BTreeMap<LayerDigest, Arc<Entry>>>,
    /// Held while a layer's directory comes into its place or leaves it.
    placing: Mutex<()>,
    /// Makes names in staging unique.
    staged: AtomicU64,
    shared: Arc<Shared>,
}

/// What every layer needs of its store.
pub(crate) struct Shared {
    layout: Layout,
    blobs: Arc<dyn Blobs>,
    origins: Mutex<Option<OriginsOf>>,
    /// By the layer's slot and the frame.
    fills: Flight<(u32, u32), (), FillError>,
    wishes: Wishes,
    fetching: Fetching,
    /// Requests for frames under way.
    fetches: Gate,
    /// Frames decoded and written at once: as many as there are cores; each holds up to 8 MiB.
    decodes: Gate,
    /// Frames that pass through a file.
    large: Gate,
    recheck: bool,
    cache: Cache,
    twins: Twins,
    /// What is known of layers whose blobs have passed as a whole.
    verdicts: Mutex<HashMap<LayerDigest, VerdictRecord>>,
    /// Locked as long as this lives.
    lock: File,
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        // Enough to fill a fast link at 100 ms round trips: 16 x 4 MiB / 0.1 s = 640 MiB/s.
        Self { fetches_at_once: 16, recheck: true }
    }
}

// === impl Store ===

impl Store {
    /// Opens the store at `root`, making it if it is not there, and brings it in order after a crash. `blobs` is where
    /// frames that are not on disk are fetched from. Blocking.
    pub fn open(root: &Path, config: Config, blobs: Arc<dyn Blobs>) -> Result<Self, StoreError> {
        let layout = Layout::new(root);
        let lock = recover::take(&layout)?;
        let (db, records) = recover::bring_in_order(&layout, &lock)?;
        let accesses = db.accesses()?.into_iter().collect();
        let verdicts = db.verdicts()?.into_iter().collect();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Shared {
            layout,
            blobs,
            origins: Mutex::new(None),
            fills: Flight::new(),
            wishes: Wishes::default(),
            fetching: Fetching::default(),
            fetches: Gate::new(config.fetches_at_once.clamp(1, FETCHES_MAX)),
            decodes: Gate::new(cores),
            large: Gate::new(config.fetches_at_once.clamp(LARGE_MIN, LARGE_MAX)),
            recheck: config.recheck,
            cache: Cache::new(accesses),
            twins: Twins::default(),
            verdicts: Mutex::new(verdicts),
            lock,
        };
        let entries = records.into_iter().map(|(digest, record)| (digest, Arc::new(Entry::found(digest, record))));
        let inner = Inner {
            db,
            entries: Mutex::new(entries.collect()),
            placing: Mutex::new(()),
            staged: AtomicU64::new(0),
            shared: Arc::new(shared),
        };
        let inner = Arc::new(inner);
        inner.shared.cache.belongs_to(&inner);
        Ok(Self { inner })
    }

    /// The layer, if the store has it. One whose files turn out to be damaged is removed, with a warning, and is not
    /// there: it will be scanned again. Blocking the first time.
    pub fn layer(&self, digest: &LayerDigest) -> Result<Option<Arc<Layer>>, StoreError> {
        let Some(entry) = self.entry(digest) else { return Ok(None) };
        match entry.open(&self.inner.shared) {
            Ok(layer) => Ok(Some(layer)),
            Err(StoreError::Damaged { layer, cause }) => {
                tracing::warn!(%layer, cause, "removing a damaged layer; it will be scanned again when needed");
                self.discard(&entry)?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the store has the layer, without opening it.
    pub fn has(&self, digest: &LayerDigest) -> bool {
        self.entry(digest).is_some()
    }

    /// Of all layers.
    pub fn digests(&self) -> Vec<LayerDigest> {
        self.inner.entries.lock().keys().copied().collect()
    }

    /// All layers that can be opened, by digest. Blocking.
    pub fn layers(&self) -> Vec<Arc<Layer>> {
        let digests = self.digests();
        let open = |digest| {
            self.layer(digest).unwrap_or_else(|error| {
                tracing::warn!(layer = %digest, %error, "leaving out a layer that cannot be opened");
                None
            })
        };
        digests.iter().filter_map(open).collect()
    }

    /// Notes where the layer's blob is looked for first from now on.
    pub fn set_origin(&self, digest: &LayerDigest, origin: &Origin) -> Result<(), StoreError> {
        let Some(entry) = self.entry(digest) else { return Ok(()) };
        let opened = entry.opened.lock();
        let mut record = entry.record.lock();
        if record.origin.as_ref() == Some(origin) {
            return Ok(());
        }
        let changed = LayerRecord { slot: record.slot, origin: Some(origin.clone()) };
        self.inner.db.put_layer(digest, &changed)?;
        *record = changed;
        if let Some(layer) = &*opened {
            layer.set_origin(origin);
        }
        Ok(())
    }

    /// Removes the layer, durably, if it is there. Who has it open reads on. Blocking: the disk space is free when
    /// this returns.
    pub fn remove(&self, digest: &LayerDigest) -> Result<(), StoreError> {
        self.entry(digest).map_or(Ok(()), |entry| self.discard(&entry))
    }

    /// Begins to receive a layer: three empty files for the scan.
    pub fn receive(&self, digest: &LayerDigest) -> Result<Receiving, StoreError> {
        Receiving::begin(self.clone(), *digest)
    }

    /// What the layer is, if the store has it, without keeping it open. Blocking.
    pub fn measure(&self, digest: &LayerDigest) -> Result<Option<Measure>, StoreError> {
        let Some(entry) = self.entry(digest) else { return Ok(None) };
        let opened = entry.opened.lock().clone();
        match opened.map_or_else(|| entry.look(&self.inner.shared).map(Arc::new), Ok) {
            Ok(layer) => Ok(Some(Measure::of(&layer))),
            // Who needs it finds that out, too, and sees to it.
            Err(StoreError::Damaged { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Bytes of frames that were taken from other layers and not fetched, since the store was opened.
    pub fn deduplicated_bytes(&self) -> u64 {
        self.inner.shared.twins.taken_bytes()
    }

    /// Space of the disk under the root.
    pub fn statfs(&self) -> Result<Space, StoreError> {
        let shared = &self.inner.shared;
        file::space(&shared.lock).map_err(StoreError::io("ask for the space of", shared.layout.root()))
    }

    /// Where the store is.
    pub fn root(&self) -> &Path {
        self.inner.shared.layout.root()
    }

    /// Writes down which frames are resident, for all layers, as a shutdown should. Blocking.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.inner.sync()
    }

    fn entry(&self, digest: &LayerDigest) -> Option<Arc<Entry>> {
        self.inner.entries.lock().get(digest).cloned()
    }

    fn staged_path(&self, digest: &LayerDigest) -> std::path::PathBuf {
        let number = self.inner.staged.fetch_add(1, Ordering::Relaxed);
        self.inner.shared.layout.staged(digest, number)
    }

    /// Takes this very entry out of the store; one that has replaced it stays.
    fn discard(&self, entry: &Arc<Entry>) -> Result<(), StoreError> {
        let (digest, layout) = (&entry.digest, &self.inner.shared.layout);
        let away = self.staged_path(digest);
        {
            let _placing = self.inner.placing.lock();
            if !self.entry(digest).is_some_and(|current| Arc::ptr_eq(&current, entry)) {
                return Ok(());
            }
            let place = layout.layer(digest);
            match std::fs::rename(&place, &away) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                renamed => renamed.map_err(StoreError::io("move aside", &place))?,
            }
            self.inner.entries.lock().remove(digest);
            file::sync_directory(&layout.layers()).map_err(StoreError::io("sync", &layout.layers()))?;
            self.inner.db.remove_layer(digest)?;
        }
        if self.quarantined(digest).is_none() {
            self.inner.forget_verdict(digest)?;
        }
        recover::remove_all(&away)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("root", &self.root()).finish_non_exhaustive()
    }
}

// === impl Inner ===

impl Inner {
    fn sync(&self) -> Result<(), StoreError> {
        let entries: Vec<Arc<Entry>> = self.entries.lock().values().cloned().collect();
        let opened: Vec<Arc<Layer>> = entries.iter().filter_map(|entry| entry.opened.lock().clone()).collect();
        // One that fails keeps no other from it.
        let synced = opened.iter().map(|layer| layer.sync()).fold(Ok(()), Result::and);
        synced.and(self.write_accesses(&opened))
    }

    /// Writes down when layers were read that were read since the store was opened. Seldom, and all at once.
    fn write_accesses(&self, opened: &[Arc<Layer>]) -> Result<(), StoreError> {
        let read = opened.iter().map(|layer| (layer.digest(), layer.recency().latest()));
        let cache = &self.shared.cache;
        let accesses: Vec<_> = read.filter(|(digest, at)| *at > cache.last_access(digest)).collect();
        if accesses.is_empty() { Ok(()) } else { self.db.put_accesses(&accesses) }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.sync() {
            tracing::warn!(%error, "residency was not written down; the next start fetches some frames again");
        }
    }
}

#[cfg(test)]
mod tests;
