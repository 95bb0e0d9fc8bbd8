//! Chains: layers `0..=n` of an image, which containerd asks for one by one, claims, and gives back.
//!
//! A chain is known by its id, whose content follows from the diff ids alone; which image and whose blobs it is served
//! from is ours to choose. Asking for one (`find`) may take the registry, everything else is answered from memory. What
//! nobody needs any more is deleted in the background (`garbage`).

mod background;
mod find;
mod garbage;
mod ledger;
mod needs;
mod quiet;
mod unverified;
mod uses;

pub use find::{ChainError, ChainSource, ChainWanted, Search};
pub use needs::Held;

pub(super) use find::Found;
pub(super) use ledger::{ImageKey, Ledger};
pub(super) use needs::AtWork;
pub(super) use quiet::Quiet;
pub(super) use uses::{Needed, Wanting};

use bytes::Bytes;

use super::{Image, Images};
use crate::blob::Layered;
use crate::digest::{ChainId, DiffId, Digest, LayerDigest};
use crate::registry::Resolved;
use crate::store::{ImageRecord, Measure};
use crate::sync::Arc;

/// What a chain's last layer takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainUsage {
    pub bytes: u64,
    pub inodes: u64,
}

/// An image whose chains are claimed.
#[derive(Debug, Clone)]
pub struct ClaimedImage {
    pub image: Arc<Image>,
    /// Claims on any of its chains.
    pub claims: usize,
}

/// Content of a typical layer for each byte of its blob, and bytes for each of its files: what is said of one that is
/// not here. containerd asks once and shows the answer for ever.
const BYTES_FOR_BLOB_BYTE: u64 = 3;
const BYTES_FOR_INODE: u64 = 32 << 10;

/// Images with the same chain that are tried one after the other before a view cannot be opened.
const IMAGES_TRIED_MAX: usize = 4;

// === impl Image ===

impl Image {
    /// Of each prefix of its layers, the shortest first. An image without layers has one as well, that of nothing, which
    /// the specification does not name.
    pub fn chains(&self) -> Vec<ChainId> {
        let diff_ids: Vec<DiffId> = self.layers.iter().map(|layer| layer.diff_id).collect();
        let chains = ChainId::of_prefixes(&diff_ids);
        if chains.is_empty() { vec![ChainId(Digest::of(b""))] } else { chains }
    }

    /// Of all its layers.
    pub fn chain(&self) -> ChainId {
        self.chains().pop().unwrap_or(ChainId(Digest::of(b"")))
    }

    /// The last of the first `length` layers.
    fn top(&self, length: usize) -> Option<&Layered> {
        self.layers.get(length.checked_sub(1)?)
    }
}

// === impl Images ===

impl Images {
    /// One more claim on a chain that is known, as for a snapshot of an earlier process. Says whether it is.
    pub fn claim_chain(&self, chain: &ChainId) -> bool {
        let mut ledger = self.shared.ledger.lock();
        let images = ledger.images_of(chain);
        let is_here = |image: &Image, length: usize| {
            image.layers.iter().take(length).all(|layer| self.shared.store.has(&layer.digest))
        };
        let here = images.iter().find(|(_, image, length)| is_here(image, *length));
        let unclaimed = ledger.chains.get(chain).is_some_and(|chain| chain.claims == 0);
        ledger.claim_with(chain, here.map(|(key, ..)| key).filter(|_| unclaimed))
    }

    /// Gives a claim back; says whether it was the last. What is deleted is deleted later.
    pub fn release_chain(&self, chain: &ChainId) -> bool {
        let is_last = self.shared.ledger.lock().release(chain);
        if is_last {
            self.shared.work.send_replace(());
        }
        is_last
    }

    pub fn is_claimed(&self, chain: &ChainId) -> bool {
        self.shared.ledger.lock().chains.get(chain).is_some_and(|chain| chain.claims > 0)
    }

    /// containerd is at work: what nobody waits for yet waits a moment.
    pub fn containerd_calls(&self) {
        self.shared.quiet.disturb();
    }

    /// All claims of earlier processes have been made again: from now on what is not needed is deleted, what a crash left
    /// over first.
    pub fn settled(&self) {
        let is_first = {
            let mut ledger = self.shared.ledger.lock();
            ledger.pending.everything = true;
            ledger.is_settled = true;
            !std::mem::replace(&mut ledger.is_deleting, true)
        };
        if is_first {
            self.start_deleting(self.shared.work.subscribe());
        }
        self.shared.work.send_replace(());
    }

    /// The same where containerd cannot ask: unless it could before, and has snapshots whose claims are made again when it can.
    pub fn settled_without_containerd(&self) {
        if self.settle_where_nothing_is_claimed() {
            self.settled();
        }
    }

    /// Where containerd has no snapshots no claim of an earlier process is missing. Says whether none is; deletes nothing. Blocking for
    /// a moment.
    pub(super) fn settle_where_nothing_is_claimed(&self) -> bool {
        let is_unclaimed = || match self.shared.store.snapshots() {
            Ok(snapshots) => snapshots.is_empty(),
            Err(error) => {
                tracing::warn!(%error, "the snapshots in the database cannot be read: what is not needed stays");
                false
            }
        };
        let was_settled = self.shared.ledger.lock().is_settled;
        let is_settled = was_settled || is_unclaimed();
        self.shared.ledger.lock().is_settled |= is_settled;
        is_settled
    }

    /// The reference of an image that has the chain.
    pub fn name_of(&self, chain: &ChainId) -> Option<String> {
        self.shared.ledger.lock().images_of(chain).first().map(|(_, image, _)| image.reference.clone())
    }

    /// An image of this very manifest that the database has; of several, that of the reference.
    pub fn with_manifest(&self, manifest: &Digest, reference: Option<&str>) -> Option<Arc<Image>> {
        let ledger = self.shared.ledger.lock();
        let those =
            || ledger.images.values().map(|known| &known.image).filter(|image| image.manifest_digest == *manifest);
        let named = reference.and_then(|reference| those().find(|image| image.reference == reference));
        named.or_else(|| those().next()).cloned()
    }

    /// Images with different blobs or origins that have the chain, the one it is served with first.
    pub(super) fn images_that_have(&self, chain: &ChainId) -> Vec<(Arc<Image>, usize)> {
        let ledger = self.shared.ledger.lock();
        let known = ledger.images_of(chain).into_iter().map(|(_, image, length)| (image, length));
        let of_held = |held: &ledger::Holding| {
            let at = held.chains.iter().position(|id| id == chain)?;
            Some((held.image.clone(), held.image.layers.len().min(at + 1)))
        };
        let mut different: Vec<(Arc<Image>, usize)> = Vec::new();
        for (image, length) in known.chain(ledger.held.values().filter_map(of_held)) {
            let blobs = |image: &Image| image.layers.iter().take(length).map(|layer| layer.digest).collect::<Vec<_>>();
            let is_same =
                |(other, _): &(Arc<Image>, usize)| other.origin == image.origin && blobs(other) == blobs(&image);
            if different.len() < IMAGES_TRIED_MAX && !different.iter().any(is_same) {
                different.push((image, length));
            }
        }
        different
    }

    /// The chain could be opened with this image's layers: claims are on them from now on.
    pub(super) fn serve_with(&self, chain: &ChainId, image: &Arc<Image>) {
        let mut ledger = self.shared.ledger.lock();
        let key = ledger.images_of(chain).into_iter().find(|(_, known, _)| Arc::ptr_eq(known, image));
        let chain = ledger.chains.get_mut(chain).filter(|chain| chain.claims > 0);
        if let (Some((key, ..)), Some(chain)) = (key, chain) {
            chain.served = Some(key);
        }
    }

    /// What the chain's last layer takes; an estimate until it is here. The disk is looked at once a layer at most.
    pub fn chain_usage(&self, chain: &ChainId) -> ChainUsage {
        let (known, layer) = {
            let ledger = self.shared.ledger.lock();
            let layer = ledger.images_of(chain).into_iter().find_map(|(_, image, length)| image.top(length).cloned());
            let Some(layer) = layer else { return ChainUsage { bytes: 0, inodes: 0 } };
            (ledger.measures.get(&layer.digest).copied(), layer)
        };
        let measure = known.or_else(|| self.measure(&layer.digest));
        let estimate = || {
            let bytes = layer.size.saturating_mul(BYTES_FOR_BLOB_BYTE);
            ChainUsage { bytes, inodes: bytes / BYTES_FOR_INODE + 1 }
        };
        measure.map_or_else(estimate, |Measure { data_bytes, inodes, .. }| ChainUsage { bytes: data_bytes, inodes })
    }

    /// The images that containerd has chains of, by reference.
    pub fn claimed(&self) -> Vec<ClaimedImage> {
        let ledger = self.shared.ledger.lock();
        let claims = |key: &ImageKey| -> usize {
            let served = ledger.served_by(key);
            served.iter().filter_map(|id| ledger.chains.get(id)).map(|chain| chain.claims).sum()
        };
        let all = ledger
            .images
            .iter()
            .map(|(key, known)| (key, ClaimedImage { image: known.image.clone(), claims: claims(key) }));
        let mut claimed: Vec<_> = all.filter(|(_, image)| image.claims > 0).collect();
        claimed.sort_by(|a, b| a.0.cmp(b.0));
        claimed.into_iter().map(|(_, image)| image).collect()
    }

    /// Background scans that failed so far.
    pub fn failed_scans(&self) -> u64 {
        self.shared.failed_scans.load(crate::sync::atomic::Ordering::Relaxed)
    }

    /// The config of an image that is known under this key, perhaps an old one.
    pub(super) fn known_config(&self, key: &ImageKey) -> Option<Bytes> {
        let ledger = self.shared.ledger.lock();
        ledger.images.get(key).map(|known| Bytes::copy_from_slice(&known.image.config))
    }

    /// Takes the images of the database into memory. Blocking.
    pub(super) fn recall(&self) {
        let mut records = self.shared.store.images().unwrap_or_else(|error| {
            tracing::warn!(%error, "the images of the database cannot be read: their chains are not known");
            Vec::new()
        });
        // What is noted last is preferred.
        records.sort_by_key(|record| (record.kept, record.seen_at_secs));
        let mut ledger = self.shared.ledger.lock();
        for record in records {
            let key = ImageKey::new(&record.reference, &record.platform);
            let (reference, kept) = (record.reference.clone(), record.kept);
            match recalled(record) {
                Ok(image) => ledger.note(&key, &Arc::new(image), kept),
                Err(cause) => tracing::warn!(image = reference, cause, "the image's record is of no use"),
            }
        }
    }

    /// What a layer of the store is, noted for the next who asks. Blocking.
    fn measure(&self, layer: &LayerDigest) -> Option<Measure> {
        let measure = self.shared.store.measure(layer).unwrap_or_else(|error| {
            tracing::warn!(%layer, %error, "cannot look at a layer");
            None
        })?;
        self.note_measure(layer, measure);
        Some(measure)
    }

    pub(super) fn note_measure(&self, layer: &LayerDigest, measure: Measure) {
        let mut ledger = self.shared.ledger.lock();
        if !ledger.deleting.layers.contains(layer) {
            ledger.measures.insert(*layer, measure);
        }
    }
}

fn recalled(record: ImageRecord) -> Result<Image, String> {
    let reference = record.reference.parse().map_err(|error| format!("its reference: {error}"))?;
    let platform = record.platform.parse().map_err(|error| format!("its platform: {error}"))?;
    let resolved = Resolved::from_parts(
        reference,
        platform,
        record.manifest_digest,
        record.manifest.into(),
        record.config.into(),
        record.origin,
    );
    resolved.map(|resolved| Image::new(resolved, false)).map_err(|error| error.to_string())
}
