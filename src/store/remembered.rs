//! What the store remembers for others, durably and beside its layers: images, snapshots, and which numbers views have.

use std::ops::Range;
use std::path::PathBuf;

use crate::store::records::ImageRecord;
use crate::store::{Store, StoreError, recover};

// === impl Store ===

impl Store {
    /// A number for a view, durably: no other view of this root had it, or will.
    pub fn new_view_slot(&self) -> Result<u32, StoreError> {
        self.inner.db.new_view_slots(1)
    }

    /// So many of them at once.
    pub fn new_view_slots(&self, count: u32) -> Result<Range<u32>, StoreError> {
        self.inner.db.new_view_slots(count).map(|first| first..first + count)
    }

    /// Remembers an image under its reference and platform, in place of what was remembered before; durably.
    pub fn remember_image(&self, image: &ImageRecord) -> Result<(), StoreError> {
        self.inner.db.put_image(image)
    }

    pub fn image(&self, reference: &str, platform: &str) -> Result<Option<ImageRecord>, StoreError> {
        self.inner.db.image(reference, platform)
    }

    pub fn images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        self.inner.db.images()
    }

    pub fn forget_image(&self, reference: &str, platform: &str) -> Result<(), StoreError> {
        self.inner.db.remove_image(reference, platform)
    }

    /// Writes the record of a snapshot, in place of the one before it; durably.
    pub fn put_snapshot(&self, id: u64, record: &[u8]) -> Result<(), StoreError> {
        self.inner.db.put_snapshot(id, record)
    }

    /// Removes the record of a snapshot, durably.
    pub fn remove_snapshot(&self, id: u64) -> Result<(), StoreError> {
        self.inner.db.remove_snapshot(id)
    }

    /// The records of all snapshots, by their numbers.
    pub fn snapshots(&self) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        self.inner.db.snapshots()
    }

    /// Where the directories of snapshots are, each named by its number.
    pub fn snapshots_path(&self) -> PathBuf {
        self.inner.shared.layout.snapshots()
    }

    /// The highest number of a snapshot whose directory was put aside, since nothing was known of it; 0 if none was.
    pub fn highest_lost_snapshot(&self) -> Result<u64, StoreError> {
        recover::highest_lost_snapshot(&self.inner.shared.layout)
    }

    /// Why nothing can be recorded until the store is opened anew: what the database failed with. None as long as it has not.
    /// Waits for nobody.
    pub fn database_failure(&self) -> Option<&str> {
        self.inner.db.failure()
    }
}
