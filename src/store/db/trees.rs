//! sled's trees, and what of them is ours: records of each kind, and the version of all.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::unfinished;
use crate::store::StoreError;
use crate::store::notes::{Kind, Note};
use crate::store::records::RecordError;
use crate::store::slots::Counter;
use crate::sys::file;

/// sled's own cache; its default of 1 GiB is for another kind of program.
const CACHE_BYTES: u64 = 4 << 20;

/// A larger value is cut into pieces of this size: 16 of them, as many as sled keeps together, stay below the 128 KiB
/// from which on it uses files of their own.
const PIECE_BYTES: usize = 4096;

/// Space reserved ahead of the log's end: four of sled's segments, beside what a change writes itself.
const RESERVE_BYTES: u64 = 2 << 20;

/// How long sled's worker threads may take to let go of a database that was just closed: they may wait for a busy disk. Less than a start
/// waits for all of it (`opening::PATIENCE`).
const CLOSING: Duration = Duration::from_secs(45);

pub(super) struct Trees {
    /// `version`, and the counters: 4 bytes little-endian each.
    pub(super) meta: sled::Tree,
    /// By the layer's digest, 32 bytes.
    layers: sled::Tree,
    /// By reference, a zero byte, platform, a zero byte, and the number of the piece of the value, 2 bytes big-endian.
    images: sled::Tree,
    /// By the snapshot's number, 8 bytes big-endian, and the number of the piece.
    snapshots: sled::Tree,
    /// See `cache`.
    pins: sled::Tree,
    pub(super) accesses: sled::Tree,
    /// See `verdicts`.
    verdicts: sled::Tree,
    db: sled::Db,
    /// sled's log, for reserving space and for what sled's own flush leaves out.
    log: File,
    /// What sled knows its directory by; after it is open it needs that no more, unless it made files for single values.
    _directory: File,
}

/// Why a database cannot be used.
pub(super) enum Trouble {
    /// It is the database's fault: another one takes its place.
    Broken(String),
    /// It is somebody else's: try again later.
    Failed(StoreError),
}

// === impl Trees ===

impl Trees {
    pub(super) fn open(path: &Path) -> Result<Self, Trouble> {
        let failed = |action| move |error| Trouble::Failed(StoreError::io(action, path)(error));
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make"))?;
        // By a name that follows the directory: a thread that hangs in here leaves alone what takes the directory's place.
        let directory = File::open(path).map_err(failed("open"))?;
        let name = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        unfinished::remove(&name).map_err(failed("clear"))?;
        let db = open(&name).map_err(|error| Trouble::of(error, path))?;
        let tree = |name| db.open_tree(name).map_err(|error| Trouble::of(error, path));
        let (meta, layers, images, snapshots) = (tree("meta")?, tree("layers")?, tree("images")?, tree("snapshots")?);
        let (pins, accesses, verdicts) = (tree("pins")?, tree("accesses")?, tree("verdicts")?);
        let log = File::options().write(true).open(name.join("db")).map_err(failed("open the log of"))?;
        Ok(Self { meta, layers, images, snapshots, pins, accesses, verdicts, db, log, _directory: directory })
    }

    /// Makes sure that a change which writes so many bytes finds its space.
    pub(super) fn reserve(&self, bytes: usize) -> io::Result<()> {
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

    pub(super) fn flush(&self) -> sled::Result<()> {
        self.db.flush()?;
        // sled leaves it at sync_file_range(2), which forgets the disk's own cache and where the file's blocks are.
        self.log.sync_data().map_err(sled::Error::Io)
    }

    /// Writes a record in place of the one before it.
    pub(super) fn put(&self, record: &Note) -> sled::Result<()> {
        let Note { kind, key, value } = record;
        if !is_in_pieces(*kind) {
            return self.tree(*kind).insert(key, value.as_slice()).map(drop);
        }
        let mut batch = self.removal(*kind, key)?;
        for (number, piece) in value.chunks(PIECE_BYTES).enumerate() {
            batch.insert([key.as_slice(), &(number as u16).to_be_bytes()].concat(), piece);
        }
        self.tree(*kind).apply_batch(batch)
    }

    pub(super) fn remove(&self, kind: Kind, key: &[u8]) -> sled::Result<()> {
        if kind == Kind::Layer {
            self.accesses.remove(key)?;
        }
        if is_in_pieces(kind) {
            return self.tree(kind).apply_batch(self.removal(kind, key)?);
        }
        self.tree(kind).remove(key).map(drop)
    }

    /// The record's value.
    pub(super) fn get(&self, kind: Kind, key: &[u8]) -> sled::Result<Option<Vec<u8>>> {
        if !is_in_pieces(kind) {
            return Ok(self.tree(kind).get(key)?.map(|value| value.to_vec()));
        }
        let pieces = self.tree(kind).scan_prefix(key).values().collect::<sled::Result<Vec<_>>>()?;
        Ok((!pieces.is_empty()).then(|| pieces.concat()))
    }

    /// All records of a kind.
    pub(super) fn all(&self, kind: Kind) -> sled::Result<Vec<Note>> {
        let mut records: Vec<Note> = Vec::new();
        for item in self.tree(kind) {
            let (key, piece) = item?;
            match (kind, records.last_mut()) {
                (Kind::Counter, _) if Counter::ALL.iter().all(|counter| key != counter.key().as_bytes()) => {}
                (Kind::Image | Kind::Snapshot, last) => {
                    let Some((key, _number)) = key.split_last_chunk::<2>() else { continue };
                    match last.filter(|last| last.key == key) {
                        Some(last) => last.value.extend_from_slice(&piece),
                        None => records.push(Note::new(kind, key, piece.as_ref())),
                    }
                }
                _ => records.push(Note::new(kind, key.as_ref(), piece.as_ref())),
            }
        }
        Ok(records)
    }

    /// Says that everything in the database can be read by programs of this version.
    pub(super) fn set_version(&self, version: u32) -> Result<(), Trouble> {
        let write = || {
            self.meta.insert("version", &version.to_le_bytes())?;
            self.flush()
        };
        write().map_err(|error| Trouble::of(error, Path::new("db")))
    }

    pub(super) fn version(&self) -> Result<Option<u32>, Trouble> {
        self.number("version").map_err(|error| Trouble::of(error, Path::new("db")))
    }

    pub(super) fn counter(&self, counter: Counter) -> sled::Result<u32> {
        Ok(self.number(counter.key())?.unwrap_or(1).max(1))
    }

    pub(super) fn number(&self, key: &str) -> sled::Result<Option<u32>> {
        let bytes = self.meta.get(key)?;
        let damaged = |_| sled::Error::ReportableBug(format!("{key} is not 4 bytes"));
        bytes.map(|bytes| bytes.as_ref().try_into().map(u32::from_le_bytes).map_err(damaged)).transpose()
    }

    fn tree(&self, kind: Kind) -> &sled::Tree {
        match kind {
            Kind::Counter => &self.meta,
            Kind::Layer => &self.layers,
            Kind::Verdict => &self.verdicts,
            Kind::Image => &self.images,
            Kind::Pin => &self.pins,
            Kind::Snapshot => &self.snapshots,
        }
    }

    /// What takes out all pieces of a record.
    fn removal(&self, kind: Kind, key: &[u8]) -> sled::Result<sled::Batch> {
        let mut batch = sled::Batch::default();
        for piece in self.tree(kind).scan_prefix(key).keys() {
            batch.remove(piece?);
        }
        Ok(batch)
    }
}

fn is_in_pieces(kind: Kind) -> bool {
    matches!(kind, Kind::Image | Kind::Snapshot)
}

fn open(path: &Path) -> sled::Result<sled::Db> {
    let give_up = Instant::now() + CLOSING;
    loop {
        // We flush what must last; sled's own timer would only add a thread.
        let opened = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None).open();
        match opened {
            Err(error) if is_closing(&error) && Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => return opened,
        }
    }
}

/// Whether sled found its own lock taken. Another process cannot hold it, since we hold the root's: it is a thread of
/// the database that this process just closed.
fn is_closing(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(source) if source.to_string().starts_with("could not acquire lock"))
}

// === impl Trouble ===

impl Trouble {
    pub(super) fn of(error: sled::Error, path: &Path) -> Self {
        match &error {
            sled::Error::Io(source)
                if !matches!(source.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData) =>
            {
                Self::Failed(failure(error, path))
            }
            _ => Self::Broken(error.to_string()),
        }
    }

    pub(super) fn into_error(self, path: &Path) -> StoreError {
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

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

pub(super) fn failure(error: sled::Error, path: &Path) -> StoreError {
    match error {
        sled::Error::Io(source) => StoreError::io("use the database", path)(source),
        other => StoreError::Database { path: path.to_path_buf(), source: other.into() },
    }
}
