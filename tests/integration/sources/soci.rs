//! SOCI, with ztocs made by soci.

use std::process::Command;
use std::sync::OnceLock;

use oncefs::digest::Digest;
use oncefs::index::scan::Limits;
use oncefs::index::sources::{Fault as IndexFault, read_ztoc};
use proptest::prelude::*;
use serde_json::Value;

use super::made::{Indexed, SMALL, assert_same_trees, indexes, original, with_soci};
use crate::cli::image::Image;
use crate::cli::node::{Node, cat, ls, run};
use crate::cli::registry::{Fault, Registry};

const SOCI: &str = "SOCI, bound by the manifest (blob not verified as a whole)";

/// Many spans; the last layer is too small for a ztoc.
fn usual() -> Indexed {
    static MADE: OnceLock<Indexed> = OnceLock::new();
    MADE.get_or_init(|| with_soci(&original(), &["--min-layer-size", "2000", "--span-size", "100000"])).clone()
}

fn ztoc_digest(image: &Indexed, layer: usize) -> String {
    let layer = image.layer_digest(layer);
    let ztocs = image.index.as_ref().unwrap()["layers"].as_array().unwrap();
    let of_layer = |ztoc: &&Value| ztoc["annotations"]["com.amazon.soci.image-layer-digest"] == layer;
    ztocs.iter().find(of_layer).unwrap()["digest"].as_str().unwrap().to_owned()
}

#[test]
fn an_image_shows_the_same_as_the_plain_one_and_what_the_index_leaves_out_is_scanned() {
    let node = Node::new();
    let before = Registry::with(&original());
    let expected = node.mount(&before.image(), "expected");
    let large_spans = with_soci(&original(), &["--min-layer-size", "2000"]);
    for image in [usual(), large_spans] {
        let (node, registry) = (Node::new(), image.registry());
        let at = node.mount(&registry.image(), "indexed");
        assert_same_trees(&expected, &at);
        assert_eq!(indexes(&node), [SOCI, SOCI, "scan of gzip"]);
        assert!(!node.oncefs(&["status"]).well().out.contains("declined"));
        assert!(node.oncefs(&["check"]).well().out.contains("all is well"));
    }
}

#[test]
fn one_small_file_costs_one_request_for_one_span() {
    let (node, image) = (Node::new(), usual());
    let registry = image.registry();
    let at = node.mount(&registry.image(), "mnt");
    ls(&at);
    let layer = image.layer_digest(0);
    let before = registry.count(&layer);
    assert!(before.requests <= 1 && before.bytes <= 4, "{before:?} of the layer itself for the index");
    assert_eq!(registry.count(ztoc_digest(&image, 0)).requests, 1);
    assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
    let read = registry.count(&layer);
    assert_eq!(read.requests, before.requests + 1);
    assert!(read.bytes < image.layer(0).len() / 4, "{} of {} bytes", read.bytes, image.layer(0).len());
}

#[test]
fn a_span_that_was_tampered_with_never_reaches_a_reader() {
    let (node, image) = (Node::new(), usual());
    let (registry, digest) = (image.registry(), image.layer_digest(0));
    let at = node.mount(&registry.image(), "mnt");
    ls(&at);
    registry.fault(&digest, Fault::FlippedAt(image.layer(0).len() / 2));
    let read = run(Command::new("cat").arg(at.join("large")));
    assert!(read.code != Some(0) && read.err.contains("Input/output"), "{:?}", read.err);
    registry.heal();
    run(Command::new("cat").arg(at.join("large"))).well();
}

#[test]
fn an_index_or_a_ztoc_that_is_another_costs_a_scan() {
    // The index that the manifest names is not there; it is another; a ztoc is another; the ztoc says another thing.
    let missing = Indexed { index: None, ..usual() };
    let mut broken = usual();
    broken.index = Some(serde_json::json!({"layers": "none"}));
    broken.bind_index();
    let mut other = usual();
    let ztoc = ztoc_digest(&other, 0);
    other.blobs.get_mut(&ztoc).unwrap()[100] ^= 1;
    let mut swapped = usual();
    let (first, second) = (ztoc_digest(&swapped, 0), ztoc_digest(&swapped, 1));
    let size = swapped.blobs[&second].len();
    for ztoc in swapped.index.as_mut().unwrap()["layers"].as_array_mut().unwrap() {
        if ztoc["digest"] == first {
            ztoc["digest"] = second.clone().into();
            ztoc["size"] = size.into();
        }
    }
    swapped.bind_index();
    for image in [missing, broken, other, swapped] {
        let (node, registry) = (Node::new(), image.registry());
        let at = node.mount(&registry.image(), "mnt");
        assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
        assert_eq!(indexes(&node)[0], "scan of gzip");
        assert!(node.oncefs(&["status"]).well().out.contains("declined"));
    }
}

/// Whatever is read of it lies within the blob and the tar.
fn read(bytes: &[u8], blob_bytes: u64) -> Result<(), IndexFault> {
    let contents = read_ztoc(bytes, blob_bytes, &Limits::default())?.contents;
    let mut end = 0;
    for frame in &contents.frames {
        assert!(frame.source.start < frame.source.end && frame.source.end <= blob_bytes);
        assert!(frame.data.start >= end && frame.data.start < frame.data.end);
        end = frame.data.end;
    }
    assert!(end <= contents.data_bytes);
    Ok(())
}

#[test]
fn a_ztoc_that_is_cut_short_or_of_another_blob_is_refused() {
    let image = usual();
    let (ztoc, blob_bytes) = (&image.blobs[&ztoc_digest(&image, 1)], image.layer(1).len() as u64);
    read(ztoc, blob_bytes).unwrap();
    read(ztoc, blob_bytes + 1).unwrap_err();
    for keep in [0, 3, 4, 40, 1000, ztoc.len() / 2] {
        read(&ztoc[..keep], blob_bytes).unwrap_err();
    }
    let limits = Limits { data_bytes_max: 1000, ..Limits::default() };
    assert!(matches!(read_ztoc(ztoc, blob_bytes, &limits), Err(IndexFault::LayerTooLarge(1000))));
    let limits = Limits { inodes_max: 3, ..Limits::default() };
    assert!(read_ztoc(ztoc, blob_bytes, &limits).is_err());
}

proptest! {
    #[test]
    fn no_bytes_of_a_ztoc_make_the_reader_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..6), noise: Vec<u8>,
    ) {
        let image = usual();
        let (ztoc, blob_bytes) = (&image.blobs[&ztoc_digest(&image, 1)], image.layer(1).len() as u64);
        let mut bytes = ztoc.clone();
        for (at, byte, is_structure) in changes {
            // The tables are at both ends; between them lie windows, which may hold anything.
            let ends = 8_000.min(bytes.len());
            let at = if is_structure { bytes.len() - 1 - at.index(ends) } else { at.index(ends) };
            bytes[at] = byte;
        }
        let _ = read(&bytes, blob_bytes);
        let _ = read(&noise, noise.len() as u64);
    }
}

#[test]
fn a_layer_whose_gzip_header_has_more_fields_is_never_read_wrongly() {
    let mut image = original();
    let (header, rest) = image.layers[0].blob.split_at(10);
    assert_eq!(header[3], 0);
    // FNAME (RFC 1952, section 2.3.1).
    let named = [&header[..3], &[8], &header[4..], b"layer.tar\0", rest].concat();
    image.layers[0].blob = named;
    let image = Image::of(&image.layers);
    let (node, indexed) = (Node::new(), with_soci(&image, &["--min-layer-size", "2000", "--span-size", "100000"]));
    assert_eq!(indexed.layer_digest(0), Digest::of(&image.layers[0].blob).to_string());
    let registry = indexed.registry();
    let at = node.mount(&registry.image(), "mnt");
    assert_eq!(cat(&at.join("bin-su")), "set-user-id\n");
    assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
}
