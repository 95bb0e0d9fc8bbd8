//! Completing layers in the background: those in use whose index was not made here, one at a time, their blobs passing from the first
//! byte to the last. At the end it is known whether a blob is what its digest says, and all of the layer is here if there is room.
//!
//! Readers go first at every queue; between two pieces it is looked at whether to go on: whether somebody still uses the layer, and
//! whether readers have been quiet for a while where that is set. Nothing is remembered of a pass that did not come to its end:
//! it is begun anew, and frames that are here already are not written again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Images;
use super::chains::Wanting;
use super::verify::{Judgement, judge};
use crate::digest::LayerDigest;
use crate::errors::with_causes;
use crate::gate::Bucket;
use crate::store::{Background, Finding, Layer, StoreError};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, spawn};

/// Where nothing is to be done it is looked again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Readers are quiet when none has waited for so long: the pauses within the start of a container are shorter.
pub(super) const QUIET: Duration = Duration::from_secs(3);
pub(super) const QUIET_LOOK: Duration = Duration::from_millis(250);

/// A layer whose pass failed is left alone for this long; its source may be away.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// What is known of the work in the background.
#[derive(Default)]
pub(super) struct Completing {
    /// Layers that are not worth a try before this.
    not_before: Mutex<HashMap<LayerDigest, Instant>>,
    bandwidth: Mutex<Option<(u64, Bucket)>>,
    counts: Counted,
}

#[derive(Default)]
struct Counted {
    fetched: AtomicU64,
    verified: AtomicU64,
    wrong: AtomicU64,
}

/// Numbers of this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CompletionCounts {
    /// Bytes of blobs that passed.
    pub bytes: u64,
    /// Layers whose blobs were what they should be.
    pub verified: u64,
    /// Layers that were not.
    pub wrong: u64,
}

/// Why a pass does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotWanted;

impl Images {
    /// Completes layers for as long as the process runs. Must be called inside a runtime.
    pub fn complete_in_background(&self) {
        let images = self.clone();
        spawn(async move {
            loop {
                match images.next_to_complete().await {
                    Some((layer, wanting)) => images.complete(layer, wanting).await,
                    None => tokio::time::sleep(LOOK_AGAIN).await,
                }
            }
        });
    }

    pub fn completion_counts(&self) -> CompletionCounts {
        let counts = &self.shared.completing.counts;
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        CompletionCounts { bytes: read(&counts.fetched), verified: read(&counts.verified), wrong: read(&counts.wrong) }
    }

    /// A layer in use whose blob nobody has compared with its digest yet.
    async fn next_to_complete(&self) -> Option<(Arc<Layer>, Wanting)> {
        let wanting = self.wanting();
        let images = self.clone();
        let looking = tokio::task::spawn_blocking(move || wanting.into_iter().find_map(|one| images.candidate(one)));
        looking.await.ok().flatten()
    }

    fn candidate(&self, wanting: Wanting) -> Option<(Arc<Layer>, Wanting)> {
        let digest = wanting.layer.digest;
        if self.shared.completing.not_before.lock().get(&digest).is_some_and(|until| *until > Instant::now()) {
            return None;
        }
        let layer = self.shared.store.layer(&digest).ok().flatten()?;
        let is_off = self.shared.store.fetch_config().background == Background::Off && !self.compares_content();
        let is_done = if self.compares_content() { layer.is_verified() } else { layer.has_verified_blob() };
        (!is_off && !is_done && !layer.is_quarantined()).then_some((layer, wanting))
    }

    /// Whether indexes are used that nothing vouches for: then content is compared, and that is not left undone.
    fn compares_content(&self) -> bool {
        self.shared.believed.compares_content()
    }

    async fn complete(&self, layer: Arc<Layer>, wanting: Wanting) {
        let digest = layer.digest();
        let started = Instant::now();
        let judged = judge(self, &layer, &wanting, self.compares_content()).await;
        let counts = &self.shared.completing.counts;
        let noted = match &judged {
            Ok(Judgement::Good(finding)) => {
                counts.verified.fetch_add(1, Ordering::Relaxed);
                let seconds = started.elapsed().as_secs_f64();
                let whole = layer.is_complete();
                tracing::info!(layer = %digest, ?finding, seconds, whole, "layer completed in the background");
                self.note(&layer, Ok(*finding)).await
            }
            Ok(Judgement::Bad(cause)) => {
                counts.wrong.fetch_add(1, Ordering::Relaxed);
                self.note(&layer, Err(cause.clone())).await
            }
            Ok(Judgement::Suspect(cause)) => {
                counts.wrong.fetch_add(1, Ordering::Relaxed);
                tracing::error!(layer = %digest, cause, "the layer's source has other bytes; each that is read is still checked by itself");
                layer.distrust_source().await;
                self.later(digest, AFTER_FAILURE * 60);
                Ok(())
            }
            Ok(Judgement::Unknown(cause)) => {
                tracing::info!(layer = %digest, cause, "a layer was not completed; it is tried again later");
                self.later(digest, AFTER_FAILURE);
                Ok(())
            }
            Err(NotWanted) => {
                tokio::time::sleep(LOOK_AGAIN).await;
                Ok(())
            }
        };
        if let Err(error) = noted {
            tracing::error!(layer = %digest, error = with_causes(&error), "what was found out about a layer cannot be written down");
            self.later(digest, AFTER_FAILURE);
        }
    }

    async fn note(&self, layer: &Arc<Layer>, found: Result<Finding, String>) -> Result<(), StoreError> {
        let (store, measured, is_good) = (self.shared.store.clone(), layer.clone(), found.is_ok());
        let layer = layer.clone();
        let noting = move || match found {
            Ok(finding) => store.note_finding(&layer, finding),
            Err(cause) => store.quarantine(&layer, &cause),
        };
        // Its end is a bug of ours, or the process's.
        let noted = tokio::task::spawn_blocking(noting).await.unwrap_or(Ok(()));
        let mut ledger = self.shared.ledger.lock();
        if is_good {
            ledger.measure_anew(&measured)
        } else {
            ledger.forget_measure(&measured.digest())
        }
        drop(ledger);
        noted
    }

    fn later(&self, layer: LayerDigest, pause: Duration) {
        let mut not_before = self.shared.completing.not_before.lock();
        not_before.retain(|_, until| *until > Instant::now());
        not_before.insert(layer, Instant::now() + pause);
    }

    /// Returns when so many bytes may be fetched for a layer that nobody waits for, unless nobody wants that any more.
    pub(super) async fn give_way(&self, layer: &Layer, is_urgent: bool, bytes: u64) -> Result<(), NotWanted> {
        loop {
            let config = self.shared.store.fetch_config();
            if !self.is_in_use(&layer.digest()) || (config.background == Background::Off && !is_urgent) {
                return Err(NotWanted);
            }
            let is_quiet = self.shared.store.idle_for() >= QUIET;
            if is_quiet || config.background == Background::Always || is_urgent {
                let wait = self.shared.completing.wait_for(bytes, config.bandwidth);
                self.shared.completing.counts.fetched.fetch_add(bytes, Ordering::Relaxed);
                tokio::time::sleep(wait).await;
                return Ok(());
            }
            tokio::time::sleep(QUIET_LOOK).await;
        }
    }
}

impl Completing {
    fn wait_for(&self, bytes: u64, per_second: u64) -> Duration {
        let (now, mut bandwidth) = (Instant::now(), self.bandwidth.lock());
        if per_second == 0 {
            *bandwidth = None;
            return Duration::ZERO;
        }
        if bandwidth.as_ref().is_none_or(|(was, _)| *was != per_second) {
            *bandwidth = Some((per_second, Bucket::new(per_second as f64, 0.0, now)));
        }
        bandwidth.as_mut().map_or(Duration::ZERO, |(_, bucket)| bucket.take(bytes as f64, now))
    }
}
