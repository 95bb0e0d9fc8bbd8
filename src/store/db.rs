//! The store's database: the only place that knows it is sled.
//!
//! Every method that changes something returns after the change is on disk. Reads and writes are small and rare
//! (one a layer, one an image, one a mount), so one lock around it all is enough. What is written here is noted outside too
//! (`store/notes.rs`), but for access times: so a database that cannot be read, or has lost something, is made anew (`rebuild`).
//!
//! sled 0.34 does not survive a failed write: it may wait for ever in its next flush, or in its destructor. So space is
//! reserved before each change, values are kept small enough never to become files of their own, changes are made where they hold nobody up
//! for ever (`bounded`), and after an error all the same the database is not touched again by this process.

mod bounded;
mod cache;
mod layers;
mod opening;
mod rebuild;
mod snapshots;
mod trees;
mod unfinished;
mod verdicts;

use std::sync::OnceLock;

use crate::digest::LayerDigest;
use crate::errors::with_causes;
use crate::store::StoreError;
use crate::store::layout::Layout;
use crate::store::notes::{Difference, Kind, Note, Notes};
use crate::store::records::{ImageRecord, LayerRecord};
use crate::store::slots::Counter;
use crate::sync::{Arc, Mutex};

pub(super) use rebuild::Rebuilt;

use bounded::Undone;
use trees::{Trees, failure};

/// Version of the database's trees, keys and records. Version 2 has images' records that say whether they are kept; of version 3
/// there are notes.
const VERSION: u32 = 3;

pub(super) struct Db {
    layout: Layout,
    /// Empty after an error.
    trees: Mutex<Option<Arc<Trees>>>,
    /// The error, apart from `trees`: those are locked for as long as a change takes.
    failure: OnceLock<String>,
    /// Changes with `trees` locked.
    notes: Notes,
    /// Held while a number is taken: nobody else gets it.
    counting: Mutex<()>,
}

/// What is read of a database when it is opened.
pub(super) struct Opened {
    pub(super) db: Db,
    pub(super) layers: Vec<(LayerDigest, LayerRecord)>,
    /// What became of the database before this one, if it was broken.
    pub(super) rebuilt: Option<Rebuilt>,
}

// === impl Db ===

impl Db {
    /// Opens the database under the root. One that is broken is kept aside, and another one made of all that is noted.
    pub(super) fn open(layout: &Layout) -> Result<Opened, StoreError> {
        opening::open(layout, opening::PATIENCE)
    }

    /// Why it is not touched any more, if it is not.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// The first of so many numbers for views.
    pub(super) fn new_view_slots(&self, count: u32) -> Result<u32, StoreError> {
        self.next(Counter::View, count)
    }

    pub(super) fn put_image(&self, image: &ImageRecord) -> Result<(), StoreError> {
        self.put(&Note::new(Kind::Image, image_key(&image.reference, &image.platform), image.encode()))
    }

    pub(super) fn remove_image(&self, reference: &str, platform: &str) -> Result<(), StoreError> {
        self.remove(Kind::Image, &image_key(reference, platform))
    }

    pub(super) fn image(&self, reference: &str, platform: &str) -> Result<Option<ImageRecord>, StoreError> {
        let found = self.with(|trees| trees.get(Kind::Image, &image_key(reference, platform)))?;
        found.map(|bytes| self.decoded(&bytes)).transpose()
    }

    pub(super) fn images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        let found = self.with(|trees| trees.all(Kind::Image))?;
        found.iter().map(|record| self.decoded(&record.value)).collect()
    }

    fn decoded(&self, image: &[u8]) -> Result<ImageRecord, StoreError> {
        let failed = |error| StoreError::Database { path: self.layout.db(), source: Box::new(error) };
        ImageRecord::decode(image).map_err(failed)
    }

    /// How many notes do not say what their records say; with `repair` they do then. Changes go on meanwhile.
    pub(super) fn check_notes(&self, repair: bool) -> Result<Vec<String>, StoreError> {
        let mut records = Vec::new();
        for kind in Kind::ALL {
            records.extend(self.with(|trees| trees.all(kind))?);
        }
        let mut told = Vec::new();
        let Difference { unnoted, contradicted, unrecorded } = self.notes.compare(&records)?;
        for suspect in unnoted.iter().chain(&contradicted).chain(&unrecorded) {
            // It may have changed while it was looked at.
            let trees = self.trees.lock();
            let get = |trees: &Trees| trees.get(suspect.kind, &suspect.key);
            let record = get(self.opened(&trees)?).map_err(|error| failure(error, &self.layout.db()))?;
            if self.notes.noted(suspect.kind, &suspect.key) == record {
                continue;
            }
            told.push(suspect.title());
            match record {
                Some(value) if repair => self.notes.put_all(&[Note { value, ..suspect.clone() }])?,
                None if repair => self.notes.take_out(suspect.kind, &suspect.key)?.settle(),
                _ => {}
            }
        }
        Ok(told)
    }

    /// The first of the counter's next `count` numbers, durably: they are never handed out again.
    fn next(&self, counter: Counter, count: u32) -> Result<u32, StoreError> {
        let _one_at_a_time = self.counting.lock();
        let number = self.with(|trees| trees.counter(counter))?;
        let Some(next) = number.checked_add(count).filter(|next| *next <= counter.end()) else {
            return Err(StoreError::NoSlots { root: self.layout.root().to_path_buf(), kind: counter.what() });
        };
        self.put(&Note::new(Kind::Counter, counter.key(), next.to_le_bytes()))?;
        Ok(number)
    }

    /// Writes a record in place of the one before it, and returns when it is on disk. Its note is there then too.
    fn put(&self, record: &Note) -> Result<(), StoreError> {
        let mut trees = self.trees.lock();
        self.reserve(&trees, record.value.len())?;
        let aside = self.notes.write(record)?;
        let own = record.clone();
        self.flushed(&mut trees, move |trees| trees.put(&own))?;
        aside.settle();
        Ok(())
    }

    /// Takes a record out, and its note.
    fn remove(&self, kind: Kind, key: &[u8]) -> Result<(), StoreError> {
        let mut trees = self.trees.lock();
        self.reserve(&trees, 0)?;
        let aside = self.notes.take_out(kind, key)?;
        let own = key.to_owned();
        self.flushed(&mut trees, move |trees| trees.remove(kind, &own))?;
        aside.settle();
        Ok(())
    }

    /// Changes what is not noted by writing about so many bytes, and returns when it is on disk.
    fn change(
        &self,
        bytes: usize,
        act: impl FnOnce(&Trees) -> sled::Result<()> + Send + 'static,
    ) -> Result<(), StoreError> {
        let mut trees = self.trees.lock();
        self.reserve(&trees, bytes)?;
        self.flushed(&mut trees, act)
    }

    fn reserve(&self, trees: &Option<Arc<Trees>>, bytes: usize) -> Result<(), StoreError> {
        self.opened(trees)?.reserve(bytes).map_err(StoreError::io("reserve space for", &self.layout.db()))
    }

    fn flushed(
        &self,
        trees: &mut Option<Arc<Trees>>,
        act: impl FnOnce(&Trees) -> sled::Result<()> + Send + 'static,
    ) -> Result<(), StoreError> {
        bounded::flushed(self.opened(trees)?, act).map_err(|undone| {
            let error = match undone {
                Undone::Failed(error) => failure(error, &self.layout.db()),
                Undone::Lost(what) => StoreError::Database { path: self.layout.db(), source: what.into() },
            };
            self.left_alone(trees, error)
        })
    }

    fn with<R>(&self, act: impl FnOnce(&Trees) -> sled::Result<R>) -> Result<R, StoreError> {
        self.act(&mut self.trees.lock(), act)
    }

    fn act<R>(
        &self,
        trees: &mut Option<Arc<Trees>>,
        act: impl FnOnce(&Trees) -> sled::Result<R>,
    ) -> Result<R, StoreError> {
        act(self.opened(trees)?).map_err(|error| self.left_alone(trees, failure(error, &self.layout.db())))
    }

    /// Touches the database no more, as of this error.
    fn left_alone(&self, trees: &mut Option<Arc<Trees>>, error: StoreError) -> StoreError {
        std::mem::forget(trees.take());
        let _is_the_first = self.failure.set(with_causes(&error));
        error
    }

    fn opened<'a>(&self, trees: &'a Option<Arc<Trees>>) -> Result<&'a Arc<Trees>, StoreError> {
        trees.as_ref().ok_or_else(|| StoreError::DatabaseFailed { path: self.layout.db() })
    }
}

/// What the keys of all pieces of an image begin with.
fn image_key(reference: &str, platform: &str) -> Vec<u8> {
    [reference.as_bytes(), b"\0", platform.as_bytes(), b"\0"].concat()
}

#[cfg(test)]
mod tests;
