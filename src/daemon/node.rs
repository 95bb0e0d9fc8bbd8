//! What this node knows and can do without a mount: resolve, pull, inspect, check, say how things are.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use super::access::Access;
use super::logging::check_level;
use super::{failure, report};
use crate::config::Config;
use crate::control::{
    CheckSummary, Event, Failure, FailureKind, ImageReport, InspectReport, LayerReport, PullCall, StatusReport,
};
use crate::errors::{with_causes, without_login};
use crate::image::{Asker, Image, ImageFailed, Images};
use crate::index::published::signature::SigningKey;
use crate::registry::{Platform, Reference, Registry};
use crate::store::{Store, StoreError};

/// Where news of a call goes. Nobody listening is fine.
pub type News = UnboundedSender<Event>;

/// How often somebody who waits is told how far it is: what an eye takes for steady.
const NEWS_EVERY: Duration = Duration::from_millis(100);

/// A store that is in use may be free in a moment: a server ends, or `oncefs status` has had a look.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_AGAIN: Duration = Duration::from_millis(20);

/// How often it is looked whether the database has failed.
const DATABASE_LOOKS_APART: Duration = Duration::from_secs(1);

/// One store and its registry client. Clones share them.
#[derive(Clone)]
pub struct Node {
    images: Images,
}

/// Whether a server could work with it: what is only seen to be wrong when it is used, too.
pub fn check_config(config: &Config) -> Result<(), Failure> {
    let wrong = |error| format!("log = {:?}: {}", config.log, with_causes(&error));
    config.check_root().map_err(|error| failure::of_config(&error))?;
    check_level(&config.log).map_err(|error| Failure::new(FailureKind::Usage, wrong(error)))?;
    Access::new(&config.server.group)?;
    if let Some(key) = &config.index.signing_key {
        let refused = |cause: &dyn std::fmt::Display| {
            Failure::new(FailureKind::Usage, format!("index.signing_key = {}: {cause}", key.display()))
        };
        let pem = std::fs::read_to_string(key).map_err(|error| refused(&error))?;
        SigningKey::of_pem(&pem).map_err(|error| refused(&error))?;
    }
    let refused = |error| Failure::new(FailureKind::Usage, format!("[registry]: {}", with_causes(&error)));
    Registry::new(config.registry.clone()).map(drop).map_err(refused)
}

impl Node {
    /// Opens the store, which no other process may have open.
    pub async fn open(config: &Config) -> Result<Self, Failure> {
        config.check_root().map_err(|error| failure::of_config(&error))?;
        let registry = Registry::new(config.registry.clone()).map_err(|error| failure::of_registry(&error))?;
        let (root, store, blobs) = (config.root.clone(), config.store.clone(), Arc::new(registry.clone()));
        let deadline = Instant::now() + LOCK_PATIENCE;
        let store = loop {
            let (root, config, blobs) = (root.clone(), store.clone(), blobs.clone());
            match blocking(move || Store::open(&root, config, blobs)).await? {
                Err(StoreError::Locked { .. }) if Instant::now() < deadline => tokio::time::sleep(LOCK_AGAIN).await,
                opened => break opened.map_err(|error| failure::of_store(&error))?,
            }
        };
        store.set_cache(config.cache.clone());
        store.set_fetch(config.fetch.clone());
        let (scan, index) = (config.scan.clone(), config.index.clone());
        let images = blocking(move || Images::new(registry, store, scan, &index)).await?;
        images.set_profiles(config.profile.clone());
        Ok(Self { images })
    }

    pub(super) fn images(&self) -> &Images {
        &self.images
    }

    /// The image's manifest and config.
    pub(super) async fn resolve(
        &self,
        image: &str,
        platform: Option<&str>,
        asker: Asker,
    ) -> Result<Arc<Image>, Failure> {
        let (reference, platform) = named(image, platform)?;
        self.images.resolve(&reference, &platform, asker).await.map_err(failure::of_image)
    }

    /// Makes all layers of an image usable, with all that is in them here, and keeps them.
    pub async fn pull(&self, call: &PullCall, news: &News) -> Result<ImageReport, Failure> {
        let image = self.resolve(&call.image, call.platform.as_deref(), Asker::User).await?;
        let _nobody_listens = news.send(Event::Resolved(report::of_image(&self.images, &image)));
        let pulled = self.with_news(&image, news, self.images.pull(&image)).await;
        let now = report::of_image(&self.images, &image);
        pulled.map_err(|failure| with_others(failure, &now.layers))?;
        Ok(now)
    }

    /// Tells how far the image's layers are while `work` goes on.
    pub(super) async fn with_news<T>(
        &self,
        image: &Image,
        news: &News,
        work: impl Future<Output = Result<T, ImageFailed>>,
    ) -> Result<T, Failure> {
        let mut work = std::pin::pin!(work);
        let mut tick = tokio::time::interval(NEWS_EVERY);
        loop {
            let ended = tokio::select! {
                ended = &mut work => Some(ended),
                _ = tick.tick() => None,
            };
            let _nobody_listens = news.send(Event::Layers(report::of_layers(&self.images, image)));
            if let Some(ended) = ended {
                return ended.map_err(failure::of_image);
            }
        }
    }

    pub async fn inspect(&self, call: &PullCall) -> Result<InspectReport, Failure> {
        let image = self.resolve(&call.image, call.platform.as_deref(), Asker::Onlooker).await?;
        Ok(InspectReport {
            image: report::of_image(&self.images, &image),
            media_type: image.media_type.clone(),
            layer_media_types: image.layers.iter().map(|layer| layer.media_type.clone()).collect(),
            config: serde_json::from_slice(&image.config).unwrap_or_default(),
        })
    }

    /// Everything but the mounts, which a server adds.
    pub async fn status(&self) -> Result<StatusReport, Failure> {
        let images = self.images.clone();
        blocking(move || {
            let store = images.store();
            let space = store.statfs().map_err(|error| failure::of_store(&error))?;
            let mut layers: Vec<_> = store.layers().iter().map(|layer| report::of_stored(layer)).collect();
            layers.sort_by_key(|layer| layer.digest);
            Ok(StatusReport {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                root: Path::to_owned(store.root()),
                server: None,
                mounts: Vec::new(),
                leaving: 0,
                claimed: images.claimed().iter().map(|claimed| report::of_claimed(&images, claimed)).collect(),
                layers,
                free_bytes: space.available,
                total_bytes: space.total,
                images: images.known_images().iter().map(|image| report::of_image(&images, image)).collect(),
                cache: super::cache::report(&images),
                unverified: images.registry().unverified().iter().map(ToString::to_string).collect(),
                scans: images.scan_counts(),
                database_failure: store.database_failure().map(ToOwned::to_owned),
            })
        })
        .await?
    }

    pub async fn check(&self, repair: bool, news: &News) -> Result<CheckSummary, Failure> {
        let (store, news) = (self.images.store().clone(), news.clone());
        blocking(move || {
            let told = crate::sync::Mutex::new(news);
            let report = store.check(repair, &|progress| {
                let _nobody_listens =
                    told.lock().send(Event::Checked { bytes_done: progress.bytes_done, bytes: progress.bytes });
            });
            let report = report.map_err(|error| failure::of_store(&error))?;
            Ok(CheckSummary {
                layers: report.layers,
                frames: report.frames,
                bytes: report.bytes,
                problems: report.problems,
                repaired: report.repaired,
                snapshots: None,
            })
        })
        .await?
    }

    /// Whether the store lets go of its lock in time. No disk is asked: one that is slow is no reason to begin anew.
    pub(super) async fn answers_within(&self, patience: Duration) -> bool {
        let store = self.images.store().clone();
        let asked = blocking(move || drop(store.digests()));
        matches!(tokio::time::timeout(patience, asked).await, Ok(Ok(())))
    }

    /// Why nothing can be recorded until a server opens the store anew. From memory.
    pub(super) fn database_failure(&self) -> Option<String> {
        self.images.store().database_failure().map(ToOwned::to_owned)
    }

    /// Resolves when nothing can be recorded any more.
    pub(super) async fn until_the_database_fails(&self) {
        while self.images.store().database_failure().is_none() {
            tokio::time::sleep(DATABASE_LOOKS_APART).await;
        }
    }

    /// Writes down what only memory knows yet.
    pub async fn sync(&self) -> Result<(), Failure> {
        let images = self.images.clone();
        let write = move || {
            images.end_starts();
            images.store().sync()
        };
        blocking(write).await?.map_err(|error| failure::of_store(&error))
    }
}

/// The first failure ends the work; what else has failed by then is as good to know.
fn with_others(mut failure: Failure, layers: &[LayerReport]) -> Failure {
    for layer in layers {
        let (digest, error) = (layer.digest.to_string(), layer.error.as_deref());
        if let Some(error) = error.filter(|_| !failure.message.contains(&digest)) {
            let whose = if error.contains(&digest) { String::new() } else { format!("layer {digest}: ") };
            failure.message += &format!("; and {whose}{error}");
        }
    }
    failure
}

/// What a user means by an image's name and platform.
pub(super) fn named(image: &str, platform: Option<&str>) -> Result<(Reference, Platform), Failure> {
    let shown = if image.is_empty() { "\"\"".into() } else { without_login(image) };
    let wrong = |error: &dyn std::fmt::Display| Failure::new(FailureKind::Usage, format!("{shown}: {error}"));
    let reference = image.parse().map_err(|error| wrong(&error))?;
    let platform = match platform {
        Some(platform) => platform.parse().map_err(|error| wrong(&error))?,
        None => Platform::host(),
    };
    Ok((reference, platform))
}

/// Runs what waits for the disk where it holds nobody up.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.map_err(|_| Failure::new(FailureKind::Other, "the work ended without a result (see the log)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::State;
    use crate::digest::{Digest, LayerDigest};

    #[test]
    fn each_layer_that_has_failed_is_told_once() {
        let layer = |content: &[u8], error: Option<&str>| LayerReport {
            digest: LayerDigest(Digest::of(content)),
            size: 1,
            state: if error.is_some() { State::Failed } else { State::Scanning },
            fetched: 0,
            data_bytes: 0,
            resident_bytes: 0,
            index: None,
            declined: None,
            waiting: None,
            error: error.map(str::to_owned),
        };
        let layers = [layer(b"a", Some("broken")), layer(b"b", None), layer(b"c", Some("away"))];
        let first = Failure::new(FailureKind::Corrupt, format!("layer {} is broken", layers[0].digest));
        let all = with_others(first.clone(), &layers);
        assert_eq!(all.message, format!("{first}; and layer {}: away", layers[2].digest));
        assert_eq!(all.kind, FailureKind::Corrupt);
    }
}
