//! Opening the database, and finding out whether it can be believed.
//!
//! Tried with sled 0.34: of 372 logs with a flipped bit, a block of zeros or of noise, or a cut end, it panicked at 204. Without a word it opened 55
//! as empty, and 55 others without what was written last or with a gap in the middle; 58 had lost nothing. So what can be read is compared with
//! what is noted. None of them made it hang or abort.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use super::rebuild::{Broken, make, rebuild};
use super::trees::{Trees, Trouble};
use super::{Db, Opened, VERSION};
use crate::digest::LayerDigest;
use crate::store::StoreError;
use crate::store::layout::Layout;
use crate::store::notes::{Difference, Kind, Note, Notes, layer_of};
use crate::store::records::{ImageRecord, LayerRecord};
use crate::store::recover::remove_all;
use crate::store::slots::Counter;
use crate::sync::{Arc, Mutex};

/// A database that is not read by then never will be: with 10,000 snapshots it takes a tenth of a second.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A database and all that is in it.
struct Read {
    trees: Trees,
    version: u32,
    records: Vec<Note>,
}

pub(super) fn open(layout: &Layout, patience: Duration) -> Result<Opened, StoreError> {
    let notes = Notes::open(layout)?;
    remove_all(&layout.new_db())?;
    let is_noted = !notes.is_empty()?;
    let reading = layout.clone();
    let believed = match within(patience, move || read(&reading, is_noted)) {
        Ok(read) => read.compared_with(&notes)?,
        Err(Trouble::Broken(cause)) => Err(Broken { cause, records: Vec::new() }),
        Err(Trouble::Failed(error)) => return Err(error),
    };
    let (trees, records, rebuilt) = match believed {
        Ok(Read { trees, records, .. }) => (trees, records, None),
        Err(broken) => {
            let (trees, records, rebuilt) = rebuild(layout, &notes, broken)?;
            (trees, records, Some(rebuilt))
        }
    };
    let db = Db {
        layout: layout.clone(),
        trees: Mutex::new(Some(Arc::new(trees))),
        failure: OnceLock::new(),
        notes,
        counting: Mutex::default(),
    };
    Ok(Opened { db, layers: records.iter().filter_map(layer).collect(), rebuilt })
}

/// Whether the record can be used.
pub(super) fn is_sound(record: &Note) -> bool {
    match record.kind {
        Kind::Layer => layer(record).is_some(),
        Kind::Image => ImageRecord::decode(&record.value).is_ok(),
        Kind::Counter => record.value.len() == size_of::<u32>(),
        Kind::Verdict | Kind::Pin | Kind::Snapshot => true,
    }
}

pub(super) fn layer(record: &Note) -> Option<(LayerDigest, LayerRecord)> {
    let is_layer = record.kind == Kind::Layer;
    Some((layer_of(&record.key).filter(|_| is_layer)?, LayerRecord::decode(&record.value).ok()?))
}

/// Does in a thread what may panic or never end. The thread is left to itself then.
pub(super) fn within<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> Result<T, Trouble> + Send + 'static,
) -> Result<T, Trouble> {
    let (done, ended) = channel();
    let run = move || {
        let _nobody_waits_any_more = done.send(catch_unwind(AssertUnwindSafe(work)));
    };
    let thread = thread::Builder::new().name("open-database".to_owned()).spawn(run);
    thread.map_err(|error| Trouble::Failed(StoreError::io("start the thread that opens", Path::new("db"))(error)))?;
    match ended.recv_timeout(patience) {
        Ok(Ok(worked)) => worked,
        Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => Err(Trouble::Broken("reading it panicked".to_owned())),
        Err(RecvTimeoutError::Timeout) => Err(Trouble::Broken(format!("reading it did not end within {patience:?}"))),
    }
}

/// Reads everything once, so that damage shows now and not in the middle of a mount.
fn read(layout: &Layout, is_noted: bool) -> Result<Read, Trouble> {
    let path = layout.db();
    if !path.exists() {
        if is_noted {
            return Err(Trouble::Broken("it is not there".to_owned()));
        }
        let (trees, records) = make(layout)?;
        return Ok(Read { trees, version: VERSION, records });
    }
    let trees = Trees::open(&path)?;
    let version = match trees.version()? {
        None => return Err(Trouble::Broken("it has no version".to_owned())),
        Some(has) if has > VERSION => {
            let root = layout.root().to_path_buf();
            return Err(Trouble::Failed(StoreError::Newer { root, has, known: VERSION }));
        }
        Some(has) => has,
    };
    let mut records = Vec::new();
    for kind in Kind::ALL {
        records.extend(trees.all(kind).map_err(|error| Trouble::of(error, &path))?);
    }
    if let Some(record) = records.iter().find(|record| !is_sound(record)) {
        return Err(Trouble::Broken(format!("the record of {} is damaged", record.title())));
    }
    let next = trees.counter(Counter::Layer).map_err(|error| Trouble::of(error, &path))?;
    if records.iter().filter_map(layer).any(|(_, record)| record.slot >= next) {
        return Err(Trouble::Broken("a layer has a number that was not handed out yet".to_owned()));
    }
    Ok(Read { trees, version, records })
}

// === impl Read ===

impl Read {
    /// Finds out whether the database has all that is noted, and brings notes up to date if it has.
    fn compared_with(self, notes: &Notes) -> Result<Result<Self, Broken>, StoreError> {
        let is_of_this_boot = notes.are_of_this_boot();
        let left = notes.left();
        let is_left = |record: &Note| left.as_ref().is_some_and(|left| left.is_of(record));
        let Difference { mut unnoted, contradicted, unrecorded } = notes.compare(&self.records)?;
        // A directory of a layer may have come from elsewhere, note and all. What lies aside was changing when the process was killed.
        let lost = unrecorded.iter().filter(|note| note.kind != Kind::Layer);
        let old =
            contradicted.iter().filter(|record| is_of_this_boot && record.kind != Kind::Layer && !is_left(record));
        let lost: Vec<&Note> = lost.chain(old).collect();
        let cause = match lost.first() {
            Some(one) => {
                format!("it has lost what was written last of {} records, one of them of {}", lost.len(), one.title())
            }
            None if self.went_back(notes) => "it has lost what was written to it last".to_owned(),
            None => {
                unnoted.extend(contradicted);
                return self.noted(notes, &unnoted).map(Ok);
            }
        };
        // It is kept for people as it is: sled would write to it when it closes it.
        std::mem::forget(self.trees);
        let records = if is_of_this_boot { Vec::new() } else { self.records };
        Ok(Err(Broken { cause, records }))
    }

    /// Whether a number was noted that the database has not handed out. It is noted after that was flushed, and so never earlier.
    fn went_back(&self, notes: &Notes) -> bool {
        let mut counters = self.records.iter().filter(|record| record.kind == Kind::Counter);
        let number = |value: &[u8]| value.try_into().map(u32::from_le_bytes).unwrap_or_default();
        let noted = |record: &Note| notes.noted(record.kind, &record.key).map_or(0, |value| number(&value));
        counters.any(|record| noted(record) > number(&record.value))
    }

    fn noted(self, notes: &Notes, unnoted: &[Note]) -> Result<Self, StoreError> {
        // A full disk is no reason not to start.
        if let Err(error) = notes.put_all(unnoted).and_then(|()| notes.clear_aside()) {
            tracing::warn!(%error, "not all of the database is noted; the next start tries again");
            return Ok(self);
        }
        if self.version < VERSION {
            let path = Path::new("db");
            let set = self.trees.reserve(0).map_err(StoreError::io("reserve space for", path));
            let set = set.map_err(Trouble::Failed).and_then(|()| self.trees.set_version(VERSION));
            set.map_err(|trouble| trouble.into_error(path))?;
        }
        notes.have_been_compared();
        Ok(self)
    }
}
