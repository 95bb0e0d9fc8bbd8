//! zstd:chunked, in the dialects of containers/storage (podman, buildah, skopeo) and of stargz-snapshotter: zstd frames, and a
//! table of contents in a skippable one, whose place and digest annotations of the layer say.

use std::ops::Range;

use futures::future::BoxFuture;

use super::estargz::{HIDDEN, LANDMARKS, TOC_BYTES_MAX, TOC_PACKED_BYTES_MAX};
use super::toc::{Landmarks, Packing, Shape, read_toc};
use super::unpacked::unpack;
use super::{Contents, Fault, Source, Wanted, aside};
use crate::blob::Layered;
use crate::digest::{Digest, check};
use crate::index::codec::Codec;
use crate::index::frames::IndexSource;

pub(super) struct ZstdChunked;

/// How the dialects differ, but for their footers, which nobody needs who has the annotations.
struct Dialect {
    /// `OFFSET:LENGTH:UNPACKED:TYPE` of the table.
    position: &'static str,
    /// The digest of the table as it is packed.
    checksum: &'static str,
    hidden: &'static [&'static str],
    landmarks: Option<Landmarks>,
}

const DIALECTS: [Dialect; 2] = [
    Dialect {
        position: "io.github.containers.zstd-chunked.manifest-position",
        checksum: "io.github.containers.zstd-chunked.manifest-checksum",
        hidden: &[],
        landmarks: None,
    },
    Dialect {
        position: "io.containers.zstd-chunked.manifest-position",
        checksum: "io.containers.zstd-chunked.manifest-checksum",
        hidden: HIDDEN,
        landmarks: Some(LANDMARKS),
    },
];

/// The one type of tables that there is.
const TYPE: u64 = 1;
/// Magic and length, before the payload of a skippable frame.
const SKIPPABLE_HEADER_BYTES: u64 = 8;

/// Where a table is.
#[derive(Debug, PartialEq, Eq)]
struct Position {
    packed: Range<u64>,
    bytes: u64,
}

impl Source for ZstdChunked {
    fn kind(&self) -> IndexSource {
        IndexSource::ZstdChunked
    }

    fn bound_by(&self, layer: &Layered) -> Option<Digest> {
        if !layer.media_type.ends_with("zstd") {
            return None;
        }
        layer.annotations.get(dialect(layer)?.checksum)?.parse().ok()
    }

    fn read<'a>(&'a self, wanted: &'a Wanted<'a>, bound_by: Digest) -> BoxFuture<'a, Result<Option<Contents>, Fault>> {
        Box::pin(async move {
            let layer = wanted.layer;
            let dialect = dialect(layer).ok_or(Fault::Format("the layer has no annotation with its position"))?;
            let position = layer.annotations.get(dialect.position).and_then(|text| position(text, layer.size));
            let Position { packed, bytes } = position.ok_or(Fault::Format("its position is none that could be"))?;
            let table = wanted.blob.range(packed.clone()).await?;
            let shape = Shape {
                packing: Packing::Zstd,
                data_end: packed.start.saturating_sub(SKIPPABLE_HEADER_BYTES),
                blob_bytes: layer.size,
                hidden: dialect.hidden,
                landmarks: dialect.landmarks,
            };
            let limits = wanted.limits.clone();
            aside(move || {
                let table = check(table, &bound_by)?;
                let json = unpack(Codec::Zstd, table.get(), bytes)?;
                read_toc(&json, &shape, &limits).map(Some)
            })
            .await
        })
    }
}

fn dialect(layer: &Layered) -> Option<&'static Dialect> {
    DIALECTS.iter().find(|dialect| layer.annotations.contains_key(dialect.position))
}

fn position(text: &str, blob_bytes: u64) -> Option<Position> {
    let mut numbers = text.split(':').map(|number| number.parse::<u64>().ok());
    let [start, length, bytes, kind] = [numbers.next()??, numbers.next()??, numbers.next()??, numbers.next()??];
    let end = start.checked_add(length).filter(|end| *end <= blob_bytes)?;
    let fits = length > 0 && length <= TOC_PACKED_BYTES_MAX && bytes <= TOC_BYTES_MAX;
    (fits && kind == TYPE && numbers.next().is_none()).then_some(Position { packed: start..end, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_position_is_within_the_blob_or_none() {
        let right = Position { packed: 100..150, bytes: 900 };
        assert_eq!(position("100:50:900:1", 150), Some(right));
        for text in [
            "",
            "100:50:900",
            "100:50:900:2",
            "100:50:900:1:1",
            "100:51:900:1",
            "100:0:900:1",
            "-1:50:900:1",
            "18446744073709551615:50:900:1",
            "100:50:134217729:1",
        ] {
            assert_eq!(position(text, 150), None, "{text}");
        }
        assert_eq!(position(&format!("0:{}:1:1", TOC_PACKED_BYTES_MAX + 1), u64::MAX), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text: String, numbers in "[0-9:]{0,60}", size: u64) {
            let _ = position(&text, size);
            prop_assert!(position(&numbers, size).is_none_or(|position| position.packed.end <= size));
        }
    }
}
