//! What is counted of the kernel's requests, over all mounts of the process.

use std::time::Instant;

use crate::metrics::{Counter, EncodeLabelSet, Family, Latency, Registry, Unit};

/// Clones share the counters. Nothing here takes a lock on the way of a read.
#[derive(Debug, Clone)]
pub struct Metrics {
    reads: Family<Read, Latency>,
    /// The two of `reads`.
    at_once: Latency,
    waited: Latency,
    read_bytes: Counter,
    waits: Counter,
    errors: Family<Trouble, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Read {
    waited: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Trouble {
    cause: &'static str,
}

/// Why a request was answered with EIO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Bytes could not be fetched or did not match.
    Fetch,
    /// The store's own files gave none.
    Disk,
    /// A layer's tree does not make sense.
    Tree,
    /// A view could not be made ready.
    View,
}

// === impl Cause ===

impl Cause {
    fn name(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Disk => "disk",
            Self::Tree => "tree",
            Self::View => "view",
        }
    }
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        let reads = Family::<Read, Latency>::default();
        let [at_once, waited] = [false, true].map(|waited| reads.get_or_create(&Read { waited }).clone());
        let errors = Family::default();
        for cause in [Cause::Fetch, Cause::Disk, Cause::Tree, Cause::View] {
            drop(errors.get_or_create(&Trouble { cause: cause.name() }));
        }
        Self { reads, at_once, waited, read_bytes: Counter::default(), waits: Counter::default(), errors }
    }
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        let reads = "Time in which reads were answered, by whether they waited for bytes that were not here";
        registry.register_with_unit("fuse_read_duration", reads, Unit::Seconds, self.reads.clone());
        registry.register_with_unit("fuse_read", "Bytes given to readers", Unit::Bytes, self.read_bytes.clone());
        let waits = "Lookups, listings and the like that waited for a view whose layers were not known";
        registry.register("fuse_view_waits", waits, self.waits.clone());
        registry.register("fuse_errors", "Requests answered with EIO, by cause", self.errors.clone());
    }

    pub(super) fn read_at_once(&self, since: Instant, bytes: usize) {
        self.at_once.observe(since.elapsed());
        self.read_bytes.inc_by(bytes as u64);
    }

    pub(super) fn read_later(&self, since: Instant, bytes: usize) {
        self.waited.observe(since.elapsed());
        self.read_bytes.inc_by(bytes as u64);
    }

    pub(super) fn waits_for_view(&self) {
        self.waits.inc();
    }

    pub(super) fn failed(&self, cause: Cause) {
        self.errors.get_or_create(&Trouble { cause: cause.name() }).inc();
    }
}
