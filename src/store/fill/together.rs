//! Which frames come in one request: neighbours that are wanted, and what is small and lies beside them.

use std::ops::Range;

use crate::index::frames::{FrameId, FramesError};
use crate::store::fill::{FillError, is_large};
use crate::store::layer::Layer;
use crate::store::wishes::Priority;

/// Neighbouring frames are fetched in one request up to so many bytes of blob: enough to make the round trip small
/// beside the transfer, small enough to hold a few of them in memory.
const REQUEST_BYTES_MAX: u64 = 4 << 20;

/// What may lie between them and comes along for nothing: as much as arrives in the time of another request.
const GAP_BYTES_MAX: u64 = 64 << 10;

/// Who reads a small file will read its neighbours: a reader's request that is small brings all that lies in the same stretch of this size.
const STRETCH_BYTES: u64 = 128 << 10;

/// Unpacked, what comes along is no more than that.
const BESIDE_BYTES_MAX: u64 = 1 << 20;

/// Frames of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Together {
    /// All of them.
    pub(super) frames: Range<u32>,
    /// Those that were asked for. The others come along.
    pub(super) wanted: Range<u32>,
}

// === impl Layer ===

impl Layer {
    /// The frames of `frames` that are not resident, neighbours together as far as one request may go.
    pub(super) fn plan(&self, frames: Range<u32>, priority: Priority) -> Result<Vec<Together>, FillError> {
        if self.is_quarantined() {
            return Err(FillError::Quarantined { layer: self.digest() });
        }
        let mut requests: Vec<(Range<u32>, Range<u64>)> = Vec::new();
        let all = frames.start..frames.end.min(self.frames().len());
        for frame in all.filter(|frame| !self.is_at_hand(*frame)) {
            let source = self.frames().source_range(FrameId(frame)).map_err(|error| self.index_error(error))?;
            match requests.last_mut() {
                Some((frames, bytes)) if frames.end == frame && is_next(bytes, &source) => {
                    frames.end += 1;
                    bytes.end = bytes.end.max(source.end);
                }
                _ => requests.push((frame..frame + 1, source)),
            }
        }
        if let ([(wanted, bytes)], Priority::Reader) = (requests.as_slice(), priority) {
            let frames = self.with_beside(wanted, bytes).map_err(|error| self.index_error(error))?;
            return Ok(vec![Together { frames, wanted: wanted.clone() }]);
        }
        Ok(requests.into_iter().map(|(frames, _)| Together { wanted: frames.clone(), frames }).collect())
    }

    /// These frames, whose source this is, and what comes along.
    fn with_beside(&self, wanted: &Range<u32>, bytes: &Range<u64>) -> Result<Range<u32>, FramesError> {
        let is_small = bytes.end - bytes.start < STRETCH_BYTES / 2;
        if !is_small || self.shared.fetching.config().read_ahead_bytes_max == 0 {
            return Ok(wanted.clone());
        }
        let stretch = bytes.start - bytes.start % STRETCH_BYTES;
        let stretch = stretch..stretch + STRETCH_BYTES;
        let mut left = BESIDE_BYTES_MAX;
        // Where it begins, if it comes along.
        let mut beside = |frame: u32| -> Result<Option<u64>, FramesError> {
            let id = FrameId(frame);
            let (source, data) = (self.frames().source_range(id)?, self.frames().data_range(id)?);
            let length = data.end - data.start;
            let is_within = stretch.start <= source.start && source.end <= stretch.end && length <= left;
            let is_on_its_way = self.shared.wishes.is_wished((self.slot(), frame));
            if !is_within || is_large(&source, &data) || is_on_its_way || self.is_at_hand(frame) {
                return Ok(None);
            }
            left -= length;
            Ok(Some(source.start))
        };
        let (mut frames, mut start) = (wanted.clone(), bytes.start);
        // A request's frames begin in their order, whatever an index says.
        while frames.end < self.frames().len() && beside(frames.end)?.is_some_and(|at| at >= start) {
            frames.end += 1;
        }
        while let Some(before) = frames.start.checked_sub(1)
            && let Some(at) = beside(before)?
            && at <= start
        {
            (frames.start, start) = (before, at);
        }
        let beside = BESIDE_BYTES_MAX - left;
        // Nothing that was read goes for what may be.
        Ok(if self.shared.cache.has_spare(beside) { frames } else { wanted.clone() })
    }
}

/// Whether one request brings both. Only a scan makes sure that frames lie in the blob in the order of their data.
fn is_next(bytes: &Range<u64>, source: &Range<u64>) -> bool {
    source.start >= bytes.start
        && source.start <= bytes.end.saturating_add(GAP_BYTES_MAX)
        && source.end.max(bytes.end) - bytes.start <= REQUEST_BYTES_MAX
}
