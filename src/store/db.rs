//! The store's database: the only place that knows it is sled.
//!
//! Every method that changes something returns after the change is on disk. Reads and writes are small and rare
//! (one a layer, one an image, one a mount), so one lock around it all is enough.
//!
//! sled 0.34 does not survive a failed write: it may wait for ever in its next flush, or in its destructor. So space is
//! reserved before each change, values are kept small enough never to become files of their own, and after an
//! error all the same the database is not touched again by this process.

mod cache;
mod layers;
mod snapshots;
mod unfinished;
mod verdicts;

use std::fs;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::digest::{Digest, LayerDigest};
use crate::store::StoreError;
use crate::store::layout::Layout;
use crate::store::records::{ImageRecord, LayerRecord, RecordError};
use crate::store::slots::Counter;
use crate::sync::Mutex;
use crate::sys::file;

/// Version of the database's trees, keys and records. Version 2 has images' records that say whether they are kept.
const VERSION: u32 = 2;

/// sled's own cache; its default of 1 GiB is for another kind of program.
const CACHE_BYTES: u64 = 4 << 20;

/// A larger value is cut into pieces of this size: 16 of them, as many as sled keeps together, stay below the 128 KiB
/// from which on it uses files of their own.
const PIECE_BYTES: usize = 4096;

/// Space reserved ahead of the log's end: four of sled's segments, beside what a change writes itself.
const RESERVE_BYTES: u64 = 2 << 20;

/// How long sled's worker threads may take to let go of a database that was just closed.
const CLOSING: Duration = Duration::from_secs(10);

pub(super) struct Db {
    layout: Layout,
    /// Empty after an error.
    trees: Mutex<Option<Trees>>,
    /// Held while a number is taken: nobody else gets it.
    counting: Mutex<()>,
}

/// What is read of a database when it is opened.
pub(super) struct Opened {
    pub(super) db: Db,
    pub(super) layers: Vec<(LayerDigest, LayerRecord)>,
    /// Why the database before this one was moved aside, if it was.
    pub(super) lost: Option<String>,
}

struct Trees {
    /// `version`, `next-layer-slot`, `next-view-slot`: 4 bytes little-endian each.
    meta: sled::Tree,
    /// By the layer's digest, 32 bytes.
    layers: sled::Tree,
    /// By reference, a zero byte, platform, a zero byte, and the number of the piece of the value, 2 bytes big-endian.
    images: sled::Tree,
    /// See `snapshots`.
    snapshots: sled::Tree,
    /// See `cache`.
    pins: sled::Tree,
    accesses: sled::Tree,
    /// See `verdicts`.
    verdicts: sled::Tree,
    db: sled::Db,
    /// sled's log, for reserving space and for what sled's own flush leaves out.
    log: File,
}

/// Why a database cannot be used.
enum Trouble {
    /// It is the database's fault: start anew.
    Broken(String),
    /// It is somebody else's: try again later.
    Failed(StoreError),
}

// === impl Db ===

impl Db {
    /// Opens the database under the root. One that cannot be read is moved aside and replaced by an empty one: all it
    /// holds can be had again from the layers' directories and the registry.
    pub(super) fn open(layout: &Layout) -> Result<Opened, StoreError> {
        let path = layout.db();
        let existed = path.exists();
        let opened = Trees::open(&path).and_then(|trees| match trees.version()? {
            None if existed => Err(Trouble::Broken("it has no version".to_owned())),
            None => trees.found(lost_count(layout)).map(|()| (trees, Vec::new())),
            Some(has) if has > VERSION => {
                Err(Trouble::Failed(StoreError::Newer { root: layout.root().to_path_buf(), has, known: VERSION }))
            }
            Some(has) => trees.read_all().and_then(|layers| {
                if has < VERSION {
                    let reserved = trees.reserve(0).map_err(StoreError::io("reserve space for", &path));
                    reserved.map_err(Trouble::Failed)?;
                    trees.set_version()?;
                }
                Ok((trees, layers))
            }),
        });
        let (trees, layers, lost) = match opened {
            Ok((trees, layers)) => (trees, layers, None),
            Err(Trouble::Failed(error)) => return Err(error),
            Err(Trouble::Broken(cause)) => (replace(layout, &path)?, Vec::new(), Some(cause)),
        };
        let db = Self { layout: layout.clone(), trees: Mutex::new(Some(trees)), counting: Mutex::default() };
        Ok(Opened { db, layers, lost })
    }

    /// The first of so many numbers for views.
    pub(super) fn new_view_slots(&self, count: u32) -> Result<u32, StoreError> {
        self.next(Counter::View, count)
    }

    pub(super) fn put_image(&self, image: &ImageRecord) -> Result<(), StoreError> {
        let (key, bytes) = (image_key(&image.reference, &image.platform), image.encode());
        self.change(bytes.len(), |trees| {
            let mut batch = trees.removal(&key)?;
            for (number, piece) in bytes.chunks(PIECE_BYTES).enumerate() {
                batch.insert([key.as_slice(), &(number as u16).to_be_bytes()].concat(), piece);
            }
            trees.images.apply_batch(batch)
        })
    }

    pub(super) fn remove_image(&self, reference: &str, platform: &str) -> Result<(), StoreError> {
        let key = image_key(reference, platform);
        self.change(0, |trees| trees.removal(&key).and_then(|batch| trees.images.apply_batch(batch)))
    }

    pub(super) fn image(&self, reference: &str, platform: &str) -> Result<Option<ImageRecord>, StoreError> {
        let found = self.with(|trees| trees.images(&image_key(reference, platform)))?;
        self.decoded(found).map(|mut images| images.pop())
    }

    pub(super) fn images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        let found = self.with(|trees| trees.images(&[]))?;
        self.decoded(found)
    }

    fn decoded(&self, images: Vec<Vec<u8>>) -> Result<Vec<ImageRecord>, StoreError> {
        let records = images.iter().map(|bytes| ImageRecord::decode(bytes)).collect::<Result<_, _>>();
        records.map_err(|error| StoreError::Database { path: self.layout.db(), source: error.into() })
    }

    /// The first of the counter's next `count` numbers, durably: they are never handed out again.
    fn next(&self, counter: Counter, count: u32) -> Result<u32, StoreError> {
        let _one_at_a_time = self.counting.lock();
        let number = self.with(|trees| trees.counter(counter))?;
        let Some(next) = number.checked_add(count).filter(|next| *next <= counter.end()) else {
            return Err(StoreError::NoSlots { root: self.layout.root().to_path_buf(), kind: counter.what() });
        };
        self.change(0, |trees| trees.meta.insert(counter.key(), &next.to_le_bytes()).map(drop))?;
        Ok(number)
    }

    /// Changes something by writing about so many bytes, and returns when it is on disk.
    fn change(&self, bytes: usize, act: impl FnOnce(&Trees) -> sled::Result<()>) -> Result<(), StoreError> {
        let mut trees = self.trees.lock();
        self.opened(&trees)?.reserve(bytes).map_err(StoreError::io("reserve space for", &self.layout.db()))?;
        self.act(&mut trees, |trees| {
            act(trees)?;
            trees.db.flush()?;
            // sled leaves it at sync_file_range(2), which forgets the disk's own cache and where the file's blocks are.
            trees.log.sync_data().map_err(sled::Error::Io)
        })
    }

    fn with<R>(&self, act: impl FnOnce(&Trees) -> sled::Result<R>) -> Result<R, StoreError> {
        self.act(&mut self.trees.lock(), act)
    }

    fn act<R>(&self, trees: &mut Option<Trees>, act: impl FnOnce(&Trees) -> sled::Result<R>) -> Result<R, StoreError> {
        act(self.opened(trees)?).map_err(|error| {
            std::mem::forget(trees.take());
            failure(error, &self.layout.db())
        })
    }

    fn opened<'a>(&self, trees: &'a Option<Trees>) -> Result<&'a Trees, StoreError> {
        trees.as_ref().ok_or_else(|| StoreError::DatabaseFailed { path: self.layout.db() })
    }
}

/// Moves the database at `path` aside and starts an empty one. The directories of snapshots go first: without their records
/// they would be taken for leftovers, and they hold what nobody can make again.
fn replace(layout: &Layout, path: &Path) -> Result<Trees, StoreError> {
    let snapshots = layout.snapshots();
    let number = (0..u32::MAX).find(|number| !layout.lost_snapshots(*number).exists()).unwrap_or(u32::MAX);
    match fs::rename(&snapshots, layout.lost_snapshots(number)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        moved => moved.map_err(StoreError::io("move aside", &snapshots))?,
    }
    let aside = layout.broken_db(lost_count(layout));
    fs::rename(path, &aside).map_err(StoreError::io("move aside the database", path))?;
    let into_error = |trouble: Trouble| trouble.into_error(path);
    let trees = Trees::open(path).map_err(into_error)?;
    trees.found(lost_count(layout)).map_err(into_error)?;
    file::sync_directory(layout.root()).map_err(StoreError::io("sync", layout.root()))?;
    Ok(trees)
}

/// How many databases lie moved aside under the root.
fn lost_count(layout: &Layout) -> u32 {
    (0..u32::MAX).find(|number| !layout.broken_db(*number).exists()).unwrap_or(u32::MAX)
}

/// What the keys of all pieces of an image begin with.
fn image_key(reference: &str, platform: &str) -> Vec<u8> {
    [reference.as_bytes(), b"\0", platform.as_bytes(), b"\0"].concat()
}

// === impl Trees ===

impl Trees {
    fn open(path: &Path) -> Result<Self, Trouble> {
        unfinished::remove(path).map_err(StoreError::io("clear", path)).map_err(Trouble::Failed)?;
        let give_up = Instant::now() + CLOSING;
        let db = loop {
            // sled panics on some damage where it could return an error.
            let opening = || {
                // We flush what must last; sled's own timer would only add a thread.
                sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None).open()
            };
            match catch_unwind(AssertUnwindSafe(opening)) {
                Ok(Ok(db)) => break db,
                Ok(Err(error)) if is_closing(&error) && Instant::now() < give_up => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Ok(Err(error)) => return Err(Trouble::of(error, path)),
                Err(_panic) => return Err(Trouble::Broken("reading it panicked".to_owned())),
            }
        };
        let tree = |name| db.open_tree(name).map_err(|error| Trouble::of(error, path));
        let (meta, layers, images, snapshots) = (tree("meta")?, tree("layers")?, tree("images")?, tree("snapshots")?);
        let log = path.join("db");
        let log = File::options().write(true).open(&log).map_err(StoreError::io("open", &log));
        let (pins, accesses, verdicts) = (tree("pins")?, tree("accesses")?, tree("verdicts")?);
        Ok(Self { meta, layers, images, snapshots, pins, accesses, verdicts, db, log: log.map_err(Trouble::Failed)? })
    }

    /// Makes sure that a change which writes so many bytes finds its space.
    fn reserve(&self, bytes: usize) -> io::Result<()> {
        // sled rewrites neighbours of a value as it grows: measured, up to 3.3 times the value in all.
        let ahead = RESERVE_BYTES + 4 * bytes as u64;
        match file::reserve(&self.log, self.log.metadata()?.len() + ahead) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                let enough = file::space(&self.log)?.available >= ahead;
                if enough { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
            }
            reserved => reserved,
        }
    }

    /// The values of the images whose keys begin like this, each put together from its pieces.
    fn images(&self, prefix: &[u8]) -> sled::Result<Vec<Vec<u8>>> {
        let mut images: Vec<Vec<u8>> = Vec::new();
        for item in self.images.scan_prefix(prefix) {
            let (key, piece) = item?;
            match images.last_mut() {
                Some(image) if !key.ends_with(&[0, 0]) => image.extend_from_slice(&piece),
                _ => images.push(piece.to_vec()),
            }
        }
        Ok(images)
    }

    /// What takes out all pieces of an image.
    fn removal(&self, key: &[u8]) -> sled::Result<sled::Batch> {
        let mut batch = sled::Batch::default();
        for piece in self.images.scan_prefix(key).keys() {
            batch.remove(piece?);
        }
        Ok(batch)
    }

    /// Makes an empty database one of ours, the successor of so many lost ones.
    fn found(&self, lost: u32) -> Result<(), Trouble> {
        let write = || {
            for counter in [Counter::Layer, Counter::View] {
                self.meta.insert(counter.key(), &counter.first(lost).to_le_bytes())?;
            }
            self.db.flush()
        };
        write().map_err(|error| Trouble::of(error, Path::new("db")))?;
        self.set_version()
    }

    /// Says that everything in the database can be read by programs of this version.
    fn set_version(&self) -> Result<(), Trouble> {
        let write = || {
            self.meta.insert("version", &VERSION.to_le_bytes())?;
            self.db.flush()
        };
        write().map(drop).map_err(|error| Trouble::of(error, Path::new("db")))
    }

    fn version(&self) -> Result<Option<u32>, Trouble> {
        self.number("version").map_err(|error| Trouble::of(error, Path::new("db")))
    }

    fn counter(&self, counter: Counter) -> sled::Result<u32> {
        Ok(self.number(counter.key())?.unwrap_or(1).max(1))
    }

    fn number(&self, key: &str) -> sled::Result<Option<u32>> {
        let bytes = self.meta.get(key)?;
        let damaged = |_| sled::Error::ReportableBug(format!("{key} is not 4 bytes"));
        bytes.map(|bytes| bytes.as_ref().try_into().map(u32::from_le_bytes).map_err(damaged)).transpose()
    }

    /// Reads everything once, so that damage shows now and not in the middle of a mount.
    fn read_all(&self) -> Result<Vec<(LayerDigest, LayerRecord)>, Trouble> {
        let reading = || -> Result<_, Trouble> {
            let of = |error| Trouble::of(error, Path::new("db"));
            let mut layers = Vec::new();
            for item in &self.layers {
                let (key, value) = item.map_err(of)?;
                let key = key.as_ref().try_into().map_err(|_| RecordError::Field)?;
                layers.push((LayerDigest(Digest::from_bytes(key)), LayerRecord::decode(&value)?));
            }
            for image in self.images(&[]).map_err(of)? {
                ImageRecord::decode(&image)?;
            }
            let next = self.counter(Counter::Layer).map_err(of)?;
            self.counter(Counter::View).map_err(of)?;
            if layers.iter().any(|(_, record)| record.slot >= next) {
                return Err(Trouble::Broken("a layer has a number that was not handed out yet".to_owned()));
            }
            Ok(layers)
        };
        catch_unwind(AssertUnwindSafe(reading))
            .unwrap_or_else(|_panic| Err(Trouble::Broken("reading it panicked".to_owned())))
    }
}

// === impl Trouble ===

impl Trouble {
    fn of(error: sled::Error, path: &Path) -> Self {
        match &error {
            sled::Error::Io(source)
                if !matches!(source.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData) =>
            {
                Self::Failed(failure(error, path))
            }
            _ => Self::Broken(error.to_string()),
        }
    }

    fn into_error(self, path: &Path) -> StoreError {
        match self {
            Self::Broken(cause) => StoreError::DatabaseBroken { path: path.to_path_buf(), cause },
            Self::Failed(error) => error,
        }
    }
}

impl From<RecordError> for Trouble {
    fn from(error: RecordError) -> Self {
        Self::Broken(error.to_string())
    }
}

fn failure(error: sled::Error, path: &Path) -> StoreError {
    match error {
        sled::Error::Io(source) => StoreError::io("use the database", path)(source),
        other => StoreError::Database { path: path.to_path_buf(), source: other.into() },
    }
}

/// Whether sled found its own lock taken. Another process cannot hold it, since we hold the root's: it is a thread of
/// the database that this process just closed.
fn is_closing(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(source) if source.to_string().starts_with("could not acquire lock"))
}

#[cfg(test)]
mod tests;
