//! What every source of an index must give for the same layer: the same tree, the same bytes, and frames that each
//! decode alone. A new source of indexes is a new line here.

use oncefs::index::codec::Codec;
use oncefs::index::frames::{Frames, IndexSource};
use oncefs::index::scan::Limits;

use super::made;

#[test]
fn one_tar_in_many_disguises_gives_one_tree_and_the_same_bytes() {
    let tar = made::tar_of(6_000_000);
    let mut first_tree = None;
    for (name, blob) in made::disguises(&tar) {
        let (layer, parts) = (made::layered(&blob, &tar), made::parts());
        let verified = made::scan_into(&layer, &made::in_memory(&blob), &parts, &Limits::default());
        let verified = verified.unwrap_or_else(|error| panic!("{name}: {error}"));

        assert!(made::content(&parts.data) == tar, "{name}: the data file is not the tar");
        let tree = made::content(&parts.tree);
        assert!(*first_tree.get_or_insert_with(|| tree.clone()) == tree, "{name}: another tree");

        let frames = Frames::open(&parts.frames).unwrap();
        assert_eq!(frames.heading(), verified.heading(), "{name}");
        assert_eq!((frames.heading().layer, frames.heading().diff_id), (layer.digest, layer.diff_id), "{name}");
        assert_eq!(frames.heading().data_bytes, tar.len() as u64, "{name}");
        made::assert_frames_decode_alone(&frames, &blob, &tar);
    }
}

#[test]
fn frames_are_about_a_mebibyte_wherever_the_packing_allows_it() {
    let tar = made::tar_of(6_000_000);
    for (name, blob) in made::disguises(&tar) {
        let (layer, parts) = (made::layered(&blob, &tar), made::parts());
        made::scan_into(&layer, &made::in_memory(&blob), &parts, &Limits::default()).unwrap();
        let frames = Frames::open(&parts.frames).unwrap();
        match name {
            // One frame or one block holds everything.
            "zstd" | "zstd -19 --long" => assert_eq!(frames.len(), 1, "{name}"),
            "zlib-rs level 1" => assert!(frames.len() <= 2, "{name}"),
            // A block or member more than a mebibyte at most.
            _ => assert!((3..=7).contains(&frames.len()), "{name}: {} frames", frames.len()),
        }
    }
}

#[test]
fn the_heading_says_how_the_blob_was_packed() {
    let tar = made::tar_of(10_000);
    let packings = [
        (tar.clone(), Codec::Plain),
        (made::gzip(&tar, 6), Codec::Gzip),
        (zstd::bulk::compress(&tar, 3).unwrap(), Codec::Zstd),
    ];
    for (blob, codec) in packings {
        let (layer, parts) = (made::layered(&blob, &tar), made::parts());
        let verified = made::scan_into(&layer, &made::in_memory(&blob), &parts, &Limits::default()).unwrap();
        assert_eq!(verified.heading().index_source, IndexSource::Scan(codec));
        assert_eq!(verified.heading().index_source.to_string(), format!("scan of {codec}"));
    }
}

#[test]
fn a_layer_with_nothing_in_it_is_a_layer() {
    let empty = vec![0; 1024];
    for (tar, blob) in [
        (empty.clone(), empty.clone()),
        (empty.clone(), made::gzip(&empty, 6)),
        (empty.clone(), zstd::bulk::compress(&empty, 3).unwrap()),
        (Vec::new(), Vec::new()),
        (Vec::new(), made::gzip(&[], 6)),
    ] {
        let (layer, parts) = (made::layered(&blob, &tar), made::parts());
        let verified = made::scan_into(&layer, &made::in_memory(&blob), &parts, &Limits::default()).unwrap();
        assert_eq!(verified.tree().inodes, 1, "the root");
        assert_eq!(made::content(&parts.data), tar);
        made::assert_frames_decode_alone(&Frames::open(&parts.frames).unwrap(), &blob, &tar);
    }
}
