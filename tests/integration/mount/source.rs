//! Where the layers' bytes come from in these tests: a registry in memory that counts, stalls and lies on command.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use oncefs::blob::{Blob, BlobError, Blobs, InMemory, Origin};
use oncefs::digest::LayerDigest;
use oncefs::sync::Mutex;
use tokio::sync::watch;

/// Blobs by digest.
pub(super) struct Source {
    state: Arc<State>,
}

struct State {
    blobs: Mutex<HashMap<LayerDigest, Bytes>>,
    /// The ranges that were asked for.
    asked: Mutex<Vec<(LayerDigest, Range<u64>)>>,
    /// Whose bytes do not come now.
    stalled: watch::Sender<Vec<LayerDigest>>,
    /// Whose bytes come out wrong.
    lying: Mutex<Vec<LayerDigest>>,
}

struct OnLine {
    layer: LayerDigest,
    bytes: InMemory,
    state: Arc<State>,
}

// === impl Source ===

impl Source {
    pub(super) fn new() -> Arc<Self> {
        let (stalled, _) = watch::channel(Vec::new());
        let (blobs, asked, lying) = (Mutex::default(), Mutex::default(), Mutex::default());
        Arc::new(Self { state: Arc::new(State { blobs, asked, stalled, lying }) })
    }

    pub(super) fn add(&self, layer: LayerDigest, blob: Bytes) {
        self.state.blobs.lock().insert(layer, blob);
    }

    /// Requests for bytes of this layer so far.
    pub(super) fn asked(&self, layer: LayerDigest) -> Vec<Range<u64>> {
        let asked = self.state.asked.lock();
        asked.iter().filter(|(of, _)| *of == layer).map(|(_, range)| range.clone()).collect()
    }

    pub(super) fn stall(&self, layer: LayerDigest) {
        self.state.stalled.send_modify(|stalled| stalled.push(layer));
    }

    pub(super) fn go_on(&self, layer: LayerDigest) {
        self.state.stalled.send_modify(|stalled| stalled.retain(|other| *other != layer));
    }

    pub(super) fn lie(&self, layer: LayerDigest) {
        self.state.lying.lock().push(layer);
    }

    pub(super) fn tell_the_truth(&self) {
        self.state.lying.lock().clear();
    }
}

impl Blobs for Source {
    fn open(&self, layer: LayerDigest, _size: u64, _at: Origin) -> BoxFuture<'_, Result<Arc<dyn Blob>, BlobError>> {
        Box::pin(async move {
            let blob = self.state.blobs.lock().get(&layer).cloned();
            let bytes = InMemory(blob.ok_or(BlobError::NotFound("no such blob".into()))?);
            Ok(Arc::new(OnLine { layer, bytes, state: self.state.clone() }) as Arc<dyn Blob>)
        })
    }
}

// === impl OnLine ===

impl Blob for OnLine {
    fn size(&self) -> u64 {
        self.bytes.size()
    }

    fn range(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        Box::pin(async move {
            self.state.asked.lock().push((self.layer, range.clone()));
            let mut stalled = self.state.stalled.subscribe();
            drop(stalled.wait_for(|stalled| !stalled.contains(&self.layer)).await);
            let bytes = self.bytes.range(range).await?;
            if !self.state.lying.lock().contains(&self.layer) {
                return Ok(bytes);
            }
            Ok(bytes.iter().map(|byte| byte ^ 1).collect::<Vec<u8>>().into())
        })
    }

    fn stream(&self) -> BoxStream<'static, Result<Bytes, BlobError>> {
        self.bytes.stream()
    }
}
