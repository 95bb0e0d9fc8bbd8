//! The chains that containerd may have without unpacking them: known to `image`, shown by `mounts`.

use std::path::PathBuf;

use futures::future::{BoxFuture, FutureExt as _};

use super::mounts::Mounts;
use crate::digest::ChainId;
use crate::image::{ChainError, ChainSource, ChainWanted, Images, Search};
use crate::registry::Reference;
use crate::snapshotter::{Chains, Config, LayerSource, NotShown, ScanAt, UnknownChain, Usage, Wanted};

/// Served from this node's store, under root's one mount. Clones share everything.
#[derive(Clone)]
pub struct ServedChains {
    images: Images,
    mounts: Mounts,
    search: Search,
}

impl ServedChains {
    /// Chains are shown where [`Mounts::stay`] has mounted.
    pub fn new(mounts: Mounts, config: &Config) -> Self {
        let search = Search { within: config.check_timeout(), scan: config.scan == ScanAt::Pull };
        Self { images: mounts.images().clone(), mounts, search }
    }

    async fn find(&self, wanted: &Wanted) -> Result<(), ChainError> {
        let source = wanted.source.as_ref().map(read).transpose()?;
        self.mounts.have_slots().await;
        let wanted = ChainWanted { chain: wanted.chain, parent: wanted.parent, source };
        // Nothing is waited for after the claim: who goes away meanwhile has claimed nothing.
        self.images.find_chain(&wanted, self.search).await
    }
}

/// The labels' words. A path of this machine is none of containerd's references, and nothing it should make us read.
fn read(source: &LayerSource) -> Result<ChainSource, ChainError> {
    match source.image.parse() {
        Ok(Reference::Remote(image)) => Ok(ChainSource { image, manifest: source.manifest, layer: source.layer }),
        Ok(_) => Err(ChainError::Reference("it names a place on this machine's disk".into())),
        Err(error) => Err(ChainError::Reference(error.to_string())),
    }
}

impl Chains for ServedChains {
    fn find(&self, wanted: Wanted) -> BoxFuture<'static, Option<()>> {
        let chains = self.clone();
        let finding = async move {
            let Err(cause) = chains.find(&wanted).await else { return Some(()) };
            let chain = wanted.chain;
            match &wanted.source {
                Some(LayerSource { image, layer, .. }) => {
                    tracing::warn!(image, %layer, %chain, %cause, "containerd unpacks this layer itself");
                }
                None => tracing::info!(%chain, %cause, "containerd unpacks this layer itself"),
            }
            None
        };
        finding.boxed()
    }

    fn claim(&self, chain: &ChainId) -> Result<(), UnknownChain> {
        if self.images.claim_chain(chain) { Ok(()) } else { Err(UnknownChain(*chain)) }
    }

    fn release(&self, chain: &ChainId) {
        if self.images.release_chain(chain) {
            self.mounts.hide_chain(chain);
        }
    }

    fn containerd_calls(&self) {
        self.images.containerd_calls();
    }

    fn settled(&self) {
        self.images.settled();
    }

    fn show(&self, chain: &ChainId) -> Result<PathBuf, NotShown> {
        if !self.images.is_claimed(chain) {
            return Err(UnknownChain(*chain).into());
        }
        self.mounts.show_chain(chain).map_err(|failed| {
            tracing::error!(%chain, error = %failed, "cannot show a chain");
            NotShown::Now(failed.message)
        })
    }

    fn usage(&self, chain: &ChainId) -> Usage {
        let usage = self.images.chain_usage(chain);
        Usage { bytes: usage.bytes, inodes: usage.inodes }
    }
}
