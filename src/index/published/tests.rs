//! Round trips, and what is refused.

use super::*;
use crate::index::codec::Codec;
use crate::index::frames::{FramesWriter, Heading, IndexSource};
use crate::index::tree::draft::{Attributes, Draft, DraftLimits, Entry, What};
use crate::index::tree::write::{Labels, write};

const DATA: &[u8] = &[7; 6 << 20];

fn layer() -> Layered {
    Layered {
        digest: LayerDigest(Digest::of(b"blob")),
        diff_id: DiffId(Digest::of(DATA)),
        size: 2000,
        media_type: String::new(),
        annotations: Default::default(),
    }
}

fn heading() -> Heading {
    let layer = layer();
    Heading {
        layer: layer.digest,
        diff_id: layer.diff_id,
        blob_bytes: layer.size,
        data_bytes: DATA.len() as u64,
        index_source: IndexSource::Scan(Codec::Gzip),
        bond: None,
    }
}

/// A tree with everything in it that a layer can have.
fn tree() -> Tree {
    let mut draft = Draft::new(DraftLimits::default());
    let attributes = Attributes { mode: 0o644, xattrs: vec![(b"user.x".into(), b"y".into())], ..Attributes::default() };
    let mut apply = |path: &[u8], what| {
        draft.apply(Entry { path, attributes: attributes.clone(), what }).unwrap();
    };
    apply(b"a/file", What::File { size: 5_000_000, at: 512 });
    apply(b"a/b/empty", What::File { size: 0, at: 0 });
    apply(b"a/b/hard", What::HardLink(b"a/file"));
    apply(b"a/b/elsewhere", What::HardLink(b"below/it"));
    apply(b"a/b/soft", What::Symlink(b"../file"));
    apply(b"a/.wh.gone", What::File { size: 0, at: 0 });
    apply(b"c/.wh..wh..opq", What::File { size: 0, at: 0 });
    apply(b"dev", What::CharDevice(5, 1));
    let piece = |at, from| crate::index::tree::write::Piece { at, len: 512, from };
    let bytes = crate::index::tree::write::From::Bytes(vec![9; 512]);
    let sparse = vec![piece(0, bytes), piece(1 << 20, crate::index::tree::write::From::Data(1024))];
    apply(b"sparse", What::Sparse { size: 2 << 20, pieces: sparse });
    let file = tempfile::tempfile().unwrap();
    let labels = Labels { diff_id: layer().diff_id, data_bytes: DATA.len() as u64 };
    write(&draft.finish().unwrap(), &labels, &file).unwrap();
    Tree::open(&file).unwrap()
}

/// Six frames of one MiB, as a scan writes them.
fn scanned() -> Frames {
    let file = tempfile::tempfile().unwrap();
    let mut writer = FramesWriter::new(file.try_clone().unwrap()).unwrap();
    for n in 0..6u64 {
        let data = n << 20..(n + 1) << 20;
        let digest = FrameDigest::of(&DATA[..1 << 20]);
        let start = match n {
            0 => Start::Member,
            n => Start::Block { bits: n as u8, window: vec![n as u8; 32 << 10] },
        };
        writer.push(&Frame { source: n * 300..n * 300 + 301, data, start, digest }).unwrap();
    }
    writer.finish(&heading()).unwrap();
    Frames::open(&file).unwrap()
}

fn packed() -> Vec<u8> {
    pack(&tree(), &scanned()).unwrap()
}

#[test]
fn what_is_published_is_read_as_it_was() {
    let packed = packed();
    let contents = unpack(&packed, &layer(), &Limits::default()).unwrap();
    let scanned: Vec<Frame> = (0..6).map(|id| scanned().get(FrameId(id)).unwrap()).collect();
    assert_eq!(contents.frames, scanned);
    // The tree, written anew, is the same to the byte.
    let file = tempfile::tempfile().unwrap();
    let labels = Labels { diff_id: layer().diff_id, data_bytes: contents.data_bytes };
    write(&contents.tree, &labels, &file).unwrap();
    let (again, tree) = (Tree::open(&file).unwrap(), tree());
    assert_eq!(again.bytes(0, again.size()).unwrap(), tree.bytes(0, tree.size()).unwrap());
    assert_eq!(packed, super::tests::packed(), "the same layer gives the same bytes");
}

#[test]
fn an_index_of_another_layer_is_refused_and_so_is_one_that_is_cut_off_or_longer() {
    let packed = packed();
    let refused = |packed: &[u8], layer: &Layered| unpack(packed, layer, &Limits::default()).unwrap_err().to_string();
    let others = [
        Layered { digest: LayerDigest(Digest::of(b"x")), ..layer() },
        Layered { diff_id: DiffId(Digest::of(b"x")), ..layer() },
        Layered { size: 2001, ..layer() },
    ];
    for other in others {
        assert_eq!(refused(&packed, &other), "it is that of another layer");
    }
    for len in [0, 7, 50, HEADER_BYTES - 1, HEADER_BYTES, packed.len() - 1] {
        assert!(unpack(&packed[..len], &layer(), &Limits::default()).is_err(), "{len}");
    }
    let mut other = packed.clone();
    other[8] = 2;
    assert_eq!(refused(&other, &layer()), "its version is Some(2), which is not known here");
    let mut bomb = packed.clone();
    bomb[96..104].copy_from_slice(&(1u64 << 40).to_le_bytes());
    assert!(refused(&bomb, &layer()).starts_with("it is larger than"));
    let small = Limits { data_bytes_max: 1 << 20, ..Limits::default() };
    assert!(matches!(unpack(&packed, &layer(), &small), Err(Fault::LayerTooLarge(_))));
}

#[test]
fn every_changed_byte_is_noticed_or_changes_nothing_that_readers_are_not_protected_from() {
    let packed = packed();
    let body = zstd::bulk::decompress(&packed[HEADER_BYTES..], 64 << 20).unwrap();
    let tree_bytes = tree().size() as usize;
    // In the tree everything is covered by its own sum; what is in frames is judged by their digests later.
    for at in (1024..tree_bytes).step_by(97) {
        let mut changed = body.clone();
        changed[at] ^= 1;
        let mut other = packed[..HEADER_BYTES].to_vec();
        other.extend(zstd::bulk::compress(&changed, 1).unwrap());
        let same = unpack(&packed, &layer(), &Limits::default()).unwrap();
        match unpack(&other, &layer(), &Limits::default()) {
            Err(_) => {}
            Ok(read) => assert_eq!(format!("{:?}", read.tree), format!("{:?}", same.tree), "byte {at}"),
        }
    }
}
