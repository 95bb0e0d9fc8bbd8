//! What was asked of registries since the start, for status, metrics and the benchmark.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::metrics::{
    Collector, ConstCounter, Counter, DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, Family, Latency, Registry,
    Unit,
};
use crate::registry::error::RegistryError;
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
    /// Answers that asked for a pause, which everybody who talks to that host keeps.
    pub pauses: AtomicU64,
    /// How long registries took to begin an answer.
    latency: Family<Requests, Latency>,
    /// Requests by how they ended, failures of whole questions by why.
    outcomes: Family<Outcomes, Counter>,
    failures: Family<Failures, Counter>,
}

/// Requests of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Requests {
    kind: &'static str,
}

/// Requests that ended in one way.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcomes {
    outcome: &'static str,
}

/// Questions that got no usable answer with all their tries, for one cause.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failures {
    cause: &'static str,
}

const OUTCOMES: [&str; 8] =
    ["success", "moved", "denied", "not_found", "too_many_requests", "server_error", "other", "no_answer"];
const CAUSES: [&str; 10] = [
    "unreachable",
    "untrusted",
    "silent",
    "broken",
    "denied",
    "not_found",
    "too_many_requests",
    "status",
    "wrong_answer",
    "other",
];

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Manifest,
    /// A whole blob.
    Blob,
    /// A part of one.
    Range,
    /// Which manifests are about another one.
    Referrers,
    /// What is sent there.
    Push,
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
    pub pauses: u64,
}

// === impl Kind ===

impl Kind {
    const ALL: [Self; 6] = [Self::Manifest, Self::Blob, Self::Range, Self::Referrers, Self::Push, Self::Token];

    fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::Range => "range",
            Self::Referrers => "referrers",
            Self::Push => "push",
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
        OUTCOMES.iter().for_each(|outcome| drop(self.outcomes.get_or_create(&Outcomes { outcome })));
        let outcomes = "HTTP requests by how they ended; most first requests to a registry are denied, and then repeated with a login";
        registry.register("registry_outcomes", outcomes, self.outcomes.clone());
        CAUSES.iter().for_each(|cause| drop(self.failures.get_or_create(&Failures { cause })));
        let failures = "Questions to registries that got no usable answer with all their tries, by cause";
        registry.register("registry_failures", failures, self.failures.clone());
        registry.register_collector(Box::new(Collected(self.clone())));
    }

    /// One request ended: with this status, or without an answer.
    pub(super) fn answered(&self, status: Option<u16>) {
        let outcome = match status {
            Some(200..=299) => "success",
            Some(300..=399) => "moved",
            Some(401 | 403) => "denied",
            Some(404) => "not_found",
            Some(429) => "too_many_requests",
            Some(500..=599) => "server_error",
            Some(_) => "other",
            None => "no_answer",
        };
        self.outcomes.get_or_create(&Outcomes { outcome }).inc();
    }

    /// All tries of one question failed, the last one so.
    pub(super) fn failed(&self, error: &RegistryError) {
        let cause = match error {
            RegistryError::Unreachable { .. } => "unreachable",
            RegistryError::Untrusted { .. } | RegistryError::NotHttps { .. } => "untrusted",
            RegistryError::Silent { .. } | RegistryError::Stalled { .. } => "silent",
            RegistryError::Broken { .. } => "broken",
            RegistryError::Denied { .. } | RegistryError::Login { .. } => "denied",
            RegistryError::NotFound { .. } => "not_found",
            RegistryError::Busy { .. } => "too_many_requests",
            RegistryError::Status { .. } => "status",
            RegistryError::Protocol { .. }
            | RegistryError::TooLarge { .. }
            | RegistryError::Size { .. }
            | RegistryError::Mismatch { .. } => "wrong_answer",
            _ => "other",
        };
        self.failures.get_or_create(&Failures { cause }).inc();
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
            pauses: read(&self.pauses),
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
            (
                "registry_pauses",
                "Answers that asked all of the node to leave a host alone for a while",
                None,
                now.pauses,
            ),
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
