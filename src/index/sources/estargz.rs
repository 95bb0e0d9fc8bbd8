//! eStargz (stargz-snapshotter, docs/estargz.md): a gzip of many members whose last but one holds a table of contents, and
//! whose last, the footer, says where that one begins.

mod elsewhere;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::toc::{Landmarks, Packing, Shape, read_toc};
use super::unpacked::unpack;
use super::{Contents, Fault, Source, Wanted, aside};
use crate::blob::Layered;
use crate::digest::{Digest, check};
use crate::index::codec::Codec;
use crate::index::frames::IndexSource;
use crate::index::tar::sole_file;

pub(super) struct EStargz;

/// The digest of the table's JSON. Layers of zstd:chunked may have one too.
pub(super) const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";

/// Names in the tar that are the format's and not the layer's.
pub(super) const HIDDEN: &[&str] = &[TOC_NAME, LANDMARKS.wanted_before, LANDMARKS.nothing_wanted];
pub(super) const LANDMARKS: Landmarks =
    Landmarks { wanted_before: ".prefetch.landmark", nothing_wanted: ".no.prefetch.landmark" };
const TOC_NAME: &str = "stargz.index.json";

/// A footer is an empty gzip member whose extra field says where the table begins, in 16 hexadecimal digits.
const FOOTER_BYTES: usize = 51;
const FOOTER_BEGIN: &[u8] = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0";
const FOOTER_END: &[u8] = b"STARGZ\x01\0\0\xff\xff\0\0\0\0\0\0\0\0";
/// What is near the end of footers that are not read: CRFS's own.
const MARK: &[u8] = b"STARGZ";

/// The first request brings so much of the blob's end. Tables take about 0.5 % of a blob: mostly one request is enough.
const TAIL_SHARE: u64 = 128;
const TAIL_BYTES_MIN: u64 = 32 << 10;

/// A table of 100,000 files takes 40 MB, and a tenth of that packed.
pub(super) const TOC_BYTES_MAX: u64 = 128 << 20;
pub(super) const TOC_PACKED_BYTES_MAX: u64 = 32 << 20;

impl Source for EStargz {
    fn kind(&self) -> IndexSource {
        IndexSource::EStargz
    }

    fn bound_by(&self, layer: &Layered) -> Option<Digest> {
        let is_gzip = layer.media_type.ends_with("gzip");
        layer.annotations.get(TOC_DIGEST).filter(|_| is_gzip)?.parse().ok()
    }

    fn read<'a>(&'a self, wanted: &'a Wanted<'a>, bound_by: Digest) -> BoxFuture<'a, Result<Option<Contents>, Fault>> {
        Box::pin(async move {
            let (packed, data_end) = fetch(wanted).await?;
            let limits = wanted.limits.clone();
            let shape = Shape {
                packing: Packing::Gzip,
                data_end,
                blob_bytes: wanted.layer.size,
                hidden: HIDDEN,
                landmarks: Some(LANDMARKS),
            };
            aside(move || {
                let json = unpack_toc(&packed)?;
                let json = check(json, &bound_by)?;
                read_toc(json.get(), &shape, &limits).map(Some)
            })
            .await
        })
    }
}

/// The member of the table, and where the blob's data ends.
async fn fetch(wanted: &Wanted<'_>) -> Result<(Vec<u8>, u64), Fault> {
    let size = wanted.layer.size;
    let tail_bytes = (size / TAIL_SHARE).clamp(TAIL_BYTES_MIN, TOC_PACKED_BYTES_MAX).min(size);
    let tail_start = size - tail_bytes;
    let tail: Bytes = wanted.blob.range(tail_start..size).await?;
    if tail.ends_with(elsewhere::FOOTER) {
        return Ok((elsewhere::fetch(wanted).await?.to_vec(), size - elsewhere::FOOTER.len() as u64));
    }
    let (before, footer) = tail.split_last_chunk::<FOOTER_BYTES>().ok_or(Fault::Format("it is too short"))?;
    let toc = toc_offset(footer)?..size - FOOTER_BYTES as u64;
    if toc.is_empty() || toc.end - toc.start > TOC_PACKED_BYTES_MAX {
        return Err(Fault::Format("its footer points to a table where none can be"));
    }
    let missing = match toc.start.checked_sub(tail_start) {
        Some(at) => return Ok((before.get(at as usize..).unwrap_or_default().to_vec(), toc.start)),
        None => wanted.blob.range(toc.start..tail_start).await?,
    };
    Ok(([&missing, before].concat(), toc.start))
}

fn toc_offset(footer: &[u8; FOOTER_BYTES]) -> Result<u64, Fault> {
    let digits = footer.strip_prefix(FOOTER_BEGIN).and_then(|rest| rest.strip_suffix(FOOTER_END));
    let has = |mark: &[u8]| footer.windows(mark.len()).any(|bytes| bytes == mark);
    match digits {
        Some(digits) => {
            let text =
                std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
            let offset = text.and_then(|text| u64::from_str_radix(text, 16).ok());
            offset.ok_or(Fault::Format("its footer has no offset"))
        }
        None if has(MARK) => Err(Fault::Format("it is of CRFS, before eStargz, and has no digests of chunks")),
        None => Err(Fault::Format("there is no footer at the blob's end")),
    }
}

/// The JSON in a gzip of a tar of one file.
fn unpack_toc(packed: &[u8]) -> Result<Vec<u8>, Fault> {
    let tar = unpack(Codec::Gzip, packed, TOC_BYTES_MAX)?;
    let json = sole_file(&tar, TOC_NAME.as_bytes());
    json.map(<[u8]>::to_vec).ok_or(Fault::Format("its table of contents is not in the tar that it should be in"))
}

#[cfg(test)]
mod tests;
