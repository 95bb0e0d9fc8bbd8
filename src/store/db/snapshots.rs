//! Records of snapshots: bytes under a number. What they mean is the snapshotter's to know.
//!
//! A key is the number, 8 bytes big-endian, and the number of the piece of the value, 2 bytes big-endian.

use super::{Db, PIECE_BYTES, Trees};
use crate::store::StoreError;

impl Db {
    /// Writes a record in place of the one before it, durably.
    pub(in crate::store) fn put_snapshot(&self, id: u64, record: &[u8]) -> Result<(), StoreError> {
        self.change(record.len(), |trees| {
            let mut batch = trees.snapshot_removal(id)?;
            for (number, piece) in record.chunks(PIECE_BYTES).enumerate() {
                batch.insert([id.to_be_bytes().as_slice(), &(number as u16).to_be_bytes()].concat(), piece);
            }
            trees.snapshots.apply_batch(batch)
        })
    }

    pub(in crate::store) fn remove_snapshot(&self, id: u64) -> Result<(), StoreError> {
        self.change(0, |trees| trees.snapshot_removal(id).and_then(|batch| trees.snapshots.apply_batch(batch)))
    }

    /// All records, by number.
    pub(in crate::store) fn snapshots(&self) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        self.with(|trees| {
            let mut records: Vec<(u64, Vec<u8>)> = Vec::new();
            for item in &trees.snapshots {
                let (key, piece) = item?;
                let Some((id, _)) = key.split_first_chunk() else { continue };
                let id = u64::from_be_bytes(*id);
                match records.last_mut() {
                    Some((last, record)) if *last == id => record.extend_from_slice(&piece),
                    _ => records.push((id, piece.to_vec())),
                }
            }
            Ok(records)
        })
    }
}

impl Trees {
    fn snapshot_removal(&self, id: u64) -> sled::Result<sled::Batch> {
        let mut batch = sled::Batch::default();
        for piece in self.snapshots.scan_prefix(id.to_be_bytes()).keys() {
            batch.remove(piece?);
        }
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::store::db::Db;
    use crate::store::layout::Layout;

    fn open(root: &Path) -> Db {
        Db::open(&Layout::new(root)).unwrap().db
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
