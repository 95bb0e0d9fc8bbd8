//! Whether a chain can be served: from memory if it is known, else with a question to the registry, one for all who ask.

use std::time::{Duration, Instant};

use super::ledger::{ImageKey, Known};
use super::needs::Held;
use crate::blob::Layered;
use crate::digest::{ChainId, Digest, LayerDigest};
use crate::errors::with_causes;
use crate::flight::Failed;
use crate::image::{Image, ImageError, Images, LayerError};
use crate::registry::Remote;
use crate::sync::Arc;

/// A chain that somebody would have.
#[derive(Debug, Clone)]
pub struct ChainWanted {
    pub chain: ChainId,
    /// The chain below it; `None` for an image's first layer.
    pub parent: Option<ChainId>,
    /// `None` where the labels do not say.
    pub source: Option<ChainSource>,
}

/// Where the last layer of a chain would come from.
#[derive(Debug, Clone)]
pub struct ChainSource {
    /// As it was pulled.
    pub image: Remote,
    /// Of the platform's manifest; what the reference names is taken where it is not said.
    pub manifest: Option<Digest>,
    pub layer: LayerDigest,
}

/// How to look for a chain.
#[derive(Debug, Clone, Copy)]
pub struct Search {
    /// How long the registry may take for all of it.
    pub within: Duration,
    /// Start to scan all the image's layers when a chain of it is claimed.
    pub scan: bool,
}

/// Why a chain cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    #[error("no image with this chain is known here, and the labels do not say where it comes from")]
    Unknown,
    #[error("not all its layers are here, and the labels do not say where they come from")]
    NotHere,
    #[error("the image's reference is of no use: {0}")]
    Reference(String),
    #[error("another image, with other blobs, is shown with the same chain, and its content has not been verified")]
    ShownUnverified,
    #[error("the labels lie: the image has no chain {0}")]
    NoSuchChain(ChainId),
    #[error("the labels lie: chain {0} does not follow on the parent")]
    Parent(ChainId),
    #[error("the labels lie: this chain of the image ends with layer {has}")]
    OtherLayer { has: LayerDigest },
    #[error("layer {layer} could not be used before: {cause}")]
    Refused { layer: LayerDigest, cause: Arc<str> },
    #[error("the registry took longer than {} s", .0.as_secs_f32())]
    Late(Duration),
    #[error("it could not be had a moment ago: {0}")]
    FailedBefore(Arc<str>),
    #[error("{0}")]
    Image(String),
}

/// An image that was found, and is not deleted meanwhile.
pub(in crate::image) struct Found {
    key: ImageKey,
    image: Arc<Image>,
    _held: Held,
}

// === impl Images ===

impl Images {
    /// Claims the chain if it can be served: [`Images::release_chain`] gives the claim back. From memory where all its
    /// layers are here, or on their way from this very source. Whoever stops waiting has claimed nothing.
    pub async fn find_chain(&self, wanted: &ChainWanted, search: Search) -> Result<(), ChainError> {
        let (chain, source) = (&wanted.chain, wanted.source.as_ref());
        self.measure_layers_of(chain).await;
        let key = match (self.claim_known(wanted)?, source) {
            (Some((_, true)), _) => return Ok(()),
            (Some((key, false)), _) => key,
            (None, Some(source)) => self.claim_found(wanted, source, search.within).await?,
            (None, None) if self.shared.ledger.lock().chains.contains_key(chain) => return Err(ChainError::NotHere),
            (None, None) => return Err(ChainError::Unknown),
        };
        if search.scan {
            self.scan_in_background(&key);
        }
        Ok(())
    }

    fn claim_known(&self, wanted: &ChainWanted) -> Result<Option<(ImageKey, bool)>, ChainError> {
        let source = wanted.source.as_ref();
        let origin = source.map(|source| source.image.origin());
        let source = source.zip(origin.as_ref());
        let source = source.map(|(source, origin)| (&source.layer, origin, source.manifest.as_ref()));
        let in_store = |layer: &LayerDigest| self.shared.store.has(layer);
        let mut ledger = self.shared.ledger.lock();
        // What was refused will not come; only what is here counts then.
        let source = source.filter(|_| !ledger.images_of(&wanted.chain).iter().any(|known| self.is_refused(known)));
        // The id of a chain is made of its parent's: what one image says of it holds for all.
        if let Some((key, ..)) = ledger.images_of(&wanted.chain).first() {
            let chains = ledger.images.get(key).map_or(&[][..], |known| &known.chains);
            follows(chains, wanted)?;
        }
        Ok(ledger.claim_if_usable(&wanted.chain, source, in_store))
    }

    fn is_refused(&self, (_, image, length): &(ImageKey, Arc<Image>, usize)) -> bool {
        self.shared.refusals.among(image.layers.get(..*length).unwrap_or_default()).is_some()
    }

    async fn claim_found(
        &self,
        wanted: &ChainWanted,
        source: &ChainSource,
        within: Duration,
    ) -> Result<ImageKey, ChainError> {
        let found = self.image_of(source, within).await?;
        let chain = &wanted.chain;
        let at = follows(&found.image.chains(), wanted)?;
        let has = found.image.layers.get(at).ok_or(ChainError::NoSuchChain(*chain))?.digest;
        if has != source.layer {
            return Err(ChainError::OtherLayer { has });
        }
        let layers = found.image.layers.get(..=at).unwrap_or_default();
        if let Some((layer, cause)) = self.shared.refusals.among(layers) {
            return Err(ChainError::Refused { layer, cause });
        }
        let is_claimed = self.shared.ledger.lock().claim_with(chain, Some(&found.key));
        if is_claimed { Ok(found.key.clone()) } else { Err(ChainError::ShownUnverified) }
    }

    /// The image that the labels speak of, reachable and permitted.
    async fn image_of(&self, source: &ChainSource, within: Duration) -> Result<Arc<Found>, ChainError> {
        let named = named(source);
        let name = named.to_string();
        if let Some(cause) = self.shared.ledger.lock().failure(&name) {
            return Err(ChainError::FailedBefore(cause));
        }
        let ticket = self.shared.finding.join(name.clone(), || {
            let (images, named) = (self.clone(), named);
            async move { images.ask_for(&named).await.map(Arc::new) }
        });
        let error = match tokio::time::timeout(within, ticket).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(Failed::Work(error))) => ChainError::Image(with_causes(error.cause())),
            Ok(Err(Failed::Panicked)) => ChainError::Image(ImageError::Stopping.to_string()),
            Err(_elapsed) => ChainError::Late(within),
        };
        self.shared.ledger.lock().failed(&name, &error.to_string());
        Err(error)
    }

    /// Asks the registry for manifest and config, unless they are known, and whether a layer that is not here may be had.
    async fn ask_for(&self, named: &Remote) -> Result<Found, ImageError> {
        let (key, image, held) = match self.known(named) {
            Some(known) => known,
            None => self.resolve_exactly(named).await?,
        };
        let is_checked = self.shared.ledger.lock().images.get(&key).is_some_and(Known::was_checked);
        if !is_checked {
            self.check_reachable(&image).await?;
        }
        if let Some(known) = self.shared.ledger.lock().images.get_mut(&key) {
            known.checked = Some(Instant::now());
        }
        Ok(Found { key, image, _held: held })
    }

    fn known(&self, named: &Remote) -> Option<(ImageKey, Arc<Image>, Held)> {
        let (origin, manifest) = (named.origin(), named.digest?);
        let is_it = |image: &Image| image.manifest_digest == manifest && image.origin == origin;
        let (key, image) = {
            let ledger = self.shared.ledger.lock();
            let (key, known) = ledger.images.iter().find(|(_, known)| is_it(&known.image))?;
            (key.clone(), known.image.clone())
        };
        let held = self.hold(&image);
        let is_still_known = self.shared.ledger.lock().images.contains_key(&key);
        is_still_known.then_some((key, image, held))
    }

    /// Asks for the first layer that is not here; who may have one may have all.
    async fn check_reachable(&self, image: &Image) -> Result<(), ImageError> {
        let missing = |layer: &&Layered| !self.shared.store.has(&layer.digest);
        let Some(layer) = image.layers.iter().find(missing) else { return Ok(()) };
        let checked = self.shared.registry.check(layer, &image.origin).await;
        checked.map_err(|error| ImageError::layer(image, layer, LayerError::Blob(error.into())))
    }

    /// Sees what those of the chain's layers are that are in the store and have not been looked at.
    async fn measure_layers_of(&self, chain: &ChainId) {
        let unmeasured: Vec<LayerDigest> = {
            let ledger = self.shared.ledger.lock();
            let images = ledger.images_of(chain);
            let layers = images.iter().flat_map(|(_, image, length)| image.layers.iter().take(*length));
            let digests = layers.map(|layer| layer.digest);
            digests.filter(|layer| !ledger.measures.contains_key(layer) && self.shared.store.has(layer)).collect()
        };
        if unmeasured.is_empty() {
            return;
        }
        let images = self.clone();
        let measuring = move || {
            for layer in unmeasured {
                let _gone_meanwhile = images.measure(&layer);
            }
        };
        let _panicked_and_said_so = tokio::task::spawn_blocking(measuring).await;
    }
}

/// Where among these the chain is, which must be on top of its parent.
fn follows(chains: &[ChainId], ChainWanted { chain, parent, .. }: &ChainWanted) -> Result<usize, ChainError> {
    let at = chains.iter().position(|id| id == chain).ok_or(ChainError::NoSuchChain(*chain))?;
    let below = at.checked_sub(1).and_then(|below| chains.get(below));
    if below == parent.as_ref() { Ok(at) } else { Err(ChainError::Parent(*chain)) }
}

/// The image by its digest where that is known: a tag may have moved since containerd resolved it.
fn named(source: &ChainSource) -> Remote {
    match source.manifest {
        Some(digest) => Remote { tag: None, digest: Some(digest), ..source.image.clone() },
        None => source.image.clone(),
    }
}
