//! What is counted and measured, in Prometheus's terms. Each module has a `Metrics` of its own, registered where the daemon
//! is put together; there are no globals.

pub use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;
pub use prometheus_client::registry::{Registry, Unit};

/// As text that Prometheus reads (OpenMetrics 1.0).
pub fn encode(registry: &Registry) -> String {
    let mut text = String::new();
    let _writing_to_a_string_never_fails = prometheus_client::encoding::text::encode(&mut text, registry);
    text
}
