//! What the cache remembers across restarts: which images are pinned, and when layers were last read.
//!
//! A pin's key is reference, a zero byte, platform; its value is empty. An access time's key is the layer's digest; its value
//! is milliseconds since 1970, 8 bytes little-endian.

use super::Db;
use crate::digest::{Digest, LayerDigest};
use crate::store::StoreError;
use crate::store::notes::{Kind, Note};

impl Db {
    pub(in crate::store) fn put_pin(&self, reference: &str, platform: &str) -> Result<(), StoreError> {
        self.put(&Note::new(Kind::Pin, key(reference, platform), []))
    }

    /// Says whether there was one.
    pub(in crate::store) fn remove_pin(&self, reference: &str, platform: &str) -> Result<bool, StoreError> {
        let key = key(reference, platform);
        let was_there = self.with(|trees| trees.get(Kind::Pin, key.as_bytes()))?.is_some();
        self.remove(Kind::Pin, key.as_bytes())?;
        Ok(was_there)
    }

    /// References and platforms.
    pub(in crate::store) fn pins(&self) -> Result<Vec<(String, String)>, StoreError> {
        let pins = self.with(|trees| trees.all(Kind::Pin))?;
        let parsed = pins.iter().filter_map(|pin| std::str::from_utf8(&pin.key).ok()?.split_once('\0'));
        Ok(parsed.map(|(reference, platform)| (reference.to_owned(), platform.to_owned())).collect())
    }

    /// Writes down when these layers were last read; all at once.
    pub(in crate::store) fn put_accesses(&self, accesses: &[(LayerDigest, u64)]) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for (layer, at) in accesses {
            batch.insert(layer.0.as_bytes(), &at.to_le_bytes());
        }
        self.change(accesses.len() * 40, |trees| trees.accesses.apply_batch(batch))
    }

    /// Without an order. What is of no use is left out.
    pub(in crate::store) fn accesses(&self) -> Result<Vec<(LayerDigest, u64)>, StoreError> {
        let items = self.with(|trees| trees.accesses.iter().collect::<sled::Result<Vec<_>>>())?;
        let parsed = items.iter().filter_map(|(key, value)| {
            let layer = LayerDigest(Digest::from_bytes(key.as_ref().try_into().ok()?));
            Some((layer, u64::from_le_bytes(value.as_ref().try_into().ok()?)))
        });
        Ok(parsed.collect())
    }
}

fn key(reference: &str, platform: &str) -> String {
    format!("{reference}\0{platform}")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::digest::{Digest, LayerDigest};
    use crate::store::db::Db;
    use crate::store::layout::Layout;

    fn open(root: &Path) -> Db {
        let layout = Layout::new(root);
        std::fs::create_dir_all(layout.layers()).unwrap();
        Db::open(&layout).unwrap().db
    }

    #[test]
    fn pins_and_access_times_are_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let layer = LayerDigest(Digest::of(b"layer"));
        let db = open(dir.path());
        db.put_pin("redis:7", "linux/amd64").unwrap();
        db.put_pin("redis:8", "linux/arm64").unwrap();
        db.put_accesses(&[(layer, 1)]).unwrap();
        db.put_accesses(&[(layer, 1 << 40)]).unwrap();
        assert!(db.remove_pin("redis:7", "linux/amd64").unwrap());
        assert!(!db.remove_pin("redis:8", "linux/amd64").unwrap());
        drop(db);
        let db = open(dir.path());
        assert_eq!(db.pins().unwrap(), [("redis:8".to_owned(), "linux/arm64".to_owned())]);
        assert_eq!(db.accesses().unwrap(), [(layer, 1 << 40)]);
    }
}
