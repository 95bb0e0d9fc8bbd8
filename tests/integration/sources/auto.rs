//! Indexes that are published by themselves: by the first node that scans an image, for all others.

use std::fs;

use serde_json::Value;

use super::published::{LARGE_BYTES, PUBLISHED, SMALL, Stage};
use crate::cli::image::Image;
use crate::cli::node::{Node, cat, ls, until};
use crate::cli::registry::{Fault, Registry};
use crate::support::debian_registry::bytes_of_blobs;

/// Attempts of the node to publish that ended so.
fn ended(node: &Node, outcome: &str) -> f64 {
    node.metric(&format!("oncefs_index_publishing_total{{outcome=\"{outcome}\"}}"))
}

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
    until("it is counted", || ended(&first, "with_profile") == 1.0);
    assert_eq!((ended(&first, "published"), first.metric("oncefs_starts_recorded_total")), (1.0, 1.0));

    // Who scans it all the same has nothing to publish.
    let again = Node::new();
    again.configure(&format!("{auto}trust = \"none\"\n"));
    let at = again.mount(&name, "mnt");
    assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
    until("it has looked", || log(&again).contains("index not published: others have"));
    assert_eq!(listed()["indexes"].as_array().unwrap().len(), 1);
    until("it is counted", || ended(&again, "there_is_one") == 1.0);
    assert_eq!(ended(&again, "published"), 0.0);
    drop((first, again));

    let stage = stage.anew();
    let second = stage.believer(&public);
    second.configure(&format!("[index]\nkeys = [\"{public}\"]\n[profile]\nrecord_secs = 8\n"));
    let at = second.mount(&name, "mnt");
    ls(&at);
    until("something is here that nobody has read", || second.metric("oncefs_starts_ahead_bytes_total") > 0.0);
    assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
    assert_eq!(super::made::indexes(&second), [PUBLISHED, PUBLISHED]);
    assert_eq!(second.metric("oncefs_starts_profiles_taken_total"), 1.0);
    assert_eq!(second.metric("oncefs_starts_foreseen_total{by=\"elsewhere\"}"), 1.0);
    assert_eq!(second.metric("oncefs_starts_foreseen_total{by=\"here\"}"), 0.0);
    until("its start was seen to its end", || second.metric("oncefs_starts_recorded_total") == 1.0);
    let (ahead, used) = ["oncefs_starts_ahead_bytes_total", "oncefs_starts_ahead_used_bytes_total"]
        .map(|name| second.metric(name))
        .into();
    assert!(used > 0.0 && used <= ahead, "{used} of {ahead} bytes");
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
    assert_eq!((ended(&node, "refused"), ended(&node, "failed")), (1.0, 0.0));
    let log = log(&node);
    assert_eq!(log.matches("index not published").count(), 1, "{log}");
    assert!(!log.contains(" ERROR ") && !log.contains(" WARN "), "{log}");
}
