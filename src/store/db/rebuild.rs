//! A database in the place of a broken one, of all that is noted.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::VERSION;
use super::opening::{PATIENCE, is_sound, layer, within};
use super::trees::{Trees, Trouble};
use crate::store::StoreError;
use crate::store::layout::Layout;
use crate::store::notes::{Found, Kind, Note, Notes, number_of};
use crate::store::recover::{make_directory, remove_all};
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
    /// Where notes are kept that could not be read.
    pub(in crate::store) damaged: Vec<PathBuf>,
    /// Where the directories are of snapshots of which nothing is known.
    pub(in crate::store) unknown: Vec<PathBuf>,
}

/// Keeps the broken database aside and makes another one. Nothing is lost if this ends at any point, by a kill or a power loss: all that
/// is known is noted, and the other database complete, before the broken one is moved; one of both has the name, or only notes do.
pub(super) fn rebuild(
    layout: &Layout,
    notes: &Notes,
    broken: Broken,
) -> Result<(Trees, Vec<Note>, Rebuilt), StoreError> {
    let path = layout.db();
    let Found { notes: noted, damaged } = notes.all()?;
    let aside = path.exists().then(|| layout.broken_db(lost_count(layout)));
    let lost = lost_count(layout).saturating_add(u32::from(aside.is_some()));
    let records = numbered(together(noted, broken.records), lost);
    let unknown = put_unknown_aside(layout, &records)?;
    let damaged = put_damaged_aside(layout, &damaged)?;
    notes.put_all(&records)?;
    let (of_thread, to_write) = (layout.clone(), records.clone());
    let trees = within(PATIENCE, move || write(&of_thread, &to_write)).map_err(|trouble| trouble.into_error(&path))?;
    file::sync_file_system(layout.root()).map_err(StoreError::io("sync", layout.root()))?;
    if let Some(aside) = &aside {
        fs::rename(&path, aside).map_err(StoreError::io("move aside the database", &path))?;
    }
    put_in_place(layout)?;
    notes.delete_all_but(&records)?;
    notes.have_been_compared();
    let count = |kind| records.iter().filter(|record| record.kind == kind).count();
    let (images, snapshots) = (count(Kind::Image), count(Kind::Snapshot));
    Ok((trees, records, Rebuilt { cause: broken.cause, kept: aside, images, snapshots, damaged, unknown }))
}

/// Makes the first database of a store; gives what it has.
pub(super) fn make(layout: &Layout) -> Result<(Trees, Vec<Note>), Trouble> {
    let records = numbered(Vec::new(), lost_count(layout));
    let trees = write(layout, &records)?;
    put_in_place(layout)?;
    Ok((trees, records))
}

/// The records with the counters of a database that is the successor of so many lost ones.
fn numbered(mut records: Vec<Note>, lost: u32) -> Vec<Note> {
    let counters = Counter::ALL.map(|counter| {
        let next = next(counter, &records).max(counter.first(lost));
        Note::new(Kind::Counter, counter.key(), next.to_le_bytes())
    });
    records.retain(|record| record.kind != Kind::Counter);
    records.extend(counters);
    records
}

/// Writes a database with these records beside the place of the one in use: what there is half of never has that one's name, and
/// the next start deletes it.
fn write(layout: &Layout, records: &[Note]) -> Result<Trees, Trouble> {
    let path = layout.new_db();
    remove_all(&path)?;
    let trees = Trees::open(&path)?;
    let bytes = records.iter().map(|record| record.key.len() + record.value.len()).sum();
    trees.reserve(bytes).map_err(StoreError::io("reserve space for", &path))?;
    let written = records.iter().try_for_each(|record| trees.put(record)).and_then(|()| trees.flush());
    written.map_err(|error| Trouble::of(error, &path))?;
    trees.set_version(VERSION)?;
    file::sync_directory(&path).map_err(StoreError::io("sync", &path))?;
    Ok(trees)
}

/// The database that was written is the one in use from now on.
fn put_in_place(layout: &Layout) -> Result<(), StoreError> {
    let (from, root) = (layout.new_db(), layout.root());
    fs::rename(&from, layout.db()).map_err(StoreError::io("move to its place", &from))?;
    file::sync_directory(root).map_err(StoreError::io("sync", root))
}

/// How many databases lie moved aside under the root.
fn lost_count(layout: &Layout) -> u32 {
    first_free(|number| layout.broken_db(number))
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
    let moves = unknown.into_iter().map(|entry| (entry.path(), entry.file_name()));
    put_aside(|number| layout.lost_snapshots(number), moves.collect())
}

/// Puts aside what is no note where one should be. Gives where it is.
fn put_damaged_aside(layout: &Layout, damaged: &[PathBuf]) -> Result<Vec<PathBuf>, StoreError> {
    // After the directory too: each layer has one of the same name.
    let name = |path: &Path| {
        let parts = [path.parent().and_then(Path::file_name), path.file_name()];
        parts.into_iter().flatten().collect::<Vec<_>>().join(OsStr::new("-"))
    };
    let moves = damaged.iter().map(|path| (path.clone(), name(path)));
    put_aside(|number| layout.lost_notes(number), moves.collect())
}

/// Moves all this, each under its name, into the first of these directories that is not there yet.
fn put_aside(directory: impl Fn(u32) -> PathBuf, moves: Vec<(PathBuf, OsString)>) -> Result<Vec<PathBuf>, StoreError> {
    if moves.is_empty() {
        return Ok(Vec::new());
    }
    let aside = directory(first_free(&directory));
    make_directory(&aside)?;
    let put = |(from, name): (PathBuf, OsString)| {
        let to = aside.join(name);
        fs::rename(&from, &to).map(|()| to).map_err(StoreError::io("move aside", &from))
    };
    moves.into_iter().map(put).collect()
}

fn first_free(path: impl Fn(u32) -> PathBuf) -> u32 {
    (0..u32::MAX).find(|number| !path(*number).exists()).unwrap_or(u32::MAX)
}
