//! The store against maps: which layers are there, what their bytes are, which frames can be read.
//!
//! Operations, faults and crashes come in any order. Whatever the store gives must be right, whatever is resident must
//! be whole, and nothing that was promised may be lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use oncefs::blob::Fault;
use oncefs::index::frames::FrameId;
use oncefs::store::{Layer, Store, StoreError};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::store::shelf::{Packing, Sample, Shelf, believing};

#[derive(Debug, Clone)]
enum Step {
    Receive(usize),
    Remove(usize),
    /// Of the layer, from this share of its frames (of 256), so many.
    Fill(usize, u8, u32),
    Drop(usize, u8, u32),
    /// Fills from then on meet this fault in every blob, at this share of the blob.
    Break(Option<Break>, u8),
    /// Flips a byte in the data file at this share; then a check that repairs.
    Rot(usize, u8),
    Check,
    Reopen,
    /// What is on disk now is all that is left.
    Crash,
}

#[derive(Debug, Clone, Copy)]
enum Break {
    Ends,
    Flips,
}

/// The real store, and what must be true of it.
struct World {
    samples: &'static [Sample],
    shelf: Arc<Shelf>,
    /// Whether fills may fail.
    broken: bool,
    dir: TempDir,
    store: Option<Store>,
    /// Layers that are there, and their frames that are resident.
    model: BTreeMap<usize, BTreeSet<u32>>,
    /// Frames that may become resident at any time: a fill that fails gives up its other frames, but what had their
    /// bytes already goes on with them.
    late: BTreeMap<usize, BTreeSet<u32>>,
}

fn samples() -> &'static [Sample] {
    static SAMPLES: OnceLock<Vec<Sample>> = OnceLock::new();
    SAMPLES.get_or_init(|| {
        vec![
            Sample::new(1, 4 << 20, Packing::Plain),
            Sample::new(2, 5 << 20, Packing::Gzip),
            Sample::new(3, 2 << 20, Packing::Zstd),
            Sample::new(4, 9 << 20, Packing::Zstd), // one frame that does not pass through memory
        ]
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let layer = 0..samples().len();
    let part = (layer.clone(), any::<u8>(), 1..6u32);
    let breaks = proptest::option::of(prop_oneof![Just(Break::Ends), Just(Break::Flips)]);
    let step = prop_oneof![
        4 => layer.clone().prop_map(Step::Receive),
        1 => layer.clone().prop_map(Step::Remove),
        6 => part.clone().prop_map(|(layer, from, count)| Step::Fill(layer, from, count)),
        6 => part.prop_map(|(layer, from, count)| Step::Drop(layer, from, count)),
        2 => (breaks, any::<u8>()).prop_map(|(breaks, at)| Step::Break(breaks, at)),
        1 => (layer, any::<u8>()).prop_map(|(layer, at)| Step::Rot(layer, at)),
        1 => Just(Step::Check),
        2 => Just(Step::Reopen),
        2 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..40)
}

impl World {
    fn new() -> Self {
        let samples = samples();
        let shelf = Shelf::with(&samples.iter().collect::<Vec<_>>());
        let dir = tempfile::tempdir().unwrap();
        let store = Some(open(dir.path(), &shelf));
        Self { samples, shelf, broken: false, dir, store, model: BTreeMap::new(), late: BTreeMap::new() }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("the store is open between steps")
    }

    fn layer(&self, at: usize) -> Option<Arc<Layer>> {
        self.store().layer(&self.samples[at].digest()).unwrap()
    }

    async fn take(&mut self, step: &Step) {
        self.observe();
        match *step {
            Step::Receive(at) => {
                let layer = self.samples[at].put(self.store()).await;
                self.model.entry(at).or_insert_with(|| (0..layer.frames().len()).collect());
            }
            Step::Remove(at) => {
                self.late.remove(&at);
                self.store().remove(&self.samples[at].digest()).unwrap();
                self.model.remove(&at);
            }
            Step::Fill(at, from, count) => self.fill(at, from, count).await,
            Step::Drop(at, from, count) => {
                let Some(layer) = self.layer(at) else { return };
                let frames = part(&layer, from, count);
                layer.drop_frames(frames.clone()).unwrap();
                self.model.entry(at).or_default().retain(|frame| !frames.contains(frame));
            }
            Step::Break(breaks, at) => {
                let at = u64::from(at) * (2 << 20) / 256;
                self.broken = breaks.is_some();
                self.shelf.set_fault(breaks.map(|breaks| match breaks {
                    Break::Ends => Fault::BreaksAfter(at),
                    Break::Flips => Fault::FlippedAt(at),
                }));
            }
            Step::Rot(at, share) => self.rot(at, share),
            Step::Check => {
                let report = self.store().check(false, &|_| {}).unwrap();
                assert_eq!(report.problems, Vec::<String>::new());
                assert_eq!(report.layers, self.model.len() as u64);
            }
            Step::Reopen => {
                self.store = None;
                self.store = Some(open(self.dir.path(), &self.shelf));
                self.observe();
                self.late.clear(); // a store is closed only when work of before has let go of it
            }
            Step::Crash => self.crash(),
        }
    }

    async fn fill(&mut self, at: usize, from: u8, count: u32) {
        let Some(layer) = self.layer(at) else { return };
        let frames = part(&layer, from, count);
        let filled = layer.fill(frames.clone()).await;
        assert!(filled.is_ok() || self.broken, "{filled:?}");
        if filled.is_ok() {
            self.model.entry(at).or_default().extend(frames);
        } else {
            self.late.entry(at).or_default().extend(frames);
        }
    }

    /// Brings the model up to date with what came late.
    fn observe(&mut self) {
        for (at, late) in &self.late {
            let (Some(layer), Some(model)) = (self.layer(*at), self.model.get_mut(at)) else { continue };
            model.extend(self.samples[*at].resident(&layer).intersection(late));
        }
    }

    /// A byte of a resident frame is not what it was: a check must find it, and only it.
    fn rot(&mut self, at: usize, share: u8) {
        let Some(layer) = self.layer(at) else { return };
        let Some(model) = self.model.get(&at) else { return };
        let late = self.late.get(&at).cloned().unwrap_or_default();
        let sure: Vec<u32> = model.difference(&late).copied().collect();
        let Some(frame) = sure.get(sure.len() * share as usize / 256).copied() else { return };
        let range = layer.frames().data_range(FrameId(frame)).unwrap();
        let offset = range.start + (range.end - range.start) * u64::from(share) / 256;
        let path = self.dir.path().join("layers/sha256").join(layer.digest().0.hex()).join("data");
        let wrong = [!self.samples[at].tar[offset as usize]];
        let data = fs::File::options().write(true).open(path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&data, &wrong, offset).unwrap();
        let report = self.store().check(true, &|_| {}).unwrap();
        assert_eq!((report.damaged_frames, report.damaged_layers, report.repaired), (1, 0, true), "{report:?}");
        self.model.entry(at).or_default().remove(&frame);
    }

    /// Goes on with a copy of the files as they are while the store is open.
    fn crash(&mut self) {
        let copy = tempfile::tempdir().unwrap();
        copy_all(self.dir.path(), copy.path());
        self.store = None;
        self.dir = copy;
        self.store = Some(open(self.dir.path(), &self.shelf));
        // Frames that were filled a moment ago may have to be filled again; nothing else may have changed.
        for (at, mut before) in std::mem::take(&mut self.model) {
            before.extend(self.late.remove(&at).unwrap_or_default());
            let layer = self.layer(at).expect("a layer that was received is there after a crash");
            let after = self.samples[at].resident(&layer);
            assert!(after.is_subset(&before), "frames {after:?} after a crash, {before:?} before");
            self.model.insert(at, after);
        }
    }

    /// Whether the store and the model agree.
    fn agrees(&mut self) {
        self.observe();
        for (at, sample) in self.samples.iter().enumerate() {
            let layer = self.layer(at);
            assert_eq!(layer.is_some(), self.model.contains_key(&at), "layer {at}");
            let (Some(layer), Some(model)) = (layer, self.model.get(&at)) else { continue };
            let resident = sample.resident(&layer);
            let late = self.late.get(&at).cloned().unwrap_or_default();
            assert!(resident.is_superset(model), "layer {at} has lost frames: {resident:?} of {model:?}");
            let explained: BTreeSet<u32> = model.union(&late).copied().collect();
            assert!(
                resident.is_subset(&explained),
                "layer {at} has frames from nowhere: {resident:?} not in {model:?}"
            );
        }
    }
}

/// Frames of the layer from a share of them on.
fn part(layer: &Layer, from: u8, count: u32) -> std::ops::Range<u32> {
    let frames = layer.frames().len();
    let start = frames * u32::from(from) / 256;
    start..frames.min(start + count)
}

/// Opens the store when work that was given up has let go of it.
fn open(root: &Path, shelf: &Arc<Shelf>) -> Store {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match Store::open(root, believing(), shelf.clone()) {
            Err(StoreError::Locked { .. }) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(2));
            }
            opened => return opened.unwrap(),
        }
    }
}

/// Copies what a crash leaves. `resident` comes before `data`: what is written meanwhile must not look as if the bitmap
/// had reached the disk first.
fn copy_all(from: &Path, to: &Path) {
    let mut entries: Vec<_> = fs::read_dir(from).unwrap().map(Result::unwrap).collect();
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.file_name()));
    for entry in entries {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_store_behaves_like_a_map_of_bytes(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            for step in &steps {
                world.take(step).await;
                world.agrees();
            }
            // Whatever happened: with a sound source, everything can be read.
            world.take(&Step::Break(None, 0)).await;
            for at in 0..world.samples.len() {
                world.take(&Step::Fill(at, 0, u32::MAX)).await;
            }
            world.agrees();
            let incomplete = world.store().layers().iter().any(|layer| !layer.is_complete());
            assert!(!incomplete);
        });
    }
}
