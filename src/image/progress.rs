//! How far each layer is: for progress bars and for `oncefs status`.

use std::collections::HashMap;

use crate::blob::Layered;
use crate::digest::LayerDigest;
use crate::errors::with_causes;
use crate::image::{Image, LayerError};
use crate::index::frames::Provenance;
use crate::index::scan::Progress;
use crate::store::{Finding, Layer, SourceAway, Store, Waiting};
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Mutex};

/// What is known of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerStatus {
    pub digest: LayerDigest,
    /// Bytes of the blob.
    pub size: u64,
    pub state: LayerState,
    /// Why an index that came with the layer was not used.
    pub declined: Option<Arc<str>>,
    /// What of a layer whose index was not made here was compared as a whole.
    pub found: Option<Finding>,
    /// Who waits for frames of it, or for its index or scan.
    pub waiting: Option<Waiting>,
    /// Why they wait, if it is for a source that is away.
    pub away: Option<SourceAway>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerState {
    /// Nobody has asked for it.
    Untouched,
    /// Somebody wants it; other layers are scanned first.
    Queued,
    Scanning {
        /// Bytes of the blob that have come.
        fetched: u64,
        /// Bytes of the tar that came out of them.
        unpacked: u64,
    },
    /// It can be used, and what is not here of it is being fetched for somebody who wants all of it.
    Filling {
        data_bytes: u64,
        resident_bytes: u64,
        index: Provenance,
    },
    Ready {
        data_bytes: u64,
        resident_bytes: u64,
        index: Provenance,
    },
    /// The last scan ended so. Who asks again starts another.
    Failed(String),
}

/// The layers that are being made usable, and those that could not be.
#[derive(Default)]
pub(super) struct Progresses {
    layers: HashMap<LayerDigest, LayerProgress>,
    /// Layers of which all is being fetched, and for how many.
    filling: Arc<Mutex<HashMap<LayerDigest, usize>>>,
}

/// Somebody has all of an image's layers fetched, until this is dropped.
pub(super) struct Filling {
    counts: Arc<Mutex<HashMap<LayerDigest, usize>>>,
    layers: Vec<LayerDigest>,
}

/// How far one layer is. Clones share it.
#[derive(Clone)]
pub(super) struct LayerProgress {
    shared: Arc<Shared>,
}

struct Shared {
    stage: Mutex<Stage>,
    counters: Arc<Progress>,
}

enum Stage {
    Queued,
    Scanning,
    Ended,
    Failed(String),
}

// === impl LayerState ===

impl LayerState {
    /// Bytes of the layer's blob, which has `size`, that need not come any more.
    pub fn fetched(&self, size: u64) -> u64 {
        match self {
            Self::Untouched | Self::Queued | Self::Failed(_) => 0,
            Self::Scanning { fetched, .. } => *fetched,
            Self::Filling { data_bytes, resident_bytes, .. } => {
                let bytes = u128::from(size) * u128::from(*resident_bytes) / u128::from(*data_bytes).max(1);
                u64::try_from(bytes).map_or(size, |bytes| bytes.min(size))
            }
            Self::Ready { .. } => size,
        }
    }
}

// === impl Progresses ===

impl Progresses {
    pub(super) fn begin(&mut self, layer: &Layered) -> Running {
        self.layers.retain(|_, progress| !progress.is_over());
        let shared = Shared { stage: Mutex::new(Stage::Queued), counters: Arc::default() };
        let progress = LayerProgress { shared: Arc::new(shared) };
        self.layers.insert(layer.digest, progress.clone());
        Running(progress)
    }

    /// What is not here of the image's layers is fetched from now on.
    pub(super) fn fill(&self, image: &Image) -> Filling {
        let layers: Vec<LayerDigest> = image.layers.iter().map(|layer| layer.digest).collect();
        let mut counts = self.filling.lock();
        layers.iter().for_each(|layer| *counts.entry(*layer).or_default() += 1);
        Filling { counts: self.filling.clone(), layers }
    }

    /// Of a layer that can be used.
    fn state_of(&self, here: &Layer) -> LayerState {
        let (data_bytes, resident_bytes) = (here.data_bytes(), here.resident_bytes());
        let index = here.frames().heading().provenance();
        let is_done = (here.is_complete() && here.is_verified()) || !self.filling.lock().contains_key(&here.digest());
        if is_done {
            return LayerState::Ready { data_bytes, resident_bytes, index };
        }
        match self.layers.get(&here.digest()).map(LayerProgress::state) {
            Some(scanned @ (LayerState::Queued | LayerState::Scanning { .. })) => scanned,
            _ => LayerState::Filling { data_bytes, resident_bytes, index },
        }
    }

    pub(super) fn scanning(&self) -> u64 {
        let scanning = self.layers.values().filter(|layer| matches!(layer.state(), LayerState::Scanning { .. }));
        scanning.count() as u64
    }

    /// `waiting` are those who wait for the layer while it is not here.
    pub(super) fn status(
        &self,
        layer: &Layered,
        store: &Store,
        declined: Option<Arc<str>>,
        mut waiting: Option<Waiting>,
    ) -> LayerStatus {
        let (mut found, mut away) = (None, None);
        let state = match store.layer(&layer.digest) {
            Ok(Some(here)) => {
                (found, waiting, away) = (here.finding(), here.waits().now(), here.source_away());
                self.state_of(&here)
            }
            Ok(None) => self.layers.get(&layer.digest).map_or(LayerState::Untouched, LayerProgress::state),
            Err(error) => LayerState::Failed(error.to_string()),
        };
        let quarantined = store.quarantined(&layer.digest);
        let quarantined = quarantined.map(|bad| format!("quarantined, its index was wrong: {}", bad.cause).into());
        let declined = quarantined.or(declined);
        LayerStatus { digest: layer.digest, size: layer.size, state, declined, found, waiting, away }
    }
}

// === impl Filling ===

impl Drop for Filling {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        for layer in &self.layers {
            if let Some(count) = counts.get_mut(layer) {
                *count -= 1;
            }
        }
        counts.retain(|_, count| *count > 0);
    }
}

// === impl LayerProgress ===

impl LayerProgress {
    /// From the beginning, also when it has begun before.
    pub(super) fn start(&self) {
        self.shared.counters.fetched.store(0, Ordering::Relaxed);
        self.shared.counters.data.store(0, Ordering::Relaxed);
        *self.shared.stage.lock() = Stage::Scanning;
    }

    pub(super) fn counters(&self) -> &Arc<Progress> {
        &self.shared.counters
    }

    fn state(&self) -> LayerState {
        match &*self.shared.stage.lock() {
            Stage::Queued => LayerState::Queued,
            Stage::Scanning => LayerState::Scanning {
                fetched: self.shared.counters.fetched.load(Ordering::Relaxed),
                unpacked: self.shared.counters.data.load(Ordering::Relaxed),
            },
            Stage::Ended => LayerState::Untouched,
            Stage::Failed(cause) => LayerState::Failed(cause.clone()),
        }
    }

    fn is_over(&self) -> bool {
        matches!(*self.shared.stage.lock(), Stage::Ended)
    }
}

/// A layer's progress while the work runs: work that is dropped is over, too.
pub(super) struct Running(LayerProgress);

impl std::ops::Deref for Running {
    type Target = LayerProgress;

    fn deref(&self) -> &LayerProgress {
        &self.0
    }
}

impl Running {
    pub(super) fn end(&self, error: Option<&LayerError>) {
        *self.0.shared.stage.lock() = match error {
            Some(error) => Stage::Failed(with_causes(error)),
            None => Stage::Ended,
        };
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut stage = self.0.shared.stage.lock();
        if matches!(*stage, Stage::Queued | Stage::Scanning) {
            *stage = Stage::Ended;
        }
    }
}
