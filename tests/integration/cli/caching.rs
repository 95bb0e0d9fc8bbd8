//! What stays in the cache and what goes, as a user sees it.

use super::image::{Image, MANIFEST};
use super::mounting::assert_usual;
use super::node::Node;
use super::registry::Registry;

/// Of the registry's image in the store.
fn cache(node: &Node) -> serde_json::Value {
    node.status()["cache"].clone()
}

#[test]
fn a_pinned_image_survives_pruning_and_restarts_and_an_unpinned_one_is_fetched_again() {
    let (node, image) = (Node::new(), Image::usual(90));
    let registry = Registry::with(&image);
    let name = registry.image();
    node.oncefs(&["pull", &name]).well();
    let all = cache(&node)["used_bytes"].as_u64().unwrap();
    let pinned = node.oncefs(&["pin", &name]).well().out;
    assert!(pinned.contains("pinned") && !pinned.contains("already"), "{pinned}");
    assert!(node.oncefs(&["pin", &name]).well().out.contains("already"));
    node.assert_at_rest();
    let text = node.oncefs(&["status"]).well().out;
    assert!(text.contains("no bound") && text.contains(&format!("pinned: {name} linux/")), "{text}");
    let one = node.oncefs(&["status", &name]).well().out;
    assert!(one.contains("  pinned") && one.contains("100 %, ") && one.contains("index: scan of gzip"), "{one}");
    assert!(image.layers.iter().all(|layer| one.contains(&layer.digest().hex()[..12])), "{one}");
    let kept = node.oncefs(&["prune", "--all"]).well().out;
    assert!(kept.contains("0 frames") && kept.contains("what is left is pinned"), "{kept}");
    assert_eq!(cache(&node)["used_bytes"].as_u64(), Some(all));

    assert!(node.oncefs(&["unpin", &name]).well().out.contains("unpinned"));
    node.oncefs(&["unpin", &name]).fails(4, &["is not pinned", "oncefs status"]);
    let requests = registry.layer_requests(&image);
    let gone = node.oncefs(&["prune", "--all"]).well().out;
    assert!(gone.starts_with("0 layers removed"), "{gone}");
    assert_eq!(cache(&node)["used_bytes"].as_u64(), Some(0));
    let one = node.oncefs(&["status", &image.manifest_digest().to_string()]).well().out;
    assert!(one.contains(" 0 %, ") && !one.contains("pinned"), "{one}");
    node.oncefs(&["status", "no-such-image"]).fails(4, &["not known here", "oncefs pull"]);
    node.oncefs(&["status", "usual"])
        .fails(4, &["docker.io/library/usual:latest is not known here", &format!("{name} is")]);
    let at = node.mount(&name, "mnt");
    assert_usual(&at, 90);
    assert!(registry.layer_requests(&image) > requests);
    node.umount(&at).well();
    node.assert_at_rest();
}

#[test]
fn what_was_let_go_is_here_again_after_a_pull_and_a_mount_that_waits() {
    let (node, image) = (Node::new(), Image::usual(92));
    let registry = Registry::with(&image);
    let name = registry.image();
    node.oncefs(&["pull", &name]).well();
    let all = cache(&node)["used_bytes"].as_u64().unwrap();
    let let_go = || {
        node.oncefs(&["prune", "--all"]).well();
        assert_eq!(cache(&node)["used_bytes"].as_u64(), Some(0));
    };
    let_go();
    let ran = node.oncefs(&["pull", &name]).well();
    assert!(ran.err.contains("fetching and verifying") && ran.err.contains("ready"), "{}", ran.err);
    assert_eq!(cache(&node)["used_bytes"].as_u64(), Some(all));
    let_go();
    node.oncefs(&["pull", "--in-process", &name]).well();
    assert_eq!(cache(&node)["used_bytes"].as_u64(), Some(all));
    let_go();
    let at = node.place("mnt");
    node.oncefs(&["mount", "--wait", &name, at.to_str().unwrap()]).well();
    assert_eq!(cache(&node)["used_bytes"].as_u64(), Some(all));
    let requests = registry.layer_requests(&image);
    assert_usual(&at, 92);
    assert_eq!(registry.layer_requests(&image), requests, "all of it was here");
    node.umount(&at).well();
    node.assert_at_rest();
}

#[test]
fn a_pull_that_the_cache_cannot_hold_says_so_and_does_not_go_round() {
    let (node, image) = (Node::new(), Image::usual(93));
    let registry = Registry::with(&image);
    let name = registry.image();
    let blobs: usize = image.layers.iter().map(|layer| layer.blob.len()).sum();
    let fetched = || image.layers.iter().map(|layer| registry.count(layer.digest()).bytes).sum::<usize>();
    for max_bytes in [1, 2_000_000] {
        node.configure(&format!("[cache]\nmax_bytes = {max_bytes}\n"));
        for _ in 0..2 {
            let before = fetched();
            let ran = node.oncefs(&["pull", &name]).well();
            assert!(ran.err.contains("of it are here") && ran.err.contains("[cache] max_bytes"), "{}", ran.err);
            assert!(cache(&node)["used_bytes"].as_u64().unwrap() <= max_bytes);
            assert!(fetched() - before <= 2 * blobs, "{} bytes for an image of {blobs}", fetched() - before);
        }
    }
    let at = node.place("mnt");
    let ran = node.oncefs(&["mount", "--wait", &name, at.to_str().unwrap()]).well();
    assert!(ran.err.contains("of it are here"), "{}", ran.err);
    assert_usual(&at, 93);
    node.umount(&at).well();
    node.assert_at_rest();
}

#[test]
fn images_that_are_not_mounted_are_named_and_two_of_one_name_are_told_apart() {
    let (node, image, next) = (Node::new(), Image::usual(94), Image::usual(95));
    assert!(node.oncefs(&["status"]).well().out.starts_with("no store at "));
    assert_eq!(node.status()["layers"], serde_json::json!([]));
    assert!(!node.root().exists(), "who only asks makes none");
    let registry = Registry::with(&image);
    let (name, other) = (registry.image(), format!("{}/images/usual:2", registry.host()));
    let at = node.mount(&name, "mnt");
    let text = node.oncefs(&["status"]).well().out;
    assert!(text.contains(&format!("{}  {name}  linux/", at.display())) && !text.contains("images that"), "{text}");
    registry.put("2", MANIFEST, &next.manifest);
    registry.put(&next.manifest_digest().to_string(), MANIFEST, &next.manifest);
    for (digest, bytes) in next.blobs() {
        registry.put(&digest.to_string(), "application/octet-stream", &bytes);
    }
    node.oncefs(&["pull", &other]).well();
    let text = node.oncefs(&["status"]).well().out;
    assert!(text.contains(&format!("images that no mount uses:\n  {other}  linux/")), "{text}");
    registry.put("1", MANIFEST, &next.manifest);
    node.oncefs(&["pull", &name]).well();
    let text = node.oncefs(&["status"]).well().out;
    let mounted = format!("{}  {name}@{}  linux/", at.display(), image.manifest_digest());
    let pulled = format!("\n  {name}@{}  linux/", next.manifest_digest());
    assert!(text.contains(&mounted) && text.contains(&pulled), "{text}");
    node.umount(&at).well();
    node.assert_at_rest();
}

#[test]
fn a_bound_in_the_configuration_holds_and_is_shown() {
    let (node, image) = (Node::new(), Image::usual(91));
    let registry = Registry::with(&image);
    node.oncefs(&["pull", &registry.image()]).well();
    let all = cache(&node)["used_bytes"].as_u64().unwrap();
    node.configure(&format!("[cache]\nmax_bytes = {}\n", all / 2));
    let at = node.mount(&registry.image(), "mnt");
    node.oncefs(&["prune", "--to", &(all / 4).to_string()]).well();
    assert!(cache(&node)["used_bytes"].as_u64().unwrap() <= all / 4);
    assert_usual(&at, 91);
    assert!(cache(&node)["used_bytes"].as_u64().unwrap() <= all / 2);
    let text = node.oncefs(&["status"]).well().out;
    assert!(text.contains("some goes"), "{text}");
    assert!(node.oncefs(&["prune", "--to", "lots"]).err.contains("lots is no unit"));
    node.umount(&at).well();
    node.assert_at_rest();
}
