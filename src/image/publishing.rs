//! Publishing by itself: the index of an image whose layers this node has scanned is put beside it, so that no other node has to
//! scan them. In the background, one image at a time, and never where a registry has said that it will not have it.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::background::{QUIET, QUIET_LOOK};
use super::metrics::Attempt;
use super::publish::PublishError;
use super::{Image, Images, IndexConfig};
use crate::blob::Origin;
use crate::digest::Digest;
use crate::errors::with_causes;
use crate::index::frames::IndexSource;
use crate::index::published::artifact::{ARTIFACT_TYPE, Listed};
use crate::index::published::signature::SigningKey;
use crate::registry::RegistryError;
use crate::sync::{Arc, Mutex};

/// Whether indexes are published by themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Publish {
    /// Only when somebody says so: `oncefs index push`.
    #[default]
    Off,
    /// That of each image whose layers were scanned here and that has none.
    Auto,
}

/// What is set, and what is known of registries and images.
pub(super) struct Publishing {
    publish: Publish,
    signing_key: Option<PathBuf>,
    state: Mutex<State>,
    one_at_a_time: Semaphore,
}

#[derive(Default)]
struct State {
    under_way: HashSet<Key>,
    /// Images that are done with until then, and repositories that refuse to be pushed to.
    images: HashMap<Key, Instant>,
    refusing: HashMap<Origin, Instant>,
    /// What was published without a profile, as there was none yet: which artifact, and its indexes.
    without_profile: HashMap<Key, (Digest, Vec<Listed>)>,
}

/// An image in this very place.
type Key = (Origin, Digest);

/// Whoever lets us push after all has changed something, and that happens seldom.
const REFUSED_FOR: Duration = Duration::from_secs(3600);
/// Somebody may take an index away, and then another one may be made.
const DONE_FOR: Duration = Duration::from_secs(3600);
const AFTER_FAILURE: Duration = Duration::from_secs(600);

/// Beyond these it is forgotten what was.
const IMAGES_MAX: usize = 10_000;
const REFUSING_MAX: usize = 1_000;

/// Readers are let come to their end first, but not for ever.
const QUIET_LOOKS_MAX: usize = 240;

const KEY_BYTES_MAX: u64 = 64 << 10;

/// What came of it.
enum Outcome {
    Published,
    /// Others have.
    ThereIsOne,
    /// Not all of it was scanned here, yet.
    NotScanned,
    /// The repository refused another image's while this one waited for its turn.
    Refused,
}

// === impl Images ===

impl Images {
    /// The image's layers are usable: has its index published, if that is wanted and they were scanned here.
    pub(super) fn publish_by_itself(&self, image: &Arc<Image>) {
        let key = key_of(image);
        if self.shared.publishing.publish == Publish::Off || !self.shared.publishing.begin(&key) {
            return;
        }
        let (images, image) = (self.clone(), image.clone());
        crate::sync::spawn(async move {
            let done = images.publish_scanned(&image).await;
            images.shared.metrics.published(counted(&done));
            images.shared.publishing.end(&image, done);
        });
    }

    async fn publish_scanned(&self, image: &Arc<Image>) -> Result<Outcome, PublishError> {
        let publishing = &self.shared.publishing;
        let _alone = publishing.one_at_a_time.acquire().await.map_err(|_| PublishError::Stopping)?;
        if publishing.refuses(&image.origin) {
            return Ok(Outcome::Refused);
        }
        if !self.was_scanned(image).await? {
            return Ok(Outcome::NotScanned);
        }
        for _ in 0..QUIET_LOOKS_MAX {
            if self.shared.store.idle_for() >= QUIET {
                break;
            }
            tokio::time::sleep(QUIET_LOOK).await;
        }
        let registry = &self.shared.registry;
        if !registry.referrers(image.manifest_digest, Some(ARTIFACT_TYPE), &image.origin).await?.is_empty() {
            tracing::info!(image = image.reference, "index not published: others have");
            return Ok(Outcome::ThereIsOne);
        }
        let signing_key = publishing.signing_key().await?;
        let pushed = self.publish(image, signing_key.as_ref()).await?;
        if pushed.index.profile.is_none() {
            let published = (pushed.index.digest, pushed.index.indexes);
            publishing.state.lock().without_profile.insert(key_of(image), published);
        }
        Ok(Outcome::Published)
    }

    /// Whether a scan of this node has made the index of every layer.
    async fn was_scanned(&self, image: &Arc<Image>) -> Result<bool, PublishError> {
        let (store, image) = (self.shared.store.clone(), image.clone());
        let looking = tokio::task::spawn_blocking(move || {
            let is_scan = |source| matches!(source, IndexSource::Scan(_));
            let here = |layer| Some(is_scan(store.layer(layer).ok()??.frames().heading().index_source));
            !image.layers.is_empty() && image.layers.iter().all(|layer| here(&layer.digest).unwrap_or(false))
        });
        looking.await.map_err(|_| PublishError::Stopping)
    }

    /// A start of the image was seen to its end: what was published of it by itself gets the profile.
    pub(super) fn publish_profile(&self, image: &Arc<Image>) {
        let published = self.shared.publishing.state.lock().without_profile.remove(&key_of(image));
        let Some((before, indexes)) = published else { return };
        let (images, image) = (self.clone(), image.clone());
        crate::sync::spawn(async move {
            let publish = async {
                let signing_key = images.shared.publishing.signing_key().await?;
                let index = images.publish_listed(&image, indexes, signing_key.as_ref()).await?;
                if index.digest != before {
                    images.unpublish(&image, before).await?;
                }
                Ok::<_, PublishError>(index.digest)
            };
            match publish.await {
                Ok(index) => {
                    images.shared.metrics.published(Attempt::WithProfile);
                    tracing::info!(image = image.reference, %index, "index published with a start-up profile");
                }
                Err(error) => {
                    images.shared.metrics.published(Attempt::Failed);
                    tracing::info!(
                        image = image.reference,
                        error = with_causes(&error),
                        "no start-up profile published"
                    );
                }
            }
        });
    }
}

fn counted(done: &Result<Outcome, PublishError>) -> Attempt {
    match done {
        Ok(Outcome::Published) => Attempt::Published,
        Ok(Outcome::ThereIsOne) => Attempt::ThereIsOne,
        Ok(Outcome::NotScanned) => Attempt::NotScanned,
        Ok(Outcome::Refused) => Attempt::Refused,
        Err(PublishError::Registry(RegistryError::NotPushed(_))) => Attempt::Local,
        Err(error) if is_refusal(error) => Attempt::Refused,
        Err(_) => Attempt::Failed,
    }
}

/// Whether it is known of the repository now that it will not be pushed to.
fn is_refusal(error: &PublishError) -> bool {
    matches!(error, PublishError::Registry(RegistryError::Denied { .. } | RegistryError::Login { .. }))
}

fn key_of(image: &Image) -> Key {
    (image.origin.clone(), image.manifest_digest)
}

// === impl Publishing ===

impl Publishing {
    pub(super) fn new(config: &IndexConfig) -> Self {
        Self {
            publish: config.publish,
            signing_key: config.signing_key.clone(),
            state: Mutex::default(),
            one_at_a_time: Semaphore::new(1),
        }
    }

    /// Says whether the image is to be looked at: nobody does so already, nor has just now.
    fn begin(&self, key: &Key) -> bool {
        let (now, mut state) = (Instant::now(), self.state.lock());
        let is_later = |until: Option<&Instant>| until.is_some_and(|until| *until > now);
        if is_later(state.images.get(key)) || is_later(state.refusing.get(&key.0)) {
            return false;
        }
        state.under_way.insert(key.clone())
    }

    fn refuses(&self, origin: &Origin) -> bool {
        self.state.lock().refusing.get(origin).is_some_and(|until| *until > Instant::now())
    }

    fn end(&self, image: &Image, done: Result<Outcome, PublishError>) {
        let (now, key) = (Instant::now(), key_of(image));
        let pause = match &done {
            Ok(Outcome::Published | Outcome::ThereIsOne) => DONE_FOR,
            // It is looked at again when the image is used again.
            Ok(Outcome::NotScanned | Outcome::Refused) => Duration::ZERO,
            // It lies on this machine, and will not be elsewhere.
            Err(PublishError::Registry(RegistryError::NotPushed(_))) => DONE_FOR,
            Err(error) if is_refusal(error) => {
                let mut state = self.state.lock();
                forget_old(&mut state.refusing, REFUSING_MAX, now);
                state.refusing.insert(image.origin.clone(), now + REFUSED_FOR);
                DONE_FOR
            }
            Err(_) => AFTER_FAILURE,
        };
        {
            let mut state = self.state.lock();
            state.under_way.remove(&key);
            forget_old(&mut state.images, IMAGES_MAX, now);
            state.images.insert(key, now + pause);
        }
        if let Err(error) = done {
            // Most nodes may not push, and need not.
            let (error, minutes) = (with_causes(&error), pause.as_secs() / 60);
            tracing::info!(image = image.reference, error, minutes, "index not published; not tried again for a while");
        }
    }

    /// The key that the configuration names. What should be signed is not published without.
    async fn signing_key(&self) -> Result<Option<SigningKey>, PublishError> {
        let Some(path) = self.signing_key.clone() else { return Ok(None) };
        let reading = path.clone();
        let read = tokio::task::spawn_blocking(move || read_bounded(&reading)).await;
        let pem = read.map_err(|_| PublishError::Stopping)?;
        let pem = pem.map_err(|source| PublishError::KeyFile { path: path.clone(), source })?;
        SigningKey::of_pem(&pem).map(Some).map_err(|source| PublishError::Key { path, source })
    }
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut pem = String::new();
    std::fs::File::open(path)?.take(KEY_BYTES_MAX).read_to_string(&mut pem)?;
    Ok(pem)
}

fn forget_old<K: Eq + std::hash::Hash>(entries: &mut HashMap<K, Instant>, max: usize, now: Instant) {
    if entries.len() >= max {
        entries.retain(|_, until| *until > now);
    }
    if entries.len() >= max {
        entries.clear();
    }
}
