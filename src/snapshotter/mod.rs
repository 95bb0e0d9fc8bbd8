//! containerd's snapshots: the bookkeeping, the service that containerd calls, and what of an image needs no unpacking.

mod chains;
pub mod protocol;

pub use chains::{Chains, LayerSource, UnknownChain, Usage, Wanted};
