//! `oncefs check`: what has rotted on the disk is found, dropped, and fetched again.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use super::image::Image;
use super::mounting::assert_usual;
use super::node::{Node, ls};
use super::registry::Registry;

fn layer_file(node: &Node, image: &Image, layer: usize, file: &str) -> File {
    let hex = image.layers[layer].digest().hex();
    let path = node.root().join("layers/sha256").join(hex).join(file);
    File::options().read(true).write(true).open(&path).unwrap()
}

/// Turns a bit in a file of a layer.
fn flip(node: &Node, image: &Image, layer: usize, file: &str, at: u64) {
    let file = layer_file(node, image, layer, file);
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

#[test]
fn a_whole_store_is_well() {
    let (node, image) = (Node::new(), Image::usual(60));
    assert!(node.oncefs(&["check"]).well().out.contains("0 layers, 0 resident frames"));
    node.oncefs(&["pull", &image.write_layout(&node.path("layout"))]).well();
    let text = node.oncefs(&["check"]).well().out;
    assert!(text.contains("3 layers") && text.contains("all is well"), "{text}");
    node.assert_at_rest();
}

#[test]
fn a_bit_that_turned_on_the_disk_is_found_dropped_and_fetched_again() {
    for is_mounted in [false, true] {
        let (node, image) = (Node::new(), Image::usual(61));
        let registry = Registry::with(&image);
        node.oncefs(&["pull", &registry.image()]).well();
        for layer in [0, 2] {
            flip(&node, &image, layer, "data", 1_000_000);
        }
        let mounted = is_mounted.then(|| node.mount(&registry.image(), "mnt"));

        let ran = node.oncefs(&["check"]);
        assert_eq!(ran.code, Some(3), "{ran:?}");
        for layer in [0, 2] {
            assert!(ran.out.contains(&image.layers[layer].digest().to_string()), "{ran:?}");
        }
        assert!(ran.out.contains("is damaged") && ran.out.contains("2 problems; oncefs check --repair"), "{ran:?}");

        let text = node.oncefs(&["check", "--repair"]).well().out;
        assert!(text.contains("it was dropped and will be fetched again when read"), "{text}");
        assert!(text.contains("2 problems, all repaired"), "{text}");
        assert!(node.oncefs(&["check"]).well().out.contains("all is well"));

        let fetched = registry.count(image.layers[2].digest()).bytes;
        let at = mounted.unwrap_or_else(|| node.mount(&registry.image(), "mnt"));
        assert_usual(&at, 61);
        let again = registry.count(image.layers[2].digest()).bytes - fetched;
        assert!(again > 0 && again < image.layers[2].blob.len(), "one frame, and not the layer: {again} bytes");
        node.umount(&at).well();
        node.assert_at_rest();
        assert!(node.oncefs(&["check"]).well().out.contains("all is well"));
    }
}

#[test]
fn a_layer_whose_tree_or_frames_rotted_is_removed_and_scanned_again() {
    for (file, at) in [("tree", 1100), ("frames", 100)] {
        let (node, image) = (Node::new(), Image::usual(62));
        let registry = Registry::with(&image);
        node.oncefs(&["pull", &registry.image()]).well();
        flip(&node, &image, 2, file, at);
        let ran = node.oncefs(&["check"]);
        assert!(ran.code == Some(3) && ran.out.contains(&image.layers[2].digest().to_string()), "{file}: {ran:?}");
        let text = node.oncefs(&["check", "--repair"]).well().out;
        assert!(text.contains("it was removed and will be scanned again when needed"), "{file}: {text}");
        assert_eq!(node.layers().len(), 2);
        let at = node.mount(&registry.image(), "mnt");
        assert_usual(&at, 62);
        assert_eq!(registry.count(image.layers[2].digest()).requests, 2);
    }
}

/// Each file of a layer, at its beginning, in the middle and at its end, while no server runs.
#[test]
fn a_bit_that_turned_in_any_file_of_a_layer_is_seen_by_nobody() {
    let (node, image) = (Node::new(), Image::usual(63));
    let registry = Registry::with(&image);
    node.oncefs(&["pull", &registry.image()]).well();
    for file in ["data", "tree", "frames", "resident"] {
        for part in 0..5 {
            for layer in 0..image.layers.len() {
                let size = layer_file(&node, &image, layer, file).metadata().unwrap().len();
                flip(&node, &image, layer, file, (size - 1) * part / 4);
            }
            let at = node.mount(&registry.image(), "mnt");
            assert_usual(&at, 63);
            node.umount(&at).well();
            node.assert_at_rest();
        }
    }
    // What was found on the way was put right.
    assert!(node.oncefs(&["check"]).well().out.contains("all is well"));
}

/// Somebody cuts the files off while they are being served.
#[test]
fn a_data_file_that_cannot_be_read_any_more_costs_a_request_and_no_reader() {
    let (node, image) = (Node::new(), Image::usual(64));
    let registry = Registry::with(&image);
    node.oncefs(&["pull", &registry.image()]).well();
    let at = node.mount(&registry.image(), "mnt");
    assert_eq!(ls(&at), ["big", "bin", "etc", "srv"]);
    for layer in 0..image.layers.len() {
        layer_file(&node, &image, layer, "data").set_len(700).unwrap();
    }
    let fetched = registry.count(image.layers[2].digest()).bytes;
    assert_usual(&at, 64);
    assert!(registry.count(image.layers[2].digest()).bytes > fetched);
    node.umount(&at).well();
    node.assert_at_rest();
}
