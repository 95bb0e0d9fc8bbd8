//! containerd's snapshots: the bookkeeping, the service that containerd calls, and what of an image needs no unpacking.
//!
//! `snapshots` does what the calls ask, over the `book` in memory, the `record`s in the store's database and the
//! `directories`; `service` and `status` are the edge to containerd. [`Chains`] is the seam to what can be served.

mod book;
mod chains;
mod config;
mod directories;
mod error;
mod filter;
mod labels;
mod mapped;
mod metrics;
pub mod protocol;
mod record;
mod service;
mod snapshots;
mod status;
mod version;

pub use book::{Content, Kind, Labels, Snapshot};
pub use chains::{Chains, LayerSource, NotShown, UnknownChain, Usage, Wanted};
pub use config::{Config, ScanAt};
pub use error::SnapshotError;
pub use filter::Filters;
pub use metrics::Metrics;
pub use service::{ServiceFailed, serve};
pub use snapshots::{Commit, CompareError, Compared, New, Snapshots};
pub use version::containerd_version;
