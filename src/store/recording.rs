//! What happens while an image starts: which frames readers touch first, and what is asked of the registry meanwhile.
//!
//! A read of a layer that nobody records costs one relaxed load. Only first touches are written down, and no more than
//! [`TOUCHES_MAX`] of them; a recording that was dropped is forgotten by its layers at their next read.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::ops::Range;
use std::time::Instant;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::digest::LayerDigest;
use crate::index::frames::FrameId;
use crate::store::fill::FillError;
use crate::store::layer::Layer;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex, Weak};

/// As many frames as a large program's start touches, and requests for all of them.
const TOUCHES_MAX: usize = 8192;
const ASKED_MAX: usize = 8192;

/// The start of one image, being written down.
#[derive(Debug)]
pub struct Recording {
    began: Instant,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    recorded: Recorded,
    /// By layer and frame: where its touch stands.
    touched: HashMap<(LayerDigest, u32), usize>,
}

/// What was written down, in the order in which it happened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    pub touches: Vec<Touch>,
    pub asked: Vec<Asked>,
}

/// The first read of a frame. Times are microseconds since the recording began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touch {
    pub layer: LayerDigest,
    pub frame: u32,
    /// Where in the blob the frame lies.
    pub source: Range<u64>,
    /// The first byte of it that was wanted, in the data file.
    pub data_at: u64,
    pub at_us: u64,
    /// When the reader had it; at once if it was here. None: not to the end of the recording.
    pub served_us: Option<u64>,
    pub was_here: bool,
}

/// One request for a part of a layer's blob, with its retries. Times are microseconds, the first since the recording began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    pub layer: LayerDigest,
    pub source: Range<u64>,
    pub at_us: u64,
    pub took_us: u64,
    /// Whether the bytes came.
    pub came: bool,
}

/// Who records a layer.
#[derive(Debug, Default)]
pub(super) struct Recorders {
    is_recorded: AtomicBool,
    recordings: Mutex<Vec<Weak<Recording>>>,
}

// === impl Recording ===

impl Recording {
    /// Begins now. Layers are written down from when they are [followed](Recording::follow).
    pub fn begin() -> Arc<Self> {
        Arc::new(Self { began: Instant::now(), noted: Mutex::default() })
    }

    /// Writes down what happens to the layer, too, as long as the recording is kept.
    pub fn follow(self: &Arc<Self>, layer: &Layer) {
        let recorders = layer.recorders();
        let mut recordings = recorders.recordings.lock();
        recordings.push(Arc::downgrade(self));
        recorders.is_recorded.store(true, Ordering::Release);
    }

    /// Microseconds since it began.
    pub fn elapsed_us(&self) -> u64 {
        micros(self.began.elapsed())
    }

    /// What was written down so far.
    pub fn recorded(&self) -> Recorded {
        self.noted.lock().recorded.clone()
    }

    fn touch(&self, layer: &Layer, frame: u32, wanted: &Range<u64>, is_served: bool) {
        let now = self.elapsed_us();
        let mut noted = self.noted.lock();
        let Noted { recorded, touched } = &mut *noted;
        match touched.entry((layer.digest(), frame)) {
            Entry::Occupied(place) => {
                if let Some(touch) = recorded.touches.get_mut(*place.get()).filter(|_| is_served) {
                    touch.served_us.get_or_insert(now);
                }
            }
            Entry::Vacant(place) if recorded.touches.len() < TOUCHES_MAX => {
                let (frames, id) = (layer.frames(), FrameId(frame));
                let (Ok(source), Ok(data)) = (frames.source_range(id), frames.data_range(id)) else { return };
                place.insert(recorded.touches.len());
                recorded.touches.push(Touch {
                    layer: layer.digest(),
                    frame,
                    source,
                    data_at: wanted.start.max(data.start),
                    at_us: now,
                    served_us: is_served.then_some(now),
                    // One that was evicted meanwhile is not here either.
                    was_here: is_served,
                });
            }
            Entry::Vacant(_) => {}
        }
    }

    fn asked(&self, asked: Asked) {
        let recorded = &mut self.noted.lock().recorded;
        if recorded.asked.len() < ASKED_MAX {
            recorded.asked.push(asked);
        }
    }
}

// === impl Recorders ===

impl Recorders {
    /// Somebody read, or tried to.
    pub(super) fn read(&self, layer: &Layer, wanted: &Range<u64>, is_served: bool) {
        if !self.is_recorded.load(Ordering::Relaxed) {
            return;
        }
        let recordings = self.now();
        for frame in layer.frames().covering(wanted.clone()).filter(|_| !recordings.is_empty()) {
            let is_here = is_served || layer.is_at_hand(frame);
            recordings.iter().for_each(|recording| recording.touch(layer, frame, wanted, is_here));
        }
    }

    /// What is asked of the registry by `asking`.
    pub(super) async fn asked(
        &self,
        layer: LayerDigest,
        source: Range<u64>,
        asking: impl Future<Output = Result<Bytes, FillError>>,
    ) -> Result<Bytes, FillError> {
        let recordings = self.now();
        let began = Instant::now();
        let answered = asking.await;
        for recording in recordings {
            let at_us = micros(began.saturating_duration_since(recording.began));
            let (source, took_us) = (source.clone(), micros(began.elapsed()));
            recording.asked(Asked { layer, source, at_us, took_us, came: answered.is_ok() });
        }
        answered
    }

    /// The recordings that are kept still.
    fn now(&self) -> Vec<Arc<Recording>> {
        if !self.is_recorded.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut recordings = self.recordings.lock();
        let mut kept = Vec::new();
        recordings.retain(|recording| match recording.upgrade() {
            Some(recording) => {
                kept.push(recording);
                true
            }
            None => false,
        });
        if recordings.is_empty() {
            self.is_recorded.store(false, Ordering::Release);
        }
        kept
    }
}

fn micros(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
