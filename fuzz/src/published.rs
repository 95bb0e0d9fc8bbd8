//! A published index of arbitrary content, with a header that fits it: what is read of it must make a tree, and frames that are the layer.

use oncefs::blob::Layered;
use oncefs::digest::{DiffId, Digest, LayerDigest};
use oncefs::index::published::unpack;
use oncefs::index::scan::Limits;
use oncefs::index::sources::Contents;
use oncefs::index::tree::read::Tree;
use oncefs::index::tree::write::{Labels, write};

pub(crate) fn fuzz(bytes: &[u8]) {
    let Some((sizes, body)) = bytes.split_first_chunk::<8>() else { return };
    let [frames, windows_low, windows_high, data_low, data_high, ..] = *sizes;
    let window_bytes = u64::from(u16::from_le_bytes([windows_low, windows_high]));
    let data_bytes = u64::from(u16::from_le_bytes([data_low, data_high])) << 9;
    let (digest, diff_id) = (LayerDigest(Digest::of(b"blob")), DiffId(Digest::of(b"tar")));
    let layer = Layered { digest, diff_id, size: 1 << 16, media_type: String::new(), annotations: Default::default() };
    let table_bytes = u64::from(frames) * 64;
    let Some(tree_bytes) = (body.len() as u64).checked_sub(table_bytes + window_bytes) else { return };
    let mut packed = b"1cINDEX\0".to_vec();
    packed.extend(1u32.to_le_bytes());
    packed.extend(u32::from(frames).to_le_bytes());
    packed.extend(digest.0.as_bytes());
    packed.extend(diff_id.0.as_bytes());
    for number in [layer.size, data_bytes, tree_bytes, window_bytes] {
        packed.extend(number.to_le_bytes());
    }
    packed.extend(zstd::bulk::compress(body, 1).expect("bytes can be packed"));
    let limits = Limits { inodes_max: 5000, names_bytes_max: 8 << 20, ..Limits::default() };
    // Without the header's magic nothing would get far; with it, only a few get to a whole tree.
    let Ok(Contents { tree, frames, data_bytes, .. }) = unpack(&packed, &layer, &limits) else { return };
    let mut end = 0;
    for frame in &frames {
        assert!(frame.source.start < frame.source.end && frame.source.end <= layer.size);
        assert!(frame.data.start == end && frame.data.start < frame.data.end);
        end = frame.data.end;
    }
    assert_eq!(end, data_bytes);
    let file = tempfile::tempfile().expect("a temporary file");
    if write(&tree, &Labels { diff_id, data_bytes }, &file).is_ok() {
        Tree::open(&file).and_then(|tree| tree.check()).expect("a sound tree");
    }
}
