//! Whether notes and records say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use super::{Aside, Kind, Note, Notes, list, remove_file};
use crate::store::StoreError;

/// Says which boot of the machine this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// How notes and records differ.
#[derive(Debug, Default)]
pub(in crate::store) struct Difference {
    /// Records of which there is no note that can be read.
    pub(in crate::store) unnoted: Vec<Note>,
    /// Records of which something else is noted.
    pub(in crate::store) contradicted: Vec<Note>,
    /// Notes that have no record.
    pub(in crate::store) unrecorded: Vec<Note>,
}

// === impl Notes ===

impl Notes {
    /// Compares all of them, on all cores: of ten thousand in a tenth of a second, unless they must come from the disk.
    pub(in crate::store) fn compare(&self, records: &[Note]) -> Result<Difference, StoreError> {
        let places: BTreeMap<PathBuf, &Note> = records.iter().map(|record| (self.place(record), record)).collect();
        let paths = self.paths()?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut difference = Difference::default();
        std::thread::scope(|scope| {
            let compare = |paths: &[PathBuf]| {
                let mut part = Difference::default();
                paths.iter().for_each(|path| part.look(self.read(path), places.get(path).copied()));
                part
            };
            let parts = paths.chunks(paths.len().div_ceil(cores).max(1));
            let parts: Vec<_> = parts.map(|part| scope.spawn(move || compare(part))).collect();
            for part in parts {
                difference.add(part.join().unwrap_or_default());
            }
        });
        let there: BTreeSet<&PathBuf> = paths.iter().collect();
        let missing = places.iter().filter(|(path, _)| !there.contains(path));
        difference.unnoted.extend(missing.map(|(_, record)| (*record).clone()));
        Ok(difference)
    }

    /// The value that is noted.
    pub(in crate::store) fn noted(&self, kind: Kind, key: &[u8]) -> Option<Vec<u8>> {
        self.read(&self.place(&Note::new(kind, key, []))).map(|note| note.value)
    }

    /// Has notes say what these records say.
    pub(in crate::store) fn put_all(&self, records: &[Note]) -> Result<(), StoreError> {
        records.iter().try_for_each(|record| self.write(record).map(Aside::settle))
    }

    /// Deletes what is noted of none of these records, and what lies aside.
    pub(in crate::store) fn delete_all_but(&self, records: &[Note]) -> Result<(), StoreError> {
        let places: BTreeSet<PathBuf> = records.iter().map(|record| self.place(record)).collect();
        let mut stale = vec![self.layout.note_aside()];
        for kind in Kind::gathered() {
            let paths = list(&self.layout.notes(kind.name()))?;
            stale.extend(paths.into_iter().filter(|path| !places.contains(path)));
        }
        stale.iter().try_for_each(|path| remove_file(path).map_err(StoreError::io("remove", path)))
    }

    /// Whether the machine has run without a break since notes and records were compared: then nothing noted can be older than its record.
    pub(in crate::store) fn are_of_this_boot(&self) -> bool {
        let boot = fs::read_to_string(BOOT_ID).ok();
        boot.is_some() && fs::read_to_string(self.layout.noted_boot()).ok() == boot
    }

    /// They say what their records say. Where that cannot be written down the next start takes them for older.
    pub(in crate::store) fn have_been_compared(&self) {
        let marked = fs::read_to_string(BOOT_ID).and_then(|boot| fs::write(self.layout.noted_boot(), boot));
        if let Err(error) = marked {
            tracing::debug!(%error, "the next start cannot tell that notes are what was written last");
        }
    }
}

// === impl Difference ===

impl Difference {
    fn look(&mut self, note: Option<Note>, record: Option<&Note>) {
        match (note, record) {
            (Some(note), Some(record)) if note != *record => self.contradicted.push(record.clone()),
            (None, Some(record)) => self.unnoted.push(record.clone()),
            (Some(note), None) => self.unrecorded.push(note),
            (Some(_), Some(_)) | (None, None) => {}
        }
    }

    fn add(&mut self, other: Self) {
        self.unnoted.extend(other.unnoted);
        self.contradicted.extend(other.contradicted);
        self.unrecorded.extend(other.unrecorded);
    }
}
