//! A layer's blob passing by in the background, from its first byte to its last: whoever takes the pieces can judge it as a whole,
//! and each frame that passes and is not here is decoded, checked and kept, through the same door as a reader's.
//!
//! Piece by piece, each a request of its own: between two of them readers go first, and it can be stopped. What passes never drives
//! anything out of the cache.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

use crate::flight::Failed;
use crate::gate::{Place, Urgency};
use crate::index::frames::FrameId;
use crate::store::fill::{Fetched, FillError, FillFailed, is_large};
use crate::store::layer::Layer;
use crate::sync::Arc;

/// What is asked for at a time, as with readers.
const PIECE_BYTES: u64 = 4 << 20;

/// A pass over a layer's blob.
pub struct Passing {
    layer: Arc<Layer>,
    urgency: Urgency,
    /// What of the blob has passed.
    at: u64,
    /// Frames that are not here, by where they begin in the blob.
    missing: VecDeque<(Range<u64>, u32)>,
    /// The part of the blob up to `at` that the first of them may need.
    kept: Bytes,
    /// Frames that were not kept, as there was no room.
    left_out: u32,
}

// === impl Layer ===

impl Layer {
    /// Begins a pass over the blob.
    pub fn pass(self: &Arc<Self>) -> Result<Passing, FillError> {
        let mut missing = Vec::new();
        for frame in (0..self.frames().len()).filter(|frame| !self.is_resident(*frame)) {
            let source = self.frames().source_range(FrameId(frame)).map_err(|error| self.index_error(error))?;
            let data = self.frames().data_range(FrameId(frame)).map_err(|error| self.index_error(error))?;
            if !is_large(&source, &data) {
                missing.push((source, frame));
            }
        }
        missing.sort_by_key(|(source, frame)| (source.start, *frame));
        let (layer, urgency) = (self.clone(), Urgency::background());
        Ok(Passing { layer, urgency, at: 0, missing: missing.into(), kept: Bytes::new(), left_out: 0 })
    }

    /// What came of the blob was not it: it is not had from that place again, if there is another.
    pub async fn distrust_source(&self) {
        if let Some(blob) = self.blob.lock().await.take() {
            let _is_there_another = blob.was_wrong();
        }
    }
}

// === impl Passing ===

impl Passing {
    /// How many bytes come next; 0 at the end.
    pub fn next_bytes(&self) -> u64 {
        let size = self.layer.frames().heading().blob_bytes;
        PIECE_BYTES.min(size.saturating_sub(self.at))
    }

    /// Frames that were not kept, as there was no room.
    pub fn left_out(&self) -> u32 {
        self.left_out
    }

    /// The next piece, once the frames that end in it are here; `None` at the end of the blob. That a frame is not what the
    /// index says is an error; the same frame may have been here before, of another source.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FillFailed> {
        let range = self.at..self.at + self.next_bytes();
        if range.is_empty() {
            return Ok(None);
        }
        let fetched = self.layer.fetch(range.clone(), &self.urgency).await;
        let (piece, place) = fetched.map_err(|error| Failed::Work(Arc::new(error)))?;
        self.at = range.end;
        self.fill_from(&piece, Arc::new(place)).await?;
        Ok(Some(piece))
    }

    async fn fill_from(&mut self, piece: &Bytes, place: Arc<Place>) -> Result<(), FillFailed> {
        let kept = std::mem::take(&mut self.kept);
        if self.missing.front().is_none_or(|(source, _)| source.start >= self.at) {
            return Ok(());
        }
        let whole = if kept.is_empty() { piece.clone() } else { [kept, piece.clone()].concat().into() };
        let start = self.at - whole.len() as u64;
        let layer = self.layer.clone();
        let (mut later, mut filling) = (VecDeque::new(), Vec::new());
        while let Some((source, frame)) = self.missing.pop_front() {
            if source.start >= self.at {
                later.push_back((source, frame));
                break;
            }
            if source.end > self.at {
                later.push_back((source, frame));
            } else if self.may_keep(frame) {
                let fetched = Fetched { start, bytes: whole.clone(), _place: place.clone() };
                filling.push(layer.fill_fetched(frame, fetched));
            }
        }
        futures::future::try_join_all(filling).await?;
        later.append(&mut self.missing);
        self.missing = later;
        // What frames that end later have of it.
        let from = self.missing.front().map_or(self.at, |(source, _)| source.start.min(self.at));
        let gone = usize::try_from(from.saturating_sub(start)).unwrap_or(usize::MAX).min(whole.len());
        self.kept = whole.slice(gone..);
        Ok(())
    }

    /// Whether there is room without anything having to go.
    fn may_keep(&mut self, frame: u32) -> bool {
        let bytes = self.layer.frames().data_range(FrameId(frame)).map_or(0, |data| data.end - data.start);
        let may = self.layer.is_resident(frame) || self.layer.shared.cache.has_spare(bytes);
        self.left_out += u32::from(!may);
        may
    }
}

impl std::fmt::Debug for Passing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passing").field("layer", &self.layer.digest()).field("at", &self.at).finish_non_exhaustive()
    }
}
