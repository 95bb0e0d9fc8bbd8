//! Notes: of each record of the database that nobody could make again a small file that says the same, for the day on which
//! the database cannot be read.
//!
//! The database is the truth, and it alone is flushed. A note is written aside before its record changes and comes into its place after
//! that; it is put aside before its record leaves, and deleted after that. So whenever the process is killed, one note at most is not what
//! its record is, and that one lies aside. After a power loss any note may be older than its record, but none is there whose record has left.
//!
//! ```text
//! note    "oncefs note" and a newline, version (1 byte), fields, sha256 of all before it
//! fields  kind, key, value: each its length (4 bytes, little-endian) and that many bytes; key and value as in the database
//! ```

mod compare;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::digest::{Digest, LayerDigest};
use crate::store::StoreError;
use crate::store::layout::Layout;
use crate::store::records::{Reader, Writer};
use crate::store::recover::make_directory;
use crate::sys::file;

pub(super) use compare::Difference;

/// Begins every note.
const MAGIC: &[u8] = b"oncefs note\n";
const VERSION: u8 = 1;
const DIGEST_BYTES: usize = 32;

/// No record is larger: an image's manifest and config have at most 4 MiB each.
const NOTE_BYTES_MAX: u64 = 16 << 20;

/// What a record is of: one kind, one tree of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Counter,
    Layer,
    Verdict,
    Image,
    Pin,
    Snapshot,
}

/// A record, wherever it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) kind: Kind,
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// The notes of a store.
pub(super) struct Notes {
    layout: Layout,
}

/// A note that lies aside while its record changes, and what it does then.
#[must_use]
pub(super) enum Aside<'a> {
    /// It comes into this place.
    Comes(&'a Notes, PathBuf),
    Leaves(&'a Notes),
    Nothing,
}

/// What notes there are.
#[derive(Default)]
pub(super) struct Found {
    pub(super) notes: Vec<Note>,
    /// Files that are no notes, or not those that should be there.
    pub(super) damaged: Vec<PathBuf>,
}

// === impl Kind ===

impl Kind {
    pub(super) const ALL: [Self; 6] =
        [Self::Counter, Self::Layer, Self::Verdict, Self::Image, Self::Pin, Self::Snapshot];

    /// As in a note, and as the directory of its notes is called.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Layer => "layer",
            Self::Verdict => "verdict",
            Self::Image => "image",
            Self::Pin => "pin",
            Self::Snapshot => "snapshot",
        }
    }

    /// Kinds whose notes have a directory. A layer's is in the layer's.
    fn gathered() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|kind| *kind != Self::Layer)
    }
}

// === impl Note ===

impl Note {
    pub(super) fn new(kind: Kind, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self { kind, key: key.into(), value: value.into() }
    }

    /// Whether both are of the same thing.
    pub(super) fn is_of(&self, other: &Self) -> bool {
        (self.kind, &self.key) == (other.kind, &other.key)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let fields = Writer::new(VERSION).field(self.kind.name().as_bytes()).field(&self.key).field(&self.value);
        let mut bytes = [MAGIC, fields.bytes()].concat();
        let digest = Digest::of(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        bytes
    }

    /// None if the bytes are not those of a whole note, of a version that this program knows.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (said, digest) = bytes.split_at_checked(bytes.len().checked_sub(DIGEST_BYTES)?)?;
        if Digest::of(said).as_bytes() != digest {
            return None;
        }
        let (_, mut fields) = Reader::new(said.strip_prefix(MAGIC)?, VERSION).ok()?;
        let kind = fields.field().ok()?;
        let kind = Kind::ALL.into_iter().find(|known| known.name().as_bytes() == kind)?;
        let (key, value) = (fields.field().ok()?.to_vec(), fields.field().ok()?.to_vec());
        fields.end().ok()?;
        Some(Self { kind, key, value })
    }

    /// As people call what it is of.
    pub(super) fn title(&self) -> String {
        let name = match self.kind {
            Kind::Layer | Kind::Verdict => layer_of(&self.key).map(|layer| layer.to_string()),
            Kind::Snapshot => number_of(&self.key).map(|number| number.to_string()),
            Kind::Image | Kind::Pin | Kind::Counter => None,
        };
        let name = name.unwrap_or_else(|| String::from_utf8_lossy(&self.key).replace('\0', " ").trim().to_owned());
        format!("{} {name}", self.kind.name())
    }
}

/// The layer whose key this is.
pub(super) fn layer_of(key: &[u8]) -> Option<LayerDigest> {
    Some(LayerDigest(Digest::from_bytes(key.try_into().ok()?)))
}

/// The snapshot whose key this is.
pub(super) fn number_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.try_into().ok()?))
}

// === impl Notes ===

impl Notes {
    /// Makes the directories of notes that are not there.
    pub(super) fn open(layout: &Layout) -> Result<Self, StoreError> {
        Kind::gathered().try_for_each(|kind| make_directory(&layout.notes(kind.name())))?;
        Ok(Self { layout: layout.clone() })
    }

    /// Writes a note aside. One lies there at a time.
    pub(super) fn write(&self, note: &Note) -> Result<Aside<'_>, StoreError> {
        let place = self.place(note);
        if note.kind == Kind::Layer && !place.parent().is_some_and(Path::is_dir) {
            return Ok(Aside::Nothing); // there is nothing that it could be a note of
        }
        let aside = self.layout.note_aside();
        fs::write(&aside, note.encode()).map_err(StoreError::io("write", &aside)).inspect_err(|_| {
            let _nothing_of_use = fs::remove_file(&aside);
        })?;
        Ok(Aside::Comes(self, place))
    }

    /// Puts a note aside, durably: a note whose record has left must not come back with a power loss, for a note without record is a
    /// record that the database lost.
    pub(super) fn take_out(&self, kind: Kind, key: &[u8]) -> Result<Aside<'_>, StoreError> {
        let (aside, place) = (self.layout.note_aside(), self.place(&Note::new(kind, key, [])));
        match fs::rename(&place, &aside) {
            Ok(()) => {
                let directory = place.parent().unwrap_or(&place);
                file::sync_directory(directory).map_err(StoreError::io("sync", directory))?;
                Ok(Aside::Leaves(self))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Aside::Nothing),
            Err(error) => Err(StoreError::io("put aside", &place)(error)),
        }
    }

    /// All that can be read.
    pub(super) fn all(&self) -> Result<Found, StoreError> {
        let mut found = Found::default();
        for path in self.paths()? {
            match self.read(&path) {
                Some(note) => found.notes.push(note),
                None => found.damaged.push(path),
            }
        }
        // Whoever asked for that change was not answered. It is used only where nothing else is known.
        if let Some(left) = self.left()
            && !self.place(&left).exists()
        {
            found.notes.push(left);
        }
        Ok(found)
    }

    /// Deletes what lies aside.
    pub(super) fn clear_aside(&self) -> Result<(), StoreError> {
        let aside = self.layout.note_aside();
        remove_file(&aside).map_err(StoreError::io("remove", &aside))
    }

    /// The note that lay aside when the process before this one ended.
    pub(super) fn left(&self) -> Option<Note> {
        Note::decode(&read(&self.layout.note_aside())?)
    }

    /// Whether a store has ever noted anything.
    pub(super) fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(list(&self.layout.notes(Kind::Counter.name()))?.is_empty())
    }

    /// Where notes lie.
    fn paths(&self) -> Result<Vec<PathBuf>, StoreError> {
        let mut paths = Vec::new();
        for kind in Kind::gathered() {
            paths.extend(list(&self.layout.notes(kind.name()))?);
        }
        let layers = list(&self.layout.layers())?.into_iter();
        let layers = layers.filter_map(|path| Layout::layer_named(path.file_name()?));
        paths.extend(layers.map(|layer| self.layout.layer_note(&layer)).filter(|path| path.exists()));
        Ok(paths)
    }

    /// The whole note that lies there, and belongs there.
    fn read(&self, path: &Path) -> Option<Note> {
        Note::decode(&read(path)?).filter(|note| self.place(note) == path)
    }

    /// Where the note of such a record lies.
    fn place(&self, record: &Note) -> PathBuf {
        let key = &record.key;
        let name = match record.kind {
            Kind::Layer | Kind::Verdict => layer_of(key).map(|layer| layer.0.hex()),
            Kind::Snapshot => number_of(key).map(|number| number.to_string()),
            Kind::Counter => String::from_utf8(key.clone()).ok().filter(|name| !name.contains('/')),
            Kind::Image | Kind::Pin => None,
        };
        let layer = layer_of(key).filter(|_| record.kind == Kind::Layer);
        match layer {
            Some(layer) => self.layout.layer_note(&layer),
            None => self.layout.notes(record.kind.name()).join(name.unwrap_or_else(|| Digest::of(key).hex())),
        }
    }
}

// === impl Aside ===

impl Aside<'_> {
    /// The database is changed, and so is what is noted. The caller's change is made, also where that fails.
    pub(super) fn settle(self) {
        let (notes, settled) = match self {
            Self::Comes(notes, place) => (notes, fs::rename(notes.layout.note_aside(), place)),
            Self::Leaves(notes) => (notes, fs::remove_file(notes.layout.note_aside())),
            Self::Nothing => return,
        };
        if let Err(error) = settled {
            tracing::warn!(%error, "a note was not brought up to date; the next start does it");
            // Notes are older than records from now on.
            let _gone_at_a_boot_anyway = fs::remove_file(notes.layout.noted_boot());
        }
    }
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let is_small = fs::metadata(path).ok()?.len() <= NOTE_BYTES_MAX;
    is_small.then(|| fs::read(path).ok())?
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let listed = || fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>();
    listed().map_err(StoreError::io("list", directory))
}

#[cfg(test)]
mod tests;
