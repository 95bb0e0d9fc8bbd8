//! A layer's blob passing by in the background, from its first byte to its last: whoever takes the pieces can judge it as a whole,
//! and each frame that passes and is not here is decoded, checked and kept, through the same door as a reader's.
//!
//! Piece by piece, each a request of its own: between two of them readers go first, and it can be stopped. What passes never drives
//! anything out of the cache. A frame that is too large for memory is filled by its own flight, one at a time, which the pass overhears.

mod overheard;

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

use crate::flight::Failed;
use crate::gate::{Place, Urgency};
use crate::index::frames::FrameId;
use crate::store::fill::{Fetched, FillError, FillFailed, PIECE_BYTES, is_large};
use crate::store::layer::Layer;
use crate::sync::Arc;
use overheard::Overheard;

/// What is asked for at a time, as with readers.
const REQUEST_BYTES: u64 = 4 << 20;

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
    /// Those that are too large for that.
    large: VecDeque<(Range<u64>, u32)>,
    /// The one of them that is passing.
    overheard: Option<Overheard>,
}

// === impl Layer ===

impl Layer {
    /// Begins a pass over the blob.
    pub fn pass(self: &Arc<Self>) -> Result<Passing, FillError> {
        let (mut missing, mut large) = (Vec::new(), Vec::new());
        for frame in (0..self.frames().len()).filter(|frame| !self.is_resident(*frame)) {
            let source = self.frames().source_range(FrameId(frame)).map_err(|error| self.index_error(error))?;
            let data = self.frames().data_range(FrameId(frame)).map_err(|error| self.index_error(error))?;
            let kind = if is_large(&source, &data) { &mut large } else { &mut missing };
            kind.push((source, frame));
        }
        missing.sort_by_key(|(source, frame)| (source.start, *frame));
        large.sort_by_key(|(source, frame)| (source.start, *frame));
        let mut passing = Passing {
            layer: self.clone(),
            urgency: Urgency::background(),
            at: 0,
            missing: missing.into(),
            kept: Bytes::new(),
            large: large.into(),
            overheard: None,
        };
        passing.look_ahead();
        Ok(passing)
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
    /// How many bytes come next, or a few less; 0 at the end.
    pub fn next_bytes(&self) -> u64 {
        let end = self.layer.frames().heading().blob_bytes;
        let (end, most) = match (&self.overheard, self.large.front()) {
            (Some(overheard), _) => (end.min(overheard.end()), PIECE_BYTES),
            (None, Some((source, _))) => (end.min(source.start), REQUEST_BYTES),
            (None, None) => (end, REQUEST_BYTES),
        };
        most.min(end.saturating_sub(self.at))
    }

    /// The next piece, once the frames that end in it are here; `None` at the end of the blob. That a frame is not what the
    /// index says is an error; the same frame may have been here before, of another source.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FillFailed> {
        let range = self.at..self.at + self.next_bytes();
        if range.is_empty() {
            return Ok(None);
        }
        let heard = match &mut self.overheard {
            Some(overheard) => overheard.next(self.at).await,
            None => None,
        };
        let (piece, place) = match heard {
            Some(piece) => (piece, None),
            None => {
                let fetched = self.layer.fetch(range, &self.urgency).await;
                let (piece, place) = fetched.map_err(|error| Failed::Work(Arc::new(error)))?;
                (piece, Some(Arc::new(place)))
            }
        };
        self.at += piece.len() as u64;
        self.fill_from(&piece, place).await?;
        if let Some(overheard) = self.overheard.take_if(|overheard| overheard.end() <= self.at) {
            overheard.ended().await?;
        }
        self.look_ahead();
        Ok(Some(piece))
    }

    /// From where a large frame begins, its flight is overheard.
    fn look_ahead(&mut self) {
        while self.overheard.is_none() && self.large.front().is_some_and(|(source, _)| source.start <= self.at) {
            let Some((source, frame)) = self.large.pop_front() else { return };
            // Of large frames that lie in one another each would fetch the same anew: they are for readers to ask for.
            let is_apart = self.at - source.start <= PIECE_BYTES && source.end > self.at;
            if is_apart && !self.layer.is_resident(frame) && self.may_keep(frame) {
                self.overheard = Some(Overheard::new(&self.layer, frame, source.end));
            }
        }
    }

    async fn fill_from(&mut self, piece: &Bytes, place: Option<Arc<Place>>) -> Result<(), FillFailed> {
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
    fn may_keep(&self, frame: u32) -> bool {
        let bytes = self.layer.frames().data_range(FrameId(frame)).map_or(0, |data| data.end - data.start);
        self.layer.is_resident(frame) || self.layer.shared.cache.has_spare(bytes)
    }
}

impl std::fmt::Debug for Passing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passing").field("layer", &self.layer.digest()).field("at", &self.at).finish_non_exhaustive()
    }
}
