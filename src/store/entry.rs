//! A layer's place in the store: its record, and the layer itself once somebody has opened it.

use crate::digest::LayerDigest;
use crate::store::layer::Layer;
use crate::store::records::LayerRecord;
use crate::store::{Shared, StoreError};
use crate::sync::{Arc, Mutex};

/// A layer that has its place in the store, opened when first asked for.
pub(super) struct Entry {
    pub(super) digest: LayerDigest,
    /// Lock order: `opened`, then this.
    pub(super) record: Mutex<LayerRecord>,
    pub(super) opened: Mutex<Option<Arc<Layer>>>,
    /// Whether an earlier process wrote its files.
    is_found: bool,
}

// === impl Entry ===

impl Entry {
    /// A layer that was just received.
    pub(super) fn new(digest: LayerDigest, record: LayerRecord) -> Self {
        Self { digest, record: Mutex::new(record), opened: Mutex::new(None), is_found: false }
    }

    /// A layer that an earlier process left.
    pub(super) fn found(digest: LayerDigest, record: LayerRecord) -> Self {
        Self { is_found: true, ..Self::new(digest, record) }
    }

    /// The layer, one and the same for all who ask.
    pub(super) fn open(&self, shared: &Arc<Shared>) -> Result<Arc<Layer>, StoreError> {
        let mut opened = self.opened.lock();
        if let Some(layer) = &*opened {
            return Ok(layer.clone());
        }
        let layer = Arc::new(self.look(shared)?);
        *opened = Some(layer.clone());
        Ok(layer)
    }

    /// The layer for a look at it.
    pub(super) fn look(&self, shared: &Arc<Shared>) -> Result<Layer, StoreError> {
        let LayerRecord { slot, origin } = self.record.lock().clone();
        let layer = Layer::open(self.digest, slot, origin, shared.clone())?;
        if self.is_found && shared.recheck {
            layer.distrust(0..layer.frames().len());
        }
        shared.recall_verdict(&layer);
        if layer.is_quarantined() {
            // The process that found it bad had no time to remove it.
            return Err(StoreError::Damaged {
                layer: self.digest,
                cause: "its index was found to be wrong".to_owned(),
            });
        }
        Ok(layer)
    }

    /// Whether this very layer is the one that is open.
    pub(super) fn is_of(&self, layer: &Arc<Layer>) -> bool {
        self.opened.lock().as_ref().is_some_and(|opened| Arc::ptr_eq(opened, layer))
    }
}
