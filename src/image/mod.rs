//! Makes an image usable: the one place where registry, index and store meet, so that none of them knows another's world.
//!
//! Everything here that takes long is a flight: one manifest request for all who open an image, one scan for all
//! who want a layer, one view for all mounts of an image. Dropping what a call returned drops its claim on the work.

mod background;
mod believed;
mod beside;
mod cache;
mod chains;
mod convert;
mod declines;
mod filling;
mod layer;
mod metrics;
mod progress;
mod publish;
mod publishing;
mod referrers;
mod refusals;
mod removing;
mod resolve;
mod starts;
mod verify;
mod waits;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};

use crate::blob::{Layered, Origin};
use crate::digest::{ChainId, Digest, LayerDigest};
use crate::flight::{Failed, Flight, Ticket};
use crate::index::scan::{Limits, ScanError};
use crate::index::sources::Binding;
use crate::registry::{Registry, RegistryError};
use crate::store::{FillError, Layer, Store, StoreError};
use crate::sync::atomic::AtomicU64;
use crate::sync::{Arc, Mutex};
use crate::view::{LayerSlot, Lower, View, ViewError, ViewSlot};

pub use background::CompletionCounts;
pub use believed::{IndexConfig, Trust};
pub use cache::{Pinned, Prune, Pruned};
pub use chains::{ChainError, ChainSource, ChainUsage, ChainWanted, ClaimedImage, Held, Search};
pub use layer::Need;
pub use metrics::Metrics;
pub use progress::{LayerState, LayerStatus};
pub use publish::{PublishError, PublishedIndex, Pushed, Verdict};
pub use publishing::Publish;
pub use removing::RemoveError;
pub use resolve::Asker;
pub use starts::{ProfileConfig, Start};

use background::Completing;
use believed::Believed;
use chains::{Found, Ledger, Quiet};
use declines::Declines;
use progress::Progresses;
use publishing::Publishing;
use referrers::Referrers;
use refusals::Refusals;
use starts::Starts;
use waits::ChainWaits;

/// More would be no faster anywhere.
const CONCURRENT_LAYERS_MAX: usize = 1024;

/// What a user may set about making layers usable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Layers scanned at the same time, over all images. Each costs up to 16 MiB and about two processors.
    pub concurrent_layers: usize,
    /// What a layer may cost at most before it is refused.
    pub limits: Limits,
}

/// Images of one node. Clones share everything.
#[derive(Clone)]
pub struct Images {
    shared: Arc<Shared>,
}

/// An image whose manifest and config are known; its layers may not be here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// As it was asked for, in canonical form.
    pub reference: String,
    /// As in `linux/amd64`.
    pub platform: String,
    pub manifest_digest: Digest,
    pub media_type: String,
    pub layers: Vec<Layered>,
    pub origin: Origin,
    /// The image's config, verified, as the registry has it.
    pub config: Vec<u8>,
    /// The registry could not be asked; this is what it said the last time.
    pub remembered: bool,
}

/// A view, and the layers behind it.
#[derive(Clone)]
pub struct Opened {
    pub view: Arc<View>,
    pub layers: HashMap<LayerSlot, Arc<Layer>>,
}

/// Why an image or a layer is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("cannot resolve {image}")]
    Resolve { image: String, source: Box<RegistryError> },
    #[error("cannot make layer {layer} of {image} usable")]
    Layer { image: String, layer: LayerDigest, source: Box<LayerError> },
    #[error("the layers of {image} do not fit together")]
    View { image: String, source: Box<ViewError> },
    #[error("chain {0} is not known here any more")]
    UnknownChain(ChainId),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Others wait for the same and get the same.
    #[error(transparent)]
    Shared(Arc<ImageError>),
    #[error("the work on the image ended without a result: oncefs is stopping, or it failed inside (see the log)")]
    Stopping,
}

/// Why a layer is not usable.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error(transparent)]
    Blob(#[from] crate::blob::BlobError),
    #[error(transparent)]
    Scan(#[from] ScanError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is here, and what it has let go of could not be had again.
    #[error(transparent)]
    Fill(FillError),
    #[error("oncefs is stopping")]
    Stopping,
    #[error("the image says its content is {says}, but the verified content is {is}: the image's config is wrong")]
    OtherContent { says: crate::digest::DiffId, is: crate::digest::DiffId },
}

/// What a caller of a flight gets instead of a result.
pub type ImageFailed = Failed<ImageError>;

/// A claim on a layer, and what becomes of it.
pub type Claim = Ticket<Arc<Layer>, ImageError>;

struct Shared {
    registry: Registry,
    store: Store,
    limits: Mutex<Limits>,
    resolving: Flight<(String, String, Asker), Arc<Image>, ImageError>,
    finding: Flight<String, Arc<Found>, ImageError>,
    believed: Believed,
    indexing: Flight<(LayerDigest, Binding), Arc<Layer>, ImageError>,
    scanning: Flight<LayerDigest, Arc<Layer>, ImageError>,
    opening: Flight<ViewSlot, Opened, ImageError>,
    /// A place for each layer that is scanned now.
    places: Arc<Semaphore>,
    progresses: Mutex<Progresses>,
    refusals: Refusals,
    declines: Declines,
    referrers: Referrers,
    starts: Starts,
    waits: ChainWaits,
    ledger: Mutex<Ledger>,
    quiet: Quiet,
    /// Says that there may be something to delete.
    work: watch::Sender<()>,
    /// Says that a layer or an image's record is nobody's any more: who waited for that may try.
    freed: watch::Sender<()>,
    failed_scans: AtomicU64,
    metrics: Metrics,
    completing: Completing,
    publishing: Publishing,
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self { concurrent_layers: 4, limits: Limits::default() }
    }
}

// === impl Images ===

impl Images {
    /// Takes the images that the store knows into memory: blocking for a moment.
    pub fn new(registry: Registry, store: Store, config: Config, index: &IndexConfig) -> Self {
        let places = Arc::new(Semaphore::new(config.concurrent_layers.clamp(1, CONCURRENT_LAYERS_MAX)));
        let believed = Believed::new(index);
        let shared = Shared {
            registry,
            store,
            limits: Mutex::new(config.limits),
            resolving: Flight::new(),
            finding: Flight::new(),
            believed: believed.clone(),
            indexing: Flight::new(),
            scanning: Flight::new(),
            opening: Flight::new(),
            places,
            progresses: Mutex::new(Progresses::default()),
            refusals: Refusals::default(),
            declines: Declines::default(),
            referrers: Referrers::default(),
            starts: Starts::default(),
            waits: ChainWaits::default(),
            ledger: Mutex::new(Ledger::new(believed)),
            quiet: Quiet::default(),
            work: watch::Sender::default(),
            freed: watch::Sender::default(),
            failed_scans: AtomicU64::new(0),
            metrics: Metrics::new(),
            completing: Completing::default(),
            publishing: Publishing::new(index),
        };
        let images = Self { shared: Arc::new(shared) };
        images.recall();
        images.recall_pins();
        let shared = Arc::downgrade(&images.shared);
        let uses = move || shared.upgrade().map(|shared| Self { shared }.uses()).unwrap_or_default();
        images.shared.store.set_uses(Arc::new(uses));
        let shared = Arc::downgrade(&images.shared);
        let origins = move |layer: &LayerDigest| match shared.upgrade() {
            Some(shared) => shared.ledger.lock().origins_of(layer),
            None => Vec::new(),
        };
        images.shared.store.set_origins(Arc::new(origins));
        images
    }

    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    pub fn registry(&self) -> &Registry {
        &self.shared.registry
    }

    /// All layers of the image, bottom first, each verified: what has not been is scanned. The first that fails ends it.
    pub async fn layers(&self, image: &Arc<Image>) -> Result<Vec<Arc<Layer>>, ImageFailed> {
        let layers = self.first_layers(image, image.layers.len(), Need::Verified).await?;
        self.publish_by_itself(image);
        Ok(layers)
    }

    /// The chain's merged tree under this slot, with every layer in the store.
    pub async fn open_chain(&self, chain: ChainId, slot: ViewSlot) -> Result<Opened, ImageFailed> {
        let ticket = self.shared.opening.join(slot, || {
            let images = self.clone();
            async move { images.open_any(&chain, slot).await }
        });
        ticket.await
    }

    /// With the layers of the image that serves it, or else of another that has the chain: one's registry may be away, or it
    /// may lie about what is in its blobs.
    async fn open_any(&self, chain: &ChainId, slot: ViewSlot) -> Result<Opened, ImageError> {
        let mut first_error = None;
        for (image, length) in self.images_that_have(chain) {
            let starting = self.starting(&image, length);
            match self.open_one(chain, slot, &image, length).await {
                Ok(opened) => {
                    self.serve_with(chain, &image);
                    self.started(&image, length, starting, &opened);
                    self.publish_by_itself(&image);
                    return Ok(opened);
                }
                Err(error) => drop(first_error.get_or_insert(error)),
            }
        }
        Err(first_error.unwrap_or(ImageError::UnknownChain(*chain)))
    }

    /// With this image's layers. Where images with other blobs, or other indexes, claim to have the same chain, whose id says
    /// what is in it, none of them is believed without a scan.
    async fn open_one(
        &self,
        chain: &ChainId,
        slot: ViewSlot,
        image: &Arc<Image>,
        length: usize,
    ) -> Result<Opened, ImageError> {
        if !self.is_disputed(chain) {
            let layers = self.first_layers(image, length, Need::Usable).await?;
            let opened = self.open(image, slot, layers)?;
            if self.may_show(chain, image, length, &opened) {
                return Ok(opened);
            }
        }
        let layers = self.first_layers(image, length, Need::Verified).await?;
        self.open(image, slot, layers)
    }

    fn open(&self, image: &Image, slot: ViewSlot, layers: Vec<Arc<Layer>>) -> Result<Opened, ImageError> {
        // Who joined another image's work learns here whether the blob is what this image says.
        for (layer, says) in layers.iter().zip(&image.layers) {
            layer::check_content(layer, says).map_err(|source| ImageError::layer(image, says, source))?;
        }
        let lowers = layers.iter().map(|layer| Lower { slot: LayerSlot(layer.slot()), tree: layer.tree().clone() });
        let view = View::open(slot, lowers.collect())
            .map_err(|source| ImageError::View { image: image.reference.clone(), source: Box::new(source) })?;
        let layers = layers.into_iter().map(|layer| (LayerSlot(layer.slot()), layer)).collect();
        Ok(Opened { view: Arc::new(view), layers })
    }

    /// What is known of each layer of the image, bottom first.
    pub fn states(&self, image: &Image) -> Vec<LayerStatus> {
        let progresses = self.shared.progresses.lock();
        let (declines, store) = (&self.shared.declines, &self.shared.store);
        let waiting = self.waiting_for(image);
        let status = |layer: &Layered| progresses.status(layer, store, declines.of(&layer.digest), waiting.clone());
        image.layers.iter().map(status).collect()
    }

    /// From now on layers may cost so much.
    pub fn set_limits(&self, limits: Limits) {
        *self.shared.limits.lock() = limits;
    }

    /// How many layers are being scanned just now.
    pub fn scanning(&self) -> u64 {
        self.shared.progresses.lock().scanning()
    }

    /// How often layers were scanned, and how often somebody joined a scan that was under way.
    pub fn scan_counts(&self) -> (u64, u64) {
        self.shared.scanning.counts()
    }
}

// === impl ImageError ===

impl ImageError {
    fn layer(image: &Image, layer: &Layered, source: LayerError) -> Self {
        Self::Layer { image: image.reference.clone(), layer: layer.digest, source: Box::new(source) }
    }

    /// Whether it was where a layer comes from that failed, and another time may be better.
    pub fn may_pass(&self) -> bool {
        let Self::Layer { source, .. } = self.cause() else { return false };
        match &**source {
            LayerError::Blob(_) => true,
            LayerError::Scan(scan) => scan.is_of_the_place() || matches!(scan, ScanError::Blob { .. }),
            _ => false,
        }
    }

    /// The error that the work ended with, whoever it was shared by.
    pub fn cause(&self) -> &Self {
        let mut error = self;
        while let Self::Shared(shared) = error {
            error = shared;
        }
        error
    }
}

impl From<ImageFailed> for ImageError {
    fn from(failed: ImageFailed) -> Self {
        match failed {
            Failed::Work(error) => Self::Shared(error),
            Failed::Panicked => Self::Stopping,
        }
    }
}

// === impl Image ===

impl Image {
    /// Bytes of all blobs.
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }

    /// Where the layer stands in the image, the lowest at 0.
    fn place_of(&self, layer: LayerDigest) -> Option<usize> {
        self.layers.iter().position(|one| one.digest == layer)
    }
}
