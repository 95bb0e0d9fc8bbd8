//! A layer on its way into the store: three files in staging that a scan fills, and the step that makes them a layer.
//!
//! Until that step nothing of it counts, and after it nothing of it can be lost: its files, its directory and its
//! name are on disk before anybody sees it.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::blob::Origin;
use crate::digest::LayerDigest;
use crate::index::frames::{Frames, FramesError, Heading};
use crate::index::scan::{Parts, Verified};
use crate::index::sources::Indexed;
use crate::store::layer::Layer;
use crate::store::layout::{DATA, FRAMES, RESIDENT, SUMS, TREE};
use crate::store::records::LayerRecord;
use crate::store::resident::Resident;
use crate::store::sums::Sums;
use crate::store::{Entry, Store, StoreError, recover};
use crate::sync::Arc;
use crate::sys::file;

/// A block of the trees.
const BLOCK_BYTES: u64 = 512;

/// A layer being received. Dropping it removes what there is of it.
pub struct Receiving {
    store: Store,
    digest: LayerDigest,
    directory: PathBuf,
    parts: Parts,
}

// === impl Receiving ===

impl Receiving {
    pub(super) fn begin(store: Store, digest: LayerDigest) -> Result<Self, StoreError> {
        let directory = store.staged_path(&digest);
        let made = DirBuilder::new().mode(0o700).create(&directory);
        made.map_err(StoreError::io("make", &directory))?;
        let parts = make_parts(&directory).inspect_err(|_| {
            let _ = fs::remove_dir_all(&directory); // the error that is returned says more
        })?;
        Ok(Self { store, digest, directory, parts })
    }

    /// The files, empty at first.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Makes the files a layer of the store, durably, all of it resident. If another receiving of the same layer was
    /// faster, that one's layer is returned and this one's files are dropped; but what was verified takes the place of what
    /// was not, whose readers read on. Blocking, for as long as the disk takes.
    pub fn finish(self, verified: Verified, origin: Origin) -> Result<Arc<Layer>, StoreError> {
        self.check_layer(verified.heading())?;
        self.complete(origin)
    }

    /// The same with an index that was not made here: nothing of the layer is resident. A layer of the store that was scanned
    /// is returned instead, and one with another index too, for the caller to judge.
    pub fn finish_indexed(self, indexed: &Indexed, origin: Origin) -> Result<Arc<Layer>, StoreError> {
        self.check_layer(indexed.heading())?;
        self.enter_store(origin, false)
    }

    /// [`Receiving::finish`] for files that are known to be verified.
    pub(super) fn complete(self, origin: Origin) -> Result<Arc<Layer>, StoreError> {
        self.enter_store(origin, true)
    }

    fn check_layer(&self, heading: &Heading) -> Result<(), StoreError> {
        let (wanted, got) = (self.digest, heading.layer);
        if got == wanted { Ok(()) } else { Err(StoreError::WrongLayer { wanted, got }) }
    }

    fn enter_store(self, origin: Origin, is_verified: bool) -> Result<Arc<Layer>, StoreError> {
        let store = self.store.clone();
        let layer = self.enter_durably(&origin, is_verified)?;
        if is_verified {
            store.inner.forget_verdict(&layer.digest())?;
            store.inner.shared.cache.layer_came(layer.data_bytes());
            store.inner.shared.twins.note_all(&layer);
        }
        Ok(layer)
    }

    fn enter_durably(self, origin: &Origin, is_verified: bool) -> Result<Arc<Layer>, StoreError> {
        self.make_durable(is_verified)?;
        let placing = self.store.inner.placing.lock();
        if let Some(entry) = self.store.entry(&self.digest) {
            match entry.open(&self.store.inner.shared) {
                Ok(layer) if is_verified && !layer.is_verified() => {
                    tracing::info!(layer = %self.digest, "what was scanned takes the place of an index that was not made here");
                }
                Ok(layer) => {
                    drop(placing);
                    self.store.set_origin(&self.digest, origin)?;
                    return Ok(layer);
                }
                Err(StoreError::Damaged { layer, cause }) => {
                    tracing::warn!(%layer, cause, "replacing a damaged layer");
                }
                Err(error) => return Err(error),
            }
        }
        self.place(origin)
    }

    fn make_durable(&self, is_resident: bool) -> Result<(), StoreError> {
        let frames_path = self.directory.join(FRAMES);
        let frames = Frames::open(&self.parts.frames).map_err(|error| match error {
            FramesError::Io(source) => StoreError::io("read", &frames_path)(source),
            other => StoreError::Damaged { layer: self.digest, cause: other.to_string() },
        })?;
        // The kernel's EROFS reads whole blocks of its device, also of a tar that ends within one.
        let padded = frames.heading().data_bytes.next_multiple_of(BLOCK_BYTES);
        self.parts.data.set_len(padded).map_err(StoreError::io("write", &self.directory.join(DATA)))?;
        let resident_path = self.directory.join(RESIDENT);
        let resident = make_file(&resident_path)?;
        let write = if is_resident { Resident::write_all } else { Resident::write_none };
        write(&resident, frames.len()).map_err(StoreError::io("write", &resident_path))?;
        let damaged = |error: FramesError| StoreError::Damaged { layer: self.digest, cause: error.to_string() };
        let sums = if Sums::are_needed(&frames).map_err(damaged)? { Some(self.make_sums(frames.len())?) } else { None };
        let files =
            [(&self.parts.data, DATA), (&self.parts.tree, TREE), (&self.parts.frames, FRAMES), (&resident, RESIDENT)];
        let files = files.into_iter().chain(sums.as_ref().map(|sums| (sums, SUMS)));
        for (file, name) in files {
            file.sync_all().map_err(StoreError::io("sync", &self.directory.join(name)))?;
        }
        file::sync_directory(&self.directory).map_err(StoreError::io("sync", &self.directory))
    }

    fn make_sums(&self, frames: u32) -> Result<File, StoreError> {
        let path = self.directory.join(SUMS);
        let file = make_file(&path)?;
        Sums::make(&file, frames).map_err(StoreError::io("write", &path))?;
        Ok(file)
    }

    /// Moves the directory to its place and the layer into the database. Called with `placing` held.
    fn place(&self, origin: &Origin) -> Result<Arc<Layer>, StoreError> {
        let inner = &self.store.inner;
        let (layers, place) = (inner.shared.layout.layers(), inner.shared.layout.layer(&self.digest));
        if place.exists() {
            let away = self.store.staged_path(&self.digest);
            fs::rename(&place, &away).map_err(StoreError::io("move aside", &place))?;
            recover::remove_all(&away)?;
        }
        fs::rename(&self.directory, &place).map_err(StoreError::io("move to its place", &self.directory))?;
        let entered = self.enter(&layers, origin);
        if entered.is_err() {
            // Back to where dropping finds it: what is in place without a record would be adopted at the next start.
            let _ = fs::rename(&place, &self.directory);
        }
        entered
    }

    fn enter(&self, layers: &Path, origin: &Origin) -> Result<Arc<Layer>, StoreError> {
        let inner = &self.store.inner;
        file::sync_directory(layers).map_err(StoreError::io("sync", layers))?;
        let record = |slot| LayerRecord { slot, origin: Some(origin.clone()) };
        let slot = inner.db.add_layer(&self.digest, record)?;
        let entry = Arc::new(Entry::new(self.digest, record(slot)));
        let layer = entry.open(&inner.shared)?;
        inner.entries.lock().insert(self.digest, entry);
        Ok(layer)
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if let Err(error) = recover::remove_all(&self.directory) {
            tracing::warn!(layer = %self.digest, %error, "what was received of a layer could not be removed");
        }
    }
}

impl std::fmt::Debug for Receiving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiving").field("digest", &self.digest).finish_non_exhaustive()
    }
}

fn make_parts(directory: &Path) -> Result<Parts, StoreError> {
    Ok(Parts {
        data: make_file(&directory.join(DATA))?,
        tree: make_file(&directory.join(TREE))?,
        frames: make_file(&directory.join(FRAMES))?,
    })
}

fn make_file(path: &Path) -> Result<File, StoreError> {
    let made = File::options().read(true).write(true).create_new(true).mode(0o600).open(path);
    made.map_err(StoreError::io("make", path))
}
