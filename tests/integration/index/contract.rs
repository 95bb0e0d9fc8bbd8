//! What every source of an index must give for the same layer: the same tree, the same bytes, and frames that each
//! decode alone. A new source of indexes is a new line here.

use std::io::Read as _;

use oncefs::index::codec::Codec;
use oncefs::index::frames::{Frames, IndexSource};
use oncefs::index::scan::Limits;
use oncefs::index::tree::Place;
use oncefs::index::tree::read::Tree;

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
fn every_file_of_the_tree_has_the_bytes_that_the_tar_has() {
    let tar = made::tar_of(3_000_000);
    let (blob, parts) = (made::gzip(&tar, 6), made::parts());
    made::scan_into(&made::layered(&blob, &tar), &made::in_memory(&blob), &parts, &Limits::default()).unwrap();
    let (tree, data) = (Tree::open(&parts.tree).unwrap(), made::content(&parts.data));
    let mut files = 0;
    for entry in tar::Archive::new(&tar[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let (mut content, mut read) = (Vec::new(), Vec::new());
        entry.read_to_end(&mut content).unwrap();
        let path = entry.path_bytes().into_owned();
        let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        let file = names.fold(tree.root(), |dir, name| tree.lookup(dir, name).unwrap().unwrap().0);
        let size = tree.node(file).unwrap().size;
        while (read.len() as u64) < size {
            let extent = tree.extent(file, read.len() as u64).unwrap();
            let len = extent.len.min(size - read.len() as u64);
            match extent.place {
                Place::Data(at) => read.extend_from_slice(&data[at as usize..(at + len) as usize]),
                place => panic!("a file that the tar holds in one piece is at {place:?}"),
            }
        }
        assert!(read == content, "{}", String::from_utf8_lossy(&path));
        files += 1;
    }
    assert!(files > 10);
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
