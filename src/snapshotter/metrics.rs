//! How often containerd calls, how the calls end, and how long they take.

use std::time::Instant;

use tonic::{Code, Status};

use crate::metrics::{Counter, EncodeLabelSet, EncodeLabelValue, Family, Histogram, Registry, Unit};

/// Counters of the snapshots service. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    seconds: Family<MethodLabel, Histogram>,
    calls: Family<CallLabels, Counter>,
}

/// As containerd names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum Method {
    Prepare,
    View,
    Mounts,
    Commit,
    Remove,
    Stat,
    Update,
    List,
    Usage,
    Cleanup,
}

const METHODS: [Method; 10] = [
    Method::Prepare,
    Method::View,
    Method::Mounts,
    Method::Commit,
    Method::Remove,
    Method::Stat,
    Method::Update,
    Method::List,
    Method::Usage,
    Method::Cleanup,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabel {
    method: Method,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: Method,
    code: String,
}

/// Seconds: from memory, a flush of the disk, a registry that is asked, one that does not answer.
const SECONDS: [f64; 10] = [0.0001, 0.0005, 0.002, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0];

/// A call while it is under way. One that is dropped was given up by its client.
struct Call<'a> {
    metrics: &'a Metrics,
    method: Method,
    started: Instant,
    code: Code,
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        let metrics =
            Self { seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)), calls: Family::default() };
        // So that each is shown from the start.
        for method in METHODS {
            drop(metrics.seconds.get_or_create(&MethodLabel { method }));
            drop(metrics.calls.get_or_create(&CallLabels { method, code: format!("{:?}", Code::Ok) }));
        }
        metrics
    }
}

impl Metrics {
    /// Has `registry` show these counters.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "snapshotter_call",
            "Time that containerd's calls of the snapshots service took, by method",
            Unit::Seconds,
            self.seconds.clone(),
        );
        registry.register(
            "snapshotter_calls",
            "Calls of containerd's to the snapshots service, by method and code: AlreadyExists of a Prepare is a layer that need not be unpacked",
            self.calls.clone(),
        );
    }

    /// Counts and times one call.
    pub(super) async fn call<T>(
        &self,
        method: Method,
        answering: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let mut call = Call { metrics: self, method, started: Instant::now(), code: Code::Cancelled };
        let answer = answering.await;
        call.code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
        answer
    }
}

// === impl Call ===

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let (method, code) = (self.method, format!("{:?}", self.code));
        self.metrics.seconds.get_or_create(&MethodLabel { method }).observe(self.started.elapsed().as_secs_f64());
        self.metrics.calls.get_or_create(&CallLabels { method, code }).inc();
    }
}
