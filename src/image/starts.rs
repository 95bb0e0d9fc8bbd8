//! Starts of images: what each reads first is written down, kept, and fetched ahead at the image's next start.
//!
//! A start begins when somebody first looks into the view of a whole image, and is watched for some seconds after its layers
//! are usable. Nobody asks for that, and nothing fails for its sake.

mod ahead;
mod elsewhere;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Image, Images, Opened, Shared};
use crate::digest::{Digest, LayerDigest};
use crate::index::profile::{Part, Profile};
use crate::store::{Recorded, Recording, StartFile, Store, StoreError};
use crate::sync::{Arc, Mutex};

use elsewhere::Coming;

/// What a user may set about start-up profiles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProfileConfig {
    /// For how long after its layers are usable an image's start is watched; 0 is not at all.
    pub record_secs: u64,
    /// Bytes of blobs that one start may have fetched ahead; 0 is none.
    pub ahead_bytes_max: u64,
}

/// The last start of an image that was watched, as it is kept on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    version: u32,
    pub reference: String,
    pub platform: String,
    pub manifest: Digest,
    /// Milliseconds since 1970.
    pub began_ms: u64,
    /// From the first look until all layers could be read.
    pub usable_us: u64,
    pub recorded_us: u64,
    /// What was fetched ahead for it, because starts before it wanted it.
    pub ahead_frames: u64,
    pub ahead_bytes: u64,
    pub layers: Vec<LayerDigest>,
    #[serde(flatten)]
    pub recorded: Recorded,
}

/// Of what is kept of a start on disk; another one's is not read.
const VERSION: u32 = 1;

/// Starts that are watched at the same time, at most; what comes on top is not.
const WATCHED_MAX: usize = 64;

/// The starts of now.
#[derive(Default)]
pub(super) struct Starts {
    config: Mutex<ProfileConfig>,
    watched: Mutex<HashMap<Digest, Arc<Watched>>>,
}

struct Watched {
    image: Arc<Image>,
    began: SystemTime,
    usable_us: u64,
    recording: Arc<Recording>,
    ahead: Mutex<Ahead>,
}

/// What was fetched ahead of a start's readers.
#[derive(Default)]
struct Ahead {
    frames: HashSet<(LayerDigest, u32)>,
    bytes: u64,
}

/// Somebody has looked, and the layers are on their way.
pub(super) struct Starting {
    began: SystemTime,
    recording: Arc<Recording>,
    profile: Coming,
}

// === impl ProfileConfig ===

impl Default for ProfileConfig {
    fn default() -> Self {
        // Nearly every service has come up by then; and the start of a large one reads less.
        Self { record_secs: 20, ahead_bytes_max: 256 << 20 }
    }
}

// === impl Images ===

impl Images {
    /// The first `length` layers of the image are about to be opened.
    pub(super) fn starting(&self, image: &Arc<Image>, length: usize) -> Starting {
        let (began, recording) = (SystemTime::now(), Recording::begin());
        Starting { began, recording, profile: self.profile_from_elsewhere(image, length) }
    }

    /// From now on starts are watched so.
    pub fn set_profiles(&self, config: ProfileConfig) {
        *self.shared.starts.config.lock() = config;
    }

    /// The first `length` layers of the image are open: watches what becomes of it, if that is all of them, and fetches ahead
    /// what earlier starts wanted.
    pub(super) fn started(&self, image: &Arc<Image>, length: usize, starting: Starting, opened: &Opened) {
        self.shared.store.expect_readers();
        let starts = &self.shared.starts;
        let config = starts.config.lock().clone();
        if length < image.layers.len() {
            return;
        }
        let Starting { began, recording, profile } = starting;
        let watched = Arc::new(Watched {
            image: image.clone(),
            began,
            usable_us: recording.elapsed_us(),
            recording,
            ahead: Mutex::default(),
        });
        if config.record_secs > 0 && starts.watch(&watched) {
            opened.layers.values().for_each(|layer| watched.recording.follow(layer));
            let (shared, manifest) = (Arc::downgrade(&self.shared), image.manifest_digest);
            let image = image.clone();
            crate::sync::spawn(async move {
                tokio::time::sleep(Duration::from_secs(config.record_secs)).await;
                let Some(shared) = shared.upgrade() else { return };
                let images = Images { shared: shared.clone() };
                let _ends_with_the_process = tokio::task::spawn_blocking(move || shared.end_start(&manifest)).await;
                images.publish_profile(&image);
            });
        }
        if config.ahead_bytes_max > 0 {
            self.fetch_ahead(watched, profile, opened, config.ahead_bytes_max);
        }
    }

    /// Writes down what was seen of starts that are watched still, as a shutdown should. Blocking.
    pub fn end_starts(&self) {
        let watched: Vec<Digest> = self.shared.starts.watched.lock().keys().copied().collect();
        watched.iter().for_each(|manifest| self.shared.end_start(manifest));
    }

    /// The last start of the image that was watched: one that is under way, or what was kept. Blocking.
    pub fn last_start(&self, manifest: &Digest) -> Result<Option<Start>, StoreError> {
        let watched = self.shared.starts.watched.lock().get(manifest).cloned();
        if let Some(start) = watched.map(|watched| watched.start()).filter(|start| !start.recorded.touches.is_empty()) {
            return Ok(Some(start));
        }
        let kept = self.shared.store.start(manifest, StartFile::Trace)?;
        let start = kept.and_then(|bytes| serde_json::from_slice::<Start>(&bytes).ok());
        Ok(start.filter(|start| start.version == VERSION && start.manifest == *manifest))
    }

    /// The image's profile as bytes that another node can read. Blocking.
    pub fn profile(&self, manifest: &Digest) -> Option<Vec<u8>> {
        let bytes = self.shared.store.start(manifest, StartFile::Profile).ok().flatten()?;
        Profile::from_bytes(&bytes, manifest).ok().map(|_| bytes)
    }

    /// Takes in a profile that another node has made, unless this one has its own. Says whether it did. Blocking.
    pub fn take_profile(&self, manifest: &Digest, bytes: &[u8]) -> bool {
        if self.profile(manifest).is_some() {
            return false;
        }
        let read = Profile::from_bytes(bytes, manifest).map(|_| ());
        let kept = read.map_err(|error| error.to_string()).and_then(|()| {
            let kept = self.shared.store.put_start(manifest, StartFile::Profile, bytes);
            kept.map_err(|error| error.to_string())
        });
        if kept.is_ok() {
            self.shared.metrics.took_profile();
        }
        kept.inspect_err(|cause| tracing::info!(%manifest, cause, "a start-up profile was not taken in")).is_ok()
    }
}

// === impl Starts ===

impl Starts {
    /// Says whether it is watched from now on: one start of an image at a time.
    fn watch(&self, start: &Arc<Watched>) -> bool {
        let mut watched = self.watched.lock();
        let manifest = start.image.manifest_digest;
        let is_new = watched.len() < WATCHED_MAX && !watched.contains_key(&manifest);
        if is_new {
            watched.insert(manifest, start.clone());
        }
        is_new
    }
}

// === impl Shared ===

impl Shared {
    /// Keeps what was seen of the image's start. Blocking.
    fn end_start(&self, manifest: &Digest) {
        let Some(watched) = self.starts.watched.lock().remove(manifest) else { return };
        let start = watched.start();
        if start.recorded.touches.is_empty() {
            return; // nobody read anything that a layer's data file has
        }
        self.metrics.recorded.inc();
        self.metrics.used_bytes.inc_by(watched.used_bytes(&start.recorded));
        match keep(&self.store, &start) {
            Ok(parts) => {
                let (image, touches) = (&start.reference, start.recorded.touches.len());
                tracing::info!(image, touches, parts, requests = start.recorded.asked.len(), "start recorded");
            }
            Err(error) => {
                tracing::warn!(image = start.reference, %error, "what was seen of an image's start is not kept");
            }
        }
    }
}

/// Keeps the start for people, and for the next start its profile; gives the number of the latter's parts.
fn keep(store: &Store, start: &Start) -> Result<usize, StoreError> {
    let parts = start.recorded.touches.iter();
    let parts = parts.map(|touch| Part { layer: touch.layer, source: touch.source.clone(), missed: 0 });
    let before = store.start(&start.manifest, StartFile::Profile)?;
    let before = before.and_then(|bytes| Profile::from_bytes(&bytes, &start.manifest).ok()).unwrap_or_default();
    let profile = before.with_start(parts.collect());
    store.put_start(&start.manifest, StartFile::Profile, &profile.to_bytes(&start.manifest))?;
    if let Ok(json) = serde_json::to_vec(start) {
        store.put_start(&start.manifest, StartFile::Trace, &json)?;
    }
    Ok(profile.parts.len())
}

// === impl Watched ===

impl Watched {
    fn start(&self) -> Start {
        let ahead = self.ahead.lock();
        let since_1970 = self.began.duration_since(UNIX_EPOCH).unwrap_or_default();
        Start {
            version: VERSION,
            reference: self.image.reference.clone(),
            platform: self.image.platform.clone(),
            manifest: self.image.manifest_digest,
            began_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
            usable_us: self.usable_us,
            recorded_us: self.recording.elapsed_us(),
            ahead_frames: ahead.frames.len() as u64,
            ahead_bytes: ahead.bytes,
            layers: self.image.layers.iter().map(|layer| layer.digest).collect(),
            recorded: self.recording.recorded(),
        }
    }

    /// Bytes of blobs that were fetched ahead and then read.
    fn used_bytes(&self, recorded: &Recorded) -> u64 {
        let ahead = self.ahead.lock();
        let used = recorded.touches.iter().filter(|touch| ahead.frames.contains(&(touch.layer, touch.frame)));
        used.map(|touch| touch.source.end - touch.source.start).sum()
    }
}
