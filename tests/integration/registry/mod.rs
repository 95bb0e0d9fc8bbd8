//! Registries as they are and as they should not be: a scripted one for every fault, Debian's for real life.

mod answers;
mod blobs;
mod contract;
mod documents;
mod local;
mod login;
mod mirrors;
mod pushing;
mod real;
mod referrers;
mod reloading;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use oncefs::blob::{Blob, BlobError, Blobs as _, Origin};
use oncefs::errors::with_causes;
use oncefs::registry::{Config, Platform, Reference, Registry, RegistryError, Resolved};

use crate::support::sample::Sample;

/// Short pauses: what is waited for here is this machine, which may have other things to do.
fn config() -> Config {
    Config { connect_timeout_secs: 30, retries: 3, retry_deadline_secs: 30, retry_pause_ms: 10, ..Config::default() }
}

/// Who stands still for a second is given up.
fn impatient() -> Config {
    Config { response_timeout_secs: 2, idle_timeout_secs: 1, ..config() }
}

fn client(config: Config) -> Registry {
    Registry::new(config).unwrap()
}

async fn resolve(registry: &Registry, image: &Reference) -> Result<Resolved, RegistryError> {
    let amd64: Platform = "linux/amd64".parse().unwrap();
    let resolving = registry.resolve(image, &amd64);
    tokio::time::timeout(Duration::from_secs(60), resolving).await.expect("nothing takes a minute")
}

async fn refused(registry: &Registry, image: &Reference) -> String {
    with_causes(&resolve(registry, image).await.unwrap_err())
}

async fn open(registry: &Registry, image: &Sample, n: usize, origin: Origin) -> Arc<dyn Blob> {
    registry.open(image.layer_digest(n), image.layers[n].len() as u64, origin).await.unwrap()
}

async fn read(blob: &Arc<dyn Blob>) -> Result<Bytes, BlobError> {
    let mut all = Vec::new();
    let mut stream = blob.stream();
    while let Some(piece) = stream.next().await {
        all.extend_from_slice(&piece?);
    }
    Ok(all.into())
}

fn counts(registry: &Registry) -> oncefs::registry::Counts {
    registry.counters().now()
}
