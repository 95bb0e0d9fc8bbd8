//! Which manifests are about an image, and those manifests: asked of its registry once for all of its layers, and kept for a while.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Image, Images};
use crate::blob::{BlobError, Origin, Referrer};
use crate::digest::Digest;
use crate::flight::{Failed, Flight};
use crate::sync::{Arc, Mutex};

/// Answers of registries, also those that failed.
#[derive(Default)]
pub(super) struct Referrers {
    asking: Flight<Key, Arc<[Referrer]>, BlobError>,
    kept: Mutex<HashMap<Key, (Instant, Answer)>>,
    reading: Flight<Key, Bytes, BlobError>,
    read: Mutex<HashMap<Key, (Instant, Bytes)>>,
}

type Key = (Origin, Digest);
type Answer = Result<Arc<[Referrer]>, BlobError>;

/// An image's layers are wanted at about the same time; after that somebody may have published something.
const KEPT_FOR: Duration = Duration::from_secs(60);
const KEPT_MAX: usize = 1024;

/// Manifests beside images that are kept: each is a list of some layers.
const READ_MAX: usize = 64;
const READ_BYTES_MAX: usize = 256 << 10;

impl Images {
    /// The manifests that are about the image.
    pub(super) async fn referrers(&self, image: &Image) -> Result<Arc<[Referrer]>, BlobError> {
        let key = (image.origin.clone(), image.manifest_digest);
        if let Some(answer) = self.shared.referrers.kept(&key) {
            return answer;
        }
        let ticket = self.shared.referrers.asking.join(key.clone(), || {
            let (images, (origin, digest)) = (self.clone(), key.clone());
            async move {
                let asked = images.shared.registry.referrers(digest, None, &origin).await;
                let answer = asked.map(Arc::from).map_err(BlobError::from);
                images.shared.referrers.keep((origin, digest), &answer);
                answer
            }
        });
        ticket.await.map_err(of_failed)
    }

    /// A manifest that lies where the image does, compared with its digest.
    pub(super) async fn manifest_beside(&self, image: &Image, digest: Digest) -> Result<Bytes, BlobError> {
        let key = (image.origin.clone(), digest);
        if let Some(read) = self.shared.referrers.read(&key) {
            return Ok(read);
        }
        let ticket = self.shared.referrers.reading.join(key.clone(), || {
            let images = self.clone();
            async move {
                let bytes = images.shared.registry.manifest(key.1, &key.0).await?;
                images.shared.referrers.note_read(key, &bytes);
                Ok(bytes)
            }
        });
        ticket.await.map_err(of_failed)
    }
}

fn of_failed(failed: Failed<BlobError>) -> BlobError {
    match failed {
        Failed::Work(error) => (*error).clone(),
        Failed::Panicked => BlobError::Other("oncefs is stopping".to_owned()),
    }
}

impl Referrers {
    fn kept(&self, key: &Key) -> Option<Answer> {
        let kept = self.kept.lock();
        kept.get(key).filter(|(since, _)| since.elapsed() < KEPT_FOR).map(|(_, answer)| answer.clone())
    }

    fn keep(&self, key: Key, answer: &Answer) {
        let mut kept = self.kept.lock();
        if kept.len() >= KEPT_MAX {
            kept.retain(|_, (since, _)| since.elapsed() < KEPT_FOR);
        }
        if kept.len() < KEPT_MAX {
            kept.insert(key, (Instant::now(), answer.clone()));
        }
    }

    fn read(&self, key: &Key) -> Option<Bytes> {
        let read = self.read.lock();
        read.get(key).filter(|(since, _)| since.elapsed() < KEPT_FOR).map(|(_, bytes)| bytes.clone())
    }

    fn note_read(&self, key: Key, bytes: &Bytes) {
        let mut read = self.read.lock();
        read.retain(|_, (since, _)| since.elapsed() < KEPT_FOR);
        if read.len() < READ_MAX && bytes.len() <= READ_BYTES_MAX {
            read.insert(key, (Instant::now(), bytes.clone()));
        }
    }

    /// Something was published or taken away: it is asked for anew.
    pub(super) fn forget(&self, origin: &Origin, subject: Digest) {
        self.kept.lock().remove(&(origin.clone(), subject));
    }
}
