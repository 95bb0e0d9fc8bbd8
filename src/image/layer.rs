//! From a layer's digest to a layer in the store: it is there, or it is scanned, once however many want it.

use super::chains::AtWork;
use super::progress::LayerProgress;
use super::{Image, ImageError, Images, LayerError};
use crate::blob::{Blob, BlobError, Blobs as _, Layered};
use crate::errors::with_causes;
use crate::flight::Ticket;
use crate::index::scan::{ScanError, Verified, scan};
use crate::store::{Layer, Measure, Receiving, StoreError};
use crate::sync::Arc;

/// Places that are asked for one layer; each may send all of it before it is seen to be wrong.
const PLACES_MAX: usize = 4;

impl Images {
    /// A claim on the layer. The scan, if one is needed, goes on as long as anybody holds a claim on it.
    pub fn layer(&self, image: &Arc<Image>, layer: &Layered) -> Ticket<Arc<Layer>, ImageError> {
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

    /// The layer, if the store has it. Two images may name one blob and disagree on what is in it: one of them lies.
    fn here(&self, layer: &Layered) -> Result<Option<Arc<Layer>>, LayerError> {
        let here = self.shared.store.layer(&layer.digest)?;
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
                Err(error) if places < PLACES_MAX && is_of_the_place(&error) && blob.was_wrong() => {
                    tracing::warn!(layer = %layer.digest, error = with_causes(&error), "the layer is fetched from another place");
                    places += 1;
                    progress.start();
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether it was the place the bytes came from that failed, and not the layer.
fn is_of_the_place(error: &ScanError) -> bool {
    match error {
        ScanError::TooShort { .. } | ScanError::TooLong { .. } | ScanError::BlobDigest { .. } => true,
        ScanError::Blob { source, .. } => matches!(source, BlobError::Size { .. }),
        _ => false,
    }
}

/// Whether the layer's verified content is what an image says.
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
