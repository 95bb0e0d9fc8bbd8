//! Fetching what an image's start will want before it does: in the order of its profile, or else of what its indexes say is wanted
//! first, in few requests and in the background: readers go first.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::Watched;
use super::elsewhere::Coming;
use crate::image::metrics::Foreseen;
use crate::image::{Images, Opened};
use crate::index::frames::FrameId;
use crate::index::profile::{BySource, PARTS_MAX, Part, Profile};
use crate::store::{Layer, Priority, StartFile};
use crate::sync::{Arc, Weak};

/// Parts of a profile are put in the order of the blob within windows of so many bytes: what is wanted soon may come a little
/// later than what lies before it.
const WINDOW_BYTES: u64 = 4 << 20;

/// A request's size: a reader that waits for one frame of it does not wait for much else.
const REQUEST_BYTES_MAX: u64 = 1 << 20;

/// What may lie between two frames and is fetched with them: as much as comes in the time of a round trip on most links.
const GAP_BYTES_MAX: u64 = 128 << 10;

/// Requests under way at once.
const REQUESTS: usize = 4;

/// A profile that names the same frames again and again is not looked at for ever.
const LOOKS_MAX: usize = 1 << 20;

/// Neighbouring frames that are fetched together.
struct Stretch {
    layer: Weak<Layer>,
    frames: Range<u32>,
    bytes: u64,
}

/// There is nothing more to fetch, or no way to.
struct Over;

/// A frame that is wanted.
struct Wanted {
    /// Which of the layers.
    layer: usize,
    frame: u32,
    source: Range<u64>,
    /// How soon, among all.
    order: usize,
}

// === impl Images ===

impl Images {
    /// Fetches in the background what earlier starts of the image wanted, no more than so many bytes. It ends with the store,
    /// and where something cannot be had: who reads that learns why.
    pub(super) fn fetch_ahead(&self, watched: Arc<Watched>, profile: Coming, opened: &Opened, bytes_max: u64) {
        let missing = opened.layers.values().filter(|layer| !layer.is_complete());
        let mut layers: Vec<(Option<usize>, Weak<Layer>)> =
            missing.map(|layer| (watched.image.place_of(layer.digest()), Arc::downgrade(layer))).collect();
        if layers.is_empty() {
            return;
        }
        layers.sort_by_key(|(place, _)| *place);
        let images = Arc::downgrade(&self.shared);
        crate::sync::spawn(async move {
            let came = profile.arrived().await;
            let (shared, manifest) = (images.clone(), watched.image.manifest_digest);
            let planned = tokio::task::spawn_blocking(move || {
                let kept = shared.upgrade()?.store.start(&manifest, StartFile::Profile).ok()?;
                let profile = kept.map(|kept| Profile::from_bytes(&kept, &manifest));
                let profile = profile.and_then(|profile| {
                    profile.inspect_err(|cause| tracing::info!(%manifest, %cause, "no profile of this image")).ok()
                });
                let layers: Vec<_> = layers.iter().filter_map(|(_, layer)| layer.upgrade()).collect();
                let (parts, foreseen) = match profile {
                    Some(profile) => (profile.parts, if came { Foreseen::Elsewhere } else { Foreseen::Here }),
                    None => (wanted_first(&layers), Foreseen::Index),
                };
                Some((plan(&layers, &parts, bytes_max), foreseen))
            });
            let Ok(Some((stretches, foreseen))) = planned.await else { return };
            if let Some(shared) = images.upgrade().filter(|_| !stretches.is_empty()) {
                shared.metrics.foresaw(foreseen);
            }
            let fetches = stream::iter(stretches).map(|stretch| {
                let (images, watched) = (images.clone(), watched.clone());
                async move {
                    let layer = stretch.layer.upgrade().ok_or(Over)?;
                    let filled = layer.fill_for(stretch.frames.clone(), Priority::Background).await;
                    filled.map_err(|_who_reads_it_learns_why| Over)?;
                    let shared = images.upgrade().ok_or(Over)?;
                    let mut ahead = watched.ahead.lock();
                    ahead.frames.extend(stretch.frames.map(|frame| (layer.digest(), frame)));
                    ahead.bytes += stretch.bytes;
                    shared.metrics.ahead_bytes.inc_by(stretch.bytes);
                    Ok(())
                }
            });
            let _the_first_that_fails_ends_it: Result<(), Over> =
                fetches.buffer_unordered(REQUESTS).try_collect().await;
        });
    }
}

/// What the layers' indexes want here first, as a profile would say it.
fn wanted_first(layers: &[Arc<Layer>]) -> Vec<Part> {
    let part = |layer: &Layer, frame| {
        let source = layer.frames().source_range(FrameId(frame)).ok()?;
        Some(Part { layer: layer.digest(), source, missed: 0 })
    };
    let of_layer = |layer: &Arc<Layer>| -> Vec<Part> {
        let frames = layer.frames().wanted_first().into_iter().flatten().flatten();
        frames.take(PARTS_MAX).filter_map(|frame| part(layer, frame)).collect()
    };
    layers.iter().flat_map(of_layer).take(PARTS_MAX).collect()
}

/// What is to be fetched, in this order: the frames of these layers that are not here and that parts name, neighbours together.
fn plan(layers: &[Arc<Layer>], parts: &[Part], bytes_max: u64) -> Vec<Stretch> {
    let places: HashMap<_, _> = layers.iter().enumerate().map(|(place, layer)| (layer.digest(), place)).collect();
    let mut by_source: HashMap<usize, BySource> = HashMap::new();
    let (mut window, mut stretches) = (Vec::new(), Vec::new());
    let mut planned = HashSet::new();
    let (mut looks, mut bytes, mut window_bytes) = (0, 0u64, 0u64);
    for part in parts {
        let Some((place, layer)) = places.get(&part.layer).and_then(|place| Some((*place, layers.get(*place)?))) else {
            continue;
        };
        let frames = by_source.entry(place).or_insert_with(|| BySource::of(layer.frames())).frames(&part.source);
        looks += frames.len() + 1;
        for frame in frames {
            let Ok(source) = layer.frames().source_range(FrameId(frame)) else { continue };
            if layer.is_resident(frame) || !planned.insert((place, frame)) {
                continue;
            }
            let length = source.end - source.start;
            bytes = bytes.saturating_add(length);
            if bytes > bytes_max || looks > LOOKS_MAX {
                stretches.extend(join(layers, window));
                return stretches;
            }
            window.push(Wanted { layer: place, frame, source, order: window.len() });
            window_bytes += length;
            if window_bytes >= WINDOW_BYTES {
                stretches.extend(join(layers, std::mem::take(&mut window)));
                window_bytes = 0;
            }
        }
    }
    stretches.extend(join(layers, window));
    stretches
}

/// Frames of one window, neighbours together, what is wanted first at the front.
fn join(layers: &[Arc<Layer>], mut window: Vec<Wanted>) -> Vec<Stretch> {
    window.sort_unstable_by_key(|wanted| (wanted.layer, wanted.frame));
    let mut joined: Vec<(Wanted, u32)> = Vec::new();
    for wanted in window {
        match joined.last_mut() {
            Some((first, last)) if comes_along(first, &wanted) => {
                first.source.end = first.source.end.max(wanted.source.end);
                first.order = first.order.min(wanted.order);
                *last = wanted.frame;
            }
            _ => {
                let frame = wanted.frame;
                joined.push((wanted, frame));
            }
        }
    }
    joined.sort_by_key(|(first, _)| first.order);
    let stretch = |(first, last): (Wanted, u32)| {
        let layer = Arc::downgrade(layers.get(first.layer)?);
        let bytes = first.source.end - first.source.start;
        Some(Stretch { layer, frames: first.frame..last + 1, bytes })
    };
    joined.into_iter().filter_map(stretch).collect()
}

/// Whether `next`, which is behind `first` in the data file, is so in the blob, near enough to be fetched with it.
fn comes_along(first: &Wanted, next: &Wanted) -> bool {
    first.layer == next.layer
        && next.source.start >= first.source.start
        && next.source.start <= first.source.end.saturating_add(GAP_BYTES_MAX)
        && next.source.end.max(first.source.end) - first.source.start <= REQUEST_BYTES_MAX
}
