//! What lies around a frame that a reader waits for. Over a link that carries much in the time of a round trip it is asked for at once, beside
//! the reader's own: the reader will want some of it, and to ask again would take as long as all of it does.
//!
//! It is background work, in requests of its own, so the reader's frame comes no later for it; who asks next waits a round trip more at
//! worst.

use std::ops::Range;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::errors::with_causes;
use crate::index::frames::{FrameId, Frames, FramesError};
use crate::store::fill::is_large;
use crate::store::layer::Layer;
use crate::store::wishes::Priority;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, spawn};

/// A link that carries less is left alone: the frame that is waited for fills it for longer than the round trip takes.
const CARRIES_MIN: u64 = 256 << 10;

/// What 1 Gbit/s carries in 33 ms. Over longer ways readers take several steps.
const CARRIES_MAX: u64 = 4 << 20;

/// A layer that comes in the time of so many round trips is asked for whole: readers would wait for more of them.
const ROUND_TRIPS_OF_A_LAYER: u64 = 4;

/// What is on its way at once, over all layers, in what links carry.
const ROUND_TRIPS_UNDER_WAY: u64 = 4;

/// A request's size: a reader that comes to wait for one frame of it does not wait for much else.
const REQUEST_BYTES: u64 = 1 << 20;

/// Requests of one place under way at once.
const REQUESTS: usize = 4;

/// Bytes that are under way, until it is dropped.
struct UnderWay<'a>(&'a AtomicU64, u64);

// === impl UnderWay ===

impl<'a> UnderWay<'a> {
    /// Gives what is under way with them, too.
    fn add(all: &'a AtomicU64, bytes: u64) -> (Self, u64) {
        let before = all.fetch_add(bytes, Ordering::SeqCst);
        (Self(all, bytes), before.saturating_add(bytes))
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::SeqCst);
    }
}

// === impl Layer ===

impl Layer {
    /// A reader waits for these frames. Waits for nobody. Must be called inside a runtime.
    pub(super) fn fetch_around(self: &Arc<Self>, frames: &Range<u32>) {
        let most = self.shared.fetching.config().read_ahead_bytes_max.min(CARRIES_MAX);
        if most == 0 || frames.is_empty() || self.is_complete() {
            return;
        }
        let (layer, frames) = (self.clone(), frames.clone());
        spawn(async move {
            if let Err(cause) = layer.fill_around(&frames, most).await {
                // Whoever reads it is told.
                tracing::debug!(layer = %layer.digest(), cause, "nothing was fetched around what is read");
            }
        });
    }

    /// Returns when it is here.
    pub(super) async fn fill_around(self: &Arc<Self>, missed: &Range<u32>, most: u64) -> Result<(), String> {
        let (blob, _) = self.blob().await.map_err(|error| with_causes(&error))?;
        let carries = blob.carries().min(most);
        if carries < CARRIES_MIN {
            return Ok(());
        }
        let around = around(self.frames(), missed, carries).map_err(|error| error.to_string())?;
        let is_new = |frame: &u32| {
            !missed.contains(frame) && !self.is_at_hand(*frame) && !self.shared.wishes.is_wished((self.slot(), *frame))
        };
        let requests = requests(self.frames(), around.filter(is_new)).map_err(|error| error.to_string())?;
        let fetching = &self.shared.fetching;
        let under_way_max = carries.saturating_mul(ROUND_TRIPS_UNDER_WAY);
        let filling = stream::iter(requests).map(|(frames, bytes)| async move {
            let (under_way, all) = UnderWay::add(&fetching.around_bytes, bytes);
            // Nothing that was read goes for what may be.
            if all > under_way_max || !self.shared.cache.has_spare(data_bytes(self.frames(), &frames)) {
                return Ok(());
            }
            fetching.arounds.fetch_add(1, Ordering::Relaxed);
            let filled = self.fill_for(frames, Priority::Background).await;
            drop(under_way);
            filled
        });
        filling.buffer_unordered(REQUESTS).try_collect().await.map_err(|error| with_causes(&error))
    }
}

/// Frames that lie wholly within so many bytes of blob behind `missed` or before it, the nearest behind it first; or all of the layer, where
/// it is small beside that.
fn around(
    frames: &Frames,
    missed: &Range<u32>,
    carries: u64,
) -> Result<impl Iterator<Item = u32> + use<>, FramesError> {
    let reach =
        if frames.heading().blob_bytes <= carries.saturating_mul(ROUND_TRIPS_OF_A_LAYER) { u64::MAX } else { carries };
    let behind = missed.end + reached(frames, missed.end..frames.len(), reach)?;
    let before = missed.start - reached(frames, (0..missed.start).rev(), reach)?;
    Ok((missed.end..behind).chain((before..missed.start).rev()))
}

/// How many of these frames come within so many bytes, one after the other. One that is too large for memory ends it.
fn reached(frames: &Frames, these: impl Iterator<Item = u32>, bytes: u64) -> Result<u32, FramesError> {
    let (mut reached, mut left) = (0, bytes);
    for frame in these {
        let (source, data) = (frames.source_range(FrameId(frame))?, frames.data_range(FrameId(frame))?);
        let length = source.end - source.start;
        if length > left || is_large(&source, &data) {
            break;
        }
        left -= length;
        reached += 1;
    }
    Ok(reached)
}

/// Neighbours together, in their order, with the bytes of their sources.
fn requests(frames: &Frames, these: impl Iterator<Item = u32>) -> Result<Vec<(Range<u32>, u64)>, FramesError> {
    let mut requests: Vec<(Range<u32>, u64)> = Vec::new();
    for frame in these {
        let source = frames.source_range(FrameId(frame))?;
        let length = source.end - source.start;
        match requests.last_mut().filter(|(_, bytes)| bytes + length <= REQUEST_BYTES) {
            Some((range, bytes)) if range.end == frame => (range.end, *bytes) = (frame + 1, *bytes + length),
            Some((range, bytes)) if range.start == frame + 1 => (range.start, *bytes) = (frame, *bytes + length),
            _ => requests.push((frame..frame + 1, length)),
        }
    }
    Ok(requests)
}

/// What neighbours take in the data file.
fn data_bytes(frames: &Frames, these: &Range<u32>) -> u64 {
    let ranges = these.clone().filter_map(|frame| frames.data_range(FrameId(frame)).ok());
    ranges.map(|range| range.end - range.start).sum()
}
