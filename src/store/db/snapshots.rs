//! Records of snapshots: bytes under a number. What they mean is the snapshotter's to know.

use super::Db;
use crate::store::StoreError;
use crate::store::notes::{Kind, Note, number_of};

impl Db {
    /// Writes a record in place of the one before it, durably.
    pub(in crate::store) fn put_snapshot(&self, id: u64, record: &[u8]) -> Result<(), StoreError> {
        self.put(&Note::new(Kind::Snapshot, id.to_be_bytes(), record))
    }

    pub(in crate::store) fn remove_snapshot(&self, id: u64) -> Result<(), StoreError> {
        self.remove(Kind::Snapshot, &id.to_be_bytes())
    }

    /// All records, by number.
    pub(in crate::store) fn snapshots(&self) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let records = self.with(|trees| trees.all(Kind::Snapshot))?;
        Ok(records.into_iter().filter_map(|record| Some((number_of(&record.key)?, record.value))).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::store::db::Db;
    use crate::store::layout::Layout;

    fn open(root: &Path) -> Db {
        let layout = Layout::new(root);
        std::fs::create_dir_all(layout.layers()).unwrap();
        Db::open(&layout).unwrap().db
    }

    #[test]
    fn records_of_any_length_are_there_after_a_restart_and_removed_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let long = vec![7; 70_000];
        let db = open(dir.path());
        db.put_snapshot(1, &long).unwrap();
        db.put_snapshot(256, b"short").unwrap();
        db.put_snapshot(3, b"gone").unwrap();
        db.put_snapshot(1, &long[..5000]).unwrap();
        db.remove_snapshot(3).unwrap();
        drop(db);
        assert_eq!(open(dir.path()).snapshots().unwrap(), [(1, long[..5000].to_vec()), (256, b"short".to_vec())]);
    }
}
