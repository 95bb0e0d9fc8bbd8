//! A ztoc of arbitrary bytes: what is read of it must make a tree, and frames within the blob.

use oncefs::digest::{DiffId, Digest};
use oncefs::index::scan::Limits;
use oncefs::index::sources::{Contents, read_ztoc};
use oncefs::index::tree::read::Tree;
use oncefs::index::tree::write::{Labels, write};

pub(crate) fn fuzz(bytes: &[u8]) {
    // The blob's size as the ztoc may have it, so that more than the comparison of sizes is looked at.
    let Some((size, ztoc)) = bytes.split_first_chunk() else { return };
    let blob_bytes = u64::from(u16::from_le_bytes(*size));
    let limits = Limits { inodes_max: 5000, names_bytes_max: 8 << 20, ..Limits::default() };
    let Ok(ztoc) = read_ztoc(ztoc, blob_bytes, &limits) else { return };
    let Contents { tree, frames, data_bytes, .. } = ztoc.contents;
    let mut end = 0;
    for frame in &frames {
        assert!(frame.source.start < frame.source.end && frame.source.end <= blob_bytes);
        assert!(frame.data.start == end && frame.data.start < frame.data.end);
        end = frame.data.end;
    }
    assert!(end <= data_bytes);
    let (file, diff_id) = (tempfile::tempfile().expect("a temporary file"), DiffId(Digest::of(b"")));
    if write(&tree, &Labels { diff_id, data_bytes }, &file).is_ok() {
        Tree::open(&file).and_then(|tree| tree.check()).expect("a sound tree");
    }
}
