//! Three threads and what flows between them.
//!
//! ```text
//! fetch --batches--> unpack --buffers--> keep: data file, frame digests, frames, tar -> draft -> tree
//!                       |---batches, buffers--> hash: sha256 of the blob, sha256 of the tar
//! ```
//!
//! Inflating costs about as much as all the rest together, so it has a thread of its own; the blob's hash is beside
//! the tar's because neither alone would fill one. Each channel's end is an end of work: whoever fails lets go of its
//! receiver, and those before it stop at their next send.

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::buffers::{BUFFERS, Filled};
use super::keep::{Keeper, Outcome};
use super::unpack::{Feed, Unpacked};
use super::{Limits, Parts, Piece, Progress, ScanError, Verified};
use crate::blob::Layered;
use crate::digest::{DiffId, Digest, Hasher, LayerDigest};
use crate::index::codec::Codec;
use crate::sync::Arc;

/// One layer to scan.
pub(super) struct Job {
    pub(super) layer: Layered,
    pub(super) parts: Parts,
    pub(super) limits: Limits,
    pub(super) progress: Arc<Progress>,
    /// Set when nobody wants the result any more.
    pub(super) stop: Arc<AtomicBool>,
}

/// What is to be hashed, of each kind in its order.
pub(super) enum Hashed {
    Blob(Vec<Bytes>),
    Tar(Arc<Filled>),
}

struct Digests {
    blob: Digest,
    tar: Digest,
}

// === impl Job ===

impl Job {
    /// Scans to the end, in this thread and two more, which are gone when this returns.
    pub(super) fn run(self, mut pieces: mpsc::Receiver<Piece>) -> Result<Verified, ScanError> {
        let keeper = Keeper::new(&self)?;
        let (unpacked, digests, outcome) = thread::scope(|scope| {
            // Made in here, so that an early return closes them and the threads end.
            let (to_hash, hashed) = sync_channel(BUFFERS);
            let (to_keep, kept) = sync_channel(2 * BUFFERS);
            let hash =
                thread::Builder::new().name("scan-hash".to_owned()).spawn_scoped(scope, move || hash(&hashed))?;
            let keep = thread::Builder::new().name("scan-keep".to_owned());
            let keep = keep.spawn_scoped(scope, move || keeper.run(&kept))?;
            let unpacked = Feed::new(&self, to_hash, to_keep).run(&mut pieces);
            pieces.close();
            Ok((unpacked, joined(hash.join()), joined(keep.join())))
        })
        .map_err(|source| ScanError::Threads { layer: self.layer.digest, source })?;
        self.judge(unpacked, &digests, outcome?)
    }

    /// What it all means. Whether the blob is the right one comes before anything that was found in it.
    fn judge(&self, unpacked: Unpacked, digests: &Digests, outcome: Outcome) -> Result<Verified, ScanError> {
        let layer = self.layer.digest;
        let codec = match unpacked {
            Unpacked::Whole { codec } => Ok(codec),
            Unpacked::Broken(source) => Err(ScanError::Decode { layer, source }),
            Unpacked::Ended(error) => return Err(error),
        };
        let outcome = codec.and_then(|codec| match outcome {
            Outcome::Whole { heading, tree } => Ok((codec, Ok(Verified { heading, tree }))),
            Outcome::Useless(error) => Ok((codec, Err(error))),
            Outcome::Stopped => Err(ScanError::Stopped { layer }),
        });
        let got = LayerDigest(digests.blob);
        if got != layer {
            let source = outcome.and_then(|(_, verified)| verified).err().map(ScanError::into_damage);
            return Err(ScanError::BlobDigest { layer, got, source });
        }
        let (codec, verified) = outcome?;
        let got = DiffId(if codec == Codec::Plain { digests.blob } else { digests.tar });
        if got != self.layer.diff_id {
            return Err(ScanError::DiffId { layer, want: self.layer.diff_id, got });
        }
        verified
    }
}

fn hash(hashed: &Receiver<Hashed>) -> Digests {
    let (mut blob, mut tar) = (Hasher::default(), Hasher::default());
    for item in hashed {
        match item {
            Hashed::Blob(pieces) => pieces.iter().for_each(|piece| blob.update(piece)),
            Hashed::Tar(bytes) => tar.update(&bytes),
        }
    }
    Digests { blob: blob.finish(), tar: tar.finish() }
}

/// A panic in one thread is a panic of the scan.
fn joined<T>(outcome: thread::Result<T>) -> T {
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
