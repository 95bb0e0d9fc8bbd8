//! What is counted and measured, in Prometheus's terms. Each module has a `Metrics` of its own, registered where the daemon
//! is put together; there are no globals.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use prometheus_client::collector::Collector;
use prometheus_client::encoding::NoLabelSet;
pub use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric, MetricEncoder,
};
pub use prometheus_client::metrics::MetricType;
pub use prometheus_client::metrics::counter::{ConstCounter, Counter};
pub use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
pub use prometheus_client::metrics::histogram::Histogram;
pub use prometheus_client::metrics::info::Info as Facts;
pub use prometheus_client::registry::{Registry, Unit};

use prometheus_client::metrics::TypedMetric;

/// What the text that [`encode`] gives is called in HTTP.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// As text that Prometheus reads (OpenMetrics 1.0).
pub fn encode(registry: &Registry) -> String {
    let mut text = String::new();
    let _writing_to_a_string_never_fails = prometheus_client::encoding::text::encode(&mut text, registry);
    text
}

/// A histogram of how long something took. Who observes takes no lock: some nanoseconds, whoever else observes or reads.
/// Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Latency {
    shared: Arc<Times>,
}

#[derive(Debug, Default)]
struct Times {
    /// The last is for what took longer than all bounds.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

/// Upper bounds of the buckets in nanoseconds: from what comes out of memory to what a person gives up on.
const BOUNDS: [u64; 14] = [
    10_000,
    50_000,
    200_000,
    1_000_000,
    5_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
    60_000_000_000,
    600_000_000_000,
];

const NANOS_PER_SECOND: f64 = 1e9;

// === impl Latency ===

impl Latency {
    pub fn observe(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let at = BOUNDS.iter().position(|bound| nanos <= *bound).unwrap_or(BOUNDS.len());
        if let Some(bucket) = self.shared.buckets.get(at) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.shared.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// How many were observed.
    pub fn count(&self) -> u64 {
        self.shared.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }
}

impl TypedMetric for Latency {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Latency {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = BOUNDS.iter().map(|nanos| *nanos as f64 / NANOS_PER_SECOND).chain([f64::INFINITY]);
        let counts = self.shared.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        // Of the same moment as the buckets, so that they fit together.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let seconds = self.shared.nanos.load(Ordering::Relaxed) as f64 / NANOS_PER_SECOND;
        encoder.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_in_the_bucket_whose_bound_they_do_not_pass() {
        let latency = Latency::default();
        for nanos in [0, 10_000, 10_001, 700_000_000_000] {
            latency.observe(Duration::from_nanos(nanos));
        }
        assert_eq!(latency.count(), 4);
        let mut registry = Registry::default();
        registry.register_with_unit("thing", "Things", Unit::Seconds, latency);
        let text = encode(&registry);
        for line in [
            "# TYPE thing_seconds histogram",
            "# UNIT thing_seconds seconds",
            "thing_seconds_sum 700.000020001",
            "thing_seconds_count 4",
            "thing_seconds_bucket{le=\"0.00001\"} 2",
            "thing_seconds_bucket{le=\"0.00005\"} 3",
            "thing_seconds_bucket{le=\"600.0\"} 3",
            "thing_seconds_bucket{le=\"+Inf\"} 4",
        ] {
            assert!(text.lines().any(|written| written == line), "{line} is missing in\n{text}");
        }
    }
}
