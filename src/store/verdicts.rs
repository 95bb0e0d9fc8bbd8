//! What was found out about layers whose index was not made here, when their blobs had passed as a whole: that they are what
//! they should be, or that they are not and nobody may be given a byte of them any more.
//!
//! A verdict is on disk before it counts; only that a layer is bad counts at once. A layer that was found bad leaves the store, is
//! remembered across restarts, and its index is not used again: until a scan has found what is really in the blob.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::digest::LayerDigest;
use crate::store::layer::Layer;
use crate::store::records::{VerdictKind, VerdictRecord};
use crate::store::{Inner, Shared, Store, StoreError};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicU8, Ordering};

/// What a pass over a layer's blob can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// The blob has the layer's digest.
    Blob,
    /// And what is in it is what the index says, name for name and byte for byte.
    Content,
}

/// A layer that was found bad.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantine {
    pub layer: LayerDigest,
    pub cause: String,
    /// In seconds since 1970.
    pub at_secs: u64,
}

/// What is known of one open layer.
#[derive(Debug, Default)]
pub(super) struct Judged(AtomicU8);

const BLOB: u8 = 1;
const CONTENT: u8 = 2;
const BAD: u8 = 3;

// === impl Judged ===

impl Judged {
    pub(super) fn is_bad(&self) -> bool {
        self.0.load(Ordering::Relaxed) == BAD
    }

    pub(super) fn has_good_blob(&self) -> bool {
        matches!(self.0.load(Ordering::Relaxed), BLOB | CONTENT)
    }

    pub(super) fn has_good_content(&self) -> bool {
        self.0.load(Ordering::Relaxed) == CONTENT
    }

    fn set(&self, kind: VerdictKind) {
        let number = match kind {
            VerdictKind::Blob => BLOB,
            VerdictKind::Content => CONTENT,
            VerdictKind::Bad => BAD,
        };
        // What is bad stays bad.
        self.0.fetch_max(number, Ordering::SeqCst);
    }
}

// === impl Layer ===

impl Layer {
    /// Whether the blob as a whole was compared with its digest.
    pub fn has_verified_blob(&self) -> bool {
        self.is_verified() || self.judged.has_good_blob()
    }

    /// What was found out of a layer whose index was not made here.
    pub fn finding(&self) -> Option<Finding> {
        match (self.judged.has_good_content(), self.judged.has_good_blob()) {
            (true, _) => Some(Finding::Content),
            (false, true) => Some(Finding::Blob),
            (false, false) => None,
        }
    }

    /// Whether it was found to be something else than it should be: it gives no bytes any more.
    pub fn is_quarantined(&self) -> bool {
        self.judged.is_bad()
    }
}

// === impl Store ===

impl Store {
    /// Remembers durably what was found out about this very layer. Blocking.
    pub fn note_finding(&self, layer: &Layer, finding: Finding) -> Result<(), StoreError> {
        let kind = match finding {
            Finding::Blob => VerdictKind::Blob,
            Finding::Content => VerdictKind::Content,
        };
        self.inner.put_verdict(layer, kind, "")
    }

    /// The layer is not what it should be: its readers get errors from now on, durably nobody uses its index again, and it leaves
    /// the store. Blocking.
    pub fn quarantine(&self, layer: &Arc<Layer>, cause: &str) -> Result<(), StoreError> {
        layer.judged.set(VerdictKind::Bad);
        tracing::error!(
            layer = %layer.digest(), index = %layer.frames().heading().provenance(), cause,
            "layer quarantined: its readers get EIO, and it is scanned for whoever wants it next"
        );
        self.inner.put_verdict(layer, VerdictKind::Bad, cause)?;
        match self.entry(&layer.digest()) {
            Some(entry) if entry.is_of(layer) => self.discard(&entry),
            _ => Ok(()), // it was replaced, or removed
        }
    }

    /// Why the layer's index must not be used, if it was found bad and not scanned since.
    pub fn quarantined(&self, layer: &LayerDigest) -> Option<Quarantine> {
        let verdicts = self.inner.shared.verdicts.lock();
        let record = verdicts.get(layer).filter(|record| record.kind == VerdictKind::Bad)?;
        Some(Quarantine { layer: *layer, cause: record.cause.clone(), at_secs: record.at_secs })
    }

    /// All such layers, by digest.
    pub fn quarantines(&self) -> Vec<Quarantine> {
        let layers: Vec<LayerDigest> = self.inner.shared.verdicts.lock().keys().copied().collect();
        let mut all: Vec<_> = layers.iter().filter_map(|layer| self.quarantined(layer)).collect();
        all.sort_by_key(|quarantine| quarantine.layer);
        all
    }
}

// === impl Inner ===

impl Inner {
    /// A scan has found what is in the layer: nothing else counts any more. Blocking.
    pub(super) fn forget_verdict(&self, layer: &LayerDigest) -> Result<(), StoreError> {
        if !self.shared.verdicts.lock().contains_key(layer) {
            return Ok(());
        }
        self.db.remove_verdict(layer)?;
        let was = self.shared.verdicts.lock().remove(layer);
        if was.is_some_and(|record| record.kind == VerdictKind::Bad) {
            tracing::info!(%layer, "a layer that was quarantined has been scanned, and is used again");
        }
        Ok(())
    }

    fn put_verdict(&self, layer: &Layer, kind: VerdictKind, cause: &str) -> Result<(), StoreError> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let record = VerdictRecord { slot: layer.slot(), kind, cause: cause.to_owned(), at_secs: since.as_secs() };
        self.db.put_verdict(&layer.digest(), &record)?;
        self.shared.verdicts.lock().insert(layer.digest(), record);
        layer.judged.set(kind);
        Ok(())
    }
}

// === impl Shared ===

impl Shared {
    /// What an earlier process has found out about the layer of this slot.
    pub(super) fn recall_verdict(&self, layer: &Layer) {
        let verdicts = self.verdicts.lock();
        if let Some(record) = verdicts.get(&layer.digest()).filter(|record| record.slot == layer.slot()) {
            layer.judged.set(record.kind);
        }
    }
}
