//! Layers and chains that several images name: an index counts for the manifest that binds it, and for no other.

use super::made::{SMALL, converted, original};
use crate::cli::image::{Image, Layer, MANIFEST, Tar};
use crate::cli::node::{Node, cat, ls};
use crate::cli::registry::Registry;
use oncefs::digest::Digest;
use serde_json::json;

const ESTARGZ: &[&str] = &["--estargz"];
const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";

/// The index that a layer of the mounted image has.
fn index_of(node: &Node, mount: usize, layer: usize) -> String {
    let status = node.status();
    status["mounts"][mount]["image"]["layers"][layer]["index"].as_str().unwrap_or("none").to_owned()
}

#[test]
fn a_layer_whose_index_another_manifest_binds_is_scanned_for_one_that_does_not() {
    let node = Node::new();
    let (bound, mut free) = (converted(ESTARGZ), converted(ESTARGZ));
    let registry = bound.registry();
    let at = node.mount(&registry.image(), "bound");
    ls(&at);
    assert!(index_of(&node, 0, 0).starts_with("eStargz"));
    node.umount(&at).well();
    node.assert_at_rest();

    // One binds no index, the other another.
    let mut other = free.clone();
    other.annotations(0).insert(TOC_DIGEST.to_owned(), format!("sha256:{}", "3".repeat(64)).into());
    for layer in 0..3 {
        free.annotations(layer).clear();
    }
    for image in [other, free] {
        let registry = image.registry();
        let at = node.mount(&registry.image(), "free");
        assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
        assert_eq!(index_of(&node, 0, 0), "scan of gzip");
        node.umount(&at).well();
        node.assert_at_rest();
    }

    // What was verified serves both.
    let registry = bound.registry();
    let at = node.mount(&registry.image(), "bound");
    ls(&at);
    assert_eq!(index_of(&node, 0, 0), "scan of gzip");
}

/// The honest image, and another one of eStargz that claims to have the same content.
fn honest_and_liar() -> (Image, Registry) {
    let honest = Image::of(&[Layer::gzip(&Tar::new().file(SMALL.0, SMALL.1.as_bytes()).done())]);
    let indexed = converted(ESTARGZ);
    let mut liar = indexed.clone();
    let layer = indexed.manifest["layers"][0].clone();
    liar.manifest["layers"] = json!([layer]);
    // Its config is the honest one's.
    let config = Digest::of(&honest.config).to_string();
    liar.manifest["config"] = json!({
        "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": honest.config.len(),
    });
    liar.blobs.insert(config, honest.config.clone());
    let registry = Registry::with(&honest);
    liar.put(&registry, "2");
    registry.put("1", MANIFEST, &honest.manifest);
    (honest, registry)
}

#[test]
fn an_image_that_lies_about_its_content_is_not_shown_to_who_wants_the_content() {
    let (_honest, registry) = honest_and_liar();
    let liar = registry.image().replace(":1", ":2");

    // The liar comes first: alone it is shown as its index says, but nobody else is shown that.
    let node = Node::new();
    let at = node.mount(&liar, "liar");
    assert!(ls(&at).contains(&"large".to_owned()));
    let place = node.place("honest");
    node.oncefs(&["mount", &registry.image(), place.to_str().unwrap()]).fails(1, &["unverified", "unmount"]);
    node.umount(&at).well();
    node.assert_at_rest();
    let at = node.mount(&registry.image(), "honest");
    assert_eq!(ls(&at), ["srv"]);
    assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);

    // Both are known: neither is believed without a scan.
    let node = Node::new();
    let at = node.mount(&registry.image(), "honest");
    let other = node.mount(&liar, "liar");
    assert_eq!(ls(&other), ["srv"], "what the content's name means is what the honest one has");
    assert_eq!(ls(&at), ["srv"]);
}

#[test]
fn the_image_it_was_made_of_is_mounted_beside_it() {
    let (node, indexed) = (Node::new(), converted(ESTARGZ));
    let (before, after) = (Registry::with(&original()), indexed.registry());
    let (a, b) = (node.mount(&before.image(), "before"), node.mount(&after.image(), "after"));
    assert_eq!(cat(&a.join(SMALL.0)), cat(&b.join(SMALL.0)));
}
