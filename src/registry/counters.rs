//! What was asked of registries since the start, for status, metrics and the benchmark.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::metrics::{
    Collector, ConstCounter, DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, Family, Latency, Registry, Unit,
};
use crate::sync::Arc;

/// Live numbers; clones of a registry share them.
#[derive(Debug, Default)]
pub struct Counters {
    /// HTTP requests sent, of every kind: tokens, redirects and retries too.
    pub requests: AtomicU64,
    /// Bytes of bodies received, of every kind.
    pub bytes: AtomicU64,
    /// Requests for layers' blobs (whole or in part) that were answered with bytes.
    pub blob_requests: AtomicU64,
    /// Bytes of layers' blobs received.
    pub blob_bytes: AtomicU64,
    /// Requests sent again because one failed.
    pub retries: AtomicU64,
    /// Downloads that broke midway and went on from there.
    pub resumed: AtomicU64,
    /// Tokens fetched.
    pub tokens: AtomicU64,
    /// How long registries took to begin an answer.
    latency: Family<Requests, Latency>,
}

/// Requests of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Requests {
    kind: &'static str,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Manifest,
    /// A whole blob.
    Blob,
    /// A part of one.
    Range,
    Token,
}

/// The numbers at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub requests: u64,
    pub bytes: u64,
    pub blob_requests: u64,
    pub blob_bytes: u64,
    pub retries: u64,
    pub resumed: u64,
    pub tokens: u64,
}

// === impl Kind ===

impl Kind {
    const ALL: [Self; 4] = [Self::Manifest, Self::Blob, Self::Range, Self::Token];

    fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::Range => "range",
            Self::Token => "token",
        }
    }
}

// === impl Counters ===

impl Counters {
    /// Shows them in `registry`.
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        for kind in Kind::ALL {
            drop(self.latency(kind));
        }
        let latency = "Time from a request to the first byte of its answer, by what was asked for";
        registry.register_with_unit("registry_request_duration", latency, Unit::Seconds, self.latency.clone());
        registry.register_collector(Box::new(Collected(self.clone())));
    }

    pub(super) fn latency(&self, kind: Kind) -> Latency {
        self.latency.get_or_create(&Requests { kind: kind.name() }).clone()
    }

    pub fn now(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            requests: read(&self.requests),
            bytes: read(&self.bytes),
            blob_requests: read(&self.blob_requests),
            blob_bytes: read(&self.blob_bytes),
            retries: read(&self.retries),
            resumed: read(&self.resumed),
            tokens: read(&self.tokens),
        }
    }
}

/// The counters as whoever collects metrics wants them.
#[derive(Debug)]
struct Collected(Arc<Counters>);

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let now = self.0.now();
        let bytes = Some(&Unit::Bytes);
        let counters = [
            (
                "registry_requests",
                "HTTP requests sent, of every kind: tokens, redirects and retries too",
                None,
                now.requests,
            ),
            ("registry_received", "Bytes of answers' bodies", bytes, now.bytes),
            (
                "registry_blob_requests",
                "Requests for blobs, whole or in part, that brought bytes",
                None,
                now.blob_requests,
            ),
            ("registry_blob_received", "Bytes of blobs", bytes, now.blob_bytes),
            ("registry_retries", "Requests sent again because one failed", None, now.retries),
            ("registry_resumed", "Downloads that broke midway and went on from there", None, now.resumed),
            ("registry_tokens", "Tokens fetched", None, now.tokens),
        ];
        for (name, help, unit, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, unit, counter.metric_type())?)?;
        }
        Ok(())
    }
}

/// Adds to a counter; nothing is ordered by it.
pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
