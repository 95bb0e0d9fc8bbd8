//! Who needs what: the images that are known, the chains of their layers, and the claims on both.
//!
//! In memory alone and without a wait, all of it behind one lock: what the disk and the network have to say comes in from
//! outside. `garbage` decides from it what nobody needs any more.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::unverified::Unverified;
use crate::blob::{Layered, Origin};
use crate::digest::{ChainId, Digest, LayerDigest};
use crate::image::Image;
use crate::image::believed::Believed;
use crate::store::Measure;
use crate::sync::Arc;

/// What an image's record is found by: its reference, and the platform that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::image) struct ImageKey {
    pub(in crate::image) reference: Arc<str>,
    pub(in crate::image) platform: Arc<str>,
}

/// An image whose record is in the database.
pub(super) struct Known {
    pub(super) image: Arc<Image>,
    pub(super) chains: Vec<ChainId>,
    /// A user asked for it.
    pub(super) kept: bool,
    /// When the registry last said that its layers may be had.
    pub(super) checked: Option<Instant>,
    /// Its scans in the background; dropping this lets go of them.
    pub(super) scans: Option<Scans>,
}

/// Scans in the background go on as long as this is kept.
pub(super) struct Scans {
    pub(super) number: u64,
    pub(super) _keep: oneshot::Sender<()>,
}

/// Layers `0..length` of one or several images.
pub(super) struct Chain {
    pub(super) length: usize,
    /// The latest first.
    pub(super) images: Vec<ImageKey>,
    /// Whose layers the claims are on, if there are any: the blobs of another image's may differ, as one tar can be packed in many ways.
    pub(super) served: Option<ImageKey>,
    pub(super) claims: usize,
}

#[derive(Default)]
pub(in crate::image) struct Ledger {
    pub(super) images: HashMap<ImageKey, Known>,
    pub(super) chains: HashMap<ChainId, Chain>,
    /// Images that mounts and calls hold on to, whatever becomes of their records.
    pub(super) held: HashMap<u64, Holding>,
    /// Names whose images stay in the cache.
    pub(in crate::image) pins: BTreeSet<ImageKey>,
    /// Layers that somebody waits for, and how many flights deal with each.
    pub(super) at_work: HashMap<LayerDigest, usize>,
    /// Records that are being written.
    pub(super) writing: HashSet<ImageKey>,
    pub(in crate::image) deleting: Deleting,
    pub(super) pending: Pending,
    /// All claims of earlier processes have been made again.
    pub(super) is_settled: bool,
    /// What is not needed is deleted in the background.
    pub(super) is_deleting: bool,
    /// What layers of the store are.
    pub(super) measures: HashMap<LayerDigest, Measure>,
    /// What is shown of chains, where it is not what a scan has found.
    pub(super) unverified: HashMap<ChainId, Unverified>,
    pub(super) believed: Believed,
    failures: HashMap<String, (Instant, Arc<str>)>,
    last_number: u64,
}

/// An image that somebody holds on to.
pub(super) struct Holding {
    pub(super) image: Arc<Image>,
    pub(super) chains: Vec<ChainId>,
}

/// What is on its way out, and must not be taken for there.
#[derive(Default)]
pub(in crate::image) struct Deleting {
    pub(super) layers: HashSet<LayerDigest>,
    pub(in crate::image) images: HashSet<ImageKey>,
}

/// What may not be needed any more; it is looked at in the background.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) chains: HashSet<ChainId>,
    pub(super) images: Vec<Holding>,
    pub(super) layers: HashSet<LayerDigest>,
    pub(super) everything: bool,
}

/// How long it counts that a registry said that an image may be had: the finds of one pull come within seconds.
const CHECK_LASTS: Duration = Duration::from_secs(60);

/// How long all who want an image share that it could not be had. The layers of one pull are asked for one after the
/// other, and must not each wait for the same dead registry.
const FAILURE_LASTS: Duration = Duration::from_secs(10);

// === impl Known ===

impl Known {
    pub(super) fn was_checked(&self) -> bool {
        self.checked.is_some_and(|checked| checked.elapsed() < CHECK_LASTS)
    }
}

// === impl Ledger ===

impl Ledger {
    pub(in crate::image) fn new(believed: Believed) -> Self {
        Self { believed, ..Self::default() }
    }

    /// A number that nothing else here has.
    pub(super) fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Notes an image whose record is in the database under this key. Its chains are served with it from now on, if nobody
    /// has a claim on them yet.
    pub(in crate::image) fn note(&mut self, key: &ImageKey, image: &Arc<Image>, kept: bool) {
        let before = match self.images.get(key) {
            Some(known) if known.image.manifest_digest == image.manifest_digest => self.images.remove(key),
            Some(_) => {
                self.forget(key);
                None
            }
            None => None,
        };
        let fresh = || Known { image: image.clone(), chains: image.chains(), kept, checked: None, scans: None };
        let mut known = before.unwrap_or_else(fresh);
        known.kept |= kept;
        for (at, id) in known.chains.iter().enumerate() {
            let length = image.layers.len().min(at + 1);
            let fresh = || Chain { length, images: Vec::new(), served: None, claims: 0 };
            let images = &mut self.chains.entry(*id).or_insert_with(fresh).images;
            images.retain(|other| other != key);
            images.insert(0, key.clone());
        }
        self.images.insert(key.clone(), known);
    }

    /// The image's record has moved to another key, since `key` stands for a new image.
    pub(in crate::image) fn rename(&mut self, key: &ImageKey, to: &ImageKey) {
        let Some(known) = self.images.get(key) else { return };
        let (image, served) = (known.image.clone(), self.served_by(key));
        // The new one first: a chain that is claimed is not left without an image.
        self.note(to, &image, false);
        for id in served {
            if let Some(chain) = self.chains.get_mut(&id) {
                chain.served = Some(to.clone());
            }
        }
        self.forget(key);
    }

    /// The chains that are claimed, and served with this image's layers.
    pub(super) fn served_by(&self, key: &ImageKey) -> Vec<ChainId> {
        let Some(known) = self.images.get(key) else { return Vec::new() };
        let is_served = |id: &&ChainId| {
            self.chains.get(id).is_some_and(|chain| chain.claims > 0 && chain.served.as_ref() == Some(key))
        };
        known.chains.iter().filter(is_served).copied().collect()
    }

    /// Takes an image out. Chains that nothing knows any more go with it.
    pub(super) fn forget(&mut self, key: &ImageKey) {
        let Some(known) = self.images.remove(key) else { return };
        for id in known.chains {
            let Some(chain) = self.chains.get_mut(&id) else { continue };
            chain.images.retain(|other| other != key);
            chain.served.take_if(|served| served == key);
            if chain.images.is_empty() && chain.claims == 0 {
                self.chains.remove(&id);
            }
        }
    }

    /// The images that have the chain, the one it is served with first.
    pub(super) fn images_of(&self, id: &ChainId) -> Vec<(ImageKey, Arc<Image>, usize)> {
        let Some(chain) = self.chains.get(id) else { return Vec::new() };
        let others = chain.images.iter().filter(|key| chain.served.as_ref() != Some(*key));
        let keys = chain.served.iter().chain(others);
        keys.filter_map(|key| Some((key.clone(), self.images.get(key)?.image.clone(), chain.length))).collect()
    }

    /// Whether the store has the layer, its content is what the image says, and nobody is removing it. A layer that has not
    /// been measured is not counted.
    pub(super) fn is_here(&self, layer: &Layered, in_store: impl Fn(&LayerDigest) -> bool) -> bool {
        let measured = self.measures.get(&layer.digest);
        measured.is_some_and(|measure| measure.diff_id == Some(layer.diff_id))
            && !self.deleting.layers.contains(&layer.digest)
            && in_store(&layer.digest)
    }

    /// Claims the chain if all its layers are here, or if the source names an image that is known to be reachable, or whose
    /// layers are on their way. Gives the image, and whether all layers are here.
    pub(super) fn claim_if_usable(
        &mut self,
        id: &ChainId,
        source: Option<(&LayerDigest, &Origin, Option<&Digest>)>,
        in_store: impl Fn(&LayerDigest) -> bool,
    ) -> Option<(ImageKey, bool)> {
        let images = self.images_of(id);
        let all =
            |image: &Image, length: usize, is: &dyn Fn(&Layered) -> bool| image.layers.iter().take(length).all(is);
        let is_here = |layer: &Layered| self.is_here(layer, &in_store);
        let is_coming = |layer: &Layered| is_here(layer) || self.at_work.contains_key(&layer.digest);
        let here = images.iter().find(|(_, image, length)| all(image, *length, &is_here));
        let is_vouched_for = |key: &ImageKey, image: &Image, length: usize| {
            let Some((layer, origin, manifest)) = source else { return false };
            let is_checked = self.images.get(key).is_some_and(Known::was_checked)
                && image.origin == *origin
                && manifest.is_none_or(|manifest| *manifest == image.manifest_digest);
            image.top(length).is_some_and(|top| top.digest == *layer) && (is_checked || all(image, length, &is_coming))
        };
        // Of a client that says nothing, what another has is as good: its labels were believed. But not so if they are all
        // that says what is in the layers.
        let may_lie = |image: &Image, layer: &Layered| !is_here(layer) && self.may_be_unverified(image, layer);
        let is_claimed = self.chains.get(id).is_some_and(|chain| chain.claims > 0 && source.is_none())
            && images.first().is_some_and(|(_, image, length)| {
                !image.layers.iter().take(*length).any(|layer| may_lie(image, layer))
            });
        let found = match here {
            Some((key, ..)) => (key.clone(), true),
            None if is_claimed => (images.first()?.0.clone(), false),
            None => (images.iter().find(|(key, image, length)| is_vouched_for(key, image, *length))?.0.clone(), false),
        };
        self.claim_with(id, Some(&found.0)).then_some(found)
    }

    /// One more claim on a chain that is known, served with the image of this key from now on if one is given. False if the
    /// chain is shown as only another image says.
    pub(super) fn claim_with(&mut self, id: &ChainId, key: Option<&ImageKey>) -> bool {
        let key = key.filter(|key| self.images.contains_key(key));
        let image = key.and_then(|key| self.images.get(key)).map(|known| known.image.clone());
        let length = self.chains.get(id).map_or(0, |chain| chain.length);
        if image.is_some_and(|image| !self.may_share(id, &image, length)) {
            return false;
        }
        let Some(chain) = self.chains.get_mut(id) else { return false };
        chain.claims += 1;
        chain.served = key.cloned().or_else(|| chain.served.take()).or_else(|| chain.images.first().cloned());
        true
    }

    /// Gives a claim back; says whether it was the last. Scans that nobody wants any more are let go of.
    pub(super) fn release(&mut self, id: &ChainId) -> bool {
        let Some(chain) = self.chains.get_mut(id).filter(|chain| chain.claims > 0) else {
            tracing::warn!(chain = %id, "a chain was released that nobody had claimed");
            return false;
        };
        chain.claims -= 1;
        if chain.claims > 0 {
            return false;
        }
        chain.served = None;
        let keys = chain.images.clone();
        if self.is_settled {
            self.pending.chains.insert(*id);
        }
        for key in keys {
            let is_unclaimed = self.served_by(&key).is_empty();
            if let Some(known) = self.images.get_mut(&key).filter(|_| is_unclaimed) {
                known.scans = None;
            }
        }
        true
    }

    /// Whether a mount or a call holds on to this image.
    pub(super) fn is_held(&self, image: &Image) -> bool {
        self.held
            .values()
            .any(|held| held.image.manifest_digest == image.manifest_digest && held.image.origin == image.origin)
    }

    /// Why the image could not be had a moment ago, if it could not.
    pub(super) fn failure(&self, image: &str) -> Option<Arc<str>> {
        let (at, cause) = self.failures.get(image)?;
        (at.elapsed() < FAILURE_LASTS).then(|| cause.clone())
    }

    pub(super) fn failed(&mut self, image: &str, cause: &str) {
        self.failures.retain(|_, (at, _)| at.elapsed() < FAILURE_LASTS);
        self.failures.insert(image.to_owned(), (Instant::now(), cause.into()));
    }
}

// === impl ImageKey ===

impl ImageKey {
    pub(in crate::image) fn new(reference: &str, platform: &str) -> Self {
        Self { reference: reference.into(), platform: platform.into() }
    }
}
