//! Indexes as they come with an image, from the footer or the manifest on: with arbitrary bytes where anybody may have put some, and
//! digests that fit, for who makes an image chooses them. What is read is a sound tree, and frames within the blob.

use std::fs::File;
use std::sync::LazyLock;

use oncefs::blob::{InMemory, Layered};
use oncefs::digest::Digest;
use oncefs::index::frames::{Bond, FrameId, Frames};
use oncefs::index::scan::{Limits, Parts};
use oncefs::index::sources::{Beliefs, read};
use oncefs::index::tree::read::Tree;

use super::documents::{Documents, layer_of};

const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
const CONTAINERS: [&str; 2] =
    ["io.github.containers.zstd-chunked.manifest-position", "io.github.containers.zstd-chunked.manifest-checksum"];
const STARGZ: [&str; 2] =
    ["io.containers.zstd-chunked.manifest-position", "io.containers.zstd-chunked.manifest-checksum"];
const SOCI_INDEX: &str = "com.amazon.soci.index-digest";

/// The footer of a blob whose table is in another image.
const ELSEWHERE: &[u8] =
    b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x15\0SG\x11\0STARGZEXTERNALTOC\x01\0\0\xff\xff\0\0\0\0\0\0\0\0";

/// What the manifest binds, and nothing else.
const BELIEFS: Beliefs<'static> = Beliefs { keys: &[], unsigned: None };

static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().build().expect("a runtime"));

/// A byte that says what the rest is: a blob with its footer, a blob that lacks one, or the manifest of an image of tables and, after a zero
/// byte, a table as it is packed. The table's JSON has another digest than the manifest wants: what is in it is the target `toc`'s.
pub(crate) fn fuzz_estargz(bytes: &[u8]) {
    let Some((mode, rest)) = bytes.split_first() else { return };
    let mut beside = Documents::default();
    let blob = match mode % 3 {
        0 => rest.to_vec(),
        1 => [rest, &footer(rest.len() as u64 / 2)].concat(),
        _ => [b"blob", ELSEWHERE].concat(),
    };
    let layer = layer_of(&blob, "gzip", &[(TOC_DIGEST, Digest::of(b"a table").to_string())]);
    if mode % 3 == 2 {
        let (manifest, table) = parts(rest);
        let digest = beside.put(table);
        let named = String::from_utf8_lossy(manifest).replace("TABLE", &digest.to_string());
        beside.called = Some(named.replace("LAYER", &layer.digest.to_string()).into_bytes());
    }
    look_into(&layer, blob, &beside, &BELIEFS);
}

fn footer(table_start: u64) -> Vec<u8> {
    let digits = format!("{table_start:016x}");
    [&b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0"[..], digits.as_bytes(), b"STARGZ\x01\0\0\xff\xff\0\0\0\0\0\0\0\0"]
        .concat()
}

/// A byte for the dialect, and the text of the position up to a zero byte; then the blob.
pub(crate) fn fuzz_zstd_chunked(bytes: &[u8]) {
    let Some((dialect, rest)) = bytes.split_first() else { return };
    let (position, blob) = parts(rest);
    let position = String::from_utf8_lossy(position).into_owned();
    // Bound is whatever lies at the place, as its maker would have it.
    let mut numbers = position.split(':').map(|number| number.parse::<usize>().unwrap_or(usize::MAX));
    let (start, len) = (numbers.next().unwrap_or(usize::MAX), numbers.next().unwrap_or(usize::MAX));
    let table = start.checked_add(len).and_then(|end| blob.get(start..end)).unwrap_or(b"");
    let [position_key, checksum_key] = if dialect % 2 == 0 { CONTAINERS } else { STARGZ };
    let annotations = [(position_key, position), (checksum_key, Digest::of(table).to_string())];
    look_into(&layer_of(blob, "zstd", &annotations), blob.to_vec(), &Documents::default(), &BELIEFS);
}

/// The index's manifest, a ztoc and a prefetch artifact, with a zero byte after the first and the length of the last before it, in two bytes; in the
/// manifest ZTOC, PREFETCH and LAYER stand for their digests. The layer is as large as the ztoc has it, if the manifest says so.
pub(crate) fn fuzz_soci(bytes: &[u8]) {
    let (manifest, rest) = parts(bytes);
    let Some((head, rest)) = rest.split_first_chunk::<4>() else { return };
    let (prefetch_len, blob_len) = (u16::from_le_bytes([head[0], head[1]]), u16::from_le_bytes([head[2], head[3]]));
    let (prefetch, ztoc) = rest.split_at(usize::from(prefetch_len).min(rest.len()));
    let blob = [&[0x1f, 0x8b, 8, 0][..], &vec![0; usize::from(blob_len)]].concat()[..usize::from(blob_len)].to_vec();
    let mut beside = Documents::default();
    let mut layer = layer_of(&blob, "gzip", &[]);
    let named = String::from_utf8_lossy(manifest)
        .replace("ZTOC", &beside.put(ztoc).to_string())
        .replace("PREFETCH", &beside.put(prefetch).to_string())
        .replace("LAYER", &layer.digest.to_string());
    let index = beside.put(named.as_bytes());
    layer.annotations.insert(SOCI_INDEX.to_owned(), index.to_string());
    look_into(&layer, blob, &beside, &BELIEFS);
}

/// What is before the first zero byte, and what is after it.
pub(super) fn parts(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|byte| *byte == 0) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, b""),
    }
}

/// Why the index that was found is believed, if one was: its tree is sound, and its frames lie within the blob.
pub(super) fn look_into(layer: &Layered, blob: Vec<u8>, beside: &Documents, beliefs: &Beliefs<'_>) -> Option<Bond> {
    let file = || -> File { tempfile::tempfile().expect("a temporary file") };
    let parts = Parts { data: file(), tree: file(), frames: file() };
    let limits = Limits { inodes_max: 5000, names_bytes_max: 8 << 20, ..Limits::default() };
    let blob = InMemory(blob.into());
    let read = RUNTIME.block_on(read(layer, &blob, beside, beliefs, &parts, &limits));
    read.ok().flatten()?;
    Tree::open(&parts.tree).and_then(|tree| tree.check()).expect("a sound tree");
    let frames = Frames::open(&parts.frames).expect("frames that follow one another within the blob");
    for id in (0..frames.len()).map(FrameId) {
        let source = frames.get(id).expect("a frame").source;
        assert!(source.start < source.end && source.end <= layer.size);
    }
    frames.heading().bond
}
