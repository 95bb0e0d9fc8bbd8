//! What is fetched ahead at the first start of an image on a node: as another node's profile says, or as the image's index does.

use std::process::Command;

use serde_json::Value;

use super::contract::prioritised;
use super::published::{SMALL, Stage};
use crate::cli::node::{Node, cat, ls, run, until};

/// Bytes of the mounted image's first layer that are here.
fn resident(node: &Node) -> u64 {
    node.status()["mounts"][0]["image"]["layers"][0]["resident_bytes"].as_u64().unwrap()
}

#[test]
fn what_one_node_has_seen_of_a_start_is_fetched_ahead_at_the_first_start_of_another() {
    let stage = Stage::new();
    let (key, public) = stage.key("key.pem");
    let (maker, name) = (Node::new(), stage.name());
    let at = maker.mount(&name, "mnt");
    // Of a large file a piece in its middle.
    let piece = ["bs=1M", "skip=8", "count=1", "status=none"];
    let read = |at: &std::path::Path| {
        let from = format!("if={}", at.join("large").display());
        run(Command::new("dd").arg(from).args(piece).arg("of=/dev/null")).well()
    };
    read(&at);
    maker.umount(&at).well();
    maker.assert_at_rest();
    let push = ["index", "push", "--json", "--sign", key.to_str().unwrap(), &name];
    let pushed: Value = serde_json::from_str(&maker.oncefs(&push).well().out).unwrap();
    assert!(pushed["indexes"][0]["profile_bytes"].as_u64().is_some(), "{pushed}");
    let (maker_end, lazy) = (maker, name.replace(":1", ":lazy"));
    maker_end.oncefs(&["convert", &name, &lazy]).well();

    // One that believes the key, and one whose image binds its indexes.
    for (node, name) in [(stage.believer(&public), &name), (Node::new(), &lazy)] {
        let at = node.mount(name, "mnt");
        ls(&at);
        until("the piece is here, and nobody has read it", || resident(&node) >= 1 << 20);
        assert!(resident(&node) < 8 << 20, "{} bytes", resident(&node));
        read(&at);
        let trace: Value = serde_json::from_str(&node.oncefs(&["trace", "--json", name]).well().out).unwrap();
        assert!(trace["touches"].as_array().unwrap().iter().all(|touch| touch["was_here"] == true), "{trace}");
        assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
    }
}

#[test]
fn what_an_index_wants_first_is_here_before_anybody_reads_it() {
    let (image, rest) = prioritised("estargz");
    let registry = image.registry();
    let node = Node::new();
    let at = node.mount(&registry.image(), "mnt");
    ls(&at);
    until("two files are here", || resident(&node) >= 18_000);
    assert!(resident(&node) < 27_000, "{} bytes", resident(&node));
    let layer = image.layer_digest(0);
    let before = registry.count(&layer).requests;
    cat(&at.join("b"));
    assert_eq!(registry.count(&layer).requests, before);
    cat(&at.join(rest));
    assert_eq!(registry.count(&layer).requests, before + 1);
}
