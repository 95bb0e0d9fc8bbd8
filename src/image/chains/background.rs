//! Scans that nobody waits for, as long as a claim wants them.

use std::cmp::Reverse;

use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::oneshot;

use super::ledger::{ImageKey, Ledger, Scans};
use crate::errors::with_causes;
use crate::image::{Image, ImageError, Images, Need};
use crate::sync::Arc;
use crate::sync::atomic::Ordering;

impl Images {
    /// Starts the scans of all the image's layers that are not here, unless they are under way. They are let go of when
    /// none of its chains is claimed any more.
    pub(super) fn scan_in_background(&self, key: &ImageKey) {
        let store = &self.shared.store;
        let (image, number, left) = {
            let mut ledger = self.shared.ledger.lock();
            let number = ledger.number();
            let Ledger { images, .. } = &mut *ledger;
            let Some(known) = images.get_mut(key).filter(|known| known.scans.is_none()) else { return };
            if known.image.layers.iter().all(|layer| store.has(&layer.digest)) || ledger.served_by(key).is_empty() {
                return;
            }
            let Some(known) = ledger.images.get_mut(key) else { return };
            let (keep, left) = oneshot::channel();
            known.scans = Some(Scans { number, _keep: keep });
            (known.image.clone(), number, left)
        };
        let (images, key) = (self.clone(), key.clone());
        crate::sync::spawn(async move {
            tokio::select! {
                biased;
                _dropped = left => {}
                () = images.scan_all(&image) => {
                    images.scanned(&key, number);
                    images.publish_by_itself(&image);
                }
            }
        });
    }

    /// When the pull's own calls are over: who looks into the image meanwhile does not wait for that. To the end of each, also
    /// where one fails.
    async fn scan_all(&self, image: &Arc<Image>) {
        self.shared.quiet.wait().await;
        let mut layers: Vec<_> = image.layers.iter().collect();
        layers.sort_by_key(|layer| Reverse(layer.size));
        let mut scans: FuturesUnordered<_> =
            layers.into_iter().map(|layer| self.layer(image, layer, Need::Usable)).collect();
        while let Some(scanned) = scans.next().await {
            let Err(failed) = scanned else { continue };
            let error = ImageError::from(failed);
            self.shared.failed_scans.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                image = image.reference,
                error = with_causes(error.cause()),
                "a scan in the background failed; who looks into the image starts it again"
            );
        }
    }

    fn scanned(&self, key: &ImageKey, number: u64) {
        if let Some(known) = self.shared.ledger.lock().images.get_mut(key) {
            known.scans.take_if(|scans| scans.number == number);
        }
        // A chain may have been released meanwhile.
        self.shared.work.send_replace(());
    }
}
