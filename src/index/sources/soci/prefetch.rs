//! Prefetch artifacts (soci-snapshotter, docs/prefetch.md): which spans of a layer its maker wants here first. A hint: what is
//! wrong with one costs nothing but itself.

use std::ops::Range;

use serde::Deserialize;

use super::super::{Fault, Wanted};
use super::IndexText;
use crate::digest::check;

const MEDIA_TYPE: &str = "application/vnd.amazon.soci.prefetch.v1+json";

/// Lists of numbers; one of a hundred ranges takes 5 kB.
const BYTES_MAX: u64 = 256 << 10;

/// Each costs a request.
const ARTIFACTS_MAX: usize = 4;

#[derive(Deserialize)]
struct Prefetch {
    #[serde(default)]
    prefetch_spans: Vec<Spans>,
}

/// From the first to the last of them, both included.
#[derive(Deserialize)]
struct Spans {
    start_span: u32,
    end_span: u32,
    /// The lower, the earlier.
    #[serde(default)]
    priority: i64,
}

/// Whether a layer of the index is of this kind.
pub(super) fn is_prefetch(media_type: &str) -> bool {
    media_type == MEDIA_TYPE
}

/// The layer's frames that are wanted first, if the index has anything about that. `frames_before` says of each span, and of
/// the end of all, how many frames lie before it.
pub(super) async fn wanted_first(
    wanted: &Wanted<'_>,
    index: &IndexText,
    frames_before: &[u32],
) -> Option<Vec<Range<u32>>> {
    let mut spans = None;
    for (digest, size) in index.of_layer(wanted.layer.digest, is_prefetch).take(ARTIFACTS_MAX) {
        let read = async {
            if size > BYTES_MAX {
                return Err(Fault::TooLarge(BYTES_MAX));
            }
            let bytes = check(wanted.beside.blob(digest, size).await?, &digest)?;
            Ok(serde_json::from_slice::<Prefetch>(bytes.get())?.prefetch_spans)
        };
        match read.await {
            Ok(read) => spans.get_or_insert_with(Vec::new).extend(read),
            Err(fault) => tracing::debug!(layer = %wanted.layer.digest, %fault, "what is wanted first is not known"),
        }
    }
    Some(frames_of(spans?, frames_before))
}

/// Each frame once, in the order in which they are wanted.
fn frames_of(mut spans: Vec<Spans>, frames_before: &[u32]) -> Vec<Range<u32>> {
    spans.sort_by_key(|spans| spans.priority);
    let mut is_wanted = vec![false; frames_before.last().map_or(0, |frames| *frames as usize)];
    let mut ranges: Vec<Range<u32>> = Vec::new();
    for spans in spans {
        let start = frames_before.get(spans.start_span as usize).copied().unwrap_or(u32::MAX);
        let after = (spans.end_span as usize).saturating_add(1);
        let end = frames_before.get(after).or(frames_before.last()).copied().unwrap_or(0);
        for frame in start..end {
            let Some(is_wanted) = is_wanted.get_mut(frame as usize).filter(|wanted| !**wanted) else { continue };
            *is_wanted = true;
            match ranges.last_mut() {
                Some(range) if range.end == frame => range.end += 1,
                _ => ranges.push(frame..frame + 1),
            }
        }
    }
    ranges
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // lists of ranges, some of them with one
mod tests {
    use super::*;

    #[test]
    fn spans_become_frames_each_once_and_the_lower_priority_first() {
        let read = |json: &str| serde_json::from_str::<Prefetch>(json).unwrap().prefetch_spans;
        let wanted = |json: &str| frames_of(read(json), &[0, 1, 2, 3, 4, 4]);
        assert_eq!(wanted(r#"{"version": "1.0", "prefetch_spans": []}"#), []);
        assert_eq!(
            wanted(r#"{"prefetch_spans": [{"start_span": 2, "end_span": 3}, {"start_span": 0, "end_span": 2}]}"#),
            [2..4, 0..2]
        );
        let with_priority = r#"{"prefetch_spans": [
            {"start_span": 2, "end_span": 2, "priority": 9}, {"start_span": 0, "end_span": 0, "priority": -1}]}"#;
        assert_eq!(wanted(with_priority), [0..1, 2..3]);
        // The last span has no frame of its own; what is beyond it, or backwards, is none.
        let strange = r#"{"prefetch_spans": [{"start_span": 3, "end_span": 4294967295}, {"start_span": 7, "end_span": 9},
            {"start_span": 2, "end_span": 1}, {"start_span": 4, "end_span": 4}]}"#;
        assert_eq!(wanted(strange), [3..4]);
    }
}
