//! A view whose layers are made usable when somebody first looks into it.

use std::sync::{Arc, Weak};

use futures::future::{BoxFuture, FutureExt as _};

use super::Mounts;
use crate::digest::ChainId;
use crate::errors::with_causes;
use crate::flight::{Failed, Flight};
use crate::fuse::{Provide, Ready, Unavailable};
use crate::image::{ImageError, Images};
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
                let opened = images.open_chain(chain, slot).await.map_err(|failed| {
                    let error = ImageError::from(failed);
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
