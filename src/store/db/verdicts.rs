//! What is known of layers' blobs as a whole, by the layer's digest.

use super::Db;
use crate::digest::{Digest, LayerDigest};
use crate::store::StoreError;
use crate::store::records::VerdictRecord;

impl Db {
    pub(in crate::store) fn put_verdict(&self, layer: &LayerDigest, record: &VerdictRecord) -> Result<(), StoreError> {
        let bytes = record.encode();
        self.change(bytes.len(), |trees| trees.verdicts.insert(layer.0.as_bytes(), bytes).map(drop))
    }

    pub(in crate::store) fn remove_verdict(&self, layer: &LayerDigest) -> Result<(), StoreError> {
        self.change(0, |trees| trees.verdicts.remove(layer.0.as_bytes()).map(drop))
    }

    /// Without an order. What cannot be read is left out: the layer is looked at again.
    pub(in crate::store) fn verdicts(&self) -> Result<Vec<(LayerDigest, VerdictRecord)>, StoreError> {
        let items = self.with(|trees| trees.verdicts.iter().collect::<sled::Result<Vec<_>>>())?;
        let parsed = items.iter().filter_map(|(key, value)| {
            let layer = LayerDigest(Digest::from_bytes(key.as_ref().try_into().ok()?));
            Some((layer, VerdictRecord::decode(value).ok()?))
        });
        Ok(parsed.collect())
    }
}
