//! The seam between the snapshots that containerd keeps and the chains that oncefs can serve without unpacking.

use std::path::PathBuf;

use futures::future::BoxFuture;

use crate::digest::{ChainId, Digest, LayerDigest};

/// The layer that containerd is about to unpack, as the labels of its Prepare tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The chain that ends with the layer.
    pub chain: ChainId,
    /// The chain below it; `None` for an image's first layer. Labels that do not fit to it are not believed.
    pub parent: Option<ChainId>,
    /// Where the layer would come from; `None` where the labels do not say.
    pub source: Option<LayerSource>,
}

/// An image that containerd pulls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerSource {
    /// The reference as it was pulled.
    pub image: String,
    /// Of the platform's manifest; what the reference names is taken where it is not said.
    pub manifest: Option<Digest>,
    pub layer: LayerDigest,
}

/// What a layer of a chain takes on disk, when all of it is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub bytes: u64,
    pub inodes: u64,
}

/// Nobody knows this chain (any more).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("chain {0} is not known here: its image was removed, or the database was lost")]
pub struct UnknownChain(pub ChainId);

/// Why a chain's directory cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotShown {
    #[error("{0}; remove it and pull the image again")]
    Unknown(#[from] UnknownChain),
    /// With the cause. It may be shown later.
    #[error("its files cannot be shown now: {0}")]
    Now(String),
}

/// Chains that can be served without being unpacked. Each remote snapshot holds one claim on its chain; what no claim
/// needs may be deleted.
pub trait Chains: Send + Sync + 'static {
    /// Claims the chain if it can be served. From memory where the chain is known; otherwise the registry is asked, once for all
    /// layers of an image, and for a few seconds at most. Starts what makes the layers usable, and does not wait for it.
    /// `None`, with the reason in the log, means: unpack it as usual.
    fn find(&self, wanted: Wanted) -> BoxFuture<'static, Option<()>>;

    /// One more claim on a chain that is known, as for a snapshot that was there when the daemon started.
    fn claim(&self, chain: &ChainId) -> Result<(), UnknownChain>;

    /// Gives a claim back. Returns at once; what is deleted is deleted later.
    fn release(&self, chain: &ChainId);

    /// containerd calls: what is done in the background may step aside.
    fn containerd_calls(&self);

    /// All claims of earlier processes have been made again: what is not claimed by now is left over from a crash.
    fn settled(&self);

    /// The directory where the chain's merged tree is shown as long as it is claimed. From memory.
    fn show(&self, chain: &ChainId) -> Result<PathBuf, NotShown>;

    /// Of the chain's last layer. From memory; an estimate until the layer is here.
    fn usage(&self, chain: &ChainId) -> Usage;
}
