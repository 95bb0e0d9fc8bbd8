//! Looking at everything a store holds: does each file say what it should, does each resident frame have its digest.
//!
//! Works while the store serves: it only reads, and with `repair` drops frames and removes layers, which can be had
//! again.

use std::fs::File;

use serde::Serialize;

use crate::digest::LayerDigest;
use crate::index::frames::{FrameId, Frames};
use crate::index::tree::read::Tree;
use crate::store::layer::Layer;
use crate::store::layout::{FRAMES, TREE};
use crate::store::{Entry, Store, StoreError, recover};
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex};

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    pub layers: u64,
    /// Resident frames that were read, and their bytes.
    pub frames: u64,
    pub bytes: u64,
    /// Frames whose bytes are not what they should be, and layers whose index is not.
    pub damaged_frames: u64,
    pub damaged_layers: u64,
    /// One sentence for each thing found wrong, with what was done about it.
    pub problems: Vec<String>,
    /// Whether all that was found wrong was put right.
    pub repaired: bool,
}

/// How far a check has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckProgress {
    pub bytes_done: u64,
    pub bytes: u64,
}

/// A check under way.
struct Check<'a> {
    store: &'a Store,
    repair: bool,
    report: CheckReport,
}

/// A resident frame to be read.
struct Task {
    layer: Arc<Layer>,
    frame: u32,
    bytes: u64,
}

/// How much of a frame is read at a time.
const READ_BYTES: usize = 1 << 20;

// === impl Store ===

impl Store {
    /// Checks all layers, on all cores, and with `repair` puts right what can be: damaged frames are dropped (they are
    /// fetched again when read), layers whose index is damaged are removed (they are scanned again when needed).
    /// Blocking. `on_progress` is called from several threads, after each frame.
    pub fn check(&self, repair: bool, on_progress: &(dyn Fn(CheckProgress) + Sync)) -> Result<CheckReport, StoreError> {
        let report = CheckReport { repaired: true, ..CheckReport::default() };
        let mut check = Check { store: self, repair, report };
        check.directories()?;
        check.notes()?;
        let mut tasks = Vec::new();
        let entries: Vec<Arc<Entry>> = self.inner.entries.lock().values().cloned().collect();
        for entry in entries {
            if let Some(layer) = check.layer(&entry)? {
                tasks.extend(resident_frames(&layer));
            }
        }
        check.frames(tasks, on_progress);
        Ok(check.report)
    }
}

// === impl Check ===

impl Check<'_> {
    /// Directories of layers that the store does not know.
    fn directories(&mut self) -> Result<(), StoreError> {
        let inner = &self.store.inner;
        let _placing = inner.placing.lock();
        for (digest, lacks) in recover::found(&inner.shared.layout)? {
            if self.store.entry(&digest).is_some() {
                continue;
            }
            let (what, done) = match lacks {
                None => ("its files are there but the database does not know it".to_owned(), "it was taken in"),
                Some(file) => (format!("there is a directory of it without {file}"), "the directory was removed"),
            };
            if self.repair && lacks.is_some() {
                recover::remove_all(&inner.shared.layout.layer(&digest))?;
            } else if self.repair {
                let record = recover::adopt(&inner.db, &digest)?;
                inner.entries.lock().insert(digest, Arc::new(Entry::found(digest, record)));
            }
            self.problem(&digest, &what, Ok(done));
        }
        Ok(())
    }

    /// What is noted of the database's records.
    fn notes(&mut self) -> Result<(), StoreError> {
        for record in self.store.inner.db.check_notes(self.repair)? {
            self.report.repaired &= self.repair;
            let done = if self.repair { "; it was brought up to date" } else { "" };
            self.report.problems.push(format!("{record}: its note does not say what the database says{done}"));
        }
        Ok(())
    }

    /// Checks a layer's index. Gives the layer if its frames are worth reading.
    fn layer(&mut self, entry: &Arc<Entry>) -> Result<Option<Arc<Layer>>, StoreError> {
        let opened = entry.open(&self.store.inner.shared);
        let checked = opened.and_then(|layer| check_index(&layer).map(|()| layer));
        match checked {
            Ok(layer) => {
                self.report.layers += 1;
                self.residency(&layer);
                Ok(Some(layer))
            }
            Err(StoreError::Damaged { layer, cause }) => {
                self.report.damaged_layers += 1;
                let removed = if self.repair { self.store.discard(entry) } else { Ok(()) };
                let done = removed.map(|()| "it was removed and will be scanned again when needed");
                self.problem(&layer, &format!("its files are damaged: {cause}"), done);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn residency(&mut self, layer: &Layer) {
        let (what, done) = match layer.residency_is_written() {
            Ok(true) => return,
            Ok(false) => {
                let written = if self.repair { layer.write_residency() } else { Ok(()) };
                ("its residency bitmap is damaged".to_owned(), written.map(|()| "it was written again"))
            }
            Err(error) => (format!("its residency bitmap cannot be read: {error}"), Err(error)),
        };
        self.problem(&layer.digest(), &what, done);
    }

    /// Reads all frames, on all cores.
    fn frames(&mut self, tasks: Vec<Task>, on_progress: &(dyn Fn(CheckProgress) + Sync)) {
        let bytes = tasks.iter().map(|task| task.bytes).sum();
        let (next, done, bad) = (AtomicUsize::new(0), AtomicU64::new(0), Mutex::new(Vec::new()));
        let work = || {
            let mut buffer = vec![0; READ_BYTES];
            while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(cause) = task.layer.check_frame(task.frame, &mut buffer) {
                    bad.lock().push((task, cause));
                }
                let bytes_done = done.fetch_add(task.bytes, Ordering::Relaxed) + task.bytes;
                on_progress(CheckProgress { bytes_done, bytes });
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
        self.report.frames = tasks.len() as u64;
        self.report.bytes = bytes;
        let mut bad = std::mem::take(&mut *bad.lock());
        bad.sort_by_key(|(task, _)| (task.layer.digest(), task.frame));
        for (Task { layer, frame, .. }, cause) in bad {
            self.report.damaged_frames += 1;
            let dropped = if self.repair { layer.drop_frames(*frame..frame + 1) } else { Ok(()) };
            let done = dropped.map(|()| "it was dropped and will be fetched again when read");
            self.problem(&layer.digest(), &format!("frame {frame} is damaged: {cause}"), done);
        }
    }

    /// Notes a problem, with what repairing it has come to.
    fn problem(&mut self, layer: &LayerDigest, what: &str, repaired: Result<&str, StoreError>) {
        self.report.repaired &= self.repair && repaired.is_ok();
        self.report.problems.push(match repaired {
            _ if !self.repair => format!("layer {layer}: {what}"),
            Ok(done) => format!("layer {layer}: {what}; {done}"),
            Err(error) => format!("layer {layer}: {what}; repairing it failed: {error}"),
        });
    }
}

/// Reads the index as it is on disk now, all of it.
fn check_index(layer: &Layer) -> Result<(), StoreError> {
    let damaged = |cause: String| StoreError::Damaged { layer: layer.digest(), cause };
    let open = |name| {
        let path = layer.directory().join(name);
        File::open(&path).map_err(StoreError::io("open", &path))
    };
    if let Some(file) = recover::lacks(layer.directory()) {
        return Err(damaged(format!("{file} is missing")));
    }
    let frames = Frames::open(&open(FRAMES)?).map_err(|error| damaged(error.to_string()))?;
    for frame in 0..frames.len() {
        frames.get(FrameId(frame)).map_err(|error| damaged(format!("frame {frame}: {error}")))?;
    }
    let tree = Tree::open(&open(TREE)?).and_then(|tree| tree.check());
    tree.map_err(|error| damaged(error.to_string()))
}

fn resident_frames(layer: &Arc<Layer>) -> Vec<Task> {
    let resident = (0..layer.frames().len()).filter(|frame| layer.is_resident(*frame));
    let task = |frame| {
        let range = layer.frames().data_range(FrameId(frame)).ok()?;
        Some(Task { layer: layer.clone(), frame, bytes: range.end - range.start })
    };
    resident.filter_map(task).collect()
}
