//! What is known, in the words of the control socket.

use std::time::Duration;

use crate::control::{AwayReport, ClaimedReport, ImageReport, LayerReport, State, WaitReport};
use crate::image::{ClaimedImage, Image, Images, LayerState, LayerStatus};
use crate::index::frames::Provenance;
use crate::store::{Finding, Layer, SourceAway, Waiting};

pub(super) fn of_image(images: &Images, image: &Image) -> ImageReport {
    ImageReport {
        reference: image.reference.clone(),
        platform: image.platform.clone(),
        manifest_digest: image.manifest_digest,
        layers: of_layers(images, image),
        remembered: image.remembered,
    }
}

pub(super) fn of_claimed(images: &Images, ClaimedImage { image, claims }: &ClaimedImage) -> ClaimedReport {
    ClaimedReport { image: of_image(images, image), claims: *claims }
}

pub(super) fn of_layers(images: &Images, image: &Image) -> Vec<LayerReport> {
    images.states(image).into_iter().map(of_status).collect()
}

/// A layer of the store, whatever image it belongs to.
pub(super) fn of_stored(layer: &Layer) -> LayerReport {
    let heading = layer.frames().heading();
    let state = LayerState::Ready {
        data_bytes: layer.data_bytes(),
        resident_bytes: layer.resident_bytes(),
        index: heading.provenance(),
    };
    of_status(LayerStatus {
        digest: layer.digest(),
        size: heading.blob_bytes,
        state,
        declined: None,
        found: layer.finding(),
        waiting: layer.waits().now(),
        away: layer.source_away(),
    })
}

fn of_status(status: LayerStatus) -> LayerReport {
    let LayerStatus { digest, size, state, declined, found, waiting, away } = status;
    let mut report = LayerReport {
        digest,
        size,
        state: State::Untouched,
        fetched: 0,
        data_bytes: 0,
        resident_bytes: 0,
        index: None,
        declined: declined.map(|cause| (*cause).to_owned()),
        waiting: waiting.map(|waiting| of_waiting(waiting, away)),
        error: None,
    };
    let fetched = state.fetched(size);
    match state {
        LayerState::Untouched => {}
        LayerState::Queued => report.state = State::Queued,
        LayerState::Scanning { .. } => (report.state, report.fetched) = (State::Scanning, fetched),
        LayerState::Filling { data_bytes, resident_bytes, index } => {
            (report.state, report.fetched) = (State::Scanning, fetched);
            (report.data_bytes, report.resident_bytes) = (data_bytes, resident_bytes);
            report.index = Some(of_index(&index, found));
        }
        LayerState::Ready { data_bytes, resident_bytes, index } => {
            report.state = State::Ready;
            (report.data_bytes, report.resident_bytes) = (data_bytes, resident_bytes);
            report.index = Some(of_index(&index, found));
        }
        LayerState::Failed(error) => {
            report.state = State::Failed;
            report.error = Some(error);
        }
    }
    report
}

fn of_index(index: &Provenance, found: Option<Finding>) -> String {
    match found {
        None if index.source.verifies_layer() => index.to_string(),
        None => format!("{index} (blob not verified as a whole)"),
        Some(Finding::Blob) => format!("{index} (blob verified as a whole)"),
        Some(Finding::Content) => format!("{index} (blob and content verified as a whole)"),
    }
}

fn of_waiting(Waiting { count, longest, frames }: Waiting, away: Option<SourceAway>) -> WaitReport {
    let away =
        away.map(|SourceAway { since, tries, cause }| AwayReport { since_ms: milliseconds(since), tries, cause });
    let frames = (!frames.is_empty()).then_some((frames.start, frames.end));
    WaitReport { count, longest_ms: milliseconds(longest), frames, away }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
