//! zstd layers of several frames: each can be had alone once the layer was scanned, whatever a seek table says of them.

use oncefs::index::frames::{FrameId, Frames};
use oncefs::index::scan::Limits;
use oncefs::index::tree::read::Tree;

use super::made;

const PIECE: usize = 700_000;

/// A seek table (zstd, contrib/seekable_format/zstd_seekable_compression_format.md): packed and unpacked sizes of frames.
fn seek_table(sizes: &[(u32, u32)]) -> Vec<u8> {
    let mut table: Vec<u8> =
        sizes.iter().flat_map(|(packed, bytes)| [packed.to_le_bytes(), bytes.to_le_bytes()]).flatten().collect();
    table.extend((sizes.len() as u32).to_le_bytes());
    table.push(0);
    table.extend(0x8f92_eab1u32.to_le_bytes());
    let header = [0x184d_2a5eu32.to_le_bytes(), (table.len() as u32).to_le_bytes()].concat();
    [header, table].concat()
}

/// A tar as programs make several frames of it: one after the other, by several threads, and with a seek table that is right or
/// that lies in every way.
fn blobs(tar: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let frames: Vec<Vec<u8>> = tar.chunks(PIECE).map(|piece| made::through("zstd", &["-3", "-c"], piece)).collect();
    let sizes: Vec<_> =
        frames.iter().zip(tar.chunks(PIECE)).map(|(packed, bytes)| (packed.len() as u32, bytes.len() as u32)).collect();
    let with_table = |sizes: &[(u32, u32)]| [frames.concat(), seek_table(sizes)].concat();
    let shifted: Vec<_> = sizes.iter().map(|(packed, bytes)| (packed / 2, bytes * 3)).collect();
    vec![
        ("one zstd after the other", frames.concat()),
        ("pzstd", made::through("pzstd", &["-q", "-p", "4", "-1", "-c"], tar)),
        ("a seek table", with_table(&sizes)),
        ("a seek table of other frames", with_table(&shifted)),
        ("a seek table of a single frame", with_table(&[(u32::MAX, u32::MAX)])),
        ("an empty seek table", with_table(&[])),
    ]
}

#[test]
fn frames_are_where_they_are_and_not_where_a_table_says() {
    let tar = made::tar_of(6_000_000);
    let mut trees = Vec::new();
    for (name, blob) in blobs(&tar) {
        let (layer, parts) = (made::layered(&blob, &tar), made::parts());
        made::scan_into(&layer, &made::in_memory(&blob), &parts, &Limits::default()).unwrap();
        assert!(made::content(&parts.data) == tar, "{name}");
        trees.push(made::content(&parts.tree));
        Tree::open(&parts.tree).unwrap().check().unwrap();
        let frames = Frames::open(&parts.frames).unwrap();
        assert!(frames.len() > 1, "{name}");
        made::assert_frames_decode_alone(&frames, &blob, &tar);
        let sources = (0..frames.len()).map(|id| frames.source_range(FrameId(id)).unwrap());
        let largest = sources.map(|source| source.end - source.start).max().unwrap();
        assert!(largest < blob.len() as u64 * 2 / 3, "{name}: {largest} of {} bytes for one frame", blob.len());
    }
    assert!(trees.windows(2).all(|two| two[0] == two[1]));
}
