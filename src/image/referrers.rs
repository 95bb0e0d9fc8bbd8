//! Which manifests are about an image: asked of its registry once for all of its layers, and kept for a while.

use std::collections::HashMap;
use std::time::{Duration, Instant};

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
}

type Key = (Origin, Digest);
type Answer = Result<Arc<[Referrer]>, BlobError>;

/// An image's layers are wanted at about the same time; after that somebody may have published something.
const KEPT_FOR: Duration = Duration::from_secs(60);
const KEPT_MAX: usize = 1024;

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
        ticket.await.map_err(|failed| match failed {
            Failed::Work(error) => (*error).clone(),
            Failed::Panicked => BlobError::Other("oncefs is stopping".to_owned()),
        })
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

    /// Something was published or taken away: it is asked for anew.
    pub(super) fn forget(&self, origin: &Origin, subject: Digest) {
        self.kept.lock().remove(&(origin.clone(), subject));
    }
}
