//! The scan: the one streaming pass over a layer that has no index. It fetches, verifies, unpacks, fills the data file
//! and builds tree and frames.
//!
//! One task fetches; three threads (`pipeline`) do the rest, so that both cores of a small machine have work and a
//! slow disk or network holds up only itself. What a scan holds in memory besides the draft of the tree is bounded
//! whatever the layer's size: about 1 MiB of fetched bytes, 2 MiB of fetched bytes to be hashed, 2 MiB of tar, half a MiB of
//! windows; and for zstd the blob's own window, 2 to 8 MiB at usual levels and at most 128.
//!
//! Nothing counts until [`Verified`] exists: the files of a failed scan are worthless and their maker deletes them.
//! What is written is not durable yet either; that is the store's to see to.

mod buffers;
mod error;
mod keep;
mod pipeline;
mod unpack;

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::blob::{Blob, Layered};
use crate::index::frames::Heading;
use crate::index::tar::TarLimits;
use crate::index::tree::draft::DraftLimits;
use crate::index::tree::write::Written;
use crate::sync::Arc;

pub use error::{Part, ScanError};

/// The three files of a layer, made empty by the store in a place where nobody looks for layers.
#[derive(Debug)]
pub struct Parts {
    pub data: File,
    pub tree: File,
    pub frames: File,
}

/// What a layer may be at most. A layer beyond is refused while it streams by, before it does harm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of the unpacked tar: 64 GiB by default, room for large model weights and not for a whole disk.
    pub data_bytes_max: u64,
    /// How many times its blob's size a layer may unpack to. Programs and texts reach 3 to 10, sparse databases 100;
    /// gzip's own limit is 1032.
    pub ratio_max: u64,
    /// Up to this size the ratio is not looked at, so that a small blob may hold a large file of zeros.
    pub ratio_from_bytes: u64,
    /// Inodes and names of the layer, replaced ones too.
    pub inodes_max: u32,
    /// Bytes of names, targets and attributes: together with the inodes, what the draft of a tree holds in memory while
    /// the scan lasts.
    pub names_bytes_max: u64,
}

/// How far a scan has come, for whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of the blob that arrived.
    pub fetched: AtomicU64,
    /// Bytes of the tar that were unpacked.
    pub data: AtomicU64,
}

/// Proof that a layer was scanned to its end and both digests matched. Only [`scan`] makes one.
#[derive(Debug)]
pub struct Verified {
    heading: Heading,
    tree: Written,
}

/// What the fetching task sends.
enum Piece {
    Bytes(Vec<Bytes>),
    /// The blob is complete. Without it the end of the channel means that the scan is over for another reason.
    End,
}

/// Fetched bytes wait for each other until they are so many: one handing-over between threads for each, not one for
/// each packet.
const BATCH_BYTES: usize = 256 << 10;

/// How many such batches may wait for the unpacker.
const BATCHES_WAITING: usize = 4;

/// Tells the threads to stop when the scan's future is dropped, finished or not.
struct StopOnDrop(Arc<AtomicBool>);

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        let draft = DraftLimits::default();
        Self {
            data_bytes_max: 64 << 30,
            ratio_max: 200,
            ratio_from_bytes: 256 << 20,
            inodes_max: draft.inodes_max,
            names_bytes_max: draft.kept_bytes_max,
        }
    }
}

impl Limits {
    fn tar(&self) -> TarLimits {
        TarLimits { data_bytes_max: self.data_bytes_max, ..TarLimits::default() }
    }

    pub(in crate::index) fn draft(&self) -> DraftLimits {
        DraftLimits { inodes_max: self.inodes_max, kept_bytes_max: self.names_bytes_max }
    }
}

// === impl Parts ===

impl Parts {
    pub(in crate::index) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { data: self.data.try_clone()?, tree: self.tree.try_clone()?, frames: self.frames.try_clone()? })
    }
}

// === impl Verified ===

impl Verified {
    pub fn heading(&self) -> &Heading {
        &self.heading
    }

    pub fn tree(&self) -> &Written {
        &self.tree
    }
}

// === impl StopOnDrop ===

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Scans `layer`, whose bytes `blob` gives, into `parts`. Dropping the future ends all work within a buffer's time.
///
/// Must be called inside a tokio runtime; the work is done on its blocking threads.
pub async fn scan(
    layer: &Layered,
    blob: &dyn Blob,
    parts: &Parts,
    limits: &Limits,
    progress: &Arc<Progress>,
) -> Result<Verified, ScanError> {
    let parts = parts.try_clone().map_err(|source| ScanError::disk(layer, Part::Staging, source))?;
    let (send, receive) = mpsc::channel(BATCHES_WAITING);
    let stop = Arc::new(AtomicBool::new(false));
    let guard = StopOnDrop(Arc::clone(&stop));
    let job =
        pipeline::Job { layer: layer.clone(), parts, limits: limits.clone(), progress: Arc::clone(progress), stop };
    let work = tokio::task::spawn_blocking(move || job.run(receive));
    let fetched = fetch(layer, blob, progress, send).await;
    if fetched.is_err() {
        guard.0.store(true, Ordering::Relaxed);
    }
    let scanned = match work.await {
        Ok(scanned) => scanned,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(ScanError::Stopped { layer: layer.digest }), // the runtime is shutting down
        },
    };
    fetched.and(scanned)
}

/// Sends the blob to the pipeline. A pipeline that wants no more has its own reason, and is no error here.
async fn fetch(
    layer: &Layered,
    blob: &dyn Blob,
    progress: &Progress,
    send: mpsc::Sender<Piece>,
) -> Result<(), ScanError> {
    let mut stream = blob.stream();
    let (mut got, mut batch, mut batch_bytes) = (0u64, Vec::new(), 0);
    loop {
        let piece = tokio::select! {
            piece = stream.next() => piece,
            () = send.closed() => return Ok(()), // also while the network says nothing
        };
        let Some(piece) = piece else { break };
        let piece = piece.map_err(|source| ScanError::Blob { layer: layer.digest, source })?;
        got += piece.len() as u64;
        if got > layer.size {
            return Err(ScanError::TooLong { layer: layer.digest, want: layer.size });
        }
        progress.fetched.store(got, Ordering::Relaxed);
        batch_bytes += piece.len();
        batch.push(piece);
        if batch_bytes >= BATCH_BYTES {
            batch_bytes = 0;
            if send.send(Piece::Bytes(std::mem::take(&mut batch))).await.is_err() {
                return Ok(());
            }
        }
    }
    if got < layer.size {
        return Err(ScanError::TooShort { layer: layer.digest, want: layer.size, got });
    }
    // A failed send means the same as above: the pipeline knows why.
    if send.send(Piece::Bytes(batch)).await.is_ok() {
        let _ = send.send(Piece::End).await;
    }
    Ok(())
}
