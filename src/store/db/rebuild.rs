//! A database in the place of a broken one, of all that is noted.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::VERSION;
use super::opening::{is_sound, layer};
use super::trees::{Trees, Trouble};
use crate::store::StoreError;
use crate::store::layout::Layout;
use crate::store::notes::{Found, Kind, Note, Notes, number_of};
use crate::store::recover::make_directory;
use crate::store::slots::Counter;
use crate::sys::file;

/// A database that cannot be believed.
pub(super) struct Broken {
    pub(super) cause: String,
    /// What of it is newer than what is noted.
    pub(super) records: Vec<Note>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Rebuilt {
    pub(in crate::store) cause: String,
    /// Where it is kept, if there was one.
    pub(in crate::store) kept: Option<PathBuf>,
    pub(in crate::store) images: usize,
    pub(in crate::store) snapshots: usize,
    /// Notes that could not be read, and that are kept beside it.
    pub(in crate::store) damaged: Vec<PathBuf>,
    /// Directories of snapshots of which nothing is known.
    pub(in crate::store) unknown: Vec<PathBuf>,
}

/// Keeps the broken database aside and makes another one. Nothing is lost if this is killed at any point: a database is one
/// only when it has a version, and notes stay.
pub(super) fn rebuild(
    layout: &Layout,
    notes: &Notes,
    broken: Broken,
) -> Result<(Trees, Vec<Note>, Rebuilt), StoreError> {
    let path = layout.db();
    let Found { notes: noted, damaged } = notes.all()?;
    let records = together(noted, broken.records);
    let unknown = put_unknown_aside(layout, &records)?;
    let aside = layout.broken_db(lost_count(layout));
    let kept = match fs::rename(&path, &aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        moved => moved.map(|()| Some(aside)).map_err(StoreError::io("move aside the database", &path))?,
    };
    for (number, damaged) in damaged.iter().enumerate() {
        let Some(kept) = &kept else { break };
        let to = kept.join(format!("note-{number}"));
        fs::rename(damaged, to).map_err(StoreError::io("move aside", damaged))?;
    }
    let into_error = |trouble: Trouble| trouble.into_error(&path);
    let trees = Trees::open(&path).map_err(into_error)?;
    let records = fill(&trees, records, lost_count(layout)).map_err(into_error)?;
    file::sync_directory(layout.root()).map_err(StoreError::io("sync", layout.root()))?;
    notes.put_all(&records)?;
    notes.delete_all_but(&records)?;
    notes.have_been_compared();
    let count = |kind| records.iter().filter(|record| record.kind == kind).count();
    let (images, snapshots) = (count(Kind::Image), count(Kind::Snapshot));
    Ok((trees, records, Rebuilt { cause: broken.cause, kept, images, snapshots, damaged, unknown }))
}

/// Makes an empty database one of ours, the successor of so many lost ones, with these records; all that it has then.
pub(super) fn fill(trees: &Trees, mut records: Vec<Note>, lost: u32) -> Result<Vec<Note>, Trouble> {
    let counters = Counter::ALL.map(|counter| {
        let next = next(counter, &records).max(counter.first(lost));
        Note::new(Kind::Counter, counter.key(), next.to_le_bytes())
    });
    records.retain(|record| record.kind != Kind::Counter);
    records.extend(counters);
    let path = Path::new("db");
    let bytes = records.iter().map(|record| record.key.len() + record.value.len()).sum();
    trees.reserve(bytes).map_err(StoreError::io("reserve space for", path))?;
    let written = records.iter().try_for_each(|record| trees.put(record)).and_then(|()| trees.flush());
    written.map_err(|error| Trouble::of(error, path))?;
    trees.set_version(VERSION)?;
    Ok(records)
}

/// How many databases lie moved aside under the root.
pub(super) fn lost_count(layout: &Layout) -> u32 {
    (0..u32::MAX).find(|number| !layout.broken_db(*number).exists()).unwrap_or(u32::MAX)
}

/// The number after the highest that anything knows of.
fn next(counter: Counter, records: &[Note]) -> u32 {
    let counted =
        records.iter().filter(|record| record.kind == Kind::Counter && record.key == counter.key().as_bytes());
    let counted = counted.filter_map(|record| record.value.as_slice().try_into().ok().map(u32::from_le_bytes));
    let of_layers = records.iter().filter(|_| counter == Counter::Layer).filter_map(layer);
    counted.chain(of_layers.map(|(_, record)| record.slot.saturating_add(1))).max().unwrap_or(0)
}

/// What is noted and what was read, each record once. Of counters all that is known: the highest counts.
fn together(older: Vec<Note>, newer: Vec<Note>) -> Vec<Note> {
    let (counters, others): (Vec<Note>, Vec<Note>) =
        older.into_iter().chain(newer).filter(is_sound).partition(|record| record.kind == Kind::Counter);
    let records: BTreeMap<(Kind, Vec<u8>), Note> =
        others.into_iter().map(|record| ((record.kind, record.key.clone()), record)).collect();
    // Two layers with one number: one of them is given another when its directory is found.
    let mut slots = HashSet::new();
    let records =
        records.into_values().filter(|record| layer(record).is_none_or(|(_, layer)| slots.insert(layer.slot)));
    records.chain(counters).collect()
}

/// Puts aside the directories of snapshots that have no record: they would be taken for leftovers, and hold what nobody
/// can make again. Gives where they are.
fn put_unknown_aside(layout: &Layout, records: &[Note]) -> Result<Vec<PathBuf>, StoreError> {
    let snapshots = layout.snapshots();
    let known = records.iter().filter(|record| record.kind == Kind::Snapshot);
    let known: BTreeSet<u64> = known.filter_map(|record| number_of(&record.key)).collect();
    let listed = match fs::read_dir(&snapshots) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.and_then(Iterator::collect::<io::Result<Vec<_>>>),
    };
    let listed = listed.map_err(StoreError::io("list", &snapshots))?;
    let number = |entry: &fs::DirEntry| entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok());
    let unknown: Vec<_> = listed.iter().filter(|entry| number(entry).is_none_or(|id| !known.contains(&id))).collect();
    if unknown.is_empty() {
        return Ok(Vec::new());
    }
    let free = (0..u32::MAX).find(|number| !layout.lost_snapshots(*number).exists()).unwrap_or(u32::MAX);
    let aside = layout.lost_snapshots(free);
    make_directory(&aside)?;
    let put = |entry: &&fs::DirEntry| {
        let to = aside.join(entry.file_name());
        fs::rename(entry.path(), &to).map(|()| to).map_err(StoreError::io("move aside", &entry.path()))
    };
    unknown.iter().map(put).collect()
}
