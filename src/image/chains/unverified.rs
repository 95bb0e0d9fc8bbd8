//! Chains that are shown as an index says, which nobody has compared with the diff ids. A chain is known by those, so one image
//! could make others of it that lie: whoever has other blobs, or another index, does not get to see them.

use super::ledger::Ledger;
use crate::blob::Layered;
use crate::digest::{ChainId, LayerDigest};
use crate::image::{Image, Images, Opened};
use crate::index::sources::Binding;
use crate::sync::{Arc, Weak};
use crate::view::View;

/// What an image shows where its layers are not verified: two that agree in this show the same.
pub(super) type Content = Vec<(LayerDigest, Option<Binding>)>;

/// A view that was opened with what was not verified; it counts as long as it is there.
pub(super) struct Unverified {
    content: Content,
    view: Weak<View>,
}

// === impl Images ===

impl Images {
    /// Whether images that claim to have the chain differ in blobs or indexes.
    pub(in crate::image) fn is_disputed(&self, chain: &ChainId) -> bool {
        self.shared.ledger.lock().is_disputed(chain)
    }

    /// Whether the view may be shown to all who claim the chain. One with unverified layers may if nobody says otherwise, and
    /// from then on it is remembered.
    pub(in crate::image) fn may_show(&self, chain: &ChainId, image: &Image, length: usize, opened: &Opened) -> bool {
        if opened.layers.values().all(|layer| layer.is_verified()) {
            return true;
        }
        let mut ledger = self.shared.ledger.lock();
        if ledger.is_disputed(chain) {
            return false;
        }
        let content = ledger.content(image, length);
        ledger.unverified.retain(|_, shown| shown.view.strong_count() > 0);
        ledger.unverified.insert(*chain, Unverified { content, view: Arc::downgrade(&opened.view) });
        true
    }

    /// Whether the image may be shown with the view that its chain has: not if that one shows what only another says.
    pub fn may_share(&self, image: &Image) -> bool {
        self.shared.ledger.lock().may_share(&image.chain(), image, image.layers.len())
    }
}

// === impl Ledger ===

impl Ledger {
    pub(super) fn may_share(&self, chain: &ChainId, image: &Image, length: usize) -> bool {
        let shown = self.unverified.get(chain).filter(|shown| shown.view.strong_count() > 0);
        shown.is_none_or(|shown| shown.content == self.content(image, length))
    }

    /// Whether the image's layers may come to be used as an index says.
    pub(super) fn may_be_unverified(&self, image: &Image, layer: &Layered) -> bool {
        self.believed.binding(image, layer).is_some()
    }

    fn is_disputed(&self, chain: &ChainId) -> bool {
        let of_held = self.held.values().filter_map(|held| {
            let at = held.chains.iter().position(|id| id == chain)?;
            Some(self.content(&held.image, held.image.layers.len().min(at + 1)))
        });
        let known = self.images_of(chain);
        let mut contents = known.iter().map(|(_, image, length)| self.content(image, *length)).chain(of_held);
        let Some(first) = contents.next() else { return false };
        contents.any(|other| other != first)
    }

    fn content(&self, image: &Image, length: usize) -> Content {
        image.layers.iter().take(length).map(|layer| (layer.digest, self.believed.binding(image, layer))).collect()
    }
}
