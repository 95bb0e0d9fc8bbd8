//! From a layer's digest to a layer in the store: it is there, or an index is found that the manifest binds to it, or it is
//! scanned; each once, however many want it.

use futures::future::try_join_all;

use super::beside::BesideImage;
use super::chains::AtWork;
use super::progress::LayerProgress;
use super::{Claim, Image, ImageError, ImageFailed, Images, LayerError};
use crate::blob::{Blob, Blobs as _, Layered};
use crate::digest::ChainId;
use crate::errors::with_causes;
use crate::index::scan::{Verified, scan};
use crate::index::sources::{self, Binding};
use crate::store::{Layer, Measure, Receiving, StoreError};
use crate::sync::Arc;

/// Places that are asked for one layer; each may send all of it before it is seen to be wrong.
const PLACES_MAX: usize = 4;

/// What of a layer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Any byte of it can be had, each checked against what the manifest or the layer's own digests cover.
    Usable,
    /// All of it has been here, and both its digests matched.
    Verified,
}

impl Images {
    /// A claim on the layer. The work, if there is some, goes on as long as anybody holds a claim on it.
    pub fn layer(&self, image: &Arc<Image>, layer: &Layered, need: Need) -> Claim {
        match self.binding(image, layer).filter(|_| need == Need::Usable) {
            Some(binding) => self.shared.indexing.join((layer.digest, binding), || {
                let (images, image, layer) = (self.clone(), image.clone(), layer.clone());
                async move { images.find_or_scan(&image, &layer).await }
            }),
            None => self.verified(image, layer),
        }
    }

    pub(super) async fn first_layers(
        &self,
        image: &Arc<Image>,
        length: usize,
        need: Need,
    ) -> Result<Vec<Arc<Layer>>, ImageFailed> {
        let claims = self.claims(image, length, need).into_iter();
        let tickets = claims.map(|(at, ticket)| async move { ticket.await.map(|layer| (at, layer)) });
        let mut layers = try_join_all(tickets).await?;
        layers.sort_by_key(|(at, _)| *at);
        Ok(layers.into_iter().map(|(_, layer)| layer).collect())
    }

    /// A claim on each of the image's first layers, with its place.
    fn claims(&self, image: &Arc<Image>, length: usize, need: Need) -> Vec<(usize, Claim)> {
        // The largest first: it decides when all are done.
        let mut order: Vec<usize> = (0..length).collect();
        order.sort_by_key(|at| std::cmp::Reverse(image.layers.get(*at).map_or(0, |layer| layer.size)));
        order.into_iter().filter_map(|at| Some((at, self.layer(image, image.layers.get(at)?, need)))).collect()
    }

    /// Claims on the layers that the chain is opened with first. As long as they are kept, the work on each goes on, also when the
    /// chain cannot be opened because of another.
    pub fn claim_layers(&self, chain: &ChainId) -> Vec<Claim> {
        let Some((image, length)) = self.images_that_have(chain).into_iter().next() else { return Vec::new() };
        let need = if self.is_disputed(chain) { Need::Verified } else { Need::Usable };
        self.claims(&image, length, need).into_iter().map(|(_, claim)| claim).collect()
    }

    /// The index that is used for the layer, if it is not scanned.
    pub(super) fn binding(&self, image: &Image, layer: &Layered) -> Option<Binding> {
        self.shared.believed.binding(image, layer)
    }

    async fn find_or_scan(&self, image: &Arc<Image>, layer: &Layered) -> Result<Arc<Layer>, ImageError> {
        let found = self.find_index(image, layer).await;
        match found.map_err(|source| ImageError::layer(image, layer, source))? {
            Some(found) => Ok(found),
            None => Ok(self.verified(image, layer).await?),
        }
    }

    /// The layer with the index that is bound to it, or as it is in the store already. `None`: it must be scanned.
    async fn find_index(&self, image: &Image, layer: &Layered) -> Result<Option<Arc<Layer>>, LayerError> {
        let at_work = self.at_work(layer.digest).await;
        if let Some(here) = self.shared.store.layer(&layer.digest)? {
            return self.use_of(here, image, layer);
        }
        if self.shared.store.quarantined(&layer.digest).is_some() {
            return Ok(None);
        }
        let blob = self.shared.registry.open(layer.digest, layer.size, image.origin.clone()).await?;
        let started = std::time::Instant::now();
        let (store, digest) = (self.shared.store.clone(), layer.digest);
        let receiving: Receiving = off_thread(move || store.receive(&digest)).await??;
        let limits = self.shared.limits.lock().clone();
        let beside = BesideImage { images: self, image };
        let beliefs = self.shared.believed.beside(image);
        let indexed = match sources::read(layer, blob.as_ref(), &beside, &beliefs, receiving.parts(), &limits).await {
            Ok(Some(indexed)) => indexed,
            Ok(None) => return Ok(None),
            Err(declined) => {
                let cause = with_causes(&declined);
                tracing::warn!(layer = %layer.digest, image = image.reference, cause, "the layer is scanned");
                self.shared.declines.note(layer.digest, &cause);
                return Ok(None);
            }
        };
        let (origin, images) = (image.origin.clone(), self.clone());
        let finish = move || {
            let finished = receiving.finish_indexed(&indexed, origin)?;
            images.note_measure(&finished.digest(), Measure::of(&finished));
            drop(at_work);
            Ok::<_, StoreError>(finished)
        };
        let finished = off_thread(finish).await??;
        tracing::info!(
            layer = %layer.digest, image = image.reference, bytes = layer.size, data_bytes = finished.data_bytes(),
            index = %finished.frames().heading().provenance(), seconds = started.elapsed().as_secs_f64(), "index of layer found"
        );
        self.use_of(finished, image, layer)
    }

    /// The layer of the store, if it can be used for what the image says. `None`: it must be scanned.
    fn use_of(&self, here: Arc<Layer>, image: &Image, says: &Layered) -> Result<Option<Arc<Layer>>, LayerError> {
        if !here.is_verified() && !self.is_bound(&here, image, says) {
            return Ok(None);
        }
        check_content(&here, says)?;
        self.note_measure(&here.digest(), Measure::of(&here));
        Ok(Some(here))
    }

    /// Whether the layer's index counts for the image: its own manifest binds it, it is signed, or it lies beside this very image
    /// and that is enough.
    fn is_bound(&self, layer: &Layer, image: &Image, says: &Layered) -> bool {
        self.shared.believed.believes(layer.frames().heading(), image, says)
    }

    fn verified(&self, image: &Arc<Image>, layer: &Layered) -> Claim {
        self.shared.scanning.join(layer.digest, || {
            let (images, image, layer) = (self.clone(), image.clone(), layer.clone());
            async move {
                let made = images.make_usable(&image, &layer).await;
                made.map_err(|source| ImageError::layer(&image, &layer, source))
            }
        })
    }

    async fn make_usable(&self, image: &Image, layer: &Layered) -> Result<Arc<Layer>, LayerError> {
        let made = self.have(image, layer).await;
        self.shared.refusals.note(layer, made.as_ref().err());
        made
    }

    async fn have(&self, image: &Image, layer: &Layered) -> Result<Arc<Layer>, LayerError> {
        let at_work = self.at_work(layer.digest).await;
        if let Some(here) = self.here(layer)? {
            self.note_measure(&layer.digest, Measure::of(&here));
            return Ok(here);
        }
        let progress = self.shared.progresses.lock().begin(layer);
        let scanned = self.scan(image, layer, &progress, at_work).await;
        // Not reached when the last claim is dropped: `progress` itself notices that.
        progress.end(scanned.as_ref().err());
        scanned
    }

    /// The layer, if the store has it verified. Two images may name one blob and disagree on what is in it: one of them lies.
    fn here(&self, layer: &Layered) -> Result<Option<Arc<Layer>>, LayerError> {
        let here = self.shared.store.layer(&layer.digest)?.filter(|here| here.is_verified());
        here.as_ref().map_or(Ok(()), |here| check_content(here, layer))?;
        Ok(here)
    }

    async fn scan(
        &self,
        image: &Image,
        layer: &Layered,
        progress: &LayerProgress,
        at_work: Arc<AtWork>,
    ) -> Result<Arc<Layer>, LayerError> {
        let _place = self.shared.places.acquire().await.map_err(|_| LayerError::Stopping)?;
        progress.start();
        let blob = self.shared.registry.open(layer.digest, layer.size, image.origin.clone()).await?;
        let started = std::time::Instant::now();
        let (receiving, verified) = self.receive(layer, blob.as_ref(), progress).await?;
        let origin = image.origin.clone();
        let images = self.clone();
        // It goes on when nobody waits for it any more, and then the layer is looked at again: somebody must want it.
        let finish = move || {
            let finished = receiving.finish(verified, origin)?;
            images.note_measure(&finished.digest(), Measure::of(&finished));
            drop(at_work);
            Ok::<_, StoreError>(finished)
        };
        let finished = off_thread(finish).await??;
        tracing::info!(
            layer = %layer.digest, image = image.reference, bytes = layer.size, data_bytes = finished.data_bytes(),
            seconds = started.elapsed().as_secs_f64(), "layer scanned"
        );
        Ok(finished)
    }

    /// Scans the blob; again from the next place, if there is one, where a mirror's bytes were not the layer's.
    async fn receive(
        &self,
        layer: &Layered,
        blob: &dyn Blob,
        progress: &LayerProgress,
    ) -> Result<(Receiving, Verified), LayerError> {
        let mut places = 1;
        loop {
            let (store, digest) = (self.shared.store.clone(), layer.digest);
            let receiving: Receiving = off_thread(move || store.receive(&digest)).await??;
            let limits = self.shared.limits.lock().clone();
            match scan(layer, blob, receiving.parts(), &limits, progress.counters()).await {
                Ok(verified) => return Ok((receiving, verified)),
                Err(error) if places < PLACES_MAX && error.is_of_the_place() && blob.was_wrong() => {
                    tracing::warn!(layer = %layer.digest, error = with_causes(&error), "the layer is fetched from another place");
                    places += 1;
                    progress.start();
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether the layer's content is what an image says.
pub(super) fn check_content(layer: &Layer, says: &Layered) -> Result<(), LayerError> {
    if layer.diff_id() == says.diff_id {
        return Ok(());
    }
    Err(LayerError::OtherContent { says: says.diff_id, is: layer.diff_id() })
}

/// Runs what waits for the disk where it holds nobody up.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, LayerError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| LayerError::Stopping)
}
