//! Records of layers: a slot, which no other layer of the root ever had, and where the blob can be had.

use super::Db;
use crate::digest::LayerDigest;
use crate::store::StoreError;
use crate::store::notes::{Kind, Note};
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
        self.put(&Note::new(Kind::Layer, *digest.0.as_bytes(), record.encode()))
    }

    pub(in crate::store) fn remove_layer(&self, digest: &LayerDigest) -> Result<(), StoreError> {
        self.remove(Kind::Layer, digest.0.as_bytes())
    }
}
