//! Records of layers: a slot, which no other layer of the root ever had, and where the blob can be had.

use super::Db;
use crate::digest::LayerDigest;
use crate::store::StoreError;
use crate::store::records::LayerRecord;
use crate::store::slots::Counter;

impl Db {
    /// Records a layer under a slot of its own, never used before.
    pub(in crate::store) fn add_layer(
        &self,
        digest: &LayerDigest,
        record: impl Fn(u32) -> LayerRecord,
    ) -> Result<u32, StoreError> {
        let slot = self.next(Counter::Layer, 1)?;
        self.put_layer(digest, &record(slot))?;
        Ok(slot)
    }

    pub(in crate::store) fn put_layer(&self, digest: &LayerDigest, record: &LayerRecord) -> Result<(), StoreError> {
        let bytes = record.encode();
        self.change(bytes.len(), |trees| trees.layers.insert(digest.0.as_bytes(), bytes).map(drop))
    }

    pub(in crate::store) fn remove_layer(&self, digest: &LayerDigest) -> Result<(), StoreError> {
        self.change(0, |trees| {
            trees.accesses.remove(digest.0.as_bytes())?;
            trees.layers.remove(digest.0.as_bytes()).map(drop)
        })
    }
}
