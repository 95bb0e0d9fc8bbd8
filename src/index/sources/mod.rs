//! Indexes that others have made of a layer: each source in a file of its own, all of them giving tree and frames. Nothing
//! beyond `index/` knows one from the other.
//!
//! An index is used only if the manifest binds it: a digest in the manifest covers it, and it covers each of its frames; or if a
//! key that is believed here has signed it. Whoever trusts registries gets also those that nobody vouches for.
//! That says nothing of the blob as a whole, nor of the tar in it. One that is malformed, or would cost more than a scan may,
//! is declined with the reason, and the layer is scanned.

mod estargz;
mod moment;
mod published;
mod soci;
mod toc;
mod unpacked;
mod zstd_chunked;

use std::ops::Range;

use futures::future::BoxFuture;

use crate::blob::{Beside, Blob, BlobError, Layered};
use crate::digest::{Digest, Mismatch};
use crate::index::frames::{Bond, Frame, FramesWriter, Heading, IndexSource};
use crate::index::published::signature::PublicKey;
use crate::index::scan::{Limits, Parts};
use crate::index::tree::draft::DraftError;
use crate::index::tree::write::{self, Labels, WriteError};

pub use published::candidates;
#[doc(hidden)] // for fuzzing
pub use soci::{Ztoc, read_ztoc};
#[doc(hidden)]
pub use toc::{Landmarks, Packing, Shape, read_toc};

/// A new source is one file and one line here. The first that a layer is bound to is asked, and no other.
const SOURCES: &[&dyn Source] = &[&published::Published, &zstd_chunked::ZstdChunked, &estargz::EStargz, &soci::Soci];

/// A way in which others write down what is in a layer.
trait Source: Sync {
    fn kind(&self) -> IndexSource;

    /// The digest by which the manifest binds such an index to the layer, if it does.
    fn bound_by(&self, layer: &Layered) -> Option<Digest>;

    /// Fetches the index, in few requests and small ones, and reads it once it has the digest. `None`: it leaves the layer
    /// out.
    fn read<'a>(&'a self, wanted: &'a Wanted<'a>, bound_by: Digest) -> BoxFuture<'a, Result<Option<Contents>, Fault>>;
}

/// A layer whose index is looked for.
struct Wanted<'a> {
    layer: &'a Layered,
    blob: &'a dyn Blob,
    beside: &'a dyn Beside,
    limits: &'a Limits,
}

/// Which index may come to be used for a layer. Two images that have different ones for one blob do not both say the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Binding {
    /// The one that the manifest has this digest of.
    Manifest(IndexSource, Digest),
    /// Any that a key has signed which is believed here.
    Signature,
    /// That too, or any that lies beside the image that is called so.
    Referrer(Digest),
}

/// What is believed of indexes that no manifest binds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Beliefs<'a> {
    /// Those that one of these has signed.
    pub keys: &'a [PublicKey],
    /// Those that nobody has signed, too; the image is called so where it is noted whose they are.
    pub unsigned: Option<Digest>,
}

/// What an index says, in oncefs's own words.
#[derive(Debug)]
pub struct Contents {
    pub tree: write::Source,
    pub frames: Vec<Frame>,
    pub data_bytes: u64,
    /// The frames that the image's maker wants here first; `None` if nothing is said of that.
    pub wanted_first: Option<Vec<Range<u32>>>,
}

/// Tree and frames are written. Only [`read`] makes one.
#[derive(Debug)]
pub struct Indexed {
    heading: Heading,
}

/// Why an index is not used.
#[derive(Debug, thiserror::Error)]
#[error("the layer's index ({source_kind}) was declined")]
pub struct Declined {
    pub source_kind: IndexSource,
    #[source]
    pub cause: Fault,
}

/// What is wrong with an index.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("it cannot be fetched")]
    Blob(#[from] BlobError),
    #[error("it is not the one that the manifest names")]
    Digest(#[from] Mismatch),
    #[error("{0}")]
    Format(&'static str),
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
    #[error("its JSON cannot be read")]
    Json(#[from] serde_json::Error),
    #[error("its version is {0:?}, which is not known here")]
    Version(Option<u64>),
    #[error("its entry {name} {fault}")]
    Entry { name: String, fault: EntryFault },
    #[error("its entries make no tree")]
    Draft(#[source] DraftError),
    #[error("the layer would have more than {0} bytes, the limit data_bytes_max in [scan.limits]")]
    LayerTooLarge(u64),
    #[error("the layer would have more than {0} times its blob's bytes, the limit ratio_max in [scan.limits]")]
    Ratio(u64),
    #[error("the tree cannot be made")]
    Tree(#[source] WriteError),
    #[error("the frames cannot be written")]
    Disk(#[source] std::io::Error),
    #[error("oncefs is stopping")]
    Stopping,
}

/// What is wrong with one entry.
#[derive(Debug, thiserror::Error)]
pub enum EntryFault {
    #[error("has a name or target that JSON could not hold")]
    LostName,
    #[error("is of the unknown type {0:?}")]
    Type(String),
    #[error("has a time that is none")]
    Time,
    #[error("has an extended attribute that is not in base64")]
    Xattr,
    #[error("has chunks that do not make up the file")]
    Chunks,
    #[error("has a chunk that lies outside the blob's data")]
    Outside,
    #[error("has a chunk without a digest that could be checked")]
    NoDigest,
    #[error("is a sparse file, and the index does not say where its bytes are")]
    Sparse,
    #[error("has a chunk too deep within a member")]
    TooDeep,
    #[error("cannot be in a layer: {0}")]
    Draft(#[from] DraftError),
}

// === impl Indexed ===

impl Indexed {
    pub fn heading(&self) -> &Heading {
        &self.heading
    }
}

/// Files of the tar that are the format's own and that its indexes leave out.
pub fn own_files(source: IndexSource) -> &'static [&'static str] {
    match source {
        IndexSource::EStargz | IndexSource::ZstdChunked => estargz::HIDDEN,
        _ => &[],
    }
}

/// What the manifest binds to the layer, if it binds an index that can be read here.
pub fn binding(layer: &Layered) -> Option<Binding> {
    let (source, digest) = bound(layer)?;
    Some(Binding::Manifest(source.kind(), digest))
}

fn bound(layer: &Layered) -> Option<(&'static dyn Source, Digest)> {
    SOURCES.iter().find_map(|source| Some((*source, source.bound_by(layer)?)))
}

/// What was found, where, and why it is believed.
type Found = (Contents, IndexSource, Bond);

/// Reads the index that is bound to the layer, or else one beside the image that is believed, and writes tree and frames into
/// `parts`; the data file becomes one hole. There is none, or it leaves the layer out: `None`. Must be called inside a tokio
/// runtime.
pub async fn read(
    layer: &Layered,
    blob: &dyn Blob,
    beside: &dyn Beside,
    beliefs: &Beliefs<'_>,
    parts: &Parts,
    limits: &Limits,
) -> Result<Option<Indexed>, Declined> {
    let wanted = Wanted { layer, blob, beside, limits };
    let Some((contents, source_kind, bond)) = find(&wanted, beliefs).await? else { return Ok(None) };
    let declined = |cause| Declined { source_kind, cause };
    let (layer, parts) = (layer.clone(), parts.try_clone().map_err(Fault::Disk).map_err(declined)?);
    let written = aside(move || write(&layer, (source_kind, bond), &contents, &parts)).await;
    written.map(Some).map_err(declined)
}

async fn find(wanted: &Wanted<'_>, beliefs: &Beliefs<'_>) -> Result<Option<Found>, Declined> {
    let declined = |source_kind: IndexSource| move |cause| Declined { source_kind, cause };
    if let Some((source, digest)) = bound(wanted.layer) {
        let read = source.read(wanted, digest).await.map_err(declined(source.kind()))?;
        return Ok(read.map(|contents| (contents, source.kind(), Bond::Manifest(digest))));
    }
    if beliefs.keys.is_empty() && beliefs.unsigned.is_none() {
        return Ok(None);
    }
    let published = published::beside_image(wanted, beliefs).await.map_err(declined(IndexSource::Published));
    match (published, beliefs.unsigned) {
        (Ok(Some((contents, bond))), _) => Ok(Some((contents, IndexSource::Published, bond))),
        (published, None) => published.map(|_none| None),
        (published, Some(image)) => match soci::beside_image(wanted).await {
            Ok(Some(contents)) => Ok(Some((contents, IndexSource::Soci, Bond::Referrer(image)))),
            // What was found first is worth more words.
            Ok(None) => published.map(|_none| None),
            Err(cause) => published.and(Err(declined(IndexSource::Soci)(cause))),
        },
    }
}

fn write(
    layer: &Layered,
    (index_source, bond): (IndexSource, Bond),
    contents: &Contents,
    parts: &Parts,
) -> Result<Indexed, Fault> {
    let Contents { tree, frames, data_bytes, wanted_first } = contents;
    let heading = Heading {
        layer: layer.digest,
        diff_id: layer.diff_id,
        blob_bytes: layer.size,
        data_bytes: *data_bytes,
        index_source,
        bond: Some(bond),
    };
    let labels = Labels { diff_id: layer.diff_id, data_bytes: *data_bytes };
    write::write(tree, &labels, &parts.tree).map_err(Fault::Tree)?;
    let mut writer = parts.frames.try_clone().and_then(FramesWriter::new).map_err(Fault::Disk)?;
    frames.iter().try_for_each(|frame| writer.push(frame)).map_err(Fault::Disk)?;
    writer.want_first(wanted_first.clone());
    writer.finish(&heading).map_err(Fault::Disk)?;
    Ok(Indexed { heading })
}

/// Runs what takes the processor for long where it holds nobody up.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Fault::Stopping),
    }
}
