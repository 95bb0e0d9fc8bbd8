//! All metrics put together: what each module counts, and what is looked up when somebody asks.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::runtime::Handle;

use super::health::Health;
use super::mounts::Mounts;
use super::node::{Node, blocking};
use crate::config::Config;
use crate::control::FailureKind;
use crate::cri;
use crate::metrics::{
    Collector, ConstCounter, ConstGauge, Counter, DescriptorEncoder, EncodeLabelSet, EncodeMetric, Facts, Family,
    MetricType, Registry, Unit, encode,
};
use crate::snapshotter::{Filters, Kind, Snapshots};

/// What is shown to whoever watches.
pub(super) struct Exposed {
    registry: Registry,
    health: Health,
}

/// What the server itself counts. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Counted {
    failures: Family<Failed, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failed {
    cause: &'static str,
}

/// What is looked up.
struct Looked {
    node: Node,
    mounts: Mounts,
    snapshots: Option<Snapshots>,
}

#[derive(Debug)]
struct Process {
    started: f64,
}

const KINDS: [FailureKind; 7] = [
    FailureKind::Usage,
    FailureKind::NotFound,
    FailureKind::Denied,
    FailureKind::Unreachable,
    FailureKind::Corrupt,
    FailureKind::Store,
    FailureKind::Other,
];

/// Ours begin with this.
const PREFIX: &str = "oncefs";

// === impl Exposed ===

impl Exposed {
    /// `snapshots` are there where root's one mount is.
    pub(super) fn new(
        node: &Node,
        mounts: &Mounts,
        snapshots: Option<Snapshots>,
        config: &Config,
    ) -> (Counted, cri::Metrics, Arc<Self>) {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process { started: now() }));
        let ours = registry.sub_registry_with_prefix(PREFIX);
        ours.register("build", "The program's version", Facts::new([("version", env!("CARGO_PKG_VERSION"))]));
        let counted = Counted::register(ours);
        node.images().registry().counters().register(ours);
        node.images().metrics().register(ours);
        mounts.metrics().register(ours);
        let cri = cri::Metrics::register(ours);
        if let Some(snapshots) = &snapshots {
            snapshots.metrics().register(ours);
        }
        let fs = snapshots.is_some().then(|| config.run.join("fs"));
        ours.register_collector(Box::new(Looked { node: node.clone(), mounts: mounts.clone(), snapshots }));
        let health = Health::new(node.clone(), fs);
        (counted, cri, Arc::new(Self { registry, health }))
    }

    pub(super) async fn health(&self) -> Result<(), String> {
        self.health.check().await
    }

    /// All of it, as Prometheus reads it.
    pub(super) async fn text(self: &Arc<Self>) -> String {
        let exposed = self.clone();
        // Looks at every layer, and at /proc.
        blocking(move || encode(&exposed.registry)).await.unwrap_or_default()
    }
}

// === impl Counted ===

impl Counted {
    fn register(registry: &mut Registry) -> Self {
        let failures = Family::default();
        for kind in KINDS {
            drop(failures.get_or_create(&Failed { cause: name_of(kind) }));
        }
        registry.register("call_failures", "Calls on the control socket that failed, by cause", failures.clone());
        Self { failures }
    }

    pub(super) fn failed(&self, kind: FailureKind) {
        self.failures.get_or_create(&Failed { cause: name_of(kind) }).inc();
    }
}

fn name_of(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Usage => "usage",
        FailureKind::NotFound => "not_found",
        FailureKind::Denied => "denied",
        FailureKind::Unreachable => "unreachable",
        FailureKind::Corrupt => "corrupt",
        FailureKind::Store => "store",
        FailureKind::Other => "other",
    }
}

// === impl Looked ===

impl fmt::Debug for Looked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Looked(..)")
    }
}

impl Looked {
    fn encode_fetching(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counts = self.node.images().store().fetch_counts();
        gauge(
            encoder,
            "fetch_waiting",
            "Fetches for readers that wait for a source that is away",
            None,
            counts.waiting,
        )?;
        counter(
            encoder,
            "fetch_waited",
            "Fetches for readers that had to wait for a source that was away",
            counts.waited,
        )?;
        counter(
            encoder,
            "fetch_outages",
            "How often a layer's source was away when a reader wanted it",
            counts.outages,
        )?;
        counter(encoder, "fetch_outage_tries", "How often such a source was asked again", counts.outage_tries)?;
        counter(
            encoder,
            "fetch_read_aheads",
            "Fetches ahead of readers that read a file on and on",
            counts.read_aheads,
        )?;
        let help =
            "Fetches of what lies around bytes that readers waited for, over links that carry much in a round trip";
        counter(encoder, "fetch_arounds", help, counts.arounds)
    }

    fn encode_completion(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let images = self.node.images();
        let counts = images.completion_counts();
        let bytes = Some(&Unit::Bytes);
        counter_of(encoder, "completion", "Bytes of blobs that passed in the background", bytes, counts.bytes)?;
        counter(
            encoder,
            "completion_verified",
            "Layers whose blobs were found to be what they should be",
            counts.verified,
        )?;
        counter(encoder, "completion_wrong", "Layers whose blobs or indexes were found to be wrong", counts.wrong)?;
        let quarantined = images.store().quarantines().len() as u64;
        gauge(
            encoder,
            "layers_quarantined",
            "Layers that were found to be wrong and not scanned since",
            None,
            quarantined,
        )
    }

    fn encode_cache(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let usage = self.node.images().store().cache_usage();
        let bytes = Some(&Unit::Bytes);
        gauge(encoder, "cache_max", "Bound of the content on disk; 0 is without one", bytes, usage.max_bytes)?;
        counter(encoder, "cache_evicted_frames", "Frames that went to make room", usage.evicted.frames)?;
        counter(encoder, "cache_unkept_frames", "Frames served without being kept: no room", usage.unkept_frames)?;
        let deduplicated = self.node.images().store().deduplicated_bytes();
        let help = "Bytes that another layer here had already: taken from there and not fetched";
        counter(encoder, "cache_deduplicated_bytes", help, deduplicated)?;
        gauge(encoder, "cache_pinned", "Pinned images", None, self.node.images().pinned().len() as u64)
    }
}

impl Collector for Looked {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let images = self.node.images();
        let (mut layers, mut data, mut resident) = (0u64, 0u64, 0u64);
        for layer in images.store().layers() {
            layers += 1;
            data += layer.data_bytes();
            resident += layer.resident_bytes();
        }
        let bytes = Some(&Unit::Bytes);
        gauge(&mut encoder, "layers", "Layers in the store", None, layers)?;
        gauge(&mut encoder, "layers_data", "Content of the layers in the store", bytes, data)?;
        gauge(&mut encoder, "layers_resident", "Of it, what is here and verified", bytes, resident)?;
        self.encode_cache(&mut encoder)?;
        self.encode_fetching(&mut encoder)?;
        self.encode_completion(&mut encoder)?;
        if let Ok(space) = images.store().statfs() {
            gauge(&mut encoder, "store_free", "Room for more on the store's disk", bytes, space.available)?;
        }
        let (started, joined) = images.scan_counts();
        let scanning = images.scanning();
        gauge(&mut encoder, "scans_running", "Layers that are being fetched, verified and indexed", None, scanning)?;
        counter(&mut encoder, "scans_started", "Flights begun for a layer that somebody wanted", started)?;
        counter(&mut encoder, "scans_joined", "How often somebody joined one that was under way", joined)?;
        counter(&mut encoder, "scans_failed", "Background scans that failed", images.failed_scans())?;
        let claims: usize = images.claimed().iter().map(|image| image.claims).sum();
        gauge(&mut encoder, "chain_claims", "Claims of containerd's snapshots on chains", None, claims as u64)?;
        let all = self.snapshots.as_ref().map_or_else(Vec::new, |snapshots| snapshots.list(&Filters::default()));
        let of = |kind: Kind| all.iter().filter(|snapshot| snapshot.kind == kind).count() as u64;
        let kinds = [("active", of(Kind::Active)), ("view", of(Kind::View)), ("committed", of(Kind::Committed))];
        family(&mut encoder, "snapshots", "containerd's snapshots, by kind", &kinds)?;
        let mounts = self.mounts.reports().len() as u64;
        gauge(&mut encoder, "mounts", "Images mounted by oncefs mount", None, mounts)?;
        gauge(
            &mut encoder,
            "mounts_leaving",
            "Mounts out of sight that are still in use",
            None,
            self.mounts.leaving() as u64,
        )?;
        let tasks = Handle::try_current().map_or(0, |runtime| runtime.metrics().num_alive_tasks() as u64);
        gauge(&mut encoder, "tasks", "Tasks that have begun and not ended", None, tasks)
    }
}

// === impl Process ===

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let started = ConstGauge::new(self.started);
        let help = "Start time of the process since the epoch";
        let unit = Some(&Unit::Seconds);
        started.encode(encoder.encode_descriptor("process_start_time", help, unit, started.metric_type())?)?;
        let bytes = Some(&Unit::Bytes);
        gauge(
            &mut encoder,
            "process_resident_memory",
            "Memory of the process",
            bytes,
            status("VmRSS").unwrap_or(0) * 1024,
        )?;
        gauge(&mut encoder, "process_threads", "Threads of the process", None, status("Threads").unwrap_or(0))?;
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, |open| open.count() as u64);
        gauge(&mut encoder, "process_open_fds", "Open file descriptors", None, open)
    }
}

/// A number of proc(5)'s /proc/pid/status.
fn status(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(Path::new("/proc/self/status")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, unit: Option<&Unit>, value: u64) -> fmt::Result {
    let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
}

/// Gauges of one name that differ in their `kind`.
fn family(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, kinds: &[(&str, u64)]) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (kind, value) in kinds {
        let gauge = ConstGauge::new(i64::try_from(*value).unwrap_or(i64::MAX));
        gauge.encode(family.encode_family(&[("kind", *kind)])?)?;
    }
    Ok(())
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    counter_of(encoder, name, help, None, value)
}

fn counter_of(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: u64,
) -> fmt::Result {
    let counter = ConstCounter::new(value);
    counter.encode(encoder.encode_descriptor(name, help, unit, counter.metric_type())?)
}
