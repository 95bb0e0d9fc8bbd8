//! Images that cannot be resolved, or whose blobs cannot be had: who is at fault, and what to do.

use oncefs::digest::Digest;

use super::image::{INDEX, Image, MANIFEST};
use super::node::{Node, Ran};
use super::registry::{Fault, Registry};

/// Pulls what cannot be pulled. Nothing of it may be left.
fn refused(node: &Node, image: &str, code: i32, words: &[&str]) -> Ran {
    let ran = node.oncefs(&["pull", image]).fails(code, words);
    assert_eq!(node.layers(), Vec::<String>::new());
    node.assert_at_rest();
    ran
}

#[test]
fn a_host_that_does_not_exist() {
    let name = "host.invalid:5000/images/usual:1";
    refused(&Node::new(), name, 6, &[name, "cannot reach registry host.invalid:5000", "check the name or the network"]);
}

#[test]
fn a_connection_that_is_refused() {
    let mut registry = Registry::empty();
    registry.go_away();
    refused(&Node::new(), &registry.image(), 6, &[&registry.image(), "cannot reach registry", &registry.host()]);
}

#[test]
fn a_registry_that_wants_a_login() {
    let registry = Registry::with(&Image::usual(40));
    for fault in [Fault::Unauthorized, Fault::Status(401), Fault::Status(403)] {
        registry.fault("1", fault);
        let ran = refused(&Node::new(), &registry.image(), 5, &[&registry.image(), "docker login"]);
        assert!(ran.err.contains(&format!("docker login {}", registry.host())), "{ran:?}");
    }
}

#[test]
fn a_tag_that_does_not_exist() {
    let registry = Registry::with(&Image::usual(41));
    let name = format!("{}/images/usual:2", registry.host());
    refused(&Node::new(), &name, 4, &[&name, "does not have", "check name and tag"]);
}

#[test]
fn a_tag_without_this_platform() {
    let image = Image::usual(42);
    let registry = Registry::with(&image);
    registry.put("1", INDEX, &image.index_for("linux", "s390x"));
    let node = Node::new();
    refused(&node, &registry.image(), 4, &[&registry.image(), "is not there for linux/", "linux/s390x"]);
    let windows = node.oncefs(&["pull", "--platform", "windows/amd64", &registry.image()]);
    windows.fails(4, &["is not there for windows/amd64", "linux/s390x"]);
}

#[test]
fn a_registry_that_fails_inside() {
    let registry = Registry::with(&Image::usual(43));
    registry.fault("1", Fault::Status(500));
    refused(&Node::new(), &registry.image(), 1, &[&registry.image(), "answered 500"]);
    assert_eq!(registry.count("1").requests, 2, "once, and one retry");
}

#[test]
fn a_manifest_that_is_not_what_its_digest_says() {
    let image = Image::usual(44);
    let registry = Registry::with(&image);
    let digest = image.manifest_digest().to_string();
    registry.fault(&digest, Fault::FlippedAt(20));
    let name = format!("{}/images/usual@{digest}", registry.host());
    refused(&Node::new(), &name, 3, &[&name, &digest, "is not what its digest says"]);
    // The same behind an index.
    registry.put("1", INDEX, &image.index_for("linux", super::image::ARCHITECTURE));
    refused(&Node::new(), &registry.image(), 3, &[&registry.image(), &digest, "is not what its digest says"]);
}

#[test]
fn a_config_that_is_not_what_its_digest_says() {
    let image = Image::usual(45);
    let registry = Registry::with(&image);
    let digest = Digest::of(&image.config);
    registry.fault(digest, Fault::FlippedAt(30));
    let words = [&registry.image(), &digest.to_string(), "is not what its digest says"];
    refused(&Node::new(), &registry.image(), 3, &words);
}

#[test]
fn a_config_or_a_layer_that_is_missing() {
    let image = Image::usual(46);
    let registry = Registry::with(&image);
    let (config, layer) = (Digest::of(&image.config), image.layers[1].digest());
    for (digest, called) in [(config, "the config of"), (layer, &*layer.to_string())] {
        registry.heal();
        registry.fault(digest, Fault::Status(404));
        // The layers that are there may be kept.
        let ran = Node::new().oncefs(&["pull", &registry.image()]);
        ran.fails(4, &[&registry.image(), called, "does not have"]);
    }
}

#[test]
fn a_layer_that_is_denied() {
    let image = Image::usual(47);
    let registry = Registry::with(&image);
    registry.fault(image.layers[2].digest(), Fault::Status(403));
    let ran = Node::new().oncefs(&["pull", &registry.image()]);
    ran.fails(5, &[&registry.image(), &image.layers[2].digest().to_string(), "docker login"]);
}

#[test]
fn a_manifest_that_is_no_manifest() {
    let registry = Registry::empty();
    let documents: [(&[u8], &str); 4] = [
        (b"<html>welcome to the airport</html>", "is not valid at line 1"),
        (br#"{"schemaVersion": 1, "name": "x", "tag": "1", "fsLayers": [], "history": []}"#, "schema 1"),
        (br#"{"schemaVersion": 2, "layers": [], "manifests": []}"#, "no image that oncefs can use"),
        (br#"{"schemaVersion": 2, "config": {"mediaType": "x", "digest": "md5:1", "size": 1}, "layers": []}"#, "\"x\""),
    ];
    for (document, words) in documents {
        registry.put("1", MANIFEST, document);
        refused(&Node::new(), &registry.image(), 3, &[&registry.image(), words]);
    }
}

#[test]
fn a_layout_that_is_none_lacks_a_blob_or_lacks_the_tag() {
    let node = Node::new();
    let nowhere = format!("oci:{}", node.path("nowhere").display());
    refused(&node, &nowhere, 4, &[&nowhere, "No such file"]);
    let empty = format!("oci:{}", node.place("empty").display());
    refused(&node, &empty, 4, &[&empty, "is no OCI image layout"]);
    let image = Image::usual(48);
    let name = image.write_layout(&node.path("layout"));
    refused(&node, &format!("{name}:old"), 4, &[&name, "old"]);
    let config = Digest::of(&image.config);
    std::fs::remove_file(node.path(&format!("layout/blobs/sha256/{}", config.hex()))).unwrap();
    let ran = node.oncefs(&["pull", &name]);
    assert!(ran.code.is_some_and(|code| code != 0) && ran.err.contains(&config.hex()), "{ran:?}");
    node.assert_at_rest();
}
