//! What is counted of the CRI proxy.

use std::time::Instant;

use crate::metrics::{Counter, EncodeLabelSet, Family, Gauge, Histogram, Registry, Unit};

/// Counters of the CRI proxy. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    pulls: Family<OutcomeLabel, Counter>,
    active: Gauge,
    seconds: Histogram,
    unanswered: Counter,
}

/// How a PullImage ended before it came to containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Verified,
    Failed,
    Forwarded,
    GivenUp,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// A pull while it is under way. One that is dropped was given up by its client.
pub(super) struct Pull<'a> {
    metrics: &'a Metrics,
    started: Instant,
    outcome: Outcome,
}

/// Seconds: what is here already, small images, large ones, slow networks.
const SECONDS: [f64; 12] = [0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0];

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        Self {
            pulls: Family::default(),
            active: Gauge::default(),
            seconds: Histogram::new(SECONDS),
            unanswered: Counter::default(),
        }
    }
}

impl Metrics {
    /// Counters that `registry` shows.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for outcome in [Outcome::Verified, Outcome::Failed, Outcome::Forwarded, Outcome::GivenUp] {
            drop(metrics.pulls.get_or_create(&OutcomeLabel { outcome: outcome.name() }));
        }
        registry.register(
            "cri_pulls",
            "PullImage calls by how their image was made local: verified, failed, forwarded to containerd as it was, given up",
            metrics.pulls.clone(),
        );
        registry.register("cri_pulls_active", "PullImage calls that wait for layers", metrics.active.clone());
        registry.register_with_unit(
            "cri_pull",
            "Time from a PullImage to all layers being verified and local",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        registry.register("cri_unanswered", "Calls that containerd did not answer", metrics.unanswered.clone());
        metrics
    }

    pub(super) fn pull(&self) -> Pull<'_> {
        self.active.inc();
        Pull { metrics: self, started: Instant::now(), outcome: Outcome::GivenUp }
    }

    pub(super) fn unanswered(&self) {
        self.unanswered.inc();
    }
}

// === impl Outcome ===

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Failed => "failed",
            Self::Forwarded => "forwarded",
            Self::GivenUp => "given_up",
        }
    }
}

// === impl Pull ===

impl Pull<'_> {
    pub(super) fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
        if outcome == Outcome::Verified {
            self.metrics.seconds.observe(self.started.elapsed().as_secs_f64());
        }
    }
}

impl Drop for Pull<'_> {
    fn drop(&mut self) {
        self.metrics.active.dec();
        self.metrics.pulls.get_or_create(&OutcomeLabel { outcome: self.outcome.name() }).inc();
    }
}
