//! What `oncefs status IMAGE` says of those who wait.

use std::process::Command;

use super::image::Image;
use super::node::{Node, Running, ls, until};
use super::registry::{Fault, Registry};
use crate::sources::made::{SMALL, converted};

/// What is said of who waits for the image's layer.
fn waiting(node: &Node, image: &str, layer: usize) -> serde_json::Value {
    let said = node.oncefs(&["status", "--json", image]).well().out;
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    said[0]["layers"][layer]["waiting"].clone()
}

#[test]
fn a_reader_of_frames_that_do_not_come_is_seen_until_they_do() {
    let (node, image) = (Node::new(), converted(&["--estargz"]));
    let registry = image.registry();
    let at = node.mount(&registry.image(), "mnt");
    ls(&at);
    assert!(waiting(&node, &registry.image(), 0).is_null());
    registry.fault(image.layer_digest(0), Fault::StallsAfter(0));
    let reader = Running::start(Command::new("cat").arg(at.join(SMALL.0)));
    until("somebody waits", || waiting(&node, &registry.image(), 0)["count"] == 1);
    let said = waiting(&node, &registry.image(), 0);
    assert!(said["longest_ms"].is_u64() && said["frames"][0].is_u64(), "{said}");
    let text = node.oncefs(&["status", &registry.image()]).well().out;
    assert!(text.contains("waiting: 1; the first for ") && text.contains(", for frame"), "{text}");
    registry.heal();
    assert_eq!(reader.end().well().out, SMALL.1);
    assert!(waiting(&node, &registry.image(), 0).is_null());
}

#[test]
fn the_answer_of_a_registry_that_is_away_is_said_while_readers_wait_for_it() {
    let (node, image) = (Node::new(), converted(&["--estargz"]));
    node.configure("[fetch]\noutage_secs = 600\nread_ahead_bytes_max = 0\n");
    let registry = image.registry();
    let at = node.mount(&registry.image(), "mnt");
    ls(&at);
    let away = || waiting(&node, &registry.image(), 0)["away"].clone();
    registry.fault(image.layer_digest(0), Fault::Status(503));
    let reader = Running::start(Command::new("cat").arg(at.join(SMALL.0)));
    until("its source is away", || away()["cause"].as_str().is_some_and(|cause| cause.contains("503")));
    // What it was away with first is no news when it is away with something else.
    registry.fault(image.layer_digest(0), Fault::Status(507));
    until("it is asked again", || away()["cause"].as_str().is_some_and(|cause| cause.contains("507")));
    assert!(away()["tries"].as_u64() > Some(0) && away()["since_ms"].is_u64(), "{}", away());
    let text = node.oncefs(&["status", &registry.image()]).well().out;
    assert!(text.contains("away for ") && text.contains(", asked again ") && text.contains("507"), "{text}");
    registry.heal();
    assert_eq!(reader.end().well().out, SMALL.1);
    assert!(waiting(&node, &registry.image(), 0).is_null());
}

#[test]
fn who_looks_into_an_image_that_is_being_scanned_is_seen_at_the_layer_that_is_missing() {
    let (node, image) = (Node::new(), Image::usual(77));
    let registry = Registry::with(&image);
    registry.fault(image.layers[2].digest(), Fault::StallsAfter(1000));
    let at = node.mount(&registry.image(), "mnt");
    let lookers = [0, 1].map(|_| Running::start(Command::new("ls").arg(&at)));
    until("somebody waits", || waiting(&node, &registry.image(), 2)["count"].as_u64() > Some(0));
    let said = waiting(&node, &registry.image(), 2);
    assert!(said["frames"].is_null(), "{said}");
    until("the others are here", || waiting(&node, &registry.image(), 0).is_null());
    let text = node.oncefs(&["status", &registry.image()]).well().out;
    assert!(text.contains("for its index or its scan"), "{text}");
    registry.heal();
    for looker in lookers {
        looker.end().well();
    }
    assert!(waiting(&node, &registry.image(), 2).is_null());
}
