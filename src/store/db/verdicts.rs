//! What is known of layers' blobs as a whole, by the layer's digest.

use super::Db;
use crate::digest::LayerDigest;
use crate::store::StoreError;
use crate::store::notes::{Kind, Note, layer_of};
use crate::store::records::VerdictRecord;

impl Db {
    pub(in crate::store) fn put_verdict(&self, layer: &LayerDigest, record: &VerdictRecord) -> Result<(), StoreError> {
        self.put(&Note::new(Kind::Verdict, *layer.0.as_bytes(), record.encode()))
    }

    pub(in crate::store) fn remove_verdict(&self, layer: &LayerDigest) -> Result<(), StoreError> {
        self.remove(Kind::Verdict, layer.0.as_bytes())
    }

    /// Without an order. What cannot be read is left out: the layer is looked at again.
    pub(in crate::store) fn verdicts(&self) -> Result<Vec<(LayerDigest, VerdictRecord)>, StoreError> {
        let records = self.with(|trees| trees.all(Kind::Verdict))?;
        let parsed = records
            .iter()
            .filter_map(|record| Some((layer_of(&record.key)?, VerdictRecord::decode(&record.value).ok()?)));
        Ok(parsed.collect())
    }
}
