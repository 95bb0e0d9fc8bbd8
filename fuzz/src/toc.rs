//! A table of contents of arbitrary JSON: what is read of it must make a tree, and frames that a frames file takes.

use oncefs::digest::{DiffId, Digest, LayerDigest};
use oncefs::index::frames::{Bond, Frames, FramesWriter, Heading, IndexSource};
use oncefs::index::scan::Limits;
use oncefs::index::sources::{Contents, Landmarks, Packing, Shape, read_toc};
use oncefs::index::tree::read::Tree;
use oncefs::index::tree::write::{Labels, write};

pub(crate) fn fuzz(json: &[u8]) {
    let landmarks = Some(Landmarks { wanted_before: ".wanted", nothing_wanted: ".none" });
    for packing in [Packing::Gzip, Packing::Zstd] {
        let shape = Shape {
            packing,
            data_end: 10_000,
            blob_bytes: 11_000,
            hidden: &["stargz.index.json", ".wanted", ".none"],
            landmarks,
        };
        let limits = Limits { inodes_max: 5000, names_bytes_max: 8 << 20, ..Limits::default() };
        if let Ok(contents) = read_toc(json, &shape, &limits) {
            keep(&contents);
        }
    }
}

fn keep(contents: &Contents) {
    let Contents { tree, frames, data_bytes, wanted_first } = contents;
    let (file, diff_id) = (tempfile::tempfile().expect("a temporary file"), DiffId(Digest::of(b"")));
    if write(tree, &Labels { diff_id, data_bytes: *data_bytes }, &file).is_ok() {
        Tree::open(&file).and_then(|tree| tree.check()).expect("a sound tree");
    }
    let file = tempfile::tempfile().expect("a temporary file");
    let mut writer = FramesWriter::new(file.try_clone().expect("a second handle")).expect("a writer");
    frames.iter().for_each(|frame| writer.push(frame).expect("room for a frame"));
    writer.want_first(wanted_first.clone());
    let heading = Heading {
        layer: LayerDigest(Digest::of(b"")),
        diff_id,
        blob_bytes: 11_000,
        data_bytes: *data_bytes,
        index_source: IndexSource::EStargz,
        bond: Some(Bond::Manifest(Digest::of(b""))),
    };
    writer.finish(&heading).expect("a frames file");
    Frames::open(&file).expect("frames that follow one another within the blob");
}
