//! Registries that are far away, over links that carry much: what is fetched around what is read.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::made::converted;
use crate::cli::node::{Node, ls, run, until};

/// One read of a file.
fn read_once(file: &Path, bytes: &str, skip: &str) {
    let (from, size, skip) = (format!("if={}", file.display()), format!("bs={bytes}"), format!("skip={skip}"));
    run(Command::new("dd").args([&from, &size, &skip, "count=1", "status=none", "of=/dev/null"])).well();
}

#[test]
fn who_reads_a_little_from_far_away_gets_what_lies_around_it_in_the_same_time() {
    let image = converted(&["--estargz", "--estargz-chunk-size", "65536"]);
    let digest = image.layer_digest(0);
    let asked_for_a_peek = |round_trip: Duration, is_over: &dyn Fn(&Node) -> bool| {
        let (node, registry) = (Node::new(), image.registry());
        node.configure("[fetch]\nbackground = \"off\"\n");
        registry.move_away(round_trip);
        let at = node.mount(&registry.image(), "mnt");
        ls(&at);
        // What is known of the link comes from answers that are not small.
        read_once(&at.join("usr/bin/program-3"), "1M", "0");
        let before = registry.count(&digest);
        read_once(&at.join("large"), "4k", "600");
        until("it has come", || is_over(&node));
        let after = registry.count(&digest);
        (after.requests - before.requests, after.bytes - before.bytes)
    };
    let is_whole = |node: &Node| {
        let layer = node.status()["mounts"][0]["image"]["layers"][0].clone();
        layer["resident_bytes"] == layer["data_bytes"]
    };
    let (near, near_bytes) = asked_for_a_peek(Duration::ZERO, &|_| true);
    let (far, far_bytes) = asked_for_a_peek(Duration::from_millis(250), &is_whole);
    assert!(near <= 2 && near_bytes < 200_000, "{near} requests, {near_bytes} bytes");
    assert!(far <= 10 && far_bytes > 1_000_000, "{far} requests, {far_bytes} bytes");
}
