//! Judging a layer whose index was not made here, while its blob passes by.
//!
//! Where a manifest binds the index, the blob's digest is what is left to be compared. Where nothing binds it, all of it may be a
//! lie: the layer is unpacked as a scan does, beside the one that is served, and then every name, attribute and byte of the two is
//! compared.

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};

use super::Images;
use super::background::NotWanted;
use super::chains::Wanting;
use crate::blob::{Blob, BlobError};
use crate::digest::{Hasher, LayerDigest};
use crate::errors::with_causes;
use crate::flight::Failed;
use crate::index::scan::{Parts, Progress, ScanError, scan};
use crate::index::sources::own_files;
use crate::index::tree::compare::compare;
use crate::index::tree::read::Tree;
use crate::index::tree::{Nid, Place};
use crate::store::{FillError, FillFailed, Finding, Layer, Passing, Priority, ReadError};
use crate::sync::{Arc, Mutex};

/// What was found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Judgement {
    Good(Finding),
    /// The index, or what it is of, is not what it should be.
    Bad(String),
    /// The source is wrong; the index may be right.
    Suspect(String),
    /// Nothing: something else was in the way.
    Unknown(String),
}

/// How much of two files is compared at a time.
const COMPARED_BYTES: usize = 1 << 20;

/// Lets all of the blob pass, and judges it. `with_content`: what is in it, too.
pub(super) async fn judge(
    images: &Images,
    layer: &Arc<Layer>,
    wanting: &Wanting,
    with_content: bool,
) -> Result<Judgement, NotWanted> {
    if !with_content {
        return judge_blob(images, layer).await;
    }
    let first = judge_content(images, layer, wanting).await?;
    if !matches!(first, Judgement::Suspect(_)) {
        return Ok(first);
    }
    // Damage on the way is no lie: it happens once, or at one place.
    layer.distrust_source().await;
    Ok(match judge_content(images, layer, wanting).await? {
        Judgement::Suspect(cause) => Judgement::Bad(cause),
        judged => judged,
    })
}

async fn judge_blob(images: &Images, layer: &Arc<Layer>) -> Result<Judgement, NotWanted> {
    let mut passing = match layer.pass() {
        Ok(passing) => passing,
        Err(error) => return Ok(Judgement::Unknown(with_causes(&error))),
    };
    let mut hasher = Hasher::default();
    loop {
        images.give_way(layer, false, passing.next_bytes()).await?;
        match passing.next().await {
            Ok(Some(piece)) => match tokio::task::spawn_blocking(move || hashed(hasher, &piece)).await {
                Ok(after) => hasher = after,
                Err(error) => return Ok(Judgement::Unknown(error.to_string())),
            },
            Ok(None) => break,
            Err(failed) if is_wrong(&failed) => return Ok(Judgement::Suspect(with_causes(&failed))),
            Err(failed) => return Ok(Judgement::Unknown(with_causes(&failed))),
        }
    }
    let got = LayerDigest(hasher.finish());
    if got == layer.digest() {
        return Ok(Judgement::Good(Finding::Blob));
    }
    Ok(Judgement::Suspect(format!("the blob as a whole has the digest {got}")))
}

fn hashed(mut hasher: Hasher, piece: &Bytes) -> Hasher {
    hasher.update(piece);
    hasher
}

/// Whether the bytes that came were not what the index says of them.
fn is_wrong(failed: &FillFailed) -> bool {
    let Failed::Work(error) = failed else { return false };
    matches!(**error, FillError::Mismatch { .. } | FillError::Decode { .. })
}

/// A pass as a blob for the scan: its only reader.
struct Passed {
    images: Images,
    layer: Arc<Layer>,
    passing: Mutex<Option<Passing>>,
    /// Why it ended early.
    ended: Arc<Mutex<Option<Ended>>>,
}

enum Ended {
    NotWanted,
    Failed(FillFailed),
}

async fn judge_content(images: &Images, layer: &Arc<Layer>, wanting: &Wanting) -> Result<Judgement, NotWanted> {
    let unknown = |error: &(dyn std::error::Error + 'static)| Ok(Judgement::Unknown(with_causes(error)));
    let (store, digest) = (images.store().clone(), layer.digest());
    let receiving = match tokio::task::spawn_blocking(move || store.receive(&digest)).await {
        Ok(Ok(receiving)) => receiving,
        Ok(Err(error)) => return unknown(&error),
        Err(error) => return unknown(&error),
    };
    let passing = match layer.pass() {
        Ok(passing) => passing,
        Err(error) => return unknown(&error),
    };
    let ended = Arc::new(Mutex::new(None));
    let (own, passing) = (images.clone(), Mutex::new(Some(passing)));
    let blob = Passed { images: own, layer: layer.clone(), passing, ended: ended.clone() };
    let limits = images.shared.limits.lock().clone();
    let scanned = scan(&wanting.layer, &blob, receiving.parts(), &limits, &Arc::new(Progress::default())).await;
    match (scanned, ended.lock().take()) {
        (_, Some(Ended::NotWanted)) => return Err(NotWanted),
        (_, Some(Ended::Failed(failed))) if is_wrong(&failed) => return Ok(Judgement::Suspect(with_causes(&failed))),
        (_, Some(Ended::Failed(failed))) => return unknown(&failed),
        (Err(error), None) if is_of_the_source(&error) => return Ok(Judgement::Suspect(with_causes(&error))),
        (Err(error), None) if is_of_this_node(&error) => return unknown(&error),
        (Err(error), None) => return Ok(Judgement::Bad(with_causes(&error))),
        (Ok(_verified), None) => {}
    }
    let files = match same_tree(layer, receiving.parts()).await {
        Ok(files) => files,
        Err(judgement) => return Ok(judgement),
    };
    same_bytes(images, layer, receiving.parts(), files).await
}

/// Whether the bytes were not the layer's.
fn is_of_the_source(error: &ScanError) -> bool {
    matches!(error, ScanError::TooShort { .. } | ScanError::TooLong { .. } | ScanError::BlobDigest { .. })
}

/// Whether it says nothing of the layer.
fn is_of_this_node(error: &ScanError) -> bool {
    matches!(
        error,
        ScanError::Blob { .. } | ScanError::Disk { .. } | ScanError::Threads { .. } | ScanError::Stopped { .. }
    )
}

/// A file of the index, the same in the scanned tree, and its size.
type Same = (Nid, Nid, u64);

/// Compares the trees; gives the scanned one, and the files whose bytes are left to be compared.
async fn same_tree(layer: &Arc<Layer>, parts: &Parts) -> Result<(Arc<Tree>, Vec<Same>), Judgement> {
    let unknown = |error: &(dyn std::error::Error + 'static)| Judgement::Unknown(with_causes(error));
    let (layer, file) = (layer.clone(), parts.tree.try_clone().map_err(|error| unknown(&error))?);
    let own = own_files(layer.frames().heading().index_source);
    let comparing = tokio::task::spawn_blocking(move || {
        let scanned = Tree::open(&file).map_err(|error| unknown(&error))?;
        let files = compare(layer.tree(), &scanned, own).map_err(|lie| Judgement::Bad(with_causes(&lie)))?;
        Ok((Arc::new(scanned), files))
    });
    comparing.await.map_err(|error| unknown(&error))?
}

/// Compares the content of files, as it is served, with what was found.
async fn same_bytes(
    images: &Images,
    layer: &Arc<Layer>,
    parts: &Parts,
    (scanned, files): (Arc<Tree>, Vec<Same>),
) -> Result<Judgement, NotWanted> {
    let data = match parts.data.try_clone() {
        Ok(data) => Arc::new(data),
        Err(error) => return Ok(Judgement::Unknown(with_causes(&error))),
    };
    for (said, found, size) in files {
        let mut at = 0;
        while at < size {
            let (layer, scanned, data) = (layer.clone(), scanned.clone(), data.clone());
            let len = COMPARED_BYTES.min(usize::try_from(size - at).unwrap_or(COMPARED_BYTES));
            let comparing = {
                let layer = layer.clone();
                tokio::task::spawn_blocking(move || {
                    let what =
                        content::read(&scanned, found, at, len, |offset, out| content::read_file(&data, offset, out))?;
                    let served = content::read(layer.tree(), said, at, len, |offset, out| layer.read_at(offset, out))?;
                    Ok(what == served)
                })
            };
            match comparing.await {
                Ok(Ok(true)) => at += len as u64,
                Ok(Ok(false)) => {
                    let cause = format!("a file of {size} bytes has other content in the index than in the layer");
                    return Ok(Judgement::Bad(cause));
                }
                // What found no room in the cache, or has left it again.
                Ok(Err(content::Unread::Missing(frames))) => {
                    images.give_way(&layer, true, 0).await?;
                    match layer.fill_for(frames, Priority::Background).await {
                        Err(failed) if is_wrong(&failed) => return Ok(Judgement::Suspect(with_causes(&failed))),
                        Err(failed) => return Ok(Judgement::Unknown(with_causes(&failed))),
                        Ok(()) => {}
                    }
                }
                Ok(Err(content::Unread::Tree(error))) => return Ok(Judgement::Bad(with_causes(&error))),
                Ok(Err(content::Unread::Disk(cause))) => return Ok(Judgement::Unknown(cause)),
                Err(error) => return Ok(Judgement::Unknown(error.to_string())),
            }
        }
    }
    Ok(Judgement::Good(Finding::Content))
}

// === impl Passed ===

impl Blob for Passed {
    fn size(&self) -> u64 {
        self.layer.frames().heading().blob_bytes
    }

    fn range(&self, range: std::ops::Range<u64>) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        let message = format!("bytes {range:?} were asked for of a blob that passes by");
        Box::pin(async move { Err(BlobError::Other(message)) })
    }

    fn stream(&self) -> BoxStream<'static, Result<Bytes, BlobError>> {
        let (images, layer, ended) = (self.images.clone(), self.layer.clone(), self.ended.clone());
        let passing = self.passing.lock().take();
        stream::unfold(passing, move |passing| {
            let (images, layer, ended) = (images.clone(), layer.clone(), ended.clone());
            async move {
                let mut passing = passing?;
                let early = |why: Ended| {
                    *ended.lock() = Some(why);
                    Some((Err(BlobError::Other("the pass ended early".to_owned())), None))
                };
                if images.give_way(&layer, true, passing.next_bytes()).await.is_err() {
                    return early(Ended::NotWanted);
                }
                match passing.next().await {
                    Ok(piece) => piece.map(|piece| (Ok(piece), Some(passing))),
                    Err(failed) => early(Ended::Failed(failed)),
                }
            }
        })
        .boxed()
    }
}

/// A file's bytes by its tree, whatever the data file is.
mod content {
    use std::fs::File;
    use std::io;
    use std::ops::Range;
    use std::os::unix::fs::FileExt as _;

    use super::{Nid, Place, ReadError, Tree};
    use crate::index::tree::read::TreeError;

    pub(super) enum Unread {
        Missing(Range<u32>),
        Tree(TreeError),
        Disk(String),
    }

    impl From<ReadError> for Unread {
        fn from(error: ReadError) -> Self {
            match error {
                ReadError::NotResident { frames } => Self::Missing(frames),
                other => Self::Disk(other.to_string()),
            }
        }
    }

    impl From<io::Error> for Unread {
        fn from(error: io::Error) -> Self {
            Self::Disk(error.to_string())
        }
    }

    impl From<TreeError> for Unread {
        fn from(error: TreeError) -> Self {
            Self::Tree(error)
        }
    }

    pub(super) fn read_file(file: &File, at: u64, out: &mut [u8]) -> io::Result<()> {
        file.read_exact_at(out, at)
    }

    pub(super) fn read<E: Into<Unread>>(
        tree: &Tree,
        file: Nid,
        mut at: u64,
        len: usize,
        read_data: impl Fn(u64, &mut [u8]) -> Result<(), E>,
    ) -> Result<Vec<u8>, Unread> {
        let mut bytes = vec![0; len];
        let mut rest = bytes.as_mut_slice();
        while !rest.is_empty() {
            let extent = tree.extent(file, at)?;
            let here = usize::try_from(extent.len).unwrap_or(usize::MAX).min(rest.len());
            let (part, after) = rest.split_at_mut(here);
            match extent.place {
                Place::Data(offset) => read_data(offset, part).map_err(Into::into)?,
                Place::Tree(offset) => part.copy_from_slice(tree.bytes(offset, here as u64)?),
                Place::Hole => {}
            }
            at += here as u64;
            rest = after;
        }
        Ok(bytes)
    }
}
