//! The seam between where bytes come from and everybody else: `registry` implements it, `index` and `store`
//! see nothing of a registry but this.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};
use serde::{Deserialize, Serialize};

use crate::digest::{DiffId, Digest, LayerDigest};
use crate::gate::Urgency;

/// A layer as its manifest and config speak of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layered {
    pub digest: LayerDigest,
    pub diff_id: DiffId,
    /// Bytes of the blob.
    pub size: u64,
    pub media_type: String,
    /// Its own, and those of the manifest that are about its layers.
    pub annotations: BTreeMap<String, String>,
}

/// Where a blob can be had again, as a text that outlives the process and holds no credential:
/// `docker://HOST[:PORT]/REPOSITORY`, `oci:DIRECTORY` or `oci-archive:FILE`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Origin(pub String);

/// Opens a layer's blob at its origin, also long after the image was resolved.
pub trait Blobs: Send + Sync + 'static {
    fn open(&self, layer: LayerDigest, size: u64, origin: Origin) -> BoxFuture<'_, Result<Arc<dyn Blob>, BlobError>>;

    /// Whether it may be there: not so where this machine's own disk had it, and has it no more. Blocking, for a look there.
    fn may_have(&self, layer: &LayerDigest, origin: &Origin) -> bool {
        let _nobody_knows = (layer, origin);
        true
    }
}

/// One blob whose bytes can be had whole or in parts. Nothing here is verified: the caller does that.
pub trait Blob: Send + Sync + 'static {
    /// Bytes of the blob as the manifest gives them.
    fn size(&self) -> u64;

    /// The bytes that came last were not the blob's: they are not had from that place again. Says whether there is another.
    fn was_wrong(&self) -> bool {
        false
    }

    /// Bytes that come from it in the time of a round trip, as far as is known: to ask for one more of them takes no longer than to
    /// ask again. 0 where nothing is waited for.
    fn carries(&self) -> u64 {
        0
    }

    /// Exactly the bytes of `range`; a source that has fewer is an error.
    fn range(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, BlobError>>;

    /// The same for work that may wait, or that somebody waits for: readers go first wherever there is a queue.
    fn range_for(&self, range: Range<u64>, urgency: &Urgency) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        let _there_is_no_queue = urgency;
        self.range(range)
    }

    /// The whole blob in order. Ends early only with an error; a longer source is cut with an error too.
    fn stream(&self) -> BoxStream<'static, Result<Bytes, BlobError>>;
}

/// What lies where a layer's blob does: documents and blobs that say something of it.
pub trait Beside: Send + Sync {
    /// The manifest of this digest, compared with it; manifests have a size that registries limit.
    fn manifest(&self, digest: Digest) -> BoxFuture<'_, Result<Bytes, BlobError>>;

    /// The manifest that is called as the image is, with `ending` after its tag. Nothing binds it to the image.
    fn called<'a>(&'a self, ending: &'a str) -> BoxFuture<'a, Result<Bytes, BlobError>>;

    /// The blob of this digest, which must have so many bytes. They are not compared with it.
    fn blob(&self, digest: Digest, size: u64) -> BoxFuture<'_, Result<Bytes, BlobError>>;

    /// The manifests that are about the image, of whatever type. Nothing binds them to it. However many ask on an image's
    /// behalf, its registry is asked once.
    fn referrers(&self) -> BoxFuture<'_, Result<Arc<[Referrer]>, BlobError>>;
}

/// A manifest that is about another one, as its registry lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referrer {
    pub digest: Digest,
    pub size: u64,
    pub artifact_type: String,
    pub annotations: BTreeMap<String, String>,
}

/// A place with nothing beside the layer.
#[derive(Debug, Clone, Copy)]
pub struct Nothing;

/// Why a blob's bytes could not be had. `message` names host, status and remedy; it never holds a credential.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BlobError {
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Denied(String),
    /// It is away, or overloaded: another time it may answer.
    #[error("{0}")]
    Unreachable(String),
    #[error("the source has {has} bytes where the manifest says {want}")]
    Size { has: u64, want: u64 },
    #[error("{0}")]
    Other(String),
}

/// A blob held in memory: for tests and for small things.
#[derive(Debug, Clone)]
pub struct InMemory(pub Bytes);

/// A blob that fails in one chosen way: the tests' picture of a bad network.
pub struct Faulty<B> {
    pub inner: B,
    pub fault: Fault,
}

/// What a [`Faulty`] blob does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The stream breaks with an error after this many bytes; ranges fail.
    BreaksAfter(u64),
    /// The stream simply ends after this many bytes, with no error.
    EndsAfter(u64),
    /// The byte at this offset has a flipped bit, whichever way it is read.
    FlippedAt(u64),
}

// === impl Origin ===

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl InMemory ===

/// As much as a socket gives at a time.
const PIECE_BYTES: usize = 64 << 10;

impl Blob for InMemory {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn range(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        Box::pin(async move {
            let end = usize::try_from(range.end).ok().filter(|end| *end <= self.0.len() && range.start <= range.end);
            let Some(end) = end else {
                return Err(BlobError::Size { has: self.size(), want: range.end });
            };
            Ok(self.0.slice(range.start as usize..end))
        })
    }

    fn stream(&self) -> BoxStream<'static, Result<Bytes, BlobError>> {
        let mut rest = self.0.clone();
        stream::iter(std::iter::from_fn(move || {
            (!rest.is_empty()).then(|| Ok(rest.split_to(rest.len().min(PIECE_BYTES))))
        }))
        .boxed()
    }
}

// === impl Nothing ===

impl Beside for Nothing {
    fn manifest(&self, digest: Digest) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        Box::pin(async move { Err(BlobError::NotFound(format!("no manifest {digest}"))) })
    }

    fn called<'a>(&'a self, ending: &'a str) -> BoxFuture<'a, Result<Bytes, BlobError>> {
        Box::pin(async move { Err(BlobError::NotFound(format!("no manifest whose tag ends with {ending}"))) })
    }

    fn blob(&self, digest: Digest, _: u64) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        Box::pin(async move { Err(BlobError::NotFound(format!("no blob {digest}"))) })
    }

    fn referrers(&self) -> BoxFuture<'_, Result<Arc<[Referrer]>, BlobError>> {
        Box::pin(async { Ok([].into()) })
    }
}

// === impl Faulty ===

impl<B: Blob> Blob for Faulty<B> {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn range(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        Box::pin(async move {
            match self.fault {
                Fault::BreaksAfter(at) | Fault::EndsAfter(at) if range.end > at => Err(broken(at)),
                Fault::FlippedAt(at) => Ok(flipped(self.inner.range(range.clone()).await?, range.start, at)),
                _ => self.inner.range(range).await,
            }
        })
    }

    fn stream(&self) -> BoxStream<'static, Result<Bytes, BlobError>> {
        let fault = self.fault;
        let pieces = self.inner.stream().scan((0u64, false), move |(passed, over), piece| {
            let item = match piece {
                _ if *over => None,
                Err(error) => Some(Err(error)),
                Ok(mut piece) => {
                    let start = *passed;
                    *passed += piece.len() as u64;
                    match fault {
                        Fault::FlippedAt(at) => Some(Ok(flipped(piece, start, at))),
                        Fault::BreaksAfter(at) if *passed > at => {
                            *over = true;
                            Some(Err(broken(at)))
                        }
                        Fault::EndsAfter(at) if *passed > at => {
                            *over = true;
                            piece.truncate((at - start) as usize);
                            Some(Ok(piece))
                        }
                        _ => Some(Ok(piece)),
                    }
                }
            };
            std::future::ready(item)
        });
        pieces.boxed()
    }
}

fn broken(at: u64) -> BlobError {
    BlobError::Unreachable(format!("connection closed after {at} bytes"))
}

fn flipped(piece: Bytes, start: u64, at: u64) -> Bytes {
    let mut bytes = piece.to_vec();
    if let Some(byte) = at.checked_sub(start).and_then(|i| bytes.get_mut(i as usize)) {
        *byte ^= 1;
    }
    bytes.into()
}
