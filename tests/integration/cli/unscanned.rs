//! Blobs that must not become layers: which layer of which image, what is wrong, what to do; and nothing left of it.

use std::process::Command;

use oncefs::digest::Digest;

use super::image::{Image, Layer, Tar};
use super::node::{Node, run, until};
use super::registry::{Fault, Registry};
use crate::index::made;

/// Pulls an image of this one layer, which must be refused with these words, and mounts it, where readers get EIO and
/// `status` tells the same.
#[track_caller]
fn refused(node: &Node, layer: &Layer, words: &[&str]) {
    let image = Image::of(std::slice::from_ref(layer)).write_layout(&node.path("layout"));
    let digest = layer.digest().to_string();
    let ran = node.oncefs(&["pull", &image]).fails(3, &[&image, &digest]);
    for word in words {
        assert!(ran.err.contains(word), "{word:?} is missing: {ran:#?}");
    }
    assert_eq!(node.layers(), Vec::<String>::new());
    node.assert_at_rest();

    let at = node.mount(&image, "mnt");
    let looked = run(Command::new("ls").arg(&at));
    assert!(looked.err.contains("Input/output error"), "{looked:?}");
    let text = node.oncefs(&["status"]).well().out;
    assert!(words.iter().all(|word| text.contains(word)) && text.contains("failed: "), "{text}");
    let log = std::fs::read_to_string(node.run().join("oncefs.log")).unwrap();
    assert!(log.contains("readers get EIO") && log.contains(&digest), "{log}");
    node.umount(&at).well();
    node.assert_at_rest();
}

fn fine_tar() -> Vec<u8> {
    Tar::new().file("bin/program", &made::program(50, 400_000)).done()
}

#[test]
fn a_blob_that_was_damaged_on_its_way() {
    let image = Image::usual(50);
    let registry = Registry::with(&image);
    for (at, layer) in [(100_000, &image.layers[0]), (30, &image.layers[1]), (500_000, &image.layers[2])] {
        let node = Node::new();
        registry.fault(layer.digest(), Fault::FlippedAt(at));
        let ran = node.oncefs(&["pull", &registry.image()]);
        ran.fails(3, &[&registry.image(), &layer.digest().to_string(), "arrived with digest", "try again"]);
        assert!(!node.layers().contains(&layer.digest().hex()));
        node.assert_at_rest();
        registry.heal();
        node.oncefs(&["pull", &registry.image()]).well();
    }
}

#[test]
fn a_layout_whose_blob_has_rotted() {
    let (node, image) = (Node::new(), Image::usual(51));
    let name = image.write_layout(&node.path("layout"));
    let digest = image.layers[2].digest();
    let blob = node.path(&format!("layout/blobs/sha256/{}", digest.hex()));
    let mut bytes = image.layers[2].blob.clone();
    bytes[500_000] ^= 4;
    std::fs::write(&blob, &bytes).unwrap();
    node.oncefs(&["pull", &name]).fails(3, &[&name, &digest.to_string(), "digest"]);
    std::fs::write(&blob, &bytes[..500_000]).unwrap();
    node.oncefs(&["pull", &name]).fails(3, &[&name, &digest.to_string(), "bytes"]);
    assert!(!node.layers().contains(&digest.hex()));
}

#[test]
fn a_blob_that_the_registry_has_only_half_of() {
    let (node, image) = (Node::new(), Image::usual(52));
    let registry = Registry::with(&image);
    let layer = &image.layers[2];
    registry.put(&layer.digest().to_string(), "application/octet-stream", &layer.blob[..layer.blob.len() / 2]);
    let ran = node.oncefs(&["pull", &registry.image()]);
    ran.fails(3, &[&registry.image(), &layer.digest().to_string(), "bytes"]);
    assert!(!node.layers().contains(&layer.digest().hex()));
    node.assert_at_rest();
}

#[test]
fn a_connection_that_breaks_at_the_same_place_again_and_again() {
    let (node, image) = (Node::new(), Image::usual(53));
    let registry = Registry::with(&image);
    let layer = &image.layers[2];
    registry.fault(layer.digest(), Fault::CutAfter(300_000));
    let ran = node.oncefs(&["pull", &registry.image()]);
    ran.fails(6, &[&registry.image(), &layer.digest().to_string(), &registry.host(), "broke"]);
    assert!(!node.layers().contains(&layer.digest().hex()));
    node.assert_at_rest();
    registry.heal();
    node.oncefs(&["pull", &registry.image()]).well();
}

#[test]
fn garbage_instead_of_gzip() {
    let html = b"<html>please log in to the wireless network</html>".repeat(50);
    let layer = Layer::said_to_be_gzip(&html, Digest::of(&html));
    refused(&Node::new(), &layer, &["the image must be built again", "neither gzip"]);
}

#[test]
fn a_gzip_that_ends_early() {
    let tar = fine_tar();
    let whole = Layer::gzip(&tar);
    let half = Layer::said_to_be_gzip(&whole.blob[..whole.blob.len() / 2], whole.diff_id);
    refused(&Node::new(), &half, &["the image must be built again", "ends early"]);
}

#[test]
fn a_tar_with_another_digest_than_the_config_says() {
    let tar = fine_tar();
    let (is, says) = (Digest::of(&tar), Digest::of(b"another tar"));
    let layer = Layer { diff_id: says, ..Layer::gzip(&tar) };
    refused(&Node::new(), &layer, &[&is.to_string(), &says.to_string(), "must be built or pushed again"]);
}

#[test]
fn a_tar_that_ends_early() {
    let tar = fine_tar();
    for cut in [700, 100_000] {
        let layer = Layer::gzip(&tar[..cut]);
        refused(&Node::new(), &layer, &["not a tar that can be used", "bin/program", "the tar ends after"]);
    }
}

#[test]
fn an_entry_that_climbs_out() {
    for name in ["../../etc/passwd", "a/../../b", ".."] {
        let layer = Layer::gzip(&Tar::new().raw(name, b"root::0:0::/:/bin/sh\n").done());
        refused(&Node::new(), &layer, &["not a tar that can be used", name, "`..`"]);
    }
}

#[test]
fn an_entry_with_nul_in_its_name() {
    let layer = Layer::gzip(&Tar::new().pax("path", b"etc/pass\0wd").file("x", b"1").done());
    refused(&Node::new(), &layer, &["not a tar that can be used", "the name has a zero byte"]);
}

#[test]
fn a_size_of_10_gib_on_a_layer_of_a_few_hundred_bytes() {
    let tar = Tar::new().lying("bin/huge", b"small", 10 << 30);
    assert!(Layer::gzip(&tar).blob.len() < 1024);
    let words =
        ["not a tar that can be used", "bin/huge", "10737418240 bytes of content follow, but the tar ends after"];
    refused(&Node::new(), &Layer::gzip(&tar), &words);
}

#[test]
fn a_bomb_beyond_the_ratio() {
    let node = Node::new();
    node.configure("[scan.limits]\nratio_max = 20\nratio_from_bytes = 1000000\n");
    let bomb = Layer::gzip(&Tar::new().file("zeros", &vec![0; 8 << 20]).done());
    refused(&node, &bomb, &["more than 20 times", "as only a bomb should", "ratio_max in [scan.limits]"]);
}

/// The image is right, and nobody need build it again.
#[test]
fn a_layer_of_more_names_than_are_set() {
    let (node, layer) = (Node::new(), Layer::gzip(&fine_tar()));
    for (setting, value) in [("inodes_max", 1), ("names_bytes_max", 100)] {
        node.configure(&format!("[scan.limits]\n{setting} = {value}\n"));
        let raise = format!("raise {setting} in [scan.limits] if you trust the image");
        refused(&node, &layer, &[&raise, &format!("more than {value} ")]);
        let image = Image::of(std::slice::from_ref(&layer)).write_layout(&node.path("layout"));
        let said = node.oncefs(&["pull", &image]).fails(3, &[&raise]).err;
        assert!(!said.contains("built again"), "{said}");
    }
}

#[test]
fn a_layer_beyond_the_size_limit() {
    let node = Node::new();
    node.configure("[scan.limits]\ndata_bytes_max = 300000\n");
    for layer in [Layer::gzip(&fine_tar()), Layer::plain(&fine_tar()), Layer::zstd(&fine_tar())] {
        refused(&node, &layer, &["300000", "data_bytes_max", "[scan.limits]"]);
    }
    let small = Image::of(&[Layer::gzip(&Tar::new().file("small", b"1").done())]).write_layout(&node.path("layout"));
    node.oncefs(&["pull", &small]).well();
}

#[test]
fn a_layer_that_failed_is_fetched_again_by_the_next_who_looks() {
    let (node, image) = (Node::new(), Image::usual(54));
    let registry = Registry::with(&image);
    registry.fault(image.layers[2].digest(), Fault::FlippedAt(500_000));
    let at = node.mount(&registry.image(), "mnt");
    assert_ne!(run(Command::new("cat").arg(at.join("etc/hello"))).code, Some(0));
    registry.heal();
    until("the image can be read", || run(Command::new("cat").arg(at.join("etc/hello"))).code == Some(0));
    super::mounting::assert_usual(&at, 54);
}
