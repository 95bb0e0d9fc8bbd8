//! Indexes that are published by themselves: by the first node that scans an image, for all others.

use std::fs;

use serde_json::Value;

use super::published::{LARGE_BYTES, PUBLISHED, SMALL, Stage};
use crate::cli::image::Image;
use crate::cli::node::{Node, cat, until};
use crate::cli::registry::{Fault, Registry};
use crate::support::debian_registry::bytes_of_blobs;

fn log(node: &Node) -> String {
    fs::read_to_string(node.run().join("oncefs.log")).unwrap()
}

#[test]
fn the_first_node_that_scans_an_image_publishes_its_index_and_the_second_scans_nothing() {
    let stage = Stage::new();
    let (key, public) = stage.key("key.pem");
    let (first, name) = (Node::new(), stage.name());
    let auto = format!("[index]\npublish = \"auto\"\nsigning_key = \"{}\"\n", key.display());
    first.configure(&format!("{auto}[profile]\nrecord_secs = 8\n"));
    let at = first.mount(&name, "mnt");
    assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
    let listing = Node::new();
    listing.configure(&format!("[index]\nkeys = [\"{public}\"]\n"));
    let listed =
        || -> Value { serde_json::from_str(&listing.oncefs(&["index", "ls", "--json", &name]).well().out).unwrap() };
    until("it is there, signed and with what was seen of the start", || {
        let listed = listed();
        let index = &listed["indexes"][0];
        index["signed_by"] == public.as_str() && index["profile_bytes"].is_u64()
    });
    assert_eq!(listed()["indexes"].as_array().unwrap().len(), 1);

    // Who scans it all the same has nothing to publish.
    let again = Node::new();
    again.configure(&format!("{auto}trust = \"none\"\n"));
    let at = again.mount(&name, "mnt");
    assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
    until("it has looked", || log(&again).contains("index not published: others have"));
    assert_eq!(listed()["indexes"].as_array().unwrap().len(), 1);
    drop((first, again));

    let stage = stage.anew();
    let second = stage.believer(&public);
    let at = second.mount(&name, "mnt");
    assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
    assert_eq!(super::made::indexes(&second), [PUBLISHED, PUBLISHED]);
    drop(second);
    let layer = stage.image.layers[0].digest().hex();
    let (answered, _stopped) = stage.registry.stop();
    let fetched = bytes_of_blobs(&answered)[&layer];
    assert!(fetched < LARGE_BYTES as u64 / 4, "{fetched} bytes of the large layer");
}

#[test]
fn a_registry_that_refuses_is_asked_once() {
    let image = Image::usual(3);
    let (node, registry) = (Node::new(), Registry::with(&image));
    // The begin of an upload.
    registry.fault("", Fault::Status(403));
    node.configure("[index]\npublish = \"auto\"\n");
    node.mount(&registry.image(), "mnt");
    node.oncefs(&["pull", &registry.image()]).well();
    until("it was tried", || log(&node).contains("index not published; not tried again"));
    let asked = registry.count("").requests;
    assert!((1..=2).contains(&asked), "{asked}");
    node.oncefs(&["pull", &registry.image()]).well();
    node.oncefs(&["pull", &registry.image()]).well();
    assert_eq!(registry.count("").requests, asked);
    let log = log(&node);
    assert_eq!(log.matches("index not published").count(), 1, "{log}");
    assert!(!log.contains(" ERROR ") && !log.contains(" WARN "), "{log}");
}
