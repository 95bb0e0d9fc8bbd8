//! Start-up profiles: what one start of an image read is here at the next one before anybody reads it.

use super::node::{Node, cat, ls, sha256sum, until};
use super::registry::Fault;
use crate::sources::made::{SMALL, converted};

const CHUNKS: &[&str] = &["--estargz", "--estargz-chunk-size", "65536"];

/// Bytes of the mounted image's first layer that are here.
fn resident(node: &Node) -> u64 {
    node.status()["mounts"][0]["image"]["layers"][0]["resident_bytes"].as_u64().unwrap()
}

#[test]
fn what_one_start_read_is_fetched_ahead_at_the_next_in_few_requests() {
    let (node, image) = (Node::new(), converted(CHUNKS));
    let registry = image.registry();
    let layer = image.layer_digest(0);
    let at = node.mount(&registry.image(), "mnt");
    ls(&at);
    assert_eq!(resident(&node), 0, "there is no profile yet");
    let large = sha256sum(&at.join("large"));
    cat(&at.join(SMALL.0));
    let read = resident(&node);
    assert!(read > 5_000_000, "{read}");
    node.umount(&at).well();
    node.assert_at_rest();
    node.oncefs(&["prune", "--all"]).well();

    // Nobody reads a file.
    let before = registry.count(&layer).requests;
    let at = node.mount(&registry.image(), "mnt");
    ls(&at);
    until("what the first start read is here", || resident(&node) >= read);
    let requests = registry.count(&layer).requests - before;
    assert!(requests <= 10, "{requests} requests for about 80 frames");
    registry.fault(&layer, Fault::Status(500));
    assert_eq!(sha256sum(&at.join("large")), large);
    assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
    let trace = node.oncefs(&["trace", "--json", &registry.image()]).well().out;
    let trace: serde_json::Value = serde_json::from_str(&trace).unwrap();
    assert!(trace["touches"].as_array().unwrap().iter().all(|touch| touch["was_here"] == true), "{trace}");
    assert!(trace["requests"].as_array().unwrap().iter().all(|request| request["is_ahead"] == true), "{trace}");
    assert!(trace["ahead_bytes"].as_u64().unwrap() > 2_000_000, "{trace}");
    registry.heal();
    node.umount(&at).well();
    node.assert_at_rest();

    // Who wants none of it has none of it.
    node.oncefs(&["prune", "--all"]).well();
    node.configure("[profile]\nahead_bytes_max = 0\n");
    let at = node.mount(&registry.image(), "mnt");
    assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
    assert!(resident(&node) < 100_000);
}

#[test]
fn a_profile_that_lies_costs_no_more_than_its_bound_and_harms_nothing() {
    let (node, image) = (Node::new(), converted(CHUNKS));
    let registry = image.registry();
    let at = node.mount(&registry.image(), "mnt");
    let large = sha256sum(&at.join("large"));
    node.umount(&at).well();
    node.assert_at_rest();
    let starts = node.root().join("starts");
    let profiles: Vec<_> = std::fs::read_dir(&starts).unwrap().map(|entry| entry.unwrap().path()).collect();
    let profile = profiles.iter().find(|path| path.extension().is_some_and(|kind| kind == "profile")).unwrap();

    // All of it is wanted, it says, but only so much is given.
    node.oncefs(&["prune", "--all"]).well();
    node.configure("[profile]\nahead_bytes_max = 1000000\n");
    let before = registry.count(image.layer_digest(0)).bytes;
    let at = node.mount(&registry.image(), "mnt");
    ls(&at);
    until("something is fetched", || resident(&node) > 2_000_000);
    node.umount(&at).well();
    node.assert_at_rest();
    let fetched = registry.count(image.layer_digest(0)).bytes - before;
    assert!((500_000..1_100_000).contains(&fetched), "{fetched}");

    // Not one byte of it is right.
    node.configure("");
    let damaged: Vec<u8> = std::fs::read(profile).unwrap().into_iter().map(|byte| !byte).collect();
    std::fs::write(profile, damaged).unwrap();
    let at = node.mount(&registry.image(), "mnt");
    assert_eq!(sha256sum(&at.join("large")), large);
}
