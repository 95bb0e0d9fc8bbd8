//! What must not bring a layer.

use std::process::Command;

use oncefs::digest::Digest;

use super::image::Image;
use super::node::{Node, run};
use super::registry::Registry;

#[test]
fn a_mount_nobody_looks_into_asks_for_no_layer() {
    let (node, image) = (Node::new(), Image::usual(20));
    let registry = Registry::with(&image);
    let at = node.mount(&registry.image(), "mnt");
    run(Command::new("stat").arg(&at)).well();
    run(Command::new("df").arg(&at)).well();
    run(Command::new("ls").arg("-ld").arg(&at)).well();
    run(Command::new("mountpoint").arg(&at)).well();
    let text = node.oncefs(&["status"]).well().out;
    assert!(text.contains("nobody has looked into it yet") && text.contains("not here"), "{text}");
    node.oncefs(&["check"]).well();
    node.oncefs(&["inspect", &registry.image()]).well();
    node.umount(&at).well();
    node.assert_at_rest();
    assert_eq!(registry.layer_requests(&image), 0);
    assert!(node.layers().is_empty());
}

#[test]
fn an_image_that_has_not_changed_is_asked_for_its_manifest_only() {
    let (node, image) = (Node::new(), Image::usual(23));
    let registry = Registry::with(&image);
    for n in 1..4 {
        let at = node.mount(&registry.image(), "mnt");
        node.umount(&at).well();
        node.assert_at_rest();
        assert_eq!(registry.count("1").requests, n, "the tag may have moved");
    }
    assert_eq!(registry.count(Digest::of(&image.config)).requests, 1);
}

#[test]
fn inspect_asks_for_no_layer_and_shows_manifest_layers_and_config() {
    let (node, image) = (Node::new(), Image::usual(21));
    let registry = Registry::with(&image);
    let text = node.oncefs(&["inspect", &registry.image()]).well().out;
    for layer in &image.layers {
        assert!(text.contains(&layer.digest().to_string()), "{text}");
    }
    assert!(text.contains(&image.manifest_digest().to_string()) && text.contains("/bin/hello"), "{text}");
    assert!(text.contains("not here"), "{text}");

    let json = node.oncefs(&["inspect", "--json", &registry.image()]).well().out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["config"]["config"]["Cmd"][0], "/bin/hello");
    assert_eq!(json["image"]["manifest_digest"], image.manifest_digest().to_string());
    assert_eq!(json["image"]["layers"].as_array().unwrap().len(), 3);
    assert_eq!(json["image"]["layers"][0]["state"], "untouched");
    assert_eq!(registry.layer_requests(&image), 0);

    node.oncefs(&["pull", &registry.image()]).well();
    let text = node.oncefs(&["inspect", &registry.image()]).well().out;
    assert!(!text.contains("not here") && text.contains("index:"), "{text}");
}

#[test]
fn status_says_what_is_mounted_and_how_much_of_it_is_here() {
    let (node, image) = (Node::new(), Image::usual(22));
    let registry = Registry::with(&image);
    let at = node.mount(&registry.image(), "mnt");
    run(Command::new("ls").arg(&at)).well();
    let status = node.status();
    let mount = &status["mounts"][0];
    assert_eq!(mount["at"], at.to_str().unwrap());
    assert_eq!((&mount["loaded"], &mount["image"]["reference"]), (&true.into(), &registry.image().into()));
    assert!(status["server"].as_u64().is_some_and(|pid| node.processes().iter().any(|p| p.as_raw_pid() as u64 == pid)));
    for (layer, expected) in mount["image"]["layers"].as_array().unwrap().iter().zip(&image.layers) {
        assert_eq!((&layer["state"], &layer["digest"]), (&"ready".into(), &expected.digest().to_string().into()));
        assert_eq!(layer["resident_bytes"], layer["data_bytes"], "a scan keeps everything");
    }
    let text = node.oncefs(&["status"]).well().out;
    assert!(text.contains(at.to_str().unwrap()) && text.contains("server: process"), "{text}");
    assert!(text.contains("resident, index:") && !text.contains("layers that no mount uses"), "{text}");

    node.umount(&at).well();
    node.assert_at_rest();
    let status = node.status();
    assert_eq!((&status["server"], status["layers"].as_array().unwrap().len()), (&serde_json::Value::Null, 3));
    let text = node.oncefs(&["status"]).well().out;
    assert!(text.contains("no server runs") && text.contains("\nlayers:\n"), "{text}");
    assert!(node.processes().is_empty(), "status starts no server");
}
