//! What becomes of starts and their profiles, and of indexes that are published by themselves.

use crate::metrics::{Counter, EncodeLabelSet, Family, Registry, Unit};

/// Counters of images. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(super) recorded: Counter,
    taken: Counter,
    foreseen: Family<ForeseenLabel, Counter>,
    pub(super) ahead_bytes: Counter,
    pub(super) used_bytes: Counter,
    published: Family<PublishedLabel, Counter>,
}

/// Who says what a start will want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Foreseen {
    /// Earlier starts on this node.
    Here,
    /// Those on another node.
    Elsewhere,
    /// The indexes of the layers: a landmark, or what is to be prefetched.
    Index,
}

/// How an attempt to publish an index by itself ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    Published,
    /// What was published before has got its profile.
    WithProfile,
    ThereIsOne,
    NotScanned,
    /// The image lies on this machine and came from no registry.
    Local,
    Refused,
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ForeseenLabel {
    by: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PublishedLabel {
    outcome: &'static str,
}

const FORESEEN: [Foreseen; 3] = [Foreseen::Here, Foreseen::Elsewhere, Foreseen::Index];

const ATTEMPTS: [Attempt; 7] = [
    Attempt::Published,
    Attempt::WithProfile,
    Attempt::ThereIsOne,
    Attempt::NotScanned,
    Attempt::Local,
    Attempt::Refused,
    Attempt::Failed,
];

// === impl Foreseen ===

impl Foreseen {
    fn label(self) -> ForeseenLabel {
        let by = match self {
            Self::Here => "here",
            Self::Elsewhere => "elsewhere",
            Self::Index => "index",
        };
        ForeseenLabel { by }
    }
}

// === impl Attempt ===

impl Attempt {
    fn label(self) -> PublishedLabel {
        let outcome = match self {
            Self::Published => "published",
            Self::WithProfile => "with_profile",
            Self::ThereIsOne => "there_is_one",
            Self::NotScanned => "not_scanned",
            Self::Local => "local",
            Self::Refused => "refused",
            Self::Failed => "failed",
        };
        PublishedLabel { outcome }
    }
}

// === impl Metrics ===

impl Metrics {
    pub(super) fn new() -> Self {
        let metrics = Self {
            recorded: Counter::default(),
            taken: Counter::default(),
            foreseen: Family::default(),
            ahead_bytes: Counter::default(),
            used_bytes: Counter::default(),
            published: Family::default(),
        };
        // A counter that nobody sees before it counts cannot be watched.
        for foreseen in FORESEEN {
            drop(metrics.foreseen.get_or_create(&foreseen.label()));
        }
        for outcome in ATTEMPTS {
            drop(metrics.published.get_or_create(&outcome.label()));
        }
        metrics
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register("starts_recorded", "Starts of images that were watched and kept", self.recorded.clone());
        let help = "Profiles of another node's starts that were taken in";
        registry.register("starts_profiles_taken", help, self.taken.clone());
        let help = "Starts for which bytes were fetched ahead, by who foresaw them: earlier starts here, starts elsewhere, the index";
        registry.register("starts_foreseen", help, self.foreseen.clone());
        let help = "Bytes of blobs fetched ahead for starts";
        registry.register_with_unit("starts_ahead", help, Unit::Bytes, self.ahead_bytes.clone());
        let help = "Of those, the bytes that starts have read while they were watched";
        registry.register_with_unit("starts_ahead_used", help, Unit::Bytes, self.used_bytes.clone());
        let help = "Attempts to publish an image's index by itself, by how they ended";
        registry.register("index_publishing", help, self.published.clone());
    }

    pub(super) fn took_profile(&self) {
        self.taken.inc();
    }

    pub(super) fn foresaw(&self, foreseen: Foreseen) {
        self.foreseen.get_or_create(&foreseen.label()).inc();
    }

    pub(super) fn published(&self, outcome: Attempt) {
        self.published.get_or_create(&outcome.label()).inc();
    }
}
