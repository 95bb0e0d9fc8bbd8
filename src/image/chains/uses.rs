//! Who uses which layers, for the cache: in use, pinned, or of no use to anybody.

use std::collections::HashSet;

use super::ledger::{ImageKey, Ledger};
use crate::blob::{Layered, Origin};
use crate::digest::{ChainId, LayerDigest};
use crate::image::{Image, Images};
use crate::store::{Layer, Measure};
use crate::sync::Arc;

/// A layer that somebody uses, as an image speaks of it.
#[derive(Debug, Clone)]
pub(in crate::image) struct Wanting {
    pub(in crate::image) layer: Layered,
}

/// Why an image cannot be taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::image) enum Needed {
    Unknown,
    Pinned,
    /// By a mount or a call.
    Held,
    /// Containerd has snapshots of it.
    Claimed,
    /// It may have.
    Unsettled,
}

impl Images {
    /// Layers that are mounted or claimed, each once.
    pub(in crate::image) fn wanting(&self) -> Vec<Wanting> {
        self.shared.ledger.lock().wanting()
    }

    pub(in crate::image) fn is_in_use(&self, layer: &LayerDigest) -> bool {
        self.shared.ledger.lock().in_use().contains(layer)
    }
}

impl Ledger {
    /// More is known of the layer than when it came.
    pub(in crate::image) fn measure_anew(&mut self, layer: &Layer) {
        if let Some(measure) = self.measures.get_mut(&layer.digest()) {
            *measure = Measure::of(layer);
        }
    }

    /// The layer is not here any more.
    pub(in crate::image) fn forget_measure(&mut self, layer: &LayerDigest) {
        self.measures.remove(layer);
    }

    fn wanting(&self) -> Vec<Wanting> {
        let held = self.held.values().map(|held| (held.image.clone(), held.image.layers.len()));
        let claimed = self.chains.values().filter(|chain| chain.claims > 0).filter_map(|chain| {
            let known = self.images.get(chain.served.as_ref()?)?;
            Some((known.image.clone(), chain.length))
        });
        let mut seen = HashSet::new();
        let mut wanting = Vec::new();
        for (image, length) in held.chain(claimed) {
            let layers = image.layers.iter().take(length).filter(|layer| seen.insert(layer.digest));
            wanting.extend(layers.map(|layer| Wanting { layer: layer.clone() }));
        }
        wanting
    }

    pub(in crate::image) fn image(&self, key: &ImageKey) -> Option<Arc<Image>> {
        self.images.get(key).map(|known| known.image.clone())
    }

    pub(in crate::image) fn all_images(&self) -> Vec<Arc<Image>> {
        self.images.values().map(|known| known.image.clone()).collect()
    }

    /// Layers that are mounted, claimed, held by a call, or on their way.
    pub(in crate::image) fn in_use(&self) -> HashSet<LayerDigest> {
        let mut in_use: HashSet<LayerDigest> = self.at_work.keys().copied().collect();
        in_use.extend(self.held.values().flat_map(|held| digests(&held.image, held.image.layers.len())));
        for chain in self.chains.values().filter(|chain| chain.claims > 0) {
            let served = chain.served.as_ref().and_then(|key| self.images.get(key));
            in_use.extend(served.into_iter().flat_map(|known| digests(&known.image, chain.length)));
        }
        in_use
    }

    /// Where the images that somebody wants say that they have the layer. What was only looked at says nothing.
    pub(in crate::image) fn origins_of(&self, layer: &LayerDigest) -> Vec<Origin> {
        let is_claimed = |id: &ChainId| self.chains.get(id).is_some_and(|chain| chain.claims > 0);
        let wanted = self.images.iter().filter(|(_, known)| {
            known.image.place_of(*layer).is_some()
                && (known.kept || known.chains.iter().any(is_claimed) || self.is_held(&known.image))
        });
        let mut wanted: Vec<_> = wanted.collect();
        wanted.sort_by_key(|(key, known)| (!known.kept, *key));
        wanted.into_iter().map(|(_, known)| known.image.origin.clone()).collect()
    }

    /// Layers of the images that pinned names stand for now.
    pub(in crate::image) fn pinned(&self) -> HashSet<LayerDigest> {
        let images = self.pins.iter().filter_map(|key| self.images.get(key));
        images.flat_map(|known| digests(&known.image, known.image.layers.len())).collect()
    }

    /// Takes out, of the layers that are here, those that nothing needs. Until [`Ledger::put_back`] nobody takes them for there.
    pub(in crate::image) fn take_unreferenced(&mut self, here: &HashSet<LayerDigest>) -> Vec<LayerDigest> {
        let mut needed = self.needed();
        needed.extend(self.pinned());
        // Claims of earlier processes are not all made again before it is settled: an image that is known may have one.
        let known = self.images.values().filter(|_| !self.is_settled);
        needed.extend(known.flat_map(|known| digests(&known.image, known.image.layers.len())));
        let mut taken: Vec<_> = here.difference(&needed).copied().collect();
        taken.retain(|layer| self.deleting.layers.insert(*layer));
        taken.sort();
        self.measures.retain(|layer, _| !self.deleting.layers.contains(layer));
        taken
    }

    /// Takes the image out, if nobody needs it, and those of its layers that are here and that nothing else needs: as with
    /// [`Ledger::take_unreferenced`] until [`Ledger::put_back`]. Its record is the caller's to remove.
    pub(in crate::image) fn take_image(
        &mut self,
        key: &ImageKey,
        here: &HashSet<LayerDigest>,
    ) -> Result<Vec<LayerDigest>, Needed> {
        let image = self.image(key).ok_or(Needed::Unknown)?;
        let is_same =
            |held: &Arc<Image>| *held.reference == *key.reference && held.manifest_digest == image.manifest_digest;
        if self.pins.contains(key) {
            return Err(Needed::Pinned);
        }
        if self.writing.contains(key) || self.held.values().any(|held| is_same(&held.image)) {
            return Err(Needed::Held);
        }
        if !self.is_settled {
            return Err(Needed::Unsettled);
        }
        self.serve_with_others(key);
        if !self.served_by(key).is_empty() {
            return Err(Needed::Claimed);
        }
        self.forget(key);
        self.deleting.images.insert(key.clone());
        let own: HashSet<LayerDigest> =
            digests(&image, image.layers.len()).filter(|layer| here.contains(layer)).collect();
        Ok(self.take_unreferenced(&own))
    }

    /// Takes out the images that nobody asked for by name and nothing needs.
    pub(in crate::image) fn take_unreferenced_images(&mut self) -> Vec<ImageKey> {
        let is_settled = self.is_settled;
        let unneeded: Vec<ImageKey> =
            self.images.keys().filter(|key| is_settled && self.is_unneeded(key)).cloned().collect();
        for key in &unneeded {
            self.forget(key);
            self.deleting.images.insert(key.clone());
        }
        unneeded
    }

    /// The layer has been removed, or could not be.
    pub(in crate::image) fn put_back(&mut self, layer: &LayerDigest) {
        self.deleting.layers.remove(layer);
    }
}

fn digests(image: &Image, length: usize) -> impl Iterator<Item = LayerDigest> {
    image.layers.iter().take(length).map(|layer| layer.digest)
}
