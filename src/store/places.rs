//! Where a layer's blob can be had: from the image that named it last, and from every other that has the layer. They are asked one
//! after the other, so a layer is away only when all of them are.

use std::ops::Range;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};

use crate::blob::{Blob, BlobError, Blobs, Origin};
use crate::digest::LayerDigest;
use crate::gate::Urgency;
use crate::store::Store;
use crate::store::layer::Layer;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex};

/// Looks up where the images of now say that a layer can be had.
pub type OriginsOf = Arc<dyn Fn(&LayerDigest) -> Vec<Origin> + Send + Sync>;

/// A registry that does not answer costs each reader its patience: of more places than these nobody waits for the last.
const PLACES_MAX: usize = 4;

/// What a layer itself knows of where its blob is.
#[derive(Debug, Default)]
pub(super) struct Sources(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// As its record has it.
    recorded: Option<Origin>,
    /// They sent bytes that were not the layer's, the latest last.
    wrong: Vec<Origin>,
}

/// The blob, at all places at once.
pub(super) struct Places {
    sources: Arc<Sources>,
    blobs: Arc<dyn Blobs>,
    layer: LayerDigest,
    size: u64,
    places: Vec<Place>,
    /// The place that is asked first: where bytes came from last.
    first: AtomicUsize,
}

struct Place {
    origin: Origin,
    /// Once it was opened; empty again after it failed.
    blob: Mutex<Option<Arc<dyn Blob>>>,
}

// === impl Store ===

impl Store {
    /// From now on this says where else layers can be had.
    pub fn set_origins(&self, origins: OriginsOf) {
        *self.inner.shared.origins.lock() = Some(origins);
    }
}

// === impl Layer ===

impl Layer {
    /// Where the layer's blob is looked for first; unknown for a layer that no image has named since its record was lost.
    pub fn origin(&self) -> Option<Origin> {
        self.origins().into_iter().next()
    }

    /// All that are worth asking, in this order.
    fn origins(&self) -> Vec<Origin> {
        let said = self.shared.origins.lock().clone().map(|origins| origins(&self.digest())).unwrap_or_default();
        let known = self.sources.0.lock();
        let mut origins: Vec<Origin> = Vec::new();
        for origin in known.recorded.iter().chain(&said) {
            if !origins.contains(origin) {
                origins.push(origin.clone());
            }
        }
        origins.sort_by_key(|origin| known.wrong.iter().position(|wrong| wrong == origin).map_or(0, |at| at + 1));
        origins.truncate(PLACES_MAX);
        origins
    }

    /// Whether what it lets go of may be had again. Blocking, for a look at the disk.
    pub(super) fn may_be_had_again(&self) -> bool {
        let recorded = self.sources.0.lock().recorded.clone();
        let may_have = |origin: &Origin| self.shared.blobs.may_have(&self.digest(), origin);
        recorded.as_ref().is_some_and(may_have) || self.origins().iter().any(may_have)
    }

    pub(super) fn set_origin(&self, origin: &Origin) {
        *self.sources.0.lock() = Known { recorded: Some(origin.clone()), wrong: Vec::new() };
        // A blob of the old origin is not worth waiting for: who is using it goes on with it.
        if let Ok(mut blob) = self.blob.try_lock() {
            *blob = None;
        }
    }

    /// The blob at all these places; none if there are none.
    pub(super) fn places(&self) -> Option<Places> {
        let place = |origin| Place { origin, blob: Mutex::new(None) };
        let places: Vec<Place> = self.origins().into_iter().map(place).collect();
        (!places.is_empty()).then(|| Places {
            sources: self.sources.clone(),
            blobs: self.shared.blobs.clone(),
            layer: self.digest(),
            size: self.frames().heading().blob_bytes,
            places,
            first: AtomicUsize::new(0),
        })
    }
}

// === impl Sources ===

impl Sources {
    pub(super) fn new(recorded: Option<Origin>) -> Self {
        Self(Mutex::new(Known { recorded, wrong: Vec::new() }))
    }

    /// It is asked last from now on.
    fn distrust(&self, origin: &Origin) {
        let mut known = self.0.lock();
        known.wrong.retain(|other| other != origin);
        known.wrong.push(origin.clone());
    }
}

// === impl Places ===

impl Places {
    /// Opens the blob where it can be.
    pub(super) async fn open(&self) -> Result<(), BlobError> {
        self.in_turn(None).await.map(drop)
    }

    /// Asks one place after the other, for nothing but to be opened if nothing else is wanted. What the first of them failed with
    /// stands for all.
    async fn in_turn(&self, wanted: Option<(&Range<u64>, &Urgency)>) -> Result<Bytes, BlobError> {
        let (first, count) = (self.first.load(Ordering::Relaxed), self.places.len());
        let mut failed = None;
        for (at, place) in self.places.iter().enumerate().cycle().skip(first).take(count) {
            match self.ask(place, wanted).await {
                Ok(bytes) => {
                    self.first.store(at, Ordering::Relaxed);
                    return Ok(bytes);
                }
                Err(error) => {
                    tracing::debug!(layer = %self.layer, origin = %place.origin, %error, "a layer is not to be had there");
                    *place.blob.lock() = None;
                    failed.get_or_insert(error);
                }
            }
        }
        Err(failed.unwrap_or_else(|| BlobError::Other("nobody says where the layer can be had".to_owned())))
    }

    async fn ask(&self, place: &Place, wanted: Option<(&Range<u64>, &Urgency)>) -> Result<Bytes, BlobError> {
        let opened = place.blob.lock().clone();
        let blob = match opened {
            Some(blob) => blob,
            None => {
                let blob = self.blobs.open(self.layer, self.size, place.origin.clone()).await?;
                *place.blob.lock() = Some(blob.clone());
                blob
            }
        };
        match wanted {
            Some((range, urgency)) => exactly(&*blob, range.clone(), urgency).await,
            None => Ok(Bytes::new()),
        }
    }

    fn first(&self) -> Option<&Place> {
        self.places.get(self.first.load(Ordering::Relaxed))
    }
}

async fn exactly(blob: &dyn Blob, range: Range<u64>, urgency: &Urgency) -> Result<Bytes, BlobError> {
    let want = range.end.saturating_sub(range.start);
    let bytes = blob.range_for(range, urgency).await?;
    if bytes.len() as u64 == want { Ok(bytes) } else { Err(BlobError::Size { has: bytes.len() as u64, want }) }
}

impl Blob for Places {
    fn size(&self) -> u64 {
        self.size
    }

    /// Where there are several places, another is asked next, be it one that was wrong longer ago.
    fn was_wrong(&self) -> bool {
        let Some(place) = self.first() else { return false };
        let blob = place.blob.lock().take();
        if blob.is_some_and(|blob| blob.was_wrong()) {
            return true;
        }
        self.sources.distrust(&place.origin);
        self.places.len() > 1
    }

    fn carries(&self) -> u64 {
        let blob = self.first().and_then(|place| place.blob.lock().clone());
        blob.map_or(0, |blob| blob.carries())
    }

    fn range(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        Box::pin(async move { self.in_turn(Some((&range, &Urgency::reader()))).await })
    }

    fn range_for(&self, range: Range<u64>, urgency: &Urgency) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        let urgency = urgency.clone();
        Box::pin(async move { self.in_turn(Some((&range, &urgency))).await })
    }

    /// From the place that is asked first.
    fn stream(&self) -> BoxStream<'static, Result<Bytes, BlobError>> {
        match self.first().and_then(|place| place.blob.lock().clone()) {
            Some(blob) => blob.stream(),
            None => stream::iter([Err(BlobError::Other("the blob is not open".to_owned()))]).boxed(),
        }
    }
}
