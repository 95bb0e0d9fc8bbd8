//! Frames that another layer of the node has already: taken from there and not fetched.
//!
//! Most files of an image are in some other one too, in a layer with another digest. Where an index gives the digest of what a
//! frame holds, and not only of how it is packed, a resident frame with the same digest is its twin. What was taken is compared
//! with the digest in its new place, so a twin that is damaged, or dropped meanwhile, costs a request and nothing else.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use futures::future::join_all;

use crate::digest::{FrameDigest, LayerDigest};
use crate::gate::Urgency;
use crate::index::frames::FrameId;
use crate::store::Shared;
use crate::store::fill::{FillError, blocking};
use crate::store::layer::Layer;
use crate::store::wishes::Priority;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex};

/// Where resident frames are, by their digests.
#[derive(Default)]
pub(super) struct Twins {
    /// Nothing is noted before somebody asks: a node without foreign indexes needs none of this.
    is_wanted: AtomicBool,
    known: Mutex<Known>,
    taken_bytes: AtomicU64,
}

#[derive(Default)]
struct Known {
    places: HashMap<u64, Place>,
    /// By slot.
    layers: HashMap<u32, LayerDigest>,
}

/// A frame that was resident when this was noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    slot: u32,
    frame: u32,
}

/// Of more, every second is forgotten: 17 bytes for each and as much again for growing, 18 MiB at most.
const PLACES_MAX: usize = 450_000;

/// How long who asks first waits for a look at the layers that were here before: less than a request takes.
const LOOK_FOR: Duration = Duration::from_millis(50);

// === impl Twins ===

impl Twins {
    /// Notes that the layer has the frame.
    pub(super) fn note(&self, layer: &Layer, frame: u32) {
        if self.is_wanted.load(Ordering::Relaxed) {
            self.known.lock().note(layer, frame..frame + 1);
        }
    }

    /// The same for all that are resident.
    pub(super) fn note_all(&self, layer: &Layer) {
        // Not all at once: readers wait for this lock.
        const AT_ONCE: usize = 1000;
        let frames = 0..if self.is_wanted.load(Ordering::Relaxed) { layer.frames().len() } else { 0 };
        for start in frames.clone().step_by(AT_ONCE) {
            self.known.lock().note(layer, start..frames.end.min(start.saturating_add(AT_ONCE as u32)));
        }
    }

    /// Whether noting had begun already.
    pub(super) fn begin_to_note(&self) -> bool {
        self.is_wanted.swap(true, Ordering::Relaxed)
    }

    /// Bytes that were taken and not fetched.
    pub(super) fn taken_bytes(&self) -> u64 {
        self.taken_bytes.load(Ordering::Relaxed)
    }

    /// It is not there any more, or not what it was: another takes its place.
    fn forget(&self, digest: &FrameDigest, place: Place) {
        let mut known = self.known.lock();
        if let Some(key) = key(digest)
            && known.places.get(&key) == Some(&place)
        {
            known.places.remove(&key);
        }
    }

    fn find(&self, frames: impl Iterator<Item = (u32, FrameDigest)>) -> Vec<(u32, LayerDigest, Place)> {
        let known = self.known.lock();
        let place = |(frame, digest)| {
            let place = *known.places.get(&key(&digest)?)?;
            Some((frame, *known.layers.get(&place.slot)?, place))
        };
        frames.filter_map(place).collect()
    }
}

impl Known {
    fn note(&mut self, layer: &Layer, frames: Range<u32>) {
        self.layers.insert(layer.slot(), layer.digest());
        for frame in frames.filter(|frame| layer.is_resident(*frame)) {
            let digest = layer.frames().digest(FrameId(frame)).ok();
            let Some(key) = digest.and_then(|digest| key(&digest)) else { continue };
            self.places.entry(key).or_insert(Place { slot: layer.slot(), frame });
        }
        if self.places.len() > PLACES_MAX {
            let mut keep = false;
            self.places.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
    }
}

/// As much of a digest as finds it; the whole is compared before anything is taken. None of what is no digest of content.
fn key(digest: &FrameDigest) -> Option<u64> {
    match digest {
        FrameDigest::Blake3(bytes) | FrameDigest::Sha256(bytes) => Some(u64::from_le_bytes(*bytes.first_chunk()?)),
        FrameDigest::Source(_) => None,
    }
}

// === impl Shared ===

impl Shared {
    /// Notes what was resident before anybody asked. Blocking.
    pub(super) fn look_for_twins(&self) {
        let digests = self.cache.store().map(|store| store.digests()).unwrap_or_default();
        for digest in digests {
            let Some(store) = self.cache.store() else { return };
            match store.layer(&digest) {
                Ok(Some(layer)) => self.twins.note_all(&layer),
                Ok(None) => {}
                Err(error) => tracing::debug!(layer = %digest, %error, "nothing is taken from this layer"),
            }
        }
    }
}

// === impl Layer ===

impl Layer {
    /// Makes those of the frames resident that another layer has. What cannot be had so is for the caller to fetch.
    pub(super) async fn take_from_twins(self: &Arc<Self>, frames: Range<u32>, priority: Priority) {
        let all = frames.start..frames.end.min(self.frames().len());
        let missing = all.filter(|frame| !self.is_at_hand(*frame));
        let missing = missing.filter_map(|frame| Some((frame, self.frames().digest(FrameId(frame)).ok()?)));
        let missing: Vec<_> = missing.filter(|(_, digest)| !digest.is_of_source()).collect();
        if missing.is_empty() {
            return;
        }
        if !self.shared.twins.begin_to_note() {
            let shared = self.shared.clone();
            let looking = tokio::task::spawn_blocking(move || shared.look_for_twins());
            let _goes_on_by_itself = tokio::time::timeout(LOOK_FOR, looking).await;
        }
        let twins = self.shared.twins.find(missing.into_iter());
        // A frame's flight: who wants it meanwhile waits for this, and does not fetch it too.
        let taking = twins.into_iter().map(|(frame, layer, place)| {
            let (key, urgency) = ((self.slot(), frame), Urgency::background());
            let wish = self.shared.wishes.wish(key, priority);
            let ticket = self.shared.fills.join(key, || {
                wish.works(&urgency);
                self.clone().take(frame, layer, place, urgency)
            });
            async move {
                let _until_then = wish;
                ticket.await
            }
        });
        join_all(taking).await;
    }

    async fn take(
        self: Arc<Self>,
        frame: u32,
        layer: LayerDigest,
        place: Place,
        urgency: Urgency,
    ) -> Result<(), FillError> {
        let permit = self.shared.decodes.enter(&urgency).await;
        blocking(move || {
            let _until_the_end = permit;
            self.take_now(frame, layer, place);
            Ok(())
        })
        .await
    }

    /// Takes the frame from its twin, if that is still there and there is room.
    fn take_now(self: &Arc<Self>, frame: u32, layer: LayerDigest, place: Place) -> Option<()> {
        if self.is_at_hand(frame) {
            return None;
        }
        let (digest, range) = self.frame_content(frame)?;
        let Some((twin, at)) = self.twin_at(layer, place, &digest, range.end - range.start) else {
            self.shared.twins.forget(&digest, place);
            return None;
        };
        let room = self.shared.cache.room(range.end - range.start)?;
        match self.keep_shared(frame, twin.data(), at) {
            Ok(()) => {
                room.kept();
                self.shared.twins.taken_bytes.fetch_add(range.end - range.start, Ordering::Relaxed);
                self.sync_soon();
            }
            Err(error) => {
                self.shared.twins.forget(&digest, place);
                tracing::debug!(layer = %self.digest(), from = %layer, %error, "a frame is fetched after all");
            }
        }
        Some(())
    }

    /// The layer that has a frame with this digest and of this size in this place, and where its data is.
    fn twin_at(&self, layer: LayerDigest, place: Place, digest: &FrameDigest, bytes: u64) -> Option<(Arc<Self>, u64)> {
        let twin = self.shared.cache.store()?.layer(&layer).ok()??;
        let (its_digest, range) = twin.frame_content(place.frame)?;
        let is_same = its_digest == *digest && range.end - range.start == bytes;
        (is_same && twin.slot() == place.slot && twin.is_resident(place.frame)).then_some((twin, range.start))
    }

    fn frame_content(&self, frame: u32) -> Option<(FrameDigest, Range<u64>)> {
        let id = FrameId(frame);
        Some((self.frames().digest(id).ok()?, self.frames().data_range(id).ok()?))
    }
}
