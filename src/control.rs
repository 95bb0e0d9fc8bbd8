//! What programs say to the server, and the client that says it: HTTP and JSON over a unix socket.
//!
//! Every call is answered by lines of JSON, each an [`Event`]: news while it works, and last [`Event::Done`] or
//! [`Event::Failed`]. A client that goes away gives up its claim on the work.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, LayerDigest};
use crate::sys::mount::Restrictions;

mod cache;
mod client;
mod index;
mod trace;
mod wanted;

pub use cache::{CacheReport, PinSummary, PruneCall, PruneSummary, RemoveSummary};
pub use client::{Client, ClientError, socket};
pub use index::{IndexAction, IndexCall, IndexLayer, IndexReport, IndexSummary};
pub use trace::{TraceReport, TracedLayer, TracedRequest, TracedTouch};
pub use wanted::{Wanted, one_name};

/// What the server can be asked. The name of each is its path below `/v1/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Call {
    Mount(MountCall),
    Umount(UmountCall),
    Pull(PullCall),
    Status,
    Inspect(PullCall),
    Check(CheckCall),
    /// The image's layers stay in the cache.
    Pin(PullCall),
    Unpin(PullCall),
    /// The image is forgotten, unless somebody needs it.
    #[serde(rename = "rm")]
    Remove(PullCall),
    Prune(PruneCall),
    /// What is published of an image's index.
    Index(IndexCall),
    /// The image's last start.
    Trace(PullCall),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountCall {
    pub image: String,
    pub platform: Option<String>,
    /// Absolute, and free of symlinks.
    pub at: PathBuf,
    /// The same directory as the caller has it open, `/proc/<pid>/fd/<number>`. Who looks an automount's directory up while it is
    /// being mounted waits for that, unless the automounter has started him.
    #[serde(default)]
    pub opened: Option<PathBuf>,
    pub owner: Owner,
    /// Answer only when all layers are here.
    pub wait: bool,
    #[serde(default)]
    pub restrictions: Restrictions,
}

/// Whom files are shown to belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// As the image says.
    Image,
    /// One user and group, for everything.
    Of(u32, u32),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UmountCall {
    /// `None` is all.
    pub at: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullCall {
    pub image: String,
    pub platform: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckCall {
    pub repair: bool,
    /// With whom snapshots are compared.
    #[serde(default)]
    pub containerd: Option<ContainerdCall>,
}

/// A containerd, and what it calls oncefs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerdCall {
    pub socket: PathBuf,
    pub snapshotter: String,
}

/// One line of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// Something that the caller should know beside.
    Told(String),
    /// The image's manifest and config are known.
    Resolved(ImageReport),
    /// Where its layers are now.
    Layers(Vec<LayerReport>),
    /// How far a check is.
    Checked {
        bytes_done: u64,
        bytes: u64,
    },
    Done {
        outcome: Outcome,
        /// The server has nothing left to do and ends.
        server_ends: bool,
    },
    Failed(Failure),
}

/// How a call ended well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Mounted {
        at: PathBuf,
    },
    /// What was unmounted.
    Unmounted {
        at: Vec<PathBuf>,
    },
    Pulled(ImageReport),
    Status(Box<StatusReport>),
    Inspected(Box<InspectReport>),
    Checked(CheckSummary),
    Pinned(PinSummary),
    Unpinned(PinSummary),
    Removed(RemoveSummary),
    Pruned(PruneSummary),
    Indexes(IndexSummary),
    Traced(Box<TraceReport>),
}

/// What a successful call came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub outcome: Outcome,
    pub server_ends: bool,
}

/// Why a call failed: what kind of failure, and the whole story on one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub kind: FailureKind,
    pub message: String,
}

/// Failures that a script may want to tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The caller asked for something that makes no sense.
    Usage,
    /// No such image, or not for this platform; nothing is mounted there.
    NotFound,
    /// The registry wants other credentials, or the server another caller.
    Denied,
    /// The registry cannot be reached, or does not answer.
    Unreachable,
    /// What came is not what its digest says, or no layer at all.
    Corrupt,
    /// The store is locked, full, or read-only.
    Store,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageReport {
    pub reference: String,
    pub platform: String,
    pub manifest_digest: Digest,
    pub layers: Vec<LayerReport>,
    /// The registry is away; this is what it said the last time.
    pub remembered: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerReport {
    pub digest: LayerDigest,
    /// Bytes of the blob.
    pub size: u64,
    pub state: State,
    /// Bytes of the blob that have come, while it is scanned.
    pub fetched: u64,
    /// Bytes of the layer's content, and how many of them are on disk; 0 until it is ready.
    pub data_bytes: u64,
    pub resident_bytes: u64,
    /// Where the index came from.
    pub index: Option<String>,
    /// Why an index that came with the layer was not used.
    #[serde(default)]
    pub declined: Option<String>,
    /// Who waits for it.
    #[serde(default)]
    pub waiting: Option<WaitReport>,
    /// Why the last scan failed.
    pub error: Option<String>,
}

/// Readers that wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitReport {
    pub count: usize,
    /// The first of them, for so long.
    pub longest_ms: u64,
    /// Which frames that one waits for, from the first to before the last; none where it waits for the layer's index or scan.
    pub frames: Option<(u32, u32)>,
    /// Why, if it is because the layer's source is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away: Option<AwayReport>,
}

/// A source that is away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwayReport {
    pub since_ms: u64,
    /// How often it was asked again meanwhile.
    pub tries: u32,
    /// What the last answer was.
    pub cause: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Untouched,
    Queued,
    Scanning,
    Ready,
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountReport {
    pub at: PathBuf,
    pub image: ImageReport,
    /// Whether somebody has looked into it.
    pub loaded: bool,
}

/// An image of which containerd has claimed chains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimedReport {
    pub image: ImageReport,
    /// Snapshots of any of its chains.
    pub claims: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    pub version: String,
    pub root: PathBuf,
    /// The server's process; none if the store was looked at with no server running.
    pub server: Option<u32>,
    pub mounts: Vec<MountReport>,
    /// Mounts that are out of sight and served on to their last user.
    pub leaving: usize,
    /// Images of which containerd has claimed chains.
    #[serde(default)]
    pub claimed: Vec<ClaimedReport>,
    /// Every image that is known, whether somebody uses it or not.
    #[serde(default)]
    pub images: Vec<ImageReport>,
    /// Every layer in the store.
    pub layers: Vec<LayerReport>,
    /// Bytes on the store's disk that are free for it, and all.
    pub free_bytes: u64,
    pub total_bytes: u64,
    /// What of them is kept.
    #[serde(default)]
    pub cache: CacheReport,
    /// A sentence for each host that is believed without proof of who it is.
    #[serde(default)]
    pub unverified: Vec<String>,
    /// Scans started, and how often somebody joined one that was under way.
    pub scans: (u64, u64),
    /// Why nothing can be recorded until the server is started again, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_failure: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InspectReport {
    pub image: ImageReport,
    pub media_type: String,
    pub layer_media_types: Vec<String>,
    /// The image's config as it is.
    pub config: serde_json::Value,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckSummary {
    pub layers: u64,
    pub frames: u64,
    pub bytes: u64,
    /// One sentence each, with what was done about it.
    pub problems: Vec<String>,
    /// Whether nothing that was found wrong is left.
    pub repaired: bool,
    /// If it was asked for.
    #[serde(default)]
    pub snapshots: Option<SnapshotsSummary>,
}

/// Snapshots, compared with those that containerd knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotsSummary {
    /// Both know them.
    pub common: u64,
    /// One sentence for each that containerd alone knows, with what to do.
    pub lost: Vec<String>,
    /// One for each that it does not know: never, or not any more.
    pub left_over: Vec<String>,
}

// === impl Call ===

impl Call {
    /// The path it is posted to.
    pub fn path(&self) -> &'static str {
        match self {
            Self::Mount(_) => "/v1/mount",
            Self::Umount(_) => "/v1/umount",
            Self::Pull(_) => "/v1/pull",
            Self::Status => "/v1/status",
            Self::Inspect(_) => "/v1/inspect",
            Self::Check(_) => "/v1/check",
            Self::Pin(_) => "/v1/pin",
            Self::Unpin(_) => "/v1/unpin",
            Self::Remove(_) => "/v1/rm",
            Self::Prune(_) => "/v1/prune",
            Self::Index(_) => "/v1/index",
            Self::Trace(_) => "/v1/trace",
        }
    }
}

// === impl Failure ===

impl Failure {
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}
