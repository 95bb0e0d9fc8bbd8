//! What was asked of registries since the start, for status, metrics and the benchmark.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

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

// === impl Counters ===

impl Counters {
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

/// Adds to a counter; nothing is ordered by it.
pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
