//! A view whose layers are made usable when somebody first looks into it.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt as _};

use super::Mounts;
use crate::digest::ChainId;
use crate::errors::with_causes;
use crate::flight::{Failed, Flight};
use crate::fuse::{Provide, Ready, Unavailable};
use crate::image::{ImageError, ImageFailed, Images, Opened};
use crate::view::ViewSlot;

pub(super) struct Lazily {
    images: Images,
    chain: ChainId,
    /// What the log calls it.
    name: String,
    slot: ViewSlot,
    /// Told what the kernel is about to see. They show this view, so they are not held by it.
    mounts: Weak<super::Shared>,
    /// So that a failure is logged once and not by each who waits.
    opening: Flight<(), Arc<Ready>, Unavailable>,
}

/// The pause between tries doubles up to a bound that somebody who waits still takes for soon.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);

// === impl Lazily ===

impl Lazily {
    pub(super) fn new(mounts: &Mounts, chain: ChainId, name: String, slot: ViewSlot) -> Self {
        let (images, mounts) = (mounts.images().clone(), Arc::downgrade(&mounts.shared));
        Self { images, chain, name, slot, mounts, opening: Flight::new() }
    }
}

impl Provide for Lazily {
    fn view(&self) -> BoxFuture<'static, Result<Arc<Ready>, Unavailable>> {
        let ticket = self.opening.join((), || {
            let (images, chain, name, slot) = (self.images.clone(), self.chain, self.name.clone(), self.slot);
            let mounts = self.mounts.clone();
            async move {
                let opened = open_patiently(&images, chain, slot, &name).await.map_err(|error| {
                    let text = with_causes(error.cause());
                    tracing::error!(image = name, %chain, error = text, "readers get EIO");
                    Unavailable(text.into())
                })?;
                if let Some(shared) = mounts.upgrade() {
                    Mounts { shared }.note_loaded(slot, opened.layers.keys().copied().collect());
                }
                Ok(Arc::new(Ready { view: opened.view, layers: opened.layers }))
            }
        });
        let unavailable = |failed: Failed<Unavailable>| Unavailable(failed.to_string().into());
        let waiting = self.images.wait_for(self.chain);
        let waited = move |ready: Result<_, _>| {
            drop(waiting);
            ready.map_err(unavailable)
        };
        ticket.map(waited).boxed()
    }
}

/// Opens the chain. While what a layer is made of does not come, or comes damaged, it is tried again, for as long as a read may wait.
async fn open_patiently(images: &Images, chain: ChainId, slot: ViewSlot, name: &str) -> Result<Opened, ImageError> {
    let patience = Duration::from_secs(images.store().fetch_config().outage_secs);
    let (began, mut pause) = (Instant::now(), FIRST_PAUSE);
    // Claims of the next try are there before those of the last go: a layer that comes is not begun anew because another does not.
    let mut _claims = Vec::new();
    loop {
        _claims = images.claim_layers(&chain);
        let failed: ImageFailed = match images.open_chain(chain, slot).await {
            Ok(opened) => return Ok(opened),
            Err(failed) => failed,
        };
        let (error, left) = (ImageError::from(failed), patience.saturating_sub(began.elapsed()));
        if left.is_zero() || !error.may_pass() {
            return Err(error);
        }
        tracing::warn!(image = name, %chain, error = with_causes(error.cause()), patience_secs = left.as_secs(), "its readers wait");
        tokio::time::sleep(pause.min(left)).await;
        pause = PAUSE_MAX.min(pause * 2);
    }
}
